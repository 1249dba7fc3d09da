# %% [markdown]
# # A neuron from its spike times
# A leaky integrate-and-fire neuron gathers current until its potential reaches a threshold; then it spikes
# and starts again from rest. Only the spike times of eight trials are recorded, each with 0.2 ms of jitter.
# A spike is an event with a jump, and its time is differentiable: the membrane's time constant and the threshold
# follow by least squares.

# %%
from pathlib import Path

import torch

from scidyn import viz
from scidyn.solvers import Event, solve_ode

REST = -65.0  # mV
TRUTH = {"tau": 12.0, "threshold": -51.0}  # ms, mV
JITTER = 0.2  # ms
DRIVE = torch.linspace(18.0, 32.0, 8, dtype=torch.float64)  # mV, current times resistance, one value a trial


def potential_rate(t, v, p):
    """The membrane relaxes to the drive, which swings by a third with a period of 25 ms."""
    drive = DRIVE * (1.0 + torch.sin(2 * torch.pi * t / 25.0) / 3.0)
    return (REST - v + drive.unsqueeze(1)) / p["tau"]


SPIKE = Event(
    lambda t, v, p: v[:, 0] - p["threshold"],  # fires where this rises through zero,
    direction=1,
    jump=lambda t, v, p: torch.full_like(v, REST),  # and starts again from rest
)


def fire(p, duration, **options):
    v0 = torch.full((len(DRIVE), 1), REST, dtype=torch.float64)
    return solve_ode(potential_rate, v0, [0.0, duration], args=p, events=SPIKE, stepping="per_sample", **options)


def spikes_and_slopes(theta, duration):
    """Spike times (trials, K), and their derivatives (trials, K, 2) with respect to log τ and the threshold.

    Each trial has a copy of the parameters, so one backward pass serves the k-th spike of all trials.
    """
    copies = theta.expand(len(DRIVE), 2).clone().requires_grad_()
    times = fire({"tau": copies[:, :1].exp(), "threshold": copies[:, 1]}, duration).events.t
    columns = times.nan_to_num().unbind(dim=1)
    slopes = [torch.autograd.grad(column.sum(), copies, retain_graph=True)[0] for column in columns]
    return times.detach(), torch.stack(slopes, dim=1)


def fit(observed, duration, start, iterations):
    """Gauss-Newton steps on the spikes that model and record both have, in units of the jitter."""
    theta = torch.stack([start["tau"].log(), start["threshold"]])
    for _ in range(iterations):
        times, slopes = spikes_and_slopes(theta, duration)
        width = min(times.shape[1], observed.shape[1])
        difference = (times[:, :width] - observed[:, :width]) / JITTER
        both = ~torch.isnan(difference)
        r, jacobian = difference[both], slopes[:, :width][both] / JITTER
        step = torch.linalg.lstsq(jacobian, r.unsqueeze(1)).solution[:, 0]
        print(f"tau = {theta[0].exp():7.3f} ms   threshold = {theta[1]:8.3f} mV   chi2/n = {(r**2).mean():8.2f}")
        theta = theta - step * min(1.0, 1.0 / step.abs().max().item())
    error = torch.linalg.inv(jacobian.T @ jacobian).diagonal().sqrt()
    tau = theta[0].exp()
    return {"tau": tau, "threshold": theta[1]}, {"tau": tau * error[0], "threshold": error[1]}


def draw(observed, before, after, p, duration):
    import matplotlib.pyplot as plt

    figure, (raster, trace) = plt.subplots(2, 1, figsize=(8, 6), layout="constrained", sharex=True)
    for label, times, style in (
        ("recorded", observed, {"color": "black", "marker": "|", "s": 160}),
        ("first guess", before.events.t.detach(), {"color": "tab:red", "marker": "x", "s": 18}),
        ("fitted", after.events.t.detach(), {"color": "tab:blue", "marker": "o", "s": 14}),
    ):
        drive = DRIVE.unsqueeze(1).expand_as(times)
        raster.scatter(times.flatten(), drive.flatten(), label=label, linewidths=1, **style)
    raster.set(ylabel="drive (mV)", title="Spikes of a leaky integrate-and-fire neuron")
    raster.legend(loc="upper center", ncols=3, fontsize=8)
    raster.set_ylim(17, 36)
    t = torch.linspace(0.0, duration, 800, dtype=torch.float64)
    trace.plot(t, after.dense(t)[4, :, 0], color="tab:blue", label=f"fitted potential, drive {DRIVE[4]:.0f} mV")
    trace.axhline(p["threshold"].item(), color="grey", linestyle=":", label="fitted threshold")
    trace.vlines(
        observed[4][~torch.isnan(observed[4])], p["threshold"].item(), 0.0, color="black", label="recorded spikes"
    )
    trace.set(xlabel="time (ms)", ylabel="potential (mV)")
    trace.set_ylim(-68, 22)
    trace.legend(loc="upper center", ncols=3, fontsize=8)
    return figure


def main(out: Path = Path("neuron"), *, quick: bool = False) -> None:
    duration = 30.0 if quick else 100.0
    truth = {name: torch.tensor(value, dtype=torch.float64) for name, value in TRUTH.items()}
    exact = fire(truth, duration, adjoint=None).events.t
    noise = torch.randn(exact.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    observed = exact + JITTER * noise

    start = {"tau": torch.tensor(16.0, dtype=torch.float64), "threshold": torch.tensor(-54.0, dtype=torch.float64)}
    estimate, error = fit(observed, duration, start, iterations=5 if quick else 6)
    for name, value in TRUTH.items():
        print(f"{name}: {estimate[name]:.3f} ± {error[name]:.3f}, true {value}")

    before, after = (fire(p, duration, adjoint=None, dense=True) for p in (start, estimate))
    out.mkdir(parents=True, exist_ok=True)
    print(
        viz.save_figure(draw(observed, before, after, estimate, duration), out / "spikes.png", overwrite=True, dpi=110)
    )


if __name__ == "__main__":
    main()

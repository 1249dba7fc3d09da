r"""Leaky integrate-and-fire neurons: spike times and their derivatives in closed form.

.. math:: \tau V' = E - V + I, \qquad V = \theta \Rightarrow V \leftarrow V_r
"""

import pytest
import torch

from scidyn.solvers import Event, solve_ode

F64 = torch.float64
NAMES = ("tau", "threshold", "rest", "reset")


def neuron():
    return {
        n: torch.tensor(v, dtype=F64, requires_grad=True)
        for n, v in zip(NAMES, (10.0, -50.0, -65.0, -70.0), strict=True)
    }


def membrane(t, v, args):
    p, current = args
    return (p["rest"] - v + current.unsqueeze(1)) / p["tau"]


SPIKE = Event(
    lambda t, v, args: v[:, 0] - args[0]["threshold"],
    direction=1,
    jump=lambda t, v, args: args[0]["reset"].expand_as(v),
)


def fire(p, current, last=60.0, **options):
    options = {"stepping": "per_sample", "rtol": 1e-9, "atol": 1e-9, "events": SPIKE, **options}
    start = p["rest"].expand(len(current), 1)
    return solve_ode(membrane, start, torch.linspace(0, last, 7), args=(p, current), **options)


def spikes(p, current, count):
    """First from rest, the others from reset, with the asymptote E + I."""
    top = p["rest"] + current
    first = p["tau"] * torch.log(current / (top - p["threshold"]))
    between = p["tau"] * torch.log((top - p["reset"]) / (top - p["threshold"]))
    return first.unsqueeze(1) + between.unsqueeze(1) * torch.arange(count, dtype=F64)


@pytest.mark.parametrize(
    ("method", "adjoint"), [("tsit5", "discrete"), ("dopri8", "direct"), ("rodas5p", "discrete"), ("auto", "discrete")]
)
def test_spike_times_and_their_derivatives(method, adjoint):
    p, current = neuron(), torch.tensor([20.0, 30.0, 16.0], dtype=F64, requires_grad=True)
    last = 25.0 if method == "rodas5p" else 60.0
    solution = fire(p, current, last, method=method, adjoint=adjoint)
    record = solution.events
    exact = spikes(p, current, record.t.shape[1] + 1)
    assert record.count.tolist() == (exact < last).sum(dim=1).tolist()
    exact, met = exact[:, :-1], ~torch.isnan(record.t)
    torch.testing.assert_close(record.t[met], exact[met], rtol=1e-6, atol=0)
    assert torch.equal(record.after[met][:, 0], p["reset"].expand(int(met.sum())))
    torch.testing.assert_close(record.before[met][:, 0], p["threshold"].expand(int(met.sum())), rtol=1e-12, atol=0)
    leaves = [*p.values(), current]
    weights = torch.linspace(1, 2, int(met.sum()), dtype=F64)
    found, wanted = (torch.autograd.grad((t[met] * weights).sum(), leaves) for t in (record.t, exact))
    for mine, closed in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, closed, rtol=1e-5, atol=1e-7)


def test_derivatives_against_differences():
    current, step = torch.tensor([20.0], dtype=F64), 1e-4

    def second(**changes):
        p = {n: (x.detach() + changes.get(n, 0.0)) for n, x in neuron().items()}
        return fire(p, current, 35.0, method="dopri8", adjoint=None, rtol=1e-11).events.t[0, 1].item()

    p = neuron()
    found = torch.autograd.grad(fire(p, current, 35.0).events.t[0, 1], list(p.values()))
    for name, slope in zip(p, found, strict=True):
        difference = (second(**{name: step}) - second(**{name: -step})) / (2 * step)
        assert slope.item() == pytest.approx(difference, rel=1e-6)


@pytest.mark.slow
def test_a_compiled_step_gives_the_same_spikes():
    p, current = {n: x.detach() for n, x in neuron().items()}, torch.tensor([20.0, 30.0], dtype=F64)
    plain, compiled = (fire(p, current, adjoint=None, compile=c) for c in (False, True))
    assert plain.events.count.tolist() == compiled.events.count.tolist()
    torch.testing.assert_close(plain.events.t, compiled.events.t, rtol=1e-9, atol=0, equal_nan=True)
    torch.testing.assert_close(plain.y, compiled.y, rtol=1e-8, atol=0)


def test_a_network_in_one_sample_with_an_event_for_each_neuron():
    # without a batch f and the events receive the state alone; the spike of neuron 0 excites neuron 1
    tau, current, weight = 10.0, torch.tensor([2.0, 0.9], dtype=F64), torch.tensor(0.3, dtype=F64, requires_grad=True)

    def spike(i):
        own, other = torch.eye(2, dtype=F64)[i], torch.eye(2, dtype=F64)[1 - i]
        return Event(
            lambda t, v: v[i] - 1.0, direction=1, jump=lambda t, v: v * (1 - own) + (weight * other if i == 0 else 0.0)
        )

    solution = solve_ode(
        lambda t, v: (current - v) / tau,
        torch.zeros(2, dtype=F64),
        [0.0, 20.0],
        events=[spike(0), spike(1)],
        rtol=1e-10,
    )
    first, second = solution.events
    period = tau * torch.log(torch.tensor(2.0, dtype=F64))
    torch.testing.assert_close(first.t[0, :2], period * torch.arange(1, 3), rtol=1e-8, atol=0)
    # neuron 1 tends to 0.9, is lifted by 0.3 at the first spike of neuron 0 and decays from there
    lifted = 0.9 * (1 - torch.exp(-period / tau)) + weight
    assert second.count.item() == 0 if lifted < 1 else 1
    at_end = 0.9 + (lifted - 0.9) * torch.exp(-(20.0 - period) / tau)
    at_end = at_end + weight * torch.exp(-(20.0 - 2 * period) / tau)
    torch.testing.assert_close(solution.y[0, -1, 1], at_end, rtol=1e-8, atol=0)
    slopes = [torch.autograd.grad(y, weight, retain_graph=True)[0] for y in (solution.y[0, -1, 1], at_end)]
    torch.testing.assert_close(*slopes, rtol=1e-8, atol=0)

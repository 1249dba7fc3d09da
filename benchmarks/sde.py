"""Stochastic solvers side by side: time, strong error and gradients, competitors interleaved.

One thread, CPU seconds of this process. Run from the root of the repository::

    OMP_NUM_THREADS=1 python benchmarks/sde.py [--steps 100] [--repeats 7] [--figures DIRECTORY]

diffrax is timed if it can be imported. The table states what is compared; nothing is asserted.
"""

import argparse
import math
import time
from pathlib import Path

import torch
import torchsde
from torch import nn

from scidyn.solvers import BrownianIncrements, BrownianTree, solve_sde

BATCH, SIZE = 1024, 8


class Model(nn.Module):
    noise_type, sde_type = "diagonal", "ito"

    def __init__(self, drift, diffusion):
        super().__init__()
        self.drift, self.diffusion = drift, diffusion

    def f(self, t, y):
        return self.drift(y)

    def g(self, t, y):
        return self.diffusion(y)


def problems():
    torch.manual_seed(0)
    drift = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 8))
    diffusion = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 8), nn.Sigmoid())
    return {
        "gbm": Model(lambda y: 0.5 * y, lambda y: 0.8 * y),
        "ou": Model(lambda y: -y, lambda y: torch.full_like(y, 0.5)),
        "neural": Model(drift, diffusion),
    }


def plain(model, y, steps, noise=None):
    h = 1.0 / steps
    for n in range(steps):
        z = torch.randn_like(y) if noise is None else noise[n]
        y = y + model.f(0.0, y) * h + model.g(0.0, y) * (z * h**0.5)
    return y


def interleave(competitors, repeats):
    """Median CPU milliseconds; every round runs all competitors once."""
    times = {name: [] for name in competitors}
    for run in competitors.values():
        run()
    for _ in range(repeats):
        for name, run in competitors.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    return {name: sorted(v)[len(v) // 2] * 1e3 for name, v in times.items()}


def show(title, result):
    base = result["plain loop, noise inside"] if "plain loop, noise inside" in result else min(result.values())
    print(f"\n{title}")
    for name, value in result.items():
        print(f"  {name:34s} {value:9.2f} ms   x{value / base:.2f}")


def interval(steps, area):
    return torchsde.BrownianInterval(t0=0.0, t1=1.0, size=(BATCH, SIZE), dt=1 / steps, levy_area_approximation=area)


def forward(name, model, steps, repeats):
    y0, ts, noise = torch.ones(BATCH, SIZE), torch.linspace(0, 1, 11), torch.randn(steps, BATCH, SIZE)
    high = {"method": "sra1", "noise": "additive"} if name == "ou" else {"method": "sriw1", "check": False}

    def ours(**options):
        solve_sde(lambda t, y: model.f(t, y), lambda t, y: model.g(t, y), y0, ts, dt=1 / steps, seed=0,
                  adjoint=None, **options)  # fmt: skip

    competitors = {
        "plain loop, noise inside": lambda: plain(model, y0, steps),
        "plain loop, noise drawn before": lambda: plain(model, y0, steps, noise),
        "scidyn euler_maruyama": lambda: ours(method="euler_maruyama"),
        f"scidyn {high['method']}": lambda: ours(**high),
        "torchsde euler": lambda: torchsde.sdeint(
            model, y0, ts, bm=interval(steps, "none"), method="euler", dt=1 / steps
        ),
        "torchsde srk": lambda: torchsde.sdeint(
            model, y0, ts, bm=interval(steps, "space-time"), method="srk", dt=1 / steps
        ),
    }
    with torch.no_grad():
        show(f"forward, {name}, {steps} steps", interleave(competitors, repeats))


class Saved:
    """Bytes that autograd's tape holds."""

    def __init__(self):
        self.seen = {}

    def pack(self, x):
        self.seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x


def training(model, steps, repeats):
    y0, ts = torch.ones(BATCH, SIZE), [0.0, 1.0]

    def step(solve):
        model.zero_grad()
        solve().square().mean().backward()

    def ours(adjoint):
        return solve_sde(model, None, y0, ts, method="euler_maruyama", dt=1 / steps, seed=0, adjoint=adjoint).y[:, -1]

    solves = {
        "plain loop, noise inside": lambda: plain(model, y0, steps),
        "scidyn discrete": lambda: ours("discrete"),
        "scidyn direct": lambda: ours("direct"),
        "torchsde euler, backprop": lambda: torchsde.sdeint(
            model, y0, torch.tensor(ts), bm=interval(steps, "none"), method="euler", dt=1 / steps
        )[-1],
    }
    result = interleave({name: (lambda s=s: step(s)) for name, s in solves.items()}, repeats)
    show(f"training step, neural, {steps} steps", result)
    for name, solve in solves.items():
        saved = Saved()
        with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda x: x):
            solve()
        print(f"  {name:34s} {sum(saved.seen.values()) / 2**20:9.2f} MiB kept for the backward pass")


def tree(steps, repeats):
    def queries(path):
        for n in range(steps):
            path.increment(n / steps, (n + 1) / steps)

    competitors = {}
    for levels in ("W", "WH"):
        for fused in (False, True):
            path = BrownianTree(0.0, 1.0, (BATCH, SIZE), seed=0, tol=1 / 256, levels=levels, compile=fused)
            competitors[f"scidyn {levels}{', compiled' if fused else ''}"] = lambda path=path: queries(path)
    try:
        import diffrax
        import jax
    except ImportError:
        print("\n(diffrax is not installed: not timed)")
    else:
        for kind in (diffrax.BrownianIncrement, diffrax.SpaceTimeLevyArea):
            bm = diffrax.VirtualBrownianTree(
                0.0, 1.0, tol=1 / 256, shape=(BATCH, SIZE), key=jax.random.PRNGKey(0), levy_area=kind
            )
            ask = jax.jit(lambda a, b, bm=bm, kind=kind: bm.evaluate(a, b, use_levy=kind is diffrax.SpaceTimeLevyArea))
            competitors[f"diffrax {kind.__name__}"] = lambda ask=ask: [
                jax.block_until_ready(ask(n / steps, (n + 1) / steps)) for n in range(steps)
            ]
    show(f"tree, {steps} queries of 8,192 normals, resolution 1/256", interleave(competitors, repeats))


def convergence(directory):
    """Figures of strong and weak convergence on geometric Brownian motion."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    a, b, rows, f64 = 0.5, 0.8, 4000, torch.float64
    fine = BrownianIncrements(torch.linspace(0, 1, 513, dtype=f64), (rows, 1), seed=3, dtype=f64)
    y0, W = torch.ones(rows, 1, dtype=f64), fine.path()[-1]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
    for calculus, names in (
        ("ito", ("euler_maruyama", "milstein", "sriw1")),
        ("stratonovich", ("heun", "midpoint", "spark")),
    ):
        exact = torch.exp((a - (b * b / 2 if calculus == "ito" else 0)) + b * W)
        for name in names:
            h, strong = [], []
            for k in (64, 32, 16, 8, 4):
                y = solve_sde(lambda t, y: a * y, lambda t, y: b * y, y0, [0.0, 1.0], calculus=calculus,
                              method=name, bm=fine.coarsen(k), adjoint=None).y[:, -1]  # fmt: skip
                h.append(k / 512)
                strong.append((y - exact).square().mean().sqrt().item())
            order = math.log(strong[0] / strong[-1]) / math.log(h[0] / h[-1])
            axes[0].loglog(h, strong, "o-", label=f"{name} ({order:.2f})")
    for name in ("euler_maruyama", "weak2"):
        h, weak = [], []
        for n in (2, 4, 8, 16):
            bm = BrownianIncrements(
                torch.linspace(0, 1, n + 1, dtype=f64), (200000, 1), seed=1, dtype=f64, antithetic=True
            )
            y = solve_sde(lambda t, y: 1.5 * y, lambda t, y: 0.1 * y, torch.ones(200000, 1, dtype=f64), [0.0, 1.0],
                          method=name, bm=bm, adjoint=None).y[:, -1]  # fmt: skip
            exact = torch.exp(1.5 - 0.005 + 0.1 * bm.path()[-1])
            h.append(1 / n)
            weak.append(abs((y - exact).mean().item()))
        order = math.log(weak[0] / weak[-1]) / math.log(h[0] / h[-1])
        axes[1].loglog(h, weak, "o-", label=f"{name} ({order:.2f})")
    for ax, title in zip(axes, ("strong error (root mean square)", "weak error (mean)"), strict=True):
        ax.set(xlabel="step", title=title)
        ax.legend(fontsize=7)
    directory.mkdir(parents=True, exist_ok=True)
    figure.savefig(directory / "sde_convergence.svg")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--figures", type=Path)
    parser.add_argument("--only", choices=["forward", "training", "tree", "figures"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    chosen = problems()
    if given.only in (None, "forward"):
        for name, model in chosen.items():
            forward(name, model, given.steps, given.repeats)
    if given.only in (None, "training"):
        training(chosen["neural"], given.steps, given.repeats)
    if given.only in (None, "tree"):
        tree(given.steps, given.repeats)
    if given.figures is not None:
        convergence(given.figures)


if __name__ == "__main__":
    main()

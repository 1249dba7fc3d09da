"""Stochastic solves against a plain loop, torchsde and, if installed, diffrax: time, memory, strong error.

Batch 1,024 × 8, float32, one thread, competitors interleaved, medians of processor time in milliseconds:

    python benchmarks/sde.py [forward] [train] [tree]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from scidyn.solvers import BrownianIncrements, BrownianTree, solve_sde

BATCH, SIZE, REPORTED = 1024, 8, 11


class Neural(nn.Module):
    noise_type, sde_type = "diagonal", "ito"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.drift = nn.Sequential(nn.Linear(SIZE, 64), nn.Tanh(), nn.Linear(64, SIZE))
        self.spread = nn.Sequential(nn.Linear(SIZE, 64), nn.Tanh(), nn.Linear(64, SIZE), nn.Sigmoid())

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        return self.drift(y)

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        return self.spread(y)


class Simple:
    noise_type, sde_type = "diagonal", "ito"

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        return 0.5 * y if self.kind == "gbm" else -y

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        return 0.5 * y if self.kind == "gbm" else torch.full_like(y, 0.5)


def plain(model, y: Tensor, steps: int, noise: Tensor | None) -> Tensor:
    """Euler–Maruyama as one writes it by hand, keeping eleven states."""
    h = 1.0 / steps
    kept, every = [y], steps // (REPORTED - 1)
    t = torch.zeros(())
    for n in range(steps):
        dW = noise[n] if noise is not None else torch.randn_like(y) * h**0.5
        y = y + model.f(t, y) * h + model.g(t, y) * dW
        t = t + h
        if (n + 1) % every == 0:
            kept.append(y)
    return torch.stack(kept)


def interleave(competitors: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each, run in turn."""
    times: dict[str, list[float]] = {name: [] for name in competitors}
    for call in competitors.values():
        call()
    for _ in range(rounds):
        for name, call in competitors.items():
            start = time.process_time()
            call()
            times[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def show(title: str, found: dict[str, float], base: str) -> None:
    print(f"\n{title}")
    for name, value in sorted(found.items(), key=lambda item: item[1]):
        print(f"  {name:44s} {value:10.2f}  ×{value / found[base]:.2f}")


def forward(rounds: int = 7) -> None:
    import torchsde

    ts = torch.linspace(0, 1, REPORTED)
    for kind in ("gbm", "ou", "neural"):
        model = Neural() if kind == "neural" else Simple(kind)
        y0 = torch.ones(BATCH, SIZE)
        for steps in (100, 1000):
            h = 1.0 / steps

            def ours(method, steps=steps, model=model, y0=y0):
                return solve_sde(model, None, y0, ts, method=method, dt=1.0 / steps, seed=0, adjoint=None, check=False)

            def theirs(method, steps=steps, model=model, y0=y0, h=h):
                area = "space-time" if method == "srk" else "none"
                path = torchsde.BrownianInterval(0.0, 1.0, size=y0.shape, dt=h, levy_area_approximation=area)
                with torch.no_grad():
                    return torchsde.sdeint(model, y0, ts, bm=path, method=method, dt=h)

            def by_hand(drawn, steps=steps, model=model, y0=y0, h=h):
                with torch.no_grad():
                    return plain(model, y0, steps, drawn)

            noise = torch.randn(steps, BATCH, SIZE) * h**0.5
            competitors = {
                "plain loop, noise inside": lambda: by_hand(None),
                "plain loop, noise before": lambda noise=noise: by_hand(noise),
                "scidyn euler": lambda: ours("euler"),
                "scidyn sriw1": lambda: ours("sriw1"),
                "torchsde euler": lambda: theirs("euler"),
                "torchsde srk": lambda: theirs("srk"),
            }
            if steps == 1000:
                competitors.pop("torchsde srk")
            show(
                f"forward, {kind}, {steps} steps",
                interleave(competitors, rounds if steps == 100 else 3),
                "plain loop, noise inside",
            )


def saved_bytes(call: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps between forward and backward, each storage once."""
    seen: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        call()
    return sum(seen.values())


def train(rounds: int = 7, steps: int = 100) -> None:
    import torchsde

    ts = torch.linspace(0, 1, REPORTED)
    model = Neural()
    y0 = torch.ones(BATCH, SIZE)

    def descend(solve: Callable[[], Tensor]) -> None:
        model.zero_grad()
        (solve() ** 2).mean().backward()

    solves = {
        "plain loop, noise inside": lambda: plain(model, y0, steps, None),
        "scidyn euler, discrete": lambda: solve_sde(model, None, y0, ts, dt=1 / steps, seed=0).y,
        "scidyn euler, direct": lambda: solve_sde(model, None, y0, ts, dt=1 / steps, seed=0, adjoint="direct").y,
        "scidyn reversible Heun": lambda: (
            solve_sde(
                model,
                None,
                y0,
                ts,
                calculus="stratonovich",
                method="reversible_heun",
                dt=1 / steps,
                seed=0,
                adjoint="reversible",
            ).y
        ),
        "torchsde euler": lambda: torchsde.sdeint(model, y0, ts, method="euler", dt=1 / steps),
        "torchsde adjoint euler": lambda: torchsde.sdeint_adjoint(model, y0, ts, method="euler", dt=1 / steps),
    }
    found = interleave({name: lambda solve=solve: descend(solve) for name, solve in solves.items()}, rounds)
    show(f"training step, neural, {steps} steps", found, "plain loop, noise inside")
    for name in ("plain loop, noise inside", "scidyn euler, discrete", "scidyn reversible Heun"):
        print(f"  kept for backward by {name}: {saved_bytes(solves[name]) / 2**20:.2f} MiB")


def tree(rounds: int = 3, steps: int = 300) -> None:
    """Milliseconds per query of 8,192 increments, one after the other."""

    def walk(levels: str, fused: bool) -> None:
        path = BrownianTree(0.0, 1.0, (BATCH, SIZE), seed=0, tol=1e-3, levels=levels, compile=fused)
        for i in range(steps):
            path.increment(i / steps, (i + 1) / steps)

    def increments() -> None:
        path = BrownianIncrements([i / steps for i in range(steps + 1)], (BATCH, SIZE), seed=0)
        for start in range(0, steps, 64):
            path.block(start, min(steps, start + 64))

    competitors: dict[str, Callable[[], object]] = {
        "scidyn increments": increments,
        "scidyn tree W": lambda: walk("W", False),
        "scidyn tree W, fused": lambda: walk("W", True),
        "scidyn tree WH": lambda: walk("WH", False),
        "scidyn tree WH, fused": lambda: walk("WH", True),
    }
    try:
        import diffrax
        import jax
    except ImportError:
        print("diffrax is not installed: its tree is not measured")
    else:
        virtual = diffrax.VirtualBrownianTree(0.0, 1.0, 1e-3, (BATCH, SIZE), jax.random.key(0))
        query = jax.jit(lambda s, t: virtual.evaluate(s, t))

        def peer() -> None:
            for i in range(steps):
                query(i / steps, (i + 1) / steps).block_until_ready()

        competitors["diffrax VirtualBrownianTree"] = peer
    found = {name: value / steps for name, value in interleave(competitors, rounds).items()}
    for name, value in sorted(found.items(), key=lambda item: item[1]):
        print(f"  {name:44s} {value:10.4f} ms per query")


if __name__ == "__main__":
    torch.set_num_threads(1)
    chosen = sys.argv[1:] or ["forward", "train", "tree"]
    for name in chosen:
        {"forward": forward, "train": train, "tree": tree}[name]()

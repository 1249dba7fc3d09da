"""Stochastic solves against a plain loop, torchsde and diffrax: time, error or moments, memory.

Batch 1,024 × 8, float32, one thread, competitors interleaved, medians of processor time in milliseconds:

    python benchmarks/sde.py [forward] [train] [tree] [long]

Compilation and a warm-up call come before the clock. torchsde and diffrax are left out if not installed.
"""

from __future__ import annotations

import gc
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from scidyn.solvers import BrownianIncrements, BrownianTree, solve_sde

BATCH, SIZE, REPORTED = 1024, 8, 11
TORCHSDE = importlib.util.find_spec("torchsde") is not None
DIFFRAX = importlib.util.find_spec("diffrax") is not None
Call = Callable[[], Any]


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


class Growth(nn.Module):
    """Geometric Brownian motion."""

    noise_type, sde_type = "diagonal", "ito"

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.full((SIZE,), 0.5))
        self.volatility = nn.Parameter(torch.full((SIZE,), 0.5))

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        return self.rate * y

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        return self.volatility * y


class Relaxation(nn.Module):
    """Ornstein–Uhlenbeck process."""

    noise_type, sde_type = "diagonal", "ito"

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.ones(SIZE))
        self.spread = nn.Parameter(torch.full((SIZE,), 0.5))

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        return -self.rate * y

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        return self.spread.expand_as(y)


MODELS = {"GBM": Growth, "OU": Relaxation, "neural": Neural}


def plain(model: Any, y: Tensor, steps: int, noise: Tensor | None) -> Tensor:
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


def interleave(competitors: dict[str, Call], rounds: int) -> dict[str, float]:
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


def show(title: str, found: dict[str, float], base: str, notes: dict[str, str]) -> None:
    """One table; ratios are against ``base``."""
    print(f"\n{title}\n  {'':36s} {'ms':>9s} {'ratio':>7s}  {notes.get('', '')}")
    for name, value in sorted(found.items(), key=lambda item: item[1]):
        print(f"  {name:36s} {value:9.2f} {value / found[base]:7.2f}  {notes.get(name, '')}", flush=True)


def diffrax_euler(kind: str, steps: int) -> Call:
    """Euler's method on diffrax's virtual tree, the batch as one state."""
    import diffrax
    import jax
    import jax.numpy as jnp
    import lineax

    model = MODELS[kind]()
    if kind == "neural":
        weights = [[jnp.array(p.detach().numpy()) for p in part.parameters()] for part in (model.drift, model.spread)]

        def net(w: Any, y: Any) -> Any:
            return jnp.tanh(y @ w[0].T + w[1]) @ w[2].T + w[3]

        def f(y: Any) -> Any:
            return net(weights[0], y.reshape(BATCH, SIZE)).reshape(-1)

        def g(y: Any) -> Any:
            return jax.nn.sigmoid(net(weights[1], y.reshape(BATCH, SIZE))).reshape(-1)

    else:

        def f(y: Any) -> Any:
            return 0.5 * y if kind == "GBM" else -y

        def g(y: Any) -> Any:
            return 0.5 * y if kind == "GBM" else jnp.full_like(y, 0.5)

    path = diffrax.VirtualBrownianTree(0.0, 1.0, 1.0 / steps, (BATCH * SIZE,), jax.random.key(0))
    terms = diffrax.MultiTerm(
        diffrax.ODETerm(lambda t, y, args: f(y)),
        diffrax.ControlTerm(lambda t, y, args: lineax.DiagonalLinearOperator(g(y)), path),
    )

    def solve(y0: Any) -> Any:
        return diffrax.diffeqsolve(
            terms,
            diffrax.Euler(),
            0.0,
            1.0,
            1.0 / steps,
            y0,
            saveat=diffrax.SaveAt(ts=jnp.linspace(0, 1, REPORTED)),
            max_steps=steps + 1,
            adjoint=diffrax.DirectAdjoint(),
        ).ys

    compiled, start = jax.jit(solve), jnp.ones(BATCH * SIZE)
    return lambda: compiled(start).block_until_ready()


def forward(rounds: int = 7) -> None:
    """Solves without gradient. GBM: strong error on the solver's own path; else mean and deviation at t = 1."""
    ts = torch.linspace(0, 1, REPORTED)
    y0 = torch.ones(BATCH, SIZE)
    for kind, make in MODELS.items():
        model = make().requires_grad_(False)
        for steps in (100, 1000):
            _forward(kind, model, steps, ts, y0, rounds if steps == 100 else 3)


def _forward(kind: str, model: Any, steps: int, ts: Tensor, y0: Tensor, rounds: int) -> None:
    """One equation at one number of steps."""
    h = 1.0 / steps
    noise = torch.randn(steps, BATCH, SIZE, generator=torch.Generator().manual_seed(1)) * h**0.5

    def ours(method: str, compile: bool) -> Any:
        return solve_sde(model, None, y0, ts, method=method, dt=h, seed=0, adjoint=None, check=False, compile=compile)

    def theirs(method: str) -> tuple[Tensor, Any]:
        import torchsde

        area = "space-time" if method == "srk" else "none"
        path = torchsde.BrownianInterval(0.0, 1.0, size=y0.shape, dt=h, levy_area_approximation=area)
        return torchsde.sdeint(model, y0, ts, bm=path, method=method, dt=h), path

    competitors: dict[str, Call] = {
        "plain loop, noise inside": lambda: plain(model, y0, steps, None),
        "plain loop, noise before": lambda: plain(model, y0, steps, noise),
        "scidyn euler": lambda: ours("euler", False),
        "scidyn euler, compiled": lambda: ours("euler", True),
        "scidyn sriw1": lambda: ours("sriw1", False),
        "scidyn sriw1, compiled": lambda: ours("sriw1", True),
    }
    if TORCHSDE:
        competitors |= {"torchsde euler": lambda: theirs("euler"), "torchsde srk": lambda: theirs("srk")}
    if DIFFRAX:
        competitors["diffrax Euler, virtual tree"] = diffrax_euler(kind, steps)

    def note(y: Tensor, W: Tensor | None = None) -> str:
        if kind == "GBM" and W is not None:
            exact = torch.exp(torch.tensor(0.375) + 0.5 * W)
            return f"{(y - exact).abs().mean():.1e}"
        return f"mean {y.mean():.4f} deviation {y.std(0).mean():.4f}"

    notes = {"": "strong error" if kind == "GBM" else "at t = 1"}
    path = BrownianIncrements(ours("euler", False).grid, y0.shape, seed=0).path()[-1]
    for name in ("euler", "sriw1"):
        notes[f"scidyn {name}"] = note(ours(name, False).y[:, -1], path)
        notes[f"scidyn {name}, compiled"] = note(ours(name, True).y[:, -1], path)
    notes["plain loop, noise before"] = note(plain(model, y0, steps, noise)[-1], noise.sum(0))
    if TORCHSDE:
        for name in ("euler", "srk"):
            y, bm = theirs(name)
            notes[f"torchsde {name}"] = note(y[-1], bm(0.0, 1.0) if kind == "GBM" else None)
    show(f"forward, {kind}, {steps} steps", interleave(competitors, rounds), "plain loop, noise inside", notes)


class Kept:
    """Bytes that autograd keeps: the most at any time between the start of a solve and the end of its backward."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.count: dict[int, int] = {}

    def pack(self, x: Tensor) -> Any:
        """Count each storage once while something holds it."""
        storage = x.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        kept = self

        class Holder:
            value = x

            def __del__(self) -> None:
                kept.count[key] -= 1
                if kept.count[key] == 0:
                    kept.now -= size

        if self.count.get(key, 0) == 0:
            self.now += size
        self.count[key] = self.count.get(key, 0) + 1
        self.most = max(self.most, self.now)
        return Holder()


def most_kept(call: Call) -> float:
    """MiB kept at most during forward and backward."""
    gc.collect()
    kept = Kept()
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda holder: holder.value):
        call()
    return kept.most / 2**20


def train(rounds: int = 7, steps: int = 100) -> None:
    """One step of training: solve, mean square of the reported states, backward."""
    ts = torch.linspace(0, 1, REPORTED)
    y0 = torch.ones(BATCH, SIZE)
    for kind, make in MODELS.items():
        _train(kind, make(), steps, ts, y0, rounds)


def _train(kind: str, model: Any, steps: int, ts: Tensor, y0: Tensor, rounds: int) -> None:
    """One equation."""
    h = 1.0 / steps

    def ours(**options: Any) -> Tensor:
        return solve_sde(model, None, y0, ts, dt=h, seed=0, check=False, **options).y

    def theirs(method: str) -> Tensor:
        import torchsde

        path = torchsde.BrownianInterval(0.0, 1.0, size=y0.shape, dt=h)
        return getattr(torchsde, method)(model, y0, ts, bm=path, method="euler", dt=h)

    reversible = {"calculus": "stratonovich", "method": "reversible_heun", "adjoint": "reversible"}
    solves: dict[str, Call] = {
        "plain loop, noise inside": lambda: plain(model, y0, steps, None),
        "scidyn euler, discrete": ours,
        "scidyn euler, discrete, compiled": lambda: ours(compile=True),
        "scidyn euler, direct": lambda: ours(adjoint="direct"),
        "scidyn euler, direct, compiled": lambda: ours(adjoint="direct", compile=True),
        "scidyn reversible Heun": lambda: ours(**reversible),
    }
    if TORCHSDE:
        solves |= {
            "torchsde euler": lambda: theirs("sdeint"),
            "torchsde adjoint euler": lambda: theirs("sdeint_adjoint"),
        }

    def descend(solve: Call) -> None:
        model.zero_grad()
        (solve() ** 2).mean().backward()

    calls = {name: lambda solve=solve: descend(solve) for name, solve in solves.items()}
    found = interleave(calls, rounds)
    notes = {name: f"{most_kept(call):8.2f}" for name, call in calls.items()}
    descend(solves["scidyn euler, direct"])
    exact = [p.grad.clone() for p in model.parameters()]
    descend(solves["scidyn euler, discrete, compiled"])
    grads = [p.grad for p in model.parameters()]
    gap = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(grads, exact, strict=True))
    show(
        f"training step, {kind}, {steps} steps (compiled discrete against direct gradient: {gap:.1e})",
        found,
        "plain loop, noise inside",
        {"": "most MiB kept", **notes},
    )


def tree(rounds: int = 3, steps: int = 300) -> None:
    """Milliseconds per query of 8,192 increments: one after the other, and at a random time for each row."""
    starts = torch.rand(BATCH, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.9
    stops = starts + 1.0 / steps

    def make(levels: str, fused: bool = False) -> BrownianTree:
        return BrownianTree(0.0, 1.0, (BATCH, SIZE), seed=0, tol=1e-3, levels=levels, compile=fused)

    def walk(levels: str) -> None:
        path = make(levels)
        for i in range(steps):
            path.increment(i / steps, (i + 1) / steps)

    def scattered(path: BrownianTree) -> None:
        for _ in range(steps // 10):
            path.increment(starts, stops)

    def increments() -> None:
        path = BrownianIncrements([i / steps for i in range(steps + 1)], (BATCH, SIZE), seed=0)
        for start in range(0, steps, path.chunk):
            path.block(start, min(steps, start + path.chunk))

    shared: dict[str, Call] = {
        "scidyn increments": increments,
        "scidyn tree W": lambda: walk("W"),
        "scidyn tree WH": lambda: walk("WH"),
    }
    paths = {"W": make("W"), "W, compiled": make("W", True), "WH": make("WH")}
    rows: dict[str, Call] = {f"scidyn tree {k}": lambda path=path: scattered(path) for k, path in paths.items()}
    if DIFFRAX:
        _diffrax_tree(shared, rows, steps, starts, stops)
    base = "diffrax virtual tree W" if DIFFRAX else "scidyn tree W"
    for title, calls, count in (
        ("tree, ms per query, one step after the other", shared, steps),
        ("tree, ms per query, each row at its own time", rows, steps // 10),
    ):
        found = {name: value / count for name, value in interleave(calls, rounds).items()}
        show(title, found, base, {})
    W = torch.cat([make("W").increment(0.2, 0.5).W.flatten(), make("W").increment(0.5, 0.51).W.flatten()])
    print(f"  variance of increments over 0.3 and 0.01: {W[:8192].var():.4f}, {W[8192:].var():.5f}")


def _diffrax_tree(shared: dict[str, Call], rows: dict[str, Call], steps: int, starts: Tensor, stops: Tensor) -> None:
    """The same queries of diffrax's tree."""
    import diffrax
    import jax
    import jax.numpy as jnp

    for levels, area in (("W", diffrax.BrownianIncrement), ("WH", diffrax.SpaceTimeLevyArea)):
        virtual = diffrax.VirtualBrownianTree(0.0, 1.0, 1e-3, (BATCH, SIZE), jax.random.key(0), levy_area=area)
        query = jax.jit(lambda s, t, path=virtual: path.evaluate(s, t, use_levy=True))
        keys = jax.random.split(jax.random.key(0), BATCH)

        def row(key: Any, s: Any, t: Any, area: Any = area) -> Any:
            path = diffrax.VirtualBrownianTree(0.0, 1.0, 1e-3, (SIZE,), key, levy_area=area)
            return path.evaluate(s, t, use_levy=True)

        each = jax.jit(jax.vmap(row))
        low, high = jnp.array(starts.numpy()), jnp.array(stops.numpy())

        def walk(query: Any = query) -> None:
            for i in range(steps):
                jax.block_until_ready(query(i / steps, (i + 1) / steps))

        def scattered(each: Any = each, keys: Any = keys, low: Any = low, high: Any = high) -> None:
            for _ in range(steps // 10):
                jax.block_until_ready(each(keys, low, high))

        shared[f"diffrax virtual tree {levels}"] = walk
        rows[f"diffrax virtual tree {levels}"] = scattered


def long(steps: int = 1_000_000) -> None:
    """A million steps of one path: no recursion, no growth of memory."""
    y0 = torch.ones(1, 1, dtype=torch.float64)
    start = time.process_time()
    solution = solve_sde(
        lambda t, y: -y, lambda t, y: torch.full_like(y, 0.5), y0, [0.0, 1e4], noise="diagonal", method="euler",
        dt=1e4 / steps, seed=0, adjoint=None,
    )  # fmt: skip
    print(f"\n{steps:,} steps of one OU path: {time.process_time() - start:.1f} s, end {solution.y[0, -1, 0]:.3f}")
    path = BrownianTree(0.0, 1e6, (1, 1), seed=0, tol=1.0, levels="W")
    start = time.process_time()
    for i in range(20_000):
        path.increment(float(i), float(i + 1))
    print(f"tree of a million cells: {(time.process_time() - start) / 20:.3f} ms per query of one channel")


if __name__ == "__main__":
    torch.set_num_threads(1)
    sections: dict[str, Call] = {"forward": forward, "train": train, "tree": tree, "long": long}
    for chosen in sys.argv[1:] or list(sections):
        sections[chosen]()

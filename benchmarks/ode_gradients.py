"""Time, memory and error of gradients through ODE solves: scidyn beside its peers, interleaved, on one thread.

``python benchmarks/ode_gradients.py [--repeat 15] [--case mlp-2-64-64-2 ...]`` prints one table per case.
A row is one training step: the solve, a loss on all reported states, and the gradient of every weight.
Times are medians of CPU seconds of this process. Errors are relative, in the norm of the whole gradient,
against an eighth-order solve in double precision at 1e-9. Peers that are not installed are left out.

The last columns divide the row's time by that of a bare loop of as many steps, and give how many times faster
it is than torchdiffeq and diffrax at the same tolerance, and than the fastest setting of torchdiffeq's
``odeint`` that is at least as accurate. "Their control" is the control of torchdiffeq, which takes as many steps.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scidyn.solvers import solve_ode

F64 = torch.float64


class Case(NamedTuple):
    """A neural ODE: its layers, its initial states, and how it is solved."""

    name: str
    widths: tuple[int, ...]
    batch: int
    end: float
    count: int
    dtype: torch.dtype
    rtol: float
    atol: float
    cubes: bool


class Row(NamedTuple):
    """One competitor; ``run`` gives the loss and the gradient of each weight, in the order of the network."""

    name: str
    run: Callable[[], tuple[Any, Sequence[Any]]]
    steps: int | None = None
    peer: str = ""


CASES = (
    Case("mlp-2-64-64-2", (2, 64, 64, 2), 256, 3.0, 50, torch.float32, 1e-5, 1e-5, False),
    Case("mlp-32-128-128-32", (32, 128, 128, 32), 256, 3.0, 50, torch.float32, 1e-5, 1e-5, False),
    Case("single-trajectory", (2, 50, 2), 1, 12.0, 60, torch.float64, 1e-6, 1e-7, True),
    Case("sixteen-trajectories", (2, 50, 2), 16, 12.0, 60, torch.float64, 1e-6, 1e-7, True),
)


class Network(torch.nn.Module):
    """A vector field: layers with tanh between them, on the state or on its cubes."""

    def __init__(self, widths: Sequence[int], cubes: bool) -> None:
        super().__init__()
        layers: list[torch.nn.Module] = []
        for inner, outer in itertools.pairwise(widths):
            layers += [torch.nn.Linear(inner, outer), torch.nn.Tanh()]
        self.layers = torch.nn.Sequential(*layers[:-1])
        self.cubes = cubes

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.layers(y**3 if self.cubes else y)


def setup(case: Case) -> tuple[Network, Tensor, Tensor]:
    """Network, initial states and times of a case; the spiral's network is fitted to the spiral."""
    torch.manual_seed(0)
    network = Network(case.widths, case.cubes)
    generator = torch.Generator().manual_seed(1)
    y0 = torch.randn(case.batch, case.widths[0], dtype=F64, generator=generator)
    if case.cubes:
        spiral = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])
        optimiser = torch.optim.Adam(network.parameters(), 1e-2)
        for _ in range(500):
            y = 1.5 * torch.randn(256, 2)
            loss = ((network(y, y) - (y**3) @ spiral.T).clamp(-20, 20) ** 2).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        y0 = torch.tensor([2.0, 0.0], dtype=F64) + 0.3 * y0
    else:
        with torch.no_grad():
            for p in network.parameters():
                p.mul_(2.5 if p.ndim == 2 else 1.0)
    return network.to(case.dtype), y0.to(case.dtype), torch.linspace(0, case.end, case.count, dtype=case.dtype)


def loss_of(y: Tensor) -> Tensor:
    return (y**2).mean()


def exact(case: Case) -> tuple[float, Tensor]:
    """Loss and flat gradient in double precision."""
    network, y0, t = setup(case)
    network = network.to(F64)
    y = solve_ode(network, y0.to(F64), t.to(F64), method="dopri8", rtol=1e-9, atol=1e-9).y
    return loss_of(y).item(), flat(torch.autograd.grad(loss_of(y), list(network.parameters())))


def flat(gradient: Sequence[Any]) -> Tensor:
    return torch.cat([torch.as_tensor(g).detach().to(F64).reshape(-1) for g in gradient])


def ours(case: Case) -> Iterator[Row]:
    """Variants of scidyn."""
    network, y0, t = setup(case)
    weights = list(network.parameters())

    def row(name: str, **options: Any) -> Row:
        def solution() -> Any:
            return solve_ode(network, y0, t, rtol=case.rtol, atol=case.atol, **options)

        def run() -> tuple[Tensor, Sequence[Tensor]]:
            loss = loss_of(solution().y)
            return loss, torch.autograd.grad(loss, weights)

        return Row(f"scidyn {name}", run, int(solution().stats.n_accepted.max()))

    theirs = {"norm": "rms_all", "controller": "i"}
    for method in ("dopri5", "tsit5"):
        yield row(method, method=method)
        yield row(f"{method} compiled", method=method, compile=True)
    yield row("dopri5, their control", method="dopri5", **theirs)
    yield row("dopri5, their control, compiled", method="dopri5", compile=True, **theirs)
    yield row("dopri5 adjoint='discrete'", method="dopri5", adjoint="discrete")
    if case.batch > 1:
        yield row("tsit5 per sample", stepping="per_sample")


def floor(case: Case, count: int) -> Row:
    """A bare loop of equal dopri5 steps, cubic Hermite output, autograd."""
    network, y0, t = setup(case)
    weights = list(network.parameters())

    def run() -> tuple[Tensor, Sequence[Tensor]]:
        loss = loss_of(bare_loop(network, y0, t, count))
        return loss, torch.autograd.grad(loss, weights)

    return Row(f"bare loop, {count} dopri5 steps", run, count, "floor")


def bare_loop(f: Callable[[Tensor, Tensor], Tensor], y: Tensor, t: Tensor, count: int) -> Tensor:
    h = (t[-1] - t[0]).item() / count
    start, first = t[0].item(), f(t[0], y)
    wanted, rows = t.tolist(), [y]
    reported = 1
    for n in range(count):
        k1 = first
        k2 = f(t[0], y + h * (1 / 5 * k1))
        k3 = f(t[0], y + h * (3 / 40 * k1 + 9 / 40 * k2))
        k4 = f(t[0], y + h * (44 / 45 * k1 - 56 / 15 * k2 + 32 / 9 * k3))
        k5 = f(t[0], y + h * (19372 / 6561 * k1 - 25360 / 2187 * k2 + 64448 / 6561 * k3 - 212 / 729 * k4))
        k6 = f(
            t[0],
            y + h * (9017 / 3168 * k1 - 355 / 33 * k2 + 46732 / 5247 * k3 + 49 / 176 * k4 - 5103 / 18656 * k5),
        )
        y1 = y + h * (35 / 384 * k1 + 500 / 1113 * k3 + 125 / 192 * k4 - 2187 / 6784 * k5 + 11 / 84 * k6)
        first = f(t[0], y1)
        a, d = start + n * h, y1 - y
        b = a + h if n + 1 < count else wanted[-1]
        while reported < len(wanted) and wanted[reported] <= b:
            x = (wanted[reported] - a) / h
            rows.append(y + x * (x * (3 - 2 * x) * d + h * (1 - x) * ((1 - x) * k1 - x * first)))
            reported += 1
        y = y1
    return torch.stack(rows, dim=1)


def with_torchdiffeq(case: Case) -> Iterator[Row]:
    from torchdiffeq import odeint, odeint_adjoint

    network, y0, t = setup(case)
    weights = list(network.parameters())

    def row(solve: Callable[..., Tensor], tighter: float, peer: str) -> Row:
        def run() -> tuple[Tensor, Sequence[Tensor]]:
            options = {"rtol": case.rtol * tighter, "atol": case.atol * tighter, "method": "dopri5"}
            loss = loss_of(solve(network, y0, t, **options))
            return loss, torch.autograd.grad(loss, weights)

        return Row(f"torchdiffeq dopri5 {solve.__name__} rtol {case.rtol * tighter:.0e}", run, None, peer)

    yield row(odeint, 1.0, "odeint")
    for tighter in (0.1, 0.03, 0.01) if case.dtype == torch.float32 else (0.1, 0.03, 0.01, 0.003):
        yield row(odeint, tighter, "odeint, tighter")
    yield row(odeint_adjoint, 1.0, "odeint_adjoint")


def with_torchode(case: Case) -> Iterator[Row]:
    import torchode

    network, y0, t = setup(case)
    weights = list(network.parameters())
    term = torchode.ODETerm(network)
    method = torchode.Dopri5(term=term)
    controller = torchode.IntegralController(atol=case.atol, rtol=case.rtol, term=term)
    solver = torchode.AutoDiffAdjoint(method, controller)
    problem = torchode.InitialValueProblem(y0=y0, t_eval=t.expand(case.batch, -1))

    def run() -> tuple[Tensor, Sequence[Tensor]]:
        loss = loss_of(solver.solve(problem).ys)
        return loss, torch.autograd.grad(loss, weights)

    yield Row("torchode dopri5 AutoDiffAdjoint", run, None, "torchode")


def with_diffrax(case: Case) -> Iterator[Row]:
    import diffrax
    import jax

    jax.config.update("jax_enable_x64", True)
    network, y0, t = setup(case)
    weights = [jax.numpy.asarray(p.detach().numpy()) for p in network.parameters()]
    start, times = jax.numpy.asarray(y0.numpy()), jax.numpy.asarray(t.numpy())

    def field(t: Any, y: Any, weights: Any) -> Any:
        y = y**3 if case.cubes else y
        for i in range(0, len(weights), 2):
            y = y @ weights[i].T + weights[i + 1]
            y = jax.numpy.tanh(y) if i + 2 < len(weights) else y
        return y

    def loss(weights: Any) -> Any:
        found = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Dopri5(),
            times[0],
            times[-1],
            None,
            start,
            args=weights,
            saveat=diffrax.SaveAt(ts=times),
            stepsize_controller=diffrax.PIDController(rtol=case.rtol, atol=case.atol),
            adjoint=diffrax.RecursiveCheckpointAdjoint(),
            max_steps=4096,
        )
        return (found.ys**2).mean()

    both = jax.jit(jax.value_and_grad(loss))
    name = "diffrax Dopri5 joint RecursiveCheckpoint (jit)"
    yield Row(name, lambda: jax.block_until_ready(both(weights)), None, "diffrax")


def rows_of(case: Case) -> list[Row]:
    rows = list(ours(case))
    rows += [floor(case, count) for count in sorted({r.steps for r in rows if r.steps and "per sample" not in r.name})]
    for source in (with_torchdiffeq, with_torchode, with_diffrax):
        try:
            rows += list(source(case))
        except ImportError as missing:
            print(f"left out: {source.__name__} ({missing})")
    return rows


def measure(case: Case, rows: Sequence[Row], repeat: int) -> None:
    """Run the rows in turn, ``repeat`` times, and print medians and ratios."""
    _, gradient = exact(case)
    errors: list[float] = []
    for row in rows:
        row.run()
        errors.append(float((flat(row.run()[1]) - gradient).norm() / gradient.norm()))
    times: list[list[float]] = [[] for _ in rows]
    for _ in range(repeat):
        for row, seconds in zip(rows, times, strict=True):
            begin = time.process_time()
            row.run()
            seconds.append(time.process_time() - begin)
    found = [(row, error, statistics.median(seconds)) for row, error, seconds in zip(rows, errors, times, strict=True)]
    print(f"\n{case.name}, batch {case.batch}\n{'':48} {'steps':>5} {'ms':>8} {'error':>8}")
    for row, error, own in found:
        steps = "" if row.steps is None else str(row.steps)
        print(f"{row.name:48} {steps:>5} {1e3 * own:8.2f} {error:8.1e}  {ratios(row, error, own, found)}", flush=True)


def ratios(row: Row, error: float, own: float, found: Sequence[tuple[Row, float, float]]) -> str:
    """Time over that of the bare loop, and how many times faster than the peers."""
    if row.peer:
        return ""
    cells = [f"{own / s:.2f} x bare" for r, _, s in found if r.peer == "floor" and r.steps == row.steps]
    for peer in ("odeint", "odeint_adjoint", "torchode", "diffrax"):
        cells += [f"{peer} {s / own:.2f}" for r, _, s in found if r.peer == peer]
    able = [s for r, e, s in found if r.peer.split(",")[0] == "odeint" and e <= 1.1 * error]
    cells.append(f"odeint at this error {min(able) / own:.2f}" if able else "odeint: none as accurate")
    return "  ".join(cells)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--case", nargs="*", default=[case.name for case in CASES])
    parser.add_argument("--only", default="", help="measure the rows whose name contains one of these, split by commas")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for case in CASES:
        if case.name in options.case:
            chosen = [r for r in rows_of(case) if any(part in r.name for part in options.only.split(","))]
            measure(case, chosen, options.repeat)


if __name__ == "__main__":
    main()

"""Batches of Lotka-Volterra, Lorenz and Van der Pol solved forward, beside torchdiffeq, torchode, diffrax and SciPy."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from ode_timing import Contest, Entry
from scipy.integrate import solve_ivp

from scidyn.solvers import solve_ode

__all__ = ["contests"]

F64 = torch.float64
CHECKED = 32
TOLERANCES = (1e-6, 1e-5, 1e-7)
SAVED = 100


class Work(NamedTuple):
    """A batch of problems: the rate for any array package, initial states, parameters, last time."""

    name: str
    rate: Callable[[Any, Any, Any], Any]
    y0: np.ndarray
    parameters: tuple[np.ndarray, ...]
    end: float


def lotka_volterra(stack: Any, y: Any, p: Any) -> Any:
    u, v = y[..., 0], y[..., 1]
    return stack([p[0] * u - u * v, p[1] * (u * v - v)])


def lorenz(stack: Any, y: Any, p: Any) -> Any:
    u, v, w = y[..., 0], y[..., 1], y[..., 2]
    return stack([10.0 * (v - u), u * (28.0 - w) - v, u * v - 8.0 / 3.0 * w])


def van_der_pol(stack: Any, y: Any, p: Any) -> Any:
    x, v = y[..., 0], y[..., 1]
    return stack([v, p[0] * (1.0 - x * x) * v - x])


def works(batch: int) -> Iterator[Work]:
    """The three problems."""
    random = np.random.default_rng(0)
    yield Work(
        f"Lotka-Volterra, batch {batch}",
        lotka_volterra,
        random.uniform(0.5, 2.0, (batch, 2)),
        (random.uniform(0.8, 1.6, batch), random.uniform(0.6, 1.2, batch)),
        10.0,
    )
    start = np.array([1.0, 1.0, 20.0]) + random.uniform(-2.0, 2.0, (batch, 3))
    yield Work(f"Lorenz, batch {batch}", lorenz, start, (), 5.0)
    mu = np.exp(random.uniform(np.log(0.5), np.log(50.0), batch))
    start = np.array([2.0, 0.0]) + random.uniform(-0.1, 0.1, (batch, 2))
    yield Work(f"Van der Pol, mu from 0.5 to 50, batch {batch}", van_der_pol, start, (mu,), 20.0)


def exact(work: Work) -> np.ndarray:
    """The first samples by SciPy's DOP853 at 1e-12."""
    rows = []
    for i in range(min(CHECKED, len(work.y0))):
        p = [q[i] for q in work.parameters]
        times = np.linspace(0.0, work.end, SAVED)
        found = solve_ivp(
            lambda t, y, p=p: work.rate(np.array, y, p),
            *((0.0, work.end), work.y0[i], "DOP853", times),
            **{"rtol": 1e-12, "atol": 1e-12},
        )
        rows.append(found.y.T)
    return np.stack(rows)


def contests(batches: tuple[int, ...]) -> Iterator[Contest]:
    """One contest for each problem and batch."""
    for batch in batches:
        for work in works(batch):
            truth = exact(work)

            def wrong(y: np.ndarray, truth: np.ndarray = truth) -> float:
                part = np.asarray(y)[: len(truth)]
                return float((np.abs(part - truth) / (1.0 + np.abs(truth))).max())

            entries: list[Entry] = []
            for source, options in (
                *((ours, {"stepping": "per_sample"}), (with_diffrax, {"joint": False}), (with_torchode, {})),
                *((ours, {"stepping": "shared"}), (with_diffrax, {"joint": True}), (with_torchdiffeq, {})),
                (with_scipy, {}),
            ):
                try:
                    entries += source(work, **options)
                except ImportError as missing:
                    print(f"left out: {source.__name__} ({missing})")
            yield Contest(work.name + ", float64, 100 times", entries, wrong)


def _torch_rate(work: Work) -> Callable[..., torch.Tensor]:
    parameters = [torch.tensor(p) for p in work.parameters]
    return lambda t, y: work.rate(lambda parts: torch.stack(parts, dim=-1), y, parameters)


def ours(work: Work, stepping: str) -> Iterator[Entry]:
    f, y0 = _torch_rate(work), torch.tensor(work.y0)
    t = torch.linspace(0.0, work.end, SAVED, dtype=F64)

    def entry(method: str, compile: bool) -> Entry:
        def run(tolerance: float) -> np.ndarray:
            options = {"method": method, "rtol": tolerance, "atol": tolerance, "adjoint": None, "max_steps": 100_000}
            return solve_ode(f, y0, t, stepping=stepping, compile=compile, **options).y.numpy()

        name = f"scidyn {method} {stepping.replace('_', ' ')}{', compiled' if compile else ''}"
        return Entry(name, run, TOLERANCES if compile else TOLERANCES[:1], stepping)

    yield entry("dopri5", True)
    yield entry("tsit5", True)
    yield entry("dopri5", False)


def with_torchdiffeq(work: Work) -> Iterator[Entry]:
    from torchdiffeq import odeint

    f, y0 = _torch_rate(work), torch.tensor(work.y0)
    t = torch.linspace(0.0, work.end, SAVED, dtype=F64)

    def worst(y: torch.Tensor) -> torch.Tensor:
        return (y * y).mean(dim=-1).sqrt().max()

    def entry(name: str, options: dict[str, Any]) -> Entry:
        def run(tolerance: float) -> np.ndarray:
            with torch.no_grad():
                y = odeint(f, y0, t, rtol=tolerance, atol=tolerance, method="dopri5", options=options)
            return y.transpose(0, 1).numpy()

        return Entry(f"torchdiffeq dopri5{name}", run, TOLERANCES, "shared")

    yield entry(", norm of the worst sample", {"norm": worst})
    yield entry("", {})


def with_torchode(work: Work) -> Iterator[Entry]:
    import torchode

    f, y0 = _torch_rate(work), torch.tensor(work.y0)
    times = torch.linspace(0.0, work.end, SAVED, dtype=F64).expand(len(y0), -1)
    term = torchode.ODETerm(f)
    problem = torchode.InitialValueProblem(y0=y0, t_eval=times)

    def run(tolerance: float) -> np.ndarray:
        controller = torchode.IntegralController(atol=tolerance, rtol=tolerance, term=term)
        solver = torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), controller)
        with torch.no_grad():
            return solver.solve(problem).ys.numpy()

    yield Entry("torchode Dopri5", run, TOLERANCES, "per_sample")


def with_diffrax(work: Work, joint: bool) -> Iterator[Entry]:
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    import diffrax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    times = jnp.linspace(0.0, work.end, SAVED)
    term = diffrax.ODETerm(lambda t, y, p: work.rate(lambda parts: jnp.stack(parts, axis=-1), y, p))

    def worst(y: Any) -> Any:
        return jnp.max(jnp.sqrt(jnp.mean(y * y, axis=-1)))

    def solve(y0: Any, p: Any, tolerance: Any, options: dict[str, Any]) -> Any:
        control = diffrax.PIDController(rtol=tolerance, atol=tolerance, **options)
        saved = diffrax.SaveAt(ts=times)
        found = diffrax.diffeqsolve(
            *(term, diffrax.Dopri5(), 0.0, work.end, None, y0, p),
            **{"saveat": saved, "stepsize_controller": control, "max_steps": 16_384, "throw": False},
        )
        return found.ys

    y0, p = jnp.asarray(work.y0), tuple(map(jnp.asarray, work.parameters))
    if joint:
        solver = jax.jit(lambda y, q, tolerance: jnp.swapaxes(solve(y, q, tolerance, {"norm": worst}), 0, 1))
    else:
        each = jax.vmap(lambda y, q, tolerance: solve(y, q, tolerance, {}), in_axes=(0, 0, None))
        solver = jax.jit(each)
    name = "diffrax Dopri5 jit, one step for all, norm of the worst sample" if joint else "diffrax Dopri5 jit vmap"
    yield Entry(name, lambda tol: np.asarray(solver(y0, p, tol)), TOLERANCES, "shared" if joint else "per_sample")


def with_scipy(work: Work) -> Iterator[Entry]:
    batch, width = work.y0.shape
    times = np.linspace(0.0, work.end, SAVED)

    def f(t: float, y: np.ndarray) -> np.ndarray:
        rate = work.rate(lambda parts: np.stack(parts, axis=-1), y.reshape(batch, width), work.parameters)
        return rate.reshape(-1)

    def run(tolerance: float) -> np.ndarray:
        options = {"rtol": tolerance, "atol": tolerance}
        found = solve_ivp(f, (0.0, work.end), work.y0.reshape(-1), "RK45", times, **options)
        return found.y.reshape(batch, width, -1).transpose(0, 2, 1)

    yield Entry("SciPy RK45, the batch as one system", run, TOLERANCES, "shared")

"""Stiff problems, beside SciPy's Radau, BDF and LSODA and diffrax's Kvaerno5; gradients through them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from ode_timing import Contest, Entry
from scipy.integrate import solve_ivp

from scidyn.solvers import solve_ode
from scidyn.solvers.linear import LinearAlgebra
from scidyn.solvers.methods.esdirk import ESDIRK
from scidyn.solvers.methods.rosenbrock import Rodas
from scidyn.solvers.stiff_tableaus import KVAERNO5, RODAS5P

__all__ = ["contests", "gradient_contests"]

F64 = torch.float64
TOLERANCES = (1e-5, 1e-4, 1e-6, 1e-7)


class Work(NamedTuple):
    """A problem: the field for tensors and for lists, initial values, last time, scale of the errors."""

    name: str
    f: Callable[..., Any]
    plain: Callable[..., Any]
    jax: Callable[..., Any]
    y0: np.ndarray
    end: float
    atol: float
    bands: tuple[int, int] | None = None


def robertson(t, y):
    a, b, c = y.unbind(-1)
    first, second, third = 0.04 * a, 1e4 * b * c, 3e7 * b * b
    return torch.stack([second - first, first - second - third, third], dim=-1)


def robertson_plain(t, y):
    first, second, third = 0.04 * y[0], 1e4 * y[1] * y[2], 3e7 * y[1] * y[1]
    return [second - first, first - second - third, third]


def robertson_jax(np: Any, y: Any, p: Any) -> Any:
    first, second, third = p[0] * y[0], 1e4 * y[1] * y[2], 3e7 * y[1] * y[1]
    return np.stack([second - first, first - second - third, third])


def van_der_pol(t, y):
    x, v = y.unbind(-1)
    return torch.stack([v, 1e3 * ((1 - x * x) * v) - x], dim=-1)


def van_der_pol_plain(t, y):
    return [y[1], 1e3 * ((1 - y[0] * y[0]) * y[1]) - y[0]]


def van_der_pol_jax(np: Any, y: Any, p: Any) -> Any:
    return np.stack([y[1], p[0] * ((1 - y[0] * y[0]) * y[1]) - y[0]])


def brusselator(t, y):
    u, v = y[..., ::2], y[..., 1::2]
    stiffness = 0.02 * (u.shape[-1] + 1) ** 2
    wide_u = torch.nn.functional.pad(u, (1, 1), value=1.0)
    wide_v = torch.nn.functional.pad(v, (1, 1), value=3.0)
    reaction = u * u * v
    du = 1.0 + reaction - 4.0 * u + stiffness * (wide_u[..., 2:] - 2 * u + wide_u[..., :-2])
    dv = 3.0 * u - reaction + stiffness * (wide_v[..., 2:] - 2 * v + wide_v[..., :-2])
    return torch.stack([du, dv], dim=-1).flatten(-2)


def brusselator_plain(t, y):
    u, v = y[::2], y[1::2]
    stiffness = 0.02 * (len(u) + 1) ** 2
    reaction, rate = u * u * v, np.empty_like(y)
    wide_u, wide_v = np.concatenate(([1.0], u, [1.0])), np.concatenate(([3.0], v, [3.0]))
    rate[::2] = 1.0 + reaction - 4.0 * u + stiffness * (wide_u[2:] - 2 * u + wide_u[:-2])
    rate[1::2] = 3.0 * u - reaction + stiffness * (wide_v[2:] - 2 * v + wide_v[:-2])
    return rate


def brusselator_jax(np: Any, y: Any, p: Any) -> Any:
    u, v = y[::2], y[1::2]
    stiffness = p[0] * (u.shape[0] + 1) ** 2
    reaction = u * u * v
    wide_u, wide_v = np.pad(u, 1, constant_values=1.0), np.pad(v, 1, constant_values=3.0)
    du = 1.0 + reaction - 4.0 * u + stiffness * (wide_u[2:] - 2 * u + wide_u[:-2])
    dv = 3.0 * u - reaction + stiffness * (wide_v[2:] - 2 * v + wide_v[:-2])
    return np.stack([du, dv], axis=-1).reshape(-1)


def problems() -> list[Work]:
    spread = np.linspace(0.9, 1.1, 100)[:, None]
    rob = np.array([[1.0, 0.0, 0.0]]) * spread
    vdp = np.array([[2.0, 0.0]]) * spread
    x = np.arange(1, 201) / 201
    cells = np.stack([1 + np.sin(2 * np.pi * x), np.full(200, 3.0)], axis=-1).reshape(1, -1)
    first, second = "Robertson, t = 1e5", "Van der Pol, mu = 1e3, t = 2e3"
    chemistry = (robertson, robertson_plain, robertson_jax)
    oscillator = (van_der_pol, van_der_pol_plain, van_der_pol_jax)
    line = (brusselator, brusselator_plain, brusselator_jax)
    return [
        Work(f"{first}, one sample", *chemistry, rob[50:51], 1e5, 1e-4),
        Work(f"{first}, 100 samples", *chemistry, rob, 1e5, 1e-4),
        Work(f"{second}, one sample", *oscillator, vdp[50:51], 2e3, 1e-2),
        Work(f"{second}, 100 samples", *oscillator, vdp, 2e3, 1e-2),
        Work("Brusselator, 200 cells, t = 10", *line, cells, 10.0, 1e-2, (2, 2)),
    ]


PARAMETERS = {robertson: 0.04, van_der_pol: 1e3, brusselator: 0.02}


def with_scipy(work: Work) -> Iterator[Entry]:
    def entry(name: str) -> Entry:
        options: dict[str, Any] = {}
        if work.bands and name == "LSODA":
            options = {"lband": work.bands[0], "uband": work.bands[1]}
        elif work.bands:
            index = np.arange(work.y0.shape[1])
            options = {"jac_sparsity": np.abs(index[:, None] - index) <= max(work.bands)}

        def run(rtol: float) -> np.ndarray:
            tolerances = {"rtol": rtol, "atol": rtol * work.atol}
            rows = [
                solve_ivp(work.plain, (0, work.end), y, name, [work.end], **tolerances, **options).y[:, -1]
                for y in work.y0
            ]
            return np.stack(rows)

        form = " banded" if work.bands and name == "LSODA" else " sparse" if work.bands else ""
        loop = ", loop over the samples" if len(work.y0) > 1 else ""
        return Entry(f"SciPy {name}{form}{loop}", run, TOLERANCES)

    yield from map(entry, ("Radau", "BDF", "LSODA"))


def ours(work: Work) -> Iterator[Entry]:
    algebra = LinearAlgebra("banded", work.bands) if work.bands else LinearAlgebra()

    def entry(name: str, compile: bool) -> Entry:
        method = Rodas(tableau=RODAS5P, algebra=algebra) if name == "rodas5p" else ESDIRK(KVAERNO5, algebra)

        def run(rtol: float) -> np.ndarray:
            options = {"rtol": rtol, "atol": rtol * work.atol, "stepping": "per_sample", "max_steps": 100_000}
            y0 = torch.tensor(work.y0)
            solution = solve_ode(work.f, y0, [0.0, work.end], method=method, adjoint=None, compile=compile, **options)
            return solution.y[:, -1].numpy()

        return Entry(f"scidyn {name}{', compiled' if compile else ''}", run, TOLERANCES)

    yield entry("rodas5p", True)
    yield entry("rodas5p", False)
    yield entry("kvaerno5", False)


def with_diffrax(work: Work) -> Iterator[Entry]:
    solve = _diffrax(work)
    yield Entry("diffrax Kvaerno5 jit", lambda rtol: np.asarray(solve(rtol, PARAMETERS[work.f])), TOLERANCES)


def _diffrax(work: Work) -> Callable[..., Any]:
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    import diffrax
    import jax

    jax.config.update("jax_enable_x64", True)
    term = diffrax.ODETerm(lambda t, y, p: work.jax(jax.numpy, y, p))

    def one(y0: Any, p: Any, rtol: Any) -> Any:
        control = diffrax.PIDController(rtol=rtol, atol=rtol * work.atol)
        found = diffrax.diffeqsolve(
            *(term, diffrax.Kvaerno5(), 0.0, work.end, None, y0, p),
            **{"saveat": diffrax.SaveAt(t1=True), "stepsize_controller": control, "max_steps": 16_384},
        )
        return found.ys[-1]

    y0 = jax.numpy.asarray(work.y0)
    every = jax.jit(jax.vmap(one, in_axes=(0, None, None)))
    return lambda rtol, p: every(y0, jax.numpy.asarray([p]), rtol)


def contests(only: str) -> Iterator[Contest]:
    """One contest for each problem whose name contains ``only``."""
    for work in problems():
        if only not in work.name:
            continue
        loops = [
            solve_ivp(work.plain, (0, work.end), y, "LSODA", [work.end], rtol=1e-11, atol=1e-11 * work.atol).y[:, -1]
            for y in work.y0
        ]
        truth = np.stack(loops)

        def wrong(found: np.ndarray, truth: np.ndarray = truth) -> float:
            return float((np.abs(found - truth) / np.maximum(np.abs(truth), 1e-3)).max())

        entries = [*ours(work), *with_scipy(work)]
        try:
            entries += with_diffrax(work)
        except ImportError as missing:
            print(f"left out: diffrax ({missing})")
        yield Contest(f"{work.name}, float64", entries, wrong)


def with_parameter(work: Work) -> Callable[..., Any]:
    """The rate of ``work`` as a function of one parameter."""

    def robertson_p(t, y, p):
        a, b, c = y.unbind(-1)
        first, second, third = p * a, 1e4 * b * c, 3e7 * b * b
        return torch.stack([second - first, first - second - third, third], dim=-1)

    def van_der_pol_p(t, y, p):
        x, v = y.unbind(-1)
        return torch.stack([v, p * ((1 - x * x) * v) - x], dim=-1)

    def brusselator_p(t, y, p):
        u, v = y[..., ::2], y[..., 1::2]
        stiffness = p * (u.shape[-1] + 1) ** 2
        wide_u = torch.nn.functional.pad(u, (1, 1), value=1.0)
        wide_v = torch.nn.functional.pad(v, (1, 1), value=3.0)
        reaction = u * u * v
        du = 1.0 + reaction - 4.0 * u + stiffness * (wide_u[..., 2:] - 2 * u + wide_u[..., :-2])
        dv = 3.0 * u - reaction + stiffness * (wide_v[..., 2:] - 2 * v + wide_v[..., :-2])
        return torch.stack([du, dv], dim=-1).flatten(-2)

    return {robertson: robertson_p, van_der_pol: van_der_pol_p, brusselator: brusselator_p}[work.f]


def gradient_contests(only: str) -> Iterator[Contest]:
    """Derivative of the first entry of the last state, summed over the samples, by one parameter."""
    for work in problems():
        if only not in work.name:
            continue
        value = PARAMETERS[work.f]
        width = 1e-4 * value
        ends = [_scipy_end(work, value + shift * width) for shift in (-2, -1, 1, 2)]
        truth = float(np.dot([1, -8, 8, -1], ends) / (12 * width))

        def wrong(found: np.ndarray, truth: float = truth) -> float:
            return float(abs(found - truth) / abs(truth))

        entries = [*our_gradients(work)]
        try:
            entries += _diffrax_gradient(work)
        except ImportError as missing:
            print(f"left out: diffrax ({missing})")
        yield Contest(f"Gradient by the parameter: {work.name}, float64", entries, wrong)


def _scipy_end(work: Work, value: float) -> float:
    field = with_parameter(work)

    def f(t: float, y: np.ndarray) -> np.ndarray:
        return field(t, torch.from_numpy(y), value).numpy()

    options: dict[str, Any] = {"lband": 2, "uband": 2} if work.bands else {}
    tolerances = {"rtol": 1e-11, "atol": 1e-11 * work.atol}
    return sum(solve_ivp(f, (0, work.end), y, "LSODA", [work.end], **tolerances, **options).y[0, -1] for y in work.y0)


def our_gradients(work: Work) -> Iterator[Entry]:
    algebra = LinearAlgebra("banded", work.bands) if work.bands else LinearAlgebra()
    field = with_parameter(work)

    def entry(name: str, adjoint: str | None, compile: bool) -> Entry:
        method = Rodas(tableau=RODAS5P, algebra=algebra) if name == "rodas5p" else ESDIRK(KVAERNO5, algebra)

        def run(rtol: float) -> np.ndarray:
            p = torch.tensor(PARAMETERS[work.f], dtype=F64, requires_grad=True)
            options = {"rtol": rtol, "atol": rtol * work.atol, "stepping": "per_sample", "max_steps": 100_000}
            y = solve_ode(
                *(field, torch.tensor(work.y0), [0.0, work.end]),
                **{"args": p, "method": method, "adjoint": adjoint, "compile": compile, **options},
            ).y
            return torch.autograd.grad(y[:, -1, 0].sum(), p)[0].numpy()

        return Entry(f"scidyn {name} {adjoint}{', compiled' if compile else ''}", run, TOLERANCES[:2])

    yield entry("rodas5p", "discrete", True)
    yield entry("kvaerno5", "discrete", False)
    yield entry("rodas5p", "discrete", False)


def _diffrax_gradient(work: Work) -> Iterator[Entry]:
    solve = _diffrax(work)
    import jax

    slope = jax.jit(jax.grad(lambda p, rtol: solve(rtol, p)[:, 0].sum()))
    yield Entry(
        "diffrax Kvaerno5 jit, recursive checkpoints",
        lambda r: np.asarray(slope(PARAMETERS[work.f], r)),
        TOLERANCES[:2],
    )

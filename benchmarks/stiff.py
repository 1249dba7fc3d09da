"""Stiff problems at equal error: scidyn against SciPy's Radau, BDF and LSODA, interleaved, CPU time of one thread.

Run ``python benchmarks/stiff.py --rounds 3`` (add ``--plain`` to leave out the compiled steps). For every
solver the time is given at the error of each tolerance, and interpolated at one common error.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.integrate import solve_ivp

from scidyn.solvers import solve_ode
from scidyn.solvers.linear import LinearAlgebra
from scidyn.solvers.methods.esdirk import ESDIRK
from scidyn.solvers.methods.rosenbrock import Rodas
from scidyn.solvers.stiff_tableaus import KVAERNO5, RODAS5P

F64 = torch.float64
TOLERANCES = (1e-4, 1e-5, 1e-6, 1e-7)
COMMON_ERROR = 1e-4


class Work(NamedTuple):
    """A problem: the field for tensors and for lists, initial values, last time, scale of the errors."""

    name: str
    f: Callable
    plain: Callable
    y0: np.ndarray
    end: float
    atol: float
    scale: np.ndarray
    bands: tuple[int, int] | None = None


def robertson(t, y):
    a, b, c = y.unbind(-1)
    first, second, third = 0.04 * a, 1e4 * b * c, 3e7 * b * b
    return torch.stack([second - first, first - second - third, third], dim=-1)


def robertson_plain(t, y):
    first, second, third = 0.04 * y[0], 1e4 * y[1] * y[2], 3e7 * y[1] * y[1]
    return [second - first, first - second - third, third]


def van_der_pol(t, y):
    x, v = y.unbind(-1)
    return torch.stack([v, 1e3 * ((1 - x * x) * v) - x], dim=-1)


def van_der_pol_plain(t, y):
    return [y[1], 1e3 * ((1 - y[0] * y[0]) * y[1]) - y[0]]


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


def problems() -> list[Work]:
    spread = np.linspace(0.9, 1.1, 100)[:, None]
    rob = np.array([[1.0, 0.0, 0.0]]) * spread
    vdp = np.array([[2.0, 0.0]]) * spread
    x = np.arange(1, 201) / 201
    cells = np.stack([1 + np.sin(2 * np.pi * x), np.full(200, 3.0)], axis=-1).reshape(1, -1)
    first = "Robertson, t = 1e5"
    second = "Van der Pol, mu = 1e3, t = 2e3"
    one = np.ones(3)
    return [
        Work(f"{first}, one sample", robertson, robertson_plain, rob[50:51], 1e5, 1e-4, one),
        Work(f"{first}, 100 samples", robertson, robertson_plain, rob, 1e5, 1e-4, one),
        Work(f"{second}, one sample", van_der_pol, van_der_pol_plain, vdp[50:51], 2e3, 1e-2, np.array([1.0, 1.0])),
        Work(f"{second}, 100 samples", van_der_pol, van_der_pol_plain, vdp, 2e3, 1e-2, np.array([1.0, 1.0])),
        Work("Brusselator, 200 cells, t = 10", brusselator, brusselator_plain, cells, 10.0, 1e-2, np.ones(400), (2, 2)),
    ]


def scipy_solver(name: str) -> Callable[[Work, float], np.ndarray]:
    def solve(work: Work, rtol: float) -> np.ndarray:
        options: dict = {}
        if work.bands and name == "LSODA":
            options = {"lband": work.bands[0], "uband": work.bands[1]}
        elif work.bands:
            width = work.y0.shape[1]
            index = np.arange(width)
            options = {"jac_sparsity": np.abs(index[:, None] - index) <= max(work.bands)}
        rows = [
            solve_ivp(work.plain, (0, work.end), y, name, [work.end], rtol=rtol, atol=rtol * work.atol, **options).y[
                :, -1
            ]
            for y in work.y0
        ]
        return np.stack(rows)

    return solve


def scidyn_solver(name: str, compiled: bool) -> Callable[[Work, float], np.ndarray]:
    def solve(work: Work, rtol: float) -> np.ndarray:
        algebra = LinearAlgebra("banded", work.bands) if work.bands else LinearAlgebra()
        method = Rodas(tableau=RODAS5P, algebra=algebra) if name == "rodas5p" else ESDIRK(KVAERNO5, algebra)
        options = {"rtol": rtol, "atol": rtol * work.atol, "stepping": "per_sample", "max_steps": 100_000}
        solution = solve_ode(
            work.f, torch.tensor(work.y0), [0.0, work.end], method=method, adjoint=None, compile=compiled, **options
        )
        return solution.y[:, -1].numpy()

    return solve


def measure(work: Work, solvers: dict[str, Callable], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Time and error of each solver at each tolerance; the solvers take turns in every round."""
    exact = scipy_solver("LSODA")(work, 1e-11)
    best = {name: [np.inf] * len(TOLERANCES) for name in solvers}
    error = {name: [0.0] * len(TOLERANCES) for name in solvers}
    for name, solve in solvers.items():
        if name.startswith("scidyn"):
            solve(work, TOLERANCES[0])  # compile outside of the measurement
    for _ in range(rounds):
        for i, rtol in enumerate(TOLERANCES):
            for name, solve in solvers.items():
                start = time.process_time()
                found = solve(work, rtol)
                best[name][i] = min(best[name][i], time.process_time() - start)
                error[name][i] = float(np.abs((found - exact) / (work.scale * np.maximum(np.abs(exact), 1e-3))).max())
    return {name: list(zip(best[name], error[name], strict=True)) for name in solvers}


def at_common_error(points: list[tuple[float, float]]) -> float:
    """Interpolate the time at the common error on a doubly logarithmic scale."""
    times, errors = np.log(np.array(points)).T
    order = np.argsort(errors)
    return float(np.exp(np.interp(np.log(COMMON_ERROR), errors[order], times[order])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plain", action="store_true", help="leave out the compiled steps")
    parser.add_argument("--only", default="", help="part of a problem's name")
    choices = parser.parse_args()
    torch.set_num_threads(1)
    for work in problems():
        if choices.only not in work.name:
            continue
        solvers = {name: scipy_solver(name) for name in ("Radau", "BDF", "LSODA")}
        for method in ("rodas5p", "kvaerno5"):
            solvers[f"scidyn {method}"] = scidyn_solver(method, False)
        if not choices.plain and not work.bands:
            solvers["scidyn rodas5p, compiled"] = scidyn_solver("rodas5p", True)
        print(f"\n{work.name}")
        print(
            f"| solver | time at error {COMMON_ERROR:g} | "
            + " | ".join(f"rtol {r:g}: time, error" for r in TOLERANCES)
            + " |"
        )
        print("|---" * (2 + len(TOLERANCES)) + "|")
        for name, points in measure(work, solvers, choices.rounds).items():
            cells = " | ".join(f"{1e3 * seconds:.1f} ms, {error:.1e}" for seconds, error in points)
            print(f"| {name} | {1e3 * at_common_error(points):.1f} ms | {cells} |")


if __name__ == "__main__":
    main()

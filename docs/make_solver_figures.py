"""Draw the figures of the guide on choosing a solver: work against precision, memory against steps."""

from __future__ import annotations

import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from scidyn.nn import MLP
from scidyn.solvers import solve_ode

F64 = torch.float64
TOLERANCES = tuple(10.0**-k for k in range(3, 12))
MARKERS = "os^Dv<>P"


def lotka_volterra(t, y):
    prey, predators = y.unbind(-1)
    return torch.stack([1.5 * prey - prey * predators, prey * predators - 3.0 * predators], dim=-1)


def van_der_pol(t, y):
    x, v = y.unbind(-1)
    return torch.stack([v, 1000.0 * (1.0 - x * x) * v - x], dim=-1)


def reference(f, y0: Tensor, end: float) -> Tensor:
    """SciPy's Radau at a tolerance far below all others."""

    def rate(t, y):
        return f(torch.tensor(t, dtype=F64), torch.from_numpy(y.copy()).unsqueeze(0))[0].numpy()

    found = solve_ivp(rate, (0.0, end), y0[0].numpy(), method="Radau", rtol=1e-12, atol=1e-14)
    return torch.from_numpy(found.y[:, -1])


def work_and_error(
    f, y0: Tensor, end: float, method: str, exact: Tensor, tolerances: tuple[float, ...] = TOLERANCES
) -> tuple[list[int], list[float]]:
    """Attempted steps, evaluations and error at the end, for all tolerances that succeed."""
    work, errors = [], []
    fixed = method == "rk4"
    for k, tolerance in enumerate(tolerances):
        setting = {"dt0": end / (100 * 2**k)} if fixed else {"rtol": tolerance, "atol": 1e-2 * tolerance}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            solution = solve_ode(
                f, y0, [0.0, end], method=method, adjoint=None, max_steps=5_000, on_failure="return", **setting
            )
        if solution.success:
            work.append(int(solution.stats.n_steps[0]))
            errors.append(((solution.y[0, -1] - exact).abs() / (1e-3 + exact.abs())).max().item())
    return work, errors


def draw_work(axis, title: str, found: dict[str, tuple[list[float], list[float]]], label: str) -> None:
    for (name, (work, errors)), marker in zip(found.items(), MARKERS, strict=False):
        axis.loglog(errors, work, marker=marker, markersize=4, linewidth=1, label=name)
    axis.invert_xaxis()
    axis.set(title=title, xlabel="relative error at the end", ylabel=label)
    axis.legend(fontsize=7, frameon=False)


def kept_bytes(steps: int, adjoint: str, checkpoints: int | None = None) -> int:
    """Bytes of all tensors that wait for the backward pass of a small neural ODE."""
    net = MLP(2, 2, hidden=(64,), seed=0).double()
    y0 = torch.ones(32, 2, dtype=F64, requires_grad=True)
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        solution = solve_ode(
            lambda t, y: net(y),
            y0,
            [0.0, 1.0],
            dt0=1.0 / steps,
            stepping="fixed",
            adjoint=adjoint,
            checkpoints=checkpoints,
        )
    solution.y.sum().backward()
    return sum(storages.values())


def main(folder: Path = Path(__file__).parent / "_static") -> Path:
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    y0 = torch.tensor([[1.0, 1.0]], dtype=F64)
    exact = reference(lotka_volterra, y0, 10.0)
    evaluations = {"rk4": 4, "bosh3": 3, "dopri5": 6, "tsit5": 6, "vern7": 10, "dopri8": 12}
    found = {}
    for name, each in evaluations.items():
        work, errors = work_and_error(lotka_volterra, y0, 10.0, name, exact)
        found[name] = ([each * n for n in work], errors)
    draw_work(axes[0], "Lotka–Volterra", found, "evaluations of f")
    y0 = torch.tensor([[2.0, 0.0]], dtype=F64)
    exact = reference(van_der_pol, y0, 1000.0)
    stiff = ("rosenbrock23", "kvaerno3", "kvaerno5", "rodas5p", "auto")
    found = {name: work_and_error(van_der_pol, y0, 1000.0, name, exact, TOLERANCES[:6]) for name in stiff}
    draw_work(axes[1], "Van der Pol, μ = 1,000", found, "attempted steps")
    steps = np.array([8, 32, 128, 512, 2048])
    for (label, options), marker in zip(
        {
            "direct": ("direct", None),
            "discrete": ("discrete", None),
            "discrete, checkpoints=16": ("discrete", 16),
            "reversible": ("reversible", None),
            "backsolve": ("backsolve", None),
        }.items(),
        MARKERS,
        strict=False,
    ):
        kept = [kept_bytes(int(n), *options) / 1e6 for n in steps]
        axes[2].loglog(steps, kept, marker=marker, markersize=4, linewidth=1, label=label)
    axes[2].set(title="neural ODE 2-64-2, batch 32", xlabel="steps (rk4)", ylabel="kept for the gradient, MB")
    axes[2].legend(fontsize=7, frameon=False)
    path = folder / "solver-choice.png"
    figure.savefig(path, dpi=130)
    return path


if __name__ == "__main__":
    print(main())

"""One small nonlinear problem with time as input and parameters, in the form that each method takes."""

import functools
from dataclasses import replace

import pytest
import torch

from scidyn.solvers import SemilinearField, SeparableField, SplitField, solve_ode
from scidyn.solvers.methods import METHODS
from scidyn.solvers.methods.explicit_rk import ExplicitRK
from scidyn.solvers.newton import NewtonSettings

F64 = torch.float64
TIMES = torch.tensor([0.0, 0.11, 0.3, 0.42], dtype=F64)
STEPPINGS = ("shared", "per_sample", "fixed")
CASES = [(name, mode) for name, method in METHODS.items() for mode in STEPPINGS if mode == "fixed" or method.adaptive]
# explicit Runge–Kutta methods share their code: one of them stands for all where samples have their own steps
EXPLICIT = [name for name, method in METHODS.items() if isinstance(method, ExplicitRK)]
QUICK = [(name, mode) for name, mode in CASES if name not in EXPLICIT or mode == "fixed" or name == "tsit5"]


def field(method, p):
    """Give f for a method: one function, or a field in parts."""
    if method in ("velocity_verlet", "yoshida4"):
        return SeparableField(
            lambda t, v: torch.sin(v) * p[0] + p[1] * column(t),
            lambda t, q: -p[2] * torch.sin(q) + p[3] * torch.cos(column(t)),
        )
    if method == "etdrk4":
        diagonal = torch.tensor([-1.0, -5.0], dtype=F64)
        return SemilinearField(diagonal, lambda t, y: coupled(t, y, p) * 0.5)
    if method == "kencarp4":
        return SplitField(lambda t, y: p[0] * torch.cos(y), lambda t, y: coupled(t, y, p))
    return lambda t, y: coupled(t, y, p)


def column(t):
    """Give t the shape of one column of y."""
    return t.reshape(-1, 1) if t.ndim else t


def coupled(t, y, p):
    """Two states that turn each other, forced and damped."""
    a, b = y.unbind(-1)
    s = t.reshape(-1) if t.ndim else t
    first = -p[0] * torch.sin(b) + p[1] * torch.cos(s) * a
    return torch.stack([first, p[2] * a * b - p[3] * b + 0.3 * s], dim=-1)


def leaves():
    """Initial states of three samples, and four parameters."""
    generator = torch.Generator().manual_seed(0)
    y0 = torch.randn(3, 2, dtype=F64, generator=generator).requires_grad_()
    p = (0.5 + torch.rand(4, dtype=F64, generator=generator)).requires_grad_()
    return y0, p


def options(method, stepping):
    """Give the options of a solve in a few steps; stages are solved to rounding, so that steps can be repeated."""
    chosen = METHODS[method]
    # a method of low order takes many steps at a small tolerance
    rtol = {1: 1e-2, 2: 1e-2, 3: 1e-3}.get(chosen.order, 1e-4)
    if hasattr(chosen, "newton"):
        chosen = replace(chosen, newton=NewtonSettings(20, 1e-13 / rtol))
    dt0 = 0.15 if stepping == "fixed" else None
    return {"method": chosen, "stepping": stepping, "rtol": rtol, "atol": rtol, "dt0": dt0}


def gradient(method, stepping, **more):
    """Give the solution and the gradient of one loss with respect to initial states, parameters and times."""
    y0, p = leaves()
    times = TIMES.clone().requires_grad_()
    y = solve_ode(field(method, p), y0, times, params=[p], **(options(method, stepping) | more)).y
    weight = torch.linspace(-1, 1, y.numel(), dtype=F64).reshape(y.shape)
    return [y.detach(), *torch.autograd.grad((weight * y + y**2).sum(), [y0, p, times])]


def marked(cases):
    """Mark the cases that the quick ones stand for as slow."""
    return [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in cases]


@functools.cache
def direct(method, stepping):
    """Give the same by autograd through every step."""
    return gradient(method, stepping, adjoint="direct")

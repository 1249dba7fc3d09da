"""Errors of fixed steps against closed forms: each method shows its order."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from scidyn.solvers import solve_ode
from scidyn.solvers.methods import METHODS

F64 = torch.float64


def cosine(t, y):
    return 3 * torch.cos(3 * t).expand_as(y)


def riccati(t, y):
    return -2 * t * y * y + torch.cos(t)


def rotation(t, y):
    return torch.stack([-2 * y[..., 1], 2 * y[..., 0]], dim=-1)


def forced(t, y):
    return torch.stack([-0.5 * y[..., 0] + torch.sin(3 * t) * y[..., 1], -3 * torch.cos(t) * y[..., 1]], dim=-1)


PROBLEMS = {
    "cosine": (cosine, [0.0], 3.0),
    "riccati": (riccati, [1.0], 2.0),
    "rotation": (rotation, [1.0, 0.0], 3.0),
    "forced": (forced, [1.0, 2.0], 3.0),
}
REFERENCES = {}


def reference(problem):
    f, y0, end = PROBLEMS[problem]
    if problem not in REFERENCES:

        def rate(t, y):
            return f(torch.tensor(t, dtype=F64), torch.as_tensor(y)).numpy()

        times = np.linspace(0, end, 7)
        REFERENCES[problem] = solve_ivp(rate, (0, end), y0, "DOP853", times, rtol=3e-14, atol=1e-15).y.T
    return REFERENCES[problem]


def error(method, problem, count):
    """Largest error at seven times with this number of steps."""
    f, y0, end = PROBLEMS[problem]
    options = {"method": method, "stepping": "fixed", "adjoint": None, "rtol": 1e-11, "atol": 1e-13}
    y0, times = torch.tensor([y0], dtype=F64), np.linspace(0, end, 7)
    return np.abs(solve_ode(f, y0, times, dt0=end / count, **options).y[0].numpy() - reference(problem)).max()


# quadratures and linear systems satisfy conditions of higher order by themselves
EXACT = {"riccati", "forced"}
PLAIN = [name for name in METHODS if name not in ("kencarp4", "etdrk4", "velocity_verlet", "yoshida4")]
COUNTS = {1: (768, 1536), 2: (256, 512), 3: (96, 192), 4: (192, 384), 5: (48, 96), 7: (36, 72), 8: (18, 36)}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("method", PLAIN)
def test_order_of_convergence(method, problem):
    order = METHODS[method].order
    counts = [n // 2 if METHODS[method].implicit else n for n in COUNTS[order]]
    coarse, fine = (error(method, problem, count) for count in counts)
    slope = np.log2(coarse / fine)
    assert coarse < 0.1
    # at order 7 and 8 the fine error reaches rounding, so that the slope can only be seen to be steep
    if order < 7 and problem in EXACT:
        assert abs(slope - order) < 0.15, (coarse, fine)
    else:
        assert slope > order - 0.15 or fine < 3e-13, (coarse, fine)
        assert coarse < 1e-6 or order < 7

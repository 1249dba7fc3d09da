"""Stiff test problems: a batched field, the same for SciPy, initial values and times."""

import functools

import numpy as np
import torch
from scipy.integrate import solve_ivp

F64 = torch.float64


def robertson(t, y):
    a, b, c = y.unbind(-1)
    first, second, third = 0.04 * a, 1e4 * b * c, 3e7 * b * b
    return torch.stack([second - first, first - second - third, third], dim=-1)


def van_der_pol(t, y):
    x, v = y.unbind(-1)
    return torch.stack([v, 1e3 * ((1 - x * x) * v) - x], dim=-1)


def hires(t, y):
    """Light response of a plant's protein (E. Schäfer, 1975), scaled as in the Bari test set."""
    a, b, c, d, e, f, g, h = y.unbind(-1)
    pair = 280.0 * f * h
    return torch.stack(
        [
            -1.71 * a + 0.43 * b + 8.32 * c + 0.0007,
            1.71 * a - 8.75 * b,
            -10.03 * c + 0.43 * d + 0.035 * e,
            8.32 * b + 1.71 * c - 1.12 * d,
            -1.745 * e + 0.43 * f + 0.43 * g,
            -pair + 0.69 * d + 1.71 * e - 0.43 * f + 0.69 * g,
            pair - 1.81 * g,
            -pair + 1.81 * g,
        ],
        dim=-1,
    )


def brusselator(t, y):
    """Diffusion and reaction on cells of the unit interval, species interleaved: bandwidth (2, 2)."""
    u, v = y[..., ::2], y[..., 1::2]
    cells = u.shape[-1]
    stiffness = 0.02 * (cells + 1) ** 2
    wide_u = torch.nn.functional.pad(u, (1, 1), value=1.0)
    wide_v = torch.nn.functional.pad(v, (1, 1), value=3.0)
    reaction = u * u * v
    du = 1.0 + reaction - 4.0 * u + stiffness * (wide_u[..., 2:] - 2 * u + wide_u[..., :-2])
    dv = 3.0 * u - reaction + stiffness * (wide_v[..., 2:] - 2 * v + wide_v[..., :-2])
    return torch.stack([du, dv], dim=-1).flatten(-2)


def brusselator_start(cells):
    x = np.arange(1, cells + 1) / (cells + 1)
    return np.stack([1 + np.sin(2 * np.pi * x), np.full(cells, 3.0)], axis=-1).reshape(-1)


PROBLEMS = {
    "robertson": (robertson, [1.0, 0.0, 0.0], [0.0, 0.1, 10.0, 1e3, 1e5], 1e-14),
    "van_der_pol": (van_der_pol, [2.0, 0.0], [0.0, 500.0, 1000.0, 2000.0], 1e-12),
    "hires": (hires, [1.0, 0, 0, 0, 0, 0, 0, 0.0057], [0.0, 5.0, 100.0, 321.8122], 1e-14),
}


@functools.cache
def reference(name):
    """Solve with SciPy's Radau at 1e-10."""
    f, y0, times, atol = PROBLEMS[name]

    def rate(t, y):
        return f(t, torch.as_tensor(y)).numpy()

    return solve_ivp(rate, (times[0], times[-1]), y0, "Radau", times, rtol=1e-10, atol=atol).y.T

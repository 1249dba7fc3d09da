"""Runge–Kutta steps of autonomous-in-θ equations ``dz/dθ = F(θ, z)`` over ``0 ≤ θ ≤ 1``."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

__all__ = ["STEPS", "walk"]

Slope = Callable[[float, Tensor], Tensor]


def _euler(slope: Slope, a: float, h: float, z: Tensor) -> Tensor:
    return z.add(slope(a, z), alpha=h)


def _midpoint(slope: Slope, a: float, h: float, z: Tensor) -> Tensor:
    return z.add(slope(a + h / 2, z.add(slope(a, z), alpha=h / 2)), alpha=h)


def _heun(slope: Slope, a: float, h: float, z: Tensor) -> Tensor:
    k = slope(a, z)
    return z.add(k + slope(a + h, z.add(k, alpha=h)), alpha=h / 2)


def _rk4(slope: Slope, a: float, h: float, z: Tensor) -> Tensor:
    k1 = slope(a, z)
    k2 = slope(a + h / 2, z.add(k1, alpha=h / 2))
    k3 = slope(a + h / 2, z.add(k2, alpha=h / 2))
    k4 = slope(a + h, z.add(k3, alpha=h))
    return z.add(k1 + k4 + 2.0 * (k2 + k3), alpha=h / 6)


STEPS = {"euler": _euler, "heun": _heun, "midpoint": _midpoint, "rk4": _rk4}


def walk(method: str, slope: Slope, z: Tensor, substeps: int) -> Tensor:
    """Go from θ = 0 to 1 in equal steps."""
    step, h = STEPS[method], 1.0 / substeps
    for i in range(substeps):
        z = step(slope, i * h, h, z)
    return z

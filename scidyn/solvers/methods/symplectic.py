"""Symplectic methods for separable Hamiltonian systems."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scidyn.errors import ShapeError
from scidyn.solvers.controller import Tolerance
from scidyn.solvers.methods.stepper import Rate, Step
from scidyn.solvers.split import SeparableField, part

__all__ = ["VELOCITY_VERLET", "YOSHIDA4", "Symplectic"]


@dataclass(frozen=True)
class Symplectic:
    """A composition of velocity Verlet steps; the first half of a row holds q, the second p.

    Each step of size w h kicks p for half of it, moves q for the whole, and kicks p again. The field is
    a :class:`~scidyn.solvers.SeparableField`, or any field whose q' depends on p only and p' on q only.

    Parameters
    ----------
    name : str
        What ``method=`` calls it.
    order : int
        Order of the composition.
    weights : tuple of float
        Sizes of the steps composed, over h.

    References
    ----------
    H. Yoshida, Phys. Lett. A 150, 262–268, 1990.
    """

    name: str
    order: int
    weights: tuple[float, ...]
    adaptive: bool = False
    implicit: bool = False

    @property
    def error_order(self) -> int:
        """No error is estimated."""
        return self.order

    @property
    def dense_order(self) -> int:
        """Order of the cubic Hermite polynomial, no more than that of the step."""
        return min(self.order, 3)

    @property
    def evaluations(self) -> int:
        """Evaluations of the whole field, or of pairs of its parts."""
        return 2 * len(self.weights)

    def begin(self, rate: Rate, t: Tensor, y: Tensor, k1: Tensor) -> tuple[Tensor, ...]:
        """Start with the force at the start."""
        if y.shape[-1] % 2:
            raise ShapeError(
                f"method {self.name!r} takes positions and momenta in two equal halves; the state has "
                f"{y.shape[-1]} entries."
            )
        return (k1[:, y.shape[-1] // 2 :],)

    def step(
        self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, carry: tuple[Tensor, ...], tolerance: Tolerance
    ) -> Step:
        """Take one step of size ``h`` from ``(t, y)``."""
        return self._advance(rate, t, h, y, carry[0])

    def replay(self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, *, dense: bool = True) -> Step:
        """Take the same step from ``(t, h, y)`` alone."""
        q, p = y.chunk(2, dim=-1)
        return self._advance(rate, t, h, y, _parts(rate, self.name)[1](t, q, p))

    def _advance(self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, push: Tensor) -> Step:
        velocity, force = _parts(rate, self.name)
        q, p = y.chunk(2, dim=-1)
        k1 = torch.cat([velocity(t, q, p), push], dim=-1)
        column = h.to(y.dtype).unsqueeze(-1)
        time = t
        for weight in self.weights:
            p = p + (0.5 * weight) * column * push
            q = q + weight * column * velocity(time + 0.5 * weight * h, q, p)
            time = time + weight * h
            push = force(time, q, p)
            p = p + (0.5 * weight) * column * push
        y1 = torch.cat([q, p], dim=-1)
        k_last = torch.cat([velocity(time, q, p), push], dim=-1)
        slope = (y1 - y) / torch.where(column > 0, column, torch.ones_like(column))
        coef = (k1, 3.0 * slope - 2.0 * k1 - k_last, k1 + k_last - 2.0 * slope)
        return Step(y1, (push,), None, coef)


def _parts(rate: Rate, name: str):  # type: ignore[no-untyped-def]
    """Velocity and force as functions of ``(t, q, p)`` on rows."""
    if isinstance(getattr(rate, "f", rate), SeparableField):
        velocity = part(rate, SeparableField, "velocity", name)
        force = part(rate, SeparableField, "force", name)
        return (lambda t, q, p: velocity(t, p)), (lambda t, q, p: force(t, q))

    def whole(t: Tensor, q: Tensor, p: Tensor) -> tuple[Tensor, ...]:
        return rate(t, torch.cat([q, p], dim=-1)).chunk(2, dim=-1)

    return (lambda t, q, p: whole(t, q, p)[0]), (lambda t, q, p: whole(t, q, p)[1])


_OUTER = 1.0 / (2.0 - 2.0 ** (1.0 / 3.0))

VELOCITY_VERLET = Symplectic("velocity_verlet", 2, (1.0,))
YOSHIDA4 = Symplectic("yoshida4", 4, (_OUTER, 1.0 - 2.0 * _OUTER, _OUTER))

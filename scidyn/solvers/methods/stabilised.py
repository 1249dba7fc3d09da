"""Stabilised explicit methods: many stages, for diffusion without linear solves."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scidyn._check.values import integer
from scidyn.solvers.controller import Tolerance
from scidyn.solvers.methods.stepper import Rate, Step
from scidyn.solvers.newton import reads_are_cheap

__all__ = ["RKC2"]

DAMPING = 2.0 / 13.0
FEWEST = 2
SETTLE = 1.2


@dataclass(frozen=True)
class RKC2:
    r"""The Runge–Kutta–Chebyshev method of order 2, stable for :math:`h \rho \lesssim \tfrac23 (s^2 - 1)`.

    It suits spectra along the negative real axis, as diffusion has. The number of stages s is chosen for
    each sample from its spectral radius ρ, which is estimated by power iteration and carried along.

    Parameters
    ----------
    stages : int, optional
        A fixed number of stages for all steps, at least 2; default: chosen from the estimate.
    most : int
        Largest number of stages; a longer step is left to the error control.

    References
    ----------
    B. P. Sommeijer, L. F. Shampine, J. G. Verwer, J. Comput. Appl. Math. 88, 315–326, 1998.
    """

    stages: int | None = None
    most: int = 64
    name: str = "rkc2"
    order: int = 2
    error_order: int = 3
    dense_order: int = 2
    adaptive: bool = True
    implicit: bool = False

    def __post_init__(self) -> None:
        integer("most", self.most, at_least=FEWEST)
        if self.stages is not None:
            integer("stages", self.stages, at_least=FEWEST)

    @property
    def evaluations(self) -> int:
        """Evaluations in a step of the fixed number of stages, or typically."""
        return 16 if self.stages is None else self.stages + 1

    def begin(self, rate: Rate, t: Tensor, y: Tensor, k1: Tensor) -> tuple[Tensor, ...]:
        """Start with the rate and a direction for the power iteration, which is run to settle."""
        if self.stages is not None:
            return (k1,)
        direction = torch.where(k1 == 0, torch.ones_like(k1), k1)
        # an alternating part, so that the roughest mode of a grid is seen
        sign = 1.0 - 2.0 * (torch.arange(y.shape[-1], device=y.device) % 2).to(y.dtype)
        direction = direction / _norm(direction) + 0.1 * sign / math.sqrt(y.shape[-1])
        radius = k1.real.new_zeros(y.shape[0])
        for _ in range(12):
            radius, direction = _power(rate, t, y, k1, direction)
        return (k1, direction, radius)

    def step(
        self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, carry: tuple[Tensor, ...], tolerance: Tolerance
    ) -> Step:
        """Take one step; a new estimate of the spectral radius costs one evaluation."""
        k1 = carry[0]
        if self.stages is not None:
            return self._advance(rate, t, h, y, k1, _table(self.stages, y)[:, -1, :, None, None], self.stages)
        radius, direction = _power(rate, t, y, k1, carry[1])
        radius = torch.maximum(radius, 0.9 * carry[2])
        taken = self._advance(rate, t, h, y, k1, *self._rows(t, h, y, radius))
        return taken._replace(carry=(taken.carry[0], direction, radius))

    def replay(self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, *, dense: bool = True) -> Step:
        """Take a step of the same stability from ``(t, h, y)`` alone."""
        k1 = rate(t, y)
        if self.stages is not None:
            return self._advance(rate, t, h, y, k1, _table(self.stages, y)[:, -1, :, None, None], self.stages)
        with torch.no_grad():
            radius = self.begin(rate, t, y.detach(), k1.detach())[2]
            chosen = self._rows(t, h, y, radius)
        return self._advance(rate, t, h, y, k1, *chosen)

    def _rows(self, t: Tensor, h: Tensor, y: Tensor, radius: Tensor) -> tuple[Tensor, int, Tensor]:
        """Coefficients (5, stage, batch or 1, 1), the number of loops, and the stages of each sample."""
        wanted = _count(h.to(radius.dtype) * radius * SETTLE).clamp(FEWEST, self.most)
        # samples that share their times share the nodes too
        wanted = wanted if t.shape[0] > 1 else wanted.amax(dim=0, keepdim=True)
        loops = int(wanted.amax()) if reads_are_cheap(y) else self.most
        rows = _table(self.most, y)[:, (wanted - FEWEST).long()].movedim(1, 2)
        return rows.unsqueeze(-1), loops, wanted.unsqueeze(-1)

    def _advance(
        self,
        rate: Rate,
        t: Tensor,
        h: Tensor,
        y: Tensor,
        k1: Tensor,
        rows: Tensor,
        loops: int,
        wanted: Tensor | None = None,
    ) -> Step:
        column = h.to(y.real.dtype).unsqueeze(-1)
        mu, nu, scaled, first, nodes = rows.unbind(0)
        before, state = y, y + scaled[1] * column * k1
        for j in range(2, loops + 1):
            slope = rate(t + nodes[j - 1].squeeze(-1).to(h.dtype) * h, state)
            following = (1.0 - mu[j] - nu[j]) * y + mu[j] * state + nu[j] * before
            following = following + column * (scaled[j] * slope + first[j] * k1)
            if wanted is None:
                before, state = state, following
            else:
                going = j <= wanted
                before, state = torch.where(going, state, before), torch.where(going, following, state)
        k_last = rate(t + h, state)
        err = 0.8 * (y - state) + 0.4 * column * (k1 + k_last)
        slope = (state - y) / torch.where(column > 0, column, torch.ones_like(column))
        coef = (k1, 3.0 * slope - 2.0 * k1 - k_last, k1 + k_last - 2.0 * slope)
        return Step(state, (k_last,), err, coef)


def _count(product: Tensor) -> Tensor:
    """Stages for which ``h ρ`` is inside the region of stability."""
    return torch.ceil(torch.sqrt(1.0 + 1.54 * product)).nan_to_num(nan=2.0, posinf=1e4)


def _norm(value: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(value, dim=-1, keepdim=True)
    return torch.where(length > 0, length, torch.ones_like(length))


def _power(rate: Rate, t: Tensor, y: Tensor, k1: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """One power iteration by a difference: the radius seen, shape (batch,), and the next direction."""
    eps = torch.finfo(y.dtype).eps
    width = eps**0.5 * (1.0 + torch.linalg.vector_norm(y, dim=-1, keepdim=True))
    image = (rate(t, y + width * direction) - k1) / width
    radius = torch.linalg.vector_norm(image, dim=-1)
    following = torch.where((radius > 0).unsqueeze(-1), image / _norm(image), direction)
    return radius, following


def _table(most: int, like: Tensor) -> Tensor:
    """The table of coefficients where ``like`` is."""
    return _cached_table(most, like.real.dtype, like.device)


@functools.lru_cache(maxsize=16)
def _cached_table(most: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Coefficients μ, ν, μ̃, γ̃ and nodes, shape (5, most - 1, most + 1), for 2 to ``most`` stages."""
    rows = [[[0.0] * (most + 1) for _ in range(FEWEST, most + 1)] for _ in range(5)]
    for index, stages in enumerate(range(FEWEST, most + 1)):
        for which, values in enumerate(_coefficients(stages)):
            rows[which][index][: stages + 1] = values
    return torch.tensor(rows, dtype=dtype, device=device)


def _coefficients(stages: int) -> tuple[list[float], ...]:
    """Recurrence of one number of stages, from the Chebyshev polynomials and their derivatives."""
    centre = 1.0 + DAMPING / stages**2
    t, d, dd = [1.0, centre], [0.0, 1.0], [0.0, 0.0]
    for _ in range(2, stages + 1):
        dd.append(4.0 * d[-1] + 2.0 * centre * dd[-1] - dd[-2])
        d.append(2.0 * t[-1] + 2.0 * centre * d[-1] - d[-2])
        t.append(2.0 * centre * t[-1] - t[-2])
    slope = d[stages] / dd[stages]
    b = [0.0, 0.0] + [dd[j] / d[j] ** 2 for j in range(2, stages + 1)]
    b[0] = b[1] = b[2]
    mu, nu, scaled, first = ([0.0] * (stages + 1) for _ in range(4))
    scaled[1] = b[1] * slope
    nodes = [0.0, 0.0] + [slope * dd[j] / d[j] for j in range(2, stages + 1)]
    nodes[1] = nodes[2] / d[2]
    for j in range(2, stages + 1):
        mu[j], nu[j], scaled[j] = 2.0 * b[j] * centre / b[j - 1], -b[j] / b[j - 2], 2.0 * b[j] * slope / b[j - 1]
        first[j] = -(1.0 - b[j - 1] * t[j - 1]) * scaled[j]
    return mu, nu, scaled, first, nodes

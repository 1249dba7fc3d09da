"""Stabilised explicit methods: many stages, for diffusion without linear solves."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

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
    used : Tensor, shape (batch,), optional
        Numbers of stages that a replay repeats.

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
    used: Tensor | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.stages is not None:
            object.__setattr__(self, "most", integer("stages", self.stages, at_least=FEWEST))
        integer("most", self.most, at_least=FEWEST)

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
            return self._advance(rate, t, h, y, k1, *self._fixed(h))
        radius, direction = _power(rate, t, y, k1, carry[1])
        radius = torch.maximum(radius, 0.9 * carry[2])
        wanted, loops = self._chosen(t, h, radius)
        taken = self._advance(rate, t, h, y, k1, wanted, loops)
        # a small type: one number per sample and step is kept
        used = wanted.to(torch.int16).expand(y.shape[0])
        return taken._replace(carry=(taken.carry[0], direction, radius), choice=used)

    def pinned(self, choice: Tensor) -> RKC2:
        """Give the method whose replay takes the numbers of stages in ``choice``."""
        return replace(self, used=choice)

    def replay(self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, *, dense: bool = True) -> Step:
        """Take a step from ``(t, h, y)`` alone, with the stages it was pinned to, or as many as are stable."""
        k1 = rate(t, y)
        if self.stages is not None:
            return self._advance(rate, t, h, y, k1, *self._fixed(h))
        if self.used is not None:
            wanted = (self.used if t.shape[0] > 1 else self.used[:1]).to(h.dtype)
            return self._advance(rate, t, h, y, k1, wanted, int(wanted.amax()) if reads_are_cheap(y) else self.most)
        with torch.no_grad():
            radius = self.begin(rate, t, y.detach(), k1.detach())[2]
            wanted, loops = self._chosen(t, h, radius)
        return self._advance(rate, t, h, y, k1, wanted, loops)

    def _fixed(self, h: Tensor) -> tuple[Tensor, int]:
        """Give the fixed number of stages, for all samples."""
        stages = self.stages or FEWEST
        return torch.full((1,), float(stages), dtype=h.dtype, device=h.device), stages

    def _chosen(self, t: Tensor, h: Tensor, radius: Tensor) -> tuple[Tensor, int]:
        """Give the stages of each sample, and the number of loops that serves all."""
        wanted = _count(h * radius.to(h.dtype) * SETTLE).clamp(FEWEST, self.most)
        # samples that share their times share the nodes too
        wanted = wanted if t.shape[0] > 1 else wanted.amax(dim=0, keepdim=True)
        return wanted, int(wanted.amax()) if reads_are_cheap(radius) else self.most

    def _advance(self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, k1: Tensor, wanted: Tensor, loops: int) -> Step:
        column, going = h.to(y.real.dtype).unsqueeze(-1), wanted.unsqueeze(-1)
        # the table does not depend on the batch, so that rounding does not either; samples look up their column
        counts = torch.arange(FEWEST, self.most + 1, dtype=wanted.dtype, device=wanted.device)
        column_of = (wanted - FEWEST).long()
        *tables, nodes = (table[:, column_of] for table in _recurrence(counts, self.most))
        mu, nu, scaled, first = (table.to(y.real.dtype).unsqueeze(-1) for table in tables)
        before, state = y, y + scaled[1] * column * k1
        for j in range(2, loops + 1):
            slope = rate(t + nodes[j - 1] * h, state)
            following = (1.0 - mu[j] - nu[j]) * y + mu[j] * state + nu[j] * before
            following = following + column * (scaled[j] * slope + first[j] * k1)
            before, state = torch.where(j <= going, state, before), torch.where(j <= going, following, state)
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


def _recurrence(stages: Tensor, loops: int) -> tuple[Tensor, ...]:
    """Coefficients μ, ν, μ̃, γ̃ and nodes of stages 0 to ``loops``, each of shape (loops + 1, count).

    With w = 1 + ε / s² = cosh θ, the Chebyshev polynomial T_j(w) is cosh jθ.
    """
    above = DAMPING / stages**2
    squared = above * (above + 2.0)
    root = squared.sqrt()
    centre, angle = 1.0 + above, torch.log1p(above + root)

    def chebyshev(j: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value, first = torch.cosh(j * angle), j * torch.sinh(j * angle) / root
        return value, first, (j * j * value - centre * first) / squared

    index = torch.arange(loops + 1, dtype=stages.dtype, device=stages.device).unsqueeze(-1)
    value, first, second = chebyshev(index)
    _, last_first, last_second = chebyshev(stages)
    slope = last_first / last_second
    b = second[2:] / first[2:] ** 2
    b = torch.cat([b[:1], b[:1], b])
    before, earlier = torch.cat([b[:1], b[:-1]]), torch.cat([b[:1], b[:1], b[:-2]])
    scaled = torch.cat([b[:1] * 0.0, b[1:2] * slope, (2.0 * b / before * slope)[2:]])
    damping = 1.0 - b * value
    nodes = slope * second[2:] / first[2:]
    nodes = torch.cat([nodes[:1] * 0.0, nodes[:1] / first[2:3], nodes])
    return 2.0 * b * centre / before, -b / earlier, scaled, -torch.cat([damping[:1], damping[:-1]]) * scaled, nodes

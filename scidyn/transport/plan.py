"""The plan that a Sinkhorn run found, kept as two potentials and read out on request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from scidyn._check.values import integer
from scidyn.errors import OptionError
from scidyn.transport.arguments import Inputs
from scidyn.transport.cost import tiles
from scidyn.transport.gradients import apply_plan
from scidyn.transport.memory import SHARE, available_memory
from scidyn.transport.plan_tiles import plan_tile
from scidyn.transport.problem import Problem
from scidyn.transport.status import SinkhornStatus

__all__ = ["EntropicPlan", "Pairs", "TopEntries"]


class Pairs(NamedTuple):
    """Pairs drawn from a plan: indices of the sources and of the targets, each of shape (count,)."""

    source: Tensor
    target: Tensor


class TopEntries(NamedTuple):
    """The k largest entries of every row: ``columns`` and ``values``, each (n, k), and ``kept``, their share."""

    columns: Tensor
    values: Tensor
    kept: Tensor


@dataclass(frozen=True)
class EntropicPlan:
    """A transport plan ``π_ij = a_i b_j exp((f_i + g_j - C_ij) / ε)``, evaluated tile by tile on request.

    Attributes
    ----------
    f, g : Tensor, shapes (n,) and (m,)
        Dual potentials in units of the cost.
    epsilon : float
        Regularisation in units of the cost.
    value : Tensor, shape ()
        ``<C, π> + ε KL(π | a⊗b)`` plus the marginal penalties, by the dual objective: the least value over all plans.
    status : SinkhornStatus
        How the run ended; ``status.sentence`` says it in words.
    marginal_error : float
        L1 distance of the plan's column sums to the target, over its mass; the row sums are exact.
    iterations, coarse_iterations : int
        Sweeps over all points, and over the sample that gave the starting potentials.
    method : str
        ``"stored"`` or ``"streamed"``.

    Examples
    --------
    >>> import torch
    >>> from scidyn.transport import sinkhorn
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> plan = sinkhorn(x, x + 3.0, epsilon=0.1)
    >>> plan.status.name, plan.to_dense().round(decimals=3).tolist()
    ('CONVERGED', [[0.5, 0.0], [0.0, 0.5]])
    """

    problem: Problem
    inputs: Inputs
    f: Tensor
    g: Tensor
    value: Tensor
    status: SinkhornStatus
    marginal_error: float
    iterations: int
    coarse_iterations: int
    method: str

    @property
    def epsilon(self) -> float:
        """Regularisation in units of the cost."""
        return self.problem.epsilon

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of sources and targets."""
        return self.problem.cost.shape

    @property
    def _scaled(self) -> tuple[Tensor, Tensor]:
        wide = self.problem.a.dtype
        return self.f.detach().to(wide) / self.epsilon, self.g.detach().to(wide) / self.epsilon

    def rows(self, rows: slice | Tensor) -> Tensor:
        """Rows of the plan as a dense tile.

        Parameters
        ----------
        rows : slice or Tensor of int64
            Which rows.

        Returns
        -------
        Tensor, shape (k, m)
        """
        return plan_tile(self.problem, *self._scaled, rows)

    def apply(self, v: Tensor) -> Tensor:
        """Multiply the plan with a vector or matrix, ``Σ_j π_ij v_j``.

        Parameters
        ----------
        v : Tensor, shape (m,) or (m, k)
            Values at the targets.

        Returns
        -------
        Tensor, shape (n,) or (n, k)
            Values at the sources, of the plan's dtype.
        """
        return apply_plan(self.problem, self.inputs, self.f, self.g, v)

    def transpose_apply(self, v: Tensor) -> Tensor:
        """Multiply the transposed plan with a vector or matrix, ``Σ_i π_ij v_i``.

        Parameters
        ----------
        v : Tensor, shape (n,) or (n, k)
            Values at the sources.

        Returns
        -------
        Tensor, shape (m,) or (m, k)
        """
        return apply_plan(self.problem.T, self.inputs.T, self.g, self.f, v)

    def row_sums(self) -> Tensor:
        """Mass sent by every source, shape (n,)."""
        return self.apply(torch.ones(self.shape[1], dtype=self.f.dtype, device=self.f.device))

    def column_sums(self) -> Tensor:
        """Mass received by every target, shape (m,)."""
        return self.transpose_apply(torch.ones(self.shape[0], dtype=self.f.dtype, device=self.f.device))

    def barycentric(self, values: Tensor | None = None) -> Tensor:
        """Mean target of every source, ``Σ_j π_ij y_j / Σ_j π_ij``.

        Parameters
        ----------
        values : Tensor, shape (m, k), optional
            What is averaged; default the target points.

        Returns
        -------
        Tensor, shape (n, k)
            Of smaller spread than the targets: draw with :meth:`sample` where the spread matters.
        """
        if values is None:
            if self.inputs.y is None:
                raise OptionError("this plan was made from a cost matrix, without points: pass values.")
            values = self.inputs.y
        ones = torch.ones(len(values), 1, dtype=self.f.dtype, device=self.f.device)
        sums = self.apply(torch.cat([values.to(ones), ones], 1))
        return sums[:, :-1] / sums[:, -1:]

    def topk(self, k: int) -> TopEntries:
        """Keep the k largest entries of every row, without ever forming the plan.

        Parameters
        ----------
        k : int
            Entries per row.

        Returns
        -------
        TopEntries
            ``columns`` and ``values``, both (n, k) in falling order, and ``kept`` (n,): the share of the row's
            mass that they hold.
        """
        n, m = self.shape
        k = min(integer("k", k, at_least=1), m)
        parts = []
        for rows in tiles(n, m):
            tile = self.rows(rows)
            values, columns = tile.topk(k, dim=1)
            parts.append((columns, values, values.sum(1) / tile.sum(1)))
        return TopEntries(*(torch.cat(p) for p in zip(*parts, strict=True)))

    def sample(self, count: int, *, generator: torch.Generator | None = None, seed: int | None = None) -> Pairs:
        """Draw pairs of indices with probability proportional to the plan.

        Parameters
        ----------
        count : int
            Number of pairs.
        generator : torch.Generator, optional
            Source of randomness, on the plan's device.
        seed : int, optional
            Seed of a generator made for this call; one of the two is needed.

        Returns
        -------
        Pairs
            ``source`` and ``target`` indices, each (count,), independent draws in random order.
        """
        count = integer("count", count, at_least=1)
        generator = self._generator(generator, seed)
        source = _draw(self.row_sums().double().unsqueeze(0), count, generator)[0]
        return Pairs(source, self.sample_targets(source, generator=generator))

    def sample_targets(
        self, source: Tensor, *, generator: torch.Generator | None = None, seed: int | None = None
    ) -> Tensor:
        """Draw one target for each given source, from the plan's conditional law.

        Parameters
        ----------
        source : Tensor of int64, shape (count,)
            Indices of sources; repeats are drawn independently.
        generator : torch.Generator, optional
            Source of randomness, on the plan's device.
        seed : int, optional
            Seed of a generator made for this call; one of the two is needed.

        Returns
        -------
        Tensor of int64, shape (count,)
        """
        generator = self._generator(generator, seed)
        uniform = torch.rand(len(source), generator=generator, dtype=self.problem.a.dtype, device=source.device)
        unique, place = source.unique(return_inverse=True)
        order = place.argsort(stable=True)
        bounds = torch.searchsorted(place[order], torch.arange(len(unique) + 1, device=place.device))
        target = torch.empty_like(source)
        for rows in tiles(len(unique), self.shape[1]):
            ladder = self.rows(unique[rows]).cumsum(1, dtype=uniform.dtype)
            members = order[int(bounds[rows.start]) : int(bounds[rows.stop])]
            local = place[members] - rows.start
            target[members] = _climb(ladder, local, uniform[members])
        return target

    def to_dense(self, memory_limit: float | None = None) -> Tensor:
        """Form the plan as a matrix.

        Parameters
        ----------
        memory_limit : float, optional
            Bytes allowed; default half of the free memory.

        Returns
        -------
        Tensor, shape (n, m)

        Raises
        ------
        scidyn.errors.OptionError
            If the matrix would take more.
        """
        n, m = self.shape
        size = n * m * self.f.dtype.itemsize
        allowed = SHARE * available_memory(self.f.device) if memory_limit is None else memory_limit
        if size > allowed:
            raise OptionError(
                f"a dense plan of {n} x {m} takes {size / 1e9:.3g} GB, {allowed / 1e9:.3g} GB are allowed: "
                "use apply, topk or sample, which never form it."
            )
        return torch.cat([self.rows(rows) for rows in tiles(n, m)])

    def _generator(self, generator: torch.Generator | None, seed: int | None) -> torch.Generator:
        if generator is not None:
            return generator
        if seed is None:
            raise OptionError("drawing from a plan needs a source of randomness: pass seed=0 or a generator.")
        return torch.Generator(device=self.f.device).manual_seed(integer("seed", seed))


def _draw(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` indices per row of ``weights``, by inversion (torch.multinomial stops at 2²⁴ categories)."""
    ladder = weights.cumsum(1)
    heights = torch.rand(len(weights), count, generator=generator, dtype=ladder.dtype, device=ladder.device)
    return torch.searchsorted(ladder, heights * ladder[:, -1:], right=True).clamp_max(ladder.shape[1] - 1)


def _climb(ladder: Tensor, rows: Tensor, uniform: Tensor) -> Tensor:
    """First column at which the cumulative row exceeds ``uniform`` of its total, for each (row, uniform)."""
    count, width = ladder.shape
    # one search over all rows: each is shifted to its own unit interval
    flat = (ladder / ladder[:, -1:] + torch.arange(count, device=ladder.device).unsqueeze(1)).reshape(-1)
    found = torch.searchsorted(flat, uniform + rows, right=True) - rows * width
    return found.clamp(0, width - 1)

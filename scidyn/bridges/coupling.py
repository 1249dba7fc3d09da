"""The static Schrödinger problem between two snapshots, for any log kernel."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from scidyn.errors import FitError, FitWarning

__all__ = ["Coupling", "bridge_coupling"]


class Coupling(NamedTuple):
    """The plan ``π_ij = a_i b_j exp(f_i + g_j + log K_ij)`` closest to the kernel ``K``.

    Attributes
    ----------
    log_plan : Tensor, shape (n, m)
        ``log π``.
    f, g : Tensor, shapes (n,) and (m,)
        Potentials.
    value : float
        ``KL(π ‖ a ⊗ K)`` up to the constant entropy of ``b``: ``Σ a f + Σ b g``.
    marginal_error : float
        ``Σ |row sums − a|`` at the end.
    """

    log_plan: Tensor
    f: Tensor
    g: Tensor
    value: float
    marginal_error: float

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw pairs ``(i, j)`` with the sources visited as evenly as their weights allow.

        Parameters
        ----------
        n : int
            Number of pairs.
        generator : torch.Generator
            Source of the draw.

        Returns
        -------
        tuple of Tensor of int, each of shape (n,)
        """
        plan = self.log_plan.exp()
        rows = systematic(plan.sum(dim=1), n, generator)
        return rows, self.sample_targets(rows, generator)

    def sample_targets(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one target for each given source.

        Parameters
        ----------
        rows : Tensor of int, shape (n,)
            Sources.
        generator : torch.Generator
            Source of the draw.

        Returns
        -------
        Tensor of int, shape (n,)
        """
        log_rows = self.log_plan[rows]
        cumulative = torch.softmax(log_rows, dim=1).cumsum(dim=1)
        u = torch.rand(len(rows), 1, generator=generator, dtype=cumulative.dtype) * cumulative[:, -1:]
        return torch.searchsorted(cumulative, u).squeeze(1).clamp_max(cumulative.shape[1] - 1)


def systematic(weights: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Indices drawn with the given weights by one uniform shift of an even comb, in random order."""
    comb = (torch.rand(1, generator=generator, dtype=weights.dtype) + torch.arange(n, dtype=weights.dtype)) / n
    order = torch.randperm(len(weights), generator=generator)
    cumulative = weights[order].cumsum(0)
    picked = torch.searchsorted(cumulative / cumulative[-1], comb).clamp_max(len(weights) - 1)
    return order[picked][torch.randperm(n, generator=generator)]


def bridge_coupling(
    log_k: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    g: Tensor | None = None,
    tau: float = 1.0,
    tolerance: float = 1e-7,
    max_iterations: int = 5000,
    where: str = "two snapshots",
) -> Coupling:
    """Solve ``min_π KL(π ‖ a ⊗ K)`` with marginals ``a`` and ``b`` by log-domain Sinkhorn iterations.

    Parameters
    ----------
    log_k : Tensor, shape (n, m)
        Log transition density of the reference.
    a, b : Tensor, shapes (n,) and (m,)
        Marginals, positive, each summing to one.
    g : Tensor, shape (m,), optional
        Potential to start from.
    tau : float
        How strictly ``a`` binds, in (0, 1]; below 1 sources may grow or die: their marginal is free at the
        price ``τ/(1 − τ) KL(row sums ‖ a)``.
    tolerance : float
        Largest sum of absolute errors of the marginal that is not enforced.
    max_iterations : int
        Largest number of sweeps.
    where : str
        Named in messages.

    Returns
    -------
    Coupling

    Raises
    ------
    scidyn.errors.FitError
        If the kernel is not finite or the iterations end far from the marginals.
    """
    if not bool(torch.isfinite(log_k).all()):
        raise FitError(f"The log kernel between {where} is not finite; the reference leaves the data's range.")
    log_a, log_b = a.log(), b.log()
    column = log_b.unsqueeze(0)
    g = _annealed(log_k, a, b) if g is None else g
    f, error = torch.zeros_like(a), float("inf")
    for sweep in range(max_iterations):
        f_new = -tau * torch.logsumexp(log_k + (g.unsqueeze(0) + column), dim=1)
        if sweep and sweep % 10 == 0:
            error = float((a * (torch.expm1(f - f_new)).abs()).sum())
            if error <= tolerance:
                break
        f = f_new
        g = -torch.logsumexp(log_k + (f + log_a).unsqueeze(1), dim=0)
    else:
        error = float(
            (a * (torch.expm1(f + tau * torch.logsumexp(log_k + (g.unsqueeze(0) + column), dim=1))).abs()).sum()
        )
        if error > 0.01:
            raise FitError(
                f"Sinkhorn iterations between {where} stopped after {max_iterations} sweeps with a marginal error of "
                f"{error:.1e}; sigma is small beside the distance the reference leaves: increase sigma."
            )
        if error > 1e-3:
            warnings.warn(
                f"The coupling between {where} has a marginal error of {error:.1e}.", FitWarning, stacklevel=2
            )
    centre = (a * f).sum()  # the split of a constant between f and g is a convention
    f, g = f - centre, g + centre
    log_plan = log_k + (f + log_a).unsqueeze(1) + (g + log_b).unsqueeze(0)
    return Coupling(log_plan, f, g, float((b * g).sum()), error)


def _annealed(log_k: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """A first potential: the kernel is flattened, then sharpened in steps of two, a few sweeps each."""
    span = float((log_k.amax(dim=1) - log_k.amin(dim=1)).median())
    g, scale = torch.zeros_like(b), 1.0
    while span * scale > 20.0:
        scale /= 2
    last = scale
    while scale < 1.0:
        g = g * (scale / last)
        for _ in range(8):
            f = -torch.logsumexp(scale * log_k + (g + b.log()).unsqueeze(0), dim=1)
            g = -torch.logsumexp(scale * log_k + (f + a.log()).unsqueeze(1), dim=0)
        last, scale = scale, 2 * scale
    return g * (scale / last)

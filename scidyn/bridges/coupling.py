"""The static Schrödinger problem between two snapshots, for any reference."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from scidyn.errors import FitError, FitWarning, OptionError
from scidyn.transport import EntropicPlan, sinkhorn

__all__ = ["Coupling", "bridge_coupling", "brownian_coupling", "systematic"]

FAILS, DOUBTFUL = 1e-2, 1e-3


@dataclass(frozen=True)
class Coupling:
    """The plan ``π_ij = a_i b_j exp(f_i + g_j + log K_ij)`` closest to the kernel ``K``, evaluated on request.

    Attributes
    ----------
    plan : EntropicPlan
        Cost ``−ε log K`` and its potentials.
    f, g : Tensor, shapes (n,) and (m,)
        Potentials without unit; the mean of ``f`` under ``a`` is zero.
    value : float
        ``KL(π ‖ a ⊗ K)`` up to the constant entropy of ``b``: ``Σ a f + Σ b g``.
    """

    plan: EntropicPlan
    f: Tensor
    g: Tensor
    value: float

    @classmethod
    def of(cls, plan: EntropicPlan) -> Coupling:
        """Read a plan's potentials in the units of the kernel."""
        f, g, problem = plan.f / plan.epsilon, plan.g / plan.epsilon, plan.problem
        centre = (problem.a * f).sum() / problem.a.sum()  # the split of a constant between f and g is a convention
        f, g = f - centre, g + centre
        return cls(plan, f, g, float((problem.a * f).sum() + (problem.b * g).sum()))

    @property
    def marginal_error(self) -> float:
        """``Σ |column sums − b|`` at the end."""
        return self.plan.marginal_error

    def average(self, values: Tensor) -> Tensor:
        """Mean of ``values`` ``(m, k)`` over the targets of every source, shape ``(n, k)``."""
        return self.plan.barycentric(values)

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
        rows = systematic(self.plan.row_sums(), n, generator)
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
        return self.plan.sample_targets(rows, generator=generator)


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
    tolerance: float = 1e-7,
    max_iterations: int = 5000,
    where: str = "two snapshots",
) -> Coupling:
    """Solve ``min_π KL(π ‖ a ⊗ K)`` with marginals ``a`` and ``b``.

    Parameters
    ----------
    log_k : Tensor, shape (n, m)
        Log transition density of the reference.
    a, b : Tensor, shapes (n,) and (m,)
        Marginals, positive, each summing to one.
    g : Tensor, shape (m,), optional
        Potential to start from.
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
    return _solve(
        where, a=a, b=b, cost=-log_k, epsilon=1.0, start=g, tolerance=tolerance, max_iterations=max_iterations
    )


def brownian_coupling(
    x: Tensor, y: Tensor, a: Tensor, b: Tensor, *, variance: float, tau: float = 1.0, where: str = "two snapshots"
) -> Coupling:
    """The coupling whose reference is ``N(x, variance)``, in memory that grows with ``n + m`` where it must.

    Parameters
    ----------
    x, y : Tensor, shapes (n, d) and (m, d)
        Cells.
    a, b : Tensor, shapes (n,) and (m,)
        Marginals, positive, each summing to one.
    variance : float
        Of the reference over the interval, per feature.
    tau : float
        How strictly ``a`` binds, in (0, 1]; below 1 sources may grow or die: their marginal is free at the
        price ``τ/(1 − τ) KL(row sums ‖ a)``.
    where : str
        Named in messages.

    Returns
    -------
    Coupling

    Raises
    ------
    scidyn.errors.FitError
        If the iterations end far from the marginals.
    """
    return _solve(where, x, y, a=a, b=b, epsilon=2 * variance, tau_a=tau, tolerance=1e-4, max_iterations=5000)


def _solve(where: str, *points: Tensor, **settings: object) -> Coupling:
    """Run Sinkhorn's iterations and judge how near the marginals they came."""
    cure = "sigma is small beside the distance the reference leaves: increase sigma."
    try:
        plan = sinkhorn(*points, **settings, dtype=torch.float64, on_failure="return")  # type: ignore[arg-type]
    except OptionError as error:
        raise FitError(f"No coupling between {where}: {cure} ({error})") from error
    if plan.status.success:
        return Coupling.of(plan)
    error = plan.marginal_error
    if not error <= FAILS:
        raise FitError(
            f"Sinkhorn iterations between {where} stopped after {plan.iterations} sweeps with a marginal error of "
            f"{error:.1e}; {cure}"
        )
    if error > DOUBTFUL:
        warnings.warn(f"The coupling between {where} has a marginal error of {error:.1e}.", FitWarning, stacklevel=3)
    return Coupling.of(plan)

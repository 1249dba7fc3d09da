"""The Sinkhorn divergence: entropic transport with its bias taken out."""

from __future__ import annotations

from typing import Any

import torch

from scidyn._check.values import number
from scidyn.transport.arguments import make_cost, read_inputs, typical_cost
from scidyn.transport.distance import Distance
from scidyn.transport.entropic import sinkhorn

__all__ = ["sinkhorn_divergence"]


def sinkhorn_divergence(
    x: Any,
    y: Any,
    a: Any = None,
    b: Any = None,
    *,
    cost: str = "sqeuclidean",
    epsilon: float | None = None,
    epsilon_relative: float = 0.05,
    tau: float = 1.0,
    tolerance: float = 1e-4,
    **options: Any,
) -> Distance:
    r"""Debiased entropic transport, zero if the two sets are the same and never negative at convergence.

    .. math::

        S_\varepsilon(\mu, \nu) = \mathrm{OT}_\varepsilon(\mu,\nu) - \tfrac12 \mathrm{OT}_\varepsilon(\mu,\mu)
        - \tfrac12 \mathrm{OT}_\varepsilon(\nu,\nu) + \tfrac\varepsilon2 (|\mu| - |\nu|)^2

    Parameters
    ----------
    x, y : array_like, shapes (n, d) and (m, d)
        Points.
    a, b : array_like, shapes (n,) and (m,), optional
        Weights; default uniform.
    cost : {"sqeuclidean", "euclidean"}
        Cost of moving a unit of mass.
    epsilon : float, optional
        Regularisation in units of the cost; one value for all three terms.
    epsilon_relative : float
        The same as a share of the median cost between x and y, used if ``epsilon`` is not given.
    tau : float
        Strictness of both marginals, as in :func:`sinkhorn`; 1 for balanced transport.
    tolerance : float
        Marginal error of each of the three plans.
    **options
        Passed on to :func:`sinkhorn`.

    Returns
    -------
    Distance
        In units of the cost (squared lengths for the default); differentiable in points and weights.

    Examples
    --------
    >>> import torch
    >>> from scidyn.transport import sinkhorn_divergence
    >>> x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    >>> divergence = sinkhorn_divergence(x, x + torch.tensor([3.0, 0.0]))
    >>> round(float(divergence), 2)                     # a shift by 3 costs 9
    9.0

    References
    ----------
    J. Feydy et al. (2019), Interpolating between optimal transport and MMD using Sinkhorn divergences, AISTATS;
    T. Séjourné et al. (2019), Sinkhorn divergences for unbalanced optimal transport.
    """
    tau = number("tau", tau, above=0.0, at_most=1.0)
    inputs = read_inputs(x, y, a, b, cost, options.get("dtype"), balanced=tau == 1.0)
    if epsilon is None:
        scale = typical_cost(make_cost(inputs))
        epsilon = number("epsilon_relative", epsilon_relative, above=0.0) * (scale if scale > 0 else 1.0)
    # the strictness belongs to the penalty, so one tau serves all terms at one epsilon
    shared = {"cost": cost, "epsilon": epsilon, "tau_a": tau, "tau_b": tau, "tolerance": tolerance, **options}
    cross = sinkhorn(inputs.x, inputs.y, inputs.a, inputs.b, **shared)
    shared.pop("start", None)
    own_x = sinkhorn(inputs.x, inputs.x, inputs.a, inputs.a, **shared)
    own_y = sinkhorn(inputs.y, inputs.y, inputs.b, inputs.b, **shared)
    value = cross.value - 0.5 * (own_x.value + own_y.value)
    if tau < 1.0:
        value = value + 0.5 * epsilon * torch.square(inputs.a.sum() - inputs.b.sum()).to(value.dtype)
    return Distance(value, f"Sinkhorn divergence, {cost} cost, epsilon {epsilon:.3g}", exact=False)

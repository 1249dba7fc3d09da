"""Transport between Gaussian mixtures through their components."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from scidyn.errors import ShapeError
from scidyn.transport.exact import exact_transport
from scidyn.transport.gaussian import bures_wasserstein

__all__ = ["MixturePlan", "mixture_wasserstein"]


class MixturePlan(NamedTuple):
    """``value``: the distance; ``plan``: mass moved between components, shape (K, L)."""

    value: Tensor
    plan: Tensor


def mixture_wasserstein(w0: Any, m0: Any, S0: Any, w1: Any, m1: Any, S1: Any) -> MixturePlan:
    r"""Distance MW2 between Gaussian mixtures: W2 with plans that are Gaussian mixtures themselves.

    .. math:: MW_2^2 = \min_{\omega} \sum_{kl} \omega_{kl} W_2^2(N_k, N_l) \ge W_2^2

    Parameters
    ----------
    w0, w1 : array_like, shapes (K,) and (L,)
        Weights that sum to 1.
    m0, m1 : array_like, shapes (K, d) and (L, d)
        Means.
    S0, S1 : array_like, shapes (K, d, d) and (L, d, d)
        Covariances.

    Returns
    -------
    MixturePlan
        Equal to W2 for single Gaussians, and an upper bound of it otherwise.

    Examples
    --------
    >>> import torch
    >>> from scidyn.transport import mixture_wasserstein
    >>> half, eye = torch.tensor([0.5, 0.5]), torch.eye(1).expand(2, 1, 1)
    >>> a, b = torch.tensor([[0.0], [10.0]]), torch.tensor([[12.0], [2.0]])
    >>> mixture_wasserstein(half, a, eye, half, b, eye).value
    tensor(2.)

    References
    ----------
    J. Delon, A. Desolneux (2020), A Wasserstein-type distance in the space of Gaussian mixture models,
    SIAM J. Imaging Sci. 13.
    """
    m0, m1, S0, S1 = (torch.as_tensor(t) for t in (m0, m1, S0, S1))
    for name, m, S in (("first", m0, S0), ("second", m1, S1)):
        if m.ndim != 2 or S.shape != (*m.shape, m.shape[-1]):
            raise ShapeError(
                f"the {name} mixture needs means (K, d) and covariances (K, d, d); "
                f"got {tuple(m.shape)} and {tuple(S.shape)}."
            )
    costs = torch.stack([
        torch.stack([bures_wasserstein(a, A, b, B).square() for b, B in zip(m1, S1, strict=True)])
        for a, A in zip(m0, S0, strict=True)
    ])  # fmt: skip
    found = exact_transport(a=w0, b=w1, cost=costs)
    plan = torch.zeros_like(costs.detach()).index_put_((found.source, found.target), found.mass)
    return MixturePlan(found.value.clamp_min(0.0).sqrt(), plan)

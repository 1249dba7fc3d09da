"""Lévy areas of several Brownian channels over one step."""

from __future__ import annotations

import torch
from torch import Tensor

from scidyn._check.values import choice
from scidyn.errors import OptionError
from scidyn.solvers.brownian.noise import Noise

__all__ = ["areas_from_normals", "levy_area"]

KINDS = ("davie", "foster")


def levy_area(
    noise: Noise, h: float | Tensor, generator: torch.Generator | None = None, kind: str = "foster"
) -> Tensor:
    """Draw the areas ``A_ij = ½ ∫ (W_i dW_j - W_j dW_i)`` of a step, given its W and H.

    ``A = H Wᵀ - W Hᵀ + Ã`` with Ã skew, normal, of the conditional variance
    ``h² / 20 + h (H_i² + H_j²) / 5`` ("foster") or its mean ``h² / 12`` ("davie"). In both
    cases ``Var(A_ij) = h² / 4``.

    Parameters
    ----------
    noise : Noise
        With W and H of shape (*batch, m).
    h : float or Tensor
        Length of the step; a tensor broadcasts against the batch.
    generator : torch.Generator, optional
        Source of the remaining randomness.
    kind : str
        "foster" matches the fourth moments as well, "davie" the second only.

    Returns
    -------
    Tensor, shape (*batch, m, m)
        Antisymmetric.

    Raises
    ------
    scidyn.errors.OptionError
        If the noise lacks H, or the kind is unknown.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import Noise, levy_area
    >>> g = torch.Generator().manual_seed(0)
    >>> z = torch.randn(2, 40000, 2, generator=g, dtype=torch.float64)
    >>> area = levy_area(Noise(z[0], z[1] / 12**0.5), 1.0, g)
    >>> round(area[:, 0, 1].var().item(), 2)
    0.25

    References
    ----------
    J. Foster (2020), Numerical approximations for stochastic differential equations, DPhil thesis, Oxford.
    A. M. Davie (2014), KMT theory applied to approximations of SDE.
    """
    choice("kind", kind, KINDS)
    if noise.H is None:
        raise OptionError("the areas need the space-time area H: make the Brownian path with levels='WH'.")
    W = noise.W
    source = W.device if generator is None else generator.device
    z = torch.randn((*W.shape, W.shape[-1]), generator=generator, dtype=W.dtype, device=source).to(W.device)
    return areas_from_normals(noise, h, z, kind)


def areas_from_normals(noise: Noise, h: float | Tensor, z: Tensor, kind: str) -> Tensor:
    """Areas of a step from independent standard normals ``z`` of shape (*batch, m, m)."""
    W, H = noise.W, noise.h
    size = torch.as_tensor(h, dtype=W.dtype, device=W.device)
    size = size.reshape(size.shape + (1,) * (W.ndim + 1 - size.ndim)) if size.ndim else size
    if kind == "davie":
        variance = (size * size / 12).expand(*W.shape, W.shape[-1]) if size.ndim else size * size / 12
    else:
        square = H * H
        variance = size * size / 20 + size / 5 * (square.unsqueeze(-1) + square.unsqueeze(-2))
    skew = torch.sqrt(variance / 2) * (z - z.transpose(-1, -2))
    outer = H.unsqueeze(-1) * W.unsqueeze(-2)
    return outer - outer.transpose(-1, -2) + skew

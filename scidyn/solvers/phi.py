"""The φ functions of exponential integrators."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["phi_functions"]

POINTS = 32


def phi_functions(z: Tensor, count: int) -> tuple[Tensor, ...]:
    r"""Evaluate :math:`\varphi_0(z) = e^z, \varphi_{k+1}(z) = (\varphi_k(z) - 1/k!)/z` for k up to ``count``.

    The quotients cancel for small z. They are evaluated on a circle of radius one around z instead, whose
    mean is the value at the centre; the error is that of rounding for every z. Differentiable.

    Parameters
    ----------
    z : Tensor
        Arguments, real or complex, of any shape.
    count : int
        Largest index k.

    Returns
    -------
    tuple of Tensor
        ``count + 1`` tensors of the shape and dtype of z.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import phi_functions
    >>> [round(phi.item(), 6) for phi in phi_functions(torch.tensor(1e-9, dtype=torch.float64), 3)]
    [1.0, 1.0, 0.5, 0.166667]

    References
    ----------
    A.-K. Kassam, L. N. Trefethen, SIAM J. Sci. Comput. 26, 1214–1233, 2005.
    """
    angles = torch.arange(POINTS, dtype=z.real.dtype, device=z.device)
    circle = torch.polar(torch.ones_like(angles), 2 * math.pi / POINTS * (angles + 0.5))
    points = z.unsqueeze(-1) + circle
    values = torch.exp(points)
    found = [torch.exp(z)]
    for k in range(count):
        values = (values - 1.0 / math.factorial(k)) / points
        mean = values.mean(dim=-1)
        found.append(mean if z.is_complex() else mean.real)
    return tuple(found)

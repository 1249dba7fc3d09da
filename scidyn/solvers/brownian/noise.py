"""Increments of a Brownian path with their time integrals, and how neighbouring ones join."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from torch import Tensor

from scidyn.errors import OptionError

__all__ = ["LEVELS", "Noise", "join"]

LEVELS = ("W", "WH", "WHK")


class Noise(NamedTuple):
    """What is known of a Brownian path on a step ``[s, s + h]``.

    With the bridge ``B_r = W_{s,r} - (r - s) / h W`` and ``θ = (r - s) / h``::

        H = (1/h) ∫ B_r dr          K = (1/h) ∫ B_r (½ - θ) dr

    W, H and K are independent, normal, of variance ``h``, ``h / 12`` and ``h / 720``.

    Attributes
    ----------
    W : Tensor
        Increment.
    H : Tensor or None
        Space-time Lévy area.
    K : Tensor or None
        Space-time-time Lévy area.
    area : Tensor or None
        Lévy areas ``A_ij = ½ ∫ (W_i dW_j - W_j dW_i)`` of the channels, of shape (*batch, m, m).
    """

    W: Tensor
    H: Tensor | None = None
    K: Tensor | None = None
    area: Tensor | None = None

    @classmethod
    def of(cls, parts: Iterable[Tensor | None]) -> Noise:
        """Make a noise from its parts, of which the first is not None."""
        first, *rest = parts
        if first is None:
            raise TypeError("the first part of a noise is its increment.")
        return cls(first, *rest)

    @property
    def h(self) -> Tensor:
        """The space-time area, which must be there."""
        if self.H is None:
            raise OptionError("the Brownian path lacks the space-time area H: make it with levels='WH'.")
        return self.H

    def each(self, change: Callable[[Tensor], Tensor]) -> Noise:
        """Apply ``change`` to every part that is known."""
        return Noise.of(None if x is None else change(x) for x in self)


def join(first: Noise, second: Noise, a: float | Tensor, b: float | Tensor) -> Noise:
    """Give the noise over ``[s, s + a + b]`` from that over its two parts of length ``a`` and ``b``.

    Chen's identity for the path and its first two time integrals: with ``p = a / h``, ``q = b / h``::

        W = W1 + W2
        H = p H1 + q H2 + (q W1 - p W2) / 2
        K = p² K1 + q² K2 + (p q / 2) (H1 - H2) + (q - p) / 12 · (q W1 - p W2)
        A = A1 + A2 + (W1 W2ᵀ - W2 W1ᵀ) / 2

    Parameters
    ----------
    first, second : Noise
        Of neighbouring steps.
    a, b : float or Tensor
        Their lengths.

    Returns
    -------
    Noise
        Whatever is known of both.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import Noise, join
    >>> join(Noise(torch.ones(1)), Noise(torch.ones(1)), 0.5, 0.5).W
    tensor([2.])
    """
    h = a + b
    p, q = a / h, b / h
    W = first.W + second.W
    area = None
    if first.area is not None and second.area is not None:
        outer = first.W.unsqueeze(-1) * second.W.unsqueeze(-2)
        area = first.area + second.area + 0.5 * (outer - outer.transpose(-1, -2))
    if first.H is None or second.H is None:
        return Noise(W, area=area)
    gap = q * first.W - p * second.W
    H = p * first.H + q * second.H + 0.5 * gap
    if first.K is None or second.K is None:
        return Noise(W, H, area=area)
    K = p * p * first.K + q * q * second.K + 0.5 * p * q * (first.H - second.H) + (q - p) / 12 * gap
    return Noise(W, H, K, area)

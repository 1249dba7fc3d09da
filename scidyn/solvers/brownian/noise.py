"""Increments of a Brownian path with their time integrals, and how neighbouring ones join."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

__all__ = ["LEVELS", "Noise", "gather", "join"]

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
    """

    W: Tensor
    H: Tensor | None = None
    K: Tensor | None = None

    def map(self, f: Callable[[Tensor], Tensor]) -> Noise:
        """Apply ``f`` to what is known."""
        return Noise(f(self.W), None if self.H is None else f(self.H), None if self.K is None else f(self.K))


def gather(parts: Sequence[Noise], f: Callable[[list[Tensor]], Tensor]) -> Noise:
    """Combine several noises entry by entry, with ``torch.cat`` or ``torch.stack``."""
    H = [p.H for p in parts if p.H is not None]
    K = [p.K for p in parts if p.K is not None]
    return Noise(f([p.W for p in parts]), f(H) if H else None, f(K) if K else None)


def join(first: Noise, second: Noise, a: float | Tensor, b: float | Tensor) -> Noise:
    """Give the noise over ``[s, s + a + b]`` from that over its two parts of length ``a`` and ``b``.

    Chen's identity for the path and its first two time integrals: with ``p = a / h``, ``q = b / h``::

        W = W1 + W2
        H = p H1 + q H2 + (q W1 - p W2) / 2
        K = p² K1 + q² K2 + (p q / 2) (H1 - H2) + (q - p) / 12 · (q W1 - p W2)

    Parameters
    ----------
    first, second : Noise
        Noise over ``[s, s + a]`` and ``[s + a, s + a + b]``.
    a, b : float or Tensor
        Lengths of the two parts.

    Returns
    -------
    Noise
        With the levels that both parts have.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import Noise, join
    >>> join(Noise(torch.tensor([1.0])), Noise(torch.tensor([0.5])), 0.1, 0.2).W
    tensor([1.5000])
    """
    h = a + b
    p, q = a / h, b / h
    W = first.W + second.W
    if first.H is None or second.H is None:
        return Noise(W)
    gap = q * first.W - p * second.W
    H = p * first.H + q * second.H + 0.5 * gap
    if first.K is None or second.K is None:
        return Noise(W, H)
    K = p * p * first.K + q * q * second.K + 0.5 * p * q * (first.H - second.H) + (q - p) / 12 * gap
    return Noise(W, H, K)

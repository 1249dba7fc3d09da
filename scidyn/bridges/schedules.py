"""How an interpolant moves: ``x_t = α x0 + β x1 + γ z`` on the unit interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from scidyn._check.values import choice, number

__all__ = ["Schedule", "schedule"]


class Coefficients(NamedTuple):
    """Values and derivatives of a schedule; ``gamma_rate`` is ``γ γ̇``, which stays finite at the ends."""

    alpha: Tensor
    beta: Tensor
    gamma: Tensor
    alpha_dot: Tensor
    beta_dot: Tensor
    gamma_rate: Tensor


class Schedule(NamedTuple):
    """A schedule: from fractions ``(n,)`` to :class:`Coefficients`.

    Attributes
    ----------
    name : str
        What it is.
    noise : float
        Scale of γ.
    evaluate : callable
        The coefficients at given fractions.
    """

    name: str
    noise: float
    evaluate: Callable[[Tensor], Coefficients]

    def __call__(self, t: Tensor) -> Coefficients:
        """Evaluate the coefficients."""
        return self.evaluate(t)


def schedule(name: str = "linear", *, noise: float = 0.0) -> Schedule:
    """Make a schedule with ``γ = noise · √(t (1 − t))``, the standard deviation of a Brownian bridge.

    Parameters
    ----------
    name : {"linear", "trigonometric", "encoding-decoding"}
        ``(1 − t, t)``; ``(cos, sin)(π t / 2)``; or ``cos²(π t)`` switched at the middle, which passes
        through pure noise.
    noise : float
        Scale of γ, in the units of the state.

    Returns
    -------
    Schedule

    Raises
    ------
    scidyn.errors.OptionError
        If the name is unknown or the noise is negative.

    Examples
    --------
    >>> import torch
    >>> from scidyn.bridges import schedule
    >>> c = schedule("linear", noise=2.0)(torch.tensor([0.5]))
    >>> c.alpha.item(), c.gamma.item(), c.gamma_rate.item()
    (0.5, 1.0, 0.0)

    References
    ----------
    M. S. Albergo, N. M. Boffi, E. Vanden-Eijnden, Stochastic interpolants: a unifying framework for flows
    and diffusions, JMLR 2025.
    """
    choice("name", name, ("linear", "trigonometric", "encoding-decoding"))
    scale = number("noise", noise, at_least=0.0)

    def evaluate(t: Tensor) -> Coefficients:
        gamma = scale * (t * (1 - t)).clamp_min(0.0).sqrt()
        rate = 0.5 * scale**2 * (1 - 2 * t)
        return Coefficients(*_MEANS[name](t)[:2], gamma, *_MEANS[name](t)[2:], rate)

    return Schedule(name, scale, evaluate)


def _linear(t: Tensor) -> tuple[Tensor, ...]:
    one = torch.ones_like(t)
    return 1 - t, t, -one, one


def _trigonometric(t: Tensor) -> tuple[Tensor, ...]:
    c, s = torch.cos(math.pi / 2 * t), torch.sin(math.pi / 2 * t)
    return c, s, -math.pi / 2 * s, math.pi / 2 * c


def _encoding_decoding(t: Tensor) -> tuple[Tensor, ...]:
    c2, slope = torch.cos(math.pi * t).square(), -math.pi * torch.sin(2 * math.pi * t)
    early, zero = t < 0.5, torch.zeros_like(t)
    return (
        torch.where(early, c2, zero),
        torch.where(early, zero, c2),
        torch.where(early, slope, zero),
        torch.where(early, zero, slope),
    )


_MEANS = {"linear": _linear, "trigonometric": _trigonometric, "encoding-decoding": _encoding_decoding}

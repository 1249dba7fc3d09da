"""How large the next step is: error norm, PID control, first step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from scidyn._check.values import choice, number
from scidyn.errors import OptionError

__all__ = ["CONTROLLERS", "Controller", "Tolerance", "choose_controller", "error_ratio", "first_step", "resize"]


@dataclass(frozen=True)
class Controller:
    r"""Proportional–integral–derivative control of the step size.

    With the error ratios :math:`r_n, r_{n-1}, r_{n-2}` of this and the last two accepted steps and the
    order k of the error estimate, the next step is h times

    .. math:: s\, r_n^{-(p+i+d)/k}\, r_{n-1}^{(p+2d)/k}\, r_{n-2}^{-d/k},

    kept within [shrink, grow]. An accepted step never shrinks and a rejected one never grows.

    Parameters
    ----------
    proportional, integral, derivative : float
        The exponents p, i and d. ``(0, 1, 0)`` is the classical rule, ``(0.4, 0.3, 0)`` the default.
    safety : float
        Factor s, within (0, 1).
    shrink, grow : float
        Smallest and largest change of the step.

    Raises
    ------
    scidyn.errors.OptionError
        If a value is not finite or outside its range.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import Controller, solve_ode
    >>> careful = Controller(0.2, 0.4, 0.0, grow=3.0)
    >>> y0 = torch.ones(1, 1, dtype=torch.float64)
    >>> solve_ode(lambda t, y: -y, y0, [0.0, 1.0], controller=careful).success
    True

    References
    ----------
    G. Söderlind, Digital filters in adaptive time-stepping, ACM Trans. Math. Softw. 29, 1–26, 2003.
    """

    proportional: float = 0.4
    integral: float = 0.3
    derivative: float = 0.0
    safety: float = 0.9
    shrink: float = 0.2
    grow: float = 10.0

    def __post_init__(self) -> None:
        for name in ("proportional", "integral", "derivative"):
            number(name, getattr(self, name))
        number("integral", self.integral, above=0)
        number("safety", self.safety, above=0, below=1)
        number("shrink", self.shrink, above=0, below=1)
        number("grow", self.grow, above=1)


CONTROLLERS = {
    "i": Controller(0.0, 1.0, 0.0),
    "pi": Controller(),
    "pid": Controller(0.3, 0.3, 0.1),
}


def choose_controller(controller: Controller | str | None) -> Controller:
    """Look up a name; None is the default."""
    if controller is None:
        return CONTROLLERS["pi"]
    if isinstance(controller, Controller):
        return controller
    if not isinstance(controller, str):
        raise OptionError(f"controller must be a name or a Controller; got {type(controller).__name__}.")
    return CONTROLLERS[choice("controller", controller, CONTROLLERS)]


class Tolerance(NamedTuple):
    """Local error allowed: ``atol + rtol * |y|``, entry by entry.

    Attributes
    ----------
    rtol, atol : Tensor
        Scalars, or ``atol`` of shape (D,).
    together : bool
        True if all samples take the same step.
    worst : bool
        If together: True if the worst sample decides, False for the root mean square over all samples.
    """

    rtol: Tensor
    atol: Tensor
    together: bool
    worst: bool = True

    def norm(self, value: Tensor, scale: Tensor) -> Tensor:
        """Root mean square of ``value / scale`` per sample, shape (batch,), or for all of them, shape (1,)."""
        ratio = (value / scale).abs()
        if self.together and not self.worst:
            return (ratio * ratio).mean().sqrt().reshape(1)
        each = (ratio * ratio).mean(dim=-1)
        return (each.amax(dim=0, keepdim=True) if self.together else each).sqrt()

    def scale(self, size: Tensor) -> Tensor:
        """Allowed error where the state has magnitude ``size``; never zero."""
        return (self.atol + self.rtol * size).clamp_min(torch.finfo(size.dtype).tiny)


def error_ratio(tolerance: Tolerance, y: Tensor, y1: Tensor, err: Tensor) -> Tensor:
    """Error estimate over allowed error; a step is accepted at 1 or below, NaN counts as infinite."""
    ratio = tolerance.norm(err, tolerance.scale(torch.maximum(y.abs(), y1.abs())))
    return ratio.nan_to_num(nan=torch.inf, posinf=torch.inf)


def resize(
    controller: Controller, ratio: Tensor, previous: tuple[Tensor, Tensor], accepted: Tensor, order: int
) -> Tensor:
    """Factor for the next step; ``previous`` holds the ratios of the last two accepted steps."""
    p, i, d = controller.proportional, controller.integral, controller.derivative
    factor = controller.safety * ratio.clamp_min(torch.finfo(ratio.dtype).tiny) ** (-(p + i + d) / order)
    if p + 2 * d != 0.0:
        factor = factor * previous[0] ** ((p + 2 * d) / order)
    if d != 0.0:
        factor = factor * previous[1] ** (-d / order)
    low, high = controller.shrink, controller.grow
    return torch.where(accepted, factor.clamp(1.0, high), factor.clamp(low, controller.safety))


def first_step(
    rate: Callable[[Tensor, Tensor], Tensor],
    tolerance: Tolerance,
    order: int,
    t: Tensor,
    y: Tensor,
    k1: Tensor,
    span: Tensor,
) -> Tensor:
    """Guess a first step from the sizes of y, y' and a difference quotient of y'.

    One evaluation of ``rate``; shape of ``t``.

    References
    ----------
    E. Hairer, S. P. Nørsett, G. Wanner, Solving Ordinary Differential Equations I, section II.4.
    """
    scale = tolerance.scale(y.abs())
    d0, d1 = tolerance.norm(y, scale), tolerance.norm(k1, scale)
    flat = (d0 < 1e-5) | (d1 < 1e-5)
    h0 = torch.where(flat, torch.full_like(d0, 1e-6), 0.01 * d0 / d1)
    h0 = torch.minimum(h0.to(span.dtype), span)
    column = h0.to(y.real.dtype).unsqueeze(-1)
    k2 = rate(t + h0, y + column * k1)
    d2 = tolerance.norm(k2 - k1, scale).to(span.dtype) / h0.clamp_min(torch.finfo(h0.dtype).tiny)
    largest = torch.maximum(d1.to(span.dtype), d2)
    h1 = torch.where(largest <= 1e-15, (h0 * 1e-3).clamp_min(1e-6), (0.01 / largest) ** (1.0 / order))
    guess = torch.minimum(100.0 * h0, h1)
    return torch.where(torch.isfinite(guess), guess, h0)

"""How large the next step is: error norm, PID control, first step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from scidyn._check.values import choice, number
from scidyn.errors import OptionError
from scidyn.solvers.precision import HALF, power

__all__ = [
    "CONTROLLERS",
    "Controller",
    "Gustafsson",
    "Tolerance",
    "Trial",
    "choose_controller",
    "error_ratio",
    "first_step",
]

SMALLEST_PREVIOUS_RATIO = 1e-4
SMALLEST_ACCEPTED_RATIO = 1e-2

Memory = tuple[Tensor, Tensor]


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

    def begin(self, like: Tensor) -> Memory:
        """Error ratios of the last two accepted steps, before there are any."""
        return torch.ones_like(like), torch.ones_like(like)

    def factor(self, trial: Trial, memory: Memory) -> Tensor:
        """Change of the step."""
        p, i, d = self.proportional, self.integral, self.derivative
        factor = self.safety * power(_positive(trial.ratio), -(p + i + d) / trial.order)
        if p + 2 * d != 0.0:
            factor = factor * power(memory[0], (p + 2 * d) / trial.order)
        if d != 0.0:
            factor = factor * power(memory[1], -d / trial.order)
        return torch.where(trial.accepted, factor.clamp(1.0, self.grow), factor.clamp(self.shrink, self.safety))

    def remember(self, trial: Trial, memory: Memory) -> Memory:
        """Keep what the next step needs; a rejection changes nothing."""
        kept = trial.ratio.clamp_min(SMALLEST_PREVIOUS_RATIO)
        return torch.where(trial.accepted, kept, memory[0]), torch.where(trial.accepted, memory[0], memory[1])


@dataclass(frozen=True)
class Gustafsson:
    r"""Predictive control of the step size, for implicit Runge–Kutta methods.

    It expects the error to change from step to step as it did last time, and takes smaller steps where Newton's
    iterations are slow. With the error ratio :math:`r` of this step of size :math:`h`, those of the last
    accepted step, the order k of the error estimate, and :math:`n` iterations of at most :math:`m`, the next
    step is h divided by

    .. math:: q = \max\Big(\frac{r^{1/k}}{c},\;
        \frac1s\,\frac{h_{\mathrm{acc}}}{h}\Big(\frac{r^2}{r_{\mathrm{acc}}}\Big)^{1/k}\Big), \qquad
        c = s\,\min\Big(1, \frac{1 + 2m}{n + 2m}\Big), \quad r_{\mathrm{acc}} \ge 10^{-2},

    kept within [1/grow, 1/shrink]; after a rejection the second term is left out.

    Parameters
    ----------
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
    >>> from scidyn.solvers import Gustafsson, solve_ode
    >>> y0 = torch.ones(1, 1, dtype=torch.float64)
    >>> solve_ode(lambda t, y: -1e3 * y, y0, [0.0, 1.0], method="kvaerno5", controller=Gustafsson(grow=5.0)).success
    True

    References
    ----------
    K. Gustafsson, Control-theoretic techniques for stepsize selection in implicit Runge–Kutta methods, ACM Trans.
    Math. Softw. 20, 496–517, 1994.
    E. Hairer, G. Wanner, Solving Ordinary Differential Equations II, section IV.8.
    """

    safety: float = 0.9
    shrink: float = 0.2
    grow: float = 8.0

    def __post_init__(self) -> None:
        number("safety", self.safety, above=0, below=1)
        number("shrink", self.shrink, above=0, below=1)
        number("grow", self.grow, above=1)

    def begin(self, like: Tensor) -> Memory:
        """Error ratio and size of the last accepted step; a size of zero says that there is none."""
        return torch.ones_like(like), torch.zeros_like(like)

    def factor(self, trial: Trial, memory: Memory) -> Tensor:
        """Change of the step."""
        ratio, exponent = _positive(trial.ratio), 1.0 / trial.order
        safety: Tensor | float = self.safety
        if trial.iterations is not None:
            twice = 2.0 * trial.most
            safety = self.safety * ((1.0 + twice) / (trial.iterations.to(ratio.dtype) + twice)).clamp_max(1.0)
        plain = power(ratio, exponent) / safety
        h = trial.h.to(ratio.dtype)
        growth = power(ratio * ratio / memory[0], exponent)
        trend = memory[1] / torch.where(h > 0, h, torch.ones_like(h)) * growth
        divisor = torch.where(trial.accepted, torch.maximum(plain, trend / self.safety), plain)
        factor = 1.0 / divisor.clamp(1.0 / self.grow, 1.0 / self.shrink)
        return torch.where(trial.accepted, factor, factor.clamp_max(self.safety))

    def remember(self, trial: Trial, memory: Memory) -> Memory:
        """Keep what the next step needs; a rejection changes nothing."""
        ratio, h = trial.ratio.clamp_min(SMALLEST_ACCEPTED_RATIO), trial.h.to(memory[1].dtype)
        return torch.where(trial.accepted, ratio, memory[0]), torch.where(trial.accepted, h, memory[1])


class Trial(NamedTuple):
    """What a controller may know of an attempted step; time-like entries have shape (1,) or (batch,).

    Attributes
    ----------
    ratio : Tensor
        Error over allowed error.
    accepted : Tensor of bool
        Whether the step counts.
    h : Tensor
        Its size.
    order : int
        Power of the step size in the error estimate.
    iterations : Tensor or None
        Newton iterations of its slowest stage, of an implicit method that counts them.
    most : int
        Largest number of them.
    """

    ratio: Tensor
    accepted: Tensor
    h: Tensor
    order: int
    iterations: Tensor | None = None
    most: int = 1


CONTROLLERS: dict[str, Controller | Gustafsson] = {
    "i": Controller(0.0, 1.0, 0.0),
    "pi": Controller(),
    "pid": Controller(0.3, 0.3, 0.1),
    "gustafsson": Gustafsson(),
}


def choose_controller(controller: Controller | Gustafsson | str | None) -> Controller | Gustafsson:
    """Look up a name; None is the default."""
    if controller is None:
        return CONTROLLERS["pi"]
    if isinstance(controller, (Controller, Gustafsson)):
        return controller
    if not isinstance(controller, str):
        raise OptionError(f"controller must be a name, a Controller or a Gustafsson; got {type(controller).__name__}.")
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
    leaves : tuple of int
        Columns of each tensor of a structured state; the worst of them decides. Empty for a single tensor.
    """

    rtol: Tensor
    atol: Tensor
    together: bool
    worst: bool = True
    leaves: tuple[int, ...] = ()

    def norm(self, value: Tensor, scale: Tensor) -> Tensor:
        """Root mean square of ``value / scale`` per sample, shape (batch,), or for all of them, shape (1,)."""
        # the square of a number of half precision may be out of its range
        ratio = (value.to(scale.dtype) / scale).abs() if value.dtype in HALF else (value / scale).abs()
        square = ratio * ratio
        if len(self.leaves) < 2:
            return self._mean(square).sqrt()
        return torch.stack([self._mean(part) for part in square.split(self.leaves, dim=-1)]).amax(dim=0).sqrt()

    def _mean(self, square: Tensor) -> Tensor:
        if self.together and not self.worst:
            return square.mean().reshape(1)
        each = square.mean(dim=-1)
        return each.amax(dim=0, keepdim=True) if self.together else each

    def scale(self, size: Tensor) -> Tensor:
        """Allowed error where the state has magnitude ``size``; never zero."""
        return (self.atol + self.rtol * size.to(self.rtol.dtype)).clamp_min(torch.finfo(self.rtol.dtype).tiny)


def error_ratio(tolerance: Tolerance, y: Tensor, y1: Tensor, err: Tensor) -> Tensor:
    """Error estimate over allowed error; a step is accepted at 1 or below, NaN counts as infinite."""
    ratio = tolerance.norm(err, tolerance.scale(torch.maximum(y.abs(), y1.abs())))
    return ratio.nan_to_num(nan=torch.inf, posinf=torch.inf)


def _positive(ratio: Tensor) -> Tensor:
    """Keep away from zero and infinity, whose powers are not finite."""
    info = torch.finfo(ratio.dtype)
    return ratio.clamp(info.tiny, info.max**0.25)


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
    h1 = torch.where(largest <= 1e-15, (h0 * 1e-3).clamp_min(1e-6), power(0.01 / largest, 1.0 / order))
    guess = torch.minimum(100.0 * h0, h1)
    return torch.where(torch.isfinite(guess), guess, h0)

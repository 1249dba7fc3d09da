"""Predictive control of the step size, for implicit methods."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scidyn._check.values import number
from scidyn.solvers.precision import power
from scidyn.solvers.trial import Memory, Trial, positive

__all__ = ["Gustafsson"]

SMALLEST_ACCEPTED_RATIO = 1e-2


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
        ratio, exponent = positive(trial.ratio), 1.0 / trial.order
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

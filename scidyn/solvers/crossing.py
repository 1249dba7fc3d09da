"""Where an event function is zero: located on a step's polynomial, then made differentiable."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from scidyn.solvers.adjoint.times import move
from scidyn.solvers.controller import Tolerance
from scidyn.solvers.methods.stepper import Rate

__all__ = ["Bracket", "Piece", "Slope", "Value", "narrow", "on_step", "settle", "side_of", "slope_of"]

# evaluations between two looks at whether all samples are done, and the largest number of looks
REFINEMENTS = 6
LOOKS = 10
# a bracket this wide, in units of the step, confirms that the guesses have come to rest at the crossing
CLOSE = 1e-3
NEWTON_STEPS = 2

Value = Callable[[Tensor, Tensor], Tensor]


class Piece(NamedTuple):
    """One step of all samples and its polynomial.

    Attributes
    ----------
    t, h : Tensor, shape (batch,)
        Start and size.
    y : Tensor, shape (batch, D)
        State at the start.
    coef : Tensor, shape (P, batch, D)
        ``y(t + θh) = y + h Σ_p θ^(p+1) coef[p]``.
    """

    t: Tensor
    h: Tensor
    y: Tensor
    coef: Tensor

    def at(self, theta: Tensor) -> Tensor:
        """States at the positions ``theta`` (batch,) in the step."""
        x = theta.to(self.y.real.dtype).unsqueeze(-1)
        polynomial = self.coef[-1]
        for power in range(self.coef.shape[0] - 2, -1, -1):
            polynomial = torch.addcmul(self.coef[power], polynomial, x)
        return self.y + (self.h.to(x.dtype).unsqueeze(-1) * x) * polynomial


class Bracket(NamedTuple):
    """Positions between which the sign changes; every entry has shape (batch,).

    Attributes
    ----------
    low, high : Tensor
        The function has the old sign at ``low`` and has lost it at ``high``.
    at_low, at_high : Tensor
        Its values there times the old sign, possibly scaled down to pull the next guess over.
    repeated : Tensor
        +1 if ``low`` moved last, −1 if ``high`` did.
    guess : Tensor
        Position evaluated last.
    change : Tensor
        Distance of the last two guesses.
    """

    low: Tensor
    high: Tensor
    at_low: Tensor
    at_high: Tensor
    repeated: Tensor
    guess: Tensor
    change: Tensor


def narrow(value: Value, piece: Piece, side: Tensor, bracket: Bracket, count: int) -> Bracket:
    """Evaluate ``value`` at ``count`` more positions; the host reads nothing.

    A bisection, which bounds the work for functions that are not smooth, then two steps of the Illinois method:
    a secant through the ends of the bracket, whose weight is halved at an end that stays.
    """
    for i in range(count):
        low, high, at_low, at_high, repeated, guess, _ = bracket
        middle = 0.5 * (low + high)
        secant = (low * at_high - high * at_low) / (at_high - at_low)
        fits = (at_low > 0) & (at_high <= 0) & (secant >= low) & (secant <= high)
        x = middle if i % 3 == 0 else torch.where(fits, secant, middle)
        found = side * value(torch.addcmul(piece.t, x, piece.h), piece.at(x))
        same = found > 0
        bracket = Bracket(
            low=torch.where(same, x, low),
            high=torch.where(same, high, x),
            at_low=torch.where(same, found, torch.where(repeated < 0, 0.5 * at_low, at_low)),
            at_high=torch.where(same, torch.where(repeated > 0, 0.5 * at_high, at_high), found),
            repeated=torch.where(same, 1.0, -1.0).to(repeated.dtype),
            guess=x,
            change=torch.minimum((x - guess).abs(), high - low),
        )
    return bracket


@torch.no_grad()
def on_step(value: Value, piece: Piece, side: Tensor, at_end: Tensor, wanted: Tensor) -> tuple[Tensor, int]:
    """Position θ in (0, 1] where ``value`` loses the sign ``side`` in the rows that are ``wanted``.

    One value is read by the host per ``REFINEMENTS`` evaluations, to stop when all rows are done.

    Returns
    -------
    tuple of Tensor, shape (batch,), and int
        The position, and the number of values read.
    """
    zero, one = torch.zeros_like(piece.h), torch.ones_like(piece.h)
    side = side.to(piece.h.dtype)
    bracket = Bracket(zero, one, side * value(piece.t, piece.y), side * at_end, zero, one, one)
    resolution = 4.0 * torch.finfo(piece.h.dtype).eps
    for look in range(1, LOOKS + 1):
        bracket = narrow(value, piece, side, bracket, REFINEMENTS)
        done = (bracket.change <= resolution) & (bracket.high - bracket.low <= CLOSE)
        if bool((done | ~wanted).all()):
            break
    return torch.where(done, bracket.guess, bracket.high), look


def settle(value: Value, rate: Rate, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Make a located time and its state differentiable, twice, by two Newton steps along the flow.

    .. math:: \tau = t - g(t, y) / \dot g, \qquad \dot g = g_t + g_y f .

    Starting from a root without derivatives, one step gives the first derivatives of the time and two give the
    second ones, as each step squares the error of the expansion. Where the solution runs along the event's
    surface there is no slope to divide by; the third result marks these rows, whose time and state stay as they
    are.
    """
    time, grazing = t.detach(), torch.zeros_like(t, dtype=torch.bool)
    for _ in range(NEWTON_STEPS):
        found = slope_of(value, rate, time, y)
        grazing = grazing | (found.slope.detach().abs() <= torch.finfo(y.dtype).eps ** 0.5 * found.scale)
        step = torch.where(grazing, 0.0, -found.value / torch.where(grazing, 1.0, found.slope))
        later = time + step.to(time.dtype)
        time, y = later, move(rate, time, later, y)
    return time, y, grazing


class Slope(NamedTuple):
    """An event function and its derivative along the solution; every entry has shape (batch,).

    Attributes
    ----------
    value, slope : Tensor
        ``g`` and ``g_t + g_y f``; differentiable where gradients are recorded.
    scale : Tensor
        ``|g_y| |f| + |g_t|``: a slope far below it is rounding.
    allowed : Tensor
        What the allowed error of the state makes of ``g``; zero without a tolerance.
    """

    value: Tensor
    slope: Tensor
    scale: Tensor
    allowed: Tensor


def slope_of(value: Value, rate: Rate, t: Tensor, y: Tensor, tolerance: Tolerance | None = None) -> Slope:
    """Evaluate an event function and its derivative along the solution."""
    recorded = torch.is_grad_enabled()
    with torch.enable_grad():
        time = t if recorded and t.requires_grad else t.detach().requires_grad_()
        state = y if recorded and y.requires_grad else y.detach().requires_grad_()
        g = value(time, state)
        slopes: tuple[Tensor | None, ...] = (None, None)
        if g.requires_grad:
            slopes = torch.autograd.grad(g.sum(), (time, state), create_graph=recorded, allow_unused=True)
    if not recorded:
        g = g.detach()
    along = rate(t, y)
    normal = torch.zeros_like(y) if slopes[1] is None else slopes[1]
    drift = torch.zeros_like(g) if slopes[0] is None else slopes[0].to(g.dtype)
    slope = (normal.conj() * along).real.sum(dim=-1) if y.is_complex() else (normal * along).sum(dim=-1)
    size = normal.detach().abs()
    scale = (size * along.detach().abs()).sum(dim=-1) + drift.detach().abs()
    allowed = torch.zeros_like(scale)
    if tolerance is not None:
        allowed = (size * tolerance.scale(y.detach().abs())).sum(dim=-1)
    return Slope(g, slope + drift, scale, allowed)


@torch.no_grad()
def side_of(value: Value, rate: Rate, t: Tensor, y: Tensor, tolerance: Tolerance | None) -> Tensor:
    """Side of the surface on which a solution sets out: −1, +1, or 0 if it stays on it.

    On the surface (with a tolerance, within the error that it allows) it is the side towards which the solution
    leaves.
    """
    found = slope_of(value, rate, t, y, tolerance)
    leaves = torch.where(found.slope.abs() > torch.finfo(y.dtype).eps ** 0.5 * found.scale, found.slope.sign(), 0.0)
    return torch.where(found.value.abs() <= found.allowed, leaves, found.value.sign())

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

# largest number of times that the host looks whether all samples are done
LOOKS = 10
# width of a bracket, in units of the step, from which Newton's method is exact in one step
FINE = 2.0**-36
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
        Its values there times the old sign.
    """

    low: Tensor
    high: Tensor
    at_low: Tensor
    at_high: Tensor


def narrow(value: Value, piece: Piece, side: Tensor, bracket: Bracket) -> Bracket:
    """Evaluate ``value`` at three more positions; the host reads nothing.

    A bisection, which bounds the work for functions that are not smooth; a secant through the ends of the bracket;
    and a second secant that reaches a little beyond its root, so that the end that stayed comes close too.
    """
    resolution = 2.0 * torch.finfo(piece.h.dtype).eps
    for kind in ("bisection", "secant", "beyond"):
        low, high, at_low, at_high = bracket
        x = middle = 0.5 * (low + high)
        if kind != "bisection":
            root = (low * at_high - high * at_low) / (at_high - at_low)
            if kind == "beyond":
                near_low = root - low < high - root
                reach = (4.0 * torch.where(near_low, root - low, high - root)).clamp_min(resolution)
                root = torch.where(near_low, root + reach, root - reach)
            x = torch.where((at_low > 0) & (root >= low) & (root <= high), root, middle)
        found = side * value(torch.addcmul(piece.t, x, piece.h), piece.at(x))
        same = found > 0
        bracket = Bracket(
            low=torch.where(same, x, low),
            high=torch.where(same, high, x),
            at_low=torch.where(same, found, at_low),
            at_high=torch.where(same, at_high, found),
        )
    return bracket


@torch.no_grad()
def on_step(value: Value, piece: Piece, side: Tensor, at_end: Tensor, wanted: Tensor) -> tuple[Tensor, int]:
    """Position θ in (0, 1] where ``value`` loses the sign ``side`` in the rows that are ``wanted``.

    One value is read by the host per six evaluations, to stop when all rows are done.

    Returns
    -------
    tuple of Tensor, shape (batch,), and int
        The position, and the number of values read.
    """
    zero, one = torch.zeros_like(piece.h), torch.ones_like(piece.h)
    side = side.to(piece.h.dtype)
    bracket = Bracket(zero, one, side * value(piece.t, piece.y), side * at_end)
    resolution = max(FINE, 8.0 * torch.finfo(piece.h.dtype).eps)
    reads, done = 0, torch.zeros_like(wanted)
    while reads < LOOKS:
        closer = narrow(value, piece, side, narrow(value, piece, side, bracket))
        # rows that are done stay as they are, so that none depends on how long the others take
        bracket = Bracket(*(torch.where(done, old, new) for old, new in zip(bracket, closer, strict=True)))
        done, reads = bracket.high - bracket.low <= resolution, reads + 1
        if bool((done | ~wanted).all()):
            break
    return bracket.high, reads


def settle(value: Value, rate: Rate, t: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Make a located time and its state differentiable, twice, by two Newton steps along the flow.

    .. math:: \tau = t - g(t, y) / \dot g, \qquad \dot g = g_t + g_y f .

    Starting from a root without derivatives, one step gives the first derivatives of the time and two give the
    second ones, as each step squares the error of the expansion. Where the solution runs along the event's
    surface there is no slope to divide by; the third result marks these rows. Their time and state stay as they
    are, like those outside ``rows``.
    """
    time, grazing = t.detach(), torch.zeros_like(t, dtype=torch.bool)
    for _ in range(NEWTON_STEPS):
        found = slope_of(value, rate, time, y)
        grazing = grazing | (found.slope.detach().abs() <= torch.finfo(y.dtype).eps ** 0.5 * found.scale)
        fixed = grazing | ~rows
        step = torch.where(fixed, 0.0, -found.value / torch.where(fixed, 1.0, found.slope))
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
        # aliases, as the state may depend on the time and partial derivatives are wanted
        time = t.view_as(t) if recorded and t.requires_grad else t.detach().requires_grad_()
        state = y.view_as(y) if recorded and y.requires_grad else y.detach().requires_grad_()
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
    scale = normal.detach().norm(dim=-1) * along.detach().norm(dim=-1) + drift.detach().abs()
    allowed = torch.zeros_like(scale)
    if tolerance is not None:
        allowed = (normal.detach().abs() * tolerance.scale(y.detach().abs())).sum(dim=-1)
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

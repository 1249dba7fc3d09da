"""What ``solve_sde`` accepts, checked before the first step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scidyn._check.tensors import finite, floating, increasing
from scidyn._check.values import choice, did_you_mean
from scidyn.errors import OptionError, ShapeError
from scidyn.solvers.sde.methods import METHODS, Method
from scidyn.solvers.sde.terms import Terms

__all__ = ["CALCULUS", "NOISE", "check_declaration", "check_state", "check_times", "make_terms", "select_method"]

NOISE = ("diagonal", "additive", "scalar", "general")
CALCULUS = ("ito", "stratonovich")
OWN_ENTRY = ("milstein", "milstein_free", "sriw1", "weak2")
DEFAULT = {
    ("ito", "diagonal"): "sriw1",
    ("ito", "additive"): "sra1",
    ("ito", "scalar"): "sriw1",
    ("ito", "general"): "euler_maruyama",
    ("stratonovich", "diagonal"): "midpoint",
    ("stratonovich", "additive"): "sra1",
    ("stratonovich", "scalar"): "midpoint",
    ("stratonovich", "general"): "midpoint",
}


def check_state(y0: Any) -> Tensor:
    """Return ``y0`` if it is a finite floating tensor (batch, *state)."""
    if not isinstance(y0, Tensor):
        raise ShapeError(f"y0 must be a tensor of shape (batch, *state); got {type(y0).__name__}.")
    floating("y0", y0)
    if y0.ndim < 2 or y0.numel() == 0:
        raise ShapeError(f"y0 must have shape (batch, *state) with at least one entry; got {tuple(y0.shape)}.")
    finite("y0", y0.detach(), "Give finite initial values.")
    return y0


def check_times(t: Any) -> list[float]:
    """Return two or more strictly increasing times as floats."""
    times = torch.as_tensor(t, device="cpu" if not isinstance(t, Tensor) else t.device).to(torch.float64)
    if times.ndim != 1 or len(times) < 2:
        raise ShapeError(f"t must have shape (T,) with T >= 2, the first being the start; got {tuple(times.shape)}.")
    values: list[float] = increasing("t", times.detach().cpu()).tolist()
    return values


def select_method(name: str | None, calculus: str, noise: str) -> Method:
    """Find the method, or say which ones fit the problem."""
    choice("calculus", calculus, CALCULUS)
    choice("noise", noise, NOISE)
    name = DEFAULT[calculus, noise] if name is None else name
    other = CALCULUS[1 - CALCULUS.index(calculus)]
    known = sorted({*METHODS["ito"], *METHODS["stratonovich"]})
    if name not in known:
        raise OptionError(f"method must be one of {', '.join(known)}; got {name!r}.{did_you_mean(name, known)}")
    fitting = [m for m in METHODS[calculus] if noise in METHODS[calculus][m].noises]
    if name not in METHODS[calculus]:
        if noise == "additive":  # both calculi agree
            return METHODS[other][name]
        raise OptionError(
            f"method {name!r} converges to the {other} solution, the problem is declared {calculus}: "
            f"use one of {', '.join(fitting)}, or convert the drift."
        )
    method = METHODS[calculus][name]
    if noise not in method.noises:
        raise OptionError(
            f"method {name!r} is for {' or '.join(method.noises)} noise, the problem is declared {noise}: "
            f"use one of {', '.join(fitting)}."
        )
    if name == "euler_maruyama" and calculus == "stratonovich" and noise != "additive":
        raise OptionError(
            "method 'euler_maruyama' converges to the ito solution, the problem is declared stratonovich: "
            f"use one of {', '.join(m for m in fitting if m != name)}, or convert the drift."
        )
    return method


def make_terms(
    drift: Callable[..., Tensor], diffusion: Callable[..., Tensor], args: Any, t0: float, y0: Tensor, noise: str
) -> tuple[Terms, tuple[int, ...]]:
    """Call both functions once, check what they return, and give the terms and the shape of dW."""
    for name, given in (("drift", drift), ("diffusion", diffusion)):
        if not callable(given):
            raise OptionError(f"{name} must be a callable {name}(t, y); got {type(given).__name__}.")
    terms = Terms(drift, diffusion, args, False)
    t = torch.full((), t0, dtype=y0.real.dtype, device=y0.device)
    with torch.no_grad():
        f, g = terms.f(t, y0.detach()), terms.g(t, y0.detach())
    for name, x in (("drift", f), ("diffusion", g)):
        if not isinstance(x, Tensor):
            raise ShapeError(f"{name} returned a {type(x).__name__}; a tensor is needed.")
        if x.dtype != y0.dtype or x.device != y0.device:
            raise ShapeError(
                f"{name} returned {x.dtype} on {x.device}, the state is {y0.dtype} on {y0.device}: use one for both."
            )
    if f.shape != y0.shape:
        raise ShapeError(f"drift returned shape {tuple(f.shape)}, the state has {tuple(y0.shape)}.")
    same = g.shape == y0.shape
    matrix = y0.ndim == 2 and g.ndim == 3 and g.shape[:2] == y0.shape
    if noise == "diagonal" and not same:
        raise ShapeError(
            f"diffusion returned shape {tuple(g.shape)}; diagonal noise needs that of the state, {tuple(y0.shape)}."
        )
    if noise == "general" and not matrix:
        raise ShapeError(
            f"diffusion returned shape {tuple(g.shape)}; general noise needs (batch, D, m) for a state (batch, D), "
            f"here ({y0.shape[0]}, {y0.shape[1]}, m)."
        )
    if noise in ("scalar", "additive") and not (same or matrix):
        raise ShapeError(
            f"diffusion returned shape {tuple(g.shape)}; {noise} noise needs {tuple(y0.shape)} "
            "or (batch, D, m) for a state (batch, D)."
        )
    if noise == "scalar" and matrix and g.shape[-1] != 1:
        raise ShapeError(f"scalar noise has one channel; diffusion returned {g.shape[-1]} of them.")
    terms.matrix = matrix
    if matrix:
        return terms, (y0.shape[0], g.shape[-1])
    return terms, (y0.shape[0], *([1] * (y0.ndim - 1))) if noise == "scalar" else tuple(y0.shape)


@torch.no_grad()
def check_declaration(terms: Terms, noise: str, t0: float, y0: Tensor, method: Method) -> None:
    """Refuse a diffusion that depends on the state in a way that the declared noise rules out."""
    if noise not in ("additive", "diagonal"):
        return
    t = torch.full((), t0, dtype=y0.real.dtype, device=y0.device)
    y = y0.detach()
    g = terms.g(t, y)
    shift = 0.1 + 0.1 * y.abs()
    if noise == "additive":
        if not _alike(terms.g(t, y + shift), g):
            raise OptionError(
                "diffusion changes with the state, so the noise is not additive: declare noise='diagonal', "
                "'scalar' or 'general'."
            )
        return
    if method.name not in OWN_ENTRY:
        return
    even = torch.arange(y[0].numel(), device=y.device).reshape(y.shape[1:]) % 2 == 0
    if not bool(even.all()):
        moved = (terms.g(t, torch.where(even, y + shift, y)), terms.g(t, torch.where(even, y, y + shift)))
        if not (_alike(moved[0][:, ~even], g[:, ~even]) and _alike(moved[1][:, even], g[:, even])):
            raise OptionError(
                f"method {method.name!r} is for diagonal noise in the strict sense, entry i of diffusion a function of "
                "entry i of the state, but it depends on other entries: use method='euler_maruyama' (Itô) or "
                "'midpoint' (Stratonovich)."
            )


def _alike(a: Tensor, b: Tensor) -> bool:
    """Equal up to rounding; NaN equals NaN."""
    eps = torch.finfo(a.dtype).eps
    return torch.allclose(a, b, rtol=100 * eps, atol=100 * eps, equal_nan=True)

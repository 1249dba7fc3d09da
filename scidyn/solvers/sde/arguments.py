"""What ``solve_sde`` accepts: every argument is checked here, before the first step."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from scidyn._check.tensors import finite, floating, increasing
from scidyn._check.values import choice
from scidyn.errors import OptionError, ShapeError
from scidyn.solvers.sde.methods import SDE_METHODS, SDEMethod
from scidyn.solvers.sde.terms import Terms

__all__ = [
    "Equation",
    "check_dependence",
    "check_method",
    "check_rows",
    "check_start",
    "check_terms",
    "check_times",
    "make_terms",
]

NOISE = ("diagonal", "additive", "scalar", "general")
CALCULUS = ("ito", "stratonovich")
SIMPLE = {"ito": "'euler'", "stratonovich": "'heun' or 'midpoint'"}
INSTEAD = {"ito": "'euler', 'milstein' or 'sriw1'", "stratonovich": "'heun', 'midpoint' or 'reversible_heun'"}


class Equation(NamedTuple):
    """Terms, the prior's drift if there is one, and who owns parameters."""

    terms: Terms
    owners: tuple[Any, ...]
    prior: Any


def check_start(y0: Any) -> Tensor:
    """Refuse initial states that no step could use."""
    if not isinstance(y0, Tensor):
        raise ShapeError(f"y0 must be a tensor of shape (batch, *state); got {type(y0).__name__}: use torch.as_tensor.")
    floating("y0", y0)
    _refuse_transforms("y0", y0)
    if y0.ndim < 2 or y0.numel() == 0:
        raise ShapeError(f"y0 must have shape (batch, *state) with at least one entry; got {tuple(y0.shape)}.")
    finite("y0", y0.detach(), "Give finite initial values.")
    return y0


def _refuse_transforms(name: str, value: Tensor) -> None:
    """Say what to do in place of ``torch.func.vmap`` and ``torch.func.grad``, through which no noise can be drawn."""
    if torch._C._functorch.is_functorch_wrapped_tensor(value):
        raise OptionError(
            f"{name} is inside torch.func.vmap or torch.func.grad, which a stochastic solve does not support: put what "
            "is mapped over along the rows of y0, and take gradients with torch.autograd.grad."
        )


def check_times(t: Any) -> Tensor:
    """Bring the times to report to double precision on the host."""
    try:
        times = torch.as_tensor(t, dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError) as problem:
        raise ShapeError(f"t must be a tensor or a sequence of numbers; got {type(t).__name__}: {problem}") from None
    if times.ndim != 1 or len(times) < 2:
        raise ShapeError(f"t must have shape (time,) with at least two times; got {tuple(times.shape)}.")
    return increasing("t", times)


def make_terms(drift: Any, diffusion: Any, args: Any, noise: str | None, calculus: str | None, prior: Any) -> Equation:
    """Take two callables, or one object with methods ``f``, ``g`` and, for the prior, ``h``."""
    owners: tuple[Any, ...] = (drift, diffusion)
    if diffusion is None:
        model = drift
        if not (hasattr(model, "f") and hasattr(model, "g")):
            raise OptionError(
                f"pass drift and diffusion as two callables, or one object with methods f and g and diffusion=None; "
                f"got {type(model).__name__} alone."
            )
        noise = getattr(model, "noise_type", None) if noise is None else noise
        calculus = getattr(model, "sde_type", None) if calculus is None else calculus
        if prior is True:
            prior = getattr(model, "h", None)
            if prior is None:
                raise OptionError("prior_drift=True takes the method h of the object, which has none.")
        drift, diffusion, owners = model.f, model.g, (model,)
    for name, value in (("drift", drift), ("diffusion", diffusion)):
        if not callable(value):
            raise OptionError(f"{name} must be a callable {name}(t, y); got {type(value).__name__}.")
    if prior is not None and not callable(prior):
        raise OptionError(f"prior_drift must be a callable of (t, y); got {prior!r}.")
    kind = choice("noise", "diagonal" if noise is None else noise, NOISE)
    meaning = choice("calculus", "ito" if calculus is None else calculus, CALCULUS)
    return Equation(Terms(drift, diffusion, args, kind, meaning), owners, prior)


def check_terms(terms: Terms, t: Tensor, y: Tensor) -> Terms:
    """Evaluate once at the start, learn the shape of the noise and refuse what no step could use."""
    f, g = terms.f(t, y), terms.g(t, y)
    for name, value in (("drift", f), ("diffusion", g)):
        if not isinstance(value, Tensor) or value.dtype != y.dtype or value.device != y.device:
            found = f"{value.dtype} on {value.device}" if isinstance(value, Tensor) else type(value).__name__
            raise ShapeError(f"{name} returned {found}; a tensor of {y.dtype} on {y.device} is needed.")
        _refuse_transforms(name, value)
    if f.shape != y.shape:
        raise ShapeError(f"drift returned shape {tuple(f.shape)}; the state has shape {tuple(y.shape)}.")
    terms.matrix = _is_matrix(terms.noise, g, y)
    terms.channels = tuple(g.shape[2:]) if terms.matrix else tuple(y.shape[1:])
    return terms


def _is_matrix(noise: str, g: Tensor, y: Tensor) -> bool:
    """Whether ``g`` is (B, D, m) rather than elementwise."""
    elementwise = g.shape == y.shape
    matrix = y.ndim == 2 and g.ndim == 3 and g.shape[:2] == y.shape
    wanted = {
        "diagonal": elementwise,
        "additive": elementwise or matrix,
        "scalar": matrix and g.shape[-1] == 1,
        "general": matrix,
    }
    if not wanted[noise]:
        shape = {"diagonal": tuple(y.shape), "scalar": (*y.shape[:2], 1)}.get(noise, (*y.shape[:2], "m"))
        raise ShapeError(
            f"{noise} noise needs diffusion of shape {shape}; it returned {tuple(g.shape)} for a state of "
            f"{tuple(y.shape)}: correct the diffusion or the declared noise."
        )
    return matrix and not elementwise


def check_dependence(terms: Terms, method: SDEMethod, t: Tensor, y: Tensor) -> None:
    """Move the state and see whether the diffusion answers as the declared noise and the method allow."""
    scale = 1e-2 * (1.0 + y.abs())
    if terms.noise == "additive":
        if bool((terms.g(t, y + scale) != terms.g(t, y)).any()):
            raise OptionError(
                "the noise is declared additive, but the diffusion changes with the state: "
                "declare noise='diagonal', 'scalar' or 'general'."
            )
        return
    if terms.noise != "diagonal" or not method.about.componentwise or y[0].numel() < 2:
        return
    g = terms.g(t, y)
    flat = torch.arange(y[0].numel(), device=y.device).reshape(y.shape[1:])
    for mask in (flat % 2 == 0, flat % 2 == 1):
        change = (terms.g(t, torch.where(mask, y + scale, y)) - g).abs()
        if bool((~mask & (change > 1e-4 * (1e-12 + g.abs()))).any()):
            raise OptionError(
                f"method {method.about.name!r} needs each component of a diagonal diffusion to depend on its own "
                f"component of the state alone, and here one depends on another: use {SIMPLE[terms.calculus]}."
            )


def check_rows(terms: Terms, t: Tensor, y: Tensor) -> None:
    """Move every second row in time and state, and see that the drift and diffusion of the others stay."""
    odd = torch.arange(len(y), device=y.device) % 2 == 1
    times = torch.where(odd, t + 1e-2, t)
    mask = odd.view(-1, *([1] * (y.ndim - 1)))
    moved = torch.where(mask, y + 1e-2 * (1.0 + y.abs()), y)
    for name, function in (("drift", terms.f), ("diffusion", terms.g)):
        try:
            here, there = function(t, y), function(times, moved)
        except RuntimeError as problem:
            raise ShapeError(
                f"stepping='per_sample' calls {name} with one time for each row, t of shape ({len(y)},), which it does "
                f"not take ({str(problem).splitlines()[0]}): write t.reshape(-1, 1) where t meets the state."
            ) from None
        gap = (here - there).abs().flatten(1).amax(1)
        if bool((~odd & (gap > 1e-5 * (1e-12 + here.abs().amax()))).any()):
            raise OptionError(
                f"stepping='per_sample' needs a {name} whose rows depend on their own times and states alone, and here "
                "one depends on another: write t.reshape(-1, 1) where t meets the state, or use stepping='shared'."
            )


def check_method(method: str | None, terms: Terms) -> SDEMethod:
    """Look the method up and see that it converges to this equation's solution."""
    if method is None:
        fallback = {"ito": "euler", "stratonovich": "heun"}[terms.calculus]
        method = "shark" if terms.noise == "additive" else fallback
    found = SDE_METHODS[choice("method", method, SDE_METHODS)]
    about = found.about
    if terms.noise not in about.noise:
        raise OptionError(
            f"method {about.name!r} holds for {', '.join(sorted(about.noise))} noise; the noise is {terms.noise}: "
            f"use {INSTEAD[terms.calculus] if terms.noise != 'general' else _general(terms.calculus)}."
        )
    if terms.noise != "additive" and terms.calculus not in about.calculus:
        other = next(iter(about.calculus))
        raise OptionError(
            f"method {about.name!r} converges to the {_spelled(other)} solution; the equation is declared "
            f"{_spelled(terms.calculus)}: use {INSTEAD[terms.calculus]}, or convert the drift."
        )
    return found


def _general(calculus: str) -> str:
    """Methods for general noise."""
    return "'euler', 'milstein' or 'platen'" if calculus == "ito" else "'heun' or 'midpoint'"


def _spelled(calculus: str) -> str:
    """Name of a calculus in prose."""
    return {"ito": "Itô", "stratonovich": "Stratonovich"}[calculus]

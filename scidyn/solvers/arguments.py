"""What ``solve_ode`` accepts: every argument is checked here, before the first step."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scidyn._check.tensors import finite, floating
from scidyn._check.values import choice, integer, number
from scidyn.errors import OptionError, ShapeError, SolverWarning, TimeGridError
from scidyn.solvers.controller import Controller, Tolerance, choose_controller
from scidyn.solvers.field import Field
from scidyn.solvers.methods import METHODS, Method
from scidyn.solvers.packing import Packed
from scidyn.solvers.precision import HALF, working_precision
from scidyn.solvers.predictive import Gustafsson

__all__ = ["Problem", "prepare"]

STEPPING = ("shared", "per_sample", "fixed")
ADJOINT = ("auto", "discrete", "direct", "timeparallel", "forward", "reversible", "backsolve", "interpolating", None)
BACKEND = ("native", "scipy", "torchdiffeq")
BACKEND_ADJOINTS = {
    "native": ADJOINT,
    "scipy": ("auto", "discrete", "direct", "timeparallel", "forward", "interpolating", None),
    "torchdiffeq": ("auto", "discrete", "direct", "backsolve", None),
}
NORM = ("max", "rms_all")
ON_FAILURE = ("raise", "warn", "return")
SAVE = (None, "steps", "step_to")
COARSEST_RTOL = 1e-2
DEFAULTS = {
    torch.float16: (1e-2, 1e-3),
    torch.bfloat16: (1e-2, 1e-3),
    torch.float32: (1e-4, 1e-6),
    torch.complex64: (1e-4, 1e-6),
    torch.float64: (1e-6, 1e-9),
    torch.complex128: (1e-6, 1e-9),
}


class Problem(NamedTuple):
    """A checked problem in the solver's own coordinates.

    Attributes
    ----------
    field : Field
        Vector field on rows, in increasing time.
    method : Method
        The one-step method.
    y0 : Tensor, shape (batch, D)
        Initial rows, still attached to the caller's graph.
    times : Tensor, shape (1, T) or (batch, T)
        Increasing times to report, NaN-padded at the end of a row.
    user_times : Tensor, shape (T,) or (batch, T)
        The caller's times.
    state : tuple of int
        Shape of one sample's state.
    tolerance : Tolerance
        Allowed local error.
    stepping : str
        "shared", "per_sample" or "fixed".
    controller : Controller
        How the step adapts.
    dt0, dt_min, dt_max : float or None
        First, smallest and largest step.
    max_steps : int
        Largest number of attempted steps per sample.
    targets : Tensor, shape (1, K) or (batch, K), or None
        Increasing times on which steps are to end, padded with infinity.
    """

    field: Field
    method: Method
    y0: Tensor
    times: Tensor
    user_times: Tensor
    state: tuple[int, ...]
    tolerance: Tolerance
    stepping: str
    controller: Controller | Gustafsson
    dt0: float | None
    dt_min: float | None
    dt_max: float | None
    max_steps: int
    targets: Tensor | None = None

    @property
    def start(self) -> Tensor:
        """First time of each row."""
        return self.times[:, 0]

    @property
    def end(self) -> Tensor:
        """Last time of each row that is not padding."""
        return self.times.nan_to_num(nan=-torch.inf).amax(dim=1)


def prepare(
    f: Callable[..., Tensor],
    y0: Tensor,
    t: Any,
    *,
    args: Any,
    method: str | Method,
    rtol: Any,
    atol: Any,
    dt0: Any = None,
    dt_min: Any = None,
    dt_max: Any = None,
    max_steps: Any = 4096,
    stepping: str | None = None,
    controller: Controller | Gustafsson | str | None = None,
    norm: str = "max",
    step_times: Any = None,
    save: str | None = None,
) -> Problem:
    """Check everything and bring it into the solver's coordinates."""
    if not callable(f):
        raise OptionError(f"f must be a callable f(t, y) or f(t, y, args); got {type(f).__name__}.")
    stepper = METHODS[choice("method", method, METHODS)] if isinstance(method, str) else method
    mode = _stepping(stepping, stepper)
    if choice("norm", norm, NORM) == "rms_all" and mode == "per_sample":
        raise OptionError("norm='rms_all' joins all samples and needs stepping='shared'; each has its own here.")
    state = _initial_state(y0, mode, rtol)
    user_times = _times(t, y0, mode)
    batch = 1 if y0.ndim <= 1 else y0.shape[0]
    times = user_times.reshape(1, -1) if user_times.ndim == 1 else user_times
    if times.shape[0] not in (1, batch):
        raise ShapeError(f"t has {times.shape[0]} rows, y0 has {batch} samples: give one row of times per sample.")
    sign = _direction(times)
    times = times * sign
    if mode == "per_sample":
        times = times.expand(batch, -1)
    _ordered(times, sign, user_times.ndim == 2)
    field = Field(f, args, y0.shape, sign, mode == "per_sample")
    return Problem(
        field=field,
        method=stepper,
        y0=y0.reshape(batch, -1),
        times=times,
        user_times=user_times,
        state=tuple(state),
        tolerance=_tolerance(rtol, atol, y0, state, mode != "per_sample")._replace(
            worst=norm == "max", leaves=f.layout.sizes if isinstance(f, Packed) else ()
        ),
        stepping=mode,
        controller=choose_controller(controller),
        dt0=None if dt0 is None else number("dt0", dt0, above=0),
        dt_min=None if dt_min is None else number("dt_min", dt_min, above=0),
        dt_max=None if dt_max is None else number("dt_max", dt_max, above=0),
        max_steps=integer("max_steps", max_steps, at_least=1),
        targets=_targets(step_times, times.detach(), sign, choice("save", save, SAVE) == "step_to"),
    )


def _stepping(stepping: str | None, method: Method) -> str:
    """Choose the stepping: adaptive methods share steps by default, the others take fixed ones."""
    if stepping is None:
        return "shared" if method.adaptive else "fixed"
    choice("stepping", stepping, STEPPING)
    if stepping != "fixed" and not method.adaptive:
        raise OptionError(
            f"method {method.name!r} has no error estimate and cannot use stepping={stepping!r}: "
            "pass stepping='fixed' with dt0, or method='tsit5'."
        )
    return stepping


def _initial_state(y0: Any, stepping: str, rtol: Any) -> torch.Size:
    """Check ``y0`` and return the shape of one sample's state."""
    if not isinstance(y0, Tensor):
        raise ShapeError(f"y0 must be a tensor of shape (batch, *state); got {type(y0).__name__}: use torch.as_tensor.")
    floating("y0", y0)
    loose = stepping == "fixed" or (rtol is not None and number("rtol", rtol, above=0) >= COARSEST_RTOL)
    if y0.dtype not in DEFAULTS or (y0.dtype in HALF and not loose):
        raise ShapeError(
            f"y0 has dtype {y0.dtype}, which is too coarse to control the error in: pass y0.to(torch.float32), "
            f"fixed steps, or rtol of at least {COARSEST_RTOL:g}."
        )
    if y0.numel() == 0:
        raise ShapeError(f"y0 has shape {tuple(y0.shape)} and holds no number: give at least one sample and state.")
    finite("y0", y0.detach(), "Give finite initial values.")
    return y0.shape[1:] if y0.ndim > 1 else y0.shape


def _times(t: Any, y0: Tensor, stepping: str) -> Tensor:
    """Check the shape of the times and bring them to the solver's time dtype and device."""
    wide = torch.float32 if y0.device.type == "mps" else torch.float64
    try:
        # numbers of Python are double: as a tensor of the default dtype they would be rounded
        times = (t if isinstance(t, Tensor) else torch.as_tensor(t, dtype=wide)).to(device=y0.device, dtype=wide)
    except (TypeError, ValueError, RuntimeError) as problem:
        raise ShapeError(f"t must be a tensor or a sequence of numbers; got {type(t).__name__}: {problem}") from None
    if times.ndim not in (1, 2) or times.shape[-1] == 0:
        raise ShapeError(f"t must have shape (time,) or (batch, time); got {tuple(times.shape)}.")
    if times.ndim == 2 and stepping != "per_sample":
        raise OptionError(
            f"t of shape {tuple(times.shape)} gives each sample its own times: pass stepping='per_sample'."
        )
    return times


def _targets(step_times: Any, times: Tensor, sign: float, at_times: bool) -> Tensor | None:
    """Times on which steps are to end, in increasing time; those outside the span have no effect."""
    parts = [torch.where(torch.isnan(times), torch.inf, times)] if at_times else []
    if step_times is not None:
        try:
            given = torch.as_tensor(step_times, dtype=times.dtype).detach().to(device=times.device)
        except (TypeError, ValueError, RuntimeError) as problem:
            raise ShapeError(f"step_times must be a sequence of numbers; got {type(step_times).__name__}.") from problem
        if given.ndim not in (1, 2) or (given.ndim == 2 and given.shape[0] != times.shape[0]):
            raise ShapeError(
                f"step_times must have shape (K,), or a row for each of {times.shape[0]} rows of times; "
                f"got {tuple(given.shape)}."
            )
        finite("step_times", given)
        parts.append((sign * given).expand(times.shape[0], -1))
    if not parts or not sum(part.shape[1] for part in parts):
        return None
    joined = torch.cat(parts, dim=1)
    return torch.where(joined > times[:, :1], joined, torch.inf).sort(dim=1).values


def _direction(times: Tensor) -> float:
    """Give −1.0 if every row runs backwards in time, else 1.0; a row of one time fits both."""
    last = times.detach().nan_to_num(nan=-torch.inf).amax(dim=1)
    first = times.detach()[:, 0]
    return -1.0 if bool((last <= first).all()) and bool((times.detach() < first.unsqueeze(1)).any()) else 1.0


def _ordered(times: Tensor, sign: float, rows: bool) -> None:
    """Refuse times that are infinite, go back, or have NaN elsewhere than at the end of a row."""
    values = times.detach()
    if rows:
        missing = torch.isnan(values)
        gap = missing[:, :-1] & ~missing[:, 1:]
        if bool(gap.any()) or bool(missing[:, 0].any()):
            row = int((gap.any(dim=1) | missing[:, 0]).to(torch.uint8).argmax())
            raise TimeGridError(f"t[{row}] has NaN before its last time: NaN may only pad the end of a row.")
        finite("t", values.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf))
    else:
        finite("t", values[0])
    back = values[:, 1:] < values[:, :-1]
    if bool(back.any()):
        flat = int(back.reshape(-1).to(torch.uint8).argmax())
        sample, row = divmod(flat, back.shape[1])
        before, after = (sign * values[sample, row]).item(), (sign * values[sample, row + 1]).item()
        where = f"t[{sample}]" if rows else "t"
        raise TimeGridError(
            f"{where} must be sorted: row {row + 1} turns from {before:g} to {after:g}; sort the times "
            "(decreasing times solve backwards)."
        )


def _tolerance(rtol: Any, atol: Any, y0: Tensor, state: torch.Size, together: bool) -> Tolerance:
    """Check the tolerances and fill in the defaults of the dtype."""
    default_rtol, default_atol = DEFAULTS[y0.dtype]
    relative = default_rtol if rtol is None else number("rtol", rtol, above=0)
    floor = 0.0 if y0.dtype in HALF else 100 * torch.finfo(y0.dtype).eps
    if relative < floor:
        warnings.warn(
            f"rtol={relative:g} is below the resolution of {y0.dtype} and was raised to {floor:.2g}; "
            "use torch.float64 for smaller errors.",
            SolverWarning,
            stacklevel=4,
        )
        relative = floor
    real = working_precision(y0)
    if isinstance(atol, Tensor) and atol.ndim > 0:
        if atol.shape != state:
            raise ShapeError(f"atol has shape {tuple(atol.shape)}, one sample's state has {tuple(state)}.")
        finite("atol", atol)
        if bool((atol < 0).any()):
            raise OptionError(f"atol must be >= 0; its smallest entry is {atol.min().item():g}.")
        absolute = atol.to(device=y0.device, dtype=real).reshape(-1)
    else:
        value = default_atol if atol is None else number("atol", atol, at_least=0)
        absolute = torch.full((), value, dtype=real, device=y0.device)
    return Tolerance(torch.full((), relative, dtype=real, device=y0.device), absolute, together)


def check_choices(adjoint: str | None, backend: str, on_failure: str, compile: bool | str) -> None:
    """Check the options that are plain choices."""
    choice("adjoint", adjoint, ADJOINT)
    choice("backend", backend, BACKEND)
    if adjoint not in BACKEND_ADJOINTS[backend]:
        raise OptionError(
            f"adjoint={adjoint!r} does not go with backend={backend!r}: pass backend='native', or adjoint='discrete'."
        )
    choice("on_failure", on_failure, ON_FAILURE)
    choice("compile", compile, (False, True, "auto"))

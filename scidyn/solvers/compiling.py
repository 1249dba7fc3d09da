"""Compile the step of a solver once per vector field, method and shape; fall back to plain code."""

from __future__ import annotations

import sys
import threading
import time
import types
import warnings
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import torch

from scidyn.errors import SolverWarning
from scidyn.solvers.arguments import Problem
from scidyn.solvers.attempt import Bounds, LoopState, Outcome, attempts, steps_per_read
from scidyn.solvers.field import Field
from scidyn.solvers.generated import generated_solver
from scidyn.solvers.loop import Trace
from scidyn.solvers.packing import Packed
from scidyn.solvers.precision import UnderAutocast

__all__ = ["stepper", "whole_solve"]

# seconds spent in plain steps after which compiling is expected to pay: about what it costs
PAYS_AFTER = 10.0
PROGRAM_PAYS_AFTER = 2.0
LARGEST_CACHE = 64
# steps in one compiled function: calling it costs more than a small step
STEPS = 2


class _Entry:
    """What is known about one step: time spent so far, the compiled function, whether it failed."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.function: Callable[..., Outcome] | None = None
        self.broken = False


_cache: weakref.WeakKeyDictionary[Any, dict[Hashable, _Entry]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def stepper(
    problem: Problem, compile: bool | str, plain: Callable[[LoopState, Bounds], Outcome] | None = None
) -> Callable[[LoopState, Bounds], Outcome]:
    """Give the function that tries one step.

    ``compile=True`` compiles now, ``"auto"`` once plain steps of this kind have taken as long as compiling
    would, False never. Times, tolerances and bounds on the step are tensors, so changing them compiles
    nothing. What cannot be compiled runs as plain code after one warning.
    """
    field, method, controller = problem.field, problem.method, problem.controller

    def tensors(state: LoopState, bounds: Bounds) -> Outcome:
        return attempts(steps_per_read(state.y.device), field, method, controller, bounds, state)

    plain = plain or tensors
    if compile is False:
        return plain
    entry = _entry(problem)
    if entry.broken:
        return plain
    if compile == "auto" and entry.seconds < PAYS_AFTER:
        return _timed(plain, entry)
    if entry.function is None:
        entry.function = _compiled(problem)
    return _guarded(entry, problem, plain)


def whole_solve(problem: Problem, compile: bool | str) -> Callable[..., Trace] | None:
    """Give a function that solves in one call of a generated program, or None where that is not possible.

    ``"auto"`` compiles once plain steps of this kind have taken as long as that; before, it uses a program that is
    compiled already, if looking for it is quick.
    """
    if compile is False:
        return None
    now = compile is True or _entry(problem).seconds >= PROGRAM_PAYS_AFTER
    # torch imports this module, which takes seconds, at the first operation on a tensor of another class
    if not now and "torch.distributed.tensor" not in sys.modules:
        return None
    return generated_solver(problem, compile=now)


def _entry(problem: Problem) -> _Entry:
    """Find or make the entry of this kind of step."""
    owner, rest = _identity(problem.field.f)
    tolerance = problem.tolerance
    key = (
        rest,
        problem.method,
        problem.controller,
        problem.field.shape,
        problem.field.sign,
        problem.field.per_sample,
        problem.y0.dtype,
        problem.y0.device,
        tolerance.atol.shape,
        tolerance.together,
        tolerance.worst,
        tolerance.leaves,
        None if problem.targets is None else problem.targets.shape,
    )
    with _lock:
        entries = _cache.setdefault(owner, {})
        if key not in entries and len(entries) >= LARGEST_CACHE:
            entries.clear()
        return entries.setdefault(key, _Entry())


def _identity(f: Any) -> tuple[Any, Any]:
    """Something that lives as long as the code of ``f``, and what else tells it apart.

    A function that is defined anew in every iteration of a training loop has the same code each time.
    """
    if isinstance(f, (Packed, UnderAutocast)):
        # made anew for every solve
        owner, rest = _identity(f.f)
        return owner, (rest, repr(f.layout) if isinstance(f, Packed) else str(f.dtype))
    if isinstance(f, types.MethodType):
        return f.__func__.__code__, type(f.__self__)
    if isinstance(f, types.FunctionType):
        return f.__code__, None
    try:
        weakref.ref(f)
    except TypeError:
        return type(f), None
    return f, None


def _compiled(problem: Problem) -> Callable[..., Outcome]:
    """Compile the attempt; ``f`` and ``args`` are arguments, so the result keeps neither alive."""
    method, controller, shape = problem.method, problem.controller, problem.field.shape
    sign, per_sample = problem.field.sign, problem.field.per_sample

    def one_step(f: Callable[..., Any], args: Any, bounds: Bounds, state: LoopState) -> Outcome:
        return attempts(STEPS, Field(f, args, shape, sign, per_sample), method, controller, bounds, state)

    # the compiler counts variants per code object: every entry gets its own
    code = one_step.__code__.replace(co_name=f"step_{next(_numbers)}")
    own = types.FunctionType(code, one_step.__globals__, code.co_name, None, one_step.__closure__)
    return torch.compile(own, fullgraph=True, dynamic=False)


_numbers = iter(range(10**9))


def _guarded(
    entry: _Entry, problem: Problem, plain: Callable[[LoopState, Bounds], Outcome]
) -> Callable[[LoopState, Bounds], Outcome]:
    """Call the compiled function; at its first failure warn and go on with plain code."""
    f, args, function = problem.field.f, problem.field.args, entry.function

    def run(state: LoopState, bounds: Bounds) -> Outcome:
        if entry.broken or function is None:
            return plain(state, bounds)
        try:
            return function(f, args, bounds, state)
        except Exception as reason:  # the compiler raises errors of many kinds; plain code decides what is real
            outcome = plain(state, bounds)
            entry.broken = True
            sentence = str(reason).strip().splitlines()[0] if str(reason).strip() else type(reason).__name__
            warnings.warn(
                f"the step could not be compiled ({type(reason).__name__}: {sentence}); solving continues uncompiled. "
                "Write f with tensor operations only and install a C++ compiler, or pass compile=False.",
                SolverWarning,
                stacklevel=6,
            )
            return outcome

    return run


def _timed(plain: Callable[[LoopState, Bounds], Outcome], entry: _Entry) -> Callable[[LoopState, Bounds], Outcome]:
    """Count the seconds spent in plain steps."""

    def run(state: LoopState, bounds: Bounds) -> Outcome:
        begin = time.perf_counter()
        outcome = plain(state, bounds)
        entry.seconds += time.perf_counter() - begin
        return outcome

    return run

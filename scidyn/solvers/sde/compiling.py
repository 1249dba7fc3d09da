"""Compile a few steps of a stochastic solve into one function; fall back to plain steps."""

from __future__ import annotations

import itertools
import threading
import types
import warnings
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from scidyn.errors import SolverWarning
from scidyn.solvers.brownian.hashing import normal_pair
from scidyn.solvers.brownian.increments import VARIANCE, Hashes
from scidyn.solvers.brownian.noise import Noise
from scidyn.solvers.compiling import _identity
from scidyn.solvers.sde.methods.stepper import SDEMethod
from scidyn.solvers.sde.terms import Terms

__all__ = ["Choice", "Fused", "fused_steps"]

# steps in one function: calling it costs more than a step of a cheap equation, but compiling takes
# longer the more it holds, and products of matrices are not made any faster
STEPS, OPERATIONS = 16, 512
# seconds spent in plain steps after which compiling is expected to pay: about what it costs
PAYS_AFTER = 10.0
LARGEST_CACHE = 64
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution")

_cache: weakref.WeakKeyDictionary[Any, dict[Hashable, Fused]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()
_numbers = itertools.count()


class Fused:
    """Some steps of one kind as one compiled function.

    A step of length h is taken as a step of length one of the equation in the time ``τ = (s - t) / h``,
    ``dy = h f dτ + √h g dB``. So times and lengths are tensors, and no change of them compiles anything.
    """

    def __init__(self, method: SDEMethod, steps: int) -> None:
        self.method, self.steps = method, steps
        self.broken, self.seconds = False, 0.0
        self.function: Callable[..., list[Tensor]] | None = None

    def __call__(
        self, terms: Terms, starts: Tensor, sizes: Tensor, y: Tensor, noise: Noise | Hashes
    ) -> list[Tensor] | None:
        """States after each step, or None if the function cannot be compiled."""
        if self.broken:
            return None
        if self.function is None:
            self.function = self._compile()
        about = terms.noise, terms.calculus, terms.matrix, terms.channels
        try:
            return self.function(terms.drift, terms.diffusion, terms.args, about, starts, sizes, y, noise)
        except Exception as reason:  # the compiler raises errors of many kinds; plain steps decide what is real
            self.broken = True
            sentence = str(reason).strip().splitlines()[0] if str(reason).strip() else type(reason).__name__
            warnings.warn(
                f"the steps could not be compiled ({type(reason).__name__}: {sentence}); solving continues uncompiled. "
                "Write drift and diffusion with tensor operations only and install a C++ compiler, or pass "
                "compile=False.",
                SolverWarning,
                stacklevel=6,
            )
            return None

    def _compile(self) -> Callable[..., list[Tensor]]:
        """Compile; drift and diffusion are arguments, so the function keeps neither alive."""
        method = self.method

        def block(
            f: Any, g: Any, args: Any, about: Any, starts: Tensor, sizes: Tensor, y: Tensor, noise: Any
        ) -> list[Tensor]:
            states = []
            h = sizes.unbind(0)
            units = _drawn(noise, y.dtype) if isinstance(noise, Hashes) else _scaled(noise, h)
            for n, start in enumerate(starts.unbind(0)):
                terms = _unit_terms(f, g, args, about, start, h[n])
                y = method.step(terms, torch.zeros_like(start), 1.0, y, (), units[n]).y
                states.append(y)
            return states

        # the compiler counts variants per code object: every function gets its own
        code = block.__code__.replace(co_name=f"steps_{next(_numbers)}")
        own = types.FunctionType(code, block.__globals__, code.co_name, None, block.__closure__)
        return torch.compile(own, fullgraph=True, dynamic=False)


def _unit_terms(f: Any, g: Any, args: Any, about: Any, start: Tensor, h: Tensor) -> Terms:
    """The equation in the time in which the step has length one."""
    root = h.sqrt()
    rest = () if args is None else (args,)

    def drift(t: Tensor, state: Tensor) -> Tensor:
        rate: Tensor = f(start + h * t, state, *rest)
        return rate * h

    def diffusion(t: Tensor, state: Tensor) -> Tensor:
        spread: Tensor = g(start + h * t, state, *rest)
        return spread * root

    return Terms(drift, diffusion, None, *about)


def _scaled(noise: Noise, sizes: Sequence[Tensor]) -> list[Noise]:
    """Noise of each step in that time."""
    units = []
    for n, h in enumerate(sizes):
        root = h.sqrt()
        scales = (root, root, root, h)
        units.append(Noise.of(None if x is None else x[n] / s for x, s in zip(noise, scales, strict=True)))
    return units


def _drawn(hashes: Hashes, dtype: torch.dtype) -> list[Noise]:
    """Noise of each step in that time, drawn where it is used."""
    levels = []
    for counters, variance in zip(hashes.counters.unbind(0), VARIANCE, strict=False):
        pairs = [normal_pair(hashes.keys, counter, dtype, variance) for counter in counters.unbind(0)]
        levels.append([x.view(hashes.shape) for pair in pairs for x in pair])
    return [Noise(*parts) for parts in zip(*levels, strict=True)]


class Choice(NamedTuple):
    """Compiled steps, or plain ones that are timed until compiling is expected to pay."""

    fused: Fused
    wait: bool


def fused_steps(terms: Terms, method: SDEMethod, t: Tensor, y: Tensor, compile: bool | str) -> Choice | None:
    """Compiled steps for this equation and method, or None if plain ones are to be taken."""
    if compile is False:
        return None
    with torch.no_grad():
        if method.begin(terms, t, y):  # what such a method hands on does not scale with the step
            return None
        fused = _entry(terms, method, t, y)
    return None if fused.broken else Choice(fused, compile == "auto" and fused.seconds < PAYS_AFTER)


def _entry(terms: Terms, method: SDEMethod, t: Tensor, y: Tensor) -> Fused:
    """Find or make the function of this kind of step."""
    owner, kind = _identity(terms.drift)
    key = (
        kind,
        _identity(terms.diffusion),
        method,
        terms.noise,
        terms.calculus,
        terms.channels,
        y.dtype,
        y.device,
        y.shape,
    )
    with _lock:
        entries = _cache.setdefault(owner, {})
        if key not in entries:
            if len(entries) >= LARGEST_CACHE:
                entries.clear()
            entries[key] = Fused(method, _length(terms, method, t, y))
        return entries[key]


class _Work(TorchDispatchMode):
    """Count operations, and the products of matrices among them."""

    products = operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count and call."""
        self.operations += 1
        self.products += func.overloadpacket.__name__ in PRODUCTS
        return func(*args, **(kwargs or {}))


def _length(terms: Terms, method: SDEMethod, t: Tensor, y: Tensor) -> int:
    """How many steps to put into a function: a power of two, the fewer the more work is in one."""
    shape = (y.shape[0], *terms.channels)
    W = y.new_zeros(shape)
    area = y.new_zeros(*shape, shape[-1]) if method.about.area and terms.noise == "general" else None
    with _Work() as work:
        method.step(terms, t, 1.0, y, (), Noise(W, W, W, area))
    most = min(OPERATIONS // max(1, work.operations), STEPS // max(1, 2 * work.products))
    return 1 << (max(1, most).bit_length() - 1)

"""Checks of plain Python values: choices, numbers, names."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any, TypeVar

from scidyn.errors import OptionError

T = TypeVar("T")


def did_you_mean(value: object, options: Iterable[str]) -> str:
    """A hint such as `` Did you mean 'dopri5'?`` for a near miss, else an empty string."""
    near = difflib.get_close_matches(str(value).lower(), [str(o) for o in options], n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def choice(name: str, value: T, options: Iterable[T]) -> T:
    """Return ``value`` if it is one of ``options``, else raise OptionError with the list."""
    known = list(options)
    if value in known:
        return value
    listed = ", ".join(repr(o) for o in known)
    raise OptionError(f"{name} must be one of {listed}; got {value!r}.{did_you_mean(value, map(str, known))}")


def number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> float:
    """Return ``value`` as a float if it is finite and inside the given bounds, else raise OptionError."""
    wanted = " and ".join(
        text
        for bound, text in (
            (above, f"> {above}"),
            (at_least, f">= {at_least}"),
            (below, f"< {below}"),
            (at_most, f"<= {at_most}"),
        )
        if bound is not None
    )
    sentence = f"{name} must be a finite number{' ' + wanted if wanted else ''}; got {value!r}."
    if isinstance(value, bool | str):
        raise OptionError(sentence)
    try:
        x = float(value)
    except (TypeError, ValueError):
        raise OptionError(sentence) from None
    inside = (
        math.isfinite(x)
        and (above is None or x > above)
        and (at_least is None or x >= at_least)
        and (below is None or x < below)
        and (at_most is None or x <= at_most)
    )
    if not inside:
        raise OptionError(sentence)
    return x


def integer(name: str, value: Any, *, at_least: int | None = None) -> int:
    """Return ``value`` as an int if it is a whole number not below ``at_least``, else raise OptionError."""
    x = number(name, value, at_least=at_least)
    if x != int(x):
        raise OptionError(f"{name} must be a whole number; got {value!r}.")
    return int(x)


def known_keys(name: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Raise OptionError if ``given`` holds a key that ``allowed`` lacks."""
    options = list(allowed)
    for key in given:
        if key not in options:
            listed = ", ".join(map(repr, options))
            raise OptionError(f"{name} has no entry {key!r}; known: {listed}.{did_you_mean(key, options)}")

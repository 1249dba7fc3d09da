"""Units as people write them: what they measure, and how to get from one to another."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from scidyn._check.values import did_you_mean
from scidyn.errors import OptionError, UnitsError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Unit", "convert_units", "factor", "parse_unit"]

_BASE = ("m", "kg", "s", "K", "mol", "A", "cell")
_PREFIX = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "d": 1e-1, "c": 1e-2, "m": 1e-3, "µ": 1e-6, "u": 1e-6, "n": 1e-9,
           "p": 1e-12, "f": 1e-15}  # fmt: skip
_SCALED = {  # units that take prefixes: factor and dimension
    "m": (1.0, {"m": 1}), "g": (1e-3, {"kg": 1}), "s": (1.0, {"s": 1}), "K": (1.0, {"K": 1}), "mol": (1.0, {"mol": 1}),
    "A": (1.0, {"A": 1}), "L": (1e-3, {"m": 3}), "l": (1e-3, {"m": 3}), "M": (1e3, {"mol": 1, "m": -3}),
    "N": (1.0, {"kg": 1, "m": 1, "s": -2}), "J": (1.0, {"kg": 1, "m": 2, "s": -2}),
    "W": (1.0, {"kg": 1, "m": 2, "s": -3}), "Pa": (1.0, {"kg": 1, "m": -1, "s": -2}), "Hz": (1.0, {"s": -1}),
    "V": (1.0, {"kg": 1, "m": 2, "s": -3, "A": -1}), "bar": (1e5, {"kg": 1, "m": -1, "s": -2}),
}  # fmt: skip
_PLAIN = {  # units that take none
    "1": (1.0, {}), "%": (0.01, {}), "percent": (0.01, {}), "dimensionless": (1.0, {}),
    "sec": (1.0, {"s": 1}), "second": (1.0, {"s": 1}), "min": (60.0, {"s": 1}), "minute": (60.0, {"s": 1}),
    "h": (3600.0, {"s": 1}), "hr": (3600.0, {"s": 1}), "hour": (3600.0, {"s": 1}), "d": (86400.0, {"s": 1}),
    "day": (86400.0, {"s": 1}), "week": (604800.0, {"s": 1}), "month": (2629800.0, {"s": 1}),
    "year": (31557600.0, {"s": 1}), "yr": (31557600.0, {"s": 1}), "a": (31557600.0, {"s": 1}),
    "cell": (1.0, {"cell": 1}), "atm": (101325.0, {"kg": 1, "m": -1, "s": -2}),
    "mmHg": (133.322387415, {"kg": 1, "m": -1, "s": -2}), "gram": (1e-3, {"kg": 1}), "meter": (1.0, {"m": 1}),
    "metre": (1.0, {"m": 1}), "liter": (1e-3, {"m": 3}), "litre": (1e-3, {"m": 3}), "t": (1e3, {"kg": 1}),
    "ha": (1e4, {"m": 2}), "rad": (1.0, {}),
}  # fmt: skip
_OFFSET = {  # temperatures with a zero of their own
    "degC": (1.0, 273.15), "°C": (1.0, 273.15), "celsius": (1.0, 273.15), "degree_Celsius": (1.0, 273.15),
    "degF": (5 / 9, 459.67 * 5 / 9), "°F": (5 / 9, 459.67 * 5 / 9), "fahrenheit": (5 / 9, 459.67 * 5 / 9),
}  # fmt: skip
_LONGEST = 100
"""Characters of the longest units that are read; they come from files."""
_TERM = re.compile(r"(?P<name>[A-Za-zµ°%]+|1)(?:(?:\^|\*\*)?(?P<power>[+-]?[0-9]{1,2}))?")


@dataclass(frozen=True)
class Unit:
    """A unit as ``value in SI base units = scale · value + offset``.

    Attributes
    ----------
    scale : float
        Factor to SI base units.
    offset : float
        SI value of zero, for temperatures.
    dimension : tuple of (str, fractions.Fraction)
        Powers of the base units, sorted.
    """

    scale: float
    offset: float
    dimension: tuple[tuple[str, Fraction], ...]


def parse_unit(text: str) -> Unit:
    """Read units such as ``mg/L``, ``m s-1``, ``kg m^-3``, ``1/day``, ``°C``.

    Parameters
    ----------
    text : str
        Products with blanks, ``*`` or ``·``, quotients with ``/``, powers as ``m2``, ``m^2`` or ``m**2``.

    Returns
    -------
    Unit

    Raises
    ------
    scidyn.errors.UnitsError
        If a part is no known unit.

    Examples
    --------
    >>> from scidyn.data import parse_unit
    >>> parse_unit("mg/L") == parse_unit("g m-3")
    True
    """
    stripped = text.strip()
    if len(stripped) > _LONGEST:
        raise UnitsError(f"Units of {len(stripped)} characters are not read; {stripped[:20]!r}… may be other text.")
    if stripped in _OFFSET:
        scale, offset = _OFFSET[stripped]
        return Unit(scale, offset, (("K", Fraction(1)),))
    scale = 1.0
    powers: dict[str, Fraction] = {}
    for place, part in enumerate(stripped.split("/")):
        sign = -1 if place else 1
        for word in re.split(r"[\s*·]+(?!\*)", part.replace("**", "^").strip()):
            match = _TERM.fullmatch(word)
            if not match:
                raise UnitsError(f"{text!r} is no unit that can be read: {word!r} is not known.")
            size, dimension = _named(match["name"], text)
            power = sign * int(match["power"] or 1)
            try:
                scale *= size**power
            except OverflowError:
                scale = float("inf")
            for base, n in dimension.items():
                powers[base] = powers.get(base, Fraction(0)) + n * power
    if not 1e-200 < scale < 1e200:
        raise UnitsError(f"{text!r} is {scale:g} SI units, too far from one to compute with.")
    return Unit(scale, 0.0, tuple(sorted((b, p) for b, p in powers.items() if p)))


def factor(source: str, target: str) -> tuple[float, float]:
    """Scale and offset that turn a number in ``source`` into one in ``target``.

    Parameters
    ----------
    source, target : str
        Units of one dimension.

    Returns
    -------
    scale, offset : float
        ``target number = scale · source number + offset``.

    Raises
    ------
    scidyn.errors.UnitsError
        If they measure different things; both are named.

    Examples
    --------
    >>> from scidyn.data import factor
    >>> factor("day", "h")
    (24.0, 0.0)
    """
    one, other = parse_unit(source), parse_unit(target)
    if one.dimension != other.dimension:
        raise UnitsError(
            f"{source!r} measures {_words(one)}, {target!r} measures {_words(other)}; they do not convert."
        )
    return one.scale / other.scale, (one.offset - other.offset) / other.scale


def convert_units(ds: xr.Dataset, units: Mapping[str, str]) -> xr.Dataset:
    """Express variables, or time, in other units.

    Parameters
    ----------
    ds : xarray.Dataset
        With ``units`` on what is converted.
    units : mapping of str to str
        Name of a variable or coordinate to its new units.

    Returns
    -------
    xarray.Dataset
        A copy; attributes other than ``units`` are kept.

    Raises
    ------
    scidyn.errors.OptionError
        If a name is not there.
    scidyn.errors.UnitsError
        If units are missing, unknown or of another dimension.

    Examples
    --------
    >>> import scidyn
    >>> ds = scidyn.data.from_arrays([1.0, 2.0], [0, 2], units=["mg/L"], time_units="day")
    >>> scidyn.data.convert_units(ds, {"time": "h"})["time"].values.tolist()
    [0.0, 48.0]
    """
    out = ds.copy()
    for name, target in units.items():
        if name not in ds.variables:
            names = [str(n) for n in ds.variables]
            raise OptionError(f"units names {name!r}; the Dataset has {names}.{did_you_mean(name, names)}")
        source = str(ds[name].attrs.get("units", "")).strip()
        if not source:
            raise UnitsError(f"{name!r} has no units to convert from; set ds[{name!r}].attrs['units'].")
        try:
            scale, offset = factor(source, target)
        except UnitsError as error:
            raise UnitsError(f"{name}: {error}") from error
        attrs = ds[name].attrs | {"units": target}
        changed = ds[name].variable * scale + offset
        changed.attrs = attrs
        out = out.assign_coords({name: changed}) if name in ds.coords else out.assign({name: changed})
    return out


def _named(name: str, text: str) -> tuple[float, dict[str, int]]:
    for candidate in (name, name.removesuffix("s")):
        if candidate in _PLAIN:
            return _PLAIN[candidate]
        if candidate in _SCALED:
            return _SCALED[candidate]
    for prefix, size in _PREFIX.items():
        rest = name.removeprefix(prefix)
        if prefix and name.startswith(prefix) and rest in _SCALED:
            unit, dimension = _SCALED[rest]
            return size * unit, dimension
    if name in _OFFSET:
        raise UnitsError(f"{text!r}: {name} has a zero of its own and stands alone only; use K in products.")
    raise UnitsError(f"{text!r} is no unit that can be read: {name!r} is not known.{did_you_mean(name, _PLAIN)}")


def _words(unit: Unit) -> str:
    return " ".join(b if p == 1 else f"{b}^{p}" for b, p in unit.dimension) or "a plain number"

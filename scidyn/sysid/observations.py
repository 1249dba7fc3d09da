"""What a fit sees of a record: tensors, names, units, and the noise model that the data allow."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scidyn._check.values import choice, known_keys
from scidyn.data import Batch, state_variables, to_batch, units_of
from scidyn.data.schema import time_dim
from scidyn.errors import DataError, NonFiniteError, OptionError

if TYPE_CHECKING:
    import xarray as xr

    from scidyn.systems import System

__all__ = ["NOISES", "Observations", "checksum", "choose_noise", "match_variables", "observe"]

NOISES = ("auto", "normal", "lognormal")


@dataclass(frozen=True)
class Observations:
    """A record as tensors.

    Attributes
    ----------
    batch : Batch
        ``t`` (trajectory, time), ``y`` and ``mask`` (trajectory, time, variable).
    names : tuple of str
        Variables, in the order of the last axis.
    units : dict
        Units of time and of each variable.
    noise : str
        "normal" or "lognormal".
    template : xarray.Dataset
        The record's coordinates, for results at its times.
    """

    batch: Batch
    names: tuple[str, ...]
    units: dict[str, str]
    noise: str
    template: xr.Dataset

    @property
    def single(self) -> bool:
        """True if the record has no dim ``trajectory``."""
        return "trajectory" not in self.template.dims

    @property
    def times(self) -> np.ndarray:
        """All times of the record, sorted, once each."""
        t = self.batch.t
        return np.unique(t[torch.isfinite(t)].cpu().numpy())

    def link(self, y: Tensor) -> Tensor:
        """Coordinates in which the noise is additive: logarithms for log-normal noise."""
        return torch.where(y > 0, y, torch.nan).log() if self.noise == "lognormal" else y

    def dataset(
        self, values: Mapping[str, Tensor], units: Mapping[str, str], where: Tensor | None = None
    ) -> xr.Dataset:
        """Put tensors (trajectory, time) on the record's coordinates; NaN where ``where`` is False."""
        import xarray as xr

        along = time_dim(self.template)
        dims = (along,) if self.single else ("trajectory", along)
        ds = xr.Dataset(coords=self.template.coords, attrs={**self.template.attrs})
        for name, value in values.items():
            array = value if where is None else torch.where(where, value, torch.nan)
            array = array.detach().cpu().numpy()
            ds[name] = (dims, array[0] if self.single else array, {"units": units[name]})
        return ds


def observe(ds: xr.Dataset, noise: str) -> Observations:
    """Check a record and bring it into tensors; everything wrong with it is said here, before any work.

    Raises
    ------
    scidyn.errors.DataError
        If the record is not valid, or has variables with the role ``control``, which no estimator uses yet.
    scidyn.errors.NonFiniteError
        If ``noise="lognormal"`` and a value is not positive.
    """
    _refuse_controls(ds)
    batch = to_batch(ds)
    names = tuple(state_variables(ds))
    units = units_of(ds)
    kept = {name: units[name] for name in ("time", *names)}
    coords = {str(c): ds.coords[c] for c in ds.coords if set(ds.coords[c].dims) <= {"trajectory", time_dim(ds)}}
    template = ds[[]].assign_coords(coords)
    template.attrs = {k: v for k, v in ds.attrs.items() if k in ("Conventions", "scidyn_kind")}
    return Observations(batch, names, kept, choose_noise(noise, batch, names), template)


def _refuse_controls(ds: xr.Dataset) -> None:
    """The vector fields that are fitted here depend on time and state alone."""
    driven = [str(n) for n, v in ds.data_vars.items() if v.attrs.get("role") == "control"]
    if driven:
        raise DataError(
            f"{driven[0]!r} has the role 'control', but the estimators fit dy/dt = f(t, y) without controls; drop it "
            f"(ds.drop_vars({driven[0]!r})) if it stayed constant, or give it the role 'auxiliary' to leave it out."
        )


def choose_noise(noise: str, batch: Batch, names: tuple[str, ...]) -> str:
    """Log-normal where all observed values are positive, unless the user said otherwise."""
    choice("noise", noise, NOISES)
    bad = batch.mask & (batch.y <= 0)
    if noise == "lognormal" and bool(bad.any()):
        row, time, variable = (int(i) for i in bad.nonzero()[0])
        raise NonFiniteError(
            f"{names[variable]!r} is {batch.y[row, time, variable].item():g} at time {batch.t[row, time].item():g} "
            f"({int(bad.sum())} values are not positive), which log-normal noise cannot give; "
            "use noise='normal' or drop these values."
        )
    if noise != "auto":
        return noise
    return "normal" if bool(bad.any()) else "lognormal"


def match_variables(system: System, names: tuple[str, ...], variables: Mapping[str, str] | None) -> tuple[int, ...]:
    """Index of the state that each variable of the record measures.

    Parameters
    ----------
    system : System
        The mechanism.
    names : tuple of str
        Variables of the record.
    variables : mapping of state name to variable name, or None
        None: by name if all agree, else by order.

    Returns
    -------
    tuple of int
        One state index per variable of the record.
    """
    states = list(system.state_names)
    kind = type(system).__name__
    if variables is None:
        if set(names) <= set(states):
            return tuple(states.index(n) for n in names)
        if len(names) != len(states):
            raise DataError(
                f"{kind} has {len(states)} states {states}, the record has {len(names)} variables {list(names)}; "
                f"say which is which with variables={{{states[0]!r}: {names[0]!r}, …}}, or select variables."
            )
        return tuple(range(len(states)))
    if not isinstance(variables, Mapping):
        raise OptionError(f"variables must map states to variables of the record; got {variables!r}.")
    known_keys("variables", variables, states)
    by_name = {v: k for k, v in variables.items()}
    known_keys("the record", by_name, names)
    left = [n for n in names if n not in by_name]
    if left or len(by_name) != len(variables):
        raise DataError(
            f"variables={dict(variables)} does not say which state {left[0] if left else 'each variable'!r} measures; "
            f"the states are {states}."
        )
    return tuple(states.index(by_name[n]) for n in names)


def checksum(batch: Batch) -> str:
    """SHA-256 of times, values and mask, to recognise the data a model was fitted to."""
    digest = hashlib.sha256()
    for part in (batch.t, batch.y, batch.mask):
        array: Any = part.detach().cpu().contiguous().numpy()
        digest.update(str(array.shape).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()

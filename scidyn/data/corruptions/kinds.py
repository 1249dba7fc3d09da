"""The kinds of corruption: of the input, of the state, of the law, of what is seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn._check.values import choice, number
from scidyn.data.schema import state_variables, time_dim
from scidyn.errors import OptionError

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "ActuatorNoise",
    "Blackout",
    "Corruption",
    "HideState",
    "ProcessNoise",
    "Quantise",
    "RegimeSwitch",
    "SensorNoise",
]


@dataclass(frozen=True)
class Corruption:
    """One thing that goes wrong; what a kind does not touch, it passes on unchanged.

    ``inside`` is True for kinds that change the dynamics and so need a simulation; the others act on
    any record.
    """

    inside = False

    def control(self, u: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """The input that really acts, for the wanted ``u`` (trajectory, control)."""
        return u

    def state(self, x: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """The state (trajectory, state) after one step."""
        return x

    def regime(self, now: np.ndarray, time: float, step: float, generator: np.random.Generator) -> np.ndarray:
        """Number of the law (trajectory,) that holds from ``time`` on."""
        return now

    def record(self, ds: xr.Dataset, generator: np.random.Generator) -> xr.Dataset:
        """What is written down, for what happened."""
        return ds

    def describe(self) -> dict[str, Any]:
        """JSON form, for the attributes of a Dataset."""
        return {"kind": type(self).__name__, **asdict(self)}


@dataclass(frozen=True)
class ActuatorNoise(Corruption):
    """Inputs act with an error: ``u ← u + σ ξ``, ξ standard normal per step.

    Attributes
    ----------
    std : float
        σ in units of the input.
    """

    std: float
    inside = True

    def __post_init__(self) -> None:
        number("std", self.std, at_least=0)

    def control(self, u: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """The input with its error."""
        return u + self.std * generator.normal(size=u.shape)


@dataclass(frozen=True)
class ProcessNoise(Corruption):
    """The state is kicked after every step: ``x ← x + σ ξ``.

    Attributes
    ----------
    std : float
        σ in units of the state.
    """

    std: float
    inside = True

    def __post_init__(self) -> None:
        number("std", self.std, at_least=0)

    def state(self, x: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """The state with its kick."""
        return x + self.std * generator.normal(size=x.shape)


@dataclass(frozen=True)
class RegimeSwitch(Corruption):
    """The law changes to law 1: at a time, or at random with a rate per unit of time.

    Attributes
    ----------
    at : float or None
        Time of the change.
    rate : float or None
        Changes per unit of time; each trajectory changes once, at its own time.
    """

    at: float | None = None
    rate: float | None = None
    inside = True

    def __post_init__(self) -> None:
        if (self.at is None) == (self.rate is None):
            raise OptionError(f"RegimeSwitch needs either at= or rate=; got at={self.at}, rate={self.rate}.")
        if self.rate is not None:
            number("rate", self.rate, above=0)

    def regime(self, now: np.ndarray, time: float, step: float, generator: np.random.Generator) -> np.ndarray:
        """Law 1 from the change on."""
        if self.at is not None:
            return np.where(time >= self.at, 1, now)
        draws = generator.random(now.shape)
        return np.where(draws < -np.expm1(-float(self.rate or 0.0) * step), 1, now)


@dataclass(frozen=True)
class SensorNoise(Corruption):
    """Readings carry an error: ``y ← y + σ ξ``, or ``y (1 + σ ξ)``.

    Attributes
    ----------
    std : float
        σ in units of the variable, or as a share of the value.
    relative : bool
        Multiply instead of add.
    """

    std: float
    relative: bool = False

    def __post_init__(self) -> None:
        number("std", self.std, at_least=0)

    def record(self, ds: xr.Dataset, generator: np.random.Generator) -> xr.Dataset:
        """The readings with their errors."""
        out = ds.copy()
        for name in state_variables(ds):
            noise = self.std * generator.normal(size=ds[name].shape)
            out[name] = ds[name] * (1 + noise) if self.relative else ds[name] + noise
            out[name].attrs = dict(ds[name].attrs)
        return out


@dataclass(frozen=True)
class Quantise(Corruption):
    """Readings are rounded to a scale; a fine step adds an error of variance ``step²/12``.

    Attributes
    ----------
    step : float
        Distance of two marks, in units of the variable.
    """

    step: float

    def __post_init__(self) -> None:
        number("step", self.step, above=0)

    def record(self, ds: xr.Dataset, generator: np.random.Generator) -> xr.Dataset:
        """The rounded readings."""
        out = ds.copy()
        for name in state_variables(ds):
            out[name] = (ds[name] / self.step).round() * self.step
            out[name].attrs = dict(ds[name].attrs)
        return out


@dataclass(frozen=True)
class Blackout(Corruption):
    """Readings are missing: single ones, blocks of neighbouring times, or whole channels.

    Attributes
    ----------
    share : float
        Share of the readings that are lost, on average.
    mode : {"single", "block", "channel"}
        ``block`` loses runs of ``length`` times in all variables together.
    length : int
        Times in a block.
    """

    share: float
    mode: str = "single"
    length: int = 10

    def __post_init__(self) -> None:
        number("share", self.share, at_least=0, at_most=1)
        choice("mode", self.mode, ("single", "block", "channel"))
        number("length", self.length, at_least=1)

    def record(self, ds: xr.Dataset, generator: np.random.Generator) -> xr.Dataset:
        """The record with its gaps as NaN."""
        names = state_variables(ds)
        along = time_dim(ds)
        out = ds.copy()
        lost = self._runs(ds.sizes.get("trajectory", 1), ds.sizes[along], generator) if self.mode == "block" else None
        gone = generator.random(len(names)) < self.share if self.mode == "channel" else None
        for k, name in enumerate(names):
            shape = ds[name].shape
            if lost is not None:
                rows = lost if "trajectory" in ds[name].dims else lost[0]
                drop = rows.reshape(rows.shape + (1,) * (len(shape) - rows.ndim))
            elif gone is not None:
                drop = np.full(shape, gone[k])
            else:
                drop = generator.random(shape) < self.share
            out[name] = ds[name].where(~np.broadcast_to(drop, shape))
            out[name].attrs = dict(ds[name].attrs)
        return out

    def _runs(self, rows: int, steps: int, generator: np.random.Generator) -> np.ndarray:
        """Blocks that start at random so that the wanted share is covered on average."""
        begin = -np.expm1(np.log1p(-min(self.share, 1 - 1e-12)) / self.length)
        starts = generator.random((rows, steps + self.length - 1)) < begin
        covered = np.lib.stride_tricks.sliding_window_view(starts, self.length, axis=1)
        return np.asarray(covered.any(-1))


@dataclass(frozen=True)
class HideState(Corruption):
    """Variables that are never measured.

    Attributes
    ----------
    names : tuple of str
        What is hidden.
    """

    names: Sequence[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))

    def record(self, ds: xr.Dataset, generator: np.random.Generator) -> xr.Dataset:
        """The record without the hidden variables."""
        known = state_variables(ds)
        for name in self.names:
            choice("names of HideState", name, known)
        if set(self.names) >= set(known):
            raise OptionError(f"HideState hides all of {known}; leave one to be seen.")
        return ds.drop_vars(list(self.names))

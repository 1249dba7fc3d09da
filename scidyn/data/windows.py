"""Windows of trajectories, counted and located without making them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from scidyn._check.values import choice, integer
from scidyn.data.schema import time_dim
from scidyn.errors import DataError, OptionError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["WindowIndex", "windows"]


@dataclass(frozen=True)
class WindowIndex:
    """Which windows exist; window ``k`` is a (trajectory, start) pair found by bisection.

    A trajectory of n steps holds ``⌊(n − L − H)/s⌋ + 1`` windows of length L with horizon H at stride s.

    Attributes
    ----------
    steps : numpy.ndarray of int, shape (trajectory,)
        Observed steps n of each trajectory.
    length : int
        L in steps; a window spans ``length + horizon`` rows.
    horizon : int
        H in steps.
    stride : int
        s in steps.
    first : numpy.ndarray of int, shape (trajectory + 1,)
        Number of windows before each trajectory.

    Examples
    --------
    >>> import numpy as np
    >>> from scidyn.data import WindowIndex
    >>> index = WindowIndex(np.array([10, 7]), length=4, horizon=2, stride=1)
    >>> len(index), [int(number) for number in index.locate(6)]
    (7, [1, 1])
    """

    steps: np.ndarray
    length: int
    horizon: int = 1
    stride: int = 1
    first: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        integer("length", self.length, at_least=1)
        integer("horizon", self.horizon, at_least=0)
        integer("stride", self.stride, at_least=1)
        counts = np.maximum((np.asarray(self.steps) - self.span) // self.stride + 1, 0)
        object.__setattr__(self, "first", np.concatenate([[0], np.cumsum(counts)]))

    @property
    def span(self) -> int:
        """Rows of a window: length plus horizon."""
        return self.length + self.horizon

    def __len__(self) -> int:
        return int(self.first[-1])

    def locate(self, window: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Trajectory and first row of one window or of an array of windows.

        Parameters
        ----------
        window : int or numpy.ndarray of int
            Flat numbers in ``[0, len)``.

        Returns
        -------
        trajectory, start : numpy.ndarray of int

        Raises
        ------
        scidyn.errors.OptionError
            If a number is out of range.
        """
        flat = np.asarray(window)
        if flat.size and (flat.min() < 0 or flat.max() >= len(self)):
            raise OptionError(f"window must lie in [0, {len(self)}); got {int(flat.min())} to {int(flat.max())}.")
        trajectory = np.searchsorted(self.first, flat, side="right") - 1
        return trajectory, (flat - self.first[trajectory]) * self.stride


def windows(ds: xr.Dataset, length: int, *, horizon: int = 1, stride: int = 1, short: str = "raise") -> WindowIndex:
    """Index the windows of a Dataset.

    Parameters
    ----------
    ds : xarray.Dataset
        Kind ``trajectories`` or ``irregular``.
    length : int
        Rows that a model sees.
    horizon : int
        Rows that follow and are predicted.
    stride : int
        Rows between the starts of two windows.
    short : {"raise", "skip"}
        What to do with trajectories that hold no window.

    Returns
    -------
    WindowIndex

    Raises
    ------
    scidyn.errors.DataError
        If a trajectory is too short and ``short="raise"``, or no window is left.

    Examples
    --------
    >>> import scidyn
    >>> record = scidyn.datasets.load("lynx_hare")
    >>> len(scidyn.data.windows(record, 8, horizon=2))
    12
    """
    choice("short", short, ("raise", "skip"))
    rows = ds.sizes.get("trajectory", 1)
    time = ds["time"]
    steps = np.isfinite(time.values).sum(1) if time.ndim == 2 else np.full(rows, ds.sizes[time_dim(ds)])
    index = WindowIndex(steps, length, horizon, stride)
    lacking = np.flatnonzero(steps < index.span)
    if lacking.size and (short == "raise" or lacking.size == rows):
        k = int(lacking[0])
        raise DataError(
            f"Trajectory {k} has {int(steps[k])} times, but a window spans {index.span} (length {length} + horizon "
            f"{horizon}); shorten the window" + (", or pass short='skip'." if lacking.size < rows else ".")
        )
    return index

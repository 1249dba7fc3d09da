"""Snapshots: clouds of cells measured once, at a few times, with no identity over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scidyn._check.tensors import finite, increasing
from scidyn.errors import DataError, ShapeError, TimeGridError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Snapshots", "numeric_times"]


@dataclass(frozen=True)
class Snapshots:
    """Clouds ``x_k ~ μ_k`` at times ``t_0 < … < t_K``.

    Attributes
    ----------
    clouds : tuple of Tensor, each of shape (cell, feature)
        One cloud per time, float64.
    times : Tensor, shape (time,)
        Strictly increasing.
    features : tuple of str
        Names of the columns.
    weights : tuple of Tensor, each of shape (cell,)
        Probability of each cell within its snapshot; sums to one.
    time_units : str
        Units of ``times``.
    feature_units : str
        Units of the columns.

    Examples
    --------
    >>> import numpy as np
    >>> from scidyn.bridges import Snapshots
    >>> rng = np.random.default_rng(0)
    >>> snapshots = Snapshots.of([rng.normal(size=(30, 2)), rng.normal(size=(40, 2))], [0.0, 1.0])
    >>> snapshots.sizes
    (30, 40)
    >>> snapshots.to_dataset().sizes["cell"]
    70
    """

    clouds: tuple[Tensor, ...]
    times: Tensor
    features: tuple[str, ...]
    weights: tuple[Tensor, ...]
    time_units: str = "1"
    feature_units: str = "1"

    @classmethod
    def of(
        cls,
        data: Any,
        times: Any = None,
        *,
        weights: Sequence[Any] | None = None,
        features: Sequence[str] | None = None,
        time_units: str = "1",
        least: int = 2,
    ) -> Snapshots:
        """Check what a user has and bring it into one form.

        Parameters
        ----------
        data : Snapshots, xarray.Dataset or sequence of array_like of shape (cell, feature)
            A Dataset has one variable with dims ``(cell, feature)``, the coordinate ``time(cell)``
            and, if cells do not count alike, ``weight(cell)``.
        times : array_like, shape (time,), optional
            Needed with a sequence of clouds.
        weights : sequence of array_like of shape (cell,), optional
            Non-negative weight of every cell; each snapshot is normalised to one.
        features : sequence of str, optional
            Names of the columns.
        time_units : str
            Units of ``times``.
        least : int
            Smallest number of snapshots.

        Returns
        -------
        Snapshots

        Raises
        ------
        scidyn.errors.TimeGridError
            If times are missing, not numbers, or do not increase strictly.
        scidyn.errors.ShapeError
            If clouds differ in their number of features.
        scidyn.errors.DataError
            If a snapshot has fewer than two cells, there are too few snapshots, or weights cannot be used.
        scidyn.errors.NonFiniteError
            If a value is NaN or infinite.
        """
        if isinstance(data, Snapshots):
            return data._enough(least)
        if hasattr(data, "data_vars"):
            return _from_dataset(data)._enough(least)
        if times is None:
            raise TimeGridError("times is missing: a list of clouds needs one number per cloud.")
        clouds = [_cloud(k, value) for k, value in enumerate(data)]
        t = torch.as_tensor(numeric_times(times), dtype=torch.float64)
        if t.ndim != 1 or len(t) != len(clouds):
            raise ShapeError(f"times has shape {tuple(t.shape)}; there are {len(clouds)} snapshots: one time for each.")
        increasing("times", t)
        width = {c.shape[1] for c in clouds}
        if len(width) > 1:
            raise ShapeError(
                f"Snapshots have different numbers of features {[c.shape[1] for c in clouds]}; "
                "use one representation for all times."
            )
        if width and 0 in width:
            raise ShapeError("The snapshots have no feature; pass clouds of shape (cell, feature).")
        names = tuple(features) if features is not None else tuple(f"x{k}" for k in range(next(iter(width), 0)))
        if clouds and len(names) != clouds[0].shape[1]:
            raise ShapeError(f"features names {len(names)} columns; the clouds have {clouds[0].shape[1]}.")
        w = tuple(_weights(k, c, None if weights is None else weights[k]) for k, c in enumerate(clouds))
        return cls(tuple(clouds), t, names, w, time_units)._enough(least)

    def _enough(self, least: int) -> Snapshots:
        if len(self.clouds) < least:
            raise DataError(f"{len(self.clouds)} snapshots were given; at least {least} are needed.")
        return self

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of cells of each snapshot."""
        return tuple(len(c) for c in self.clouds)

    @property
    def dim(self) -> int:
        """Number of features."""
        return self.clouds[0].shape[1]

    def __len__(self) -> int:
        return len(self.clouds)

    def select(self, keep: Sequence[int]) -> Snapshots:
        """Return the snapshots at the given positions, in order.

        Parameters
        ----------
        keep : sequence of int
            Positions in ``clouds``.

        Returns
        -------
        Snapshots
        """
        keep = sorted(keep)
        return Snapshots(
            tuple(self.clouds[k] for k in keep),
            self.times[keep],
            self.features,
            tuple(self.weights[k] for k in keep),
            self.time_units,
            self.feature_units,
        )

    def subsample(self, cells: int, generator: torch.Generator) -> Snapshots:
        """Draw at most ``cells`` cells of each snapshot without replacement.

        Parameters
        ----------
        cells : int
            Largest number of cells to keep per snapshot.
        generator : torch.Generator
            Source of the draw.

        Returns
        -------
        Snapshots
        """
        rows = [torch.randperm(n, generator=generator)[:cells] for n in self.sizes]
        w = [w[r] / w[r].sum() for w, r in zip(self.weights, rows, strict=True)]
        clouds = tuple(c[r] for c, r in zip(self.clouds, rows, strict=True))
        return Snapshots(clouds, self.times, self.features, tuple(w), self.time_units, self.feature_units)

    def to_dataset(self, name: str = "state") -> xr.Dataset:
        """Return a Dataset of kind ``snapshots``.

        Parameters
        ----------
        name : str
            Name of the variable with dims ``(cell, feature)``.

        Returns
        -------
        xarray.Dataset
        """
        import xarray as xr

        when = torch.repeat_interleave(self.times, torch.tensor(self.sizes, device=self.times.device))
        return xr.Dataset(
            {
                name: (("cell", "feature"), torch.cat(self.clouds).numpy(), {"units": self.feature_units}),
                "weight": ("cell", torch.cat(self.weights).numpy(), {"units": "1", "role": "auxiliary"}),
            },
            coords={
                "time": ("cell", when.numpy(), {"units": self.time_units}),
                "feature": list(self.features),
            },
            attrs={"Conventions": "CF-1.11 scidyn-1", "scidyn_kind": "snapshots"},
        )


def numeric_times(times: Any) -> np.ndarray:
    """Times as float64, or a TimeGridError that names the first that is not a number."""
    values = np.asarray(times)
    if values.dtype.kind in "fiu":
        return values.astype(float)
    if values.dtype.kind not in "OUS":
        raise TimeGridError(f"times has dtype {values.dtype}; numbers are needed: convert dates to days first.")
    out = np.empty(values.shape)
    for where, value in np.ndenumerate(values):
        try:
            out[where] = float(value)
        except (TypeError, ValueError):
            raise TimeGridError(
                f"time {str(value)!r} is not a number, so snapshots cannot be ordered; give numbers in one unit, "
                f"for example with a mapping {{{str(value)!r}: 0.0, …}}."
            ) from None
    return out


def _cloud(k: int, value: Any) -> Tensor:
    cloud = torch.as_tensor(np.asarray(value, dtype=float) if not isinstance(value, Tensor) else value)
    cloud = cloud.detach().to(torch.float64)
    if cloud.ndim != 2:
        raise ShapeError(f"Snapshot {k} has shape {tuple(cloud.shape)}; (cell, feature) is needed.")
    if len(cloud) < 2:
        raise DataError(
            f"Snapshot {k} has {len(cloud)} cell{'s' if len(cloud) != 1 else ''}; a distribution needs at least 2: "
            "merge it with a neighbouring time or drop it."
        )
    return finite(f"snapshot {k}", cloud, "Drop these cells.")


def _weights(k: int, cloud: Tensor, value: Any) -> Tensor:
    if value is None:
        return torch.full((len(cloud),), 1.0 / len(cloud), dtype=torch.float64, device=cloud.device)
    w = finite(f"weights of snapshot {k}", torch.as_tensor(np.asarray(value, dtype=float)))
    if w.shape != (len(cloud),):
        raise ShapeError(f"weights of snapshot {k} have shape {tuple(w.shape)}; it has {len(cloud)} cells.")
    if bool((w < 0).any()) or float(w.sum()) <= 0:
        raise DataError(f"weights of snapshot {k} must be non-negative with a positive sum; got a sum of {w.sum():g}.")
    return w / w.sum()


def _from_dataset(ds: xr.Dataset) -> Snapshots:
    kind = ds.attrs.get("scidyn_kind", "snapshots")
    if kind != "snapshots":
        raise DataError(f"The Dataset has scidyn_kind {kind!r}; bridges take 'snapshots': dims cell, feature.")
    if "time" not in ds.coords or ds["time"].dims != ("cell",):
        raise TimeGridError("The Dataset needs the coordinate time(cell): one time per cell.")
    names = [str(n) for n, v in ds.data_vars.items() if set(v.dims) == {"cell", "feature"}]
    if len(names) != 1:
        raise ShapeError(f"One variable with dims (cell, feature) is needed; the Dataset has {names or 'none'}.")
    values = ds[names[0]].transpose("cell", "feature").values
    when = numeric_times(ds["time"].values)
    if not np.isfinite(when).all():
        row = int(np.flatnonzero(~np.isfinite(when))[0])
        raise TimeGridError(f"time of cell {row} is {when[row]}; every cell needs a time.")
    order = np.unique(when)
    rows = [np.flatnonzero(when == t) for t in order]
    out = Snapshots.of(
        [values[r] for r in rows],
        order,
        weights=[ds["weight"].values[r] for r in rows] if "weight" in ds.variables else None,
        features=[str(f) for f in ds["feature"].values] if "feature" in ds.coords else None,
        time_units=str(ds["time"].attrs.get("units", "1")),
        least=1,
    )
    units = str(ds[names[0]].attrs.get("units", "1"))
    return Snapshots(out.clouds, out.times, out.features, out.weights, out.time_units, units)

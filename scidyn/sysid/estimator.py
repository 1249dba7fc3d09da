"""What all estimators share: the fitted test, results on Datasets, files."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from scidyn._check.values import number
from scidyn.errors import DataError, NotFittedError, ShapeError, TimeGridError
from scidyn.sysid.observations import Observations, checksum
from scidyn.sysid.options import Options, plain
from scidyn.training import Progress

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Estimator", "progress_of"]


@contextlib.contextmanager
def progress_of(progress: Progress | bool | None, title: str) -> Iterator[Progress]:
    """The caller's Progress, or one of our own: shown for True, silent otherwise."""
    if isinstance(progress, Progress):
        yield progress
        return
    with Progress(title, enabled=bool(progress)) as bar:
        yield bar


class Estimator(Options):
    """A model that learns its vector field from a record.

    The constructor only stores its options; they are checked by ``fit``. Results of ``fit`` end in ``_``.

    Attributes
    ----------
    variables_ : list of str
        Variables of the record.
    units_ : dict
        Units of time and of the variables.
    times_ : ndarray, shape (time,)
        Times of the record.
    states_ : xarray.DataArray
        Which component of the state of ``vector_field`` each variable measures, over ``variable``.
    noise_model_ : str
        "normal" or "lognormal".
    noise_std_ : xarray.DataArray
        Standard deviation of the noise per variable; of logarithms under log-normal noise.
    fitted_, residuals_ : xarray.Dataset
        The fit with bands at the record's times, and data minus fit (of logarithms under log-normal noise).
    history_ : xarray.Dataset
        ``loss`` and ``validation`` over ``iteration``.
    provenance_ : dict
        Versions, seed, date, checksum of the data, settings.
    """

    confidence: float
    seed: int
    kind: ClassVar[str] = "estimator"

    @property
    def is_fitted(self) -> bool:
        """True after ``fit`` or ``load``."""
        return hasattr(self, "provenance_")

    @property
    def states_(self) -> xr.DataArray:
        """Which component of the state of ``vector_field`` each variable measures, over ``variable``."""
        import xarray as xr

        self._require_fitted("states_")
        index = np.array(self._state_index(), dtype=np.int64)
        return xr.DataArray(index, dims="variable", coords={"variable": self.variables_}, name="states")

    def _state_index(self) -> list[int]:
        return list(range(len(self.variables_)))

    def __getattr__(self, name: str) -> Any:
        if name.endswith("_") and not name.startswith("_"):
            hint = "it has no such result" if "provenance_" in self.__dict__ else "call fit(ds) first"
            raise NotFittedError(f"{type(self).__name__} has no {name}: {hint}.")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _require_fitted(self, what: str) -> None:
        if not self.is_fitted:
            raise NotFittedError(f"{type(self).__name__} is not fitted: call fit(ds) before {what}.")

    def _forget(self) -> None:
        """Drop the results of an earlier fit, so that a failed one leaves nothing half."""
        for name in [n for n in self.__dict__ if n.endswith("_") and not n.startswith("_")]:
            delattr(self, name)

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Leave the estimator as it was if a fit is refused, fails or is interrupted."""
        before = dict(self.__dict__)
        try:
            yield
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    # ---- results -------------------------------------------------------------------------------

    def _remember_record(self, obs: Observations) -> None:
        self._observations = obs
        self.variables_ = list(obs.names)
        self.units_ = dict(obs.units)
        self.times_ = obs.times
        self.noise_model_ = obs.noise

    def _remember_fit(self, obs: Observations) -> None:
        """The fit with bands at the record's times, and what the data differ from it."""
        values = self._predict(obs.batch.t, self.confidence)
        every = {**obs.units, **{f"{n}_{side}": obs.units[n] for n in obs.names for side in ("lower", "upper")}}
        self.fitted_ = obs.dataset(values, every, torch.isfinite(obs.batch.t))
        mean = torch.stack([values[n] for n in obs.names], dim=-1)
        difference = obs.link(torch.where(obs.batch.mask, obs.batch.y, 1.0)) - obs.link(mean)
        self.residuals_ = obs.dataset(
            {n: torch.where(obs.batch.mask[..., k], difference[..., k], torch.nan) for k, n in enumerate(obs.names)},
            {n: "1" if obs.noise == "lognormal" else obs.units[n] for n in obs.names},
        )

    def _provenance(self, obs: Observations) -> dict[str, Any]:
        from importlib.metadata import version

        import scidyn

        return {
            "model": type(self).__name__,
            "versions": {"scidyn": scidyn.__version__, **{n: version(n) for n in ("torch", "numpy", "xarray")}},
            "seed": self.seed,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "data_sha256": checksum(obs.batch),
            "settings": {k: plain(v) for k, v in self.get_params().items()},
        }

    def _per_variable(self, values: Any, name: str = "noise_std") -> xr.DataArray:
        import xarray as xr

        return xr.DataArray(
            np.asarray(values, dtype=float), dims="variable", coords={"variable": self.variables_}, name=name
        )

    # ---- prediction ----------------------------------------------------------------------------

    def predict(self, times: Any, interval: float | None = None) -> xr.Dataset:
        """Continue the fitted trajectories.

        Parameters
        ----------
        times : array_like, shape (time,)
            Strictly increasing, in the record's units, none before the record's first.
        interval : float, optional
            Probability inside a band for new measurements, for example 0.9; None gives no band.

        Returns
        -------
        xarray.Dataset
            Variable ``name`` and, with ``interval``, ``name_lower`` and ``name_upper``. Under log-normal
            noise ``name`` is the median.

        Raises
        ------
        scidyn.errors.NotFittedError
            Before ``fit``.
        scidyn.errors.TimeGridError
            If ``times`` are unsorted, not finite, or before the record.
        """
        self._require_fitted("predict")
        t = self._checked_times(times)
        if interval is not None:
            number("interval", interval, above=0, below=1)
        values = self._predict(t.expand(self._starts.shape[0], -1), interval)
        single = self._observations.single
        return self._to_dataset(t, values, None if single else self._observations.template["trajectory"].values)

    def _checked_times(self, times: Any) -> Tensor:
        try:
            t = torch.as_tensor(np.atleast_1d(np.asarray(times, dtype=float)))
        except (TypeError, ValueError):
            raise TimeGridError(f"times must be numbers; got {times!r}.") from None
        if t.ndim != 1 or t.numel() == 0:
            raise ShapeError(f"times must have shape (time,) with at least one time; got {tuple(t.shape)}.")
        from scidyn._check.tensors import increasing

        increasing("times", t, f" {self.units_['time']}")
        first = float(self._starts.min())
        if float(t[0]) < first:
            raise TimeGridError(
                f"times[0] is {float(t[0]):g}, the record starts at {first:g} {self.units_['time']}; "
                "use simulate(times, initial) to start elsewhere."
            )
        return t

    def _predict(self, t: Tensor, interval: float | None) -> dict[str, Tensor]:
        """Name → (trajectory, time) for times (trajectory, time), NaN-padded at the end."""
        raise NotImplementedError

    @property
    def _starts(self) -> Tensor:
        """First time of each trajectory (trajectory,)."""
        return self._observations.batch.t[:, 0]

    def _to_dataset(self, t: Tensor, values: Mapping[str, Tensor], labels: Any) -> xr.Dataset:
        import xarray as xr

        from scidyn.data.schema import CONVENTIONS

        dims = ("time",) if labels is None else ("trajectory", "time")
        ds = xr.Dataset(
            coords={"time": ("time", t.cpu().numpy(), {"units": self.units_["time"]})},
            attrs={"Conventions": CONVENTIONS, "scidyn_kind": "trajectories", "source": repr(self)},
        )
        if labels is not None:
            ds = ds.assign_coords(trajectory=labels)
        for name, value in values.items():
            base = name.removesuffix("_lower").removesuffix("_upper") if name not in self.units_ else name
            array = value.detach().cpu().numpy()
            ds[name] = (dims, array[0] if labels is None else array, {"units": self.units_[base]})
        return ds

    def simulate(self, times: Any, initial: Any = None) -> xr.Dataset:
        """Solve the fitted equation from an initial state, without noise.

        Parameters
        ----------
        times : array_like, shape (time,)
            Strictly increasing; the first is the time of ``initial``.
        initial : array_like, shape (variable,) or (trajectory, variable), optional
            Initial values in the record's units; default those of the fit.

        Returns
        -------
        xarray.Dataset
            One variable per variable of the record.

        Raises
        ------
        scidyn.errors.NotFittedError
            Before ``fit``.
        scidyn.errors.SolverError
            If the solve does not reach the last time.
        """
        self._require_fitted("simulate")
        from scidyn._check.tensors import finite, increasing

        t = increasing("times", torch.as_tensor(np.atleast_1d(np.asarray(times, dtype=float))))
        if initial is None:
            y0, single = self._initial_states(), self._observations.single
        else:
            y0 = finite("initial", torch.as_tensor(np.asarray(initial, dtype=float)))
            single = y0.ndim == 1
            y0 = self._states_from_variables(y0.reshape(-1, y0.shape[-1]) if y0.ndim else y0.reshape(1, 1))
        y = self._simulate(y0, t)
        values = {name: y[..., k] for k, name in enumerate(self.variables_)}
        return self._to_dataset(t, values, None if single else np.arange(y.shape[0]))

    def _initial_states(self) -> Tensor:
        raise NotImplementedError

    def _states_from_variables(self, y: Tensor) -> Tensor:
        """Whole states from values of the variables (row, variable)."""
        if y.shape[-1] != len(self.variables_):
            raise ShapeError(f"initial needs one value for each of {self.variables_}; got {y.shape[-1]}.")
        return y

    def _simulate(self, y0: Tensor, t: Tensor) -> Tensor:
        """Variables (row, time, variable) from states (row, state) at t[0]."""
        raise NotImplementedError

    def score(self, ds: xr.Dataset) -> float:
        """Mean log-likelihood per observed value of ``ds`` under the continued fit; higher is better.

        The noise is that of the fit (``noise_model_``, ``noise_std_``); the trajectories of ``ds`` must be
        those of the record, at any times from its start on.

        Parameters
        ----------
        ds : xarray.Dataset
            A record with the same variables, in the same units.

        Returns
        -------
        float
            In nats per value; densities refer to the record's units.

        Raises
        ------
        scidyn.errors.NotFittedError
            Before ``fit``.
        scidyn.errors.DataError
            If variables, units or trajectories are others.
        """
        self._require_fitted("score")
        from scidyn.metrics import log_score
        from scidyn.sysid.observations import observe

        obs = observe(ds, self.noise_model_)
        if list(obs.names) != self.variables_ or obs.units != self.units_:
            raise DataError(
                f"The record has {obs.units}, the model was fitted to {self.units_}; select and convert first."
            )
        if obs.batch.t.shape[0] != self._starts.shape[0]:
            raise DataError(
                f"The record has {obs.batch.t.shape[0]} trajectories, the model {self._starts.shape[0]}; "
                "score continues the fitted trajectories."
            )
        if bool((obs.batch.t[:, 0] < self._starts).any()):
            raise TimeGridError("The record starts before the fitted one; its past is not part of the model.")
        values = self._predict(obs.batch.t, None)
        mean = torch.stack([values[n] for n in obs.names], dim=-1)
        std = torch.as_tensor(self.noise_std_.values)
        return float(log_score(mean, obs.batch.y, std, obs.batch.mask, lognormal=self.noise_model_ == "lognormal"))

    # ---- files ---------------------------------------------------------------------------------

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write the fitted model to a folder that :func:`scidyn.load` reads.

        Parameters
        ----------
        path : str or Path
            Folder to write.
        overwrite : bool
            Replace a model that is there.

        Returns
        -------
        Path

        Raises
        ------
        scidyn.errors.NotFittedError
            Before ``fit``.
        scidyn.errors.ArtifactError
            If the folder exists and ``overwrite`` is False, or cannot be written; nothing is changed then.
        """
        self._require_fitted("save")
        from scidyn.data.io.artefact import write_artefact
        from scidyn.sysid.archive import pack

        manifest, tensors = pack(self)
        return write_artefact(Path(path), manifest, tensors, overwrite=overwrite)

    def _extra_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What a subclass needs to predict again: JSON values and tensors."""
        return {}, {}

    def _restore_extra(self, values: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Invert :meth:`_extra_state`."""

    # ---- to be told by subclasses ---------------------------------------------------------------

    def equations(self) -> str:
        """The fitted equation in words and numbers."""
        raise NotImplementedError

    def vector_field(self, t: Any, y: Any) -> Tensor:
        """Evaluate dy/dt of the fitted equation in physical units.

        Parameters
        ----------
        t : array_like, shape () or (*batch,)
            Time.
        y : array_like, shape (*batch, state)
            State.

        Returns
        -------
        Tensor, shape (*batch, state)
            Units of the state per unit of time.
        """
        raise NotImplementedError

"""Scaled coordinates in which networks train well, with the exact way back to physical units."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scidyn.data.convert import to_batch
from scidyn.data.schema import state_variables, units_of
from scidyn.errors import DataWarning, NonFiniteError, OptionError, SplitError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Scaling"]


@dataclass(frozen=True)
class Scaling:
    """The map ``z = (g(y) − μ)/σ``, ``s = (t − t₀)/τ`` with ``g`` the identity or the logarithm per variable.

    A field ``dz/ds = f(s, z)`` is, in physical units, ``dy/dt = (σ/τ) f`` for plain variables and
    ``dy/dt = y (σ/τ) f`` for logarithmic ones.

    Attributes
    ----------
    names : tuple of str
        Variables, in the order of the last axis.
    units : tuple of str
        Their units.
    time_units : str
        Units of time.
    mean : tuple of float
        μ per variable, in units of ``g(y)``.
    scale : tuple of float
        σ per variable, in units of ``g(y)``.
    start : float
        t₀ in time units.
    span : float
        τ in time units.
    logarithmic : tuple of bool
        True where ``g`` is the natural logarithm.

    Examples
    --------
    >>> import scidyn, torch
    >>> scaling = scidyn.data.Scaling.fit(scidyn.datasets.load("lynx_hare"), log=True)
    >>> y = torch.tensor([30.0, 4.0], dtype=torch.float64)
    >>> bool(torch.allclose(scaling.inverse(scaling.transform(y)), y))
    True
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    time_units: str
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    start: float
    span: float
    logarithmic: tuple[bool, ...]

    @classmethod
    def fit(cls, ds: xr.Dataset, *, log: bool | Sequence[str] = False) -> Scaling:
        """Take μ, σ from the observed values, t₀ from the first time and τ from the median step.

        Parameters
        ----------
        ds : xarray.Dataset
            Training data only.
        log : bool or sequence of str
            Which variables to scale on the logarithm.

        Returns
        -------
        Scaling

        Raises
        ------
        scidyn.errors.SplitError
            If ``ds`` carries more than one value of ``split``: constants of a scaling must not
            come from validation or test data.
        scidyn.errors.NonFiniteError
            If a logarithmic variable is not positive.
        """
        if "split" in ds.variables and len(set(ds["split"].values.ravel().tolist())) > 1:
            raise SplitError("A scaling is fitted on one split only; select it first, for example the training part.")
        names = state_variables(ds)
        units = units_of(ds)
        batch = to_batch(ds)
        chosen = set(names if log is True else log or ())
        if not chosen <= set(names):
            raise OptionError(f"log names {sorted(chosen - set(names))}; the variables are {names}.")
        mean, scale = [], []
        for k, name in enumerate(names):
            values = batch.y[..., k][batch.mask[..., k]]
            if name in chosen:
                if bool((values <= 0).any()):
                    raise NonFiniteError(f"Variable {name!r} has values <= 0 and no logarithm; leave it out of log=.")
                values = values.log()
            deviation = float(values.std(correction=0))
            if not deviation > 1e-12 * max(float(values.abs().max()), 1e-300):
                warnings.warn(
                    f"Variable {name!r} does not vary; it is centred but not scaled.", DataWarning, stacklevel=2
                )
                deviation = 1.0
            mean.append(float(values.mean()))
            scale.append(deviation)
        t = batch.t[torch.isfinite(batch.t)]
        steps = (batch.t[:, 1:] - batch.t[:, :-1])[torch.isfinite(batch.t[:, 1:])]
        return cls(
            tuple(names),
            tuple(units[n] for n in names),
            units["time"],
            tuple(mean),
            tuple(scale),
            float(t.min()),
            float(steps.median()),
            tuple(n in chosen for n in names),
        )

    def transform(self, y: Tensor) -> Tensor:
        """Map physical ``y`` (..., variable) to scaled ``z`` of the same shape."""
        flags, mean, scale = self._constants(y)
        return (torch.where(flags, torch.where(flags, y, 1.0).log(), y) - mean) / scale

    def inverse(self, z: Tensor) -> Tensor:
        """Map scaled ``z`` (..., variable) back to physical units."""
        flags, mean, scale = self._constants(z)
        g = mean + scale * z
        return torch.where(flags, torch.where(flags, g, 0.0).exp(), g)

    def time(self, t: Tensor) -> Tensor:
        """Map physical times to scaled times."""
        return (t - self.start) / self.span

    def inverse_time(self, s: Tensor) -> Tensor:
        """Map scaled times back to physical units."""
        return self.start + self.span * s

    def physical_vector_field(self, field: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        """Turn ``dz/ds = field(s, z)`` into ``dy/dt`` in physical units.

        Parameters
        ----------
        field : callable
            ``(s, z) -> dz/ds`` with the shape of ``z``.

        Returns
        -------
        callable
            ``(t, y) -> dy/dt`` in units of y per unit of time.
        """

        def physical(t: Tensor, y: Tensor) -> Tensor:
            flags, _, scale = self._constants(y)
            rate = field(self.time(t), self.transform(y)) * scale / self.span
            return torch.where(flags, y * rate, rate)

        return physical

    def scaled_vector_field(self, field: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        """Turn ``dy/dt = field(t, y)`` in physical units into ``dz/ds``: the inverse of the above."""

        def scaled(s: Tensor, z: Tensor) -> Tensor:
            flags, _, scale = self._constants(z)
            y = self.inverse(z)
            rate = field(self.inverse_time(s), y)
            return torch.where(flags, rate / torch.where(flags, y, 1.0), rate) * self.span / scale

        return scaled

    def log_abs_det(self, y: Tensor) -> Tensor:
        """``log |det ∂z/∂y|`` per entry of the leading axes: what a log-likelihood gains by the scaling."""
        flags, _, scale = self._constants(y)
        slope = torch.where(flags, torch.where(flags, y, 1.0).reciprocal(), torch.ones_like(y)) / scale
        return slope.abs().log().sum(-1)

    def to_config(self) -> dict[str, Any]:
        """JSON form, for a model file."""
        return {
            name: list(v) if isinstance(v := getattr(self, name), tuple) else v for name in self.__dataclass_fields__
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Scaling:
        """Invert :meth:`to_config`."""
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in config.items()}
        return cls(**fields)

    def _constants(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        flags = torch.tensor(self.logarithmic, device=like.device)
        mean = torch.tensor(self.mean, dtype=like.dtype, device=like.device)
        return flags, mean, torch.tensor(self.scale, dtype=like.dtype, device=like.device)

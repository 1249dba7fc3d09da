"""From a checked Dataset to the tensors of a Batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from scidyn.data.batch import Batch
from scidyn.data.schema import state_variables, time_dim

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

__all__ = ["to_batch"]


def to_batch(ds: xr.Dataset, *, dtype: torch.dtype = torch.float64, device: Any = None) -> Batch:
    """Convert a Dataset to a :class:`Batch`.

    Parameters
    ----------
    ds : xarray.Dataset
        Kind ``trajectories`` or ``irregular``; checked first.
    dtype : torch.dtype
        Floating dtype of the tensors.
    device : torch.device or str, optional
        Where the tensors live.

    Returns
    -------
    Batch
        ``t`` (batch, time), ``y`` and ``mask`` (batch, time, feature); features in the order of
        :func:`state_variables`.

    Raises
    ------
    scidyn.errors.DataError
        If the Dataset is not valid.

    Examples
    --------
    >>> import scidyn
    >>> scidyn.data.to_batch(scidyn.datasets.load("lynx_hare")).y.shape
    torch.Size([1, 21, 2])
    """
    import numpy as np

    from scidyn.data.validate import validate

    validate(ds)
    along = time_dim(ds)
    if "trajectory" not in ds.dims:
        ds = ds.expand_dims("trajectory")
    rows = ds.sizes["trajectory"]
    names = state_variables(ds)
    time = ds["time"]
    times = time.values if time.ndim == 2 else np.broadcast_to(time.values, (rows, ds.sizes[along]))

    def stack(variables: list[str], dims: tuple[str, ...]) -> np.ndarray:
        parts = [ds[n].broadcast_like(ds[names[0]]) if along in dims else ds[n] for n in variables]
        return np.stack([p.transpose(*dims).values.astype(float) for p in parts], axis=-1)

    values = stack(names, ("trajectory", along))
    mask = np.isfinite(values)
    if "mask" in ds.variables:
        said = ds["mask"].transpose("trajectory", along, ...).values.astype(bool)
        mask &= said if said.ndim == 3 else said[..., None]
    by_role = {
        role: [str(n) for n, v in ds.data_vars.items() if v.attrs.get("role") == role]
        for role in ("control", "parameter")
    }

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.tensor(array, dtype=dtype, device=device)

    return Batch(
        t=tensor(times),
        y=tensor(np.where(mask, values, 0.0)),
        mask=torch.tensor(mask, device=device),
        control=tensor(stack(by_role["control"], ("trajectory", along))) if by_role["control"] else None,
        parameter=tensor(stack(by_role["parameter"], ("trajectory",))) if by_role["parameter"] else None,
        index=torch.arange(rows, device=device),
    )

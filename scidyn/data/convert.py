"""From a checked Dataset to the tensors of a Batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from scidyn.data.batch import Batch
from scidyn.data.schema import SPACE, state_variables, time_dim

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

__all__ = ["to_batch"]


def to_batch(ds: xr.Dataset, *, dtype: torch.dtype | None = torch.float64, device: Any = None) -> Batch:
    """Convert a Dataset to a :class:`Batch`.

    Parameters
    ----------
    ds : xarray.Dataset
        Kind ``trajectories`` or ``irregular``; checked first.
    dtype : torch.dtype or None
        Floating dtype of the tensors; None keeps that of the data (times stay float64).
    device : torch.device or str, optional
        Where the tensors live.

    Returns
    -------
    Batch
        ``t`` (batch, time), ``y`` and ``mask`` (batch, time, *space, feature); features in the order
        of :func:`state_variables`.

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
    space = tuple(d for d in SPACE if any(d in ds[n].dims for n in names))
    time = ds["time"]
    times = time.values if time.ndim == 2 else np.broadcast_to(time.values, (rows, ds.sizes[along]))
    values = _stack(ds, names, ("trajectory", along, *space))
    mask = np.isfinite(values)
    if "mask" in ds.variables:
        mask &= _stack(ds, ["mask"], ("trajectory", along, *space))
    by_role = {
        role: [str(n) for n, v in ds.data_vars.items() if v.attrs.get("role") == role]
        for role in ("control", "parameter")
    }

    def tensor(array: np.ndarray) -> torch.Tensor:
        kept = dtype if dtype is not None else torch.from_numpy(array[:0]).dtype
        return torch.tensor(array, dtype=kept, device=device)

    return Batch(
        t=torch.tensor(times, dtype=dtype or torch.float64, device=device),
        y=tensor(np.where(mask, values, values.dtype.type(0))),
        mask=torch.tensor(mask, device=device),
        control=tensor(_stack(ds, by_role["control"], ("trajectory", along))) if by_role["control"] else None,
        parameter=tensor(_stack(ds, by_role["parameter"], ("trajectory",))) if by_role["parameter"] else None,
        index=torch.arange(rows, device=device),
    )


def _stack(ds: xr.Dataset, names: list[str], dims: tuple[str, ...]) -> np.ndarray:
    """Variables side by side on a last axis; a dim ``feature`` is laid out along it."""
    import numpy as np

    sizes = {d: ds.sizes[d] for d in dims}
    kinds = [ds[n].dtype if ds[n].dtype.kind in "fb" else np.dtype(float) for n in names]
    common = np.result_type(*kinds)
    parts = []
    for name in names:
        variable = ds[name].variable
        wide = variable.set_dims({**sizes, **{d: variable.sizes[d] for d in variable.dims if d not in dims}})
        if "feature" in wide.dims:
            parts.append(wide.transpose(*dims, "feature").values.astype(common, copy=False))
        else:
            parts.append(wide.transpose(*dims).values.astype(common, copy=False)[..., None])
    return np.concatenate(parts, axis=-1)

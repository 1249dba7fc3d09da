"""A fitted estimator as a manifest and tensors, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scidyn._check.values import did_you_mean
from scidyn.data import Batch
from scidyn.errors import ArtifactError
from scidyn.sysid.estimator import Estimator
from scidyn.sysid.observations import Observations
from scidyn.sysid.options import plain

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["pack", "unpack"]

TABLES = ("fitted_", "residuals_", "history_", "parameters_", "initial_", "profiles_", "noise_std_", "network_share_")
VERSION = 1


def pack(model: Estimator) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Manifest and tensors of a fitted estimator."""
    obs = model._observations
    values, tensors = model._extra_state()
    results, arrays = {}, {}
    for name in TABLES:
        table = model.__dict__.get(name)
        if table is None:
            continue
        one = table.to_dataset(name="array") if name in ("noise_std_", "network_share_") else table
        results[name] = _describe(one, name, arrays)
    record = _describe(obs.template, "record", arrays)
    batch = {"t": obs.batch.t, "y": obs.batch.y, "mask": obs.batch.mask}
    manifest = {
        "class": type(model).__name__,
        "model_version": VERSION,
        "config": {k: plain(v) for k, v in model.get_params().items()},
        "units": model.units_,
        "variables": model.variables_,
        "noise": model.noise_model_,
        "provenance": model.provenance_,
        "seed": model.seed,
        "values": values,
        "results": results,
        "record": record,
    }
    return manifest, {"model": tensors, "record": batch, "results": arrays}


def unpack(
    cls: type[Estimator],
    manifest: dict[str, Any],
    tensors: dict[str, dict[str, Tensor]],
    systems: Sequence[type] = (),
) -> Estimator:
    """Rebuild a fitted estimator; raises ArtifactError naming what is missing or unknown."""
    if manifest.get("model_version") != VERSION:
        raise ArtifactError(
            f"the model has version {manifest.get('model_version')!r}; this scidyn reads version {VERSION}."
        )
    try:
        config = {k: _option(v, systems) for k, v in manifest["config"].items()}
        model: Estimator = cls(**config)
        arrays, batch = tensors["results"], tensors["record"]
        template = _rebuild(manifest["record"], arrays)
        data = Batch(batch["t"], batch["y"], batch["mask"], None, None, torch.arange(batch["t"].shape[0]))
        names = tuple(str(n) for n in manifest["variables"])
        obs = Observations(data, names, dict(manifest["units"]), str(manifest["noise"]), template)
        model._remember_record(obs)
        for name, description in manifest["results"].items():
            if name not in TABLES:
                raise ArtifactError(f"the manifest holds an unknown result {name!r}.")
            table = _rebuild(description, arrays)
            setattr(model, name, _array(name, table) if "array" in table else table)
        model._restore_extra(dict(manifest["values"]), tensors["model"])
        model.provenance_ = dict(manifest["provenance"])
    except ArtifactError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise ArtifactError(f"the manifest or its tensors are not those of a model: {error!r}.") from error
    return model


def _option(value: Any, systems: Sequence[type]) -> Any:
    """Invert :func:`plain`; systems come from a closed list of classes."""
    if isinstance(value, dict) and set(value) == {"system", "values"}:
        known = {cls.__name__: cls for cls in (*_shipped_systems(), *systems)}
        name = value["system"]
        if name not in known:
            raise ArtifactError(
                f"the model's system {name!r} is not part of scidyn; pass its class: "
                f"scidyn.load(path, systems=[{name}]).{did_you_mean(name, known)}"
            )
        return known[name](**value["values"])
    if isinstance(value, dict):
        return {k: _option(v, systems) for k, v in value.items()}
    if isinstance(value, list):
        return tuple(_option(v, systems) for v in value)
    return value


def _shipped_systems() -> list[type]:
    from scidyn import systems

    classes = [getattr(systems, name) for name in systems.__all__]
    return [c for c in classes if isinstance(c, type) and issubclass(c, systems.System) and c is not systems.System]


def _describe(ds: xr.Dataset, name: str, arrays: dict[str, Tensor]) -> dict[str, Any]:
    """JSON form of a Dataset; its numbers go to ``arrays``."""
    variables = []
    for key, variable in ds.variables.items():
        values = variable.values
        entry: dict[str, Any] = {
            "name": str(key),
            "dims": [str(d) for d in variable.dims],
            "attrs": {str(k): plain(v) for k, v in variable.attrs.items()},
            "coordinate": key in ds.coords,
        }
        if values.dtype.kind in "fiub":
            entry["tensor"] = f"{name}/{key}"
            arrays[entry["tensor"]] = torch.as_tensor(np.ascontiguousarray(values)).clone()
        else:
            entry["strings"] = [str(v) for v in values.ravel().tolist()]
            entry["shape"] = list(values.shape)
        variables.append(entry)
    attrs = {str(k): plain(v) for k, v in ds.attrs.items()}
    return {"variables": variables, "attrs": attrs}


def _rebuild(description: dict[str, Any], arrays: dict[str, Tensor]) -> xr.Dataset:
    """Invert :func:`_describe`."""
    import xarray as xr

    data, coords = {}, {}
    for entry in description["variables"]:
        if "tensor" in entry:
            values = arrays[entry["tensor"]].numpy()
        else:
            values = np.array(entry["strings"], dtype=str).reshape(entry["shape"])
        target = coords if entry["coordinate"] else data
        target[entry["name"]] = (tuple(entry["dims"]), values, entry["attrs"])
    return xr.Dataset(data, coords=coords, attrs=description["attrs"])


def _array(name: str, table: xr.Dataset) -> xr.DataArray:
    return table["array"].rename(name.removesuffix("_"))

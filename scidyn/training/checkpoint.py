"""The whole state of a fit as an artefact folder, from which it goes on bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from scidyn.data.io.artefact import read_artefact, write_artefact
from scidyn.errors import ArtifactError

__all__ = ["read_checkpoint", "write_checkpoint"]

KIND = "scidyn checkpoint"


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a nested dict of JSON values and tensors, replacing an older checkpoint."""
    tensors: dict[str, Tensor] = {}
    skeleton = _take_apart(state, "", tensors)
    if path.exists():
        _manifest_of(path)
    write_artefact(path, {"kind": KIND, "state": skeleton}, {"state": tensors}, overwrite=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Invert :func:`write_checkpoint`; raises ArtifactError if the folder is not a whole checkpoint."""
    manifest, tensors = _manifest_of(path)
    state: dict[str, Any] = _put_together(manifest["state"], tensors["state"])
    return state


def _manifest_of(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    manifest, tensors = read_artefact(path)
    if manifest.get("kind") != KIND or "state" not in tensors:
        raise ArtifactError(f"{path} is not a checkpoint of a fit; name another folder.")
    return manifest, tensors


def _take_apart(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """Replace tensors by their names; keys that are not text keep their type."""
    if isinstance(value, Tensor):
        tensors[place] = value.detach().clone()
        return {"tensor": place}
    if isinstance(value, dict):
        pairs = [[k, _take_apart(v, f"{place}/{k}", tensors)] for k, v in value.items()]
        return {"pairs": pairs}
    if isinstance(value, list | tuple):
        return [_take_apart(v, f"{place}/{i}", tensors) for i, v in enumerate(value)]
    return value


def _put_together(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict) and set(value) == {"tensor"}:
        return tensors[value["tensor"]].clone()
    if isinstance(value, dict) and set(value) == {"pairs"}:
        return {k: _put_together(v, tensors) for k, v in value["pairs"]}
    if isinstance(value, list):
        return [_put_together(v, tensors) for v in value]
    return value



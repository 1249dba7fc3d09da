"""A folder of safetensors files and a JSON manifest with a checksum for each: models and checkpoints."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from torch import Tensor

from scidyn.data.io.atomic import recover_directory, replace_directory
from scidyn.errors import ArtifactError

__all__ = ["FORMAT", "read_artefact", "write_artefact"]

FORMAT = 1
"""Version of the folder layout; a reader refuses a newer one."""

_MANIFEST = "manifest.json"


def write_artefact(
    path: Path, manifest: dict[str, Any], tensors: dict[str, dict[str, Tensor]], *, overwrite: bool = False
) -> Path:
    """Write ``manifest.json`` and one ``<name>.safetensors`` per entry of ``tensors``, all or nothing.

    Parameters
    ----------
    path : Path
        Folder to write.
    manifest : dict
        JSON-like description; the keys ``format``, ``files`` and ``versions`` are added.
    tensors : dict of dict of Tensor
        File name without suffix → tensor name → tensor.
    overwrite : bool
        Replace an artefact that is there.

    Returns
    -------
    Path

    Raises
    ------
    ArtifactError
        If ``path`` exists and ``overwrite`` is False, is not an artefact, or cannot be written.
    """
    from safetensors.torch import save

    path = Path(path)
    recover_directory(path)
    if path.exists():
        if not overwrite:
            raise ArtifactError(f"{path} exists; nothing was changed. Pass overwrite=True to replace it.")
        if not (path / _MANIFEST).is_file():
            raise ArtifactError(f"{path} is not a scidyn artefact, so it is not replaced; name another path.")
    files = {
        f"{name}.safetensors": save({key: value.detach().cpu().contiguous() for key, value in entries.items()})
        for name, entries in tensors.items()
    }
    sums = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)} for name, content in files.items()
    }
    full = {"format": FORMAT, "versions": _versions(), **manifest, "files": sums}
    files[_MANIFEST] = json.dumps(_finite(full), indent=1, ensure_ascii=False, allow_nan=False).encode()

    def fill(folder: Path) -> None:
        for name, content in files.items():
            (folder / name).write_bytes(content)

    return replace_directory(path, fill)


def read_artefact(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Read a folder that :func:`write_artefact` made, after checking every byte of it.

    Raises
    ------
    ArtifactError
        If the folder or a file is missing, truncated, altered, or of a newer format; the file is named.
    """
    from safetensors.torch import load

    path = Path(path)
    recover_directory(path)
    manifest = _read_manifest(path)
    tensors = {}
    for name, expected in manifest["files"].items():
        content = _checked(path, name, expected)
        tensors[name.removesuffix(".safetensors")] = load(content)
    return _infinite(manifest), tensors


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / _MANIFEST
    if not path.exists():
        raise ArtifactError(f"{path} does not exist.")
    if not file.is_file():
        raise ArtifactError(f"{path} is not a scidyn artefact: it has no {_MANIFEST}.")
    try:
        manifest = json.loads(file.read_bytes())
    except (ValueError, OSError) as error:
        raise ArtifactError(f"{file} is truncated or damaged: {error}; restore it from a copy.") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise ArtifactError(f"{file} is not the manifest of a scidyn artefact.")
    version = manifest.get("format")
    if not isinstance(version, int) or version > FORMAT:
        raise ArtifactError(f"{file} has format {version!r}; this scidyn reads up to {FORMAT}: install a newer one.")
    return manifest


def _checked(path: Path, name: str, expected: dict[str, Any]) -> bytes:
    """The bytes of one file, if name, size and checksum are as the manifest says."""
    if name != Path(name).name or not name.endswith(".safetensors"):
        raise ArtifactError(f"{path / _MANIFEST} names the file {name!r}, which lies outside its folder; refused.")
    file = path / name
    if file.is_symlink() or not file.is_file():
        raise ArtifactError(f"{file} is missing; restore it from a copy.")
    content = file.read_bytes()
    if len(content) != expected.get("bytes"):
        raise ArtifactError(f"{file} is truncated: {len(content)} bytes, {expected.get('bytes')} expected.")
    if hashlib.sha256(content).hexdigest() != expected.get("sha256"):
        raise ArtifactError(f"{file} is damaged: its checksum is not that of the manifest.")
    return content


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("scidyn", "torch", "numpy", "xarray")}


def _finite(value: Any) -> Any:
    """JSON has no NaN or infinity: they travel as ``{"float": "nan"}``."""
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    return value


def _infinite(value: Any) -> Any:
    """Invert :func:`_finite`."""
    if isinstance(value, dict):
        if set(value) == {"float"}:
            return float(value["float"])
        return {k: _infinite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_infinite(v) for v in value]
    return value

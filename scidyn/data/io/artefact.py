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

FORMAT = 2
"""Version of the folder layout; a reader refuses a newer one. Version 2 added the manifest's own checksum."""

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
    plain = _finite(full)
    files[_MANIFEST] = json.dumps(plain | {"sha256": _seal(plain)}, indent=1, ensure_ascii=False).encode()

    def fill(folder: Path) -> None:
        for name, content in files.items():
            (folder / name).write_bytes(content)

    return replace_directory(path, fill, size=sum(map(len, files.values())))


def read_artefact(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Read a folder that :func:`write_artefact` made, after checking every byte of it.

    Raises
    ------
    ArtifactError
        If the folder or a file is missing, truncated, altered, or of a newer format; the file is named.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path)
    recover_directory(path)
    manifest = _read_manifest(path)
    tensors = {}
    for name, expected in manifest["files"].items():
        content = _checked(path, name, expected)
        try:
            tensors[name.removesuffix(".safetensors")] = load(content)
        except (SafetensorError, ValueError, RuntimeError) as error:
            raise ArtifactError(f"{path / name} is no safetensors file: {error}; restore it from a copy.") from error
    seal = manifest.pop("sha256", None)
    if manifest["format"] >= 2 and seal != _seal(manifest):
        raise ArtifactError(f"{path / _MANIFEST} is damaged or was edited: its own checksum does not fit.")
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
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= FORMAT:
        raise ArtifactError(f"{file} has format {version!r}; this scidyn reads up to {FORMAT}: install a newer one.")
    return manifest


def _checked(path: Path, name: str, expected: dict[str, Any]) -> bytes:
    """The bytes of one file, if name, size and checksum are as the manifest says."""
    if name != Path(name).name or not name.endswith(".safetensors"):
        raise ArtifactError(f"{path / _MANIFEST} names the file {name!r}, which lies outside its folder; refused.")
    if not isinstance(expected, dict):
        raise ArtifactError(f"{path / _MANIFEST} gives no size and checksum for {name!r}; restore it from a copy.")
    file = path / name
    if file.is_symlink() or not file.is_file():
        raise ArtifactError(f"{file} is missing; restore it from a copy.")
    content = file.read_bytes()
    if len(content) != expected.get("bytes"):
        raise ArtifactError(f"{file} is truncated: {len(content)} bytes, {expected.get('bytes')} expected.")
    if hashlib.sha256(content).hexdigest() != expected.get("sha256"):
        raise ArtifactError(f"{file} is damaged: its checksum is not that of the manifest.")
    return content


def _seal(manifest: dict[str, Any]) -> str:
    """Checksum of a manifest without its own checksum, whatever its layout on the page."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True, allow_nan=False).encode()).hexdigest()


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

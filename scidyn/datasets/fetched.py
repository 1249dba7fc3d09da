"""Datasets that are fetched once, judged by their checksum, and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from scidyn.errors import ArtifactError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["FETCHED", "Remote", "fetched", "local_file"]

_SECONDS = 30.0


@dataclass(frozen=True)
class Remote:
    """A public file and what tells that it is the right one.

    Attributes
    ----------
    title : str
        One line for people.
    url : str
        Where it is, ``https`` or ``file``.
    sha256 : str
        Checksum of its content.
    size : int
        Bytes.
    hints : mapping
        Arguments of :func:`scidyn.open`.
    attributes : mapping of str to str
        ``license``, ``references`` and the like.
    """

    title: str
    url: str
    sha256: str
    size: int
    hints: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)


_RAISSI = {
    "license": "MIT",
    "references": "Raissi, Perdikaris & Karniadakis 2019, J. Comput. Phys. 378, 686–707",
}
_PINNS = "https://raw.githubusercontent.com/maziarraissi/PINNs/master"
FETCHED: dict[str, Remote] = {
    "burgers_shock": Remote(
        "Burgers' equation u_t + u u_x = (0.01/π) u_xx from −sin πx, which steepens to a shock",
        f"{_PINNS}/appendix/Data/burgers_shock.mat",
        "f4d11e6798b8d29b6829984952b04adcc470d9bf70dd7e56c7985cd8e316c4bf",
        207944,
        {"units": "1", "values": ["usol"]},
        _RAISSI,
    ),
    "korteweg_de_vries": Remote(
        "Korteweg–de Vries equation u_t + u u_x + 0.0025 u_xxx = 0 from cos πx: solitons",
        f"{_PINNS}/main/Data/KdV.mat",
        "7c04e89a0c65692105dbe7fc8ba52cb90ce01a64e47e995a5736fbf1c06be220",
        788239,
        {"units": "1", "time": "tt", "values": ["uu"]},
        _RAISSI,
    ),
}
"""Fetched datasets by name."""


def fetched(name: str) -> xr.Dataset:
    """Open a fetched dataset, fetching it first if it is not there or not what it should be.

    Parameters
    ----------
    name : str
        One of :data:`FETCHED`.

    Returns
    -------
    xarray.Dataset

    Raises
    ------
    scidyn.errors.ArtifactError
        Without a network, or if what came has another checksum; the message says how to bring the
        file by hand.
    """
    from scidyn import data

    remote = FETCHED[name]
    ds = data.open(local_file(name, remote), **remote.hints)
    ds.attrs |= {"title": remote.title, "source": remote.url, **remote.attributes}
    return ds


def local_file(name: str, remote: Remote) -> Path:
    """The checked file in the cache; fetched if need be.

    Parameters
    ----------
    name : str
        Name of the dataset.
    remote : Remote
        Where it is and its checksum.

    Returns
    -------
    Path
    """
    from scidyn.data.io import atomic
    from scidyn.datasets.recipes import cache_folder

    path = cache_folder() / f"{name}-{remote.sha256[:12]}{Path(urlparse(remote.url).path).suffix}"
    if path.is_file() and path.stat().st_size == remote.size and _sha256(path.read_bytes()) == remote.sha256:
        return path
    by_hand = f"fetch {remote.url} on another machine and put it there as {path}, or set SCIDYN_CACHE"
    content = _download(name, remote, by_hand)
    found = _sha256(content)
    if len(content) != remote.size or found != remote.sha256:
        raise ArtifactError(
            f"{name!r}: {remote.url} gave {len(content)} bytes with SHA-256 {found[:12]}…, expected {remote.size} with "
            f"{remote.sha256[:12]}…; nothing was kept. The file has changed or was altered on its way."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"{path.parent} cannot be made: {error}; set SCIDYN_CACHE to another folder.") from error
    return atomic.write_bytes(path, content)


def _download(name: str, remote: Remote, by_hand: str) -> bytes:
    from http.client import HTTPException
    from urllib.request import urlopen

    if urlparse(remote.url).scheme not in ("https", "file"):
        raise ArtifactError(f"{name!r}: {remote.url} is not fetched; only https and file addresses are.")
    try:
        with urlopen(remote.url, timeout=_SECONDS) as answer:
            return bytes(answer.read(remote.size + 1))
    except (OSError, ValueError, HTTPException) as error:  # URLError, timeouts and refusals are OSErrors
        reason = getattr(error, "reason", error)
        raise ArtifactError(
            f"{name!r} ({remote.size / 1e6:.1f} MB) is not in the cache and cannot be fetched: {reason}. "
            f"If this machine is offline, {by_hand}."
        ) from error


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

"""Which formats scidyn reads: each says how sure it is by a file's content, the surest one reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scidyn._check.values import did_you_mean
from scidyn.data.io.safety import no_room
from scidyn.errors import ArtifactError, DataError, OptionError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["FORMATS", "Format", "detect", "read"]

HEAD = 1 << 16
"""Bytes at the start of a file that a format is recognised by."""


@dataclass(frozen=True)
class Format:
    """One file format.

    Attributes
    ----------
    name : str
        What people call it.
    module : str
        Module of this package with ``sniff(path, head) -> float`` and ``read(path, **hints)``.
    hints : tuple of str
        Arguments of :func:`scidyn.open` that it understands.
    """

    name: str
    module: str
    hints: tuple[str, ...]

    def sniff(self, path: Path, head: bytes) -> float:
        """Probability that ``path``, starting with ``head``, has this format."""
        return float(self._call("sniff")(path, head))

    def read(self, path: Path, hints: Mapping[str, Any]) -> xr.Dataset:
        """Read the file; hints that the format does not know are refused."""
        for key in hints:
            if key not in self.hints:
                raise OptionError(
                    f"{path} is {self.name}, which has no use for {key}=; it knows "
                    f"{', '.join(self.hints) or 'no hints'}.{did_you_mean(key, self.hints)}"
                )
        return self._call("read")(path, **hints)

    def _call(self, name: str) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(import_module(f"scidyn.data.readers.{self.module}"), name)
        return function


_TABLE = ("time", "id", "values", "units", "layout", "kind", "decimal")
_ARRAYS = ("time", "values", "units", "dims", "kind")
FORMATS = (
    Format("a shard folder", "shard_folder", ("values", "units")),
    Format("a Zarr store", "zarr_store", ("values", "units")),
    Format("MATLAB", "matlab", _ARRAYS),
    Format("an AnnData file", "anndata_file", ("time", "rep", "weight", "time_map", "units")),
    Format("PDEBench HDF5", "pdebench", ("values", "units", "rows")),
    Format("The Well HDF5", "the_well", ("values", "units", "rows")),
    Format("NetCDF", "netcdf", ("values", "units", "memory_limit")),
    Format("a NumPy archive", "numpy_archive", _ARRAYS),
    Format("an Excel workbook", "excel", (*_TABLE[:-1], "sheet")),
    Format("Parquet", "parquet", (*_TABLE[:-1], "rows", "memory_limit")),
    Format("a text table", "text", _TABLE),
)


def detect(path: Path) -> Format:
    """The format of a file, judged by its content.

    Raises
    ------
    ArtifactError
        If the file is missing or cannot be read.
    DataError
        If no format knows it; Python pickles are named as what they are.
    """
    head = _head(path)
    surest, format = max(((f.sniff(path, head), f) for f in FORMATS), key=lambda pair: pair[0])
    if surest < 0.05:
        if head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") or b"data.pkl" in head[:256]:
            raise ArtifactError(f"{path} is a Python pickle, which can run code when opened; scidyn does not read it.")
        known = "CSV, TSV, Excel, Parquet, NetCDF, HDF5 (AnnData, PDEBench, The Well, MATLAB 7.3), MATLAB 5, npz, Zarr"
        raise DataError(f"{path} is no file that scidyn knows; known formats: {known}.")
    return format


def read(path: Path, hints: Mapping[str, Any]) -> xr.Dataset:
    """Detect the format of ``path`` and read it.

    Raises
    ------
    ArtifactError
        If there is less memory than it needs; everything else as the reader of the format says.
    """
    try:
        return detect(path).read(path, hints)
    except MemoryError as error:
        raise no_room(path, path.stat().st_size) from error


def _head(path: Path) -> bytes:
    if path.is_dir():
        return b""
    try:
        with path.open("rb") as file:
            return file.read(HEAD)
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist.") from None
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error}.") from error

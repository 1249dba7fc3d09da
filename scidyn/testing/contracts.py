"""Checks that any reader and any Dataset must pass; each raises AssertionError with what differed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scidyn.data import open as open_file
from scidyn.data import save, validate
from scidyn.errors import ScidynError

if TYPE_CHECKING:
    import xarray as xr

    from scidyn.typing import Reader

__all__ = ["check_reader", "check_round_trip"]


def check_round_trip(ds: xr.Dataset, folder: str | Path) -> None:
    """Check that a Dataset comes back from the disk as it went: values, units, names, coordinates, dtypes.

    Parameters
    ----------
    ds : xarray.Dataset
        A valid Dataset.
    folder : str or Path
        Where to write.

    Raises
    ------
    AssertionError
        If anything differs; the variable is named.

    Examples
    --------
    >>> import scidyn
    >>> from scidyn.testing import check_round_trip
    >>> check_round_trip(scidyn.datasets.load("lynx_hare"), ".")
    """
    again = open_file(save(ds, Path(folder) / "round-trip.nc", overwrite=True))
    for name, variable in ds.variables.items():
        if name not in again.variables:
            raise AssertionError(f"{name!r} was lost")
        other = again.variables[name]
        if variable.dims != other.dims or variable.dtype.kind != other.dtype.kind or not variable.identical(other):
            raise AssertionError(f"{name!r} came back as {other!r}, it was {variable!r}")
    if not ds.identical(again):
        raise AssertionError(f"attributes, coordinates or order changed: {ds.attrs} became {again.attrs}")


def check_reader(reader: Reader, path: str | Path, others: list[Path] | None = None) -> xr.Dataset:
    """Check the contract of a reader: sure of its own format, unsure of others, never a raw exception.

    Parameters
    ----------
    reader : Reader
        Has ``sniff(path)`` and ``read(path)``.
    path : str or Path
        A file of its format.
    others : list of Path, optional
        Files of other formats.

    Returns
    -------
    xarray.Dataset
        What the reader read, which is valid.

    Raises
    ------
    AssertionError
        If the contract is broken.

    Examples
    --------
    >>> from pathlib import Path
    >>> import scidyn
    >>> from scidyn.testing import check_reader
    >>> class Pairs:
    ...     def sniff(self, path):
    ...         return 1.0 if path.read_bytes().startswith(b"PAIRS") else 0.0
    ...     def read(self, path):
    ...         numbers = [float(x) for x in path.read_text().split()[1:]] if path.stat().st_size > 9 else []
    ...         return scidyn.data.from_arrays(numbers[1::2], numbers[::2], units=["m"], time_units="s")
    >>> _ = Path("a.pairs").write_text("PAIRS 0 1.5 1 2.5 2 3.5")
    >>> check_reader(Pairs(), "a.pairs").sizes["time"]
    3
    """
    path = Path(path)
    if not 0.5 < reader.sniff(path) <= 1:
        raise AssertionError(f"the reader gives its own file {path} the probability {reader.sniff(path)}")
    for other in others or []:
        if reader.sniff(other) > 0.5:
            raise AssertionError(f"the reader claims {other}, which is not of its format")
    ds = reader.read(path)
    validate(ds)
    content = path.read_bytes()
    damaged = path.with_name(f"{path.name}.cut")
    try:
        for share in (0.0, 0.3, 0.7):
            _write(damaged, content[: int(share * len(content))])
            try:
                reader.read(damaged)
            except ScidynError:
                continue
            except Exception as error:
                raise AssertionError(f"a file cut at {share:.0%} gave {type(error).__name__}: {error}") from error
    finally:
        damaged.unlink(missing_ok=True)
    return ds


def _write(path: Path, content: bytes) -> None:
    from scidyn.data.io import atomic

    atomic.write_bytes(path, content)

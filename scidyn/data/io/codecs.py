"""How arrays lie in a file: chunks, checksums, compression, rounding of bits."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn._check.values import choice, integer
from scidyn.errors import OptionError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["CODECS", "chunk_shape", "encoding", "round_bits"]

CODECS = ("none", "fast", "small")
_CHUNK_BYTES = 1 << 20


def encoding(
    variable: xr.Variable, *, codec: str = "none", checksum: bool = True, window: int | None = None
) -> dict[str, Any]:
    """The h5netcdf encoding of one numeric variable.

    Full-precision fields hardly compress, so ``"none"`` is the default; ``"fast"`` is Blosc-LZ4 where
    hdf5plugin is installed (files that other programs may not open) and nothing elsewhere; ``"small"`` is
    gzip with shuffling, which every HDF5 reader opens.
    """
    choice("codec", codec, CODECS)
    if not variable.ndim or variable.dtype.kind not in "fiub" or min(variable.shape) == 0:
        return {}
    out: dict[str, Any] = {"_FillValue": np.nan} if variable.dtype.kind == "f" else {}
    if not checksum and window is None and codec == "none":
        return out | {"contiguous": True}
    out["chunksizes"] = chunk_shape(variable.sizes, variable.dtype.itemsize, window)
    out["fletcher32"] = checksum
    if codec == "small":
        out |= {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    elif codec == "fast":
        out |= _fast()
    return out


def chunk_shape(sizes: Mapping[Hashable, int], width: int, window: int | None) -> tuple[int, ...]:
    """Chunks of one trajectory, ``window`` times and the whole of space, at most 1 MiB.

    Without ``window`` the first axes are cut until a chunk fits.
    """
    shape = {str(d): n for d, n in sizes.items()}
    if window is not None:
        along = "obs" if "obs" in shape else "time"
        if "trajectory" in shape:
            shape["trajectory"] = 1
        if along in shape:
            shape[along] = min(integer("window", window, at_least=1), shape[along])
    for d in shape:  # outermost first
        inside = width * int(np.prod(list(shape.values()), dtype=object))
        if inside > _CHUNK_BYTES:
            shape[d] = max(1, shape[d] * _CHUNK_BYTES // inside)
    return tuple(shape.values())


def round_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Round floating values to ``bits`` bits of mantissa, half to even; the rest becomes zeros that compress.

    The relative error is at most ``2^-(bits + 1)``; NaN and infinities are kept.
    """
    if values.dtype.kind != "f" or values.dtype.itemsize not in (4, 8):
        return values
    word: Any = np.uint32 if values.dtype.itemsize == 4 else np.uint64
    mantissa = 23 if values.dtype.itemsize == 4 else 52
    bits = integer("bits", bits, at_least=1)
    drop = mantissa - bits
    if drop <= 0:
        raise OptionError(f"bits must be below {mantissa} for {values.dtype}; got {bits}.")
    raw: Any = np.ascontiguousarray(values).view(word)
    half = word(1 << (drop - 1))
    even = (raw >> word(drop)) & word(1)
    rounded = (raw + (half - word(1)) + even) & ~word((1 << drop) - 1)
    return np.asarray(np.where(np.isfinite(values), rounded.view(values.dtype), values))


def _fast() -> dict[str, Any]:
    try:
        import hdf5plugin
    except ImportError:
        return {}
    return dict(hdf5plugin.Blosc(cname="lz4", shuffle=hdf5plugin.Blosc.SHUFFLE))

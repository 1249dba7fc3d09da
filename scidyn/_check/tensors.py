"""Checks of tensors: finite values, floating dtype, strictly ordered times."""

from __future__ import annotations

import torch
from torch import Tensor

from scidyn.errors import NonFiniteError, ShapeError, TimeGridError


def position(flat: int, shape: tuple[int, ...]) -> str:
    """``[2, 0]`` for the flat index 4 in the shape (3, 2)."""
    index = []
    for size in reversed(shape):
        index.append(flat % size)
        flat //= size
    return "[" + ", ".join(map(str, reversed(index))) + "]"


def finite(name: str, value: Tensor, cure: str = "") -> Tensor:
    """Return ``value`` if all its entries are finite, else raise NonFiniteError naming the first."""
    bad = ~torch.isfinite(value)
    if bool(bad.any()):
        first = int(bad.reshape(-1).to(torch.uint8).argmax())
        entry = value.reshape(-1)[first].item()
        raise NonFiniteError(
            f"{name}{position(first, tuple(value.shape))} is {entry} "
            f"({int(bad.sum())} of {value.numel()} entries are not finite).{' ' + cure if cure else ''}"
        )
    return value


def floating(name: str, value: Tensor) -> Tensor:
    """Return ``value`` if its dtype is floating or complex, else raise ShapeError."""
    if not (value.is_floating_point() or value.is_complex()):
        raise ShapeError(f"{name} has dtype {value.dtype}; a floating dtype is needed: pass {name}.to(torch.float64).")
    return value


def increasing(name: str, times: Tensor, unit: str = "") -> Tensor:
    """Return 1-D ``times`` if finite and strictly increasing, else raise TimeGridError naming the row."""
    finite(name, times)
    steps = times[1:] - times[:-1]
    bad = steps <= 0
    if bool(bad.any()):
        row = int(bad.to(torch.uint8).argmax()) + 1
        before, after = times[row - 1].item(), times[row].item()
        kind = "repeats" if before == after else "goes back from"
        raise TimeGridError(
            f"{name} must increase strictly: row {row} {kind} {before:g}{unit}"
            f"{'' if before == after else f' to {after:g}{unit}'}; sort the rows and merge the duplicates."
        )
    return times

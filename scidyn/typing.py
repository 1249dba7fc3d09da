"""Shared type names: shapes as aliases, and the protocols that rooms meet at."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr
    from torch import Tensor

__all__ = ["Mask", "Objective", "Reader", "State", "Times", "VectorField"]

State: TypeAlias = "Tensor"
"""State of a system, shape ``(*batch, *state)``."""

Times: TypeAlias = "Tensor"
"""Times, shape ``(time,)`` or ``(batch, time)``."""

Mask: TypeAlias = "Tensor"
"""Boolean, True where a value was observed."""

VectorField: TypeAlias = Callable[..., "Tensor"]
"""``f(t, y)`` or ``f(t, y, args)`` giving dy/dt with the shape of ``y``."""


class Objective(Protocol):
    """What a fit minimises: ``(model, batch) -> Loss``; the training room knows nothing else."""

    def __call__(self, model: Any, batch: Any) -> Any:
        """Evaluate the loss of ``model`` on ``batch``."""


class Reader(Protocol):
    """One file format: how to recognise it and how to read it."""

    def sniff(self, path: Path) -> float:
        """Probability in [0, 1] that ``path`` has this format, judged by its content."""

    def read(self, path: Path, **hints: Any) -> xr.Dataset:
        """Read the file into a Dataset; raises DataError or ArtifactError."""

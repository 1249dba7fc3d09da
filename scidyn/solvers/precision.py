"""Which precision a rate may have, and ``f`` run under autocast by a solver that is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scidyn.errors import OptionError, ShapeError

__all__ = ["HALF", "UnderAutocast", "power", "same_precision", "under_autocast", "working_precision"]

HALF = (torch.float16, torch.bfloat16)


def same_precision(value: Tensor, dtype: torch.dtype, source: str) -> Tensor:
    """Bring a rate of half precision, as autocast gives, to the dtype of the state; refuse any other difference."""
    if value.dtype == dtype:
        return value
    if value.dtype in HALF:
        return value.to(dtype)
    raise ShapeError(
        f"{source} has dtype {value.dtype}, the state has {dtype}: "
        "create constants inside f with dtype=y.dtype, or convert the model and y0 to one dtype."
    )


def working_precision(y: Tensor) -> torch.dtype:
    """Real dtype in which errors are measured: that of the state, single for states of half precision."""
    return torch.float32 if y.dtype in HALF else y.real.dtype


def power(base: Tensor, exponent: float) -> Tensor:
    """Give ``base ** exponent`` of positive numbers, the same bits wherever a sample stands in its batch.

    The power function of torch has another last digit in full vectors of the processor than in the rest.
    """
    return torch.exp(exponent * torch.log(base))


class UnderAutocast(torch.nn.Module):
    """``f`` under the autocast that its caller had set, also when it is evaluated again for a gradient.

    Parameters
    ----------
    f : callable
        A vector field; its parameters are registered if it is a module.
    device : str
        Type of the device.
    dtype : torch.dtype
        Precision of autocast.
    """

    def __init__(self, f: Callable[..., Any], device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.f, self.device, self.dtype = f, device, dtype

    def forward(self, t: Tensor, y: Any, *args: Any) -> Any:
        """Evaluate in the caller's precision."""
        with torch.autocast(self.device, self.dtype):
            return self.f(t, y, *args)


def under_autocast(f: Callable[..., Any], device: str) -> UnderAutocast:
    """Keep the autocast that is set now for ``f``.

    Raises
    ------
    OptionError
        If ``f`` consists of parts that a method calls one by one.
    """
    from scidyn.solvers.split import SemilinearField, SeparableField, SplitField

    if isinstance(f, (SemilinearField, SeparableField, SplitField)):
        raise OptionError(
            f"a {type(f).__name__} cannot be solved under autocast: enter torch.autocast inside its parts instead."
        )
    return UnderAutocast(f, device, torch.get_autocast_dtype(device))

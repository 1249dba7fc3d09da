"""Whether a backward pass is given many gradients at once, as ``jacobian(vectorize=True)`` does."""

from __future__ import annotations

import torch
from torch import Tensor

from scidyn.errors import OptionError

__all__ = ["mapped", "refuse_mapped"]


def mapped(grad: Tensor) -> bool:
    """True if the gradient has an axis that a transform hides: its values cannot be read."""
    # the older of two kinds of mapped tensor has no other mark
    return "Batched" in str(torch._C._dispatch_keys(grad))


def refuse_mapped(kind: str, grad: Tensor) -> None:
    """Refuse many gradients at once where a solve backwards in time must read each.

    Raises
    ------
    OptionError
        If the gradient is mapped.
    """
    if mapped(grad):
        raise OptionError(
            f"adjoint={kind!r} solves backwards for one gradient at a time: pass vectorize=False and "
            "is_grads_batched=False, or adjoint='discrete'."
        )

"""Vector–Jacobian products of functions that may not depend on what they are differentiated by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["pull"]


def pull(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], weights: Sequence[Tensor], **options: Any
) -> list[Tensor | None]:
    """Pull ``weights`` back from ``outputs`` to ``inputs``; None where no output depends on an input.

    Outputs without a graph are constants: where f depends on neither state nor parameters, a step gives such
    polynomials.
    """
    known = [i for i, output in enumerate(outputs) if output.requires_grad]
    if not known:
        return [None] * len(inputs)
    chosen = [outputs[i] for i in known], inputs, [weights[i] for i in known]
    return list(torch.autograd.grad(*chosen, allow_unused=True, **options))

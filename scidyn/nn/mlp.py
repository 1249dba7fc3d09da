"""A multilayer perceptron, the default vector field of a neural ODE."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from scidyn._check.values import choice, integer

__all__ = ["ACTIVATIONS", "MLP"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
}


class MLP(nn.Module):
    """Fully connected network ``W_n φ(… φ(W_1 x + b_1) …) + b_n``.

    Parameters
    ----------
    inputs, outputs : int
        Sizes of the last axis of input and output.
    hidden : sequence of int
        Widths of the hidden layers.
    activation : {"tanh", "softplus", "silu", "gelu", "relu"}
        Smooth choices keep the adaptive solver's steps long.
    final_gain : float
        Scale of the last layer's initial weights; a small value starts a vector field near zero.
    generator : torch.Generator, optional
        Source of the initial weights.

    Raises
    ------
    scidyn.errors.OptionError
        If a size is below one or the activation is unknown.

    Examples
    --------
    >>> import torch
    >>> from scidyn.nn import MLP
    >>> MLP(2, 2, hidden=(16,))(torch.zeros(5, 2)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        hidden: Sequence[int] = (32, 32),
        activation: str = "tanh",
        final_gain: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = [integer("a layer size", n, at_least=1) for n in (inputs, *hidden, outputs)]
        choice("activation", activation, ACTIVATIONS)
        layers: list[nn.Module] = []
        for k, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            last = k == len(sizes) - 2
            linear = nn.Linear(fan_in, fan_out)
            nn.init.xavier_uniform_(linear.weight, gain=final_gain if last else 1.0, generator=generator)
            nn.init.zeros_(linear.bias)
            layers += [linear] if last else [linear, ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(*batch, inputs)`` to ``(*batch, outputs)``."""
        return self.layers(x)

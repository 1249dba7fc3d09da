"""Network blocks that two rooms share."""

from scidyn.nn.mlp import MLP as MLP

__all__ = ["MLP"]

"""Turn what a caller passes into a checked problem, or say in one sentence why it cannot be one."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from scidyn._check.tensors import finite, floating, position
from scidyn._check.values import choice, number
from scidyn.errors import DataError, OptionError, ShapeError
from scidyn.transport.cost import Cost, EuclideanCost, MatrixCost, SquaredCost
from scidyn.transport.problem import Problem, wide

__all__ = ["Inputs", "as_points", "as_weights", "make_problem", "point_clouds", "read_inputs", "typical_cost"]

COSTS = ("sqeuclidean", "euclidean")
PROBE = 512


class Inputs(NamedTuple):
    """What the caller gave, with its graph: points or a matrix, and weights."""

    x: Tensor | None
    y: Tensor | None
    matrix: Tensor | None
    a: Tensor
    b: Tensor
    kind: str

    @property
    def T(self) -> Inputs:
        """The two sides exchanged."""
        matrix = None if self.matrix is None else self.matrix.T
        return Inputs(self.y, self.x, matrix, self.b, self.a, self.kind)


def as_points(name: str, value: Any) -> Tensor:
    """``value`` as a finite floating tensor of shape (n, d), n ≥ 1."""
    points = torch.as_tensor(value)
    floating(name, points)
    if points.ndim != 2:
        raise ShapeError(
            f"{name} must have shape (points, dimension); got {tuple(points.shape)}"
            f"{': pass ' + name + '[:, None] for points on a line.' if points.ndim == 1 else '.'}"
        )
    if 0 in points.shape:
        raise ShapeError(f"{name} has shape {tuple(points.shape)}: at least one point of one dimension is needed.")
    return finite(name, points, "Remove or impute these rows.")


def point_clouds(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """Two checked sets of points of one dimension, dtype and device."""
    x, y = as_points("x", x), as_points("y", y)
    if x.shape[1] != y.shape[1]:
        raise ShapeError(f"x and y must have the same dimension; got {x.shape[1]} and {y.shape[1]}.")
    if x.device != y.device:
        raise ShapeError(f"x and y must be on one device; got {x.device} and {y.device}: pass y.to(x.device).")
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    return x.to(dtype), y.to(dtype)


def as_weights(name: str, value: Any, size: int, device: torch.device, *, unit: bool = True) -> Tensor:
    """Checked weights in the widest dtype, uniform if None; ``unit`` demands a sum of 1."""
    if value is None:
        return torch.full((size,), 1.0 / size, dtype=wide(device), device=device)
    weights = torch.as_tensor(value)
    floating(name, weights)
    if weights.shape != (size,):
        raise ShapeError(f"{name} must have one weight per point, shape ({size},); got {tuple(weights.shape)}.")
    if weights.device != device:
        raise ShapeError(f"{name} is on {weights.device}, the points are on {device}: pass {name}.to({str(device)!r}).")
    finite(name, weights)
    if bool((weights < 0).any()):
        first = int((weights < 0).to(torch.uint8).argmax())
        raise DataError(f"{name}{position(first, (size,))} is {weights[first].item():g}: weights must not be negative.")
    weights = weights.to(wide(device))
    total = float(weights.detach().sum())
    if total <= 0:
        raise DataError(f"{name} sums to {total:g}: at least one weight must be positive.")
    if unit and abs(total - 1.0) > 1e-4:
        raise DataError(
            f"{name} sums to {total:.6g}, not 1: pass {name} / {name}.sum(), or tau_a, tau_b < 1 if the masses differ."
        )
    return weights


def read_inputs(x: Any, y: Any, a: Any, b: Any, cost: Any, dtype: torch.dtype | None, balanced: bool) -> Inputs:
    """Check points, cost and weights, and bring them to one dtype."""
    if isinstance(cost, str):
        kind = choice("cost", cost, COSTS)
        if x is None or y is None:
            raise OptionError("pass the points x and y, or a matrix as cost.")
        first, second = point_clouds(x, y)
        first, second = (first, second) if dtype is None else (first.to(dtype), second.to(dtype))
        shape, device, matrix = (len(first), len(second)), first.device, None
    else:
        if x is not None or y is not None:
            raise OptionError("pass either the points x and y or a matrix as cost, not both.")
        matrix = as_points("cost", cost)
        matrix = matrix.to(dtype or torch.promote_types(matrix.dtype, torch.float32))
        first = second = None
        shape, device, kind = tuple(matrix.shape), matrix.device, "matrix"
    a = as_weights("a", a, shape[0], device, unit=balanced)
    b = as_weights("b", b, shape[1], device, unit=balanced)
    return Inputs(first, second, matrix, a, b, kind)


def make_cost(inputs: Inputs) -> Cost:
    """The cost without a graph; points are moved to a common mean, which keeps rounding errors small."""
    if inputs.matrix is not None:
        return MatrixCost(inputs.matrix.detach())
    x, y = inputs.x.detach(), inputs.y.detach()
    mean = 0.5 * (x.mean(0) + y.mean(0))
    return (SquaredCost if inputs.kind == "sqeuclidean" else EuclideanCost)(x - mean, y - mean)


def typical_cost(cost: Cost) -> float:
    """Median cost over at most 512 sources and 512 targets, evenly spaced in their order."""
    picks = []
    for size in cost.shape:
        count = min(size, PROBE)
        picks.append((torch.arange(count, device=cost.device) * size) // count)
    values = cost.take(*picks).tile(slice(0, len(picks[0]))).flatten()
    median = float(values.median())
    return median if median > 0 else float(values.abs().mean())


def largest_cost(cost: Cost) -> float:
    """An upper bound of ``|C_ij|``."""
    if isinstance(cost, MatrixCost):
        return float(cost.matrix.abs().amax())
    reach = float(cost.x.square().sum(1).amax().sqrt() + cost.y.square().sum(1).amax().sqrt())
    return reach if isinstance(cost, EuclideanCost) else reach**2


def make_problem(
    inputs: Inputs, epsilon: float | None, epsilon_relative: float | None, tau_a: float, tau_b: float
) -> tuple[Problem, float]:
    """The problem and its typical cost."""
    if epsilon is not None and epsilon_relative is not None:
        raise OptionError("pass epsilon (in units of the cost) or epsilon_relative (of the median cost), not both.")
    cost = make_cost(inputs)
    largest, scale = largest_cost(cost), typical_cost(cost)
    if not largest < float("inf"):
        raise OptionError(f"the cost overflows {cost.dtype}: scale the points down or pass dtype=torch.float64.")
    if epsilon is None:
        relative = number("epsilon_relative", 0.05 if epsilon_relative is None else epsilon_relative, above=0.0)
        epsilon = relative * scale if scale > 0 else 1.0
    epsilon = number("epsilon", epsilon, above=0.0)
    smallest = 2.0 * torch.finfo(cost.dtype).eps * largest
    if epsilon < smallest:
        other = " or pass dtype=torch.float64" if cost.dtype != torch.float64 else ", or use exact_transport"
        raise OptionError(
            f"epsilon={epsilon:.3g} is below what {cost.dtype} resolves for costs up to {largest:.3g}: "
            f"raise it above {smallest:.3g}{other}."
        )
    a, b = inputs.a.detach(), inputs.b.detach()
    if tau_a == tau_b == 1.0:
        a, b = a / a.sum(), b / b.sum()
    return Problem(cost, a, b, epsilon, tau_a, tau_b), scale

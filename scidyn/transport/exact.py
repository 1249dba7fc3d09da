"""Exact optimal transport of small problems by linear programming, the reference for everything else."""

from __future__ import annotations

import importlib.util
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from scidyn._check.values import choice, integer
from scidyn.errors import MissingDependencyError, OptionError, SolverError
from scidyn.transport.arguments import Inputs, make_cost, read_inputs
from scidyn.transport.cost import tiles

__all__ = ["ExactPlan", "exact_transport"]

SMALL_PROGRAM = 250_000


class ExactPlan(NamedTuple):
    """An optimal plan: ``value``, its pairs ``source``, ``target`` with their ``mass``, and the solver used."""

    value: Tensor
    source: Tensor
    target: Tensor
    mass: Tensor
    solver: str


def exact_transport(
    x: Any = None, y: Any = None, a: Any = None, b: Any = None, *, cost: Any = "sqeuclidean", max_points: int = 20_000
) -> ExactPlan:
    r"""Solve the transport problem ``min <C, π>`` under both marginals exactly.

    Equal numbers of equally weighted points are assigned by SciPy; other problems go to POT's network simplex if
    it is installed, and to SciPy's linear programming if they are small.

    Parameters
    ----------
    x, y : array_like, shapes (n, d) and (m, d), optional
        Points; leave out if ``cost`` is a matrix.
    a, b : array_like, shapes (n,) and (m,), optional
        Weights ≥ 0 that sum to 1; default uniform.
    cost : {"sqeuclidean", "euclidean"} or array_like of shape (n, m)
        ``|x - y|²``, ``|x - y|``, or the costs themselves.
    max_points : int
        Refuse larger problems: time grows with the cube, memory with the square of the number of points.

    Returns
    -------
    ExactPlan
        At most n + m - 1 pairs. ``value`` is differentiable in the points or the cost at a fixed plan.

    Raises
    ------
    scidyn.errors.OptionError
        If there are more than ``max_points`` points.
    scidyn.errors.MissingDependencyError
        If the problem needs POT and POT is not installed.
    scidyn.errors.SolverError
        If the program could not be solved.

    Examples
    --------
    >>> import torch
    >>> from scidyn.transport import exact_transport
    >>> plan = exact_transport(torch.tensor([[0.0], [1.0]]), torch.tensor([[1.5], [0.5]]))
    >>> plan.value.item(), plan.target.tolist()
    (0.25, [1, 0])
    """
    inputs = read_inputs(x, y, a, b, cost, None, balanced=True)
    matrix_cost = make_cost(inputs)
    n, m = matrix_cost.shape
    if max(n, m) > integer("max_points", max_points, at_least=1):
        raise OptionError(
            f"exact transport of {n} x {m} points exceeds max_points={max_points}: use sinkhorn, or raise max_points."
        )
    matrix = torch.cat([matrix_cost.tile(rows) for rows in tiles(n, m)]).double().cpu().numpy()
    weights = [(w / w.sum()).detach().double().cpu().numpy() for w in (inputs.a, inputs.b)]
    uniform = n == m and all(np.ptp(w) <= 1e-9 / n for w in weights)
    source, target, mass, solver = _assign(matrix) if uniform else _program(matrix, *weights)
    device = inputs.a.device
    i, j = torch.as_tensor(source, device=device), torch.as_tensor(target, device=device)
    share = torch.as_tensor(mass, dtype=matrix_cost.dtype, device=device)
    return ExactPlan((share * _costs(inputs, i, j)).sum(), i, j, share, solver)


def _costs(inputs: Inputs, i: Tensor, j: Tensor) -> Tensor:
    """Costs of the pairs, with their graph."""
    if inputs.matrix is not None:
        return inputs.matrix[i, j]
    gap = inputs.x[i] - inputs.y[j]
    if inputs.kind == "sqeuclidean":
        return gap.square().sum(1)
    return torch.linalg.vector_norm(gap, dim=1)


def _assign(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    from scipy.optimize import linear_sum_assignment

    source, target = linear_sum_assignment(matrix)
    return source, target, np.full(len(source), 1.0 / len(source)), "linear assignment, SciPy"


def _program(matrix: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    if importlib.util.find_spec("ot") is not None:
        import ot

        plan, log = ot.emd(a, b, matrix, numItermax=10_000_000, log=True)
        if log["warning"] is not None:
            raise SolverError(f"POT's network simplex did not finish: {log['warning']}.")
        name = "network simplex, POT"
    else:
        if matrix.size > SMALL_PROGRAM:
            raise MissingDependencyError(
                f"exact transport of {matrix.shape[0]} x {matrix.shape[1]} unequal points needs POT: "
                "pip install 'scidyn[transport]', or use sinkhorn."
            )
        plan, name = _linprog(matrix, a, b), "linear programming, SciPy"
    source, target = np.nonzero(plan)
    return source, target, plan[source, target], name


def _linprog(matrix: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    from scipy.optimize import linprog
    from scipy.sparse import eye_array, kron, vstack

    n, m = matrix.shape
    rows = kron(eye_array(n), np.ones((1, m)))
    columns = kron(np.ones((1, n)), eye_array(m))
    done = linprog(matrix.ravel(), A_eq=vstack([rows, columns]).tocsr(), b_eq=np.concatenate([a, b]), method="highs")
    if not done.success:
        raise SolverError(f"SciPy's linear programming did not solve the transport problem: {done.message}")
    return np.where(done.x > 1e-15, done.x, 0.0).reshape(n, m)


def check_p(p: Any) -> int:
    """1 or 2."""
    return choice("p", p, (1, 2))

r"""Forward sensitivities: derivatives of the solution carried along with the accepted steps.

With :math:`S = \partial y / \partial (y_0, p)` each accepted step :math:`y_{n+1} = \Psi_n(y_n, p)` gives

.. math:: S_{n+1} = \frac{\partial \Psi_n}{\partial y} S_n + \frac{\partial \Psi_n}{\partial p},

the exact derivative of the computed solution. The Jacobians of many steps are found together, column by
column. A product with one column is the transpose of the product with the transposed Jacobian, which is linear:
so what autograd can differentiate twice serves, implicit stages included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scidyn.errors import OptionError
from scidyn.solvers.adjoint.at_once import Coupled, replay_steps
from scidyn.solvers.adjoint.capture import Swapped
from scidyn.solvers.adjoint.once import refuse_twice
from scidyn.solvers.adjoint.pull import pull
from scidyn.solvers.adjoint.records import Steps
from scidyn.solvers.arguments import Problem
from scidyn.solvers.dense import Records, evaluate, locate
from scidyn.solvers.loop import Trace

__all__ = ["Inputs", "attach_forward", "sensitivities"]

ENTRIES = 2**22
MOST_COLUMNS = 1000
LOOP_LIMIT = 12


class Inputs(NamedTuple):
    """What the solution is differentiated with respect to.

    Attributes
    ----------
    params : tuple of Tensor
        Tensors that the field uses.
    rows : tuple of bool
        Whether the leading axis of each is that of the batch, and each sample depends on its own row only.
    start : bool
        Whether the initial state is among them; its columns come first.
    """

    params: tuple[Tensor, ...]
    rows: tuple[bool, ...]
    start: bool

    @property
    def sizes(self) -> list[int]:
        """Columns of each tensor."""
        return [p[0].numel() if own else p.numel() for p, own in zip(self.params, self.rows, strict=True)]

    def directions(self, flat: Tensor) -> list[Tensor]:
        """Tangents of the tensors from one vector of all their columns."""
        parts = flat.split(self.sizes)
        shapes = [p[:1].shape if own else p.shape for p, own in zip(self.params, self.rows, strict=True)]
        return [x.reshape(s).expand_as(p) for x, s, p in zip(parts, shapes, self.params, strict=True)]


def attach_forward(problem: Problem, trace: Trace, y0: Tensor, params: Sequence[Tensor]) -> Tensor:
    """Give ``trace.y`` its first derivatives with respect to ``y0`` and ``params``; failed rows have none.

    Raises
    ------
    OptionError
        If there are too many parameters to carry a column for each, or f cannot be differentiated so.
    """
    used = tuple(p for p in params if p.requires_grad)
    inputs = Inputs(tuple(p.detach() for p in used), (False,) * len(used), y0.requires_grad)
    columns = sum(inputs.sizes)
    if columns > MOST_COLUMNS:
        raise OptionError(
            f"adjoint='forward' carries one column per parameter and takes at most {MOST_COLUMNS}; "
            f"there are {columns}: pass adjoint='discrete'."
        )
    with torch.no_grad():
        matrix = sensitivities(problem, trace, inputs, used)
        matrix = matrix.masked_fill(torch.isnan(trace.y).all(dim=-1)[..., None, None], 0.0)
    start = (y0,) if inputs.start else ()
    return _Forward.apply(matrix, inputs, trace.y, *start, *used)


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor, inputs: Inputs, y: Tensor, *used: Tensor) -> Tensor:
        ctx.inputs = inputs
        ctx.save_for_backward(matrix, y, *used)
        return y.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        matrix, y, *used = ctx.saved_tensors
        inputs: Inputs = ctx.inputs
        with torch.no_grad():
            known = grad.masked_fill(torch.isnan(y).all(dim=-1, keepdim=True), 0.0)
            width = y.shape[-1] if inputs.start else 0
            start, rest = matrix.split([width, matrix.shape[-1] - width], dim=-1)
            flat = (known.unsqueeze(-1) * rest).sum(dim=(0, 1, 2))
            found = [x.reshape(p.shape) for x, p in zip(flat.split(inputs.sizes), inputs.params, strict=True)]
            if inputs.start:
                found.insert(0, (known.unsqueeze(-1) * start).sum(dim=(1, 2)))
        return None, None, None, *refuse_twice("forward", found, [grad, *used])


def sensitivities(problem: Problem, trace: Trace, inputs: Inputs, used: Sequence[Tensor]) -> Tensor:
    """Derivatives at the wanted times, shape (batch, T, D, columns).

    ``inputs.params`` take the place of the tensors ``used`` that the field closes over.

    Raises
    ------
    OptionError
        If samples mix, or f cannot be evaluated for many steps at once.
    """
    batch, width = problem.y0.shape
    start, count = width if inputs.start else 0, sum(inputs.sizes)
    current = problem.y0.new_zeros(batch, width, start + count)
    current[..., :start] = torch.eye(width, start, dtype=current.dtype, device=current.device)
    if len(trace.size) == 0:
        return current.unsqueeze(1).expand(-1, problem.times.shape[1], -1, -1)
    whole = Steps(trace.times, trace.size, trace.states, trace.choice).at_safe_states()
    dense = problem.stepping != "fixed"
    nodes, polynomials = [current], []
    length = max(1, ENTRIES // ((width + count + 1) * batch * width * 6))
    for low in range(0, len(whole.size), length):
        part = _part(whole, low, low + length)
        try:
            columns = _Columns(problem, part, inputs, used, dense)
            d_y1, d_coef = columns.blocks()
        except (RuntimeError, ValueError, NotImplementedError, Coupled) as reason:
            cause = str(reason.__cause__ or reason).strip().splitlines()
            raise OptionError(
                "f cannot be differentiated forwards for all steps at once: the rate of one sample may depend on that "
                "sample only, and f may use tensor operations only, without .item() and branches on values"
                f"{f' ({cause[0]})' if cause else ''}."
            ) from reason
        for jacobian, inside in zip(d_y1, d_coef if dense else d_y1, strict=True):
            if dense:
                polynomials.append(_chain(inside, current, width, start))
            current = _chain(jacobian, current, width, start)
            nodes.append(current)
    return _at_times(problem, trace, nodes, polynomials)


def _part(steps: Steps, low: int, high: int) -> Steps:
    """Steps low to high."""
    choice = None if steps.choice is None else steps.choice[low:high]
    return Steps(steps.times[low : high + 1], steps.size[low:high], steps.states[low:high], choice)


def _chain(jacobian: Tensor, current: Tensor, width: int, start: int) -> Tensor:
    """Apply ``(∂Ψ/∂y, ∂Ψ/∂p)`` to the sensitivities at the start of the step."""
    moved = jacobian[..., :width] @ current
    moved[..., start:] += jacobian[..., width:]
    return moved


def _at_times(problem: Problem, trace: Trace, nodes: list[Tensor], polynomials: list[Tensor]) -> Tensor:
    """Sensitivities at the wanted times, from those at the nodes and of the polynomials."""
    batch, width, columns = nodes[0].shape
    count = len(trace.size)
    index, theta = locate(trace.times, problem.times.detach().expand(trace.times.shape[1], -1))
    if not polynomials:
        rows = torch.arange(index.shape[0], device=index.device).unsqueeze(1)
        return torch.stack(nodes)[index + (theta > 0.5), rows]
    states = torch.stack(nodes[:-1]).reshape(count, batch, -1)
    coef = torch.stack(polynomials).reshape(count, -1, batch, width * columns)
    records = Records(trace.times, trace.size, states, coef)
    return evaluate(records, index, theta.nan_to_num(nan=0.0)).reshape(batch, -1, width, columns)


class _Columns:
    """Jacobians of steps, column by column: of ``y1`` and of the coefficients of the polynomial."""

    def __init__(self, problem: Problem, steps: Steps, inputs: Inputs, used: Sequence[Tensor], dense: bool) -> None:
        self.problem, self.steps, self.inputs, self.used, self.dense = problem, steps, inputs, used, dense
        generator = torch.Generator("cpu").manual_seed(0)
        probe = torch.rand(problem.y0.shape, generator=generator, dtype=torch.float64, device="cpu") + 0.5
        self.probe = probe.to(device=problem.y0.device, dtype=problem.y0.dtype)

    def blocks(self) -> tuple[Tensor, Tensor]:
        """Jacobians (N, batch, D, D + P) of ``y1``, and (N, powers, batch, D, D + P) of the coefficients."""
        width = self.problem.y0.shape[-1]
        d_y1, d_coef = self._pulled()
        own, probed = torch.einsum("nbij,bj->nbi", d_y1[..., :width], self.probe), d_y1[..., -1]
        allowed = 1e4 * torch.finfo(own.dtype).eps * probed.abs().amax()
        # samples that mix show in a direction that differs from sample to sample
        if bool((own - probed).abs().amax() > allowed):
            raise Coupled
        return d_y1[..., :-1], d_coef[..., :-1]

    def _directions(self) -> tuple[Tensor, Tensor]:
        """Tangents of the state (columns, batch, D) and of all parameters (columns, P); the last is the probe."""
        (batch, width), count = self.problem.y0.shape, sum(self.inputs.sizes)
        basis = torch.eye(width + count, dtype=self.probe.dtype, device=self.probe.device)
        basis = torch.cat([basis, torch.zeros_like(basis[:1])])
        states = basis[:, None, :width].expand(-1, batch, -1).clone()
        states[-1] = self.probe
        return states, basis[:, width:]

    def _pulled(self) -> tuple[Tensor, Tensor]:
        """Twice reverse mode: the product with the transpose is linear, and its transpose is the Jacobian."""
        with torch.enable_grad():
            params = [p.clone().requires_grad_() for p in self.inputs.params]
            with Swapped(self.used, params):
                y, y1, coef = replay_steps(self.problem, self.steps, slice(None), dense=self.dense)
            outputs = [y1, coef] if self.dense else [y1]
            weights = [torch.zeros_like(x, requires_grad=True) for x in outputs]
            pulled = pull(outputs, [y, *params], weights, create_graph=True, materialize_grads=True)
        linear = [x for x in pulled if x is not None and x.requires_grad]
        known = [i for i, x in enumerate(pulled) if x is not None and x.requires_grad]

        def column(state: Tensor, flat: Tensor) -> list[Tensor]:
            tangents = [state.expand_as(y), *self.inputs.directions(flat)]
            return [tangents[i] for i in known]

        options: dict[str, Any] = {"allow_unused": True, "materialize_grads": True, "retain_graph": True}
        columns = [column(*pair) for pair in zip(*self._directions(), strict=True)]
        if len(columns) > LOOP_LIMIT and not self.problem.method.implicit:
            many = [torch.stack(x) for x in zip(*columns, strict=True)]
            found = torch.autograd.grad(
                linear, weights, many, is_grads_batched=True, allow_unused=True, retain_graph=True
            )
            missing = [torch.zeros_like(w).expand(len(columns), *w.shape) for w in weights]
            d_y1, *rest = ((z if x is None else x).movedim(0, -1) for x, z in zip(found, missing, strict=True))
        else:
            each = [torch.autograd.grad(linear, weights, tangents, **options) for tangents in columns]
            d_y1, *rest = (torch.stack(x, dim=-1) for x in zip(*each, strict=True))
        return d_y1, rest[0] if rest else d_y1

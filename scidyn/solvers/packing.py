"""States that are dicts, tuples or lists of tensors: packed once into rows, seen by ``f`` as views of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scidyn._check.tensors import finite, floating
from scidyn.errors import OptionError, ShapeError, SolverError
from scidyn.solvers.events import EventRecord
from scidyn.solvers.precision import same_precision
from scidyn.solvers.solution import Solution
from scidyn.solvers.split import SplitField
from scidyn.solvers.surfaces import takes_args

__all__ = ["Layout", "Packed", "pack_state", "solve_packed"]


class Leaf(NamedTuple):
    """One tensor of a state: its place in the structure, the shape of one sample, and its columns in a row."""

    path: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    low: int
    high: int


class Layout(NamedTuple):
    """How a structure of tensors (batch, *event) lies in rows (batch, D).

    Attributes
    ----------
    skeleton : object
        The structure with a number in the place of each tensor.
    leaves : tuple of Leaf
        The tensors by number.
    dtype : torch.dtype
        Of the rows: complex if any tensor is.
    """

    skeleton: Any
    leaves: tuple[Leaf, ...]
    dtype: torch.dtype

    @property
    def sizes(self) -> tuple[int, ...]:
        """Columns of each tensor."""
        return tuple(leaf.high - leaf.low for leaf in self.leaves)

    def unpack(self, rows: Tensor) -> Any:
        """Give the structure with leaves (…, *event) that are views of ``rows`` (…, D)."""

        def view(number: int) -> Tensor:
            leaf = self.leaves[number]
            part = rows[..., leaf.low : leaf.high].reshape(*rows.shape[:-1], *leaf.shape)
            return part.real if part.is_complex() and not leaf.dtype.is_complex else part

        return _map(view, self.skeleton)

    def pack(self, tree: Any, source: str) -> Tensor:
        """Join a structure with leaves (batch, *event) to rows; ``source`` names its maker in an error."""
        found = self.aligned(tree, source)
        batch = found[0].shape[:1] if isinstance(found[0], Tensor) else ()
        parts = []
        for leaf, value in zip(self.leaves, found, strict=True):
            if not isinstance(value, Tensor):
                raise ShapeError(f"{source} has a {type(value).__name__} at {leaf.path}, a tensor is needed there.")
            if value.shape != (*batch, *leaf.shape):
                raise ShapeError(
                    f"{source} has shape {tuple(value.shape)} at {leaf.path}, the state has "
                    f"{('batch', *leaf.shape)} there: give one number for each entry."
                )
            parts.append(same_precision(value, leaf.dtype, f"{source} at {leaf.path}").reshape(*batch, -1))
        return torch.cat([p.to(self.dtype) for p in parts], dim=-1)

    def aligned(self, tree: Any, source: str) -> list[Any]:
        """List the leaves of ``tree``, which must have the structure of the state."""
        found: list[Any] = [None] * len(self.leaves)
        _collect(self.skeleton, tree, "", source, found)
        return found


class Packed(torch.nn.Module):
    """``f`` on rows instead of a structure.

    Parameters
    ----------
    f : callable
        ``f(t, y)`` or ``f(t, y, args)`` on the structure; its parameters are registered if it is a module.
    layout : Layout
        Where the tensors lie in a row.
    """

    def __init__(self, f: Callable[..., Any], layout: Layout) -> None:
        super().__init__()
        self.f, self.layout = f, layout

    def forward(self, t: Tensor, y: Tensor, *args: Any) -> Tensor:
        """Give the rates as rows."""
        return self.layout.pack(self.f(t, self.layout.unpack(y), *args), "what f returned")


def pack_state(y0: Any) -> tuple[Layout, Tensor]:
    """Check a structure of tensors and join it to rows (batch, D)."""
    leaves: list[tuple[str, Tensor]] = []
    skeleton = _number(y0, "", leaves)
    if not leaves:
        raise ShapeError("y0 holds no tensor: give a tensor, or a dict, tuple or list of tensors.")
    first_path, first = leaves[0]
    placed: list[Leaf] = []
    low = 0
    for path, value in leaves:
        if value.ndim == 0 or value.shape[0] != first.shape[:1].numel():
            raise ShapeError(
                f"y0 has shape {tuple(value.shape)} at {path} and {tuple(first.shape)} at {first_path}: "
                "the first axis of every leaf is the batch; give both the same."
            )
        if value.device != first.device or value.real.dtype != first.real.dtype:
            raise ShapeError(
                f"y0 is {value.dtype} on {value.device} at {path} and {first.dtype} on {first.device} at {first_path}: "
                "leaves may be real or complex, of one precision and on one device."
            )
        if value.numel() == 0:
            raise ShapeError(f"y0 has shape {tuple(value.shape)} at {path} and holds no number: leave the leaf out.")
        finite(f"y0{path[1:]}", floating(f"y0{path[1:]}", value).detach(), "Give finite initial values.")
        high = low + value[0].numel()
        placed.append(Leaf(path, tuple(value.shape[1:]), value.dtype, low, high))
        low = high
    dtype = next((value.dtype for _, value in leaves if value.is_complex()), first.dtype)
    layout = Layout(skeleton, tuple(placed), dtype)
    return layout, layout.pack(y0, "y0")


def solve_packed(solve: Callable[..., Solution], f: Callable[..., Any], y0: Any, t: Any, **options: Any) -> Solution:
    """Solve on rows and give the solution in the structure of ``y0``."""
    if not callable(f):
        raise OptionError(f"f must be a callable f(t, y) or f(t, y, args); got {type(f).__name__}.")
    layout, rows = pack_state(y0)
    options["atol"] = _tolerances(options["atol"], layout)
    if options["jump"] is not None:
        options["jump"] = _on_rows(options["jump"], layout)
    if options["events"] is not None:
        options["events"] = _event(options["events"], layout)
    field: torch.nn.Module = Packed(f, layout)
    if isinstance(f, SplitField):
        field = SplitField(Packed(f.explicit, layout), Packed(f.implicit, layout))
    try:
        solution = solve(field, rows, t, **options)
    except SolverError as failure:
        if isinstance(failure.solution, Solution):
            failure.solution = _unpacked(failure.solution, layout)
        raise
    return _unpacked(solution, layout)


def _unpacked(solution: Solution, layout: Layout) -> Solution:
    """Bring states into the structure."""
    changes: dict[str, Any] = {"y": layout.unpack(solution.y)}
    if solution.events is not None:
        records = solution.events
        alone = isinstance(records, EventRecord)
        shown = tuple(_unpacked_record(r, layout) for r in ((records,) if alone else records))
        changes["events"] = shown[0] if alone else shown
    rows = solution._interpolant
    if rows is not None:
        changes["_interpolant"] = lambda t: layout.unpack(rows(t))
    return dataclasses.replace(solution, **changes)


def _unpacked_record(record: EventRecord, layout: Layout) -> EventRecord:
    """Bring the states of an event into the structure."""
    return dataclasses.replace(record, before=layout.unpack(record.before), after=layout.unpack(record.after))


def _on_rows(function: Callable[..., Any], layout: Layout) -> Callable[..., Any]:
    """Let a function of ``(t, y)`` see the structure; a result of that structure is packed again."""

    def packed(value: Any) -> Any:
        return value if isinstance(value, Tensor) else layout.pack(value, "the state after the jump")

    if takes_args(function):
        return lambda t, y, args: packed(function(t, layout.unpack(y), args))
    return lambda t, y: packed(function(t, layout.unpack(y)))


def _event(event: Any, layout: Layout) -> Any:
    """Let the functions of an event, or of several, see the structure."""
    if not hasattr(event, "_fields"):
        return type(event)(_event(each, layout) for each in event)
    found = {name: getattr(event, name) for name in event._fields}
    return event._replace(**{name: _on_rows(value, layout) for name, value in found.items() if callable(value)})


def _tolerances(atol: Any, layout: Layout) -> Any:
    """Spread tolerances given leaf by leaf over the columns."""
    if atol is None or not isinstance(atol, (dict, tuple, list)):
        return atol
    parts = []
    for leaf, value in zip(layout.leaves, layout.aligned(atol, "atol"), strict=True):
        one = torch.as_tensor(value, dtype=torch.float64, device="cpu")
        if one.ndim and tuple(one.shape) != leaf.shape:
            raise ShapeError(f"atol has shape {tuple(one.shape)} at {leaf.path}, one sample has {leaf.shape}.")
        parts.append(one.expand(leaf.shape).reshape(-1))
    return torch.cat(parts)


def _number(tree: Any, path: str, leaves: list[tuple[str, Tensor]]) -> Any:
    """Replace each tensor by its number."""
    if isinstance(tree, Tensor):
        leaves.append((f"y{path}", tree))
        return len(leaves) - 1
    if isinstance(tree, dict):
        return {key: _number(value, f"{path}[{key!r}]", leaves) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        names = getattr(tree, "_fields", None)
        steps = [f"[{i}]" for i in range(len(tree))] if names is None else [f".{name}" for name in names]
        return _like(tree, [_number(value, path + step, leaves) for value, step in zip(tree, steps, strict=True)])
    where = f" at y0{path}" if path else ""
    raise ShapeError(
        f"y0 must be a tensor of shape (batch, *state), or a dict, tuple or list of such tensors; "
        f"got {type(tree).__name__}{where}: use torch.as_tensor."
    )


def _map(function: Callable[[int], Tensor], skeleton: Any) -> Any:
    """Put a tensor in the place of each number."""
    if isinstance(skeleton, int):
        return function(skeleton)
    if isinstance(skeleton, dict):
        return {key: _map(function, value) for key, value in skeleton.items()}
    return _like(skeleton, [_map(function, value) for value in skeleton])


def _like(sequence: Any, values: list[Any]) -> Any:
    """Make a sequence of the same type: list, tuple or named tuple."""
    if hasattr(sequence, "_fields"):
        return type(sequence)(*values)
    return values if isinstance(sequence, list) else tuple(values)


def _collect(skeleton: Any, tree: Any, path: str, source: str, found: list[Any]) -> None:
    """Put the leaves of ``tree`` in the order of the numbers."""
    if isinstance(skeleton, int):
        found[skeleton] = tree
        return
    if isinstance(skeleton, dict):
        if not isinstance(tree, dict) or set(tree) != set(skeleton):
            have = sorted(map(str, tree)) if isinstance(tree, dict) else type(tree).__name__
            raise ShapeError(f"{source} has {have} at y{path}, the state has the keys {sorted(map(str, skeleton))}.")
        for key, part in skeleton.items():
            _collect(part, tree[key], f"{path}[{key!r}]", source, found)
        return
    if not isinstance(tree, (tuple, list)) or len(tree) != len(skeleton):
        have = f"{len(tree)} entries" if isinstance(tree, (tuple, list)) else f"a {type(tree).__name__}"
        raise ShapeError(f"{source} has {have} at y{path}, the state has {len(skeleton)} entries there.")
    names = getattr(skeleton, "_fields", None) or [f"[{i}]" for i in range(len(skeleton))]
    for name, part, value in zip(names, skeleton, tree, strict=True):
        _collect(part, value, path + (name if name.startswith("[") else f".{name}"), source, found)

"""Parametric families of drifts: a named equation, a function with named parameters, or a library."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scidyn._check.values import integer, number
from scidyn.errors import NonFiniteError, OptionError, ShapeError

__all__ = ["Family", "Library"]


class Library:
    """A drift linear in its parameters: ``b_k(x) = Σ_j θ_{jk} φ_j(x)``.

    Parameters
    ----------
    terms : mapping of str to callable
        Name of a term to a function from states ``(n, d)`` to values ``(n,)``.
    features : sequence of str
        Names of the state's components, in order.
    pattern : mapping of str to sequence of str, optional
        Which terms enter which component; default all enter all.

    Raises
    ------
    scidyn.errors.OptionError
        If a name is unknown or there is no term.

    Examples
    --------
    >>> from scidyn.bridges import Library
    >>> rotation = Library({"x": lambda s: s[:, 0], "y": lambda s: s[:, 1]}, ["x", "y"])
    >>> rotation.names
    ('dx:x', 'dx:y', 'dy:x', 'dy:y')
    >>> Library.polynomial(["u", "v"], degree=2, constant=False).names[:5]
    ('du:u', 'du:v', 'du:u u', 'du:u v', 'du:v v')
    """

    def __init__(
        self,
        terms: Mapping[str, Callable[[Tensor], Tensor]],
        features: Sequence[str],
        pattern: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        if not terms or not features:
            raise OptionError("A library needs at least one term and one feature.")
        self.terms, self.features = dict(terms), tuple(features)
        chosen = {f: tuple(self.terms) for f in self.features} if pattern is None else dict(pattern)
        for feature, names in chosen.items():
            wrong = [n for n in names if n not in self.terms] or ([feature] if feature not in self.features else [])
            if wrong:
                raise OptionError(f"pattern names {wrong[0]!r}; the library has {list(self.terms)}.")
        self._where = [(j, k) for k, f in enumerate(self.features) for j, n in enumerate(self.terms) if n in chosen[f]]
        labels = list(self.terms)
        self.names = tuple(f"d{self.features[k]}:{labels[j]}" for j, k in self._where)

    @classmethod
    def polynomial(cls, features: Sequence[str], degree: int = 2, *, constant: bool = True) -> Library:
        """All monomials up to a degree.

        Parameters
        ----------
        features : sequence of str
            Names of the state's components.
        degree : int
            Highest total degree.
        constant : bool
            Include the constant term.
        """
        top = integer("degree", degree, at_least=1)
        terms: dict[str, Callable[[Tensor], Tensor]] = {}
        if constant:
            terms["1"] = lambda s: torch.ones_like(s[:, 0])
        for power in range(1, top + 1):
            for which in itertools.combinations_with_replacement(range(len(features)), power):
                terms[" ".join(features[k] for k in which)] = _monomial(which)
        return cls(terms, features)

    def __call__(self, t: Tensor, x: Tensor, theta: Tensor) -> Tensor:
        """Evaluate the drift at states ``(n, d)``."""
        values = torch.stack([phi(x) for phi in self.terms.values()], dim=1)
        matrix = values.new_zeros(values.shape[1], len(self.features))
        rows, columns = zip(*self._where, strict=True)
        matrix = matrix.index_put((torch.tensor(rows, device=x.device), torch.tensor(columns, device=x.device)), theta)
        return values @ matrix


def _monomial(which: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    def term(s: Tensor) -> Tensor:
        return s[:, list(which)].prod(dim=1)

    return term


class Family:
    """A drift ``b(t, x; θ)`` with named, bounded parameters, however the user wrote it.

    Parameters
    ----------
    reference : scidyn.systems.System, Library or callable
        A system gives names, bounds and start from its own values. A function ``f(t, x, *, a=1.0, …)``
        gives one parameter per argument after ``t, x``, started at its default; ``t`` has shape
        ``(n,)``, ``x`` has ``(n, d)``.
    start : mapping of str to float, optional
        Other starting values.
    bounds : mapping of str to (float, float), optional
        Other bounds.

    Raises
    ------
    scidyn.errors.OptionError
        If the reference has no parameters, a name is unknown, or a start lies outside its bounds.

    Examples
    --------
    >>> import torch
    >>> from scidyn.bridges import Family
    >>> family = Family(lambda t, x, k=1.0, centre=0.0: -k * (x - centre), bounds={"k": (0.0, 5.0)})
    >>> family.names
    ('k', 'centre')
    >>> family.drift(torch.zeros(1), torch.ones(1, 2), torch.tensor([2.0, 0.0])).tolist()
    [[-2.0, -2.0]]
    """

    def __init__(
        self,
        reference: Any,
        *,
        start: Mapping[str, float] | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        self.reference = reference
        self._call, names, values, low, high = _parse(reference)
        self.names = tuple(names)
        for label, given in (("start", start), ("bounds", bounds)):
            unknown = [n for n in (given or {}) if n not in self.names]
            if unknown:
                raise OptionError(f"{label} names {unknown[0]!r}; the parameters are {list(self.names)}.")
        for name, (a, b) in (bounds or {}).items():
            low[self.names.index(name)], high[self.names.index(name)] = float(a), float(b)
        for name, value in (start or {}).items():
            values[self.names.index(name)] = number(f"start[{name!r}]", value)
        for name, v, a, b in zip(self.names, values, low, high, strict=True):
            if not a <= v <= b:
                raise OptionError(f"The start of {name!r} is {v:g}, outside its bounds [{a:g}, {b:g}].")
        self.start = torch.tensor(values, dtype=torch.float64)  # device: CPU; parameters are few
        self.lower, self.upper = np.array(low), np.array(high)

    def drift(self, t: Tensor, x: Tensor, theta: Tensor) -> Tensor:
        """Evaluate ``b(t, x; θ)``.

        Parameters
        ----------
        t : Tensor, shape (n,)
            Times.
        x : Tensor, shape (n, d)
            States.
        theta : Tensor, shape (parameter,)
            Parameters, in the order of ``names``.

        Returns
        -------
        Tensor, shape (n, d)
        """
        value = self._call(t, x, theta)
        if value.shape != x.shape:
            raise ShapeError(f"The reference gives a drift of shape {tuple(value.shape)} for states {tuple(x.shape)}.")
        return value

    def around(self, count: int, generator: torch.Generator) -> list[Tensor]:
        """Random starts: positive parameters log-normal around ``max(start, 1)``, others normal around the start.

        Parameters
        ----------
        count : int
            How many.
        generator : torch.Generator
            Source of the draw.
        """
        out = []
        for _ in range(count):
            z = torch.randn(len(self.start), generator=generator, dtype=self.start.dtype)
            positive = torch.as_tensor(self.lower >= 0)
            wide = self.start.clamp_min(1.0) * (1.5 * z).exp()
            trial = torch.where(positive, wide, self.start + self.start.abs().clamp_min(1.0) * z)
            out.append(torch.as_tensor(np.clip(trial.numpy(), self.lower, self.upper), dtype=trial.dtype))
        return out

    def check(self, x: Tensor) -> None:
        """Refuse a drift that is not finite at the data and the starting values.

        Parameters
        ----------
        x : Tensor, shape (n, d)
            States.
        """
        value = self.drift(x.new_zeros(len(x)), x, self.start.to(x))
        bad = ~torch.isfinite(value).all(dim=1)
        if bool(bad.any()):
            row = int(bad.to(torch.uint8).argmax())
            raise NonFiniteError(
                f"The reference's drift at {x[row].tolist()} is {value[row].tolist()} for the starting values "
                f"{dict(zip(self.names, self.start.tolist(), strict=True))}; choose another start."
            )

    def jacobian_x(self, t: Tensor, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Drift and ``∂b/∂x`` of shape ``(n, d, d)``, row by row of the batch."""
        with torch.enable_grad():  # rows are independent: one backward pass per component serves the batch
            here = x.detach().requires_grad_(True)
            value = self.drift(t, here, theta)
            rows = [
                torch.autograd.grad(value[:, k].sum(), here, retain_graph=k + 1 < x.shape[1], allow_unused=True)[0]
                if value.requires_grad
                else None
                for k in range(x.shape[1])
            ]
        return value.detach(), torch.stack([torch.zeros_like(x) if r is None else r for r in rows], dim=1)

    def jacobian_theta(self, t: Tensor, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Drift and ``∂b/∂θ`` of shape ``(n, d, parameter)``."""
        value, columns = torch.empty_like(x), []
        for q in range(len(self.names)):
            tangent = torch.zeros_like(theta)
            tangent[q] = 1.0
            value, column = torch.func.jvp(lambda p: self.drift(t, x, p), (theta,), (tangent,))
            columns.append(column)
        return value, torch.stack(columns, dim=2)


_Parsed = tuple[Callable[[Tensor, Tensor, Tensor], Tensor], list[str], list[float], list[float], list[float]]


def _parse(reference: Any) -> _Parsed:
    """The drift as a function of a parameter vector, with names, starts and bounds."""
    if hasattr(reference, "vector_field") and hasattr(reference, "parameters"):
        p = reference.parameters
        values = [float(reference.values[q.name]) for q in p]
        names, low, high = [q.name for q in p], [q.lower for q in p], [q.upper for q in p]
        return reference.vector_field, names, values, low, high
    if isinstance(reference, Library):
        n = len(reference.names)
        return reference, list(reference.names), [0.0] * n, [-np.inf] * n, [np.inf] * n
    if not callable(reference):
        raise OptionError(
            f"reference must be a system, a Library or a function f(t, x, **parameters); got {reference!r}."
        )
    own = list(inspect.signature(reference).parameters.values())[2:]
    named = [q for q in own if q.kind not in (q.VAR_POSITIONAL, q.VAR_KEYWORD)]
    if not named:
        raise OptionError("The reference function has no parameter after t and x; write f(t, x, rate=1.0, …).")
    open_ended = [q.name for q in named if q.default is q.empty]
    if open_ended:
        raise OptionError(
            f"The reference's parameter {open_ended[0]!r} has no default; give its starting value as one."
        )
    names = [q.name for q in named]

    def call(t: Tensor, x: Tensor, theta: Tensor) -> Tensor:
        return reference(t, x, **dict(zip(names, theta.unbind(-1), strict=True)))

    n = len(names)
    return call, names, [float(q.default) for q in named], [-np.inf] * n, [np.inf] * n

"""Vector fields given in two parts, for methods that treat the parts differently."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scidyn.errors import OptionError
from scidyn.solvers.field import Field

__all__ = ["Rate", "SemilinearField", "SeparableField", "SplitField", "part"]

Rate = Callable[[Tensor, Tensor], Tensor]


class SplitField(torch.nn.Module):
    """The sum of a part to step explicitly and a stiff part to step implicitly, for ``kencarp4``.

    Parameters
    ----------
    explicit, implicit : callable
        ``part(t, y)`` or ``part(t, y, args)``; both give the shape of y. Modules are registered.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import SplitField, solve_ode
    >>> field = SplitField(lambda t, y: torch.cos(t), lambda t, y: -1e4 * y)
    >>> y0 = torch.zeros(1, 1, dtype=torch.float64)
    >>> solve_ode(field, y0, [0.0, 1.0], method="kencarp4").success
    True
    """

    def __init__(self, explicit: Callable[..., Tensor], implicit: Callable[..., Tensor]) -> None:
        super().__init__()
        self.explicit, self.implicit = explicit, implicit

    def forward(self, t: Tensor, y: Tensor, *args: Any) -> Tensor:
        """Give the sum of both parts."""
        return self.explicit(t, y, *args) + self.implicit(t, y, *args)


class SemilinearField(torch.nn.Module):
    r"""A diagonal linear part and the rest, :math:`y' = \Lambda y + N(t, y)`, for ``etdrk4``.

    Parameters
    ----------
    diagonal : Tensor
        Entries of :math:`\Lambda`, real or complex, of the shape of one sample's state.
    nonlinear : callable
        ``nonlinear(t, y)`` or ``nonlinear(t, y, args)``.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import SemilinearField, solve_ode
    >>> field = SemilinearField(torch.tensor([-1.0, -1e5], dtype=torch.float64), lambda t, y: -(y**2))
    >>> y0 = torch.ones(1, 2, dtype=torch.float64)
    >>> solution = solve_ode(field, y0, [0.0, 1.0], method="etdrk4", dt0=0.1)
    >>> round(solution.y[0, -1, 0].item(), 4)
    0.2254
    """

    def __init__(self, diagonal: Tensor, nonlinear: Callable[..., Tensor]) -> None:
        super().__init__()
        self.diagonal, self.nonlinear = diagonal, nonlinear

    def forward(self, t: Tensor, y: Tensor, *args: Any) -> Tensor:
        """Give the sum of both parts."""
        return self.diagonal * y + self.nonlinear(t, y, *args)


class SeparableField(torch.nn.Module):
    """Positions that move with a velocity of the momenta, and momenta moved by a force on the positions.

    The state is a vector whose first half holds the positions q and whose second half the momenta p:
    ``q' = velocity(t, p)``, ``p' = force(t, q)``. The methods ``velocity_verlet`` and ``yoshida4`` also
    take plain fields with these halves; the parts save them half of the work.

    Parameters
    ----------
    velocity, force : callable
        ``velocity(t, p)`` and ``force(t, q)``, or the same with a third argument ``args``.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import SeparableField, solve_ode
    >>> spring = SeparableField(lambda t, p: p, lambda t, q: -q)
    >>> y0 = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    >>> solution = solve_ode(spring, y0, [0.0, 6.0], method="yoshida4", dt0=0.1)
    >>> round(solution.y[0, -1, 0].item(), 4)
    0.9602
    """

    def __init__(self, velocity: Callable[..., Tensor], force: Callable[..., Tensor]) -> None:
        super().__init__()
        self.velocity, self.force = velocity, force

    def forward(self, t: Tensor, y: Tensor, *args: Any) -> Tensor:
        """Give both halves of the rate."""
        q, p = y.chunk(2, dim=-1)
        return torch.cat([self.velocity(t, p, *args), self.force(t, q, *args)], dim=-1)


def part(rate: Any, kind: type, name: str, method: str) -> Rate:
    """Give one part of the field behind ``rate`` on rows, in increasing time."""
    field = getattr(rate, "f", rate)
    if not isinstance(field, kind):
        raise OptionError(
            f"method {method!r} needs f in two parts: pass a scidyn.solvers.{kind.__name__}; "
            f"got {type(field).__name__}."
        )
    chosen = getattr(field, name)
    if not isinstance(rate, Field):
        return chosen
    shape = rate.shape
    if kind is SeparableField:
        shape = torch.Size((*shape[:-1], shape[-1] // 2))
    return Field(chosen, rate.args, shape, rate.sign, rate.per_sample)

"""Batched GMRES for matrices known by their products only."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["gmres"]

Operator = Callable[[Tensor], Tensor]


def gmres(
    operator: Operator,
    b: Tensor,
    *,
    tol: float,
    restart: int = 30,
    cycles: int = 3,
    preconditioner: Operator | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Solve ``A x = b`` for a batch by restarted GMRES with right preconditioning.

    Each sample has its own Krylov space; classical Gram-Schmidt is applied twice. The number of
    products is at most ``cycles * (restart + 1)``; on a CPU a cycle ends early once all samples
    have converged, elsewhere the host reads nothing.

    Parameters
    ----------
    operator : callable
        Product with ``A``: ``(batch, D) -> (batch, D)``.
    b : Tensor, shape (batch, D)
    tol : float
        Wanted residual norm over the norm of ``b``.
    restart : int
        Dimension of the Krylov space; never more than D.
    cycles : int
        Restarts allowed.
    preconditioner : callable, optional
        An approximate inverse of ``A``.

    Returns
    -------
    x : Tensor, shape (batch, D)
    converged : Tensor of bool, shape (batch,)

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers.linear import gmres
    >>> matrix = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    >>> x, converged = gmres(lambda v: v @ matrix.T, torch.tensor([[5.0, 4.0]]).double(), tol=1e-10)
    >>> x.round(decimals=6)
    tensor([[1., 1.]], dtype=torch.float64)

    References
    ----------
    Y. Saad, M. H. Schultz, SIAM J. Sci. Stat. Comput. 7, 856-869, 1986.
    """
    apply = preconditioner if preconditioner is not None else _identity
    restart = min(restart, b.shape[-1])
    target = tol * torch.linalg.vector_norm(b, dim=-1)
    x = torch.zeros_like(b)
    residual = b
    for _ in range(cycles):
        x = x + apply(_cycle(lambda v: operator(apply(v)), residual, restart, target))
        residual = b - operator(x)
        done = torch.linalg.vector_norm(residual, dim=-1) <= target
        if b.device.type == "cpu" and bool(done.all()):
            break
    return x, done


def _identity(v: Tensor) -> Tensor:
    return v


def _cycle(operator: Operator, residual: Tensor, restart: int, target: Tensor) -> Tensor:
    """Minimise the residual over one Krylov space; the basis is built by Arnoldi's process."""
    beta = torch.linalg.vector_norm(residual, dim=-1)
    basis = [_unit(residual, beta)]
    columns = []
    size = 0
    for size in range(1, restart + 1):
        w = operator(basis[-1])
        q = torch.stack(basis, dim=1)
        h = torch.einsum("bkd,bd->bk", q, w)
        w = w - torch.einsum("bkd,bk->bd", q, h)
        again = torch.einsum("bkd,bd->bk", q, w)
        w = w - torch.einsum("bkd,bk->bd", q, again)
        norm = torch.linalg.vector_norm(w, dim=-1)
        columns.append(torch.cat((h + again, norm.unsqueeze(-1)), dim=-1))
        basis.append(_unit(w, norm))
        if residual.device.type == "cpu" and size % 5 == 0:
            _, left = _least_squares(columns, beta, size)
            if bool((left <= target).all()):
                break
    weights, _ = _least_squares(columns, beta, size)
    return torch.einsum("bkd,bk->bd", torch.stack(basis[:size], dim=1), weights)


def _unit(v: Tensor, norm: Tensor) -> Tensor:
    """Normalise; a zero vector stays zero, which ends the space of that sample."""
    safe = torch.where(norm > 0, norm, torch.ones_like(norm))
    return v / safe.unsqueeze(-1)


def _least_squares(columns: list[Tensor], beta: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Weights that minimise the norm of ``beta e_1 - H y``, and that norm."""
    padded = [torch.nn.functional.pad(c, (0, size + 1 - c.shape[-1])) for c in columns]
    q, r = torch.linalg.qr(torch.stack(padded, dim=-1), mode="complete")
    rotated = q[:, 0, :] * beta.unsqueeze(-1)
    r = r[:, :size]
    pivot = torch.diagonal(r, dim1=-2, dim2=-1)
    empty = pivot.abs() <= torch.finfo(r.dtype).tiny
    r = r + torch.diag_embed(empty.to(r.dtype))
    wanted = torch.where(empty, torch.zeros_like(pivot), rotated[:, :size])
    weights = torch.linalg.solve_triangular(r, wanted.unsqueeze(-1), upper=True).squeeze(-1)
    return weights, rotated[:, size].abs()

"""Linear solvers against dense algebra, Jacobians against formulas."""

from __future__ import annotations

import pytest
import torch

from scidyn.solvers.linear import Banded, BandedMatrix, Dense, DenseMatrix, MatrixFree, gmres
from scidyn.solvers.linear.banded import _CyclicReduction, transpose_bands
from scidyn.solvers.linear.elimination import Elimination
from scidyn.solvers.linear.jacobian import TimeAndState

SHAPES = [(1, 1, 3), (2, 2, 17), (1, 3, 10), (2, 0, 8), (0, 0, 4), (2, 1, 1), (1, 1, 64)]


def random_bands(lower, upper, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    bands = torch.rand(3, lower + upper + 1, width, dtype=torch.float64, generator=generator) - 0.5
    bands[:, upper] += 4
    k, j = torch.meshgrid(torch.arange(lower + upper + 1), torch.arange(width), indexing="ij")
    row = k - upper + j
    return bands * ((row >= 0) & (row < width)), generator


def full(bands, lower, upper):
    width = bands.shape[-1]
    matrix = torch.zeros(*bands.shape[:1], width, width, dtype=bands.dtype)
    for i in range(width):
        for j in range(max(0, i - lower), min(width, i + upper + 1)):
            matrix[:, i, j] = bands[:, upper + i - j, j]
    return matrix


@pytest.mark.parametrize(("lower", "upper", "width"), SHAPES)
@pytest.mark.parametrize("kind", [BandedMatrix, _CyclicReduction])
def test_band_solvers_agree_with_dense(kind, lower, upper, width):
    bands, generator = random_bands(lower, upper, width)
    matrix = full(bands, lower, upper)
    b = torch.rand(3, width, dtype=torch.float64, generator=generator)
    solver = kind(bands, lower, upper)
    torch.testing.assert_close(solver.solve(b), torch.linalg.solve(matrix, b), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(solver.solve_transposed(b), torch.linalg.solve(matrix.mT, b), rtol=1e-12, atol=1e-12)
    transposed = transpose_bands(bands, lower, upper)
    torch.testing.assert_close(full(*transposed), matrix.mT, rtol=0, atol=0)


def test_band_solver_is_twice_differentiable():
    bands, generator = random_bands(2, 1, 6)
    mask = bands != 0
    b = torch.rand(3, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    bands.requires_grad_()

    def solve(bands, b):
        return BandedMatrix(bands * mask, 2, 1).solve(b)

    assert torch.autograd.gradcheck(solve, (bands, b))
    assert torch.autograd.gradgradcheck(solve, (bands, b))


def test_singular_matrices_are_reported_per_sample():
    good, bad = torch.eye(2), torch.tensor([[1.0, 2.0], [2.0, 4.0]])
    assert DenseMatrix(torch.stack([good, bad])).singular.tolist() == [False, True]
    bands = torch.tensor([[[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]], [[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]]])
    for kind in (BandedMatrix, _CyclicReduction):
        assert kind(bands, 1, 1).singular.tolist() == [False, True]


@pytest.mark.parametrize("restart", [4, 30])
def test_gmres_agrees_with_dense(restart):
    generator = torch.Generator().manual_seed(1)
    matrix = 3 * torch.eye(20, dtype=torch.float64)
    matrix = matrix + 0.3 * torch.rand(4, 20, 20, dtype=torch.float64, generator=generator)
    b = torch.rand(4, 20, dtype=torch.float64, generator=generator)
    b[1] = 0
    x, converged = gmres(lambda v: (matrix @ v.unsqueeze(-1)).squeeze(-1), b, tol=1e-12, restart=restart, cycles=30)
    assert converged.all()
    torch.testing.assert_close(x, torch.linalg.solve(matrix, b), rtol=1e-10, atol=1e-10)


def test_gmres_says_which_sample_did_not_converge():
    turn = torch.tensor([[[0.0, 1.0], [-1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    b = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    _, converged = gmres(lambda v: (turn @ v.unsqueeze(-1)).squeeze(-1), b, tol=1e-6, restart=1, cycles=2)
    assert converged.tolist() == [False, True]


def test_preconditioner_saves_products():
    diagonal = torch.logspace(0, 6, 50, dtype=torch.float64)
    calls = []

    def product(v):
        calls.append(1)
        return diagonal * v + 0.1 * v.roll(1, dims=-1)

    b = torch.ones(1, 50, dtype=torch.float64)
    x, converged = gmres(product, b, tol=1e-10, preconditioner=lambda v: v / diagonal)
    assert converged.all()
    assert len(calls) < 20
    torch.testing.assert_close(product(x), b, rtol=1e-8, atol=1e-8)


def lattice(t, y):
    z = torch.nn.functional.pad(y, (1, 1))
    return (z[:, 2:] ** 2 - 3 * torch.sin(y) + z[:, :-2] * y) * torch.cos(t).unsqueeze(-1)


@pytest.mark.parametrize("width", [5, 30])
@pytest.mark.parametrize(("exact", "error"), [(True, 1e-13), (False, 1e-5)])
def test_linearisations_agree(width, exact, error):
    generator = torch.Generator().manual_seed(2)
    y = torch.rand(3, width, dtype=torch.float64, generator=generator) + 0.1
    t, h = torch.tensor([0.3], dtype=torch.float64), torch.tensor([0.1], dtype=torch.float64)
    where = TimeAndState(t, h, y, lattice(t, y), 1e-9 + 1e-6 * y)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: lattice(t, row.unsqueeze(0))[0]))(y)
    slope = -where.k1 * torch.tan(t)
    b = torch.rand(3, width, dtype=torch.float64, generator=generator)
    wanted = torch.linalg.solve(torch.eye(width, dtype=torch.float64) - 0.2 * jacobian, b)
    shift = torch.tensor([0.2], dtype=torch.float64)
    with torch.no_grad():
        for linearisation in (Dense(), Banded(1, 1), MatrixFree(tol=1e-12)):
            point = linearisation.at(lattice, where, exact=exact, time=True)
            torch.testing.assert_close(point.factored(shift).solve(b), wanted, rtol=error, atol=error)
            torch.testing.assert_close(point.time_slope, slope, rtol=error, atol=error)
        point = Dense(lambda t, y: jacobian).at(lattice, where, exact=exact, time=True)
        torch.testing.assert_close(point.factored(shift).solve(b), wanted, rtol=1e-12, atol=1e-12)


def test_constant_rate_has_zero_jacobian():
    y = torch.ones(2, 3, dtype=torch.float64)
    t, h = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    where = TimeAndState(t, h, y, y, y)
    for exact in (True, False):
        point = Dense().at(lambda t, y: torch.ones_like(y), where, exact=exact, time=True)
        assert torch.equal(point.jacobian, torch.zeros(2, 3, 3, dtype=torch.float64))
        assert torch.equal(point.time_slope, torch.zeros_like(y))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_elimination_written_out(size):
    torch.manual_seed(size)
    matrix = torch.randn(50, size, size, dtype=torch.float64)
    matrix[:, 0, 0] = 0.0  # forces an exchange of rows
    matrix[0] = 0.0
    factors = Elimination(matrix)
    b = torch.randn(50, size, dtype=torch.float64)
    assert factors.singular[0]
    if size > 1:
        assert not factors.singular[1:].any()
        torch.testing.assert_close(factors.solve(b)[1:], torch.linalg.solve(matrix[1:], b[1:]), rtol=1e-9, atol=1e-11)

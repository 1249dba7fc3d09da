"""Derivatives of implicit steps: the implicit function theorem against unrolled iterations and closed forms."""

import pytest
import torch

from scidyn.solvers import solve_ode
from scidyn.solvers.linear import LinearAlgebra
from scidyn.solvers.methods.esdirk import ESDIRK, combine
from scidyn.solvers.methods.rosenbrock import Rodas, Rosenbrock23
from scidyn.solvers.stiff_tableaus import KVAERNO3, KVAERNO5, RODAS5P

F64 = torch.float64
METHODS = [ESDIRK(KVAERNO3), ESDIRK(KVAERNO5), Rosenbrock23(), Rodas(tableau=RODAS5P)]


def field(theta):
    def rate(t, y):
        a, b = y.unbind(-1)
        fast = theta[0] * (torch.sin(a) - b + 0.3 * torch.cos(t) * theta[1])
        return torch.stack([-theta[1] * a * b + 0.2, fast], dim=-1)

    return rate


def unrolled(method, rate, t, h, y):
    """One ESDIRK step with thirty Newton iterations that autograd sees."""
    tableau, column = method.tableau, h.unsqueeze(-1)
    stages, state = [column * rate(t, y)], y
    eye = torch.eye(y.shape[-1], dtype=y.dtype)
    for node, row in zip(tableau.c[1:], tableau.a[1:], strict=True):
        base, time = y + combine(row, stages), t + node * h
        u = stages[0]
        for _ in range(12):
            state = base + tableau.gamma * u
            jacobian = torch.stack(
                [
                    torch.autograd.grad(rate(time, state)[:, i].sum(), state, create_graph=True)[0]
                    for i in range(y.shape[-1])
                ],
                dim=1,
            )
            matrix = eye - (tableau.gamma * h).reshape(-1, 1, 1) * jacobian
            u = u + torch.linalg.solve(matrix, column * rate(time, state) - u)
        stages.append(u)
        state = base + tableau.gamma * u
    return state


@pytest.fixture
def start():
    torch.manual_seed(0)
    y = torch.tensor([[0.5, 0.2], [1.5, -0.3], [0.1, 1.0]], dtype=F64, requires_grad=True)
    theta = torch.tensor([40.0, 0.7], dtype=F64, requires_grad=True)
    t, h = torch.tensor([0.0, 0.1, 0.2], dtype=F64), torch.tensor([0.3, 0.1, 0.02], dtype=F64)
    return y, theta, t, h


@pytest.mark.parametrize("method", METHODS[:2], ids=lambda m: m.name)
def test_esdirk_against_unrolled_newton(method, start):
    y, theta, t, h = start
    weights = torch.randn(3, 2, dtype=F64)
    replayed = method.replay(field(theta), t, h, y)
    direct = unrolled(method, field(theta), t, h, y)
    torch.testing.assert_close(replayed.y1, direct, rtol=1e-12, atol=1e-13)
    got = torch.autograd.grad((replayed.y1 * weights).sum(), [y, theta], create_graph=True)
    expected = torch.autograd.grad((direct * weights).sum(), [y, theta], create_graph=True)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    second = [torch.autograd.grad((g * g).sum(), [y, theta], retain_graph=True) for g in (got[0], expected[0])]
    for one, other in zip(*second, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_first_and_second_derivatives_by_finite_differences(method, start):
    y, theta, t, h = start

    def step(y, theta):
        taken = method.replay(field(theta), t, h, y)
        return taken.y1, torch.stack(taken.coef)

    assert torch.autograd.gradcheck(step, (y, theta), atol=1e-6)
    assert torch.autograd.gradgradcheck(lambda *x: step(*x)[0], (y, theta), atol=1e-5)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_replay_repeats_the_step_of_the_loop(method, start):
    y, theta, t, h = start
    from scidyn.solvers.controller import Tolerance

    rate = field(theta.detach())
    y = y.detach()
    tight = Tolerance(torch.tensor(1e-10, dtype=F64), torch.tensor(1e-10, dtype=F64), False)
    carry = method.begin(rate, t, y, rate(t, y))
    taken, again = method.step(rate, t, h, y, carry, tight), method.replay(rate, t, h, y)
    assert taken.failed is not None
    assert not taken.failed.any()
    # the loop's Jacobians are differences, which a Rosenbrock step feels in its eighth digit
    torch.testing.assert_close(taken.y1, again.y1, rtol=2e-7 if method.name == "rosenbrock23" else 1e-8, atol=1e-9)
    torch.testing.assert_close(torch.stack(taken.coef), torch.stack(again.coef), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(taken.err, again.err, rtol=1e-6, atol=1e-8)
    # the polynomial ends at the new state
    end = y + h.unsqueeze(-1) * sum(taken.coef)
    torch.testing.assert_close(end, taken.y1, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(
    "algebra", [LinearAlgebra("banded", (1, 1)), LinearAlgebra("krylov")], ids=lambda a: a.linear_solver
)
def test_banded_and_krylov_gradients_equal_dense_ones(algebra):
    cells = 12
    y = torch.linspace(0, 1, cells, dtype=F64).expand(2, -1).clone().requires_grad_()
    k = torch.tensor(30.0, dtype=F64, requires_grad=True)

    def rate(t, y):
        wide = torch.nn.functional.pad(y, (1, 1))
        return k * (wide[..., 2:] - 2 * y + wide[..., :-2]) - y**3

    t, h = torch.zeros(1, dtype=F64), torch.full((1,), 0.05, dtype=F64)
    results = []
    for chosen in (LinearAlgebra(), algebra):
        taken = ESDIRK(KVAERNO5, chosen).replay(rate, t, h, y)
        results.append(torch.autograd.grad(taken.y1.square().sum(), [y, k]))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("method", ["kvaerno5", "rodas5p"])
@pytest.mark.parametrize("adjoint", ["discrete", "direct"])
def test_gradient_of_a_stiff_solve_by_differences(method, adjoint):
    """Decay to a forced equilibrium at rate 1e3; the oracle is a central difference."""
    times = [0.0, 0.5, 1.0]
    y0 = torch.tensor([[0.5, 0.2], [1.0, 0.4]], dtype=F64)

    def loss(theta):
        options = {"stepping": "fixed", "dt0": 0.05, "rtol": 1e-10, "atol": 1e-12}
        solution = solve_ode(
            lambda t, y: field(theta)(t, y), y0, times, method=method, adjoint=adjoint, params=[theta], **options
        )
        return solution.y[:, 1:].square().sum()

    theta = torch.tensor([1e3, 0.7], dtype=F64, requires_grad=True)
    (got,) = torch.autograd.grad(loss(theta), theta)
    for i, step in enumerate((1.0, 1e-4)):
        shift = torch.zeros(2, dtype=F64)
        shift[i] = step
        with torch.no_grad():
            expected = (loss(theta + shift) - loss(theta - shift)) / (2 * step)
        torch.testing.assert_close(got[i], expected, rtol=1e-4, atol=1e-9)

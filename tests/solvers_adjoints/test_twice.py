"""Second derivatives: by differences where an adjoint claims them, a clear refusal where it does not."""

import pytest
import torch
from pendulums import F64, field, leaves, options
from torch.autograd.functional import hessian, jacobian

from scidyn.errors import OptionError
from scidyn.solvers import solve_ode
from scidyn.solvers.methods import METHODS

TWICE = ("discrete", "direct", "timeparallel")
ONCE = ("forward", "reversible", "backsolve", "interpolating")


# a gradient that is to be differentiated again repeats the steps as "direct" does
QUICK = [(name, "discrete") for name in METHODS] + [
    ("rk4", "direct"),
    ("rodas5p", "direct"),
    ("rodas5p", "timeparallel"),
]


@pytest.mark.parametrize(
    ("method", "adjoint"),
    [
        (name, adjoint) if (name, adjoint) in QUICK else pytest.param(name, adjoint, marks=pytest.mark.slow)
        for name in METHODS
        for adjoint in TWICE
    ],
)
def test_first_and_second_derivatives_by_differences(method, adjoint):
    y0, p = (x[:2].detach().requires_grad_() if x.ndim > 1 else x for x in leaves())
    t = torch.tensor([0.0, 0.2], dtype=F64, requires_grad=True)
    chosen = options(method, "fixed") | {"dt0": 0.2, "adjoint": adjoint}

    def end(y0, p, t):
        return solve_ode(field(method, p), y0, t, params=[p], **chosen).y[:, 1]

    # the derivative by t is that of the exact flow, which steps of this size do not follow to six digits
    assert torch.autograd.gradcheck(lambda *x: end(*x, t.detach()), (y0, p), atol=1e-6, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *x: end(*x, t.detach()), (y0, p), atol=1e-5, fast_mode=True)


@pytest.mark.parametrize("adjoint", TWICE)
@pytest.mark.parametrize("method", ["tsit5", "rodas5p"])
def test_second_derivatives_by_times_of_decay(method, adjoint):
    k = torch.tensor(0.7, dtype=F64, requires_grad=True)
    t = torch.tensor([0.2, 1.0], dtype=F64, requires_grad=True)

    def loss(k, t, solve):
        return (solve(k, t) ** 2).sum()

    def solved(k, t):
        setup = {"method": method, "rtol": 1e-9, "atol": 1e-11, "params": [k], "adjoint": adjoint}
        return solve_ode(lambda s, y: -k * y, torch.ones(1, 1, dtype=F64), t, **setup).y[0, 1]

    got = hessian(lambda *x: loss(*x, solved), (k, t))
    want = hessian(lambda *x: loss(*x, lambda k, t: torch.exp(-k * (t[1] - t[0]))), (k, t))
    for rows, wanted in zip(got, want, strict=True):
        for one, other in zip(rows, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("adjoint", ONCE)
def test_a_second_derivative_is_refused_with_a_cure(adjoint):
    k = torch.tensor(0.7, dtype=F64, requires_grad=True)
    y = solve_ode(lambda t, y: -k * y, torch.ones(1, 1, dtype=F64), [0.0, 1.0], adjoint=adjoint, rtol=1e-4).y
    # a sum, whose own gradient is a constant: nothing else would notice
    (first,) = torch.autograd.grad(y.sum(), k, create_graph=True)
    with pytest.raises(OptionError, match=f"{adjoint}.*first derivatives only"):
        (first + k**2).backward()


@pytest.mark.parametrize("adjoint", ["discrete", "timeparallel", "forward", "reversible"])
def test_vectorised_jacobian_equals_the_plain_one(adjoint):
    a = torch.tensor([[-0.5, 2.0], [-1.0, -0.2]], dtype=F64)
    y0 = torch.tensor([[1.0, 0.5], [0.3, -1.0]], dtype=F64)

    def solved(a, y0):
        return solve_ode(lambda t, y: torch.tanh(y @ a), y0, [0.0, 0.3, 0.7], adjoint=adjoint, params=[a]).y

    for one, other in zip(jacobian(solved, (a, y0), vectorize=True), jacobian(solved, (a, y0)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("adjoint", ["backsolve", "interpolating"])
def test_vectorised_jacobian_is_refused_where_values_are_read(adjoint):
    y0 = torch.ones(1, 1, dtype=F64)
    with pytest.raises(OptionError, match="vectorize=False"):
        jacobian(lambda y: solve_ode(lambda t, y: -y, y, [0.0, 1.0], adjoint=adjoint).y, y0, vectorize=True)

"""Derivatives of gradients against autograd through all steps and against finite differences."""

import pytest
import torch
from torch import nn

from scidyn.solvers import BrownianTree, solve_sde

F64 = torch.float64


class Model(nn.Module):
    noise_type, sde_type = "diagonal", "stratonovich"

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor([0.7, -0.4], dtype=F64))
        self.b = nn.Parameter(torch.tensor(0.3, dtype=F64))

    def f(self, t, y):
        return torch.tanh(self.a * y) - t.reshape(-1, 1) * y**2

    def g(self, t, y):
        return torch.sin(self.b * y)


def second(adjoint, method, **options):
    model = Model()
    y0 = torch.tensor([[1.0, 0.5], [0.2, -0.8], [0.1, 0.3]], dtype=F64, requires_grad=True)
    y = solve_sde(model, None, y0, [0.0, 0.4, 1.0], method=method, adjoint=adjoint, **options).y
    tensors = [y0, *model.parameters()]
    first = torch.autograd.grad((y**3).sum(), tensors, create_graph=True)
    return torch.autograd.grad(sum((g**2).sum() for g in first), tensors)


@pytest.mark.parametrize(
    ("adjoint", "method"),
    [("discrete", "heun"), ("discrete", "milstein"), ("discrete", "spark"), ("reversible", "reversible_heun")],
)
def test_derivative_of_the_gradient_is_that_through_all_steps(adjoint, method):
    options = {"dt": 0.05, "seed": 3}
    found = second(adjoint, method, **options)
    exact = second("direct", method, **options)
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
def test_derivative_of_the_gradient_of_adaptive_steps(stepping):
    found = []
    for adjoint in ("discrete", "direct"):
        tree = BrownianTree(0.0, 1.0, (3, 2), seed=0, dtype=F64, tol=1e-3)
        options = {"bm": tree, "adaptive": True, "stepping": stepping, "dt": 0.2, "dt_min": 0.01}
        found.append(second(adjoint, "spark", **options))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_second_derivative_of_a_start_and_a_weight_that_share_their_origin():
    # y0 and the rate both come from one tensor: its second derivative passes through both, once
    def loss(x, adjoint):
        encoded = torch.exp(x)
        y0 = encoded.expand(2, 1) * 0.5
        y = solve_sde(
            lambda t, y: -encoded * y**2,
            lambda t, y: 0.2 * encoded * y,
            y0,
            [0.0, 1.0],
            method="milstein",
            dt=0.1,
            seed=1,
            adjoint=adjoint,
        ).y
        return (y**2).sum()

    x = torch.tensor(0.3, dtype=F64, requires_grad=True)
    slopes = []
    for adjoint in ("discrete", "direct"):
        (first,) = torch.autograd.grad(loss(x, adjoint), x, create_graph=True)
        slopes.append((first.detach(), torch.autograd.grad(first, x)[0]))
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-10, atol=0)
    ahead, behind = (
        torch.autograd.grad(loss(z, "direct"), z)[0] for z in ((x.detach() + s).requires_grad_() for s in (1e-5, -1e-5))
    )
    torch.testing.assert_close(slopes[0][1], (ahead - behind) / 2e-5, rtol=1e-6, atol=0)


def test_gradgradcheck_of_a_short_solve():
    def run(y0, a):
        return solve_sde(
            lambda t, y: torch.sin(a * y), lambda t, y: 0.3 * torch.cos(a * y), y0, [0.0, 0.2], dt=0.1, seed=0
        ).y

    y0 = torch.tensor([[0.4]], dtype=F64, requires_grad=True)
    a = torch.tensor(0.9, dtype=F64, requires_grad=True)
    assert torch.autograd.gradgradcheck(run, (y0, a))

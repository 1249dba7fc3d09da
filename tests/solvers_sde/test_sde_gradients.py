"""Gradients of every kind against autograd through all steps, and undoing the reversible method."""

import pytest
import torch
from torch import nn

from scidyn.errors import OptionError
from scidyn.solvers import BrownianIncrements, solve_sde
from scidyn.solvers.sde.arguments import check_method, check_terms, make_terms
from scidyn.solvers.sde.engine import advance
from scidyn.solvers.sde.methods import SDE_METHODS
from scidyn.solvers.sde.plan import make_plan
from scidyn.solvers.sde.reversible import reconstruct

F64 = torch.float64


class Neural(nn.Module):
    def __init__(self, noise, calculus):
        super().__init__()
        torch.manual_seed(0)
        self.noise_type, self.sde_type = noise, calculus
        self.drift = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()
        self.scale = nn.Parameter(torch.tensor([0.3, 0.2, 0.4], dtype=F64))
        self.matrix = nn.Parameter(0.3 * torch.randn(3, 2, dtype=F64))

    def f(self, t, y):
        return self.drift(y) + 0.1 * t

    def g(self, t, y):
        if self.noise_type == "additive":
            return ((1 + t) * self.scale).expand_as(y)
        if self.noise_type == "diagonal":
            return torch.sigmoid(self.scale * y)
        matrix = torch.cos(y).unsqueeze(-1) * self.matrix
        return matrix[..., :1] if self.noise_type == "scalar" else matrix


def gradients(model, y0, times, weights, **options):
    y0 = y0.clone().requires_grad_()
    y = solve_sde(model, None, y0, times, **options).y
    tensors = [y0, *model.parameters()]
    found = torch.autograd.grad((y * weights).sum(), tensors, allow_unused=True)
    return y.detach(), [torch.zeros_like(t) if g is None else g for t, g in zip(tensors, found, strict=True)]


def apart(a, b):
    return max(
        ((x - y).norm() / (1e-300 + y.norm()) if y.norm() > 0 else x.norm()).item() for x, y in zip(a, b, strict=True)
    )


CASES = [
    (name, noise, calculus)
    for name, method in SDE_METHODS.items()
    for noise in sorted(method.about.noise)
    for calculus in sorted(method.about.calculus)
]


@pytest.mark.parametrize(("method", "noise", "calculus"), CASES)
def test_discrete_gradient_is_that_of_the_steps(method, noise, calculus):
    g = torch.Generator().manual_seed(1)
    y0 = torch.randn(4, 3, dtype=F64, generator=g)
    times = [0.0, 0.3, 0.5, 1.0]
    weights = torch.randn(4, 4, 3, dtype=F64, generator=g)
    model = Neural(noise, calculus)
    options = {"method": method, "dt": 0.02, "seed": 3}
    y, exact = gradients(model, y0, times, weights, adjoint="direct", **options)
    again, found = gradients(model, y0, times, weights, adjoint="discrete", **options)
    assert torch.equal(y, again)
    assert apart(found, exact) <= 1e-10


@pytest.mark.parametrize("noise", ["diagonal", "general", "additive"])
def test_reversible_gradient_is_that_of_the_steps(noise):
    g = torch.Generator().manual_seed(1)
    y0 = torch.randn(4, 3, dtype=F64, generator=g)
    weights = torch.randn(4, 3, 3, dtype=F64, generator=g)
    model = Neural(noise, "stratonovich")
    options = {"method": "reversible_heun", "dt": 0.002, "seed": 3}
    _, exact = gradients(model, y0, [0.0, 0.5, 1.0], weights, adjoint="direct", **options)
    _, found = gradients(model, y0, [0.0, 0.5, 1.0], weights, adjoint="reversible", **options)
    assert apart(found, exact) <= 1e-10


def test_reversible_method_is_undone_over_two_thousand_steps():
    model = Neural("diagonal", "stratonovich")
    y0 = torch.randn(16, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    terms = make_terms(model, None, None, None, None, None).terms
    check_terms(terms, torch.zeros((), dtype=F64), y0)
    method = check_method("reversible_heun", terms)
    path = BrownianIncrements(torch.linspace(0, 2, 2001, dtype=F64), (16, 3), seed=0, dtype=F64)
    plan = make_plan([0.0, 2.0], path, y0)
    with torch.no_grad():
        y, carry, _ = advance(terms, method, plan, (0, 2000), y0, method.begin(terms, plan.starts[0], y0))
        back = reconstruct(terms, method, plan, y, carry[0])
    assert (y - y0).abs().max() > 0.1
    assert (back - y0).abs().max() <= 1e-10


def test_backsolve_approaches_the_exact_gradient():
    y0 = torch.randn(4, 3, dtype=F64, generator=torch.Generator().manual_seed(1))
    weights = torch.ones(4, 2, 3, dtype=F64)
    model = Neural("diagonal", "stratonovich")
    errors = []
    for dt in (0.02, 0.005):
        # torchsde's own path: compare its adjoint with its own backpropagation
        options = {"method": "midpoint", "dt": dt, "seed": 3}
        _, exact = gradients(model, y0, [0.0, 0.5], weights, adjoint="direct", backend="torchsde", **options)
        _, found = gradients(model, y0, [0.0, 0.5], weights, adjoint="backsolve", **options)
        errors.append(apart(found[:1], exact[:1]))
    assert errors[1] < 0.5 * errors[0] < 0.05


def test_torchsde_backend_agrees_in_law():
    model = Neural("diagonal", "ito")
    y0 = torch.zeros(4000, 3, dtype=F64)
    options = {"method": "euler", "dt": 0.05, "adjoint": None}
    ours = solve_sde(model, None, y0, [0.0, 1.0], seed=0, **options).y[:, -1]
    theirs = solve_sde(model, None, y0, [0.0, 1.0], seed=1, backend="torchsde", **options).y[:, -1]
    assert torch.allclose(ours.mean(0), theirs.mean(0), atol=0.05)
    assert torch.allclose(ours.var(0), theirs.var(0), rtol=0.1)


def test_gradients_reach_closed_over_tensors_that_are_not_parameters():
    scale = torch.tensor(0.4, dtype=F64, requires_grad=True)
    encoded = scale * 2
    y0 = torch.ones(3, 2, dtype=F64)
    results = []
    for adjoint in ("direct", "discrete"):
        y = solve_sde(
            lambda t, y: -encoded * y, lambda t, y: scale * y, y0, [0.0, 1.0], dt=0.05, seed=0, adjoint=adjoint
        ).y
        results.append(torch.autograd.grad(y.sum(), scale, retain_graph=True)[0])
    assert torch.allclose(results[0], results[1], rtol=1e-12)


def test_geometric_brownian_motion_gradient_in_closed_form():
    # d E[X_1] / d mu = exp(mu) with the exact path's own derivative X_1
    mu = torch.tensor(0.3, dtype=F64, requires_grad=True)
    path = BrownianIncrements(torch.linspace(0, 1, 2001, dtype=F64), (64, 1), seed=0, dtype=F64)
    y = solve_sde(lambda t, y: mu * y, lambda t, y: 0.2 * y, torch.ones(64, 1, dtype=F64), [0.0, 1.0], bm=path)
    (found,) = torch.autograd.grad(y.y[:, -1].sum(), mu)
    exact = torch.exp(mu.detach() - 0.02 + 0.2 * path.path()[-1]).sum()
    assert found.item() == pytest.approx(exact.item(), rel=5e-3)


def test_adaptive_solve_is_differentiated_on_its_own_steps():
    model = Neural("additive", "ito")
    y0 = torch.ones(4, 3, dtype=F64)
    weights = torch.ones(4, 2, 3, dtype=F64)
    options = {"method": "shark", "adaptive": True, "rtol": 1e-3, "atol": 1e-4, "seed": 0}
    _, exact = gradients(model, y0, [0.0, 1.0], weights, adjoint="direct", **options)
    _, found = gradients(model, y0, [0.0, 1.0], weights, adjoint="discrete", **options)
    assert apart(found, exact) <= 1e-10


def test_reversible_gradient_needs_its_method():
    with pytest.raises(OptionError, match="reversible_heun"):
        solve_sde(lambda t, y: y, lambda t, y: y, torch.ones(1, 1), [0.0, 1.0], dt=0.1, seed=0, adjoint="reversible")

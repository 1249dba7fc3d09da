"""Gradients: against autograd's tape, finite differences, and the inverse of the reversible map."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from scidyn.solvers import BrownianIncrements, solve_langevin, solve_sde
from scidyn.solvers.sde.arguments import make_terms
from scidyn.solvers.sde.engine import Run, advance
from scidyn.solvers.sde.methods import METHODS
from scidyn.solvers.sde.plan import Plan, nodes_between
from scidyn.solvers.sde.reversible import invert

F64 = torch.float64
CASES = [
    (calculus, name)
    for calculus, methods in METHODS.items()
    for name, m in methods.items()
    if "diagonal" in m.noises and not (calculus == "stratonovich" and name == "euler_maruyama")
]


class Problem:
    def __init__(self):
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()
        self.y0 = torch.randn(5, 3, dtype=F64, requires_grad=True)
        self.scale = torch.tensor(0.7, dtype=F64, requires_grad=True)  # reached through a closure only

    def gradients(self, adjoint, **options):
        inside = self.scale * 1.0  # not a leaf
        solution = solve_sde(
            lambda t, y: self.net(y) * inside + t,
            lambda t, y: 0.3 + 0.1 * torch.sin(y) * inside,
            self.y0,
            [0.0, 0.3, 1.0],
            seed=1,
            adjoint=adjoint,
            **{"dt": 0.02, **options},
        )
        loss = solution.y.square().sum()
        if solution.log_ratio is not None:
            loss = loss + solution.log_ratio[:, -1].sum()
        return torch.autograd.grad(loss, [self.y0, self.scale, *self.net.parameters()])


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        assert (x - y).abs().max() <= 1e-10 * x.abs().max()


@pytest.mark.parametrize(("calculus", "method"), CASES)
def test_discrete_equals_direct(calculus, method):
    p = Problem()
    options = {"calculus": calculus, "method": method}
    assert_same(p.gradients("direct", **options), p.gradients("discrete", **options))


def test_reversible_equals_direct():
    p = Problem()
    options = {"calculus": "stratonovich", "method": "reversible_heun"}
    assert_same(p.gradients("direct", **options), p.gradients("reversible", **options))


def test_gradients_of_adaptive_steps_and_of_the_path_divergence():
    p = Problem()
    options = {"calculus": "stratonovich", "method": "spark", "adaptive": True}
    assert_same(p.gradients("direct", **options), p.gradients("discrete", **options))
    options = {"calculus": "stratonovich", "method": "heun", "prior_drift": lambda t, y: -y}
    assert_same(p.gradients("direct", **options), p.gradients("discrete", **options))


def test_gradient_by_finite_differences():
    rate = torch.tensor(0.8, dtype=F64, requires_grad=True)

    def loss(r):
        y0 = torch.ones(3, 1, dtype=F64)
        return solve_sde(lambda t, y: -r * y, lambda t, y: 0.3 * r * y, y0, [0.0, 1.0], dt=0.1, seed=0).y.square().sum()

    (exact,) = torch.autograd.grad(loss(rate), rate)
    eps = 1e-6
    with torch.no_grad():
        central = (loss(rate + eps) - loss(rate - eps)) / (2 * eps)
    assert_close(exact, central, rtol=1e-7, atol=0)


def test_backsolve_by_torchsde_is_close():
    p = Problem()
    fine = {"calculus": "stratonovich", "method": "midpoint", "dt": 0.005}
    leaf = {"params": None}
    net, y0 = p.net, p.y0

    def gradient(adjoint):
        y = solve_sde(
            net, lambda t, y: 0.1 * torch.ones_like(y), y0, [0.0, 1.0], seed=0, adjoint=adjoint, **fine, **leaf
        )
        return torch.autograd.grad(y.y[:, -1].mean(), y0)[0]

    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = p.net

        def forward(self, t, y):
            return self.inner(y)

    net = Field()
    a, b = gradient("direct"), gradient("backsolve")
    # different paths of noise of size 0.1: the gradients agree to that order
    assert (a - b).abs().max() < 0.2 * a.abs().max()


def test_reversible_heun_reconstructs_its_start():
    torch.manual_seed(0)
    y0 = torch.randn(4, 3, dtype=F64)
    nodes = nodes_between([0.0, 4.0], 0.002)
    terms, shape = make_terms(
        lambda t, y: torch.sin(3 * y) + t, lambda t, y: 0.5 + 0.2 * torch.cos(y), None, 0.0, y0, "diagonal"
    )
    method = METHODS["stratonovich"]["reversible_heun"]
    run = Run(method, terms, Plan.on(nodes, [0.0, 4.0]), BrownianIncrements(nodes, shape, seed=0, dtype=F64))
    assert len(run.plan) == 2000
    begun = carry = method.begin(terms, torch.zeros((), dtype=F64), y0)
    y = y0
    for _, y, carry in advance(run, y0, begun, 0, 2000):  # noqa: B007
        pass
    back, _ = invert(run, y, carry, 2000, 0)
    assert (y - y0).abs().max() > 0.1
    assert (back - y0).abs().max() < 1e-10


@pytest.mark.parametrize("method", ["align", "quicsort", "baoab"])
def test_langevin_gradients(method):
    k = torch.tensor(1.5, dtype=F64, requires_grad=True)
    x0 = torch.ones(3, 2, dtype=F64)
    grads = []
    for adjoint in ("direct", "discrete"):
        s = solve_langevin(
            lambda x: k * x, x0, 0 * x0, [0.0, 1.0], friction=0.5, dt=0.02, seed=0, method=method, adjoint=adjoint
        )
        grads.append(torch.autograd.grad(s.y.square().sum(), k)[0])
    assert_close(*grads, rtol=1e-10, atol=0)


def test_second_derivatives_are_refused_by_discrete_and_given_by_direct():
    y0 = torch.ones(2, 1, dtype=F64, requires_grad=True)

    def first(adjoint):
        y = solve_sde(lambda t, y: -(y**3), lambda t, y: 0.1 * y, y0, [0.0, 1.0], dt=0.1, seed=0, adjoint=adjoint).y
        return torch.autograd.grad(y[:, -1].sum(), y0, create_graph=True)[0].sum()

    assert torch.autograd.grad(first("direct"), y0)[0].abs().max() > 0
    with pytest.raises(RuntimeError, match="grad"):
        torch.autograd.grad(first("discrete"), y0)

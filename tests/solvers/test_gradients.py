"""Gradients of solves against closed forms, finite differences, autograd through the steps, and torchdiffeq."""

import math

import pytest
import torch

from scidyn.solvers import Status, solve_ode
from scidyn.systems import LotkaVolterra, VanDerPol

F64 = torch.float64
STEPPINGS = ("shared", "per_sample", "fixed")
TIGHT = {"rtol": 1e-10, "atol": 1e-10}


def gradients(adjoint, stepping, method="tsit5", width=2):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(width, 8), torch.nn.Tanh(), torch.nn.Linear(8, width)).to(F64)
    y0 = torch.randn(3, width, dtype=F64, requires_grad=True)
    shift = torch.full((width,), 0.3, dtype=F64, requires_grad=True)
    args = torch.tensor(0.7, dtype=F64, requires_grad=True)

    def f(t, y, a):
        return torch.sin(a * t).reshape(-1, 1) + net(y) + shift * y

    y = solve_ode(f, y0, [0.0, 0.4, 1.0, 1.7], args=args, method=method, stepping=stepping, dt0=0.1, adjoint=adjoint).y
    loss = (y * torch.linspace(0.5, 2.0, 4, dtype=F64).reshape(1, -1, 1)).square().sum()
    return torch.autograd.grad(loss, [y0, shift, args, *net.parameters()])


@pytest.mark.parametrize("width", [2, 12])
@pytest.mark.parametrize("stepping", STEPPINGS)
@pytest.mark.parametrize("method", ["tsit5", "dopri5"])
def test_discrete_equals_autograd_through_the_steps(stepping, method, width):
    """Width 2 sweeps over all steps together, width 12 step by step."""
    expected = gradients("direct", stepping, method, width)
    got = gradients("discrete", stepping, method, width)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("stepping", STEPPINGS)
def test_linear_system_has_the_gradient_of_the_matrix_exponential(stepping):
    matrix = torch.tensor([[-0.3, 1.0], [-1.0, -0.1]], dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0, 0.5], [0.2, -1.0]], dtype=F64, requires_grad=True)
    t = torch.tensor([0.0, 0.7, 1.5], dtype=F64)
    weight = torch.tensor([1.0, -0.4, 2.0], dtype=F64).reshape(1, 3, 1)

    def loss_of(y):
        return (weight * y).pow(2).sum()

    y = solve_ode(lambda s, y: y @ matrix.T, y0, t, stepping=stepping, dt0=0.005, **TIGHT).y
    exact = torch.stack([y0 @ torch.linalg.matrix_exp(s * matrix).T for s in t], dim=1)
    got = torch.autograd.grad(loss_of(y), [matrix, y0])
    expected = torch.autograd.grad(loss_of(exact), [matrix, y0])
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("stepping", STEPPINGS)
def test_gradcheck_of_first_and_second_order(stepping):
    y0 = torch.tensor([[1.0, 0.5], [0.3, -0.2]], dtype=F64, requires_grad=True)
    a = torch.tensor([0.5, 1.5], dtype=F64, requires_grad=True)

    # fixed grids: finite differences must not move the steps, which are constants of the gradient
    def solve(y0, a):
        grid = {"dt0": 0.25} if stepping == "fixed" else {"dt0": 0.25, "dt_max": 0.25, "rtol": 1.0, "atol": 1.0}
        return solve_ode(
            lambda t, y, a: a * torch.sin(y).flip(-1), y0, [0.0, 0.6, 1.0], args=a, stepping=stepping, **grid
        ).y

    assert torch.autograd.gradcheck(solve, (y0, a))
    assert torch.autograd.gradgradcheck(solve, (y0, a))


def test_closed_over_leaves_and_results_of_other_networks():
    encoder = torch.nn.Linear(3, 2).to(F64)
    scale = torch.tensor(0.8, dtype=F64, requires_grad=True)
    context = encoder(torch.ones(4, 3, dtype=F64))
    y0 = torch.zeros(4, 2, dtype=F64)
    y = solve_ode(lambda t, y: scale * context - y, y0, [0.0, 1.0], **TIGHT).y[:, -1]
    # y(1) = scale * context * (1 - 1/e)
    y.sum().backward()
    share = 1 - math.exp(-1)
    assert scale.grad.item() == pytest.approx(share * context.sum().item(), rel=1e-8)
    torch.testing.assert_close(encoder.bias.grad, torch.full((2,), 4 * 0.8 * share, dtype=F64), rtol=1e-8, atol=1e-8)


def test_gradient_of_times():
    t = torch.tensor([0.0, 0.5, 1.2], dtype=F64, requires_grad=True)
    y = solve_ode(lambda s, y: -y * torch.cos(s), torch.ones(1, 1, dtype=F64), t, **TIGHT).y
    y[0, :, 0].sum().backward()
    # y(t) = exp(sin t0 - sin t)
    value = torch.exp(-torch.sin(t.detach()))
    slope = -value * torch.cos(t.detach())
    expected = torch.tensor([value[1:].sum(), slope[1], slope[2]], dtype=F64)
    torch.testing.assert_close(t.grad, expected, rtol=1e-7, atol=1e-8)


def test_samples_that_interact_are_differentiated_with_their_coupling():
    y0 = torch.tensor([[1.0], [2.0], [4.0]], dtype=F64, requires_grad=True)
    mix = torch.tensor([[-1.0, 0.5, 0.0], [0.2, -1.0, 0.3], [0.4, 0.0, -0.5]], dtype=F64)
    y = solve_ode(lambda t, y: mix @ y, y0, [0.0, 1.0], **TIGHT).y[:, -1, 0]
    (grad,) = torch.autograd.grad(y[0], y0)
    torch.testing.assert_close(grad[:, 0], torch.linalg.matrix_exp(mix)[0], rtol=1e-8, atol=1e-9)


def test_a_failed_sample_has_no_gradient_and_spoils_none():
    rate = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[0.1], [2.0]], dtype=F64, requires_grad=True)
    solution = solve_ode(lambda t, y: rate * y * y, y0, [0.0, 1.0], stepping="per_sample", on_failure="return", **TIGHT)
    assert solution.status == (Status.SUCCESS, Status.BLOW_UP)
    assert torch.isnan(solution.y[1, -1]).all()
    solution.y[:, -1].nan_to_num().sum().backward()
    # y(1) = y0 / (1 - rate y0): derivatives y0² / (1 - y0)² and 1 / (1 - y0)²
    assert rate.grad.item() == pytest.approx(0.01 / 0.81, rel=1e-7)
    assert y0.grad[:, 0].tolist() == pytest.approx([1 / 0.81, 0.0], rel=1e-7)


@pytest.mark.parametrize("width", [2, 3])
def test_complex_states_have_complex_gradients(width):
    def loss(adjoint):
        torch.manual_seed(1)
        h = torch.randn(width, width, dtype=torch.complex128)
        h = (h + h.mH).requires_grad_()
        y0 = torch.randn(1, width, dtype=torch.complex128, requires_grad=True)
        y = solve_ode(lambda t, y: -1j * (y @ h.T), y0, [0.0, 0.5, 1.0], adjoint=adjoint).y
        return torch.autograd.grad((y.real**2 + 0.3 * y.imag).sum(), [h, y0])

    for a, b in zip(loss("discrete"), loss("direct"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("system", "span"), [(LotkaVolterra(), 5.0), (VanDerPol(2.0), 3.0)])
def test_same_gradient_as_torchdiffeq(system, span):
    torchdiffeq = pytest.importorskip("torchdiffeq")
    theta = system.theta().requires_grad_()
    y0 = torch.tensor([system.initial], dtype=F64)
    t = torch.linspace(0.0, span, 6, dtype=F64)
    ours = solve_ode(system, y0, t, args=theta, **TIGHT).y
    theirs = torchdiffeq.odeint(lambda s, y: system(s, y, theta), y0, t, method="dopri5", **TIGHT).transpose(0, 1)
    (got,) = torch.autograd.grad(ours.square().sum(), theta)
    (expected,) = torch.autograd.grad(theirs.square().sum(), theta)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_records_are_states_times_and_sizes_and_nothing_else():
    """The graph of the discrete adjoint holds N · batch · (D + 2) numbers beside inputs and outputs."""
    batch, width = 64, 4
    y0 = torch.randn(batch, width, dtype=F64, generator=torch.Generator().manual_seed(0))
    rate = torch.tensor(3.0, dtype=F64, requires_grad=True)
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        solution = solve_ode(lambda t, y: rate * torch.cos(y), y0, [0.0, 5.0], stepping="per_sample", rtol=1e-9)
    outside = solution.y.numel() + y0.numel() + 1
    distinct = {x.data_ptr(): x.untyped_storage().nbytes() // x.element_size() for x in kept}
    steps = max(solution.stats.n_accepted)
    expected = int(steps) * batch * (width + 2)
    assert steps > 30
    assert sum(distinct.values()) - outside == pytest.approx(expected, rel=0.05)


def test_training_does_not_hold_on_to_memory():
    import gc

    net = torch.nn.Linear(2, 2).to(F64)

    def train():
        y = solve_ode(lambda t, y: torch.tanh(net(y)), torch.ones(1, 2, dtype=F64), [0.0, 1.0]).y
        y.sum().backward()

    def alive():
        gc.collect()
        return sum(isinstance(x, torch.Tensor) for x in gc.get_objects())

    train()
    before = alive()
    for _ in range(20):
        train()
    assert alive() == before

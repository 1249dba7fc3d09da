"""Rates and states of half precision, autocast, and complex states under every adjoint."""

import math

import pytest
import torch

from scidyn.errors import OptionError, ShapeError
from scidyn.solvers import SplitField, solve_ode

F64 = torch.float64
Y0 = torch.tensor([[1.0, 0.5], [0.3, -1.0]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["tsit5", "rk4"])
def test_rates_of_half_precision_are_brought_to_the_state(dtype, method):
    rate = torch.tensor(0.7, requires_grad=True)
    solution = solve_ode(
        lambda t, y: (-rate * y).to(dtype), Y0, [0.0, 1.0], method=method, dt0=0.05, rtol=1e-2, atol=1e-2
    )
    assert solution.y.dtype == torch.float32
    torch.testing.assert_close(solution.y[:, 1], Y0 * math.exp(-0.7), rtol=1e-2, atol=1e-2)
    solution.y[0, 1, 0].backward()
    assert rate.grad.item() == pytest.approx(-math.exp(-0.7), rel=2e-2)


def test_autocast_is_for_f_alone_and_kept_for_the_gradient():
    generator = torch.Generator().manual_seed(0)
    net = torch.nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.copy_(torch.randn(2, 2, generator=generator))
        net.bias.zero_()
    seen = set()

    def f(t, y):
        value = net(y)
        seen.add((value.dtype, torch.is_autocast_enabled("cpu")))
        return value

    options = {"rtol": 1e-2, "atol": 1e-2, "dt0": 0.1, "stepping": "fixed"}
    with torch.autocast("cpu", torch.bfloat16):
        y = solve_ode(f, Y0, [0.0, 0.5], **options).y
        assert torch.is_autocast_enabled("cpu")
        structured = solve_ode(lambda t, y: {"a": f(t, y["a"])}, {"a": Y0}, [0.0, 0.5], **options).y["a"]
    assert y.dtype == structured.dtype == torch.float32
    assert torch.equal(y, structured)
    y.square().sum().backward()
    # the sweep evaluates f as the solve did
    assert seen == {(torch.bfloat16, True)}
    got = net.weight.grad.clone()
    net.weight.grad = None
    solve_ode(lambda t, y: net(y), Y0, [0.0, 0.5], **options).y.square().sum().backward()
    torch.testing.assert_close(got, net.weight.grad, rtol=3e-2, atol=3e-2)
    assert not torch.equal(got, net.weight.grad)


def test_fields_in_parts_enter_autocast_themselves():
    field = SplitField(lambda t, y: -y, lambda t, y: -y)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(OptionError, match="inside its parts"):
        solve_ode(field, Y0, [0.0, 1.0], method="kencarp4")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [{"stepping": "fixed", "dt0": 0.1}, {"rtol": 1e-2, "atol": 1e-2}])
@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
def test_states_of_half_precision(dtype, options, stepping):
    y0 = Y0.to(dtype).requires_grad_()
    # the small coefficients of bosh3 keep rounding small, those of tsit5 are up to fifty
    options = options if "dt0" in options else options | {"stepping": stepping, "method": "bosh3"}
    y = solve_ode(lambda t, y: -y, y0, [0.0, 1.0], **options).y
    assert y.dtype == dtype
    torch.testing.assert_close(y[:, 1].float(), Y0 * math.exp(-1.0), rtol=3e-2, atol=2e-2)
    (gradient,) = torch.autograd.grad(y[:, 1].sum(), y0)
    torch.testing.assert_close(gradient.float(), torch.full((2, 2), math.exp(-1.0)), rtol=3e-2, atol=2e-2)


@pytest.mark.parametrize("options", [{}, {"rtol": 1e-3}])
def test_half_precision_needs_loose_tolerances(options):
    with pytest.raises(ShapeError, match="fixed steps, or rtol of at least"):
        solve_ode(lambda t, y: -y, Y0.bfloat16(), [0.0, 1.0], **options)


ADJOINTS = {"discrete": 1e-7, "direct": 1e-7, "reversible": 1e-5, "backsolve": 1e-5, "interpolating": 1e-5}


@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
def test_complex_states_under_every_adjoint(adjoint, stepping):
    rate = torch.tensor([0.3 + 1.1j, -0.5 - 0.4j], dtype=torch.complex128, requires_grad=True)
    y0 = torch.tensor([[1.0 + 0.5j, -0.2j], [0.4, 1.0 - 1.0j]], dtype=torch.complex128, requires_grad=True)
    t = torch.tensor([0.0, 0.3, 0.6], dtype=F64)
    y = solve_ode(lambda t, y: rate * y, y0, t, adjoint=adjoint, stepping=stepping, rtol=1e-8, atol=1e-9).y
    exact = y0.unsqueeze(1) * torch.exp(rate * t[:, None])
    for got, want in zip(
        torch.autograd.grad(y.abs().square().sum() + y[:, 1].real.sum() - y[:, 2].imag.sum(), [rate, y0]),
        torch.autograd.grad(exact.abs().square().sum() + exact[:, 1].real.sum() - exact[:, 2].imag.sum(), [rate, y0]),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=ADJOINTS[adjoint], atol=10 * ADJOINTS[adjoint])

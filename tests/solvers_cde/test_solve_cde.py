"""Controlled equations: closed forms, log-ODE orders, ragged rows, gradients, torchcde's names."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from scidyn.errors import OptionError, ShapeError, TimeGridError
from scidyn.solvers import HermiteCubicPath, LinearPath, RectilinearPath, log_signature, solve_cde, with_time
from scidyn.solvers.compat import cde as torchcde

F64 = torch.float64


def curve(knots):
    t = torch.linspace(0, 1, knots, dtype=F64)
    x = torch.stack([torch.sin(9 * t), torch.cos(7 * t) * t], -1).unsqueeze(0)
    return with_time(x, t), t


def field():
    torch.manual_seed(0)
    A = torch.randn(3, 3, 3, dtype=F64, requires_grad=True)
    return A, lambda t, z: torch.tanh(torch.einsum("hkc,bk->bhc", A, z))


Z0 = torch.tensor([[0.5, -1.0, 0.3]], dtype=F64)


@pytest.mark.parametrize("kind", [LinearPath, HermiteCubicPath])
def test_exponential_of_the_path(kind):
    x, t = curve(20)
    path = kind(x[..., 1:2], t)
    step = {"dt": 0.01} if path.kinked else {"rtol": 1e-8, "atol": 1e-10}
    s = solve_cde(lambda t, z: z.unsqueeze(-1), path, torch.ones(1, 1, dtype=F64), [0.0, 0.37, 1.0], **step)
    for i, time in enumerate((0.0, 0.37, 1.0)):
        exact = torch.exp(path.evaluate(time) - path.evaluate(0.0))
        assert_close(s.y[:, i], exact, rtol=1e-5, atol=0)


def test_routes_agree():
    x, t = curve(9)
    _, f = field()
    path = HermiteCubicPath(x, t)
    a = solve_cde(f, path, Z0, rtol=1e-9, atol=1e-11, adjoint=None).y
    b = solve_cde(f, path, Z0, route="increments", method="heun", dt=5e-4, adjoint=None).y
    assert_close(a, b, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("depth", "order"), [(1, 1.5), (2, 2.7)])
def test_log_ode_converges(depth, order):
    x, t = curve(257)
    _, f = field()
    path = LinearPath(x, t)
    exact = solve_cde(f, path, Z0, dt=0.002, adjoint=None).y[:, -1]
    errors = [
        (solve_cde(f, path, Z0, route="log_ode", depth=depth, window=w, adjoint=None).y[:, -1] - exact).abs().max()
        for w in (64, 32, 16, 8)
    ]
    assert math.log2(errors[0] / errors[-1]) / 3 > order, errors


def test_log_signature_of_known_paths():
    line = torch.tensor([[[0.0, 0.0], [0.3, 0.6], [1.0, 2.0]]], dtype=F64)
    one, two, three = log_signature(line, 3)
    assert_close(one, torch.tensor([[1.0, 2.0]], dtype=F64))
    assert two.abs().max() < 1e-12
    assert three.abs().max() < 1e-12
    # two straight pieces a, b: ½ [a, b] and ([a, [a, b]] + [b, [b, a]]) / 12, the Baker–Campbell–Hausdorff formula
    a, b = torch.tensor([1.0, 0.5], dtype=F64), torch.tensor([-0.3, 2.0], dtype=F64)
    _, two, three = log_signature(torch.stack([0 * a, a, a + b]).unsqueeze(0), 3)

    def outer(x, y):
        return torch.tensordot(x, y, dims=0)

    ab = outer(a, b) - outer(b, a)
    assert_close(two[0], ab / 2)
    assert_close(three[0], (outer(a, ab) - outer(ab, a) - outer(b, ab) + outer(ab, b)) / 12)


@pytest.mark.parametrize(
    "options", [{"dt": 0.01}, {"route": "log_ode", "depth": 2, "window": 2}, {"route": "log_ode", "depth": 3}]
)
def test_discrete_equals_direct_for_parameters_and_data(options):
    x, t = curve(17)
    A, f = field()
    grads = []
    for adjoint in ("direct", "discrete"):
        data = x.clone().requires_grad_()
        y = solve_cde(f, LinearPath(data, t), Z0, adjoint=adjoint, **options).y
        grads.append(torch.autograd.grad(y.square().sum(), [A, data]))
    for a, b in zip(*grads, strict=True):
        assert (a - b).abs().max() <= 1e-10 * a.abs().max()


def test_ragged_rows_stand_still_after_their_end():
    nan = float("nan")
    t = torch.tensor([[0.0, 1, 2, 3], [0, 0.5, nan, nan]], dtype=F64)
    g = torch.Generator().manual_seed(0)
    x, z0 = torch.randn(2, 4, 2, generator=g, dtype=F64), torch.randn(2, 3, generator=g, dtype=F64)
    _, f = field()
    y = solve_cde(f, LinearPath(with_time(x, t), t), z0, [0.0, 0.5, 3.0], dt=0.05, adjoint=None).y
    alone = LinearPath(with_time(x[1:, :2], t[1:, :2]), t[1:, :2])
    short = solve_cde(f, alone, z0[1:], [0.0, 0.5], dt=0.05, adjoint=None).y
    assert_close(y[1, 1], short[0, -1])
    assert torch.equal(y[1, 2], y[1, 1])


def test_rectilinear_path_is_causal():
    x, _ = curve(9)
    _, f = field()
    changed = x.clone()
    changed[:, 6:, 1:] += 1.0
    ends = []
    for data in (x, changed):
        path = RectilinearPath(data)
        ends.append(solve_cde(f, path, Z0, path.observation_knots, adjoint=None).y)
    assert torch.equal(ends[0][:, :6], ends[1][:, :6])
    assert not torch.allclose(ends[0][:, 6], ends[1][:, 6])


def test_bad_input():
    x, t = curve(9)
    _, f = field()
    with pytest.raises(OptionError, match="no channel of the path rises with time"):
        solve_cde(lambda t, z: f(t, z)[..., :1], LinearPath(x[..., 1:2], t), Z0, route="log_ode")
    with pytest.raises(ShapeError, match="a matrix per row is needed"):
        solve_cde(lambda t, z: z, LinearPath(x, t), Z0)
    with pytest.raises(ShapeError, match="to fit the path's 1 rows"):
        solve_cde(f, LinearPath(x, t), Z0.repeat(2, 1))
    with pytest.raises(TimeGridError, match="stay inside it"):
        solve_cde(f, LinearPath(x, t), Z0, [0.0, 2.0])
    with pytest.raises(OptionError, match="must be a ControlPath"):
        solve_cde(f, x, Z0)


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4 * 3)

    def forward(self, t, z):
        return torch.tanh(self.linear(z)).view(z.shape[0], 4, 3)


def test_readme_example_of_torchcde():
    torch.manual_seed(0)
    batch, length, channels = 2, 10, 2
    t = torch.linspace(0, 1, length).reshape(1, length, 1).repeat(batch, 1, 1)
    x = torch.cat([t, torch.rand(batch, length, channels)], dim=2)
    coeffs = torchcde.hermite_cubic_coefficients_with_backward_differences(x)
    X = torchcde.CubicSpline(coeffs)
    func = Field()
    z0 = torch.rand(batch, 4)
    z = torchcde.cdeint(X=X, func=func, z0=z0, t=X.interval)
    assert z.shape == (batch, 2, 4)
    z[:, -1].sum().backward()
    assert func.linear.weight.grad.abs().max() > 0
    for other in (
        torchcde.CubicSpline(torchcde.natural_cubic_coeffs(x)),
        torchcde.LinearInterpolation(torchcde.linear_interpolation_coeffs(x)),
    ):
        assert_close(other.evaluate(other.grid_points)[:, 3], x[:, 3], rtol=0, atol=1e-5)
        assert torchcde.cdeint(X=other, func=func, z0=z0, t=X.interval, adjoint=False).shape == (batch, 2, 4)

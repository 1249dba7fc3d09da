"""Methods for fields in parts: IMEX, exponential, symplectic, and the stabilised explicit one."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from scidyn.errors import OptionError, ShapeError
from scidyn.solvers import SemilinearField, SeparableField, SplitField, phi_functions, solve_ode
from scidyn.solvers.linear import LinearAlgebra
from scidyn.solvers.methods import METHODS
from scidyn.solvers.methods.imex import AdditiveESDIRK
from scidyn.solvers.methods.stabilised import RKC2

F64 = torch.float64


def scipy_reference(f, y0, end):
    def rate(t, y):
        return f(torch.tensor(t, dtype=F64), torch.as_tensor(y)).numpy()

    return solve_ivp(rate, (0, end), y0, "DOP853", rtol=3e-14, atol=1e-15).y[:, -1]


def slope(solve, exact, counts):
    coarse, fine = (np.abs(solve(n) - exact).max() for n in counts)
    return np.log2(coarse / fine)


def forced_parts():
    def explicit(t, y):
        return torch.stack([torch.sin(3 * t) * y[..., 1], torch.cos(t) * y[..., 0] * y[..., 1]], dim=-1)

    def implicit(t, y):
        return torch.stack([-0.5 * y[..., 0] ** 2, -3 * torch.cos(t) * y[..., 1]], dim=-1)

    return SplitField(explicit, implicit)


def test_kencarp4_has_order_four_on_both_parts():
    field, y0 = forced_parts(), [1.0, 2.0]
    exact = scipy_reference(field, y0, 2.0)

    def solve(n):
        options = {"stepping": "fixed", "dt0": 2.0 / n, "rtol": 1e-12, "atol": 1e-13, "adjoint": None}
        return (
            solve_ode(field, torch.tensor([y0], dtype=F64), [0.0, 2.0], method="kencarp4", **options).y[0, -1].numpy()
        )

    assert abs(slope(solve, exact, (64, 128)) - 4) < 0.15


@pytest.mark.parametrize("algebra", [LinearAlgebra(), LinearAlgebra("banded", (1, 1))], ids=lambda a: a.linear_solver)
def test_kencarp4_on_reaction_and_diffusion(algebra):
    cells = 60

    def diffusion(t, y):
        wide = torch.nn.functional.pad(y, (1, 1))
        return 0.05 * (cells + 1) ** 2 * (wide[..., 2:] - 2 * y + wide[..., :-2])

    field = SplitField(lambda t, y: y * (1 - y), diffusion)
    x = np.arange(1, cells + 1) / (cells + 1)
    y0 = np.sin(np.pi * x) + 0.3 * np.sin(5 * np.pi * x)

    def rate(t, y):
        return field(t, torch.as_tensor(y)).numpy()

    exact = solve_ivp(rate, (0, 2), y0, "Radau", rtol=1e-10, atol=1e-12).y[:, -1]
    method = AdditiveESDIRK(algebra=algebra)
    got = solve_ode(field, torch.tensor(y0)[None], [0.0, 2.0], method=method, rtol=1e-6, atol=1e-8, adjoint=None)
    np.testing.assert_allclose(got.y[0, -1].numpy(), exact, rtol=2e-5, atol=1e-7)
    assert got.stats.n_steps.item() < 80


def test_kencarp4_gradient():
    theta = torch.tensor([0.7, 30.0], dtype=F64, requires_grad=True)
    y = torch.tensor([[0.3, 1.2]], dtype=F64, requires_grad=True)
    t, h = torch.zeros(1, dtype=F64), torch.full((1,), 0.2, dtype=F64)

    def step(y, theta):
        field = SplitField(lambda t, y: theta[0] * y.flip(-1) ** 2, lambda t, y: -theta[1] * torch.sin(y))
        return METHODS["kencarp4"].replay(field, t, h, y).y1

    assert torch.autograd.gradcheck(step, (y, theta), atol=1e-6)
    assert torch.autograd.gradgradcheck(step, (y, theta), atol=1e-5)


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.complex128])
def test_phi_functions_against_the_matrix_exponential(dtype):
    values = [0.0, 1e-9, -1e-4, 0.3, -2.0, 5.0, -40.0, -1e5]
    if dtype.is_complex:
        values = [1j * v for v in (1e-9, 0.4, 30.0)] + [-1 + 2j]
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    for value in values:
        # the first row of the exponential of an augmented matrix holds the functions
        matrix = np.diag(np.ones(3), 1).astype(complex)
        matrix[0, 0] = value
        row = expm(matrix)[0]
        got = phi_functions(torch.tensor(value, dtype=dtype), 3)
        for k in range(1, 4):
            assert abs(got[k].item() - row[k]) < tolerance * max(abs(row[k]), 1e-12), (value, k)
    z = torch.tensor([-1.0, 0.1, 2.0], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: torch.stack(phi_functions(z, 3)), z)


def test_etdrk4_has_order_four_and_solves_the_linear_part_exactly():
    diagonal = torch.tensor([-1.0, -30.0], dtype=F64)
    field = SemilinearField(diagonal, lambda t, y: torch.cos(t) * y.flip(-1) - 0.1 * y**2)
    y0 = [1.0, 0.5]
    exact = scipy_reference(field, y0, 1.0)

    def solve(n):
        options = {"dt0": 1.0 / n, "adjoint": None}
        return solve_ode(field, torch.tensor([y0], dtype=F64), [0.0, 1.0], method="etdrk4", **options).y[0, -1].numpy()

    assert abs(slope(solve, exact, (48, 96)) - 4) < 0.15
    linear = SemilinearField(torch.tensor([-1e6, 2.0], dtype=F64), lambda t, y: torch.zeros_like(y))
    one = solve_ode(linear, torch.ones(1, 2, dtype=F64), [0.0, 1.0], method="etdrk4", adjoint=None).y[0, -1]
    torch.testing.assert_close(one, torch.tensor([0.0, math.exp(2.0)], dtype=F64), rtol=1e-13, atol=1e-300)


def test_etdrk4_on_kuramoto_sivashinsky():
    """The spectral problem of Kassam and Trefethen, against SciPy's Radau on real and imaginary parts."""
    modes, end = 32, 5.0
    k = torch.fft.rfftfreq(modes, d=1 / modes).to(F64) / 4

    def nonlinear(t, v):
        u = torch.fft.irfft(v, n=modes)
        return -0.5j * k * torch.fft.rfft(u * u)

    diagonal = k**2 - k**4
    x = 8 * math.pi * torch.arange(1, modes + 1, dtype=F64) / modes
    y0 = torch.fft.rfft(torch.cos(x / 4) * (1 + torch.sin(x / 4)))
    field = SemilinearField(diagonal, nonlinear)

    def rate(t, y):
        v = torch.view_as_complex(torch.as_tensor(y).reshape(-1, 2))
        return torch.view_as_real(field(t, v)).reshape(-1).numpy()

    start = torch.view_as_real(y0).reshape(-1).numpy()
    exact = solve_ivp(rate, (0, end), start, "LSODA", rtol=1e-11, atol=1e-12).y[:, -1]
    got = solve_ode(field, y0[None], [0.0, end], method="etdrk4", dt0=0.02, adjoint=None).y[0, -1]
    np.testing.assert_allclose(torch.view_as_real(got).reshape(-1).numpy(), exact, atol=2e-6 * np.abs(exact).max())


def test_etdrk4_gradient_reaches_the_linear_part():
    diagonal = torch.tensor([-1.0, -3.0], dtype=F64, requires_grad=True)
    y0 = torch.tensor([[0.4, 0.6]], dtype=F64, requires_grad=True)

    def end(diagonal, y0):
        field = SemilinearField(diagonal, lambda t, y: -(y**2))
        return solve_ode(field, y0, [0.0, 0.5], method="etdrk4", dt0=0.1, adjoint="direct").y[:, -1]

    assert torch.autograd.gradcheck(end, (diagonal, y0))


PENDULUM = SeparableField(lambda t, p: p, lambda t, q: -torch.sin(q))


@pytest.mark.parametrize("method", ["velocity_verlet", "yoshida4"])
def test_symplectic_order(method):
    y0 = [1.2, 0.3]
    exact = scipy_reference(PENDULUM, y0, 5.0)

    def solve(n, field=PENDULUM):
        options = {"dt0": 5.0 / n, "adjoint": None}
        return solve_ode(field, torch.tensor([y0], dtype=F64), [0.0, 5.0], method=method, **options).y[0, -1].numpy()

    assert abs(slope(solve, exact, (100, 200)) - METHODS[method].order) < 0.15
    whole = solve(100, lambda t, y: PENDULUM(t, y))
    np.testing.assert_allclose(whole, solve(100), rtol=1e-13)
    # a step back undoes a step: the methods are symmetric
    there = torch.tensor(solve(100))[None]
    back = solve_ode(PENDULUM, there, [5.0, 0.0], method=method, dt0=0.05, adjoint=None).y[0, -1]
    np.testing.assert_allclose(back.numpy(), y0, atol=1e-12)


@pytest.mark.parametrize("steps", [12_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_energy_stays_bounded_over_many_kepler_steps(steps):
    """Orbits of eccentricity 0 to 0.5: the energy error does not grow."""
    eccentricity = torch.tensor([0.0, 0.1, 0.3, 0.5], dtype=F64)
    zero = torch.zeros_like(eccentricity)
    y = torch.stack([1 - eccentricity, zero, zero, ((1 + eccentricity) / (1 - eccentricity)).sqrt()], dim=-1)

    def force(t, q):
        return -q / (q * q).sum(-1, keepdim=True) ** 1.5

    def energy(y):
        q, p = y.chunk(2, dim=-1)
        return 0.5 * (p * p).sum(-1) - 1 / (q * q).sum(-1).sqrt()

    field, method = SeparableField(lambda t, p: p, force), METHODS["velocity_verlet"]
    t, h = torch.zeros(1, dtype=F64), torch.full((1,), 2 * math.pi / 200, dtype=F64)
    carry, early, late = method.begin(field, t, y, field(t, y)), [], []
    with torch.no_grad():
        for n in range(steps):
            taken = method.step(field, t, h, y, carry, None)
            y, carry = taken.y1, taken.carry
            if n % 37 == 0:
                (early if n < steps // 5 else late).append((energy(y) + 0.5).abs())
    early, late = torch.stack(early).amax(0), torch.stack(late).amax(0)
    assert (late <= 1.05 * early + 1e-12).all()
    assert (early < 0.02).all()


def heat(cells):
    def f(t, y):
        wide = torch.nn.functional.pad(y, (1, 1))
        return (cells + 1) ** 2 * (wide[..., 2:] - 2 * y + wide[..., :-2])

    return f


@pytest.mark.parametrize("stepping", ["per_sample", "shared"])
def test_rkc2_takes_long_steps_on_diffusion(stepping):
    cells = 60
    x = torch.arange(1, cells + 1, dtype=F64) / (cells + 1)
    y0 = torch.stack([torch.sin(math.pi * x), torch.sin(2 * math.pi * x) + 0.1 * torch.sin(30 * math.pi * x)])
    options = {"rtol": 1e-4, "atol": 1e-6, "stepping": stepping, "adjoint": None}
    got = solve_ode(heat(cells), y0, [0.0, 0.2], method="rkc2", **options)
    exact = math.exp(-4 * (cells + 1) ** 2 * 0.2 * math.sin(math.pi / (2 * (cells + 1))) ** 2) * y0[0]
    torch.testing.assert_close(got.y[0, -1], exact, rtol=1e-3, atol=1e-5)
    # Tsit5 is held at h = 3.5 / 4 (cells + 1)^2, which makes 851 steps
    assert got.stats.n_steps.max() < 200
    fixed = solve_ode(heat(cells), y0, [0.0, 0.2], method=RKC2(stages=20), **options)
    torch.testing.assert_close(fixed.y[0, -1], exact, rtol=1e-3, atol=1e-5)


def test_rkc2_samples_choose_their_own_stages():
    y0 = torch.ones(3, 1, dtype=F64)
    rates = torch.tensor([[1.0], [300.0], [3e3]], dtype=F64)
    options = {"method": "rkc2", "stepping": "per_sample", "adjoint": None, "rtol": 1e-5, "atol": 1e-7}
    together = solve_ode(lambda t, y: -rates * (y - torch.cos(t)[:, None]), y0, [0.0, 2.0], **options)
    for i in range(3):
        alone = solve_ode(lambda t, y, i=i: -rates[i] * (y - torch.cos(t)[:, None]), y0[:1], [0.0, 2.0], **options)
        assert torch.equal(alone.y[0], together.y[i])
    forced = (rates**2 * math.cos(2) + rates * math.sin(2)) / (rates**2 + 1)
    exact = forced + (1 - rates**2 / (rates**2 + 1)) * torch.exp(-2 * rates)
    torch.testing.assert_close(together.y[:, -1], exact, rtol=5e-4, atol=1e-5)


def test_fields_of_the_wrong_kind_are_refused():
    y0 = torch.ones(1, 3, dtype=F64)
    with pytest.raises(OptionError, match="SplitField"):
        solve_ode(lambda t, y: -y, y0, [0.0, 1.0], method="kencarp4", adjoint=None)
    with pytest.raises(OptionError, match="SemilinearField"):
        solve_ode(lambda t, y: -y, y0, [0.0, 1.0], method="etdrk4", adjoint=None)
    with pytest.raises(ShapeError, match="two equal halves"):
        solve_ode(lambda t, y: -y, y0, [0.0, 1.0], method="yoshida4", adjoint=None)

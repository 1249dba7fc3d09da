"""Gradients of both adjoints against each other, closed forms and finite differences."""

import gc
import math
import weakref

import pytest
import torch

from scidyn.errors import OptionError
from scidyn.solvers import solve_ode
from scidyn.solvers.adjoint import discrete, together

F64 = torch.float64
TIMES = torch.linspace(0, 3, 7, dtype=F64)
MODES = [("tsit5", "shared", None), ("dopri5", "per_sample", None), ("tsit5", "fixed", 0.1), ("rk4", "fixed", 0.1)]


class Problem:
    """A network with time as input, a closed-over computed matrix and an argument, on three samples."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.network = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).to(F64)
        for p in self.network.parameters():
            p.data = 0.5 * torch.randn(p.shape, dtype=F64, generator=generator)
        self.leaf = torch.randn(2, 2, dtype=F64, generator=generator).requires_grad_()
        self.argument = torch.tensor(0.3, dtype=F64, requires_grad=True)
        self.y0 = torch.randn(3, 2, dtype=F64, generator=generator).requires_grad_()
        self.t = TIMES.clone().requires_grad_()
        self.inputs = [self.y0, self.argument, self.leaf, self.t, *self.network.parameters()]

    def gradient(self, **options):
        computed = 2 * self.leaf

        def f(t, y, a):
            time = t.reshape(-1, 1).expand(len(y), 1)
            return self.network(torch.cat([y, time], -1)) + 0.1 * y @ computed + a * torch.sin(y)

        y = solve_ode(f, self.y0, self.t, args=self.argument, **options).y
        weight = torch.linspace(-1, 1, y.numel(), dtype=F64).reshape(y.shape)
        return torch.autograd.grad((weight * y + y**2).sum(), self.inputs)


def step_by_step(problem, steps):
    return False


@pytest.mark.parametrize("together_or_not", ["together", "step by step"])
@pytest.mark.parametrize(("method", "stepping", "dt0"), MODES)
def test_discrete_equals_direct(method, stepping, dt0, together_or_not, monkeypatch):
    options = {"method": method, "stepping": stepping, "dt0": dt0}
    problem = Problem()
    expected = problem.gradient(adjoint="direct", **options)
    if together_or_not == "step by step":
        monkeypatch.setattr(discrete, "worthwhile", step_by_step)
    else:
        monkeypatch.setattr(together, "ROWS", 15)  # several batches of steps
    for got, wanted in zip(problem.gradient(adjoint="discrete", **options), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


def test_samples_that_mix_are_noticed(monkeypatch):
    mix = torch.tensor([[-1.0, 0.4, 0.0], [0.1, -1.0, 0.3], [0.0, 0.2, -0.5]], dtype=F64, requires_grad=True)
    noticed = []

    class Noted(together.Coupled):
        def __init__(self):
            noticed.append(1)

    monkeypatch.setattr(together, "Coupled", Noted)
    monkeypatch.setattr(discrete, "Coupled", Noted)
    y0 = torch.tensor([[1.0], [2.0], [-1.0]], dtype=F64, requires_grad=True)
    found = {}
    for adjoint in ("direct", "discrete"):
        y = solve_ode(lambda t, y: torch.sin(mix @ y), y0, TIMES, adjoint=adjoint).y
        found[adjoint] = torch.autograd.grad((y[:, -1] ** 2).sum() + y[0].sum(), [mix, y0])
    assert noticed
    for got, wanted in zip(found["discrete"], found["direct"], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


def test_field_that_reads_values_is_swept_step_by_step():
    rate = torch.tensor(0.7, dtype=F64, requires_grad=True)

    def f(t, y):
        return -rate * y if y.sum().item() > -1e9 else y

    solve_ode(f, torch.ones(2, 1, dtype=F64), [0.0, 1.0], rtol=1e-10, atol=1e-12).y[:, -1].sum().backward()
    assert rate.grad.item() == pytest.approx(-2 * math.exp(-0.7), rel=1e-8)


@pytest.mark.parametrize("adjoint", ["discrete", "direct"])
@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
def test_linear_oracle(adjoint, stepping):
    a = torch.tensor([[-0.5, 2.0], [-1.0, -0.2]], dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0, 0.5], [0.3, -1.0]], dtype=F64, requires_grad=True)
    t = torch.tensor([0.2, 0.9, 1.7], dtype=F64, requires_grad=True)
    weight = torch.tensor([[[1.0, -2.0]], [[0.5, 3.0]]], dtype=F64)
    got = solve_ode(lambda s, y: y @ a.T, y0, t, rtol=1e-12, atol=1e-13, stepping=stepping, adjoint=adjoint).y
    exact = torch.einsum("tij,bj->bti", torch.linalg.matrix_exp((t - t[0]).reshape(-1, 1, 1) * a), y0)
    torch.testing.assert_close(got, exact, rtol=1e-9, atol=1e-10)
    inputs = [a, y0, t]
    for have, want in zip(
        torch.autograd.grad((got * weight).sum(), inputs),
        torch.autograd.grad((exact * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(have, want, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("adjoint", ["discrete", "direct"])
def test_finite_differences_first_and_second(adjoint):
    rate = torch.tensor([0.8, 1.3], dtype=F64, requires_grad=True)
    y0 = torch.tensor([[0.7], [1.2]], dtype=F64, requires_grad=True)
    t = torch.tensor([0.0, 0.6, 1.0], dtype=F64, requires_grad=True)

    def end(k, start, times):
        options = {"rtol": 1e-8, "atol": 1e-9, "dt0": 0.1, "adjoint": adjoint}
        return solve_ode(lambda s, y: -k[0] * torch.sin(y) + k[1] * s, start, times, **options).y[:, 1:]

    inputs = (rate, y0, t)
    assert torch.autograd.gradcheck(end, inputs, atol=1e-6, fast_mode=True)
    assert torch.autograd.gradgradcheck(end, inputs, atol=1e-5, fast_mode=True)


@pytest.mark.parametrize("twice", [False, True])
def test_a_tensor_and_another_computed_from_it_are_both_used(twice):
    leaf = torch.tensor(0.5, dtype=F64, requires_grad=True)
    y0 = torch.ones(1, 1, dtype=F64) * leaf
    found = {}
    for adjoint in ("direct", "discrete"):
        square = leaf**2
        y = solve_ode(
            lambda t, y, k: -k[0] * y + k[1] * torch.sin(y), y0, [0.0, 1.0], args=(leaf, square), adjoint=adjoint
        ).y[0, -1, 0]
        (first,) = torch.autograd.grad(y**2, leaf, create_graph=twice, retain_graph=True)
        found[adjoint] = torch.autograd.grad(first, leaf, retain_graph=True)[0] if twice else first
    assert found["discrete"].item() == pytest.approx(found["direct"].item(), rel=1e-11)


def test_failed_sample_has_no_gradient():
    rate = torch.tensor([1.0, 1.0, 1.0], dtype=F64, requires_grad=True)
    y0 = torch.tensor([[0.1], [2.0], [0.2]], dtype=F64, requires_grad=True)
    shared = torch.tensor(1.0, dtype=F64, requires_grad=True)
    solution = solve_ode(
        lambda t, y: shared * rate.unsqueeze(1) * y * y,
        y0,
        [0.0, 1.0],
        stepping="per_sample",
        rtol=1e-9,
        atol=1e-12,
        on_failure="return",
    )
    good = torch.tensor([0, 2])
    solution.y[:, -1].nan_to_num().sum().backward()
    start = y0.detach()[good, 0]
    torch.testing.assert_close(y0.grad[good, 0], 1 / (1 - start) ** 2, rtol=1e-7, atol=0)
    torch.testing.assert_close(rate.grad[good], start**2 / (1 - start) ** 2, rtol=1e-7, atol=0)
    torch.testing.assert_close(shared.grad, rate.grad[good].sum(), rtol=1e-12, atol=0)
    assert y0.grad[1].item() == rate.grad[1].item() == 0.0


def test_frozen_sample_with_infinite_slope_does_not_spoil_shared_parameters():
    shared = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[4.0], [1.0]], dtype=F64)
    solution = solve_ode(
        lambda t, y: -2 * shared * torch.sqrt(y), y0, [0.0, 0.5, 1.5], method="rk4", dt0=0.02, on_failure="return"
    )
    assert [s.success for s in solution.status] == [True, False]
    solution.y[0, -1].sum().backward()
    # y = (2 - t)^2 exactly, and dy/dk = -2 t (2 - t)
    assert shared.grad.item() == pytest.approx(-2 * 1.5 * 0.5, rel=1e-6)


def test_records_take_the_stated_memory_and_are_released():
    y0 = torch.ones(64, 5, dtype=F64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        saved: list[torch.Tensor] = []
        solution = solve_ode(lambda t, y: -y * torch.cos(20 * t).unsqueeze(-1), y0, [0.0, 10.0], stepping="per_sample")
    steps, batch, width = int(solution.stats.n_accepted.max()), 64, 5
    numbers = sum(x.numel() for x in saved if x.ndim >= 2 and len(x) >= steps)
    assert steps > 100
    assert numbers == pytest.approx(steps * batch * (width + 2), rel=0.05)
    alive = weakref.ref(saved[2])
    saved.clear()
    del solution
    assert gc.collect() >= 0
    assert alive() is None


def test_named_params_replace_the_search():
    used, hidden = (torch.tensor(x, dtype=F64, requires_grad=True) for x in (0.5, 1.5))
    y0 = torch.ones(1, 1, dtype=F64)

    def f(t, y):
        return -used * y if t < 0.5 else -hidden * y

    options = {"method": "rk4", "dt0": 0.01}
    y = solve_ode(f, y0, [0.0, 0.5, 1.0], params=[used, hidden], **options).y[0, -1, 0]
    by_used, by_hidden = torch.autograd.grad(y, [used, hidden])
    # the last stage of the step that ends at 0.5 already sees the second branch: first order in dt0
    assert by_used.item() == pytest.approx(-0.5 * math.exp(-1), rel=2e-2)
    assert by_hidden.item() == pytest.approx(-0.5 * math.exp(-1), rel=2e-2)
    with pytest.raises(OptionError, match="sequence of tensors"):
        solve_ode(f, y0, [0.0, 1.0], params=used)


def test_without_grad_or_adjoint_nothing_is_recorded():
    rate = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y0 = torch.ones(1, 1, dtype=F64)
    assert not solve_ode(lambda t, y: -rate * y, y0, [0.0, 1.0], adjoint=None).y.requires_grad
    with torch.no_grad():
        assert not solve_ode(lambda t, y: -rate * y, y0, [0.0, 1.0]).y.requires_grad
    assert solve_ode(lambda t, y: -rate * y, y0, [0.0, 1.0]).y.requires_grad


def test_gradients_with_padded_rows_of_times_and_backwards():
    rate = torch.tensor(0.4, dtype=F64, requires_grad=True)
    t = torch.tensor([[2.0, 1.0, 0.0], [2.0, 0.5, math.nan]], dtype=F64)
    y = solve_ode(lambda s, y: -rate * y, torch.ones(2, 1, dtype=F64), t, stepping="per_sample", rtol=1e-10).y
    kept = y[..., 0][~t.isnan()]
    assert bool(kept.isfinite().all())
    (got,) = torch.autograd.grad(kept.sum(), rate)
    gone = torch.tensor([0.0, 1.0, 2.0, 0.0, 1.5], dtype=F64)
    torch.testing.assert_close(got, (gone * torch.exp(0.4 * gone)).sum(), rtol=1e-8, atol=0)


def test_complex_states_have_gradients():
    rate = torch.tensor(0.3 + 1.1j, dtype=torch.complex128, requires_grad=True)
    y0 = torch.tensor([[1.0 + 0.5j]], dtype=torch.complex128, requires_grad=True)
    y = solve_ode(lambda t, y: rate * y, y0, [0.0, 1.0], rtol=1e-11, atol=1e-12).y[0, -1, 0]
    exact = y0[0, 0] * torch.exp(rate)
    for got, wanted in zip(
        torch.autograd.grad(y.abs() ** 2 + y.real, [rate, y0]),
        torch.autograd.grad(exact.abs() ** 2 + exact.real, [rate, y0]),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("adjoint", ["direct", "discrete"])
def test_padded_times_spoil_no_shared_gradient(adjoint):
    rate = torch.tensor(0.7, dtype=F64, requires_grad=True)
    t = torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.5, torch.nan]], dtype=F64)
    y0 = torch.ones(2, 1, dtype=F64)
    y = solve_ode(lambda s, y: -rate * y, y0, t, stepping="per_sample", adjoint=adjoint, rtol=1e-10, atol=1e-12).y
    (torch.where(torch.isnan(y), 0.0, y)).sum().backward()
    expected = -sum(s * math.exp(-0.7 * s) for s in (1.0, 2.0, 0.5))
    assert rate.grad.item() == pytest.approx(expected, rel=1e-7)

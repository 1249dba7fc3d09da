"""Generated programs agree with plain steps, are compiled once, and refuse what they cannot express."""

import math
import shutil

import pytest
import torch

from scidyn.errors import SolverError
from scidyn.solvers import solve_ode
from scidyn.solvers.arguments import prepare
from scidyn.solvers.generated import library, solve
from scidyn.solvers.generated.solve import generated_solver

pytestmark = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
F64 = torch.float64
BATCH = 11


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp()))


@pytest.fixture
def compiled(monkeypatch):
    """Names of the files that the compiler makes."""
    made, real = [], library._compile
    monkeypatch.setattr(library, "_compile", lambda source, path, level: made.append(path) or real(source, path, level))
    return made


def lotka_volterra(growth, death):
    def f(t, y):
        u, v = y.unbind(-1)
        return torch.stack([growth * u - u * v, death * (u * v - v)], dim=-1)

    return f


def start(batch=BATCH):
    return 0.5 + torch.rand(batch, 2, dtype=F64, generator=torch.Generator().manual_seed(0))


def is_generated(f, y0, t=(0.0, 1.0), method="tsit5", stepping="shared", **options):
    problem = prepare(f, y0, t, args=None, method=method, stepping=stepping, **({"rtol": 1e-6, "atol": 1e-9} | options))
    return generated_solver(problem, compile=True) is not None


@pytest.mark.parametrize("method", ["dopri5", "dopri8", "rodas5p"])
@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
def test_states_steps_and_gradients_equal_those_of_plain_steps(method, stepping):
    y0, t = start().requires_grad_(), torch.linspace(0, 6, 17)
    growth = (0.8 + 0.1 * torch.arange(BATCH, dtype=F64)).requires_grad_()

    def run(compile):
        options = {"method": method, "stepping": stepping, "rtol": 1e-7, "atol": 1e-9, "dense": True}
        solution = solve_ode(lotka_volterra(growth, 0.7), y0, t, compile=compile, **options)
        return solution, torch.autograd.grad((solution.y**2).sum(), (y0, growth))

    assert is_generated(lotka_volterra(growth.detach(), 0.7), y0.detach(), method=method, stepping=stepping)
    (fast, slopes), (plain, wanted) = run(True), run(False)
    torch.testing.assert_close(fast.y, plain.y, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(fast.dense([0.1, 3.3]), plain.dense([0.1, 3.3]), rtol=1e-8, atol=1e-9)
    for a, b in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)
    assert torch.equal(fast.stats.n_accepted, plain.stats.n_accepted)
    assert torch.equal(fast.stats.n_rejected, plain.stats.n_rejected)


def test_new_constants_times_tolerances_and_bounds_compile_nothing(compiled):
    def run(growth, death, end, **options):
        f, y0 = lotka_volterra(torch.full((BATCH,), growth, dtype=F64), death), start() + growth
        options |= {"stepping": "per_sample", "method": "bosh3"}
        fast, plain = (solve_ode(f, y0, [0.0, end], compile=c, **options).y for c in (True, False))
        torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-10)

    run(1.1, 0.7, 2.0)
    run(0.9, 0.8, 3.0, rtol=1e-4, atol=1e-5, dt0=0.01, dt_max=0.1, dt_min=1e-9)
    run(1.3, 0.6, 1.0, atol=torch.tensor([1e-6, 1e-7], dtype=F64), controller="pid", max_steps=999)
    assert len(compiled) == 1


def test_a_sample_does_not_depend_on_the_batch_bit_by_bit():
    f, options = lotka_volterra(1.1, 0.7), {"stepping": "per_sample", "compile": True, "method": "dopri5"}
    whole = solve_ode(f, start(), [0.0, 1.0, 9.0], **options).y
    for i in (0, 7):
        assert torch.equal(solve_ode(f, start()[i : i + 1], [0.0, 1.0, 9.0], **options).y[0], whole[i])
    assert torch.equal(solve_ode(f, start().flip(0), [0.0, 1.0, 9.0], **options).y.flip(0), whole)


def zoo(t, y):
    """Operations of many kinds; the state has shape (batch, 2, 3)."""
    a, b = y.chunk(2, dim=-2)
    matrix = torch.linspace(-1, 1, 9, dtype=y.dtype).reshape(3, 3)
    mixed = torch.einsum("bij,kj->bik", a, matrix) + torch.nn.functional.pad(b[..., 1:], (1, 0), value=0.3)
    first = torch.where(a > 0.5, torch.tanh(mixed), a.clamp(-0.2, 0.4)) * torch.exp(-b.square())
    time = t.reshape(-1, 1, 1) if t.ndim else t
    second = torch.sin(time) * torch.roll(b, 1, dims=-1) - y.mean(dim=-2, keepdim=True) + torch.sigmoid(a) ** 1.5
    out = torch.empty_like(y)
    out[:, 0] = first.squeeze(1)
    out[:, 1] = second.squeeze(1) / (1.0 + y.abs().amax(dim=(-1, -2))[:, None])
    out[:, 1] -= torch.nn.functional.softplus(y.transpose(-1, -2)[..., 0])
    return out


def test_operations_mean_what_they_mean_to_tensors():
    y0 = torch.linspace(-1, 1, 6 * BATCH, dtype=F64).reshape(BATCH, 2, 3)
    t = torch.linspace(0, 0.02, 3 * BATCH).reshape(BATCH, 3)
    t[:, 0], t[3, 2] = 0.0, torch.nan
    options = {"stepping": "per_sample", "dt_max": 1e-3}
    assert is_generated(zoo, y0, t, **options)
    fast, plain = (solve_ode(zoo, y0, t, compile=c, **options).y for c in (True, False))
    torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-11, equal_nan=True)


def test_what_one_sample_cannot_express_is_refused():
    square = torch.rand(BATCH, BATCH, dtype=F64, generator=torch.Generator().manual_seed(0))

    def changed(t, y):
        y *= 2.0
        return -y

    refused = {
        "mixes samples": lambda t, y: y - y.mean(dim=0),
        "mixes samples by a product": lambda t, y: square @ y,
        "orders samples": lambda t, y: y.flip(0),
        "reads a value": lambda t, y: -y if float(y.sum()) > 0 else y,
        "leaves torch": lambda t, y: torch.from_numpy(-y.numpy()),
        "is random": lambda t, y: -y + torch.rand(BATCH, 2, dtype=F64),
        "is not written here": lambda t, y: torch.special.i0(y),
        "changes the state": changed,
        "is too large": lambda t, y: (y @ torch.ones(2, 9000, dtype=F64)) @ torch.ones(9000, 2, dtype=F64),
    }
    assert [name for name, f in refused.items() if is_generated(f, start())] == []
    assert not is_generated(lambda t, y: -y, start(), stepping="fixed")
    assert not is_generated(lambda t, y: -y, start(), method="kvaerno5")


def test_failures_are_those_of_plain_steps():
    def f(t, y):
        return y * y

    y0 = torch.tensor([[0.1], [1.0], [0.2]], dtype=F64)
    statuses = []
    for compile in (True, False):
        found = solve_ode(f, y0, [0.0, 0.5, 2.0], stepping="per_sample", compile=compile, on_failure="return")
        statuses.append((found.status, torch.isnan(found.y).any(dim=-1).tolist()))
        with pytest.raises(SolverError, match="BLOW_UP"):
            solve_ode(f, y0, [0.0, 2.0], compile=compile)
        few = solve_ode(f, y0, [0.0, 0.9], compile=compile, max_steps=3, on_failure="return")
        statuses[-1] += (few.status, few.stats.n_steps.tolist())
    assert statuses[0] == statuses[1]


def test_backwards_single_precision_and_one_sample():
    y0 = torch.tensor([1.0, 2.0])
    found = solve_ode(lambda t, y: -t * y, y0, [2.0, 0.0], compile=True, rtol=1e-4, atol=1e-6)
    assert is_generated(lambda t, y: -t * y, y0, [2.0, 0.0], rtol=1e-4)
    torch.testing.assert_close(found.y[0, -1], y0 * math.exp(2.0), rtol=1e-3, atol=0)


def test_without_a_compiler_there_is_another_way(monkeypatch):
    monkeypatch.setattr(library, "_compiler", lambda: "")
    monkeypatch.setattr(solve, "_programs", {})
    assert not is_generated(lambda t, y: -0.123 * y, start())

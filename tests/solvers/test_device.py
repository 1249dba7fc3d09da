"""The solver would run on an accelerator: no mixed devices, few host reads, constants created in place."""

import ast
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import scidyn
from scidyn.solvers import solve_ode
from scidyn.solvers.attempt import attempts
from scidyn.solvers.controller import CONTROLLERS, Tolerance
from scidyn.solvers.dense import Records, evaluate, locate
from scidyn.solvers.loop import Bounds, LoopState
from scidyn.solvers.methods import METHODS

EXPLICIT = [name for name, method in METHODS.items() if method.adaptive and name in ("tsit5", "dopri5")]
READS = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "_unique2", "unique_consecutive")
CREATORS = {"tensor", "zeros", "ones", "full", "empty", "arange", "linspace", "eye", "rand", "randn"}


class HostReadCounter(TorchDispatchMode):
    """Count operations whose result the host has to wait for, and operations in all."""

    def __init__(self):
        super().__init__()
        self.reads = self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        self.operations += 1
        self.reads += name in READS
        return func(*args, **(kwargs or {}))


def loop_input(device, batch, rows):
    def full(value, dtype=torch.float64):
        return torch.full((rows,), value, dtype=dtype, device=device)

    y = torch.ones(batch, 2, dtype=torch.float32, device=device)
    tolerance = Tolerance(torch.full((), 1e-4, device=device), torch.full((), 1e-6, device=device), together=rows == 1)
    one = full(1.0, torch.float32)
    count = full(0, torch.int32)
    state = LoopState(full(0.0), full(0.1), y, (y.clone(),), (one, one), full(0, torch.int8), count, count)
    limit = torch.full((), 100, dtype=torch.int32, device=device)
    return state, Bounds(tolerance, full(1.0), full(0.0), full(torch.inf), limit, full(1e-12))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("method", EXPLICIT)
def test_attempts_and_dense_output_stay_on_the_device(fake_device, method, rows):
    # under fake tensors a read by the host and an operation across devices both raise
    with FakeTensorMode(), torch.no_grad():
        state, bounds = loop_input(fake_device, 3, rows)
        outcome = attempts(
            4, lambda t, y: -y * t.reshape(-1, 1).to(y.dtype), METHODS[method], CONTROLLERS["pid"], bounds, state
        )
        for value in (*outcome.state[:3], *outcome.state.carry, outcome.coef, outcome.flags):
            assert value.device.type == fake_device.type
        times = torch.cat([state.t.unsqueeze(0), outcome.times])
        records = Records(times, outcome.size, outcome.states, outcome.coef)
        wanted = torch.linspace(0, 1, 5, dtype=torch.float64, device=fake_device).expand(rows, -1)
        assert evaluate(records, *locate(times, wanted)).shape == (3, 5, 2)


def test_the_proof_notices_a_read_and_a_stray_constant(fake_device):
    with FakeTensorMode(), torch.no_grad():
        state, bounds = loop_input(fake_device, 3, 1)
        for f, message in (
            (lambda t, y: y * t.item(), "_local_scalar_dense"),
            (lambda t, y: y + torch.ones(2), "device"),
        ):
            with pytest.raises(Exception, match=message):
                attempts(1, f, METHODS["tsit5"], CONTROLLERS["pi"], bounds, state)


@pytest.mark.parametrize("rows", [1, 3])
def test_attempts_read_nothing(rows):
    state, bounds = loop_input("cpu", 3, rows)
    with torch.no_grad(), HostReadCounter() as counter:
        attempts(8, lambda t, y: -y, METHODS["tsit5"], CONTROLLERS["pi"], bounds, state)
    assert counter.reads == 0
    assert counter.operations > 100


@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
def test_a_solve_reads_once_per_attempt_and_little_besides(stepping):
    y0 = torch.ones(8, 2, dtype=torch.float64)
    options = {"stepping": stepping, "adjoint": None, "rtol": 1e-8}
    with HostReadCounter() as counter:
        solution = solve_ode(lambda t, y: -3 * y, y0, [0.0, 5.0, 10.0], **options)
    attempted = int(solution.stats.n_steps.max())
    assert attempted > 40
    assert solution.stats.host_reads <= attempted + 1
    assert counter.reads <= 3 * attempted + 60


def test_the_adjoint_stays_on_the_device():
    weight = torch.ones(2, 2, device="meta", requires_grad=True)
    times = torch.zeros(1, 1, dtype=torch.float64, device="meta")
    y = torch.ones(3, 2, device="meta", requires_grad=True)
    for method in EXPLICIT:
        taken = METHODS[method].replay(lambda t, y: torch.tanh(y @ weight) * t.to(y.dtype), times[0], times[0], y)
        found = torch.autograd.grad([taken.y1, *taken.coef], [y, weight], [y.detach()] * (1 + len(taken.coef)))
        assert {g.device.type for g in found} == {"meta"}


def test_constants_name_their_device():
    offenders = []
    for path in sorted((Path(scidyn.__file__).parent / "solvers").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        converted = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr in ("to", "numpy")}
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            plain = isinstance(node.func.value, ast.Name) and node.func.value.id == "torch"
            named = {k.arg for k in node.keywords} & {"device", "out", None}
            if plain and node.func.attr in CREATORS and not named and id(node) not in converted:
                offenders.append(f"{path.name}:{node.lineno} torch.{node.func.attr}")
    assert not offenders


@pytest.mark.gpu
def test_on_an_accelerator():
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None or accelerator.type == "fakegpu":
        pytest.skip("no accelerator")
    rate = torch.tensor(0.5, device=accelerator, requires_grad=True)
    y0 = torch.ones(4, 1, device=accelerator)
    y = solve_ode(lambda t, y: -rate * y, y0, [0.0, 1.0]).y
    torch.testing.assert_close(y[:, -1].cpu(), torch.exp(torch.tensor(-0.5)).expand(4, 1), rtol=1e-3, atol=1e-4)
    y[:, -1].sum().backward()
    assert rate.grad.item() == pytest.approx(-4 * 0.60653, rel=1e-3)

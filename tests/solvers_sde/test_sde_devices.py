"""No value is read back to the host inside the steps, and nothing is left on another device."""

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from scidyn.solvers import BrownianIncrements, BrownianTree, MarkovFBM, solve_sde
from scidyn.solvers.brownian.noise import Noise
from scidyn.solvers.sde import adaptive_solve
from scidyn.solvers.sde.engine import advance
from scidyn.solvers.sde.fractional import driven
from scidyn.solvers.sde.methods import SDE_METHODS
from scidyn.solvers.sde.methods.langevin import LANGEVIN_METHODS, Dynamics
from scidyn.solvers.sde.plan import make_plan
from scidyn.solvers.sde.row_loop import Control, attempt, begin
from scidyn.solvers.sde.rows import RowSteps
from scidyn.solvers.sde.terms import Terms

READS = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "_unique2")
ADAPTIVE = [
    (name, noise)
    for name, m in SDE_METHODS.items()
    if name != "reversible_heun"
    for noise in sorted(m.about.noise)
    if not (m.about.area and noise == "general")
]
CASES = [(name, noise) for name, m in SDE_METHODS.items() for noise in sorted(m.about.noise)]


class HostReads(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in READS:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def terms_for(method, noise):
    calculus = sorted(method.about.calculus)[0]

    def diffusion(t, y):
        if noise in {"diagonal", "additive"}:
            return 0.3 * y if noise == "diagonal" else torch.full_like(y, 0.3)
        return torch.stack([0.3 * y, 0.1 * y], -1)[..., : 1 if noise == "scalar" else 2]

    matrix = noise in {"scalar", "general"}
    channels = {"scalar": (1,), "general": (2,)}.get(noise, (3,))
    return Terms(lambda t, y: -y * t.reshape(-1, 1), diffusion, None, noise, calculus, matrix, channels)


@pytest.mark.parametrize(("name", "noise"), CASES)
def test_steps_read_nothing_back(name, noise):
    method = SDE_METHODS[name]
    terms, y = terms_for(method, noise), torch.ones(4, 3)
    path = BrownianIncrements([0.1 * i for i in range(6)], (4, *terms.channels), seed=0, levels="WH")
    path = path.with_area() if noise == "general" and method.about.area else path
    plan = make_plan([0.0, path.grid[-1]], path, y)
    with torch.no_grad(), HostReads() as reads:
        advance(terms, method, plan, (0, 5), y, method.begin(terms, plan.starts[0], y))
    assert reads.found == []


@pytest.mark.parametrize(("name", "noise"), CASES)
def test_steps_stay_on_a_fake_device(name, noise, fake_device):
    from torch._subclasses.fake_tensor import FakeTensorMode

    method = SDE_METHODS[name]
    terms = terms_for(method, noise)
    # forward-mode derivatives have no rule for fake devices; on the meta device a read raises as well
    device, mode = (torch.device("meta"), contextlib.nullcontext()) if name == "milstein" else (fake_device, None)
    with mode or FakeTensorMode(), torch.no_grad():
        y = torch.ones(4, 3, device=device)
        t = torch.zeros((), device=device)
        W, H = (torch.ones(4, *terms.channels, device=device) for _ in range(2))
        area = torch.ones(4, 2, 2, device=device) if noise == "general" else None
        terms.estimating = True
        step = method.step(terms, t, 0.1, y, method.begin(terms, t, y), Noise(W, H, None, area))
        assert step.y.device.type == device.type
        assert step.err is None or step.err.device.type == device.type


class Flat:
    """A path of ones, for steps whose ends are tensors."""

    def __init__(self, shape, device):
        self.shape, self.device = shape, device

    def increment(self, s, t):
        ones = torch.ones(self.shape, device=self.device) * (t - s).amax().to(torch.float32)
        return Noise(ones, 0.5 * ones)


@pytest.mark.parametrize(
    ("name", "noise", "together"),
    [*((name, noise, False) for name, noise in ADAPTIVE), ("heun", "diagonal", True), ("sra1", "additive", True)],
)
def test_an_adaptive_attempt_reads_nothing(name, noise, together, fake_device):
    from torch._subclasses.fake_tensor import FakeTensorMode

    method = SDE_METHODS[name]
    terms = terms_for(method, noise)
    device, mode = (torch.device("meta"), contextlib.nullcontext()) if name == "milstein" else (fake_device, None)
    with mode or FakeTensorMode(), torch.no_grad():
        nodes = torch.zeros(2, dtype=torch.float64, device=device)
        place = torch.zeros(2, dtype=torch.int64, device=device)
        control = Control(nodes, place, 1e-3, 1e-3, 1e-4, 1.5, together)
        path = Flat((4, *terms.channels), device)
        state = begin(torch.ones(4, 3, device=device), control, 3, 0.0, 0.1)
        terms.estimating = True
        for _ in range(2):
            state, taken = attempt(terms, RowSteps(method), path, control, state)
        assert {x.device.type for x in (*state, *taken[0])} == {device.type}
        assert state.t.shape == ((1,) if together else (4,))


def test_fractional_steps_stay_on_a_fake_device(fake_device):
    from torch._subclasses.fake_tensor import FakeTensorMode

    law = MarkovFBM(0.4, 1.0)
    with FakeTensorMode(), torch.no_grad():
        y = torch.ones(4, 3, device=fake_device)
        terms, steps = terms_for(SDE_METHODS["heun"], "diagonal"), SDE_METHODS["heun"]
        law.omega = torch.ones(5, dtype=torch.float64, device=fake_device)
        terms, steps = driven(terms, steps, law, y)
        t = torch.zeros((), device=fake_device)
        taken = steps.step(terms, t, 0.1, y, (), Noise(torch.ones(4, 3, 6, device=fake_device)))
        assert taken.y.device.type == fake_device.type


@pytest.mark.parametrize("method", ["spark", "heun"])
def test_steps_for_all_rows_chosen_without_the_host_are_those_chosen_by_it(method, monkeypatch):
    def solve():
        tree = BrownianTree(0.0, 1.0, (5, 2), seed=0, tol=5e-4, dtype=torch.float64)
        return solve_sde(
            lambda t, y: -y * t,
            lambda t, y: 0.5 * torch.sin(y),
            torch.linspace(0.2, 2.0, 10, dtype=torch.float64).view(5, 2),
            [0.0, 0.6, 1.0],
            calculus="stratonovich",
            method=method,
            bm=tree,
            adaptive=True,
            dt_min=1e-3,
            rtol=1e-2,
            atol=1e-2,
            jump_times=[0.25],
            adjoint=None,
        )

    host = solve()
    monkeypatch.setattr(adaptive_solve, "HOST", ())
    device = solve()
    torch.testing.assert_close(device.y, host.y, rtol=1e-9, atol=1e-12)
    assert torch.equal(device.stats.n_rejected, host.stats.n_rejected)
    torch.testing.assert_close(device.grid[0], host.grid, rtol=1e-12, atol=0)
    attempts = int(device.stats.n_steps[0]) if method == "spark" else 0
    assert device.stats.host_reads <= max(attempts, 40) // 8 + 1
    assert host.stats.host_reads > device.stats.host_reads


@pytest.mark.parametrize("name", sorted(LANGEVIN_METHODS))
def test_langevin_steps_stay_on_a_fake_device(name, fake_device):
    from torch._subclasses.fake_tensor import FakeTensorMode

    method, terms = LANGEVIN_METHODS[name], Dynamics(torch.sin, 1.0, 1.0)
    with FakeTensorMode(), torch.no_grad():
        y = torch.ones(4, 6, device=fake_device)
        t = torch.zeros((), device=fake_device)
        W, H, K = (torch.ones(4, 3, device=fake_device) for _ in range(3))
        assert (
            method.step(terms, t, 0.1, y, method.begin(terms, t, y), Noise(W, H, K)).y.device.type == fake_device.type
        )


def test_tree_stays_on_a_fake_device(fake_device):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), torch.no_grad():
        tree = BrownianTree(0.0, 1.0, (4, 3), seed=0, device=fake_device)
        assert tree.increment(0.1, 0.3).W.device.type == fake_device.type
        s = torch.full((4,), 0.1, device=fake_device)
        assert tree.increment(s, s + 0.2).W.device.type == fake_device.type

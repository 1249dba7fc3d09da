"""No value is read back to the host inside the steps, and nothing is left on another device."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from scidyn.solvers import BrownianIncrements
from scidyn.solvers.brownian.noise import Noise
from scidyn.solvers.sde.engine import advance
from scidyn.solvers.sde.methods import SDE_METHODS
from scidyn.solvers.sde.methods.langevin import LANGEVIN_METHODS, Dynamics
from scidyn.solvers.sde.plan import make_plan
from scidyn.solvers.sde.terms import Terms

READS = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "_unique2")
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
    return Terms(lambda t, y: -y * t, diffusion, None, noise, calculus, matrix, channels)


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
    if name == "milstein":
        pytest.skip("forward-mode derivatives have no rule for fake devices")
    with FakeTensorMode(), torch.no_grad():
        y = torch.ones(4, 3, device=fake_device)
        t = torch.zeros((), device=fake_device)
        W, H = (torch.ones(4, *terms.channels, device=fake_device) for _ in range(2))
        terms.estimating = True
        step = method.step(terms, t, 0.1, y, method.begin(terms, t, y), Noise(W, H))
        assert step.y.device.type == fake_device.type
        assert step.err is None or step.err.device.type == fake_device.type


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

    from scidyn.solvers import BrownianTree

    with FakeTensorMode(), torch.no_grad():
        tree = BrownianTree(0.0, 1.0, (4, 3), seed=0, device=fake_device)
        assert tree.increment(0.1, 0.3).W.device.type == fake_device.type
        s = torch.full((4,), 0.1, device=fake_device)
        assert tree.increment(s, s + 0.2).W.device.type == fake_device.type

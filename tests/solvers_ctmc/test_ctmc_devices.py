"""Jumps and leaps on a device without values, and how often a simulation is read by the host."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from scidyn.solvers import RateMatrix, ReactionNetwork, simulate_ssa, simulate_tau_leaping
from scidyn.solvers.ctmc import ssa, tau_leaping
from scidyn.solvers.ctmc.leap_step import LeapBound
from scidyn.solvers.ctmc.solution import Output

F64 = torch.float64
READS = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "_unique2")
NETWORK = {"0 -> A": 8.0, "2 A -> B": 0.1, "B -> 0": 0.5}


class HostReads(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in READS
        return func(*args, **(kwargs or {}))


def moved(thing, device):
    """A copy of a process with tensors of the same shapes on the device."""
    twin = object.__new__(type(thing))
    for name, value in vars(thing).items():
        there = isinstance(value, torch.Tensor)
        twin.__dict__[name] = torch.zeros(value.shape, dtype=value.dtype, device=device) if there else value
    return twin


@pytest.fixture
def fake(fake_device, monkeypatch):
    """Draws on the fake device take no generator: there are no numbers to draw."""
    rand, poisson = torch.rand, torch.poisson
    monkeypatch.setattr(torch, "rand", lambda *size, generator=None, **kind: rand(*size, **kind))
    monkeypatch.setattr(torch, "poisson", lambda x, generator=None: poisson(x))
    return fake_device


def running(x, times, device):
    rows = torch.arange(len(x), device=device)
    return rows, times[0].expand(len(x)).clone(), x, torch.zeros_like(rows)


@pytest.mark.parametrize("kind", ["network", "chain"])
def test_a_jump_reads_nothing(kind, fake):
    from torch._subclasses.fake_tensor import FakeTensorMode

    network = ReactionNetwork.parse(NETWORK)
    chain = RateMatrix.from_rates(torch.rand(4, 4, dtype=F64, generator=torch.Generator().manual_seed(0)))
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        process = moved(network if kind == "network" else chain, fake)
        x = (
            torch.zeros(5, 2, dtype=F64, device=fake)
            if kind == "network"
            else torch.zeros(5, dtype=torch.int64, device=fake)
        )
        times = torch.zeros(3, dtype=F64, device=fake)
        out = Output(x, times)
        state, jumped = ssa._jump(process, ssa._Running(*running(x, times, fake)), times, out, None)
        assert all(part.device.type == fake.type for part in (*state, *jumped))


@pytest.mark.parametrize("fixed", [None, 0.1])
def test_a_leap_reads_nothing(fixed, fake):
    from torch._subclasses.fake_tensor import FakeTensorMode

    network = ReactionNetwork.parse(NETWORK)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        there = moved(network, fake)
        bound = LeapBound.of(there, 0.03, 10.0)
        x = torch.zeros(5, 2, dtype=F64, device=fake)
        times = torch.zeros(3, dtype=F64, device=fake)
        out = Output(x, times)
        start = tau_leaping._Running(*running(x, times, fake), torch.ones(5, dtype=F64, device=fake))
        state = tau_leaping._leap(there, bound, fixed, start, times, out, None)
        assert all(part.device.type == fake.type for part in state)


@pytest.mark.parametrize(("simulate", "chunk"), [(simulate_ssa, ssa.CHUNK), (simulate_tau_leaping, tau_leaping.CHUNK)])
def test_the_host_reads_once_for_each_chunk_of_passes(simulate, chunk):
    network = ReactionNetwork.parse({"0 -> A": 60.0, "A -> 0": 1.0})
    t = torch.tensor([0.0, 1.0], dtype=F64)
    counts = []
    for end in (0.5, 4.0):
        with HostReads() as reads:
            sol = simulate(network, torch.tensor([60.0]), t * end, trajectories=16, seed=0)
        counts.append((reads.count, int(sol.n_jumps.max())))
    chunks = (counts[1][1] - counts[0][1]) / chunk
    assert chunks > 1
    # batches shrink log2(16) times at most, and each costs the places that remain
    assert counts[1][0] - counts[0][0] <= chunks + 2 + 4

"""The search for events would run on an accelerator: no mixed devices, no reads by the host but the counted ones."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from scidyn.solvers import Event, solve_ode
from scidyn.solvers.attempt import Bounds, LoopState, attempts
from scidyn.solvers.controller import CONTROLLERS, Tolerance
from scidyn.solvers.crossing import Bracket, Piece, narrow, settle, side_of
from scidyn.solvers.field import Field
from scidyn.solvers.methods import METHODS
from scidyn.solvers.surfaces import surfaces_of
from scidyn.solvers.watch import Watch, put_back

READS = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal")
BATCH = 3


def block_on(device):
    """Two attempts of three samples, and a watch of two events."""

    def full(value, dtype=torch.float64):
        return torch.full((BATCH,), value, dtype=dtype, device=device)

    y = torch.ones(BATCH, 2, dtype=torch.float32, device=device)
    tolerance = Tolerance(torch.full((), 1e-4, device=device), torch.full((), 1e-6, device=device), together=False)
    one, count = full(1.0, torch.float32), full(0, torch.int32)
    before = LoopState(full(0.0), full(0.1), y, (y.clone(),), (one, one), full(0, torch.int8), count, count)
    limit = torch.full((), 100, dtype=torch.int32, device=device)
    bounds = Bounds(tolerance, full(1.0), full(0.0), full(torch.inf), limit, full(1e-12))
    field = Field(lambda t, y: -y * t.unsqueeze(1), None, y.shape, 1.0, True)
    block = attempts(2, field, METHODS["tsit5"], CONTROLLERS["pi"], bounds, before)
    events = [
        Event(lambda t, y: y[:, 0] - 0.99, jump=lambda t, y: 2 * y),
        Event(lambda t, y: y[:, 1] - t, direction=-1),
    ]
    surfaces = surfaces_of(events, field)
    side = torch.ones((2, BATCH), dtype=torch.int8, device=device)
    watch = Watch(surfaces, side, torch.zeros((2, BATCH), dtype=torch.int64, device=device), None, side[0] < 0, 1.0)
    return field, bounds, before, block, surfaces, watch


def search(bounds, before, block, surfaces, watch):
    """Everything between two reads of the flags."""
    flags, values = watch.look(block)
    seen = watch.sort(block, values)
    piece = Piece(before.t, block.size[0], block.states[0], block.coef[0])
    value, side = surfaces[0].value, torch.ones_like(piece.h)
    bracket = Bracket(0 * side, side, value(piece.t, piece.y).to(side), values[0, 0].to(side))
    bracket = narrow(value, piece, side, bracket)
    back = put_back(before, block, bracket.low >= 0, bounds.max_steps)
    return [flags, seen.flags, *bracket, back.state.y, back.flags]


def test_the_search_stays_on_the_device(fake_device):
    # under fake tensors a read by the host and an operation across devices both raise
    with FakeTensorMode(), torch.no_grad():
        for value in search(*block_on(fake_device)[1:]):
            assert value.device.type == fake_device.type


def test_derivatives_of_events_stay_on_the_device():
    # the fake device has no backward pass; this one has
    field, _, _, block, surfaces, _ = block_on("meta")
    with torch.enable_grad():
        y = block.state.y.requires_grad_()
        time, state, grazing = settle(surfaces[0].value, field, block.state.t, y, block.state.t > 0)
        (slope,) = torch.autograd.grad(time.sum() + state.sum(), y)
    side = side_of(surfaces[1].value, field, time.detach(), surfaces[0].jump(time, state).detach(), None)
    assert {x.device.type for x in (time, state, grazing, slope, side)} == {"meta"}


def test_the_proof_notices_a_read(fake_device):
    with FakeTensorMode(), torch.no_grad():
        field, bounds, before, block, _, watch = block_on(fake_device)
        reading = surfaces_of([Event(lambda t, y: y[:, 0] - t[0].item())] * 2, field)
        with pytest.raises(Exception, match="_local_scalar_dense"):
            search(bounds, before, block, reading, watch)


class Counter(TorchDispatchMode):
    """Count the operations whose result the host has to wait for."""

    def __init__(self):
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.reads += func.__name__.split(".")[0] in READS
        return func(*args, **(kwargs or {}))


def test_the_search_reads_nothing():
    parts = block_on("cpu")[1:]
    with torch.no_grad(), Counter() as counter:
        search(*parts)
    assert counter.reads == 0


def test_events_cost_reads_where_they_are_met_only():
    y0 = torch.ones(4, 2, dtype=torch.float64)
    never = Event(lambda t, y: y[:, 0] - 2.0, terminal=False)
    solutions = [
        solve_ode(lambda t, y: -3 * y, y0, [0.0, 5.0], stepping="per_sample", adjoint=None, rtol=1e-8, events=e)
        for e in (None, never)
    ]
    attempts = int(solutions[0].stats.n_steps.max())
    assert attempts > 80
    assert 0 <= solutions[1].stats.host_reads - solutions[0].stats.host_reads <= 4
    met = solve_ode(
        lambda t, y: -3 * y,
        y0,
        [0.0, 5.0],
        stepping="per_sample",
        adjoint=None,
        rtol=1e-8,
        events=Event(lambda t, y: y[:, 0] - 0.5, terminal=False),
    )
    assert 0 < met.stats.host_reads - solutions[1].stats.host_reads <= 4

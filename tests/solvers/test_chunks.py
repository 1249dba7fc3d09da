"""Samples leave the batch, and attempts are made in blocks: neither changes a bit of the result."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from scidyn.errors import OptionError, SolverWarning
from scidyn.solvers import Status, attempt, compaction, loop, solve_ode
from scidyn.solvers.arguments import prepare
from scidyn.solvers.graphs import StaticBlock

F64 = torch.float64
MU = torch.linspace(0.1, 6.0, 24, dtype=F64)
TIMES = torch.linspace(0, 4, 9, dtype=F64)
Y0 = torch.stack([torch.linspace(0.5, 2.5, 24, dtype=F64), torch.zeros(24, dtype=F64)], dim=1)


def van_der_pol(t, y, mu):
    return torch.stack([y[:, 1], mu * (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0]], dim=1)


def sizes(monkeypatch):
    """Let small batches shrink, and note the sizes of the batches that ``f`` sees."""
    monkeypatch.setattr(compaction, "SMALLEST", 2)
    monkeypatch.setattr(loop, "CHUNK", 4)
    seen = []

    def f(t, y, mu):
        seen.append(len(y))
        return van_der_pol(t, y, mu)

    return f, seen


@pytest.mark.parametrize("method", ["tsit5", "kvaerno5", "auto", "rodas5p"])
def test_leaving_samples_change_no_bit(method, monkeypatch):
    f, seen = sizes(monkeypatch)
    options = {"args": MU, "method": method, "stepping": "per_sample", "adjoint": None, "dense": True, "rtol": 1e-5}
    full = solve_ode(f, Y0, TIMES, **options)
    assert set(seen) == {24}
    less = solve_ode(f, Y0, TIMES, compact=True, **options)
    assert {16, 8, 4} <= set(seen)
    assert seen.count(24) < len(seen)
    assert torch.equal(less.y, full.y)
    assert torch.equal(less.dense([0.3, 3.9]), full.dense([0.3, 3.9]))
    assert less.status == full.status
    for name in ("n_accepted", "n_rejected", "reached"):
        assert torch.equal(getattr(less.stats, name), getattr(full.stats, name))


@pytest.mark.parametrize("adjoint", ["discrete", "direct", "reversible"])
def test_gradients_are_the_same_bits(adjoint, monkeypatch):
    f, seen = sizes(monkeypatch)
    found = []
    for compact in (False, True):
        mu, y0 = (0.3 * MU).requires_grad_(), Y0.clone().requires_grad_()
        y = solve_ode(
            f, y0, TIMES[:4], args=mu, stepping="per_sample", adjoint=adjoint, compact=compact, rtol=1e-4, atol=1e-6
        ).y
        found.append(torch.autograd.grad((y**2).sum(), [mu, y0]))
    assert min(seen) < 24
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_records_take_the_same_memory(monkeypatch):
    f, _ = sizes(monkeypatch)
    totals = []
    for compact in (False, True):
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):  # noqa: B023
            y0 = Y0.clone().requires_grad_()
            solution = solve_ode(f, y0, TIMES, args=MU, stepping="per_sample", compact=compact)
        steps = int(solution.stats.n_accepted.max())
        recorded = max(len(x) for x in saved if x.ndim == 3 and x.shape[1:] == (24, 2))
        totals.append(sum(x.numel() for x in saved if x.ndim >= 2 and len(x) >= steps))
        assert steps <= recorded <= int(solution.stats.n_steps.max())
    assert totals[0] == totals[1]
    assert totals[1] == pytest.approx(recorded * 24 * 4, rel=0.05)


def test_own_times_landings_and_failures(monkeypatch):
    f, seen = sizes(monkeypatch)
    times = torch.cat([TIMES.expand(12, -1), torch.full((12, 9), torch.nan, dtype=F64)])
    times[12:, 0], times[12:, 1] = 0.0, torch.linspace(0.1, 2.0, 12, dtype=F64)
    options = {"args": MU, "stepping": "per_sample", "adjoint": None, "step_times": [0.35, 1.2]}
    options |= {"max_steps": 60, "on_failure": "return", "save": "steps"}
    full, less = (solve_ode(f, Y0, times, compact=c, **options) for c in (False, True))
    assert min(seen) < 24
    assert Status.MAX_STEPS in full.status
    assert Status.SUCCESS in full.status
    assert less.status == full.status
    torch.testing.assert_close(less.t, full.t, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(less.y, full.y, rtol=0, atol=0, equal_nan=True)


def test_a_field_that_knows_its_batch_keeps_it(monkeypatch):
    monkeypatch.setattr(compaction, "SMALLEST", 2)
    monkeypatch.setattr(loop, "CHUNK", 4)
    fields = {
        "closed over": lambda t, y: van_der_pol(t, y, MU),
        "by position": lambda t, y: van_der_pol(t, y, MU[: len(y)]),
        "coupled": lambda t, y: van_der_pol(t, y, 1.0 + y[:, 0].mean() ** 2),
    }
    for f in fields.values():
        plain = solve_ode(f, Y0, TIMES, stepping="per_sample", adjoint=None)
        with pytest.warns(SolverWarning, match="compact=True has no effect"):
            same = solve_ode(f, Y0, TIMES, stepping="per_sample", adjoint=None, compact=True)
        assert torch.equal(same.y, plain.y)


def test_shared_arguments_are_not_cut(monkeypatch):
    f, seen = sizes(monkeypatch)
    table = torch.eye(24, dtype=F64)[:, :2]  # its first axis has the length of the batch by chance

    def mixed(t, y, args):
        return f(t, y, args["mu"]) + 0.01 * args["table"].sum(dim=0)

    options = {"args": {"mu": 3.0 * torch.ones(24, 1, dtype=F64)[:, 0], "table": table}, "stepping": "per_sample"}
    plain = solve_ode(mixed, Y0, TIMES, adjoint=None, **options)
    with pytest.warns(SolverWarning, match="no effect"):
        same = solve_ode(mixed, Y0, TIMES, adjoint=None, compact=True, **options)
    assert torch.equal(same.y, plain.y)
    assert set(seen) <= {24, 16, 12, 8, 4, 2}


@pytest.mark.parametrize("options", [{}, {"stepping": "fixed"}, {"stepping": "per_sample", "compile": True}])
def test_what_leaving_needs(options):
    with pytest.raises(OptionError, match="compact=True needs"):
        solve_ode(lambda t, y: -y, Y0, TIMES, compact=True, **options)


@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
@pytest.mark.parametrize("method", ["tsit5", "kvaerno3"])
def test_blocks_and_lag_change_no_bit(method, stepping, monkeypatch):
    found = []
    for count, lag in ((1, 0), (3, 0), (16, 1)):
        monkeypatch.setitem(attempt.STEPS_PER_READ, "cpu", count)
        monkeypatch.setitem(loop.LAG, "cpu", lag)
        mu = MU[:5].clone().requires_grad_()
        solution = solve_ode(
            lambda t, y, mu: van_der_pol(t, y, mu),
            Y0[:5],
            TIMES[:3],
            args=mu,
            method=method,
            stepping=stepping,
            rtol=1e-4,
        )
        (gradient,) = torch.autograd.grad((solution.y**2).sum(), mu)
        found.append((solution, gradient))
        # one read for a block, one to begin with, and those of the blocks that were under way at the end
        assert solution.stats.host_reads <= -(-int(solution.stats.n_steps.max()) // count) + 1 + lag
    for solution, gradient in found[1:]:
        assert torch.equal(solution.y, found[0][0].y)
        assert torch.equal(solution.stats.n_steps, found[0][0].stats.n_steps)
        assert torch.equal(gradient, found[0][1])


class Reads(TorchDispatchMode):
    """Count the operations whose result the host waits for."""

    NAMES = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "_unique2")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.__name__.split(".")[0] in self.NAMES
        return func(*args, **(kwargs or {}))


def test_a_chunk_reads_nothing_but_its_flags(monkeypatch):
    monkeypatch.setitem(attempt.STEPS_PER_READ, "cpu", 16)
    monkeypatch.setattr(loop, "columns_are_chosen", lambda wanted: False)
    problem = prepare(
        lambda t, y: van_der_pol(t, y, MU),
        Y0,
        TIMES,
        args=None,
        method="tsit5",
        rtol=1e-6,
        atol=1e-9,
        stepping="per_sample",
    )
    with torch.no_grad():
        k1 = problem.field(problem.start, problem.y0)
        with Reads() as reads:
            trace = loop.integrate(problem, k1, keep_states=True, keep_coef=False)
    attempted = int((trace.final.accepted + trace.final.rejected).max())
    assert attempted > 64
    # the flags come over as a list, which is no operation; the start and the diagnosis read once each
    assert reads.count <= 2
    assert trace.host_reads <= attempted // 16 + 2


@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
def test_static_buffers_give_the_same_bits(stepping):
    problem = prepare(
        lambda t, y: van_der_pol(t, y, MU[:5]),
        Y0[:5],
        TIMES,
        args=None,
        method="tsit5",
        rtol=1e-6,
        atol=1e-9,
        stepping=stepping,
    )
    k1 = problem.field.probe(problem.start, problem.y0)
    plain = loop.integrate(problem, k1, keep_states=True, keep_coef=True)
    block = StaticBlock(problem, 4)
    static = loop.integrate(problem, k1, keep_states=True, keep_coef=True, try_step=block)
    assert block.replays > 3
    for name in ("y", "times", "size", "states", "coef"):
        assert torch.equal(getattr(static, name), getattr(plain, name))


@pytest.mark.gpu
def test_a_captured_graph_gives_the_same_result():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    mu = MU.cuda()
    problem = prepare(
        lambda t, y: van_der_pol(t, y, mu),
        Y0.cuda(),
        TIMES.cuda(),
        args=None,
        method="tsit5",
        rtol=1e-6,
        atol=1e-9,
        stepping="per_sample",
    )
    k1 = problem.field.probe(problem.start, problem.y0)
    plain = loop.integrate(problem, k1, keep_states=True, keep_coef=True)
    block = StaticBlock(problem, 16)
    graphed = loop.integrate(problem, k1, keep_states=True, keep_coef=True, try_step=block)
    assert block.captured
    torch.testing.assert_close(graphed.y, plain.y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["tsit5", "dopri8", "kvaerno5", "rodas5p"])
def test_order_and_mates_change_no_bit(method):
    generator = torch.Generator().manual_seed(0)
    options = {"method": method, "stepping": "per_sample", "adjoint": None, "rtol": 1e-5}
    full = solve_ode(van_der_pol, Y0, TIMES[:4], args=MU, **options)
    for rows in (
        torch.randperm(24, generator=generator),
        torch.tensor([5]),
        torch.arange(17),
        torch.tensor([23, 0, 7]),
    ):
        part = solve_ode(van_der_pol, Y0[rows], TIMES[:4], args=MU[rows], **options)
        assert torch.equal(part.y, full.y[rows])
        assert torch.equal(part.stats.n_steps, full.stats.n_steps[rows])

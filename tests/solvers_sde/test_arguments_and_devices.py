"""Bad input gives one sentence; failures give a status; stepping reads nothing on the host."""

import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from scidyn.errors import NonFiniteError, OptionError, ShapeError, SolverError, TimeGridError
from scidyn.solvers import BrownianIncrements, BrownianTree, Status, solve_sde

F64 = torch.float64
Y0 = torch.ones(4, 2, dtype=F64)


def decay(t, y):
    return -y


def solve(diffusion=lambda t, y: 0.1 * y, y0=Y0, t=(0.0, 1.0), **options):
    return solve_sde(decay, diffusion, y0, list(t), **{"seed": 0, "dt": 0.1, **options})


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"noise": "additive"}, OptionError, "changes with the state, so the noise is not additive"),
        ({"diffusion": lambda t, y: y.flip(-1)}, OptionError, "depends on other entries"),
        ({"dt": 0.0}, OptionError, "dt must be a finite number > 0"),
        ({"dt": -1.0}, OptionError, "dt must be a finite number > 0"),
        ({"t": (0.0, 0.0)}, TimeGridError, "t must increase strictly"),
        ({"method": "heun"}, OptionError, "converges to the stratonovich solution"),
        ({"method": "euler_maruyama", "calculus": "stratonovich"}, OptionError, "converges to the ito solution"),
        ({"method": "sra1"}, OptionError, "is for additive noise, the problem is declared diagonal"),
        ({"method": "sriw"}, OptionError, "Did you mean 'sriw1'"),
        ({"seed": None}, OptionError, "pass seed=<int> or a Brownian path bm"),
        ({"noise": "general"}, ShapeError, r"general noise needs \(batch, D, m\)"),
        ({"diffusion": lambda t, y: y[:, :1]}, ShapeError, "diagonal noise needs that of the state"),
        ({"diffusion": lambda t, y: y.float()}, ShapeError, "use one for both"),
        ({"y0": torch.full((2, 2), float("nan"))}, NonFiniteError, "y0"),
        ({"y0": torch.ones(2)}, ShapeError, r"must have shape \(batch, \*state\)"),
        ({"adjoint": "reversible", "method": "sriw1"}, OptionError, "needs method='reversible_heun'"),
        (
            {"bm": BrownianTree(0.0, 1.0, (4, 2), seed=0, levels="W", dtype=F64)},
            OptionError,
            "needs the space-time area of the path",
        ),
        (
            {"bm": BrownianTree(0.0, 1.0, (3, 2), seed=0, dtype=F64)},
            ShapeError,
            r"bm has shape \(3, 2\)",
        ),
        (
            {"bm": BrownianIncrements([0.0, 1.0], (4, 2), seed=0, dtype=F64), "adaptive": True, "dt": None},
            OptionError,
            "pass a BrownianTree",
        ),
        ({"bm": BrownianIncrements([0.0, 1.0], (4, 2), seed=0, dtype=F64)}, OptionError, "leave dt away"),
    ],
)
def test_bad_input(options, error, sentence):
    with pytest.raises(error, match=sentence):
        solve(**options)


def test_scalar_noise_has_one_channel():
    with pytest.raises(ShapeError, match="scalar noise has one channel"):
        solve(lambda t, y: torch.ones(4, 2, 3, dtype=F64), noise="scalar")


def test_a_sample_that_blows_up_is_named_and_the_others_survive():
    y0 = torch.tensor([[0.1], [50.0]], dtype=F64)
    with pytest.raises(SolverError, match="1 of 2 samples failed: sample 1 stopped at t=0"):
        solve_sde(lambda t, y: y**3, lambda t, y: 0.01 * y, y0, [0.0, 1.0, 2.0], dt=0.1, seed=0)
    s = solve_sde(lambda t, y: y**3, lambda t, y: 0.01 * y, y0, [0.0, 1.0, 2.0], dt=0.1, seed=0, on_failure="return")
    assert s.status == (Status.SUCCESS, Status.NON_FINITE_STATE)
    assert torch.isfinite(s.y[0]).all()
    assert torch.isnan(s.y[1, 1:]).all()


def test_adaptive_steps_report_underflow():
    tree = BrownianTree(0.0, 1.0, (1, 1), seed=0, dtype=F64)
    with pytest.raises(SolverError, match="STEP_UNDERFLOW"):
        solve_sde(
            lambda t, y: -1e8 * y,
            lambda t, y: y,
            torch.ones(1, 1, dtype=F64),
            [0.0, 1.0],
            adaptive=True,
            bm=tree,
            dt_min=1e-3,
            rtol=1e-6,
            atol=1e-6,
        )


def test_steps_land_on_jumps_and_see_the_left_limit():
    """dy = 1 before 0.37 and -1 after, no noise: exact with jump times, wrong by O(dt) without."""

    def drift(t, y):
        return torch.where(t < 0.37, 1.0, -1.0) * torch.ones_like(y)

    def end(**options):
        y0 = torch.zeros(1, 1, dtype=F64)
        return solve_sde(
            drift, lambda t, y: torch.zeros_like(y), y0, [0.0, 1.0], calculus="stratonovich", seed=0, **options
        ).y[0, -1, 0]

    for options in ({"dt": 0.1, "method": "heun"}, {"adaptive": True, "method": "spark"}):
        assert abs(end(jump_times=[0.37], **options).item() + 0.26) < 1e-12
    assert abs(end(dt=0.1, method="heun").item() + 0.26) > 1e-3


def test_seeds_reproduce_and_the_tree_does_not_see_batch_mates():
    assert torch.equal(solve(seed=3).y, solve(seed=3).y)
    assert not torch.equal(solve(seed=3).y, solve(seed=4).y)
    y0 = torch.rand(4, 2, dtype=F64)
    whole = solve(y0=y0, bm=BrownianTree(0.0, 1.0, (4, 2), seed=0, dtype=F64)).y
    ids = torch.tensor([2, 1])
    part = solve(y0=y0[ids], bm=BrownianTree(0.0, 1.0, (2, 2), seed=0, dtype=F64, samples=ids)).y
    assert torch.equal(whole[ids], part)


class HostReads(TorchDispatchMode):
    NAMES = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "_unique2")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += any(name in str(func) for name in self.NAMES)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["euler_maruyama", "sriw1", "milstein_free"])
def test_host_reads_do_not_grow_with_the_steps(method):
    counts = []
    for dt in (0.1, 0.001):
        with HostReads() as reads:
            solve(method=method, dt=dt, adjoint=None)
        counts.append(reads.count)
    assert counts[0] == counts[1]


DEVICE = """
import torch
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
_setup_privateuseone_for_python_backend("fakegpu")
from torch._subclasses.fake_tensor import FakeTensorMode
from scidyn.solvers import BrownianTree
from scidyn.solvers.sde.engine import Run, TreeSteps, advance
from scidyn.solvers.sde.methods import METHODS
from scidyn.solvers.sde.plan import Plan, nodes_between
from scidyn.solvers.sde.terms import Terms

done = 0
with FakeTensorMode(), torch.no_grad():
    for calculus, methods in METHODS.items():
        for name, method in methods.items():
            y0 = torch.empty(4, 2, device="fakegpu")
            tree = BrownianTree(0.0, 1.0, (4, 2), seed=0, device="fakegpu", levels="WH")
            plan = Plan.on(nodes_between([0.0, 1.0], 0.1), [0.0, 1.0])
            terms = Terms(lambda t, y: -y * t, lambda t, y: 0.1 * y, None, False)
            run = Run(method, terms, plan, TreeSteps(tree, plan))
            y, carry = y0, method.begin(terms, torch.zeros((), device="fakegpu"), y0)
            for _, y, carry in advance(run, y0, carry, 0, len(plan)):
                pass
            if y.device.type != "fakegpu" or y.shape != (4, 2):
                raise SystemExit(f"{name} left the device: {y.device}")
            done += 1
print("steps", done)
"""


def test_steps_run_on_a_device_that_holds_no_values():
    """Any host read, and any mixing with the CPU, raises there."""
    done = subprocess.run([sys.executable, "-c", DEVICE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "steps" in done.stdout

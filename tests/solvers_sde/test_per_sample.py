"""Steps of each row's own: the same bits in any batch, closed forms, gradients, statuses, host reads."""

import pytest
import torch

from scidyn.errors import OptionError, ShapeError
from scidyn.solvers import BrownianTree, Status, solve_sde
from scidyn.solvers.sde.methods import SDE_METHODS

F64 = torch.float64
MU, SIGMA = 1.0, 0.6


def tree(rows, ids=None, seed=2, size=1, levels="WH", **options):
    return BrownianTree(0.0, 1.0, (rows, size), seed=seed, tol=1e-4, levels=levels, dtype=F64, samples=ids, **options)


def growth(y0, method, path, tol=1e-3, **options):
    calculus = "stratonovich" if SDE_METHODS[method].about.calculus == {"stratonovich"} else "ito"
    settings = {"rtol": tol, "atol": tol, "dt": 0.05, "dt_min": 2e-4, "adjoint": None} | options
    return solve_sde(
        lambda t, y: MU * y,
        lambda t, y: SIGMA * y,
        y0,
        [0.0, 0.5, 1.0],
        calculus=calculus,
        method=method,
        bm=path,
        adaptive=True,
        stepping="per_sample",
        **settings,
    )


@pytest.mark.parametrize("method", ["sriw1", "heun"])
def test_a_row_has_the_same_bits_in_any_batch(method):
    y0 = torch.linspace(0.5, 5.0, 22, dtype=F64).view(11, 2)
    options = {"tol": 1e-2, "dt": 0.2, "dt_min": 2e-3}
    together = growth(y0, method, tree(11, size=2, levels=SDE_METHODS[method].about.levels), **options)
    counts = together.stats.n_accepted
    assert len(set(counts.tolist())) > 2  # rows do take steps of their own
    for ids in ([3], [10, 0], [7, 3, 1, 9, 2]):
        rows = torch.tensor(ids)
        path = tree(len(ids), rows, size=2, levels=SDE_METHODS[method].about.levels)
        alone = growth(y0[rows], method, path, **options)
        assert torch.equal(alone.y, together.y[rows])
        assert torch.equal(alone.stats.n_accepted, counts[rows])
        assert torch.equal(alone.stats.n_rejected, together.stats.n_rejected[rows])


@pytest.mark.parametrize("method", ["milstein", "sriw1", "spark"])
def test_own_steps_reach_the_closed_form_on_the_trees_own_path(method):
    drift = MU if method == "spark" else MU - SIGMA**2 / 2
    errors, steps = [], []
    for tol in (1e-2, 1e-3):
        path = tree(20)
        solution = growth(torch.ones(20, 1, dtype=F64), method, path, tol)
        exact = torch.exp(drift + SIGMA * path.increment(0.0, 1.0).W)
        errors.append((solution.y[:, -1] - exact).abs().max().item())
        steps.append(solution.stats.n_accepted.sum().item())
    middle = torch.exp(0.5 * drift + SIGMA * path.increment(0.0, 0.5).W)
    assert (solution.y[:, 1] - middle).abs().max() < 0.1
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < 0.1
    assert steps[1] > steps[0]


def test_the_gradient_is_that_of_each_rows_own_steps():
    rate = torch.tensor([0.7, -0.3], dtype=F64, requires_grad=True)
    found = []
    for adjoint in ("direct", "discrete"):
        y0 = torch.tensor([[1.0, 2.0], [0.5, 8.0], [0.1, -3.0]], dtype=F64, requires_grad=True)
        solution = solve_sde(
            lambda t, y: -rate * y + torch.sin(5 * t).unsqueeze(-1),
            lambda t, y: 0.3 * torch.cos(y),
            y0,
            [0.0, 0.3, 1.0],
            method="sriw1",
            bm=tree(3, size=2),
            adaptive=True,
            stepping="per_sample",
            rtol=1e-2,
            atol=1e-2,
            dt_min=2e-3,
            adjoint=adjoint,
        )
        assert solution.grid.ndim == 2
        found.append((solution.y.detach(), *torch.autograd.grad((solution.y**2).sum(), [y0, rate])))
    assert torch.equal(found[0][0], found[1][0])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_time_has_one_entry_for_each_row_and_jumps_end_steps():
    seen = []

    def drift(t, y):
        seen.append(t.shape)
        return torch.where(t < 0.3, 1.0, -1.0).unsqueeze(-1) * torch.ones_like(y)

    solution = solve_sde(
        drift,
        lambda t, y: torch.zeros_like(y),
        torch.ones(3, 2, dtype=F64),
        [0.0, 0.7, 1.0],
        noise="additive",
        method="sra1",
        adaptive=True,
        stepping="per_sample",
        jump_times=[0.3],
        seed=0,
        adjoint=None,
    )
    assert set(seen) == {(3,)}
    for row in solution.grid:
        assert {0.3, 0.7, 1.0} <= set(row.tolist())
    torch.testing.assert_close(solution.y[:, -1], torch.full((3, 2), 0.6, dtype=F64), rtol=1e-9, atol=0)


def test_a_row_that_blows_up_is_given_up_alone():
    solution = solve_sde(
        lambda t, y: torch.where(y > 2, y * y, -y),
        lambda t, y: torch.full_like(y, 0.01),
        torch.tensor([[1.0], [3.0]], dtype=F64),
        [0.0, 1.0],
        noise="additive",
        method="sra1",
        adaptive=True,
        stepping="per_sample",
        dt_min=1e-3,
        seed=0,
        on_failure="return",
    )
    assert solution.status == (Status.SUCCESS, Status.STEP_UNDERFLOW)
    assert solution.y[0].isfinite().all()
    assert solution.y[1, -1].isnan().all()
    assert 0.2 < solution.stats.reached[1] < 0.4  # blow-up at 1/3


def test_a_row_out_of_steps_says_so():
    solution = growth(torch.ones(4, 1, dtype=F64), "sriw1", tree(4), max_steps=5, dt=0.01, on_failure="return")
    assert set(solution.status) == {Status.MAX_STEPS}
    assert (solution.stats.reached < 0.5).all()


def test_reads_by_the_host_are_one_for_eight_attempts():
    solution = growth(torch.ones(6, 1, dtype=F64), "sriw1", tree(6))
    attempts = solution.stats.n_steps.max().item()
    assert attempts > 30
    assert solution.stats.host_reads == -(-attempts // 8)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"adaptive": False, "dt": 0.1}, "adaptive=True"),
        ({"calculus": "stratonovich", "method": "reversible_heun"}, "carries"),
        ({"bm": tree(2, antithetic=True)}, "antithetic"),
        ({"stepping": "rows"}, "stepping"),
    ],
)
def test_what_own_steps_cannot_do_is_refused(options, words):
    given = {"method": "sriw1", "adaptive": True, "stepping": "per_sample", "seed": 0} | options
    if "bm" in given:
        del given["seed"]
    with pytest.raises(OptionError, match=words):
        solve_sde(lambda t, y: -y, lambda t, y: 0.1 * y, torch.ones(2, 1, dtype=F64), [0.0, 1.0], **given)


@pytest.mark.parametrize(
    ("drift", "kind", "words"),
    [
        (lambda t, y: -y * t, OptionError, "whose rows depend"),  # two rows of two components: t meets the wrong axis
        (lambda t, y: -y + y.mean(0), OptionError, "whose rows depend"),
        (lambda t, y: torch.cat([y, t], dim=1), ShapeError, "one time for each row"),
    ],
)
def test_rows_that_are_not_on_their_own_are_refused(drift, kind, words):
    y0 = torch.tensor([[1.0, 2.0], [-0.5, 0.3]], dtype=F64)
    options = {"method": "sriw1", "adaptive": True, "stepping": "per_sample", "seed": 0}
    with pytest.raises(kind, match=words) as caught:
        solve_sde(drift, lambda t, y: 0.1 * y, y0, [0.0, 1.0], **options)
    assert "\n" not in str(caught.value)

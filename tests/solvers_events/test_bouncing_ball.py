"""A ball that bounces: every impact time, state and derivative in closed form."""

import pytest
import torch

from scidyn.solvers import Event, LocalError, Status, solve_ode

F64 = torch.float64
LAST = 5.0


def fall(t, y, p):
    return torch.stack([y[:, 1], -p["gravity"].expand_as(y[:, 1])], dim=1)


def bounce(t, y, p):
    return torch.stack([y[:, 0], -p["restitution"] * y[:, 1]], dim=1)


GROUND = Event(lambda t, y: y[:, 0], direction=-1, jump=bounce)


def parameters():
    values = {"gravity": 9.81, "restitution": 0.8, "height": [10.0, 4.0, 200.0]}
    return {name: torch.tensor(v, dtype=F64, requires_grad=True) for name, v in values.items()}


def dropped(p, times=(0.0, 1.0, 3.0, LAST), events=GROUND, adjoint="discrete", **options):
    start = torch.stack([p["height"], torch.zeros(3, dtype=F64)], dim=1)
    options = {"stepping": "per_sample", **options}
    return solve_ode(fall, start, torch.tensor(times), args=p, events=events, adjoint=adjoint, **options)


def impacts(p, count):
    """Times (3, count) of the impacts: flights of 2 v / g, each with e times the speed of the one before."""
    first = (2 * p["height"] / p["gravity"]).sqrt().unsqueeze(1)
    return first * (1 + 2 * torch.cumsum(p["restitution"] ** torch.arange(count, dtype=F64), 0) - 2)


def state_at(p, t, number):
    """State (3, 2) at time t, after ``number`` impacts of each ball."""
    rows, times = torch.arange(3), impacts(p, 12)
    speed = (2 * p["height"] * p["gravity"]).sqrt() * p["restitution"] ** number
    flown = t - times[rows, (number - 1).clamp_min(0)]
    bounced = torch.stack([speed * flown - p["gravity"] * flown**2 / 2, speed - p["gravity"] * flown], dim=1)
    dropped = torch.stack([p["height"] - p["gravity"] * t**2 / 2, -p["gravity"] * t + 0 * p["height"]], dim=1)
    return torch.where((number > 0).unsqueeze(1), bounced, dropped)


@pytest.mark.parametrize("adjoint", ["discrete", "direct", "reversible", "backsolve"])
def test_impacts_states_and_their_derivatives(adjoint):
    p = parameters()
    solution = dropped(p, times=(0.0, LAST) if adjoint == "backsolve" else (0.0, 1.0, 3.0, LAST), adjoint=adjoint)
    record, leaves = solution.events, list(p.values())
    exact = impacts(p, 12)
    assert solution.status == (Status.SUCCESS,) * 3
    assert record.count.tolist() == (exact < LAST).sum(dim=1).tolist() == [2, 4, 0]
    met = ~torch.isnan(record.t)
    assert torch.equal(met.sum(dim=1), record.count)
    torch.testing.assert_close(record.t[met], exact[:, : met.shape[1]][met], rtol=1e-10, atol=0)
    assert record.before[met][:, 0].abs().max() < 1e-12
    torch.testing.assert_close(record.after[met][:, 1], -0.8 * record.before[met][:, 1], rtol=1e-14, atol=0)
    last = state_at(p, LAST, record.count)
    torch.testing.assert_close(solution.y[:, -1], last, rtol=1e-9, atol=1e-9)
    loss, closed = (
        (t[met] ** 2).sum() + (y**2).sum() for t, y in ((record.t, solution.y[:, -1]), (exact[:, : met.shape[1]], last))
    )
    for mine, wanted in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(closed, leaves), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("adjoint", ["discrete", "direct"])
def test_second_derivatives(adjoint):
    p = parameters()
    solution, leaves = dropped(p, adjoint=adjoint), list(p.values())
    ours, closed = solution.y[:, -1].sum() + solution.events.t[1, 1], None
    closed = state_at(p, LAST, solution.events.count).sum() + impacts(p, 2)[1, 1]
    pairs = []
    for value in (ours, closed):
        first = torch.autograd.grad(value, leaves, create_graph=True)
        pairs.append(torch.autograd.grad(sum((g**2).sum() for g in first), leaves))
    for mine, wanted in zip(*pairs, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-7, atol=1e-7)


def test_rows_between_impacts_are_those_of_the_flight_they_lie_in():
    p = parameters()
    times = torch.linspace(0, LAST, 41, dtype=F64)
    solution, exact = dropped(p, times=times.tolist()), impacts(p, 12)
    for j, t in enumerate(times):
        torch.testing.assert_close(solution.y[:, j], state_at(p, t, (exact < t).sum(dim=1)), rtol=1e-9, atol=1e-9)


def test_dense_output_jumps_where_the_state_does():
    p = parameters()
    solution = dropped(p, dense=True)
    times = torch.linspace(0, LAST, 97, dtype=F64)
    rows, exact = solution.dense(times), impacts(p, 12)
    for j, t in enumerate(times):
        torch.testing.assert_close(rows[:, j], state_at(p, t, (exact < t).sum(dim=1)).detach(), rtol=1e-8, atol=1e-8)
    before, after = (solution.dense((solution.events.t[0, :1] + s).tolist())[0, 0, 1] for s in (-1e-6, 1e-6))
    assert before < -13
    assert after > 11


@pytest.mark.parametrize("options", [{"checkpoints": 3}, {"regularize": LocalError()}])
def test_checkpoints_and_measures_of_the_steps_go_with_events(options):
    p = parameters()
    plain, with_option = dropped(p, rtol=1e-9), dropped(p, rtol=1e-9, **options)
    assert torch.equal(plain.y, with_option.y)
    grads = [torch.autograd.grad(s.y[:, -1].sum(), p["height"], retain_graph=True)[0] for s in (plain, with_option)]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-10, atol=0)
    if "regularize" in options:
        shown = with_option.reg
        assert torch.isfinite(shown.value)
        assert shown.h.sum(dim=1).tolist() == pytest.approx([LAST] * 3)
        assert torch.equal((shown.h > 0).sum(dim=1), with_option.stats.n_accepted)


def test_one_random_step_between_the_impacts():
    p = parameters()
    solution = dropped(p, adjoint="discrete")
    value = solution.local_regulariser(generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(value).all()


def test_a_limit_on_the_number_of_crossings():
    p = parameters()
    free = dropped(p, events=GROUND._replace(max_count=1))
    assert free.events.count.tolist() == [1, 1, 0]
    assert free.y[0, -1, 0] < -1  # the second time it falls through
    ended = dropped(p, events=GROUND._replace(max_count=2, terminal=True))
    assert ended.status == (Status.EVENT, Status.EVENT, Status.SUCCESS)
    assert ended.events.count.tolist() == [2, 2, 0]
    torch.testing.assert_close(ended.events.t[:2], impacts(p, 2)[:2], rtol=1e-10, atol=0)
    assert torch.isnan(ended.y[1, 2]).all()
    torch.testing.assert_close(ended.stats.reached[:2], impacts(p, 2)[:2, 1].detach(), rtol=1e-8, atol=0)


def test_a_ball_that_starts_on_the_ground_flies():
    start = torch.tensor([[0.0, 5.0], [0.0, 10.0]], dtype=F64)
    p = parameters() | {"restitution": torch.tensor(0.5, dtype=F64)}
    for direction in (0, -1):
        solution = solve_ode(
            fall, start, [0.0, 1.8], args=p, stepping="per_sample", events=GROUND._replace(direction=direction)
        )
        assert solution.events.count.tolist() == [3, 0]
        flight = torch.tensor([10 / 9.81, 15 / 9.81, 17.5 / 9.81], dtype=F64)
        torch.testing.assert_close(solution.events.t[0].detach(), flight, rtol=1e-10, atol=0)


def test_infinitely_many_bounces_end_by_themselves():
    # the impacts accumulate at a finite time; the solve must neither hang nor let the ball fall through the ground
    p = parameters() | {"restitution": torch.tensor(0.1, dtype=F64)}
    solution = dropped(p, adjoint=None, on_failure="return")
    assert solution.status == (Status.EVENT_STUCK, Status.EVENT_STUCK, Status.SUCCESS)
    rest = impacts(p, 2)[:2, 0] * (1 + 2 * 0.1 / 0.9)
    torch.testing.assert_close(solution.stats.reached[:2], rest.detach(), rtol=1e-7, atol=0)
    assert torch.isnan(solution.y[:2, -1]).all()
    limited = dropped(p, adjoint=None, on_failure="return", max_steps=12)
    assert limited.status[0] == Status.MAX_STEPS
    assert limited.stats.n_steps[0] == 12


def test_bitwise_independence_of_the_other_samples():
    p = parameters()
    together = dropped(p, adjoint=None)
    for i in range(3):
        one = p | {"height": p["height"][[i, i, i]]}
        alone = dropped(one, adjoint=None)
        assert torch.equal(alone.y[0], together.y[i])
        count = int(together.events.count[i])
        assert torch.equal(alone.events.t[0, :count], together.events.t[i, :count])


def test_single_precision():
    p = {name: x.detach().to(torch.float32) for name, x in parameters().items()}
    start = torch.stack([p["height"], torch.zeros(3)], dim=1)
    solution = solve_ode(fall, start, [0.0, LAST], args=p, stepping="per_sample", events=GROUND)
    assert solution.events.count.tolist() == [2, 4, 0]
    exact = impacts(parameters(), 4).to(torch.float32)
    torch.testing.assert_close(solution.events.t[1].to(torch.float32), exact[1].detach(), rtol=1e-5, atol=0)

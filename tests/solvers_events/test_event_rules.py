"""What counts as a crossing, which of several events acts, and what is refused."""

import pytest
import torch

from scidyn.errors import NonFiniteError, OptionError, ShapeError
from scidyn.solvers import Event, Status, solve_ode

F64 = torch.float64


def rise(t, y):
    return 1.0 + 0.0 * y


def swing(t, y):
    return torch.stack([y[..., 1], -y[..., 0]], dim=-1)


def solved(f, y0, t, events, **options):
    options = {"stepping": "per_sample", "rtol": 1e-9, "atol": 1e-11, **options}
    return solve_ode(f, torch.tensor(y0, dtype=F64), t, events=events, **options)


def test_events_that_are_only_recorded_change_nothing():
    amplitude = torch.tensor([1.0, 2.0], dtype=F64, requires_grad=True)
    start = torch.stack([torch.zeros(2, dtype=F64), amplitude], dim=1)
    half = Event(lambda t, y: y[:, 0] - 0.5, terminal=False)
    options = {"stepping": "per_sample", "rtol": 1e-9, "atol": 1e-11}
    t = torch.linspace(0, 7, 15, dtype=F64)
    plain, watched = solve_ode(swing, start, t, **options), solve_ode(swing, start, t, events=half, **options)
    assert torch.equal(plain.y, watched.y)
    first = torch.asin(0.5 / amplitude)
    exact = torch.stack([first, torch.pi - first, 2 * torch.pi + first], dim=1)
    assert watched.events.count.tolist() == [3, 3]
    torch.testing.assert_close(watched.events.t, exact, rtol=1e-8, atol=0)
    assert torch.equal(watched.events.before, watched.events.after)
    torch.testing.assert_close(
        watched.events.before[..., 1], amplitude.unsqueeze(1) * torch.cos(exact), rtol=1e-7, atol=0
    )
    for k in range(3):
        found, wanted = (
            torch.autograd.grad(x[:, k].sum(), amplitude, retain_graph=True)[0] for x in (watched.events.t, exact)
        )
        torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("direction", "count"), [(0, 4), (1, 2), (-1, 2)])
def test_direction(direction, count):
    event = Event(lambda t, y: y[:, 0] - 0.5, direction, terminal=False)
    assert solved(swing, [[0.0, 1.0]], [0.0, 4 * torch.pi], event).events.count.item() == count


def test_max_count_of_a_recorded_event():
    event = Event(lambda t, y: y[:, 0] - 0.5, terminal=False, max_count=3)
    assert solved(swing, [[0.0, 1.0], [0.0, 0.1]], [0.0, 12.0], event).events.count.tolist() == [3, 0]


def test_the_earliest_of_several_events_wins():
    events = [Event(lambda t, y: y[:, 0] - 2.0), Event(lambda t, y: y[:, 0] - 1.0)]
    solution = solved(rise, [[0.0], [1.5], [3.0]], [0.0, 10.0], events)
    assert solution.status == (Status.EVENT, Status.EVENT, Status.SUCCESS)
    assert [r.count.tolist() for r in solution.events] == [[0, 1, 0], [1, 0, 0]]
    torch.testing.assert_close(solution.events[1].t[0, 0].item(), 1.0)


def test_at_the_same_time_all_are_recorded_and_the_first_that_stops_acts():
    def at_one(**options):
        return Event(lambda t, y: y[:, 0] - 1.0, **options)

    low, high = (at_one(jump=lambda t, y, to=to: torch.full_like(y, to)) for to in (-1.0, -2.0))
    seen = at_one(terminal=False)
    solution = solved(rise, [[0.0]], [0.0, 1.5], [low, seen, high])
    assert [r.count.item() for r in solution.events] == [1, 1, 0]
    torch.testing.assert_close(solution.y[0, -1, 0].item(), -0.5)
    solution = solved(rise, [[0.0]], [0.0, 1.5], [seen, high, low])
    assert [r.count.item() for r in solution.events] == [1, 1, 0]
    torch.testing.assert_close(solution.y[0, -1, 0].item(), -1.5)


def test_a_reported_time_equal_to_that_of_a_jump_shows_the_state_after_it():
    wrap = Event(lambda t, y: y[:, 0] - 1.0, jump=lambda t, y: 0 * y)
    solution = solved(rise, [[0.5]], [0.0, 0.5, 1.0, 1.5], wrap)
    assert solution.y[0, 2, 0].item() == pytest.approx(0.5, abs=1e-12)
    at_time = solved(rise, [[0.5]], torch.tensor([0.0, solution.events.t[0, 0].item(), 1.0], dtype=F64), wrap)
    assert abs(at_time.y[0, 1, 0].item()) < 1e-9


def test_crossings_within_one_step_are_seen_with_a_smaller_step():
    # y is 1 at all steps' ends but below 0 between t = 4.9 and 5.1
    def dip(t, y):
        return 2.0 - y[:, 0] - 1.5 * torch.exp(-(((t - 5.0) / 0.05) ** 2))

    event = Event(lambda t, y: dip(t, y), terminal=False)
    missed, seen = (solved(lambda t, y: 0 * y, [[1.0]], [0.0, 10.0], event, dt_max=d) for d in (None, 0.05))
    assert missed.events.count.item() == 0
    assert seen.events.count.item() == 2
    width = 0.05 * torch.tensor(1.5, dtype=F64).log().sqrt()
    torch.testing.assert_close(seen.events.t[0], torch.stack([5.0 - width, 5.0 + width]), rtol=1e-10, atol=0)


@pytest.mark.parametrize("shape", [(1, 1), (1,)])
def test_shared_steps_with_one_sample(shape):
    event = Event(lambda t, y: y[..., 0] - 1.0, jump=lambda t, y: 0 * y)
    solution = solve_ode(rise, torch.zeros(shape, dtype=F64), [0.0, 2.5], events=event, dense=True)
    torch.testing.assert_close(solution.events.t[0], torch.tensor([1.0, 2.0], dtype=F64), rtol=1e-9, atol=0)
    torch.testing.assert_close(solution.dense([0.5, 1.5, 2.25])[0, :, 0], torch.tensor([0.5, 0.5, 0.25], dtype=F64))


def test_decreasing_times():
    # backwards a sawtooth falls to 0 and jumps up to 1; g = y rises with t at each tooth
    height = torch.tensor([[0.5], [0.25]], dtype=F64, requires_grad=True)
    tooth = Event(lambda t, y: y[:, 0], direction=1, jump=lambda t, y: torch.ones_like(y))
    options = {"stepping": "per_sample", "events": tooth}
    solution = solve_ode(rise, height, torch.tensor([0.0, -1.0, -2.0, -2.4], dtype=F64), **options)
    exact = -(height + torch.arange(3))
    assert solution.events.count.tolist() == [2, 3]
    met = ~torch.isnan(solution.events.t)
    torch.testing.assert_close(solution.events.t[met], exact[met], rtol=1e-9, atol=0)
    torch.testing.assert_close(solution.y[0, 1:, 0], torch.tensor([0.5, 0.5, 0.1], dtype=F64), rtol=1e-8, atol=0)
    (slope,) = torch.autograd.grad(solution.events.t[met].sum() + solution.y[:, -1].sum(), height)
    torch.testing.assert_close(slope[:, 0], torch.tensor([-1.0, -2.0], dtype=F64), rtol=1e-9, atol=0)
    forward = tooth._replace(direction=-1)
    assert solve_ode(rise, height, [0.0, -2.4], **options | {"events": forward}).events.count.tolist() == [0, 0]


def test_each_sample_has_times_of_its_own():
    times = torch.tensor([[0.0, 0.7, 1.2, torch.nan], [1.0, 2.5, 3.5, 4.5]], dtype=F64)
    wrap = Event(lambda t, y: y[:, 0] - 1.0, jump=lambda t, y: y - 1.0)
    solution = solved(rise, [[0.0], [0.0]], times, wrap)
    wanted = torch.tensor([[0.0, 0.7, 0.2, torch.nan], [0.0, 0.5, 0.5, 0.5]], dtype=F64)
    torch.testing.assert_close(solution.y[..., 0], wanted, rtol=1e-8, atol=1e-9, equal_nan=True)
    torch.testing.assert_close(solution.events.t[1], torch.tensor([2.0, 3.0, 4.0], dtype=F64), rtol=1e-9, atol=0)


def test_a_failing_sample_leaves_the_others_alone():
    # y' = y^2 from 1 blows up at t = 1; the other sample wraps three times
    def f(t, y):
        return torch.stack([torch.where(y[:, 1] > 0, y[:, 0] ** 2, 1.0), 0 * y[:, 1]], dim=1)

    rate = torch.tensor(1.0, dtype=F64, requires_grad=True)
    event = Event(
        lambda t, y: y[:, 0] - torch.where(y[:, 1] > 0, 1e30, 1.0), jump=lambda t, y: y * torch.tensor([0.0, 1.0])
    )
    start = torch.tensor([[1.0, 1.0], [0.5, 0.0]], dtype=F64)
    solution = solve_ode(
        lambda t, y: rate * f(t, y),
        start,
        torch.tensor([0.0, 0.9, 3.0], dtype=F64),
        stepping="per_sample",
        events=event,
        on_failure="return",
    )
    assert not solution.status[0].success
    assert solution.status[1] is Status.SUCCESS
    assert torch.isnan(solution.y[0, 2]).all()
    torch.testing.assert_close(solution.y[1, :, 0], torch.tensor([0.5, 0.4, 0.5], dtype=F64), rtol=1e-8, atol=0)
    (slope,) = torch.autograd.grad(solution.y[1, -1, 0], rate)
    torch.testing.assert_close(slope.item(), 3.0)


def test_an_event_of_a_complex_state():
    y0 = torch.tensor([[1.0 + 0j]], dtype=torch.complex128, requires_grad=True)
    speed = torch.tensor(2.0, dtype=F64, requires_grad=True)
    event = Event(lambda t, y: y[:, 0].real + 0.5)
    solution = solve_ode(lambda t, y: 1j * speed * y, y0, [0.0, 3.0], stepping="per_sample", events=event, rtol=1e-9)
    exact = 2 * torch.pi / 3 / 2
    assert solution.events.t.item() == pytest.approx(exact, rel=1e-7)
    (slope,) = torch.autograd.grad(solution.events.t.sum(), speed)
    assert slope.item() == pytest.approx(-exact / 2, rel=1e-6)


def test_progress_goes_from_nothing_to_all():
    told = []
    wrap = Event(lambda t, y: y[:, 0] - 1.0, jump=lambda t, y: 0 * y)
    solved(rise, [[0.0]], [0.0, 3.5], wrap, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("event", "error", "words"),
    [
        (Event(lambda t, y: y), ShapeError, r"event function of event 0 returned shape \(2, 1\); \(2,\) is needed"),
        (Event(lambda t, y: 1.0), ShapeError, "returned a float"),
        (Event(lambda t, y: y[:, 0] > 1), ShapeError, "dtype torch.bool"),
        (Event(lambda t, y: y[:, 0] * torch.nan), NonFiniteError, "returned nan for sample 0 at t=0"),
        (Event(lambda t, y: (1.5 - y[:, 0]).sqrt() - 2.0), NonFiniteError, "returned nan for sample 1 at t="),
        (Event(lambda t, y: y[:, 0] - 2.0, direction=2), OptionError, "direction of event 0"),
        (Event(lambda t, y: y[:, 0] - 2.0, max_count=0), OptionError, "max_count of event 0"),
        (Event(lambda t, y: y[:, 0] - 2.0, terminal="yes"), OptionError, "terminal of event 0"),
        (Event("y > 0"), OptionError, "fn of event 0 must be a function"),
        (Event(lambda t, y: y[:, 0] - 2.0, jump=3.0), OptionError, "jump of event 0 must be a function"),
        (
            Event(lambda t, y: y[:, 0] - 2.0, jump=lambda t, y: y[:, 0]),
            ShapeError,
            r"jump of event 0 returned shape \(2,\)",
        ),
        (Event(lambda t, y: y[:, 0] - 2.0, jump=lambda t, y: y.float()), ShapeError, "torch.float32"),
        (Event(lambda t, y: y[:, 0] - 2.0, jump=lambda t, y: y * torch.inf), NonFiniteError, "sample 0 at t=2"),
        ([], OptionError, "an Event or a sequence"),
        (lambda t, y: y[:, 0], OptionError, "an Event or a sequence"),
    ],
)
def test_a_wrong_event_is_refused_with_a_sentence(event, error, words):
    with pytest.raises(error, match=words):
        solved(rise, [[0.0], [1.0]], [0.0, 3.0], event)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stepping": None}, "stepping='per_sample' with a batch of 2"),
        ({"stepping": "shared"}, "stepping='per_sample' with a batch of 2"),
        ({"method": "rk4", "stepping": "fixed"}, "adaptive steps"),
        ({"backend": "scipy", "method": "RK45"}, "backend='native'"),
        ({"jump": lambda t, y: y}, "jump_times"),
    ],
)
def test_options_that_do_not_go_with_events(options, words):
    with pytest.raises(OptionError, match=words):
        solved(rise, [[0.0], [1.0]], [0.0, 3.0], Event(lambda t, y: y[:, 0] - 2.0), **options)


def test_harvests_against_scipy():
    """Lotka-Volterra whose prey is halved whenever it rises through 2: SciPy's events, restarted at each."""
    from scipy.integrate import solve_ivp

    def f(t, y):
        return torch.stack([y[..., 0] * (1.1 - 0.6 * y[..., 1]), y[..., 1] * (0.4 * y[..., 0] - 0.5)], dim=-1)

    def reference(y, last):
        def rates(t, y):
            return [y[0] * (1.1 - 0.6 * y[1]), y[1] * (0.4 * y[0] - 0.5)]

        def limit(t, y):
            return y[0] - 2.0

        limit.terminal, limit.direction = True, 1
        t, times = 0.0, []
        while True:
            run = solve_ivp(rates, (t, last), y, method="DOP853", rtol=1e-12, atol=1e-12, events=limit)
            y = run.y[:, -1]
            if run.status != 1:
                return times, y
            t = run.t[-1]
            times.append(t)
            y = [0.5 * y[0], y[1]]

    start = [[1.0, 1.0], [0.5, 0.3], [1.9, 0.2]]
    harvest = Event(lambda t, y: y[:, 0] - 2.0, 1, jump=lambda t, y: y * torch.tensor([0.5, 1.0], dtype=F64))
    solution = solved(f, start, [0.0, 20.0], harvest)
    for i, y in enumerate(start):
        times, last = reference(y, 20.0)
        assert solution.events.count[i] == len(times) > 1
        torch.testing.assert_close(
            solution.events.t[i, : len(times)], torch.tensor(times, dtype=F64), rtol=1e-7, atol=0
        )
        torch.testing.assert_close(solution.y[i, -1], torch.tensor(last, dtype=F64), rtol=1e-6, atol=0)

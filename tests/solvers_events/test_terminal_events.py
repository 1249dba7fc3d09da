"""Events of each sample: time, state and derivatives of a falling ball in closed form."""

import pytest
import torch

from scidyn.solvers import Event, Status, solve_ode

F64 = torch.float64
GROUND = Event(lambda t, y: y[:, 0])


def fall(t, y, gravity):
    return torch.stack([y[:, 1], -gravity.expand_as(t)], dim=1)


def dropped(adjoint="discrete", events=GROUND, times=(0.0, 1.0, 2.0), **options):
    height = torch.tensor([10.0, 2.0, 50.0], dtype=F64, requires_grad=True)
    gravity = torch.tensor(9.81, dtype=F64, requires_grad=True)
    start = torch.stack([height, torch.zeros(3, dtype=F64)], dim=1)
    solution = solve_ode(
        fall, start, times, args=gravity, stepping="per_sample", adjoint=adjoint, events=events, **options
    )
    return solution, height, gravity


@pytest.mark.parametrize("adjoint", ["discrete", "direct"])
def test_time_state_and_derivatives_of_the_impact(adjoint):
    solution, height, gravity = dropped(adjoint)
    assert solution.status == (Status.EVENT, Status.EVENT, Status.SUCCESS)
    exact = (2 * height / gravity).sqrt().detach()
    torch.testing.assert_close(solution.events.t[:2, 0].detach(), exact[:2], rtol=1e-10, atol=0)
    assert bool(torch.isnan(solution.events.t[2, 0]))
    assert torch.isnan(solution.y[:, :, 0]).tolist() == [[False, False, True], [False, True, True], [False] * 3]
    time = torch.autograd.grad(solution.events.t[:2].sum(), (height, gravity), retain_graph=True)
    torch.testing.assert_close(time[0], torch.cat([exact[:2] / (2 * height[:2].detach()), exact.new_zeros(1)]))
    torch.testing.assert_close(time[1], -(exact[:2] / (2 * gravity.detach())).sum())
    speed = torch.autograd.grad(solution.events.before[0, 0, 1], height)[0]
    torch.testing.assert_close(speed[0], -(gravity.detach() / (2 * height[0].detach())).sqrt())


def test_direction_selects_crossings():
    rising = dropped(events=GROUND._replace(direction=1))[0]
    assert rising.status == (Status.SUCCESS,) * 3
    falling = dropped(events=GROUND._replace(direction=-1))[0]
    assert falling.status == (Status.EVENT, Status.EVENT, Status.SUCCESS)


def test_backwards_in_time():
    event = Event(lambda t, y: y[:, 0] - 20.0)
    y0 = torch.ones(1, 1, dtype=F64)
    solution = solve_ode(lambda t, y: -y, y0, [0.0, -4.0], stepping="per_sample", events=event)
    torch.testing.assert_close(solution.events.t[:, 0], -torch.tensor([20.0], dtype=F64).log(), rtol=1e-6, atol=0)


def test_a_tangential_event_is_named():
    # the solution runs along the surface where it crosses: (s - 1)^3 = 0 with s = t
    event = Event(lambda t, y: (y[:, 0] - 1.0) ** 3 + y[:, 1])
    options = {"stepping": "per_sample", "events": event, "on_failure": "return"}
    rate = torch.tensor([1.0, 0.0], dtype=F64)
    solution = solve_ode(lambda t, y: rate.expand_as(y), torch.zeros(1, 2, dtype=F64), [0.0, 2.0], **options)
    assert solution.status == (Status.EVENT_GRAZING,)
    torch.testing.assert_close(solution.events.t, torch.ones(1, 1, dtype=F64), rtol=1e-8, atol=0)

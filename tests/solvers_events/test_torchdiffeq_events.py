"""torchdiffeq's documented example of events, beside that package itself.

The ball bounces without friction: a solve to the impact, a new velocity, a small push off the ground, and so on.
"""

import pytest
import torch
from torch import nn

from scidyn.solvers import odeint, odeint_adjoint, odeint_event

torchdiffeq = pytest.importorskip("torchdiffeq")
F64 = torch.float64


class BouncingBall(nn.Module):
    """The module of the example: parameters for all that can be learnt, and an event at the ground."""

    def __init__(self):
        super().__init__()
        self.gravity = nn.Parameter(torch.tensor([9.8], dtype=F64))
        self.log_radius = nn.Parameter(torch.log(torch.tensor([0.2], dtype=F64)))
        self.t0 = nn.Parameter(torch.tensor([0.0], dtype=F64))
        self.height = nn.Parameter(torch.tensor([10.0], dtype=F64))
        self.speed = nn.Parameter(torch.tensor([0.0], dtype=F64))
        self.absorption = nn.Parameter(torch.tensor([0.2], dtype=F64))

    def forward(self, t, state):
        position, velocity, radius = state
        return velocity, -self.gravity + 0 * position, torch.zeros_like(radius)

    def event(self, t, state):
        position, _, log_radius = state
        return position - torch.exp(log_radius)

    def impacts(self, solve, interface, count):
        time, state, times = self.t0, (self.height, self.speed, self.log_radius), []
        for _ in range(count):
            time, states = solve(
                self, state, time.squeeze(), event_fn=self.event, odeint_interface=interface, atol=1e-10, rtol=1e-10
            )
            position, velocity, log_radius = (s[-1] for s in states)
            state = (position + 1e-7, -velocity * (1 - self.absorption), log_radius)
            times.append(time)
        return torch.stack([t.squeeze() for t in times])


@pytest.mark.parametrize("ours", [odeint, odeint_adjoint])
def test_the_documented_example(ours):
    theirs = torchdiffeq.odeint if ours is odeint else torchdiffeq.odeint_adjoint
    results = []
    for solve, interface in ((odeint_event, ours), (torchdiffeq.odeint_event, theirs)):
        ball = BouncingBall()
        times = ball.impacts(solve, interface, 3)
        (times.sum() + 2 * times[-1]).backward()
        results.append((times.detach(), torch.cat([p.grad for p in ball.parameters()])))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-7, atol=0)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=2e-5, atol=1e-7)
    # without drag and push the first fall is sqrt(2 (h - r) / g)
    assert results[0][0][0].item() == pytest.approx((2 * 9.8 / 9.8) ** 0.5, rel=1e-7)

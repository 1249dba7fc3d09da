"""Time and error of scidyn, torchdiffeq and SciPy on the same problems, interleaved, on one thread.

``python benchmarks/solve_ode.py [--repeat 7]`` prints a table per problem. Compilation and one warm-up call
come before the clock, which counts CPU seconds of this process. The last column compares at equal error:
the time of the fastest setting of the peer that is at least as accurate, over the time of the row.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from torchdiffeq import odeint, odeint_adjoint

from scidyn.solvers import solve_ode

F64 = torch.float64


class Row(NamedTuple):
    """One competitor: its name, what it runs, how wrong the result is."""

    name: str
    run: Callable[[], object]
    error: Callable[[object], float]
    peer: str


def measure(title: str, rows: Sequence[Row], repeat: int) -> None:
    """Run the rows in turn, ``repeat`` times, and print medians and ratios."""
    errors, times = [], [[] for _ in rows]
    for row in rows:
        errors.append(row.error(row.run()))
    for _ in range(repeat):
        for row, seconds in zip(rows, times, strict=True):
            begin = time.process_time()
            row.run()
            seconds.append(time.process_time() - begin)
    medians = [statistics.median(seconds) for seconds in times]
    print(f"\n{title}\n{'':44} {'error':>9} {'ms':>9}  times faster than, at equal error")
    for row, error, own in zip(rows, errors, medians, strict=True):
        cells = []
        for peer in () if row.peer else dict.fromkeys(r.peer for r in rows if r.peer):
            able = [
                seconds
                for other, wrong, seconds in zip(rows, errors, medians, strict=True)
                if other.peer == peer and wrong <= 1.1 * error
            ]
            cells.append(f"{peer} {min(able) / own:.1f}" if able else f"{peer}: none as accurate")
        print(f"{row.name:44} {error:9.1e} {1e3 * own:9.2f}  {', '.join(cells)}", flush=True)


def van_der_pol(t: Tensor, y: Tensor) -> Tensor:
    x, v = y.unbind(-1)
    return torch.stack([v, 5.0 * (1 - x * x) * v - x], dim=-1)


def forward(repeat: int, batch: int) -> None:
    """Van der Pol, mu = 5, 100 reported times up to 10, without gradients."""
    generator = torch.Generator().manual_seed(0)
    y0 = torch.tensor([2.0, 0.0], dtype=F64) + 0.5 * torch.randn(batch, 2, dtype=F64, generator=generator)
    t = torch.linspace(0, 10, 100, dtype=F64)
    exact = odeint(van_der_pol, y0, t, rtol=1e-11, atol=1e-11).transpose(0, 1)

    def wrong(y: object) -> float:
        return float((y - exact).abs().max())

    def ours(stepping: str, method: str, compile: bool) -> Row:
        def run() -> Tensor:
            options = {"method": method, "rtol": 1e-6, "atol": 1e-6, "adjoint": None}
            return solve_ode(van_der_pol, y0, t, stepping=stepping, compile=compile, **options).y

        return Row(f"scidyn {method} {stepping}{' compiled' if compile else ''} 1e-6", run, wrong, "")

    def theirs(tol: float) -> Row:
        return Row(
            f"torchdiffeq dopri5 {tol:.0e}",
            lambda: odeint(van_der_pol, y0, t, rtol=tol, atol=tol, method="dopri5").transpose(0, 1),
            wrong,
            "torchdiffeq",
        )

    def scipy_stacked(tol: float) -> Row:
        def f(s: float, y: np.ndarray) -> np.ndarray:
            x, v = y.reshape(batch, 2).T
            return np.stack([v, 5.0 * (1 - x * x) * v - x], axis=-1).reshape(-1)

        def run() -> Tensor:
            found = solve_ivp(f, (0, 10), y0.numpy().reshape(-1), method="RK45", rtol=tol, atol=tol, t_eval=t.numpy())
            return torch.as_tensor(found.y).reshape(batch, 2, -1).permute(0, 2, 1)

        return Row(f"SciPy RK45, batch as one system {tol:.0e}", run, wrong, "SciPy")

    rows = [
        ours("shared", "tsit5", False),
        ours("per_sample", "dopri5", False),
        ours("shared", "tsit5", True),
        ours("per_sample", "dopri5", True),
        *map(theirs, (1e-6, 3e-7, 1e-7, 3e-8)),
        *map(scipy_stacked, (1e-6, 3e-7, 1e-7, 3e-8)),
    ]
    with torch.no_grad():
        measure(f"Forward, Van der Pol, batch {batch}, float64", rows, repeat)


class Network(torch.nn.Module):
    """A small vector field: 2-50-2 with tanh, on the cubes of the state."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(2, 50), torch.nn.Tanh(), torch.nn.Linear(50, 2))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.layers(y**3)


def trained_network() -> Network:
    """Fit the network to a spiral's vector field so that its trajectories turn as a trained model's do."""
    torch.manual_seed(0)
    network, spiral = Network(), torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(500):
        y = 1.5 * torch.randn(256, 2)
        loss = ((network(y, y) - (y**3) @ spiral.T).clamp(-20, 20) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.to(F64)


def gradient(repeat: int, batch: int) -> None:
    """Gradient of a mean square of 60 reported times up to 12 with respect to all weights."""
    network = trained_network()
    weights = list(network.parameters())
    y0 = torch.tensor([2.0, 0.0], dtype=F64) + 0.3 * torch.randn(
        batch, 2, dtype=F64, generator=torch.Generator().manual_seed(1)
    )
    t = torch.linspace(0, 12, 60, dtype=F64)

    def slope(y: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((y**2).mean(), weights)

    exact = slope(solve_ode(network, y0, t, rtol=1e-11, atol=1e-12).y)

    def wrong(found: object) -> float:
        return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, exact, strict=True))

    def ours(stepping: str, compile: bool, tol: float) -> Row:
        def run() -> object:
            return slope(solve_ode(network, y0, t, rtol=tol, atol=tol / 10, stepping=stepping, compile=compile).y)

        return Row(f"scidyn tsit5 {stepping}{' compiled' if compile else ''} {tol:.0e}", run, wrong, "")

    def theirs(solve: Callable[..., Tensor], tol: float) -> Row:
        name = "backprop" if solve is odeint else "adjoint"
        return Row(
            f"torchdiffeq dopri5 {name} {tol:.0e}",
            lambda: slope(solve(network, y0, t, rtol=tol, atol=tol / 10, method="dopri5").transpose(0, 1)),
            wrong,
            f"torchdiffeq {name}",
        )

    rows = [
        ours("shared", False, 1e-6),
        ours("shared", True, 1e-6),
        ours("per_sample", False, 1e-6),
        ours("per_sample", True, 1e-6),
        *(theirs(odeint, tol) for tol in (1e-5, 1e-6, 3e-7, 1e-7, 3e-8, 1e-8)),
        *(theirs(odeint_adjoint, tol) for tol in (1e-6, 1e-7)),
    ]
    measure(f"Gradient of a neural ODE, batch {batch}, float64", rows, repeat)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=7)
    repeat = parser.parse_args().repeat
    torch.set_num_threads(1)
    for batch in (256, 1):
        forward(repeat, batch)
    for batch in (16, 1):
        gradient(repeat, batch)


if __name__ == "__main__":
    main()

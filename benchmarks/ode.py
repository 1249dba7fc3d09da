"""Ordinary differential equations: speed, memory and error of scidyn beside its peers.

``python benchmarks/ode.py [forward] [stiff] [first_call] [gradients] [memory]`` runs the sections named, or all. One
thread; competitors take turns; medians of CPU seconds of this process; after a first call, which is reported.
Tables give the time and the error at each tolerance and the time at the error of the first row of the group,
interpolated between tolerances ("<" and ">" mark bounds). Peers that are not installed are left out.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

SECTIONS = ("forward", "stiff", "first_call", "gradients", "memory")


def forward(options: argparse.Namespace) -> None:
    """Non-stiff batches."""
    from ode_forward import contests

    for contest in contests(tuple(options.batch)):
        if options.only in contest.title:
            contest.measure(options.rounds, options.limit)
            contest.report()


def stiff(options: argparse.Namespace) -> None:
    """Stiff problems, forward and with gradients."""
    from ode_stiff import contests, gradient_contests

    for source in (contests, gradient_contests):
        for contest in source(options.only):
            contest.measure(options.rounds, options.limit)
            contest.report()


def gradients(options: argparse.Namespace) -> None:
    """Gradients of neural differential equations."""
    try:
        from ode_gradients import main
    except ImportError as missing:
        print(f"left out: gradients ({missing})")
        return
    main(["--repeat", str(options.rounds)])


FIRST_CALL = """
import sys, time, torch
torch.set_num_threads(1)
from scidyn.solvers import solve_ode
compile = {"True": True, "False": False, "auto": "auto"}[sys.argv[1]]
warm = torch.ones(1, 1, dtype=torch.float64)
solve_ode(lambda t, y: -y, warm, [0.0, 1.0])  # what every process pays once
y0 = torch.tensor([2.0, 0.0], dtype=torch.float64) + 0.1 * torch.arange(100, dtype=torch.float64).unsqueeze(1) / 100
def van_der_pol(t, y):
    x, v = y.unbind(-1)
    return torch.stack([v, 5.0 * (1 - x * x) * v - x], dim=-1)
for end in (0.1, 10.0, 11.0):
    begin = time.perf_counter()
    solve_ode(van_der_pol, y0, [0.0, end], stepping="per_sample", compile=compile)
    print(f"{1e3 * (time.perf_counter() - begin):.1f}")
"""


def first_call(options: argparse.Namespace) -> None:
    """Wall time of the first solves of a process: a short one, a long one, one with another last time."""
    print("\n### First solves of a process, Van der Pol, mu = 5, batch 100, ms of wall time\n")
    print("| compile | cache | t = 0.1 | t = 10 | t = 11 |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for compile, cache in (
            ("False", "-"),
            ("auto", "empty"),
            ("True", "empty"),
            ("True", "warm"),
            ("auto", "warm"),
        ):
            environment = {**os.environ, "XDG_CACHE_HOME": folder, "OMP_NUM_THREADS": "1"}
            root = str(Path(__file__).parents[1])
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
            command = [sys.executable, "-c", FIRST_CALL, compile]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            print(f"| {compile} | {cache} | " + " | ".join(done.stdout.split()) + " |", flush=True)


def memory(options: argparse.Namespace) -> None:
    """Numbers that the discrete adjoint keeps, and growth over many training steps."""
    import resource

    from scidyn.solvers import Solution, solve_ode

    batch, width = 64, 8
    matrix = torch.randn(width, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 3
    weights = (matrix - 1.5 * torch.eye(width, dtype=torch.float64)).requires_grad_()
    y0 = torch.ones(batch, width, dtype=torch.float64)

    def solve() -> Solution:
        return solve_ode(lambda t, y: torch.tanh(y @ weights.T), y0, [0.0, 20.0], stepping="per_sample")

    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        solution = solve()
    given = {y0.data_ptr(), weights.data_ptr()}
    numbers = sum(x.numel() for x in {x.data_ptr(): x for x in kept if x.data_ptr() not in given}.values())
    numbers -= solution.y.numel()  # the reported states
    steps = int(solution.stats.n_accepted.max())
    ratio = numbers / (steps * batch * (width + 2))
    print("\n### Memory of the discrete adjoint\n")
    print(f"{steps} steps, batch {batch}, {width} states: {numbers} numbers kept, {ratio:.3f} of N B (D + 2)")
    kept.clear()
    del solution
    for count in (100, 200, 200):
        for _ in range(count):
            torch.autograd.grad(solve().y[:, -1].sum(), weights)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"after {count} more training steps: largest resident memory {peak:.1f} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", nargs="*", choices=[*SECTIONS, []], help="what to measure; default: everything")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each row")
    parser.add_argument("--limit", type=float, default=6.0, help="seconds after which a slow row is not run again")
    parser.add_argument("--batch", type=int, nargs="*", default=[100, 1000], help="batches of the section forward")
    parser.add_argument("--only", default="", help="part of the problem's name")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen: dict[str, Callable[[argparse.Namespace], None]] = {name: globals()[name] for name in SECTIONS}
    for name in options.section or SECTIONS:
        chosen[name](options)


if __name__ == "__main__":
    main()

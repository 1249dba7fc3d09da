"""Entropic transport at equal marginal error: scidyn beside POT, GeomLoss and OTT-JAX, in time and peak memory.

    python benchmarks/transport.py [--cells 2000-5-0.05,...] [--rounds 3] [--skip "POT sinkhorn_log"]
    python benchmarks/transport.py --large 50000       # one streamed solve, with its peak memory

Every competitor starts from the points, float32 unless it says otherwise, and stops by its own rule at an L1
marginal error of 1e-3 where it has one. Competitors take turns, round by round; the least time is shown. The
error is that of the returned potentials or plan, recomputed in float64. Peak memory is measured in a process
that runs one competitor once, above what importing it and holding the points takes. Absent packages are skipped.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import subprocess
import sys
import time

import torch

TOLERANCE = 1e-3
CELLS = [f"{n}-{d}-{e}" for n in (2000, 5000, 10000) for d in (5, 50) for e in (0.05, 0.01)]


def clouds(n, d):
    """A Gaussian against a mixture of three."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=g)
    centres = 3.0 / math.sqrt(d) * torch.randn(3, d, generator=g)
    y = centres[torch.randint(0, 3, (n,), generator=g)] + 0.6 * torch.randn(n, d, generator=g)
    return x, y


def absolute(x, y, share):
    return share * float(torch.cdist(x[:512].double(), y[:512].double()).square().median())


def error_of(x, y, eps, g):
    """Marginal error of the plan that the potential g implies once rows are exact (f64, tiles)."""
    n, m = len(x), len(y)
    columns = torch.zeros(m, dtype=torch.float64)
    for rows in torch.arange(n).split(500):
        s = (g - torch.cdist(x[rows].double(), y.double()).square()) / eps
        columns += torch.softmax(s, 1).sum(0) / n
    return float((columns - 1 / m).abs().sum())


def plan_error(P):
    P = torch.as_tensor(P)
    total = (
        abs(P.sum(1, dtype=torch.float64) - 1 / P.shape[0]).sum()
        + abs(P.sum(0, dtype=torch.float64) - 1 / P.shape[1]).sum()
    )
    return float(total)


def scidyn_auto(x, y, eps):
    from scidyn.transport import sinkhorn

    plan = sinkhorn(x, y, epsilon=eps, tolerance=TOLERANCE, on_failure="return")
    return lambda: error_of(x, y, eps, plan.g.double())


def scidyn_streamed(x, y, eps):
    from scidyn.transport import sinkhorn

    plan = sinkhorn(x, y, epsilon=eps, tolerance=TOLERANCE, method="streamed", on_failure="return")
    return lambda: error_of(x, y, eps, plan.g.double())


def _pot(x, y, eps, method, convert):
    import ot

    n = len(x)
    a, x, y = convert(torch.full((n,), 1 / n)), convert(x), convert(y)
    C = ot.dist(x, y)
    P = ot.sinkhorn(a, a, C, eps, method=method, numItermax=20000, stopThr=TOLERANCE / math.sqrt(n), warn=False)
    return lambda: plan_error(P)


def pot_numpy(x, y, eps):
    return _pot(x, y, eps, "sinkhorn", lambda t: t.double().numpy())


def pot_torch(x, y, eps):
    return _pot(x, y, eps, "sinkhorn", lambda t: t)


def pot_log(x, y, eps):
    return _pot(x, y, eps, "sinkhorn_log", lambda t: t)


def geomloss(x, y, eps, scaling=0.9):
    from geomloss import SamplesLoss

    # its cost is half the squared distance
    loss = SamplesLoss("sinkhorn", p=2, blur=math.sqrt(eps / 2), scaling=scaling, debias=False, potentials=True,
                       backend="tensorized")  # fmt: skip
    _, g = loss(x, y)
    return lambda: error_of(x, y, eps, 2.0 * g.flatten().double())


_OTT = {}


def ott(x, y, eps):
    import jax
    from ott.geometry import pointcloud
    from ott.solvers import linear

    def solve(x, y, eps):
        out = linear.solve(pointcloud.PointCloud(x, y, epsilon=eps), threshold=TOLERANCE, max_iterations=20000)
        return out.g

    run = _OTT.setdefault("solve", jax.jit(solve))
    g = run(x.numpy(), y.numpy(), eps).block_until_ready()
    return lambda: error_of(x, y, eps, torch.as_tensor(jax.device_get(g).copy()).double())


COMPETITORS = {
    "scidyn": (scidyn_auto, "scidyn"),
    "scidyn streamed": (scidyn_streamed, "scidyn"),
    "POT sinkhorn, NumPy f64": (pot_numpy, "ot"),
    "POT sinkhorn, torch": (pot_torch, "ot"),
    "POT sinkhorn_log, torch": (pot_log, "ot"),
    "GeomLoss, scaling 0.9": (geomloss, "geomloss"),
    "OTT-JAX": (ott, "ott"),
}


def status(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def peak_memory():
    return status("VmHWM")


def reset_peak():
    """Set the high-water mark of this process to what it holds now (Linux), and give that."""
    with open("/proc/self/clear_refs", "w") as control:
        control.write("5")
    return status("VmRSS")


def peak(name, cell):
    """Bytes above the level before the solve, in a fresh process."""
    done = subprocess.run([sys.executable, __file__, "--peak", name, "--cells", cell], capture_output=True, text=True)
    return int(done.stdout.split()[-1]) if done.returncode == 0 and done.stdout else None


def measure_peak(name, cell):
    n, d, share = cell.split("-")
    tiny = clouds(64, int(d))
    COMPETITORS[name][0](*tiny, absolute(*tiny, 0.1))
    x, y = clouds(int(n), int(d))
    eps = absolute(x, y, float(share))
    before = reset_peak()
    COMPETITORS[name][0](x, y, eps)
    print(peak_memory() - before)


def run(cell, rounds, names, budget, memory):
    n, d, share = cell.split("-")
    x, y = clouds(int(n), int(d))
    eps = absolute(x, y, float(share))
    best, errors = {}, {}
    slow = set()
    for turn in range(rounds + 1):
        for name in names:
            if name in slow and name in best:
                continue
            start = time.perf_counter()
            check = COMPETITORS[name][0](x, y, eps)
            took = time.perf_counter() - start
            # the first turn warms up, but stands for those too slow to repeat
            if turn == 0:
                errors[name] = check()
                if took > budget:
                    slow.add(name)
                    best[name] = took
                continue
            best[name] = min(best.get(name, math.inf), took)
    print(f"\nn = {n}, d = {d}, epsilon = {share} of the median cost")
    lead = best["scidyn"]
    for name in names:
        mark = " " if errors[name] <= 1.5 * TOLERANCE else "†"
        size = peak(name, cell) if memory else None
        shown = "" if size is None else f"{size / 2**20:8.0f} MiB"
        print(
            f"  {name:26s}{best[name]:9.3f} s{mark} x{best[name] / lead:7.2f}  error {errors[name]:.1e} {shown}",
            flush=True,
        )


def large(n, d, share):
    from scidyn.transport import estimate_memory, sinkhorn

    x, y = clouds(n, d)
    print(f"estimate: streamed {estimate_memory(n, n, d).streamed / 1e9:.2f} GB")
    before = reset_peak()
    start = time.perf_counter()

    def report(sweep, error):
        print(f"  {sweep:3d} {error:.2e} {time.perf_counter() - start:.0f} s", flush=True)

    plan = sinkhorn(x, y, epsilon_relative=share, tolerance=TOLERANCE, memory_limit=2e9, report=report)
    grown = (peak_memory() - before) / 2**20
    print(f"{n} x {n}, d = {d}: {time.perf_counter() - start:.1f} s, {plan.iterations} sweeps, {plan.method}, "
          f"peak +{grown:.0f} MiB, {plan.status.name}")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", default=",".join(CELLS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip", default="", help="names to leave out, separated by semicolons")
    parser.add_argument("--budget", type=float, default=10.0, help="seconds beyond which a competitor runs once")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--peak")
    parser.add_argument("--large", type=int)
    parser.add_argument("--dimension", type=int, default=50)
    parser.add_argument("--share", type=float, default=0.05)
    given = parser.parse_args()
    if given.peak:
        return measure_peak(given.peak, given.cells)
    if given.large:
        return large(given.large, given.dimension, given.share)
    present = [k for k, (_, package) in COMPETITORS.items() if importlib.util.find_spec(package) is not None]
    skipped = {s.strip() for s in given.skip.split(";") if s.strip()}
    names = [k for k in present if k not in skipped]
    print("absent:", ", ".join(set(COMPETITORS) - set(present)) or "none", f"; {torch.get_num_threads()} threads")
    for cell in given.cells.split(","):
        run(cell, given.rounds, names, given.budget, not given.no_memory)
    return None


if __name__ == "__main__":
    main()

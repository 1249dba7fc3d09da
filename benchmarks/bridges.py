"""Held-out snapshots of simulated and real data: scidyn's bridges beside baselines and published figures.

The data are public but not ours to ship; name the folder that holds them::

    python benchmarks/bridges.py refinement --data FOLDER
    python benchmarks/bridges.py embryoid --data FOLDER --seeds 5
    python benchmarks/bridges.py cite5 | cite50 | emt --data FOLDER

Folders inside: ``mmti_benchmarks`` (YunyiShen/mmTrajectory-inference-benchmarks), ``eb_nlsb``
(take-koshizuka/NLSB), ``cite_lightsb`` (ngushchin/LightSB), ``deepruot`` (zhenyiizhang/DeepRUOT).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from scidyn.bridges import FlowMatching, IterativeReferenceRefinement, SinkhornBridge, leave_one_out
from scidyn.systems import LotkaVolterra, Repressilator


def vortex(t, x, centre_x=0.0, centre_y=0.0, log_scale_y=0.0, speed=0.1):
    """Rotation around a centre, as for a surface current."""
    u, v = x[:, 0] - centre_x, (x[:, 1] - centre_y) / log_scale_y.exp()
    return speed * torch.stack([-v, u], dim=1)


def simulated(folder: Path, name: str):
    file = np.load(folder / "mmti_benchmarks" / f"{name}.npz", allow_pickle=False)
    return list(file["Xs"].astype(float)), file["dts"].astype(float)


def embryoid(folder: Path):
    parts = [np.load(folder / "eb_nlsb" / f"{p}_rna.npz", allow_pickle=False) for p in ("test", "val")]
    X, ts = (np.concatenate([p[k] for p in parts]) for k in ("X", "ts"))
    X = X[:, :5].astype(float)
    return [((X - X.mean(0)) / X.std(0))[ts == k] for k in range(5)], np.arange(5.0)


def cite(folder: Path, width: int, whiten: bool):
    clouds = [np.load(folder / "cite_lightsb" / f"full_cite_pcas_50_day_{d}.npy")[:, :width] for d in (2, 3, 4, 7)]
    clouds = [c.astype(float) for c in clouds]
    if whiten:
        X = np.concatenate(clouds)
        clouds = [(c - X.mean(0)) / X.std(0) for c in clouds]
    return clouds, np.array([2.0, 3.0, 4.0, 7.0])


def emt(folder: Path):
    table = np.genfromtxt(folder / "deepruot" / "emt.csv", delimiter=",", skip_header=1)
    return [table[table[:, 0] == k][:, 1:] for k in range(4)], np.arange(4.0)


def refinement(folder: Path, only: str) -> None:
    jobs = [
        ("Lotka–Volterra 11 × 200", "LV_data", None, LotkaVolterra(0.0, 0.0, 0.0, 0.0), 0.1),
        *((f"Lotka–Volterra 9 × 50, part {p}", "LV_data", p, LotkaVolterra(0.0, 0.0, 0.0, 0.0), 0.1) for p in range(4)),
        ("repressilator 11 × 200", "Repressilatormrna_data", None, Repressilator(5.0, 2.0, 1.0, 1.0), 0.1),
        ("ocean vortex 11 × 200", "GoM_data", None, vortex, 0.1),
    ]
    print(
        "| data | seconds | θ (± standard error) | W1 at held-out times | mean "
        "| plain bridge | OT interpolation | floor |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for title, name, part, family, sigma in jobs:
        if only not in title:
            continue
        clouds, times = simulated(folder, name)
        if part is not None:
            clouds, times = [c[50 * part : 50 * part + 50] for c in clouds[:9]], times[:9]
        holdout = list(range(1, len(times) - 1, 2))
        began = time.perf_counter()
        result = IterativeReferenceRefinement(family, sigma).fit(clouds, times, holdout=holdout)
        seconds = time.perf_counter() - began
        plain = IterativeReferenceRefinement(lambda t, x, none=0.0: none * x, sigma, iterations=0)
        before = plain.fit(clouds, times, holdout=holdout).score()
        score = result.score()
        theta = ", ".join(
            f"{n} {v:.3f} ± {s:.3f}"
            for n, v, s in zip(
                result.names, result.theta["estimate"].values, result.theta["stderr"].values, strict=True
            )
        )
        each = " ".join(f"{v:.3f}" for v in score["bridge"].values)
        rest = " | ".join(f"{float(v.mean()):.3f}" for v in (before["bridge"], score["interpolation"], score["floor"]))
        print(
            f"| {title} | {seconds:.0f} | {theta} | {each} | {float(score['bridge'].mean()):.3f} | {rest} |", flush=True
        )


def held_out(clouds, times, *, seeds: int, cells: int | None, iterations: int, only: str) -> None:
    common = {"iterations": iterations, "batch": 128}
    methods = {
        "flow matching, independent": lambda s: FlowMatching(coupling="independent", seed=s, **common),
        "OT flow matching": lambda s: FlowMatching(seed=s, **common),
        "smooth flow matching": lambda s: FlowMatching(path="momentum", seed=s, **common),
        "Sinkhorn bridge": lambda s: SinkhornBridge(seed=s),
    }
    methods = {name: make for name, make in methods.items() if only in name}
    began = time.perf_counter()
    table = leave_one_out(clouds, times, methods, seeds=seeds, cells=cells)
    print(f"cells {table.attrs['cells']}, features {table.attrs['features']}, {seeds} seeds, "
          f"{time.perf_counter() - began:.0f} s, W1")  # fmt: skip
    print("| method | one step | by time | roll-out |\n|---|---|---|---|")
    for model in table["model"].values:
        d = table["distance"].sel(model=model)
        mean, spread = (float(f) for f in (d.mean("time").mean("seed").sel(start="one_step"),
                                           d.mean("time").std("seed").sel(start="one_step")))  # fmt: skip
        by_time = " ".join(f"{v:.3f}" for v in d.sel(start="one_step").mean("seed").values)
        long = float(d.sel(start="rollout").mean())
        print(f"| {model} | {mean:.3f} ± {spread:.3f} | {by_time} | {long:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", choices=["refinement", "embryoid", "cite5", "cite50", "emt"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cells", type=int)
    parser.add_argument("--only", default="", help="part of a data set's title (refinement) or of a method's name")
    parser.add_argument("--iterations", type=int, default=1200)
    given = parser.parse_args()
    if given.study == "refinement":
        refinement(given.data, given.only)
        return
    clouds, times = {
        "embryoid": lambda: embryoid(given.data),
        "cite5": lambda: cite(given.data, 5, True),
        "cite50": lambda: cite(given.data, 50, False),
        "emt": lambda: emt(given.data),
    }[given.study]()
    held_out(clouds, times, seeds=given.seeds, cells=given.cells, iterations=given.iterations, only=given.only)


if __name__ == "__main__":
    main()

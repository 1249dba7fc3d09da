"""``scidyn trajectories``: from an h5ad file to velocities, fates, paths and held-out scores."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import typer

from scidyn._check.values import choice
from scidyn.errors import ArtifactError

__all__ = ["run_trajectories"]

OUTPUTS = ("cells.h5ad", "scores.csv", "report.html", "paths.png", "marginals.png")
SCORED_CELLS = 500


def run_trajectories(
    path: Path,
    *,
    out: Path,
    time: str,
    rep: str,
    dims: int | None,
    solver: str,
    groups: str | None,
    basis: str | None,
    growth: str | None,
    tau: float,
    seed: int,
    overwrite: bool,
    progress: bool,
) -> None:
    """Open, fit, compute, judge on held-out times, write."""
    choice("--solver", solver, ("sinkhorn", "flow", "sf2m"))
    taken = [name for name in OUTPUTS if (out / name).exists()]
    if taken and not overwrite:
        raise ArtifactError(f"{out / taken[0]} exists; nothing was changed. Name another --out or pass --overwrite.")

    from scidyn import viz
    from scidyn.bridges import sc
    from scidyn.training.progress import Progress

    cells = sc.read_h5ad(path)
    clouds, _ = sc.tl.snapshots(cells, time_key=time, use_rep=rep, n_dims=dims)
    if progress:
        typer.echo(_what_it_takes(clouds))
    scores, fates = None, None
    with Progress("scidyn trajectories", enabled=progress) as bar:
        bar.stage("couple neighbouring times" if solver == "sinkhorn" else "fit the flow")
        fitted = sc.tl.bridge(
            cells,
            time_key=time,
            use_rep=rep,
            n_dims=dims,
            solver=solver,
            growth_key=growth,
            tau=tau,
            random_state=seed,
            progress=bar,
        )
        bar.stage("velocities and fates")
        sc.tl.velocity(cells, fitted=fitted)
        if groups is not None:
            fates = sc.tl.fate(cells, groups=groups, fitted=fitted)
        out.mkdir(parents=True, exist_ok=True)
        if len(clouds) > 2:
            bar.stage("score held-out times")
            scores = sc.tl.evaluate(cells, cells=SCORED_CELLS, progress=bar.advance)
            _write(out / "scores.csv", scores.to_csv(lineterminator="\n").encode())
        bar.stage("draw and write")
        _write(out / "paths.png", _picture(sc.pl.paths(cells, basis=basis, fitted=fitted)))
        _write(out / "marginals.png", _picture(sc.pl.marginals(cells, fitted=fitted)))
        viz.cells_report(
            cells,
            out / "report.html",
            basis=basis,
            fates=fates,
            scores=scores,
            fitted=fitted,
            overwrite=overwrite,
        )
        sc.write_results(cells, path, out / "cells.h5ad", overwrite=overwrite)
    if scores is not None:
        typer.echo(scores.round(4).to_string())
    typer.echo(f"written to {out}: {', '.join(n for n in OUTPUTS if (out / n).exists())}")


def _what_it_takes(clouds: Any) -> str:
    """Cells, device, and the memory of the largest coupling, before anything long begins."""
    from scidyn.transport import estimate_memory

    counts = ", ".join(f"{n} at {t:g}" for n, t in zip(clouds.sizes, clouds.times.tolist(), strict=True))
    pairs = zip(clouds.sizes[:-1], clouds.sizes[1:], strict=True)
    need = [estimate_memory(n, m, clouds.dim) for n, m in pairs]
    stored, streamed = max(e.stored for e in need), max(e.streamed for e in need)
    return (
        f"{sum(clouds.sizes)} cells ({counts}), {clouds.dim} features; device: CPU; "
        f"memory of the largest coupling: {stored / 1e9:.2g} GB, or {streamed / 1e9:.2g} GB tile by tile"
    )


def _write(path: Path, content: bytes) -> None:
    from scidyn.data.io import atomic

    atomic.write_bytes(path, content)


def _picture(ax: Any) -> bytes:
    import matplotlib.pyplot as plt

    content = io.BytesIO()
    ax.figure.savefig(content, format="png", dpi=150)
    plt.close(ax.figure)
    return content.getvalue()

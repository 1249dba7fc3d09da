"""``scidyn trajectories``: from an h5ad file to velocities, fates, paths and held-out scores."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import typer

from scidyn._check.values import choice
from scidyn.errors import ArtifactError

__all__ = ["run_trajectories"]

OUTPUTS = ("cells.h5ad", "scores.csv", "paths.png", "marginals.png")


def run_trajectories(
    path: Path,
    *,
    out: Path,
    time: str,
    rep: str,
    dims: int | None,
    solver: str,
    groups: str | None,
    seed: int,
    overwrite: bool,
    progress: bool,
) -> None:
    """Open, fit, compute, judge on held-out times, write."""
    choice("--solver", solver, ("sinkhorn", "flow", "sf2m"))
    taken = [name for name in OUTPUTS if (out / name).exists()]
    if taken and not overwrite:
        raise ArtifactError(f"{out / taken[0]} exists; nothing was changed. Name another --out or pass --overwrite.")

    from scidyn.bridges import sc

    def say(text: str) -> None:
        if progress:
            typer.echo(text)

    cells = sc.read_h5ad(path)
    clouds, _ = sc.tl.snapshots(cells, time_key=time, use_rep=rep, n_dims=dims)
    largest = max(a * b for a, b in zip(clouds.sizes[:-1], clouds.sizes[1:], strict=True))
    counts = ", ".join(f"{n} at {t:g}" for n, t in zip(clouds.sizes, clouds.times.tolist(), strict=True))
    say(f"{cells.n_obs} cells ({counts}), {clouds.dim} features; CPU; largest coupling {largest * 8 / 1e9:.2g} GB")
    fitted = sc.tl.bridge(cells, time_key=time, use_rep=rep, n_dims=dims, solver=solver, random_state=seed)
    say(f"bridge fitted, sigma {fitted.sigma_:.3g} per square root of time")
    sc.tl.velocity(cells, fitted=fitted)
    if groups is not None:
        sc.tl.fate(cells, groups=groups, fitted=fitted)
    out.mkdir(parents=True, exist_ok=True)
    if len(clouds) > 2:
        say("scoring held-out times")
        scores = sc.tl.evaluate(cells, cells=500)
        typer.echo(scores.round(4).to_string())
        _write(out / "scores.csv", scores.to_csv(lineterminator="\n").encode())
    _write(out / "paths.png", _picture(sc.pl.paths(cells, fitted=fitted)))
    _write(out / "marginals.png", _picture(sc.pl.marginals(cells, fitted=fitted)))
    sc.write_results(cells, path, out / "cells.h5ad", overwrite=overwrite)
    typer.echo(f"written to {out}: {', '.join(n for n in OUTPUTS if (out / n).exists())}")


def _write(path: Path, content: bytes) -> None:
    from scidyn.data.io import atomic

    atomic.write_bytes(path, content)


def _picture(ax: Any) -> bytes:
    import matplotlib.pyplot as plt

    content = io.BytesIO()
    ax.figure.savefig(content, format="png", dpi=150)
    plt.close(ax.figure)
    return content.getvalue()

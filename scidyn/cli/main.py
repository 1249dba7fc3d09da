"""The ``scidyn`` command: options and help texts; the work is imported when a command runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from scidyn._check.values import did_you_mean
from scidyn.errors import ScidynError

__all__ = ["app", "run"]

_USAGE = typer.BadParameter.__bases__[0]  # every complaint about what was typed

app = typer.Typer(
    name="scidyn",
    help="Fit, forecast and explain dynamical systems.",
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
def fit(
    data: Annotated[Path, typer.Argument(help="CSV, TSV, NetCDF or HDF5 file with a time series.")],
    model: Annotated[str, typer.Option(help="lotka-volterra, neural-ode or hybrid.")],
    out: Annotated[Path, typer.Option(help="Folder for the model, the tables and the report.")],
    time: Annotated[str | None, typer.Option(help="Name of the time column; default: found by name.")] = None,
    values: Annotated[str | None, typer.Option(help="Columns to model, separated by commas.")] = None,
    trajectory: Annotated[str | None, typer.Option("--id", help="Column that names the replicate.")] = None,
    units: Annotated[
        list[str] | None,
        typer.Option(help="Units of a column as NAME=UNITS; repeat for more columns."),
    ] = None,
    hold_out_from: Annotated[
        float | None,
        typer.Option(help="Judge the forecast on all times from here on; default: the last third."),
    ] = None,
    noise: Annotated[
        str, typer.Option(help="normal, lognormal, or auto: lognormal where all data are positive.")
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in --out.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the result.")] = False,
) -> None:
    """Fit a model to a time series, judge its forecast, write a report."""
    from scidyn.cli.fit import run_fit

    run_fit(
        data,
        model=model,
        out=out,
        time=time,
        values=values,
        trajectory=trajectory,
        units=units or [],
        hold_out_from=hold_out_from,
        noise=noise,
        seed=seed,
        overwrite=overwrite,
        progress=not quiet,
    )


@app.command()
def forecast(
    model: Annotated[Path, typer.Argument(help="Model folder written by `scidyn fit`.")],
    until: Annotated[float, typer.Option(help="Last time of the forecast, in the units of the data.")],
    step: Annotated[float | None, typer.Option(help="Spacing of the forecast; default: that of the data.")] = None,
    interval: Annotated[float, typer.Option(help="Probability inside the band.")] = 0.9,
    out: Annotated[Path | None, typer.Option(help="Write the forecast here (.csv, .tsv or .nc).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out if it exists.")] = False,
) -> None:
    """Forecast with a saved model, with bands."""
    from scidyn.cli.forecast import run_forecast

    run_forecast(model, until=until, step=step, interval=interval, out=out, overwrite=overwrite)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="Data file or model folder.")],
    time: Annotated[str | None, typer.Option(help="Name of the time column.")] = None,
    trajectory: Annotated[str | None, typer.Option("--id", help="Column that names the replicate.")] = None,
    units: Annotated[list[str] | None, typer.Option(help="Units of a column as NAME=UNITS.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the record to this PNG, SVG or PDF file.")] = None,
) -> None:
    """Say what a file holds: variables, units, sampling, gaps, problems."""
    from scidyn.cli.inspect import run_inspect

    run_inspect(path, time=time, trajectory=trajectory, units=units or [], plot=plot)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Any file that scidyn reads.")],
    target: Annotated[Path, typer.Argument(help="File to write: .nc, .h5, .csv or .tsv.")],
    time: Annotated[str | None, typer.Option(help="Name of the time column or array.")] = None,
    trajectory: Annotated[str | None, typer.Option("--id", help="Column that names the replicate.")] = None,
    units: Annotated[list[str] | None, typer.Option(help="NAME=UNITS, or one word for all that has none.")] = None,
    codec: Annotated[str, typer.Option(help="none, fast or small.")] = "none",
    window: Annotated[int | None, typer.Option(help="Times per chunk, for drawing windows.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the target if it exists.")] = False,
) -> None:
    """Convert a data file to NetCDF or a table, checked on the way."""
    from scidyn.cli.convert import run_convert

    run_convert(
        source,
        target,
        time=time,
        trajectory=trajectory,
        units=units or [],
        codec=codec,
        window=window,
        overwrite=overwrite,
    )


@app.command()
def trajectories(
    cells: Annotated[Path, typer.Argument(help="h5ad file with a time and a representation of every cell.")],
    out: Annotated[Path, typer.Option(help="Folder for the cells with results, the scores and the figures.")],
    time: Annotated[str, typer.Option(help="Column of obs with the times.")] = "day",
    rep: Annotated[str, typer.Option(help="Entry of obsm with the representation.")] = "X_pca",
    dims: Annotated[int | None, typer.Option(help="Use only the first columns of the representation.")] = None,
    solver: Annotated[str, typer.Option(help="sinkhorn, flow or sf2m.")] = "sinkhorn",
    groups: Annotated[str | None, typer.Option(help="Column of obs with cell types: fates are computed.")] = None,
    basis: Annotated[str | None, typer.Option(help="Embedding in obsm to draw over, such as umap.")] = None,
    growth: Annotated[str | None, typer.Option(help="Column of obs with net growth rates, 1/time.")] = None,
    tau: Annotated[float, typer.Option(help="Below 1 cells may grow or die at a price.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in --out.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the result.")] = False,
) -> None:
    """Join snapshots of cells by a bridge: velocities, fates, paths, and scores on held-out times."""
    from scidyn.cli.trajectories import run_trajectories

    run_trajectories(
        cells,
        out=out,
        time=time,
        rep=rep,
        dims=dims,
        solver=solver,
        groups=groups,
        basis=basis,
        growth=growth,
        tau=tau,
        seed=seed,
        overwrite=overwrite,
        progress=not quiet,
    )


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the demo's results.")] = Path("scidyn-demo"),
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the result.")] = False,
) -> None:
    """Fit the Hudson Bay lynx and hare record, forecast it, and show the report."""
    from scidyn.cli.demo import run_demo

    run_demo(out, progress=not quiet)


def _version(wanted: bool) -> None:
    if wanted:
        from scidyn import __version__

        typer.echo(f"scidyn {__version__}")
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Fit, forecast and explain dynamical systems."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run() -> None:
    """Run the command line; every error is one sentence on stderr and exit code 2."""
    try:
        code = app(standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        typer.echo("scidyn: stopped.", err=True)
        sys.exit(130)
    except ScidynError as error:
        typer.echo(f"scidyn: {error}", err=True)
        sys.exit(2)
    except _USAGE as error:
        typer.echo(f"scidyn: {_sentence(error)}", err=True)
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _sentence(error: Any) -> str:
    """What was typed wrongly, what was meant, and where the options are listed."""
    near = did_you_mean(error.option_name, error.possibilities or ()) if hasattr(error, "possibilities") else ""
    said = str(error.message) if near else error.format_message()
    where = getattr(error.ctx, "info_name", None) if getattr(error, "ctx", None) is not None else None
    command = f"scidyn {where}" if where in {c.callback.__name__ for c in app.registered_commands} else "scidyn"
    stop = "" if said.endswith(("?", ".")) else "."
    return f"{said}{stop}{near} See {command} --help."

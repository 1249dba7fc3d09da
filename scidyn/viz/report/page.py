"""The page: its sections in reading order, written in one piece."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scidyn.data.io import atomic
from scidyn.errors import ArtifactError
from scidyn.viz.convergence import plot_convergence
from scidyn.viz.fit import plot_fit
from scidyn.viz.forecast import plot_forecast
from scidyn.viz.phase_plane import plot_phase_plane
from scidyn.viz.profiles import has_profiles, plot_profiles
from scidyn.viz.report.drawing import figure_block
from scidyn.viz.report.markup import Markup, tag
from scidyn.viz.report.sentences import (
    heading,
    held_in_band,
    join,
    noise_sentence,
    span,
    spread,
    verdict,
    what_was_fitted,
)
from scidyn.viz.report.shell import document, section
from scidyn.viz.report.tables import errors_table, numbers_list, parameters_table, plain_table
from scidyn.viz.residuals import plot_residuals
from scidyn.viz.series import MOST, trajectories

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["report"]


def report(
    model: Any,
    record: xr.Dataset,
    path: str | Path,
    backtest: Any = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Write one self-contained HTML file on a fitted model.

    It holds what was fitted and with which noise model, data and fit with bands, the phase
    plane, the forecast of held-out times beside naive baselines, residuals, parameters with
    intervals, profile likelihoods, convergence and provenance. It has no outside link, follows
    the reader's light or dark setting, and prints.

    Parameters
    ----------
    model : estimator
        Fitted to ``record``.
    record : xarray.Dataset
        What it was fitted to.
    path : str or Path
        The file to write.
    backtest : scidyn.sysid.Backtest, optional
        Forecasts of held-out times; without it the report says that the forecast was not judged.
    overwrite : bool
        Replace a file that is there.

    Returns
    -------
    Path

    Raises
    ------
    scidyn.errors.ArtifactError
        If the file exists and ``overwrite`` is False, or the disk refuses; nothing is changed then.
    scidyn.errors.NotFittedError
        If the model is not fitted.

    Examples
    --------
    >>> import scidyn
    >>> from scidyn.sysid import MechanisticODE
    >>> from scidyn.systems import LotkaVolterra
    >>> record = scidyn.datasets.load("lynx_hare")
    >>> model = MechanisticODE(LotkaVolterra()).fit(record)
    >>> scidyn.viz.report(model, record, "report.html").name
    'report.html'
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise ArtifactError(f"{path} exists; nothing was changed. Pass overwrite=True to replace it.")
    return atomic.write_bytes(path, page(model, record, backtest).encode())


def page(model: Any, record: xr.Dataset, backtest: Any) -> str:
    """The whole document."""
    sections = [
        _summary(model, record, backtest),
        _fit(model, record),
        _forecast(backtest, model),
        _parameters(model),
        _plane(model, record),
        _residuals(model, record),
        _convergence(model),
        _provenance(model, record),
    ]
    return document(heading(model), ", ".join(_about(model, record)), sections)


def _about(model: Any, record: xr.Dataset) -> list[str]:
    words = [str(record.attrs["title"])] if record.attrs.get("title") else []
    return [
        *words,
        span(record),
        *([f"fitted {str(model.provenance_['date'])[:10]}"] if "date" in model.provenance_ else []),
    ]


def _summary(model: Any, record: xr.Dataset, backtest: Any) -> Markup:
    names = [str(v) for v in model.variables_]
    said = verdict(backtest.errors) if backtest is not None else "The forecast was not judged on held-out times."
    numbers = [
        ("observations", str(sum(int(record[n].notnull().sum()) for n in names)), f"of {join(names)}"),
        *((f"noise of {n}", spread(model, n), "") for n in names),
    ]
    if getattr(model, "parameters_", None) is not None:
        numbers.append(("parameters", str(model.parameters_.sizes["parameter"]), "with intervals"))
    if backtest is not None:
        inside = f"held-out values in the {round(100 * model.confidence)} % band"
        shares = [f"{round(100 * float(backtest.coverage.sel(variable=n)))} % {n}" for n in names]
        numbers.append((inside, ", ".join(shares), ""))
    return section(
        "summary",
        "In short",
        tag("p", what_was_fitted(model, record), " ", noise_sentence(model, record)),
        tag("p", said),
        tag("pre", model.equations(), aria_label="equations"),
        numbers_list(numbers),
    )


def _fit(model: Any, record: xr.Dataset) -> Markup:
    names, percent = join([str(v) for v in model.variables_]), round(100 * model.confidence)
    shown = len(trajectories(record))
    first = f" The first {MOST} of {shown} trajectories are shown." if shown > MOST else ""
    return section(
        "fit",
        "Data and fit",
        figure_block(
            "fit",
            partial(plot_fit, model, record),
            alt=f"Measured {names} over time as points, with the fitted curve and its {percent} % band.",
            caption=f"Points: measured. Line: fitted trajectory. Band: {percent} % of new measurements should fall "
            f"inside it, if the model is right.{first}",
        ),
    )


def _forecast(backtest: Any, model: Any) -> Markup | None:
    if backtest is None:
        return None
    names = join([str(v) for v in model.variables_])
    units = str(backtest.train["time"].attrs.get("units", ""))
    return section(
        "forecast",
        "Forecast of held-out times",
        tag(
            "p",
            f"A second model was fitted to the times before {backtest.at:g}"
            f"{'' if units in ('', '1', 'year') else ' ' + units} only and then asked for the rest. "
            "Beside it stand forecasts that cost nothing: a model that loses to them should be seen to lose.",
        ),
        figure_block(
            "forecast",
            partial(plot_forecast, backtest),
            alt=f"{names} over time: fitted part, forecast with band, held-out values and naive forecasts.",
            caption="Filled points were fitted, hollow points were held out. Grey lines: naive forecasts.",
        ),
        errors_table(backtest.errors, model.units_),
        tag("p", verdict(backtest.errors), " ", held_in_band(backtest.coverage, model.confidence)),
    )


def _parameters(model: Any) -> Markup | None:
    if getattr(model, "parameters_", None) is None:
        return None
    drawn = None
    if has_profiles(model):
        names = join([str(n) for n in model.profiles_["parameter"].values])
        drawn = figure_block(
            "profiles",
            partial(plot_profiles, model),
            alt=f"Profile likelihoods of {names} with the threshold of the interval.",
            caption="Deviance as one parameter is moved and the others are fitted again. The shaded interval holds "
            "the values below the dashed threshold; a flat side means that the data do not bound the parameter.",
        )
    return section("parameters", "Parameters", parameters_table(model), drawn)


def _plane(model: Any, record: xr.Dataset) -> Markup:
    names = [str(v) for v in model.variables_]
    alone = len(names) == 1
    return section(
        "plane",
        "Rate of change" if alone else "Phase plane",
        figure_block(
            "plane",
            partial(plot_phase_plane, model, record),
            alt=f"Fitted rate of change of {names[0]} against its value."
            if alone
            else f"Streamlines of the fitted vector field in the plane of {join(names[:2])}, with the fitted orbit, "
            "the measured states and the fixed point.",
            caption="Grey: where the model says that every state moves. Line: fitted orbit. Dots: measured. "
            "The cross marks the fixed point, if there is one in view.",
        ),
    )


def _residuals(model: Any, record: xr.Dataset) -> Markup:
    ratio = "logarithms of value over fit" if model.noise_model_ == "lognormal" else "values minus fit"
    return section(
        "residuals",
        "Residuals",
        figure_block(
            "residuals",
            partial(plot_residuals, model, record),
            alt="Standardised residuals over time, and their quantiles against normal quantiles.",
            caption=f"Residuals are {ratio}, in units of their standard deviation. The grey band holds nine in ten if "
            "the noise model is right; runs on one side of zero mean that the mechanism misses something.",
        ),
    )


def _convergence(model: Any) -> Markup | None:
    if getattr(model, "history_", None) is None:
        return None
    return section(
        "convergence",
        "Convergence",
        figure_block(
            "convergence",
            partial(plot_convergence, model),
            alt="Loss over the iterations of the fit.",
            caption="The fit is done when the curve is flat. A dashed line marks the iteration that was kept, where a "
            "validation stretch is predicted best.",
        ),
    )


def _provenance(model: Any, record: xr.Dataset) -> Markup:
    from scidyn.about import cite

    about = {k: record.attrs[k] for k in ("title", "source", "license", "references") if record.attrs.get(k)}
    return section(
        "provenance",
        "Provenance",
        plain_table({**{f"data {k}": v for k, v in about.items()}, **model.provenance_}),
        tag("details", tag("summary", "What to cite"), tag("pre", cite(model))),
    )

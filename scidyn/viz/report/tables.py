"""The report's tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from scidyn.viz.report.markup import Markup, tag
from scidyn.viz.report.sentences import number
from scidyn.viz.series import with_units

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["errors_table", "mean_table", "numbers_list", "parameters_table", "plain_table", "scores_table"]


def _table(
    caption: str, heads: list[tuple[str, bool]], rows: list[Markup], groups: list[tuple[str, int]] | None = None
) -> Markup:
    head = tag("tr", *(tag("th", text, scope="col", class_="number" if right else None) for text, right in heads))
    above = [tag("th", text, scope="colgroup", colspan=str(n)) if text else tag("td") for text, n in groups or ()]
    band = tag("tr", *above) if above else None
    body = tag("table", tag("caption", caption), tag("thead", band, head), tag("tbody", *rows))
    return tag("div", body, class_="scroll", tabindex="0", role="group", aria_label=caption)


def parameters_table(model: Any) -> Markup:
    """Estimates with standard errors, intervals and units."""
    table, percent = model.parameters_, round(100 * model.confidence)
    symbols = {p.name: p for p in getattr(getattr(model, "system", None), "parameters", ())}
    rows = []
    for name in map(str, table["parameter"].values):
        row, known = table.sel(parameter=name), symbols.get(name)
        label = f"{known.symbol} {name}".strip() if known else name
        rows.append(
            tag(
                "tr",
                tag("th", label, scope="row"),
                tag("td", number(float(row["estimate"])), class_="number"),
                tag("td", number(float(row["stderr"]), 2), class_="number"),
                tag("td", f"{number(float(row['lower']))} to {number(float(row['upper']))}", class_="number"),
                tag("td", str(row["units"].item())),
                tag("td", known.description if known else ""),
            )
        )
    heads = [
        ("parameter", False),
        ("estimate", True),
        ("standard error", True),
        (f"{percent} % interval", True),
        ("units", False),
        ("meaning", False),
    ]
    return _table(f"Parameters; intervals from {table.attrs.get('interval', 'the fit')}", heads, rows)


def errors_table(errors: xr.Dataset, units: Mapping[str, str]) -> Markup:
    """Forecast errors of the model and the baselines; the smallest of each column is marked."""
    variables = [str(v) for v in errors["variable"].values]
    columns = [(v, m) for v in variables for m in ("rmse", "mae") if m in errors]
    rows = []
    for name in map(str, errors["model"].values):
        cells = []
        for variable, measure in columns:
            value = float(errors[measure].sel(model=name, variable=variable))
            best = value == float(errors[measure].sel(variable=variable).min())
            text: str = tag("span", number(value), title="smallest error") if best else number(value)
            cells.append(tag("td", text, class_="number best" if best else "number"))
        rows.append(tag("tr", tag("th", name, scope="row"), *cells))
    heads = [("forecast", False)]
    heads += [(m.upper(), True) for _, m in columns]
    each = len(columns) // len(variables)
    groups = [("", 1), *((with_units(v, units.get(v, "")), each) for v in variables)]
    return _table("Forecast errors on held-out times; the smallest of each column is marked", heads, rows, groups)


def scores_table(scores: pd.DataFrame) -> Markup:
    """Distances to held-out cells; the smallest of each column is marked, the floor left aside."""
    columns = [name for name in ("one_step", "rollout") if name in scores]
    smallest = {name: float(scores[name].drop("floor").min()) for name in columns}
    rows = []
    for method in map(str, scores.index):
        cells = []
        for name in columns:
            value, spread = float(scores.loc[method, name]), float(scores.loc[method, f"{name}_std"])
            text: str = f"{number(value)} ± {number(spread, 2)}"
            best = method != "floor" and value == smallest[name]
            text = tag("span", text, title="smallest distance") if best else text
            cells.append(tag("td", text, class_="number best" if best else "number"))
        rows.append(tag("tr", tag("th", method, scope="row"), *cells))
    heads = [("method", False), *((name.replace("_", " "), True) for name in columns)]
    return _table("Distance to held-out cells, mean and standard deviation over repetitions", heads, rows)


def mean_table(values: Mapping[str, Any], columns: list[str], caption: str, name: str) -> Markup:
    """Rows of numbers, one per entry of ``values``."""
    rows = [
        tag("tr", tag("th", label, scope="row"), *(tag("td", number(float(v)), class_="number") for v in row))
        for label, row in values.items()
    ]
    return _table(caption, [(name, False), *((column, True) for column in columns)], rows)


def numbers_list(pairs: list[tuple[str, str, str]]) -> Markup:
    """Key numbers: label, number, what belongs to it."""
    cells = [
        tag("div", tag("dt", label), tag("dd", value, tag("small", f" {rest}") if rest else None))
        for label, value, rest in pairs
    ]
    return tag("dl", *cells, class_="numbers")


def plain_table(values: Mapping[str, Any]) -> Markup:
    """Names and values, nested ones flattened."""
    rows = [tag("tr", tag("th", key, scope="row"), tag("td", value)) for key, value in _flat(values)]
    return tag("div", tag("table", tag("tbody", *rows), class_="plain"), class_="scroll")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            text = ", ".join(f"{k} {_word(v)}" for k, v in value.items() if not isinstance(v, Mapping))
            if text:
                yield name, text
            yield from _flat({k: v for k, v in value.items() if isinstance(v, Mapping)}, f"{name}, ")
        else:
            yield name, _word(value)


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(_word, value)) + ")"
    return "none" if value is None else str(value)

"""The commands as a person types them."""

import subprocess
import sys
from pathlib import Path

import pytest

import scidyn

RECORD = "year,hare (thousand pelts),lynx (thousand pelts)\n"


def scidyn_command(*words, cwd):
    return subprocess.run(
        [sys.executable, "-m", "scidyn", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )


@pytest.fixture(scope="module")
def pelts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pelts")
    record = scidyn.datasets.load("lynx_hare")
    rows = [
        f"{t:g},{h:g},{lynx:g}"
        for t, h, lynx in zip(record["time"].values, record["hare"].values, record["lynx"].values, strict=True)
    ]
    (folder / "pelts.csv").write_text(RECORD + "\n".join(rows) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def fitted(pelts) -> Path:
    done = scidyn_command(
        "fit", "pelts.csv", "--model", "lotka-volterra", "--time", "year", "--units", "time=year",
        "--hold-out-from", 1914, "--out", "fit", cwd=pelts,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "alpha" in done.stdout
    assert "persistence" in done.stdout
    return pelts / "fit"


def test_fit_leaves_model_tables_and_report(fitted):
    assert (fitted / "model" / "manifest.json").exists()
    assert (fitted / "report.html").stat().st_size > 10_000
    parameters = scidyn.load(fitted / "model").parameters_
    assert float(parameters["estimate"].sel(parameter="alpha")) == pytest.approx(0.540, abs=0.005)


def test_fit_refuses_to_overwrite_before_any_work(fitted):
    before = {p: p.stat().st_mtime_ns for p in fitted.rglob("*")}
    done = scidyn_command("fit", "pelts.csv", "--model", "lotka-volterra", "--out", "fit", cwd=fitted.parent)
    assert done.returncode == 2
    assert "exists; nothing was changed" in done.stderr
    assert {p: p.stat().st_mtime_ns for p in fitted.rglob("*")} == before


def test_forecast_prints_and_writes(fitted):
    shown = scidyn_command("forecast", "fit/model", "--until", 1925, cwd=fitted.parent)
    assert shown.returncode == 0, shown.stderr
    assert "1925" in shown.stdout
    assert "hare (thousand pelts)" in shown.stdout
    written = scidyn_command("forecast", "fit/model", "--until", 1925, "--out", "future.csv", cwd=fitted.parent)
    assert written.returncode == 0, written.stderr
    future = scidyn.open(fitted.parent / "future.csv")
    assert future["time"].values.tolist() == [1921, 1922, 1923, 1924, 1925]
    assert bool((future["hare_lower"] < future["hare"]).all())
    assert bool((future["hare"] < future["hare_upper"]).all())


def test_forecast_into_the_past_and_from_nothing(fitted):
    past = scidyn_command("forecast", "fit/model", "--until", 1910, cwd=fitted.parent)
    assert past.returncode == 2
    assert "--until must lie after the record's last time 1920" in past.stderr
    nothing = scidyn_command("forecast", "nowhere", "--until", 1925, cwd=fitted.parent)
    assert nothing.returncode == 2
    assert "nowhere" in nothing.stderr
    assert "Traceback" not in nothing.stderr


def test_inspect_tells_what_is_there(fitted):
    data = scidyn_command("inspect", "pelts.csv", "--units", "time=year", "--plot", "pelts.png", cwd=fitted.parent)
    assert data.returncode == 0, data.stderr
    assert "thousand pelts" in data.stdout
    assert (fitted.parent / "pelts.png").stat().st_size > 1000
    model = scidyn_command("inspect", "fit/model", cwd=fitted.parent)
    assert model.returncode == 0, model.stderr
    assert "beta" in model.stdout


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("fit", "pelts.csv", "--modle", "hybrid", "--out", "x"), "--model"),
        (("fit", "pelts.csv", "--model", "lotka-voltera", "--out", "x"), "Did you mean 'lotka-volterra'?"),
        (
            ("fit", "pelts.csv", "--model", "hybrid", "--noise", "log-normal", "--out", "x"),
            "Did you mean 'lognormal'?",
        ),
        (("fit", "pelts.csv", "--model", "hybrid", "--units", "hare", "--out", "x"), "NAME=UNITS"),
        (("forcast", "x"), "Did you mean 'forecast'?"),
        (("fit", "missing.csv", "--model", "hybrid", "--out", "x"), "missing.csv"),
    ],
)
def test_a_typo_says_what_was_meant(pelts, words, hint):
    done = scidyn_command(*words, cwd=pelts)
    assert done.returncode == 2
    assert hint in done.stderr
    assert "Traceback" not in done.stderr
    assert not (pelts / "x").exists()

"""The commands as a person types them."""

import contextlib
import importlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import scidyn
from scidyn.cli.main import run

HEADER = "year,hare (thousand pelts),lynx (thousand pelts)\n"


@pytest.fixture
def command(capsys, monkeypatch):
    """Run the command line in this process: exit code, stdout, stderr."""

    def call(*words, cwd):
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["scidyn", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            run()
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    return call


def refused(command, *words, cwd, naming):
    """The command ends with exit code 2 and one sentence that names what was wrong; nothing was made."""
    before = {p: p.stat().st_mtime_ns for p in Path(cwd).rglob("*")}
    code, out, err = command(*words, cwd=cwd)
    assert code == 2
    assert err.startswith("scidyn: ")
    assert out == ""
    for part in naming:
        assert part in err, err
    assert {p: p.stat().st_mtime_ns for p in Path(cwd).rglob("*")} == before


def table(rows, header=HEADER):
    return header + "".join(",".join(map(str, row)) + "\n" for row in rows)


@pytest.fixture(scope="module")
def pelts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pelts")
    record = scidyn.datasets.load("lynx_hare")
    rows = list(zip(*(record[n].values for n in ("time", "hare", "lynx")), strict=True))
    (folder / "pelts.csv").write_text(table(rows), encoding="utf-8")
    comma = HEADER.replace(",", ";") + "".join(f"{t:g};{h:g};{x:g}\n".replace(".", ",") for t, h, x in rows)
    (folder / "comma.csv").write_text(comma, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def fitted(pelts, sharing) -> Path:
    words = ("fit", "pelts.csv", "--model", "lotka-volterra", "--time", "year", "--hold-out-from", "1914")
    said = io.StringIO()
    with sharing(), contextlib.chdir(pelts), contextlib.redirect_stdout(said), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["scidyn", *words, "--out", "fit"])
        with pytest.raises(SystemExit) as end:
            run()
    assert not end.value.code
    for part in ("alpha", "90 % interval", "persistence", "linear autoregression", "report: fit/report.html"):
        assert part in said.getvalue()
    return pelts / "fit"


def test_runs_as_a_module(pelts):
    done = subprocess.run(
        [sys.executable, "-m", "scidyn", "inspect", "pelts.csv"],
        capture_output=True, text=True, cwd=pelts, check=False,
        env=os.environ | {"PYTHONPATH": str(Path(scidyn.__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "thousand pelts" in done.stdout


def test_fit_leaves_model_tables_and_report(fitted):
    names = {p.name for p in fitted.iterdir()}
    assert names == {"model", "report.html", "parameters.csv", "forecast-errors.csv", "fitted.csv"}
    parameters = scidyn.load(fitted / "model").parameters_
    assert float(parameters["estimate"].sel(parameter="alpha")) == pytest.approx(0.540, abs=0.005)
    lines = (fitted / "parameters.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("parameter,estimate,stderr,lower,upper,units")
    assert float(lines[1].split(",")[1]) == float(parameters["estimate"][0])
    errors = (fitted / "forecast-errors.csv").read_text(encoding="utf-8")
    assert set(errors.splitlines()[0].split(",")) == {"model", "variable", "rmse", "mae", "units"}
    assert "persistence,hare," in errors
    again = scidyn.open(fitted / "fitted.csv")
    assert again["hare_lower"].attrs["units"] == "thousand pelts"
    assert again["time"].values.tolist() == list(range(1900, 1921))


def test_decimal_commas_are_read(command, pelts):
    code, out, err = command("inspect", "comma.csv", cwd=pelts)
    assert code == 0, err
    assert "77.4" in out
    assert "thousand pelts" in out


def test_fit_refuses_to_overwrite_before_any_work(command, fitted):
    refused(
        command, "fit", "pelts.csv", "--model", "lotka-volterra", "--out", "fit", cwd=fitted.parent,
        naming=["fit/model exists; nothing was changed", "--overwrite"],
    )  # fmt: skip


def test_out_is_a_file(command, pelts):
    refused(
        command, "fit", "pelts.csv", "--model", "hybrid", "--out", "comma.csv", cwd=pelts,
        naming=["comma.csv is a file; nothing was changed"],
    )  # fmt: skip


def test_forecast_prints_and_writes(command, fitted, tmp_path):
    code, out, err = command("forecast", fitted, "--until", 1925, cwd=tmp_path)
    assert code == 0, err
    assert "1925" in out
    assert all(part in out for part in ("hare", "lynx", "(thousand pelts)", "90 %"))
    code, out, err = command("forecast", fitted / "model", "--until", 1925, "--out", "future.csv", cwd=tmp_path)
    assert code == 0, err
    future = scidyn.open(tmp_path / "future.csv")
    assert future["time"].values.tolist() == [1921, 1922, 1923, 1924, 1925]
    assert bool((future["hare_lower"] < future["hare"]).all())
    assert bool((future["hare"] < future["hare_upper"]).all())
    refused(
        command, "forecast", fitted, "--until", 1925, "--out", "future.csv", cwd=tmp_path,
        naming=["future.csv exists; nothing was changed"],
    )  # fmt: skip


def test_forecast_into_the_past_and_from_nothing(command, fitted):
    refused(
        command, "forecast", "fit", "--until", 1910, cwd=fitted.parent,
        naming=["--until must lie after the record's last time 1920"],
    )  # fmt: skip
    refused(command, "forecast", "nowhere", "--until", 1925, cwd=fitted.parent, naming=["nowhere does not exist"])
    refused(command, "forecast", "fit", "--until", 1925, "--interval", 90, cwd=fitted.parent, naming=["--interval"])


def test_a_truncated_model_is_named(command, fitted, tmp_path):
    import shutil

    shutil.copytree(fitted / "model", tmp_path / "model")
    damaged = tmp_path / "model" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-7])
    refused(command, "forecast", "model", "--until", 1925, cwd=tmp_path, naming=[damaged.name, "is truncated"])
    refused(command, "inspect", "model", cwd=tmp_path, naming=[damaged.name, "is truncated"])


def test_inspect_tells_what_is_there(command, fitted, tmp_path):
    code, out, err = command("inspect", fitted.parent / "pelts.csv", "--plot", "pelts.png", cwd=tmp_path)
    assert code == 0, err
    assert "thousand pelts" in out
    assert (tmp_path / "pelts.png").stat().st_size > 1000
    code, out, err = command("inspect", fitted, cwd=tmp_path)
    assert code == 0, err
    assert "beta" in out
    refused(
        command, "inspect", fitted.parent / "pelts.csv", "--plot", "pelts.png", cwd=tmp_path,
        naming=["pelts.png exists"],
    )  # fmt: skip


SMALL = """
import importlib
import scidyn.cli.fit, scidyn.sysid
from scidyn.cli.main import run

def tell(*arguments, work=importlib.import_module("scidyn.training.fit")._run):
    print("begun", flush=True)
    return work(*arguments)

importlib.import_module("scidyn.training.fit")._run = tell
scidyn.cli.fit.build = lambda *_, **__: scidyn.sysid.NeuralODE(hidden=(4,), max_iterations=10**5, refit=False)
run()
"""


@pytest.mark.timeout(300)  # another process imports torch
def test_a_fit_that_is_told_to_end_goes_on(command, pelts, tmp_path, monkeypatch):
    """Told to end, it ends its step, keeps a checkpoint and exits with 75; the same command does the next step."""
    from scidyn.training.checkpoint import read_checkpoint

    def steps_done():
        (manifest,) = tmp_path.glob("kept/forecast/**/manifest.json")
        return read_checkpoint(manifest.parent)["counters"][2]

    words = ["fit", str(pelts / "pelts.csv"), "--model", "neural-ode", "--out", "a", "--checkpoint", "kept", "--quiet"]
    env = os.environ | {"PYTHONPATH": str(Path(scidyn.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(
        [sys.executable, "-c", SMALL, *words],
        cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert first.stdout.readline() == "begun\n", first.communicate()[1]
    first.send_signal(signal.SIGTERM)
    _, err = first.communicate(timeout=60)
    assert first.returncode == 75, err
    assert steps_done() == 1

    fit = importlib.import_module("scidyn.training.fit")
    work = fit._run

    def told(*arguments):
        os.kill(os.getpid(), signal.SIGUSR1)
        return work(*arguments)

    small = scidyn.sysid.NeuralODE(hidden=(4,), max_iterations=10**5, refit=False)
    monkeypatch.setattr("scidyn.cli.fit.build", lambda *_, **__: small)
    monkeypatch.setattr(fit, "_run", told)
    code, _, err = command(*words, cwd=tmp_path)
    assert code == 75, err
    assert steps_done() == 2
    assert not (tmp_path / "a").exists()


def test_both_fits_are_kept(command, pelts, tmp_path, monkeypatch):
    """The fit that is judged and the fit of the whole record have a folder each."""
    asked = []

    class Model:
        def fit(self, record, *, checkpoint, progress):
            asked.append(checkpoint)
            raise SystemExit(75)

    monkeypatch.setattr("scidyn.cli.fit.build", lambda *_, **__: Model())
    monkeypatch.setattr("scidyn.sysid.backtest", lambda *_, checkpoint, **__: asked.append(checkpoint))
    words = ("fit", pelts / "pelts.csv", "--model", "neural-ode", "--out", "a", "--quiet")
    for extra, expected in (((), [None, None]), (("--checkpoint", "k"), [Path("k/forecast"), Path("k/whole")])):
        asked.clear()
        assert command(*words, *extra, cwd=tmp_path)[0] == 75
        assert asked == expected


def test_a_checkpoint_that_is_a_file(command, pelts, tmp_path):
    (tmp_path / "kept").write_text("")
    words = ("fit", pelts / "pelts.csv", "--model", "neural-ode", "--time", "year", "--out", "a")
    refused(command, *words, "--checkpoint", "kept", cwd=tmp_path, naming=["kept", "is a file"])


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("fit", "pelts.csv", "--modle", "hybrid", "--out", "x"), "Did you mean '--model'?"),
        (("fit", "pelts.csv", "--model", "lotka-voltera", "--out", "x"), "Did you mean 'lotka-volterra'?"),
        (("fit", "pelts.csv", "--model", "hybrid", "--noise", "log-normal", "--out", "x"), "Did you mean 'lognormal'?"),
        (("fit", "pelts.csv", "--model", "hybrid", "--units", "hare", "--out", "x"), "NAME=UNITS"),
        (("fit", "pelts.csv", "--model", "hybrid"), "--out"),
        (("fit", "pelts.csv", "--model", "hybrid", "--out", "x", "--seed", "one"), "--seed"),
        (("fit", "pelts.csv", "--model", "hybrid", "--time", "yaer", "--out", "x"), "Did you mean 'year'?"),
        (("fit", "pelts.csv", "--model", "hybrid", "--values", "hare,linx", "--out", "x"), "Did you mean 'lynx'?"),
        (("forcast", "x"), "Did you mean 'forecast'?"),
        (("fit", "missing.csv", "--model", "hybrid", "--out", "x"), "missing.csv does not exist"),
        (("fit", ".", "--model", "hybrid", "--out", "x"), "is no file"),
    ],
)
def test_a_typo_says_what_was_meant(command, pelts, words, hint):
    refused(command, *words, cwd=pelts, naming=[hint])


YEARS = [(1900 + k, 20.0 + k, 5.0 + k % 4) for k in range(12)]

BAD = {
    "unsorted": (table([*YEARS[:5], YEARS[7], YEARS[6]]), ["time goes back from 1907"]),
    "repeated": (table([*YEARS, YEARS[4]]), ["time 1904 stands in rows 6 and 14"]),
    "no units": (table(YEARS, "year,hare,lynx (thousand pelts)\n"), ["units are missing for 'hare'", "--units hare="]),
    "too short": (table(YEARS[:3]), ["too"]),
    "one row": (table(YEARS[:1]), ["1 time"]),
    "no rows": (HEADER, ["no rows"]),
    "empty": ("", ["empty"]),
    "no number": (table([*YEARS[:6], (1906, "many", 5.0)]), ["column 'hare', row 8", "'many' is not a number"]),
    "no time": (table(YEARS, "when,hare (g),lynx (g)\n"), ["Which column is time?", "--time"]),
    "cells missing": (table([*YEARS[:6], (1906, 5.0)]), ["row 8", "2 cells where the header has 3"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_are_named_before_any_work(command, tmp_path, case):
    content, naming = BAD[case]
    (tmp_path / "bad.csv").write_text(content, encoding="utf-8")
    refused(command, "fit", "bad.csv", "--model", "lotka-volterra", "--out", "x", cwd=tmp_path, naming=naming)


def test_nan_where_the_mask_says_observed(command, tmp_path):
    import xarray as xr

    record = scidyn.datasets.load("lynx_hare")
    record["mask"] = xr.ones_like(record["hare"], dtype=bool).assign_attrs(units="1")
    scidyn.save(record, tmp_path / "sound.nc")
    record["hare"][4] = np.nan
    scidyn.save(record, tmp_path / "bad.nc")
    code, _, err = command("inspect", "sound.nc", cwd=tmp_path)
    assert code == 0, err
    refused(
        command, "fit", "bad.nc", "--model", "lotka-volterra", "--out", "x", cwd=tmp_path,
        naming=["hare[4] is NaN but mask says it was observed"],
    )  # fmt: skip


@pytest.mark.parametrize(("cut", "naming"), [(1950, ["1950"]), (1900, ["1900"])])
def test_an_empty_split_is_refused(command, pelts, cut, naming):
    words = ("fit", "pelts.csv", "--model", "lotka-volterra", "--hold-out-from", cut, "--out", "x")
    refused(command, *words, cwd=pelts, naming=naming)


def test_no_words_show_the_help(command, tmp_path):
    code, out, _ = command(cwd=tmp_path)
    assert code == 0
    assert all(name in out for name in ("fit", "forecast", "inspect", "demo"))
    code, out, _ = command("--version", cwd=tmp_path)
    assert (code, out.strip()) == (0, f"scidyn {scidyn.__version__}")

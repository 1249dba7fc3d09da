"""What a person sees of a Dataset, and the command that converts files."""

import numpy as np
import pytest

import scidyn
from scidyn.cli.convert import run_convert
from scidyn.errors import ArtifactError, DataError


def test_words_and_html():
    ds = scidyn.datasets.load("lynx_hare").assign_attrs(title="<script>alert(1)</script>")
    text = repr(ds.scidyn)
    assert "time 1900 to 1920 year, every 1" in text
    assert "hare  thousand pelts  21 observed, 0 missing  7.6 to 77.4" in text
    page = ds.scidyn._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<tr>") == 3


def test_problems_are_told_and_do_not_fail():
    ds = scidyn.datasets.load("lynx_hare")
    del ds["hare"].attrs["units"]
    assert "problem: Units are missing for 'hare'" in repr(ds.scidyn)
    with pytest.raises(DataError, match="Units are missing"):
        ds.scidyn.validate()
    with pytest.raises(DataError):
        ds.scidyn.to_tensors()


def test_tensors():
    y = np.random.default_rng(0).normal(size=(2, 3, 2))
    ds = scidyn.data.from_arrays(y, [0, 1, 2], units=["m", "m"], time_units="s")
    assert np.array_equal(ds.scidyn.to_tensors().numpy(), y)
    assert ds.scidyn.to_tensors("btcx").shape == (2, 3, 2)
    cells = scidyn.data.from_arrays(y, [[0, 1, 5], [0, 2, np.nan]], units=["m", "m"], time_units="s")
    assert "steps of 1 to 4" in repr(cells.scidyn)


def test_convert(tmp_path, capsys):
    (tmp_path / "lab.csv").write_text("time (h);dye (mg/L)\n0;1,25\n1;0,5\n")
    options = {"time": None, "trajectory": None, "units": [], "codec": "none", "window": 2, "overwrite": False}
    run_convert(tmp_path / "lab.csv", tmp_path / "lab.nc", **options)
    assert "dye  mg/L  2 observed" in capsys.readouterr().out
    assert scidyn.open(tmp_path / "lab.nc")["dye"].values.tolist() == [1.25, 0.5]
    with pytest.raises(ArtifactError, match="exists; nothing was changed"):
        run_convert(tmp_path / "lab.csv", tmp_path / "lab.nc", **options)

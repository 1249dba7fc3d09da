"""The record that ships, against figures printed elsewhere, and its card."""

from pathlib import Path

import numpy as np
import pytest

from scidyn import data, datasets
from scidyn.errors import OptionError

FOLDER = Path(__file__).parents[2] / "datasets" / "lynx_hare"


def test_record_is_the_printed_table():
    ds = datasets.load("lynx_hare")
    assert ds["time"].values.tolist() == list(range(1900, 1921))
    assert ds.sizes == {"time": 21}
    # the peaks of the cycle and the sums of the columns, from the published table
    assert float(ds["hare"].sel(time=1903)) == 77.4
    assert float(ds["lynx"].sel(time=1904)) == 59.4
    assert float(ds["hare"].sum()) == pytest.approx(715.7)
    assert float(ds["lynx"].sum()) == pytest.approx(423.5)
    assert data.units_of(ds) == {"time": "year", "hare": "thousand pelts", "lynx": "thousand pelts"}
    assert data.validate(ds).warnings == ()
    assert np.isfinite(ds["hare"]).all()


def test_record_says_where_it_is_from():
    ds = datasets.load("lynx_hare")
    for key in ("title", "source", "license", "references"):
        assert str(ds.attrs[key]).strip(), key
    assert "Lepus americanus" in ds["hare"].attrs["long_name"]


def test_record_survives_the_disk(tmp_path):
    ds = datasets.load("lynx_hare")
    assert data.open(data.save(ds, tmp_path / "pelts.nc")).identical(ds)


def test_card_names_source_licence_units_and_caveats():
    card = (FOLDER / "card.md").read_text(encoding="utf-8")
    for word in ("Source", "Licence", "Units", "Floor", "Caveats"):
        assert word in card, word


def test_unknown_names_suggest():
    with pytest.raises(OptionError, match=r"Did you mean 'lynx_hare'\?"):
        datasets.load("lynx_hares")
    assert "lynx_hare" in datasets.available()

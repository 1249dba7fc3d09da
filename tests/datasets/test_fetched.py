"""Fetched datasets: checked by their checksum, kept, and a clear sentence without a network."""

import dataclasses
import hashlib
import urllib.request

import numpy as np
import pytest

from scidyn import datasets
from scidyn.datasets.fetched import FETCHED, Remote
from scidyn.errors import ArtifactError, OptionError

TABLE = b"time (h),dye (mg/L)\n0,1.25\n1,0.5\n"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SCIDYN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def dye(tmp_path, monkeypatch, cache):
    """A dataset that lies in another folder; its address is that of a file."""
    source = tmp_path / "far" / "dye.csv"
    source.parent.mkdir()
    source.write_bytes(TABLE)
    remote = Remote(
        "Dye", source.as_uri(), hashlib.sha256(TABLE).hexdigest(), len(TABLE), attributes={"license": "CC0-1.0"}
    )
    monkeypatch.setitem(FETCHED, "dye", remote)
    return source


def test_fetched_once_and_kept(dye, cache):
    assert "dye" in datasets.available()
    first = datasets.load("dye")
    assert first["dye"].values.tolist() == [1.25, 0.5]
    assert first.attrs["license"] == "CC0-1.0"
    assert first.attrs["source"] == dye.as_uri()
    dye.unlink()
    assert datasets.load("dye").identical(first)
    assert [p.read_bytes() for p in cache.iterdir()] == [TABLE]


def test_offline_says_what_to_do(dye, cache):
    dye.unlink()
    with pytest.raises(ArtifactError, match="not in the cache and cannot be fetched") as caught:
        datasets.load("dye")
    for part in (dye.as_uri(), str(cache), "SCIDYN_CACHE", "offline"):
        assert part in str(caught.value)
    place = str(caught.value).split("put it there as ")[1].split(", or")[0]
    cache.mkdir(exist_ok=True)
    (cache / place.rsplit("/", 1)[1]).write_bytes(TABLE)  # the advice, followed
    assert datasets.load("dye")["dye"].values.tolist() == [1.25, 0.5]


def test_a_name_that_does_not_resolve(dye, monkeypatch):
    def refused(*_, **__):
        raise urllib.error.URLError("[Errno -2] Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refused)
    with pytest.raises(ArtifactError, match="Name or service not known"):
        datasets.load("dye")


@pytest.mark.parametrize("change", [TABLE[:-5], TABLE.replace(b"0.5", b"0.6"), TABLE + b"2,1\n", b""])
def test_another_content_is_refused(dye, cache, change):
    dye.write_bytes(change)
    with pytest.raises(ArtifactError, match="nothing was kept"):
        datasets.load("dye")
    assert not cache.exists() or not list(cache.iterdir())


def test_a_damaged_cache_is_fetched_again(dye, cache):
    datasets.load("dye")
    next(cache.iterdir()).write_bytes(b"damage")
    assert datasets.load("dye")["dye"].values.tolist() == [1.25, 0.5]


def test_addresses_and_settings(dye, monkeypatch):
    monkeypatch.setitem(FETCHED, "dye", dataclasses.replace(FETCHED["dye"], url="http://example.org/dye.csv"))
    with pytest.raises(ArtifactError, match="only https and file"):
        datasets.load("dye")
    with pytest.raises(OptionError):
        datasets.load("dye", steps=3)


def test_the_registry_is_complete():
    for name, remote in FETCHED.items():
        assert name.isidentifier()
        assert remote.url.startswith("https://")
        assert len(remote.sha256) == 64
        assert remote.size > 0
        assert {"license", "references"} <= set(remote.attributes)
    assert np.unique([r.sha256 for r in FETCHED.values()]).size == len(FETCHED)

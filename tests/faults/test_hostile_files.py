"""F19 to F22, F26, F29: files that attack, lie, or come from another time."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from harness import count, fault, in_child
from makers import bombs, gadgets, hostile_hdf5, record

import scidyn
from scidyn.data import ShardWriter, moments
from scidyn.data.io.artefact import read_artefact
from scidyn.errors import OptionError

CORPUS = Path(__file__).parent / "corpus"


def test_f19_pickles_never_run(tmp_path):
    marker = tmp_path / "marker"
    for name, path in gadgets(tmp_path, marker).items():
        with fault():
            kind, what = in_child(lambda path=path: scidyn.open(path))
            assert kind == "refused", (name, kind, what)
            assert not marker.exists(), name


def test_f20_hdf5_that_reaches_out(tmp_path):
    for name, path in hostile_hdf5(tmp_path).items():
        with fault():
            kind, what = in_child(lambda path=path: scidyn.open(path), memory=1 << 30, seconds=30)
            assert kind == "refused", (name, kind, what)
            assert "refused" in what
            assert str(path) in what


def test_f21_declared_sizes(tmp_path):
    for name, path in bombs(tmp_path).items():
        with fault():
            open_it = read_artefact if name == "safetensors" else scidyn.open
            kind, what = in_child(lambda path=path, open_it=open_it: open_it(path), memory=3 << 29, seconds=30)
            assert kind == "refused", (name, kind, what)
            other = {"zarr": "MissingDependencyError", "table in gzip": "DataError"}.get(name, "ArtifactError")
            assert what.startswith(("ArtifactError", other)), what


NAMES = ("../secret", "../../etc/passwd", "/etc/passwd", "a/../../b", "..", ".", "", "a\\..\\b", "a\x00b", "a/b")


@pytest.mark.parametrize("door", ["artefact", "shards", "datasets", "archive"])
def test_f22_names_stay_inside(tmp_path, door):
    for k, name in enumerate(NAMES):
        with fault():
            folder = tmp_path / str(k)
            folder.mkdir()
            if door == "artefact":
                entry = {"sha256": "0" * 64, "bytes": 1}
                manifest = {"format": 1, "files": {f"{name}.safetensors" if name else name: entry}}
                (folder / "manifest.json").write_text(json.dumps(manifest))
                kind, what = in_child(lambda folder=folder: read_artefact(folder))
            elif door == "shards":
                entry = {"file": f"{name}.nc" if name else name, "trajectories": 1, "bytes": 1, "sha256": ""}
                (folder / "shards.json").write_text(json.dumps({"format": 1, "shards": [entry]}))
                kind, what = in_child(lambda folder=folder: scidyn.open(folder))
            elif door == "datasets":
                kind, what = in_child(lambda name=name: scidyn.datasets.load(name))
            else:
                import zipfile

                with zipfile.ZipFile(folder / "a.npz", "w") as archive:
                    archive.writestr(f"{name or 'x'}.npy", b"\x93NUMPY\x01\x00")
                before = sorted(p.name for p in tmp_path.rglob("*"))
                kind, what = in_child(lambda folder=folder: scidyn.open(folder / "a.npz"))
                assert sorted(p.name for p in tmp_path.rglob("*")) == before
            assert kind == "refused", (name, kind, what)


def test_f26_statistics_of_a_file_ten_times_the_memory(tmp_path):
    """The file holds one written chunk; the rest of its 0.4 GB (nightly 6.7 GB) is its fill value."""
    rows = count(3, 50)
    path = tmp_path / "huge.nc"
    scidyn.save(record(rows=2, steps=8), tmp_path / "small.nc")
    with h5py.File(path, "w") as file:
        file.attrs["scidyn_kind"] = "trajectories"
        time = file.create_dataset("time", data=np.arange(64.0))
        time.attrs["units"] = "s"
        time.make_scale("time")
        row = file.create_dataset("trajectory", data=np.arange(rows))
        row.make_scale("trajectory")
        x = file.create_dataset("x", data=np.arange(2**19, dtype=float))
        x.attrs["units"] = "m"
        x.make_scale("x")
        a = file.create_dataset("a", (rows, 64, 2**19), "f4", chunks=(1, 1, 2**18), fillvalue=2.0)
        a.attrs["units"] = "m"
        for k, scale in enumerate((row, time, x)):
            a.dims[k].attach_scale(scale)
        a[0, 0] = 4.0
    with fault():
        kind, found = in_child(lambda: moments(path), memory=count(40, 700) << 20, seconds=300)
        assert kind == "ok", found
        n = rows * 64
        assert found.mean[0] == pytest.approx((2 * (n - 1) + 4) / n, rel=1e-12)
        assert found.count[0] == n * 2**19


def test_f29_files_of_every_release(tmp_path):
    """What a release wrote is read by all later ones; a release adds a folder and changes none."""
    releases = sorted(CORPUS.iterdir())
    assert releases
    for release in releases:
        copy = shutil.copytree(release, tmp_path / release.name)
        with fault():
            assert scidyn.open(copy / "record.nc").equals(record(rows=2, steps=5))
        with fault():
            ensemble = scidyn.open(copy / "ensemble")
            for k in range(2):
                assert np.array_equal(ensemble["a"][k].values, record(rows=1, steps=5, seed=k + 1)["a"][0].values)
        with fault():
            manifest, tensors = read_artefact(copy / "model")
            assert (manifest["class"], manifest["rate"]) == ("Toy", 0.5)
            assert tensors["w"]["x"].tolist() == [0, 1, 2, 3]


def test_f29_other_versions(tmp_path):
    good = {"format": 1, "class": "Toy", "files": {}}
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "manifest.json").write_text(json.dumps(good))
    with fault():
        assert read_artefact(tmp_path / "old")[0]["class"] == "Toy"  # the layout before the manifest was sealed
    edits = {
        "future": good | {"format": 99},
        "negative": good | {"format": -1},
        "text": good | {"format": "1"},
        "true": good | {"format": True},
        "no files": {"format": 1},
        "list": [good],
        "unsealed": good | {"format": 2},
    }
    for name, content in edits.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "manifest.json").write_text(json.dumps(content))
        with fault():
            kind, what = in_child(lambda folder=folder: read_artefact(folder))
            assert kind == "refused", (name, kind, what)
    with ShardWriter(tmp_path / "e") as writer:
        writer.write(record())
    manifest = json.loads((tmp_path / "e" / "shards.json").read_text())
    for change in ({"format": 2}, {"shards": {}}, {"shards": [None]}, {"shards": [{}]}):
        (tmp_path / "e" / "shards.json").write_text(json.dumps(manifest | change))
        with fault():
            kind, what = in_child(lambda: scidyn.open(tmp_path / "e"))
            assert kind == "refused", (change, kind, what)
    with fault(), pytest.raises(OptionError):
        scidyn.datasets.load("lynx_hare_2019")

"""F19 to F22, F26, F29: files that attack, lie, or come from another time."""

import itertools
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from harness import NIGHTLY, fault, in_child
from makers import bombs, gadgets, hostile_hdf5, record

import scidyn
from scidyn.data import HDF5Windows, Loader, Sampler, ShardWriter, WindowIndex, moments
from scidyn.data.io.artefact import read_artefact
from scidyn.errors import ArtifactError, OptionError

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


def huge(path, written):
    """6.7 GB of which only one chunk, or nothing but zeros that the disk does not store, was written."""
    with h5py.File(path, "w") as file:
        file.attrs["scidyn_kind"] = "trajectories"
        sizes = {"trajectory": 50, "time": 64, "x": 2**19}
        for name, n in sizes.items():
            file[name] = np.arange(float(n))
            file[name].attrs["units"] = "1"
            file[name].make_scale(name)
        if written:
            a = file.create_dataset("a", tuple(sizes.values()), "f4", chunks=(1, 1, 2**18), fillvalue=2.0)
            a[0, 0] = 4.0
        else:
            a = file.create_dataset("a", tuple(sizes.values()), "f4", fill_time="never")
            a[-1, -1, -1] = 0.0  # takes up the space
        a.attrs["units"] = "1"
        for k, name in enumerate(sizes):
            a.dims[k].attach_scale(file[name])
    return path


def windows_of(path):
    """A tenth of an epoch of the loader."""
    store = HDF5Windows(path, WindowIndex(np.full(50, 64), 4, 0), crop={"x": (2**18 - 500, 2**18 + 500)})
    drawn = Loader(store, Sampler(len(store), 16, shuffle="chunk", blocks=store.blocks()), prefetch=2)
    return sum(float(batch.y.double().sum()) for batch in itertools.islice(drawn, 20)) / (20 * 16 * 4000)


def refused_whole(path):
    try:
        scidyn.open(path)
    except ArtifactError as error:
        return str(error)


def test_f26_files_ten_times_the_memory(tmp_path):
    """6.7 GB under a limit of 700 MB: statistics, windows, and a clear sentence where all of it is asked for."""
    path = huge(tmp_path / "chunks.nc", written=True)
    zeros = huge(tmp_path / "contiguous.nc", written=False)
    n = 50 * 64

    def right(found, mean):
        assert found.mean[0] == pytest.approx(mean, rel=1e-12)
        assert found.count[0] == n * 2**19

    jobs = [(lambda: moments(path), lambda found: right(found, (2 * (n - 1) + 4) / n))]
    if NIGHTLY:
        jobs += [
            (lambda: moments(zeros), lambda found: right(found, 0.0)),
            (lambda: moments(path), lambda found: right(found, (2 * (n - 1) + 4) / n)),
        ]
    for work, check in jobs:
        with fault():
            kind, found = in_child(work, memory=700 << 20, seconds=300)
            assert kind == "ok", found
            check(found)
    for place, mean in ((path, 2.0), (zeros, 0.0)):
        with fault():
            kind, found = in_child(lambda place=place: windows_of(place), memory=700 << 20)
            assert (kind, found) == ("ok", pytest.approx(mean, abs=0.1)), found
        with fault():
            kind, found = in_child(lambda place=place: refused_whole(place), memory=700 << 20)
            assert kind == "ok"
            assert "does not fit into memory" in found
            assert "memory='disk'" in found


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

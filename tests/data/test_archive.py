"""Archives made in pieces: the same bytes from one process and from a cluster, and broken-off runs go on."""

import numpy as np
import pytest

import scidyn
from scidyn.data import HDF5Windows, make_archive, rechunk, windows
from scidyn.errors import ArtifactError, OptionError, ScidynError, ShapeError


def make(k):
    y = np.random.default_rng([7, k]).normal(size=(3, 20, 2))
    return scidyn.data.from_arrays(y, np.arange(20), names=["a", "b"], units=["m", "1"], time_units="s")


def content(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if not p.name.startswith(".")}


def values(folder):
    ds = scidyn.open(folder)
    return np.stack([ds["a"].values, ds["b"].values], -1)


TRUTH = np.concatenate([np.random.default_rng([7, k]).normal(size=(3, 20, 2)) for k in range(4)])


def test_shards_are_what_was_made(tmp_path):
    path = make_archive(make, 4, tmp_path / "e", window=5, checksum=False)
    assert np.array_equal(values(path), TRUTH)
    ds = scidyn.open(path)
    assert ds["trajectory"].values.tolist() == list(range(12))
    assert ds["a"].attrs["units"] == "m"
    store = HDF5Windows(path, windows(ds, 5, horizon=0))
    assert store.mapped
    assert np.array_equal(store.gather(np.array([17]))[1].numpy()[0], TRUTH[1, 1:6])


def test_a_run_that_was_broken_off_goes_on(tmp_path):
    done = []

    def failing(k):
        done.append(k)
        if k == 2 and len(done) == 3:
            raise RuntimeError("power cut")
        return make(k)

    with pytest.raises(RuntimeError):
        make_archive(failing, 4, tmp_path / "e")
    with pytest.raises(ScidynError):
        scidyn.open(tmp_path / "e")
    make_archive(failing, 4, tmp_path / "e")
    assert done == [0, 1, 2, 2, 3]
    assert content(tmp_path / "e") == content(make_archive(make, 4, tmp_path / "other"))


def test_rechunk(tmp_path):
    file = scidyn.save(scidyn.open(make_archive(make, 4, tmp_path / "e")), tmp_path / "whole.nc")
    for source in (file, tmp_path / "e"):
        path = rechunk(source, tmp_path / f"by-4-{source.stem}", window=4, trajectories=5)
        assert np.array_equal(values(path), TRUTH)
        store = HDF5Windows(path)
        assert store.mapped
        assert {a.chunk[:2] for part in store.parts for a in part.arrays} == {(1, 4)}
    assert len(list((tmp_path / "by-4-whole").glob("shard-*.nc"))) == 3


def test_refusals(tmp_path):
    with pytest.raises(OptionError, match=r"dask.distributed.Client or None; got str"):
        make_archive(make, 2, tmp_path / "e", client="tcp://scheduler")
    with pytest.raises(ShapeError, match=r"shard-00001.nc has"):
        make_archive(lambda k: make(k).isel(time=slice(0, 20 - k)), 2, tmp_path / "uneven")
    make_archive(make, 1, tmp_path / "done")
    with pytest.raises(ArtifactError, match="finished archive; nothing was changed"):
        make_archive(make, 2, tmp_path / "done")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    with pytest.raises(ArtifactError, match="holds other files"):
        make_archive(make, 2, tmp_path / "full")
    with pytest.raises(ShapeError, match="one record"):
        rechunk(scidyn.save(scidyn.datasets.load("lynx_hare"), tmp_path / "r.nc"), tmp_path / "x", window=4)


def test_a_local_cluster_makes_the_same_bytes(tmp_path):
    distributed = pytest.importorskip("distributed")
    alone = make_archive(make, 4, tmp_path / "alone")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        together = make_archive(make, 4, tmp_path / "together", client=client)
        assert content(together) == content(alone)
        again = rechunk(together, tmp_path / "again", window=4, trajectories=2, client=client)
        assert np.array_equal(values(again), TRUTH)
    with distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster:
        import dask

        with dask.config.set({"scheduler-address": cluster.scheduler_address}), distributed.Client() as client:
            by_configuration = make_archive(make, 2, tmp_path / "configured", client=client)
            assert client.scheduler.address == cluster.scheduler_address
    assert np.array_equal(values(by_configuration), TRUTH[:6])

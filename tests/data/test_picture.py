"""Every kind of Dataset has a picture, a table and a line for each of its axes."""

import numpy as np
import pytest
import xarray as xr

import scidyn
from scidyn.cli.inspect import run_inspect
from scidyn.data import ShardWriter
from scidyn.errors import DataError, ShapeError

RANDOM = np.random.default_rng(0)


def field(*space):
    sizes = dict(zip(space, (16, 12, 6), strict=False))
    coords = {d: (d, np.linspace(0, 1, n), {"units": "m", "boundary": "periodic"}) for d, n in sizes.items()}
    return xr.Dataset(
        {"u": (("trajectory", "time", *space), RANDOM.normal(size=(2, 5, *sizes.values())), {"units": "K"})},
        {"time": ("time", np.arange(5.0), {"units": "s"}), "trajectory": [0, 1], **coords},
        {"scidyn_kind": "trajectories"},
    )


def irregular():
    y = RANDOM.normal(size=(2, 3, 2))
    return scidyn.data.from_arrays(y, [[0, 1, 5], [0, 2, np.nan]], units=["m", "m"], time_units="s")


def cells():
    return xr.Dataset(
        {"pca": (("cell", "feature"), RANDOM.normal(size=(60, 3)), {"units": "1"})},
        {"time": ("cell", np.repeat([2.0, 3.0, 7.0], 20), {"units": "day"}), "feature": ["a", "b", "c"]},
        {"scidyn_kind": "snapshots"},
    )


def pairs(*space):
    values = RANDOM.normal(size=(4, *(8,) * len(space)))
    data = {r: (("sample", *space), values, {"units": "1", "role": r}) for r in ("input", "output")}
    return xr.Dataset(data, attrs={"scidyn_kind": "pairs"})


KINDS = {
    "series": (lambda: scidyn.datasets.load("lynx_hare"), 2, "every 1"),
    "irregular": (irregular, 2, "steps of 1 to 4"),
    "field 1": (lambda: field("x"), 1, "x 0 to 1 m, 16 points, periodic"),
    "field 2": (lambda: field("x", "y"), 1, "y 0 to 1 m, 12 points"),
    "field 3": (lambda: field("x", "y", "z"), 1, "z 0 to 1 m, 6 points"),
    "snapshots": (cells, 1, "time 2 to 7 day, 3 time points"),
    "pairs 1": (lambda: pairs("x"), 2, "4 sample, 8 x"),
    "pairs 2": (lambda: pairs("x", "y"), 2, "4 sample, 8 x, 8 y"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_inspect_every_kind(kind, tmp_path, capsys):
    make, panels, sentence = KINDS[kind]
    ds = make()
    axes = ds.scidyn.plot()
    assert axes.shape == (panels,)
    drawn = [len(a.lines) + len(a.collections) for a in axes]
    assert min(drawn) >= 1
    path = scidyn.save(ds, tmp_path / "r.nc")
    run_inspect(path, time=None, trajectory=None, units=[], plot=tmp_path / "r.png")
    out = capsys.readouterr().out.replace("\n", " ")
    assert sentence in out
    assert str(ds.attrs["scidyn_kind"]) in out
    for name in ds.data_vars:
        assert str(name) in out
    assert (tmp_path / "r.png").read_bytes()[:4] == b"\x89PNG"


def test_the_picture_shows_the_data():
    ds = scidyn.datasets.load("lynx_hare")
    axes = ds.scidyn.plot()
    assert np.array_equal(axes[1].lines[0].get_ydata(), ds["lynx"].values)
    assert axes[0].get_title() == "hare (thousand pelts)"
    heat = field("x")
    mesh = heat.scidyn.plot()[0].collections[0]
    assert np.array_equal(mesh.get_array().reshape(16, 5), heat["u"][0].values.T)
    dots = cells().scidyn.plot()[0].collections[0]
    assert dots.get_offsets().shape == (60, 2)
    assert sorted(set(dots.get_array().tolist())) == [2, 3, 7]


def test_axes_of_the_caller_and_nothing_to_draw():
    from matplotlib.figure import Figure

    ds = scidyn.datasets.load("lynx_hare")
    given = Figure().subplots(1, 2)
    assert ds.scidyn.plot(given)[1] is given[1]
    with pytest.raises(ShapeError, match="2 are drawn"):
        ds.scidyn.plot(given[0])
    with pytest.raises(DataError):
        xr.Dataset(attrs={"scidyn_kind": "pairs"}).scidyn.plot()


def test_inspect_shards_and_names_with_marks(tmp_path, capsys):
    ds = scidyn.data.from_arrays(np.ones((2, 5, 1)), np.arange(5), names=["a[red]"], units=["1"], time_units="s")
    with ShardWriter(tmp_path / "e") as shards:
        shards.write(ds)
    run_inspect(tmp_path / "e", time=None, trajectory=None, units=[], plot=None)
    assert "a[red]" in capsys.readouterr().out

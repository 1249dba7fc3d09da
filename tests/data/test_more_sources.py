"""AnnData objects, Parquet by row groups, and the statistics of The Well."""

from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import sparse

import scidyn
from scidyn.data import from_anndata, well_scaling
from scidyn.errors import ArtifactError, DataError, OptionError

RANDOM = np.random.default_rng(0)
PCA, COUNTS = RANDOM.normal(size=(60, 5)), RANDOM.poisson(0.3, size=(60, 30)).astype(float)


def adata(**changes):
    """What an AnnData object offers, without anndata."""
    obs = pd.DataFrame({"day": pd.Categorical(np.repeat(["d2", "d3", "d7"], 20)), "donor": ["a", "b"] * 30})
    parts = {
        "obs": obs,
        "obsm": {"X_pca": PCA},
        "X": sparse.csr_matrix(COUNTS),
        "var_names": [f"g{k}" for k in range(30)],
    }
    return SimpleNamespace(**parts | changes)


def test_anndata_object_and_file_agree(tmp_path):
    with h5py.File(tmp_path / "c.h5ad", "w") as file:
        file["obs/day"] = np.repeat([b"d2", b"d3", b"d7"], 20)
        file["obs/donor"] = [b"a", b"b"] * 30
        file["obsm/X_pca"], file["X"] = PCA, COUNTS
    one, other = from_anndata(adata()), from_anndata(tmp_path / "c.h5ad")
    one.attrs.pop("source"), other.attrs.pop("source")
    assert one.identical(other)
    genes = from_anndata(adata(), rep="X")
    assert np.array_equal(genes["X"].values, COUNTS)
    assert genes["feature"].values[3] == "g3"
    assert genes["time"].attrs["units"] == "day"


def test_anndata_objects_that_do_not_fit():
    with pytest.raises(OptionError, match="DataFrame has no obs"):
        from_anndata(pd.DataFrame())
    with pytest.raises(OptionError, match="X_umap"):
        from_anndata(adata(), rep="X_umap")
    with pytest.raises(OptionError, match="time_map lacks"):
        from_anndata(adata(), time_map={"d2": 0})
    copied = from_anndata(adata())
    copied["pca"][0, 0] = 99
    assert PCA[0, 0] != 99


def test_parquet_larger_than_memory(tmp_path):
    """Chosen columns and row groups are read; what does not fit is refused with the arguments that help."""
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    rows = 1000
    t, y = np.arange(float(rows)), np.random.default_rng(0).normal(size=(rows, 6))
    columns = {"time (s)": t} | {f"y{k} (m)": y[:, k] for k in range(6)} | {"note": [{"a": 1}] * rows}
    path = tmp_path / "wide.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=90)
    with pytest.raises(DataError, match="column 'note' is nested"):
        scidyn.open(path)
    ds = scidyn.open(path, values=["y3", "y1 (m)"])
    assert sorted(ds.data_vars) == ["y1", "y3"]
    assert np.array_equal(ds["y3"].values, y[:, 3])
    part = scidyn.open(path, values=["y3"], rows=(85, 275))
    assert np.array_equal(part["time"].values, t[85:275])
    assert np.array_equal(part["y3"].values, y[85:275, 3])
    for start, stop in ((0, 90), (90, 91 + 1), (899, 1000)):
        assert np.array_equal(scidyn.open(path, values=["y3"], rows=(start, stop))["y3"].values, y[start:stop, 3])
    with pytest.raises(OptionError, match="0 <= start < stop <= 1000"):
        scidyn.open(path, rows=(0, 1001))
    with pytest.raises(ArtifactError, match=r"does not fit into memory.*values=\[…\] or rows=.*memory_limit=…"):
        scidyn.open(path, values=["y3"], memory_limit=10_000)
    assert scidyn.open(path, values=["y3"], rows=(0, 100), memory_limit=10_000).sizes["time"] == 100
    plain = tmp_path / "plain.parquet"
    pq.write_table(pa.table({"time (s)": t, "a (m)": t}), plain)
    with pytest.raises(OptionError, match="values names 'y9'"):
        scidyn.open(plain, values=["y9"])


def test_netcdf_larger_than_memory(tmp_path):
    ds = scidyn.data.from_arrays(np.ones((4, 50, 3)), np.arange(50), names=list("abc"), units=["m"] * 3, time_units="s")
    path = scidyn.save(ds, tmp_path / "r.nc")
    with pytest.raises(ArtifactError, match=r"does not fit into memory: about .* memory='disk'"):
        scidyn.open(path, memory_limit=3000)
    part = scidyn.open(path, values=["b"], memory_limit=3000)
    assert part.identical(ds[["b"]])
    with pytest.raises(OptionError, match="memory_limit"):
        scidyn.open(path, memory_limit=0)
    with pytest.raises(OptionError, match="has no use for memory_limit"):
        scidyn.open(scidyn.save(ds, tmp_path / "r.csv"), memory_limit=1)


def test_the_mask_stays_when_variables_are_chosen(tmp_path):
    mask = np.ones((4, 50, 2), bool)
    mask[1, 3] = False
    ds = scidyn.data.from_arrays(np.ones((4, 50, 2)), np.arange(50), units=["m"] * 2, time_units="s", mask=mask)
    path = scidyn.save(ds, tmp_path / "r.nc")
    some = scidyn.open(path, values=[str(next(iter(ds.data_vars)))])
    batch, whole = scidyn.data.to_batch(some), scidyn.data.to_batch(ds)
    assert bool((batch.mask[..., 0] == whole.mask[..., 0]).all())


def test_parquet_by_row_groups(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    n = 5000
    t, y = np.arange(n), RANDOM.normal(size=n)
    counts = [None if k % 7 == 0 else k for k in range(n)]
    pq.write_table(pa.table({"time (s)": t, "a (m)": y, "b (1)": counts}), tmp_path / "r.parquet", row_group_size=64)
    ds = scidyn.open(tmp_path / "r.parquet")
    assert np.array_equal(ds["a"].values, y)
    assert np.array_equal(ds["b"].values, np.array([np.nan if c is None else c for c in counts]), equal_nan=True)
    pq.write_table(pa.table({"time (h)": ["0", "1"], "a (m)": ["1.5", "low"]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="column 'a', row 3: 'low'"):
        scidyn.open(tmp_path / "t.parquet")


STATS = """mean:
  rho: 0.5
  velocity:
  - 1.0
  - -2.0
  stress: [[1, 2], [3, 4]]
std:
  rho: 2.0e-1
  velocity:
    - 3.0
    - 4.0
  stress:
  - - 5.0
    - 6.0
  - - 7.0
    - 8.0
rms:
  rho: 1  # not used
"""


def fields():
    names = ["rho", "velocity_x", "velocity_y", "stress_xx", "stress_xy", "stress_yx", "stress_yy"]
    data = {n: (("trajectory", "time", "x", "y"), np.zeros((1, 3, 2, 2)), {"units": "1"}) for n in names}
    coords = {"time": ("time", [0.0, 0.5, 1.0], {"units": "1"}), "x": ("x", [0.0, 1]), "y": ("y", [0.0, 1])}
    return xr.Dataset(data, coords, {"scidyn_kind": "trajectories"})


def test_statistics_of_the_well(tmp_path):
    yaml = pytest.importorskip("yaml")
    path = tmp_path / "stats.yaml"
    path.write_text(STATS)
    scaling = well_scaling(path, fields())
    assert scaling.mean == (0.5, 1, -2, 1, 2, 3, 4)
    assert scaling.scale == (0.2, 3, 4, 5, 6, 7, 8)
    assert (scaling.start, scaling.span) == (0, 0.5)
    path.write_text(yaml.safe_dump(yaml.safe_load(STATS)))
    assert well_scaling(path, fields()) == scaling


BAD = [
    "", "a", "mean: {rho: 1}", "mean:\n  rho: one", "- 1\nmean:\n", "mean: !!python/object:os.system x",
    "mean:\n  rho: &a 1", "mean:\n  rho: 1\n  rho: 2", "x:\n" * 3, "mean:\n  velocity: [1, 2, 3]", "[" * 5000, "\x00",
    "mean: " + "[" * 9000, "mean:\n  velocity: [1, x]", "mean:\n  - 1\n   - 2", "a:\n b:\n  c:\n   d:\n",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD)
def test_other_tables_are_refused(tmp_path, text):
    path = tmp_path / "stats.yaml"
    path.write_text(text)
    with pytest.raises((ArtifactError, DataError)):
        well_scaling(path, fields())


def test_statistics_that_lack_a_field(tmp_path):
    path = tmp_path / "stats.yaml"
    path.write_text(STATS.replace("rho", "density"))
    with pytest.raises(DataError, match=r"no mean and positive std of 'rho'"):
        well_scaling(path, fields())
    path.write_text(STATS + "# " + "x" * (1 << 20))
    with pytest.raises(ArtifactError, match="too many"):
        well_scaling(path, fields())

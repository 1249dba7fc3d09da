"""Every format against the arrays that made the file, and every trap of it."""

import io
import pickle
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from scipy import sparse
from scipy.io import savemat

import scidyn
from scidyn.data.readers.registry import FORMATS, detect
from scidyn.errors import (
    ArtifactError,
    DataError,
    MissingDependencyError,
    NonFiniteError,
    OptionError,
    ShapeError,
    TimeGridError,
    UnitsError,
)

REAL = next((p / "shared" / "data" for p in Path(__file__).parents if (p / "shared" / "data").is_dir()), Path("absent"))
RNG = np.random.default_rng(0)


# --- AnnData


def h5ad(path, *, day, x, categorical=None, layout="csr", pca=None, weight=None, **columns):
    """A file with the layout of anndata 0.8 and later."""
    with h5py.File(path, "w") as file:
        file.attrs["encoding-type"] = "anndata"
        obs = file.create_group("obs")
        obs.attrs["_index"] = "_index"
        obs["_index"] = np.array([f"cell{k}" for k in range(len(x))], dtype="S")
        if categorical == "new":
            names, codes = np.unique(day, return_inverse=True)
            group = obs.create_group("day")
            group["categories"], group["codes"] = names.astype("S"), codes.astype(np.int8)
        elif categorical == "old":
            names, codes = np.unique(day, return_inverse=True)
            obs["day"] = codes.astype(np.int8)
            obs["__categories/day"] = names.astype("S")
        else:
            obs["day"] = day
        if weight is not None:
            obs["size"] = weight
        for name, values in columns.items():
            obs[name] = values
        var = file.create_group("var")
        var.attrs["_index"] = "gene"
        var["gene"] = np.array([f"g{k}" for k in range(x.shape[1])], dtype="S")
        if layout == "dense":
            file["X"] = x
        else:
            matrix = sparse.csr_matrix(x) if layout == "csr" else sparse.csc_matrix(x)
            group = file.create_group("X")
            group.attrs["encoding-type"] = f"{layout}_matrix"
            group.attrs["shape"] = x.shape
            group["data"], group["indices"], group["indptr"] = matrix.data, matrix.indices, matrix.indptr
        if pca is not None:
            file["obsm/X_pca"] = pca
    return path


@pytest.fixture
def counts():
    return RNG.poisson(0.5, size=(12, 5)).astype(np.float32)


@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
@pytest.mark.parametrize("categorical", [None, "new", "old"])
def test_anndata(tmp_path, counts, layout, categorical):
    days = np.repeat([2.0, 3.0, 10.0], 4)
    labels = np.array([f"day {d:g}" for d in days]) if categorical else days
    path = h5ad(tmp_path / "cells", day=labels, x=counts, layout=layout, categorical=categorical,
                donor=np.repeat([1, 2], 6), weight=np.arange(12.0))  # fmt: skip
    ds = scidyn.open(path, units={"time": "day"}, weight="size")
    assert ds.attrs["scidyn_kind"] == "snapshots"
    assert ds["X"].dims == ("cell", "feature")
    assert ds["X"].values.tolist() == counts.tolist()
    assert ds["time"].values.tolist() == days.tolist()
    assert ds["feature"].values.tolist() == ["g0", "g1", "g2", "g3", "g4"]
    assert ds["donor"].values.tolist() == np.repeat([1, 2], 6).tolist()
    assert ds["weight"].values.tolist() == list(range(12))
    parts = scidyn.data.split(ds, by="timepoint", fractions=(0.67, 0, 0.33))
    assert set(parts.test["time"].values.tolist()) == {3.0}
    again = scidyn.open(scidyn.save(ds, tmp_path / "cells.nc"))
    assert again.identical(ds)


def test_anndata_embedding_comes_first(tmp_path, counts):
    pca = RNG.normal(size=(12, 3))
    path = h5ad(tmp_path / "a.h5ad", day=np.repeat([0, 1], 6), x=counts, pca=pca)
    ds = scidyn.open(path, units={"time": "day"})
    assert list(ds.data_vars) == ["pca"]
    assert ds["pca"].values.tolist() == pca.tolist()
    assert ds["feature"].values.tolist() == ["pca1", "pca2", "pca3"]
    assert list(scidyn.open(path, rep="X", units={"time": "day"}).data_vars) == ["X"]
    with pytest.raises(OptionError, match=r"rep must be 'X' or one of \['X_pca'\]; got 'X_umap'"):
        scidyn.open(path, rep="X_umap")


def test_anndata_labels_without_numbers(tmp_path, counts):
    path = h5ad(tmp_path / "a.h5ad", day=np.repeat(["early", "late"], 6), x=counts, categorical="new")
    with pytest.raises(DataError, match="hold no times; give them with time_map="):
        scidyn.open(path)
    with pytest.raises(OptionError, match="time_map lacks 'late'"):
        scidyn.open(path, time_map={"early": 0.0})
    ds = scidyn.open(path, time_map={"early": 0.0, "late": 5.0}, units={"time": "h"})
    assert ds["time"].values.tolist() == [0.0] * 6 + [5.0] * 6


def test_anndata_refusals(tmp_path, counts):
    one = h5ad(tmp_path / "one", day=np.ones(12), x=counts)
    with pytest.raises(DataError, match="All 12 cells have one time"):
        scidyn.open(one, units={"time": "day"})
    gap = h5ad(tmp_path / "gap", day=np.array([1.0, np.nan] * 6), x=counts)
    with pytest.raises(TimeGridError, match=r"time\[1\] is nan \(6 such cells\)"):
        scidyn.open(gap, units={"time": "day"})
    with pytest.raises(OptionError, match=r"time names 'dya'.*Did you mean 'day'\?"):
        scidyn.open(one, time="dya")
    with pytest.raises(NonFiniteError, match=r"weight\[0\] is -1"):
        scidyn.open(h5ad(tmp_path / "w", day=np.repeat([0, 1], 6), x=counts, weight=-np.ones(12)), weight="size",
                    units={"time": "day"})  # fmt: skip
    with h5py.File(one, "a") as file:
        file["X"].attrs["shape"] = (10**7, 10**5)
    with pytest.raises(ArtifactError, match="take an embedding with rep="):
        scidyn.open(one)


def test_anndata_bad_sparse_indices(tmp_path, counts):
    path = h5ad(tmp_path / "a", day=np.repeat([0, 1], 6), x=counts)
    with h5py.File(path, "a") as file:
        file["X/indices"][0] = 99
    with pytest.raises(ArtifactError, match="damaged"):
        scidyn.open(path, units={"time": "day"})


# --- PDEBench


@pytest.mark.parametrize("extra", [0, 1])
def test_pdebench_tensor(tmp_path, extra):
    u = RNG.normal(size=(3, 5, 8)).astype(np.float32)
    with h5py.File(tmp_path / "advection", "w") as file:
        file["tensor"] = u
        file["x-coordinate"] = np.linspace(0, 1, 8)
        file["t-coordinate"] = 0.1 * np.arange(5 + extra)
        file.attrs["beta"] = 0.4
    ds = scidyn.open(tmp_path / "advection")
    assert ds["tensor"].dims == ("trajectory", "time", "x")
    assert ds["tensor"].values.tobytes() == u.tobytes()
    assert np.array_equal(ds["time"].values, 0.1 * np.arange(5))
    assert ("was left out" in ds.attrs.get("history", "")) == bool(extra)
    assert ds["beta"].values.tolist() == [0.4] * 3
    assert ds["beta"].attrs["role"] == "parameter"
    some = scidyn.open(tmp_path / "advection", rows=(1, 3))
    assert some["trajectory"].values.tolist() == [1, 2]
    assert some["tensor"].values.tobytes() == u[1:3].tobytes()
    with pytest.raises(OptionError, match="rows must satisfy"):
        scidyn.open(tmp_path / "advection", rows=(2, 9))


def test_pdebench_flow_variables_become_features(tmp_path):
    parts = {n: RNG.normal(size=(2, 4, 6, 5)).astype(np.float32) for n in ("density", "pressure", "Vx", "Vy")}
    with h5py.File(tmp_path / "cfd", "w") as file:
        for name, values in parts.items():
            file[name] = values
        file["x-coordinate"], file["y-coordinate"] = np.arange(6.0), np.arange(5.0)
        file["t-coordinate"] = np.arange(5.0)
        file.attrs["eta"], file.attrs["M"] = 0.01, 0.1
    ds = scidyn.open(tmp_path / "cfd")
    batch = scidyn.data.to_batch(ds, dtype=None)
    assert batch.y.shape == (2, 4, 6, 5, 4)
    for k, name in enumerate(parts):
        assert np.array_equal(batch.y[..., k].numpy(), parts[name])
    assert batch.parameter.shape == (2, 2)


def test_pdebench_groups(tmp_path):
    data = RNG.normal(size=(2, 4, 6, 5, 2)).astype(np.float32)
    with h5py.File(tmp_path / "reaction", "w") as file:
        for k in range(2):
            file[f"{k:04d}/data"] = data[k]
            for name, n in (("x", 6), ("y", 5), ("t", 4)):
                file[f"{k:04d}/grid/{name}"] = np.arange(n, dtype=float)
    ds = scidyn.open(tmp_path / "reaction")
    assert ds["data1"].dims == ("trajectory", "time", "x", "y")
    assert ds["data1"].values.tobytes() == np.ascontiguousarray(data[..., 1]).tobytes()


def test_pdebench_darcy_pairs(tmp_path):
    nu, u = RNG.random((4, 6, 6)), RNG.random((4, 1, 6, 6))
    with h5py.File(tmp_path / "darcy", "w") as file:
        file["nu"], file["tensor"] = nu, u
        file["x-coordinate"], file["y-coordinate"] = np.arange(6.0), np.arange(6.0)
        file.attrs["beta"] = 1.0
    ds = scidyn.open(tmp_path / "darcy")
    assert ds.attrs["scidyn_kind"] == "pairs"
    assert ds["nu"].values.tolist() == nu.tolist()
    assert ds["nu"].attrs["role"] == "input"
    assert ds["tensor"].values.tolist() == u[:, 0].tolist()
    parts = scidyn.data.split(ds, by="sample", fractions=(0.5, 0.25, 0.25))
    assert [p.sizes["sample"] for p in parts] == [2, 1, 1]
    assert scidyn.open(scidyn.save(ds, tmp_path / "again.nc")).identical(ds)


# --- The Well


def the_well(path, *, vary_time=False, vary_grid=False):
    scalar = RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)
    vector = RNG.normal(size=(2, 3, 4, 5, 2)).astype(np.float32)
    tensor = RNG.normal(size=(2, 3, 4, 5, 2, 2)).astype(np.float32)
    still = RNG.normal(size=(2, 4)).astype(np.float32)  # varies with the sample and x only
    with h5py.File(path, "w") as file:
        file.attrs.update(n_trajectories=2, n_spatial_dims=2, dataset_name="toy", grid_type="cartesian")
        dims = file.create_group("dimensions")
        dims.attrs["spatial_dims"] = ["x", "y"]
        dims["time"] = np.array([[0.0, 1, 2], [0, 2, 4]]) if vary_time else np.arange(3.0)
        dims["time"].attrs["sample_varying"] = vary_time
        dims["x"] = np.arange(4.0) * np.array([[1.0], [2.0]]) if vary_grid else np.arange(4.0)
        dims["y"] = np.arange(5.0)
        for order, (name, values) in enumerate((("density", scalar), ("velocity", vector), ("stress", tensor))):
            item = file.create_dataset(f"t{order}_fields/{name}", data=values)
            item.attrs.update(sample_varying=True, time_varying=True, dim_varying=[True, True])
        item = file.create_dataset("t0_fields/depth", data=still)
        item.attrs.update(sample_varying=True, time_varying=False, dim_varying=[True, False])
        item = file.create_dataset("scalars/viscosity", data=[0.1, 0.2])
        item.attrs.update(sample_varying=True, time_varying=False)
        bc = file.create_group("boundary_conditions/x_periodic")
        bc.attrs.update(bc_type="PERIODIC", associated_dims=["x"])
    return scalar, vector, tensor, still


def test_the_well(tmp_path):
    scalar, vector, tensor, still = the_well(tmp_path / "well")
    ds = scidyn.open(tmp_path / "well")
    assert np.array_equal(ds["density"].values, scalar)
    assert np.array_equal(ds["velocity_y"].values, vector[..., 1])
    assert np.array_equal(ds["stress_xy"].values, tensor[..., 0, 1])
    assert np.array_equal(ds["stress_yx"].values, tensor[..., 1, 0])
    assert np.array_equal(ds["depth"].values, np.broadcast_to(still[:, None, :, None], (2, 3, 4, 5)))
    assert ds["viscosity"].values.tolist() == [0.1, 0.2]
    assert ds["x"].attrs["boundary"] == "periodic"
    one = scidyn.open(tmp_path / "well", rows=(1, 2), values=["density"])
    assert np.array_equal(one["density"].values, scalar[1:])
    assert set(one.data_vars) == {"density", "viscosity"}


def test_the_well_with_times_of_its_own(tmp_path):
    scalar, *_ = the_well(tmp_path / "well", vary_time=True)
    ds = scidyn.open(tmp_path / "well")
    assert ds.attrs["scidyn_kind"] == "irregular"
    assert ds["time"].values.tolist() == [[0, 1, 2], [0, 2, 4]]
    assert np.array_equal(ds["density"].values, scalar)


def test_the_well_with_grids_of_its_own(tmp_path):
    the_well(tmp_path / "well", vary_grid=True)
    with pytest.raises(DataError, match="the grid 'x' differs between trajectories"):
        scidyn.open(tmp_path / "well")
    assert scidyn.open(tmp_path / "well", rows=(0, 1))["density"].shape == (1, 3, 4, 5)


# --- MATLAB and npz


def arrays():
    return {"t": np.linspace(0, 1, 7), "x": np.linspace(-1, 1, 4), "u": RNG.normal(size=(4, 7))}


def v73(path, content):
    """HDF5 behind MATLAB's block, axes reversed, as MATLAB writes it."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in content.items():
            item = file.create_dataset(name, data=np.atleast_2d(value).T)
            item.attrs["MATLAB_class"] = np.bytes_(b"double")
        item = file.create_dataset("title", data=np.array([[104], [105]], dtype=np.uint16))
        item.attrs["MATLAB_class"] = np.bytes_(b"char")
        refs = file.create_group("#refs#")
        refs["a"] = np.arange(3.0)
        cell = file.create_dataset("cells", (1, 1), dtype=h5py.ref_dtype)
        cell[0, 0] = refs["a"].ref
        cell.attrs["MATLAB_class"] = np.bytes_(b"cell")
        group = file.create_group("model")
        group.attrs["MATLAB_class"] = np.bytes_(b"struct")
        group["p"] = np.arange(28.0).reshape(4, 7).T
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return path


@pytest.mark.parametrize("version", ["v5", "v7.3", "npz"])
def test_named_arrays(tmp_path, version):
    content = arrays()
    path = tmp_path / "record"
    if version == "v5":
        savemat(path, content | {"title": "hi", "model": {"p": np.arange(28.0).reshape(4, 7)}}, appendmat=False)
    elif version == "v7.3":
        v73(path, content)
    else:
        with path.open("wb") as file:
            np.savez(file, **content)
    assert detect(path).name == ("a NumPy archive" if version == "npz" else "MATLAB")
    with pytest.raises(UnitsError, match="or units='1' if nothing has a dimension"):
        scidyn.open(path)
    ds = scidyn.open(path, units={"time": "s", "u": "m", **({} if version == "npz" else {"model_p": "1"})})
    assert ds["u"].dims == ("time", "x")
    assert np.array_equal(ds["u"].values, content["u"].T)
    assert np.array_equal(ds["x"].values, content["x"])
    if version != "npz":
        assert np.array_equal(ds["model_p"].values, np.arange(28.0).reshape(4, 7).T)


def npz(path, **content):
    with path.open("wb") as file:
        np.savez(file, **content)
    return path


def test_axes_that_cannot_be_told(tmp_path):
    path = npz(tmp_path / "square", t=np.arange(5.0), x=np.arange(5.0), u=RNG.normal(size=(5, 5)))
    with pytest.raises(ShapeError, match=r"axes of 'u' with shape \(5, 5\) cannot be told.*dims="):
        scidyn.open(path, units="1")
    u = np.load(path)["u"]
    assert np.array_equal(scidyn.open(path, units="1", dims={"u": ("x", "time")})["u"].values, u.T)
    assert np.array_equal(scidyn.open(path, units="1", dims={"u": ("time", "x")})["u"].values, u)


def test_features_trajectories_and_complex_values(tmp_path):
    y = RNG.normal(size=(3, 7, 2))
    ds = scidyn.open(
        npz(tmp_path / "a", time=np.arange(7.0), y=y), units="1", dims={"y": ("trajectory", "time", "feature")}
    )
    assert np.array_equal(ds["y1"].values, y[..., 1])
    wave = RNG.normal(size=7) + 1j
    ds = scidyn.open(npz(tmp_path / "b", t=np.arange(7.0), h=wave), units="1")
    assert np.array_equal(ds["h_real"].values, wave.real)
    assert np.array_equal(ds["h_imag"].values, wave.imag)


def test_snapshots_in_an_archive(tmp_path):
    clouds = RNG.normal(size=(3, 5, 2))
    path = npz(tmp_path / "blocks", Xs=clouds, dts=np.array([0.0, 1, 3]))
    with pytest.raises(ShapeError, match="say kind='snapshots'"):
        scidyn.open(path, units="1")
    ds = scidyn.open(path, units="1", kind="snapshots")
    assert np.array_equal(ds["Xs"].values, clouds.reshape(15, 2))
    assert ds["time"].values.tolist() == np.repeat([0.0, 1, 3], 5).tolist()
    rows = npz(tmp_path / "rows", X=clouds.reshape(15, 2), ts=np.repeat([0, 1, 3], 5))
    assert scidyn.open(rows, units="1").identical(
        ds.rename(Xs="X").assign_attrs(source="rows").assign_coords(time=ds["time"])
    )


def test_snapshots_in_a_table(tmp_path):
    path = tmp_path / "cells.csv"
    path.write_text("samples,x1,x2\n0,1.0,2.0\n0,3.0,4.0\n1,5.0,6.0\n")
    ds = scidyn.open(path, time="samples", kind="snapshots", units="1")
    assert ds["x"].values.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert ds["time"].values.tolist() == [0, 0, 1]


class Gadget:
    def __reduce__(self):
        return (Path.touch, (Path("marker"),))


@pytest.mark.parametrize("form", ["npz", "npy", "pt", "pickle"])
def test_pickles_never_run(tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "gadget"
    content = pickle.dumps(Gadget())
    if form == "npz":
        npz(path, t=np.arange(3.0), y=np.array([Gadget(), 1, 2], dtype=object))
    elif form == "npy":
        buffer = io.BytesIO()
        np.save(buffer, np.array([Gadget()], dtype=object), allow_pickle=True)
        path.write_bytes(buffer.getvalue())
    elif form == "pt":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", content)
    else:
        path.write_bytes(content)
    with pytest.raises((ArtifactError, DataError), match=r"pickle|Python objects|without times"):
        scidyn.open(path)
    assert not (tmp_path / "marker").exists()


def test_declared_sizes_are_checked_before_loading(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**11,)})
    with zipfile.ZipFile(tmp_path / "bomb", "w") as archive:
        archive.writestr("t.npy", header.getvalue())
    with pytest.raises(ArtifactError, match=r"declares more than 8 GiB \(at t.npy\)"):
        scidyn.open(tmp_path / "bomb")


# --- NetCDF


def test_netcdf_classic_and_dims_of_others(tmp_path):
    ds = xr.Dataset(
        {"a": (("sample", "time"), RNG.normal(size=(2, 3)), {"units": "m"})},
        {"time": ("time", np.arange(3.0), {"units": "s"})},
    )
    ds.to_netcdf(tmp_path / "old", engine="scipy")
    again = scidyn.open(tmp_path / "old")
    assert again["a"].dims == ("trajectory", "time")
    assert np.array_equal(again["a"].values, ds["a"].values)
    ds["time"].attrs["calendar"] = "360_day"
    ds.to_netcdf(tmp_path / "model.nc", engine="h5netcdf")
    with pytest.raises(TimeGridError, match="calendar '360_day'"):
        scidyn.open(tmp_path / "model.nc")


# --- optional formats


def test_formats_without_their_package(tmp_path, monkeypatch):
    import builtins

    real = builtins.__import__

    def lacking(name, *rest, **more):
        if name.split(".")[0] in ("openpyxl", "pyarrow", "zarr"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with zipfile.ZipFile(tmp_path / "book", "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    (tmp_path / "table").write_bytes(b"PAR1....PAR1")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "zarr.json").write_text("{}")
    for name, extra in (("book", "excel"), ("table", "parquet"), ("store", "zarr")):
        with pytest.raises(MissingDependencyError, match=rf"scidyn\[{extra}\]"):
            scidyn.open(tmp_path / name)


def workbook(path, rows, **sheets):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.title = "A"
    for row in rows:
        book.active.append(row)
    for name, more in sheets.items():
        sheet = book.create_sheet(name)
        for row in more:
            sheet.append(row)
    book.save(path)
    return path, book


def test_excel(tmp_path):
    import datetime

    rows = [["time (h)", "dye (mg/L)"], [0, 1.5], [1, None], [2, 2.5]]
    path, _ = workbook(tmp_path / "book.bin", rows)
    ds = scidyn.open(path)
    assert np.array_equal(ds["dye"].values, [1.5, np.nan, 2.5], equal_nan=True)
    path, _ = workbook(tmp_path / "two", rows, B=rows)
    assert scidyn.open(path)["trajectory"].values.tolist() == ["A", "B"]
    assert "trajectory" not in scidyn.open(path, sheet="B").dims
    path, _ = workbook(tmp_path / "differ", rows, B=[["other"], [1]])
    with pytest.raises(DataError, match="different headers"):
        scidyn.open(path)
    with pytest.raises(OptionError, match="sheet must be one of"):
        scidyn.open(path, sheet="C")
    days = [["date", "dye (mg/L)"], *[[datetime.datetime(2024, 2, 27 + k), k] for k in range(3)]]
    path, _ = workbook(tmp_path / "dates", days)
    assert scidyn.open(path)["time"].values.tolist() == [0, 1, 2]


def test_excel_traps(tmp_path):
    rows = [["time (h)", "dye (mg/L)"], [0, 1.5], [1, "=B2*2"]]
    path, _ = workbook(tmp_path / "formula", rows)
    with pytest.raises(DataError, match=r"cell B3: the formula =B2.2 has no stored value"):
        scidyn.open(path)
    path, book = workbook(tmp_path / "merged", [["time (h)", "dye (mg/L)"], [0, 1.5], [1, 2]])
    book.active.merge_cells("A2:A3")
    book.save(path)
    with pytest.raises(DataError, match="merged cells at A2:A3"):
        scidyn.open(path)
    path, _ = workbook(tmp_path / "error", [["time (h)", "dye (mg/L)"], [0, 1.5], [1, "#DIV/0!"]])
    with pytest.raises(DataError, match="column 'dye', row 3: '#DIV/0!' is not a number"):
        scidyn.open(path)
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-900])
    with pytest.raises(ArtifactError, match="truncated or damaged"):
        scidyn.open(tmp_path / "cut")
    path, _ = workbook(tmp_path / "serial", [["date", "dye (mg/L)"], [45350, 1.5], [45351, 2]])
    with pytest.raises(UnitsError, match="units are missing for 'date'"):  # days since when, nobody has said
        scidyn.open(path)
    path, book = workbook(tmp_path / "far", [["time (h)", "dye (mg/L)"], [0, 1.5], [1, 2]])
    book.active.cell(1_048_576, 12, 1.0)
    book.save(path)
    with pytest.raises(DataError, match="more than 10000000 cells; save it as CSV or Parquet"):
        scidyn.open(path)


def test_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    table = pa.table({"time (h)": [0, 1, 2], "n (1)": pa.array([1, None, 3], pa.int64())})
    pq.write_table(table, tmp_path / "t", row_group_size=1)
    ds = scidyn.open(tmp_path / "t")
    assert np.array_equal(ds["n"].values, [1, np.nan, 3], equal_nan=True)
    pq.write_table(pa.table({"time (h)": [0, 1], "v (1)": [[1], [2]]}), tmp_path / "nested")
    with pytest.raises(DataError, match=r"column 'v \(1\)' is nested"):
        scidyn.open(tmp_path / "nested")
    (tmp_path / "cut").write_bytes((tmp_path / "t").read_bytes()[:-20])
    with pytest.raises(ArtifactError, match="truncated or damaged"):
        scidyn.open(tmp_path / "cut")


def test_zarr(tmp_path):
    pytest.importorskip("zarr")
    record = scidyn.datasets.load("lynx_hare")
    record.to_zarr(tmp_path / "store")
    assert scidyn.open(tmp_path / "store").identical(record)
    (tmp_path / "store" / "hare" / "more").symlink_to(tmp_path)
    with pytest.raises(ArtifactError, match="is a link; refused"):
        scidyn.open(tmp_path / "store")


# --- all of them


def test_hints_of_other_formats_are_refused(tmp_path):
    path = npz(tmp_path / "a", t=np.arange(3.0), y=np.arange(3.0))
    with pytest.raises(OptionError, match="is a NumPy archive, which has no use for sheet="):
        scidyn.open(path, sheet="A")
    with pytest.raises(OptionError, match="Did you mean 'dims'"):
        scidyn.open(path, dim={})


def test_every_format_has_its_functions(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    for format in FORMATS:
        assert 0 <= format.sniff(tmp_path / "empty", b"") <= 1


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the shared data folder")
@pytest.mark.parametrize(
    ("file", "hints", "sizes"),
    [
        ("pde/raissi/burgers_shock.mat", {}, {"time": 100, "x": 256}),
        ("pde/raissi/NLS.mat", {}, {"time": 201, "x": 256}),
        ("pde/deepxde/reaction.npz", {"dims": {"Ca": ("x", "time"), "Cb": ("x", "time")}}, {"time": 201, "x": 201}),
        ("pde/reference/ks_chaotic.nc", {}, {"time": 251, "x": 512}),
        ("single_cell/eb_nlsb/test_rna.npz", {}, {"cell": 1750, "feature": 100}),
        ("single_cell/mmti_benchmarks/LV_data.npz", {"kind": "snapshots"}, {"cell": 2200, "feature": 2}),
        ("single_cell/deepruot/emt.csv", {"kind": "snapshots", "time": "samples"}, {"cell": 3133, "feature": 10}),
    ],
)
def test_files_that_nobody_here_made(file, hints, sizes):
    ds = scidyn.open(REAL / file, units="1", **hints)
    assert dict(ds.sizes) == sizes

"""NetCDF-4 files: identical round trips, and everything dangerous refused before data are read."""

import h5py
import numpy as np
import pytest
import xarray as xr

import scidyn
from scidyn.data.io.safety import check_hdf5
from scidyn.errors import ArtifactError, DataError, OptionError, TimeGridError


def rich_record():
    generator = np.random.default_rng(5)
    y = generator.normal(size=(2, 4))
    y[1, 2] = np.nan
    return xr.Dataset(
        {
            "a": (("trajectory", "time"), y, {"units": "m/s", "long_name": "speed", "range": np.array([0.0, 1.0])}),
            "narrow": (("trajectory", "time"), y.astype(np.float32), {"units": "1"}),
            "counts": (("trajectory", "time"), np.arange(8, dtype=np.int32).reshape(2, 4), {"units": "1"}),
            "big": ("time", np.array([2**53 + 1, -(2**62), 0, 1]), {"units": "1"}),
            "mask": (("trajectory", "time"), np.isfinite(y)),
            "note": ("trajectory", np.array(["öl", ""]), {"role": "auxiliary"}),
            "volume": ("trajectory", np.array([1.0, 2.0]), {"units": "L", "role": "parameter"}),
        },
        {
            "time": ("time", np.array([0.1, 0.2, 0.30000000000000004, 1e9]), {"units": "hours since dosing"}),
            "trajectory": ["s1", "s2"],
            "donor": ("trajectory", [7, 9]),
        },
        {"scidyn_kind": "trajectories", "title": "rich", "numbers": np.array([1, 2, 3])},
    )


@pytest.mark.parametrize("suffix", [".nc", ".h5"])
def test_round_trip_is_identical(tmp_path, suffix):
    ds = rich_record()
    again = scidyn.open(scidyn.save(ds, tmp_path / f"rich{suffix}"))
    assert again.identical(ds)  # values, names, coordinates, attributes
    for name in ds.variables:
        assert again[name].dtype == ds[name].dtype, name
        assert again[name].dims == ds[name].dims, name
    assert list(again.variables) == list(ds.variables)
    assert again["a"].values.tobytes() == ds["a"].values.tobytes()


def test_irregular_records_come_back(tmp_path):
    ds = scidyn.data.from_arrays(
        np.arange(12.0).reshape(2, 3, 2), [[0, 1, 2], [0, 5, np.nan]], units=["1", "1"], time_units="s"
    )
    assert scidyn.open(scidyn.save(ds, tmp_path / "irregular.nc")).identical(ds)


def test_another_reader_opens_it(tmp_path):
    """Plain HDF5 with dimension scales: names and values are where h5py looks for them."""
    scidyn.save(rich_record(), tmp_path / "rich.nc")
    with h5py.File(tmp_path / "rich.nc") as file:
        assert file["a"].fletcher32
        assert file["a"].dims[1][0].name == "/time"
        assert file["a"].attrs["units"] == "m/s"


def test_save_refuses_before_it_writes(tmp_path):
    ds = rich_record()
    path = tmp_path / "rich.nc"
    with pytest.raises(OptionError, match="suffix of path must be one of"):
        scidyn.save(ds, tmp_path / "rich.xyz")
    with pytest.raises(DataError, match=r"'a' has dtype float16.*astype"):
        scidyn.save(ds.assign(a=ds["a"].astype(np.float16)), path)
    with pytest.raises(DataError, match="holds '/'"):
        scidyn.save(ds.rename(a="dx/dt"), path)
    for value in (None, {"a": 1}, True):
        with pytest.raises(DataError, match="attribute 'extra' of variable 'a'"):
            scidyn.save(ds.assign(a=ds["a"].assign_attrs(extra=value)), path)
    with pytest.raises(DataError, match="'note' has dims"):
        scidyn.save(ds, tmp_path / "rich.csv")
    with pytest.raises(ArtifactError, match="could not be written"):
        scidyn.save(ds, tmp_path / "absent" / "rich.nc")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept(tmp_path):
    ds = rich_record()
    path = scidyn.save(ds, tmp_path / "rich.nc")
    before = path.read_bytes()
    with pytest.raises(ArtifactError, match=r"exists; nothing was changed. Pass overwrite=True"):
        scidyn.save(ds.isel(time=slice(0, 2)), path)
    assert path.read_bytes() == before
    scidyn.save(ds.isel(time=slice(0, 2)), path, overwrite=True)
    assert scidyn.open(path).sizes["time"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["rich.nc"]


def test_hours_stay_numbers(tmp_path):
    """``hours since 2020-01-01`` is a unit here, not a calendar."""
    ds = rich_record()
    ds["time"].attrs["units"] = "hours since 2020-01-01"
    again = scidyn.open(scidyn.save(ds, tmp_path / "hours.nc"))
    assert again["time"].dtype == np.float64
    assert again["time"].attrs["units"] == "hours since 2020-01-01"


def test_a_file_of_another_program(tmp_path):
    """Time as a plain variable, packed integers with a fill value: decoded, checked, units from the call."""
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["time"] = np.arange(3.0)
        file["time"].make_scale("time")
        packed = file.create_dataset("level", data=np.array([10, -999, 30], dtype=np.int16))
        packed.attrs["_FillValue"] = np.int16(-999)
        packed.attrs["scale_factor"] = 0.5
        packed.dims[0].attach_scale(file["time"])
    with pytest.raises(scidyn.errors.UnitsError, match="'time', 'level'"):
        scidyn.open(tmp_path / "other.h5")
    ds = scidyn.open(tmp_path / "other.h5", units={"time": "h", "level": "m"}, values=["level"])
    assert np.array_equal(ds["level"].values, [5, np.nan, 15], equal_nan=True)
    with pytest.raises(OptionError, match="values names 'lvl'"):
        scidyn.open(tmp_path / "other.h5", values=["lvl"])
    with pytest.raises(OptionError, match="has no use for layout="):
        scidyn.open(tmp_path / "other.h5", layout="long")


def test_bad_content_in_a_good_file(tmp_path):
    ds = rich_record().isel(time=[1, 0, 2, 3])
    scidyn.save(ds, tmp_path / "unsorted.nc")
    with pytest.raises(TimeGridError, match="goes back from"):
        scidyn.open(tmp_path / "unsorted.nc")


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.9, 0.999])
def test_truncated_files(tmp_path, share):
    content = scidyn.save(rich_record(), tmp_path / "whole.nc").read_bytes()
    path = tmp_path / "cut.nc"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises((ArtifactError, DataError), match=r"truncated or damaged|is empty|known formats"):
        scidyn.open(path)


def test_a_changed_byte_is_noticed(tmp_path):
    ds = rich_record()
    content = bytearray(scidyn.save(ds, tmp_path / "whole.nc").read_bytes())
    at = content.find(ds["a"].values[0, 1].tobytes())
    assert at > 0
    content[at + 3] ^= 1
    (tmp_path / "edited.nc").write_bytes(content)
    with pytest.raises(ArtifactError, match="damaged"):
        scidyn.open(tmp_path / "edited.nc")


SECRET = b"the password of another user, in a file of its own\n" * 20


def external_link(file, folder):
    file["data"] = h5py.ExternalLink(str(folder / "other.h5"), "/x")


def soft_link(file, folder):
    file["x"] = np.arange(3.0)
    file["data"] = h5py.SoftLink("/x")


def soft_cycle(file, folder):
    file.create_group("a")["b"] = h5py.SoftLink("/a")


def hard_cycle(file, folder):
    group = file.create_group("a")
    group["again"] = group


def external_storage(file, folder):
    file.create_dataset("data", (4,), "f8", external=[(str(folder / "secret"), 0, 32)])


def virtual(file, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["x"] = np.arange(3.0)
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", (3,))
    file.create_virtual_dataset("data", layout)


def deep(file, folder):
    group = file
    for _ in range(40):
        group = group.create_group("g")


def many(file, folder):
    for k in range(10_001):
        file.create_group(str(k))


def huge(file, folder):
    file.create_dataset("inner/data", (2**40,), "f8", chunks=(2**10,), compression="gzip")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (external_link, "/data links to another file"),
        (soft_link, "/data is a soft link"),
        (soft_cycle, "/a/b is a soft link"),
        (hard_cycle, "form a cycle"),
        (external_storage, "/data keeps its data in another file"),
        (virtual, "/data keeps its data in another file"),
        (deep, "nested deeper than 32"),
        (many, "more than 10000 objects"),
        (huge, r"declares more than 8 GiB \(at /inner/data\)"),
    ],
)
def test_hostile_files_are_refused(tmp_path, make, sentence):
    (tmp_path / "secret").write_bytes(SECRET)
    path = tmp_path / "hostile.nc"
    with h5py.File(path, "w") as file:
        make(file, tmp_path)
    with pytest.raises(ArtifactError, match=sentence):
        scidyn.open(path)


def test_windowed_reading_may_pass_the_budget(tmp_path):
    with h5py.File(tmp_path / "huge.nc", "w") as file:
        huge(file, tmp_path)
    check_hdf5(tmp_path / "huge.nc", budget=None)

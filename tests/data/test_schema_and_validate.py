"""The canonical Dataset: what is accepted, and every finding of what is not."""

import numpy as np
import pytest
import xarray as xr

import scidyn
from scidyn.data import from_arrays, state_variables, to_batch, units_of, validate
from scidyn.errors import DataError, NonFiniteError, OptionError, ShapeError, TimeGridError, UnitsError


def record(**changes):
    parts = {"y": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "t": [0, 1, 2.5], "names": ["a", "b"], "units": ["m", "1"],
             "time_units": "s"} | changes  # fmt: skip
    return from_arrays(parts.pop("y"), parts.pop("t"), **parts)


def test_from_arrays_shapes():
    assert record()["a"].dims == ("time",)
    one = from_arrays([1.0, 2.0], [0, 1], units=["m"], time_units="s")
    assert one["y0"].values.tolist() == [1, 2]
    many = record(y=np.arange(12.0).reshape(2, 3, 2))
    assert many["b"].values.tolist() == [[1, 3, 5], [7, 9, 11]]
    ragged = record(y=np.arange(12.0).reshape(2, 3, 2), t=[[0, 1, 2], [0, 5, np.nan]])
    assert ragged.attrs["scidyn_kind"] == "irregular"
    assert ragged["a"].dims == ("trajectory", "obs")
    assert units_of(ragged) == {"time": "s", "a": "m", "b": "1"}


def test_mask_makes_values_missing():
    ds = record(mask=[[True, False], [True, True], [True, True]])
    assert np.isnan(ds["b"].values[0])
    assert ds["a"].notnull().all()
    with pytest.raises(NonFiniteError, match=r"y\[1, 0\] is nan but mask says it was observed \(1 such"):
        record(y=[[1.0, 2], [np.nan, 1], [1, 1]], mask=np.ones((3, 2), bool))


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"t": [0, 1]}, ShapeError, r"y has shape \(3, 2\) and t \(2,\)"),
        ({"names": ["a"]}, ShapeError, "names must be 2 different names"),
        ({"names": ["a", "a"]}, ShapeError, "names must be 2 different names"),
        ({"mask": [True, False, True]}, ShapeError, r"mask has shape \(3,\)"),
        ({"t": [[0, 1, 2]]}, ShapeError, "t has two axes, so y needs three"),
        ({"units": None}, UnitsError, r"Units are missing for 'a', 'b'; set them with ds\['a'\]"),
        ({"time_units": None}, UnitsError, "Units are missing for 'time'"),
        ({"t": [0, 2, 1]}, TimeGridError, "time goes back from 2 s to 1 s at row 2"),
        ({"t": [0, 1, 1]}, TimeGridError, "time is 1 s in rows 1 and 2; times may not repeat"),
        ({"t": [0, np.nan, 1]}, TimeGridError, r"time\[1\] is nan"),
        ({"t": [0, 1, np.inf]}, TimeGridError, r"time\[2\] is inf"),
        ({"y": [[1, 2], [3, np.inf], [5, 6]]}, NonFiniteError, r"b\[1\] is inf \(1 infinite"),
        ({"y": [[1, np.nan], [3, np.nan], [5, np.nan]]}, NonFiniteError, "'b' has no observed value"),
        ({"y": [[1.0, 2.0]], "t": [0]}, DataError, "has 1 time; at least 2"),
        ({"y": np.zeros((0, 2)), "t": []}, DataError, "has 0 time"),
    ],
)
def test_what_from_arrays_refuses(changes, error, sentence):
    with pytest.raises(error, match=sentence):
        record(**changes)


def test_irregular_padding():
    y = np.arange(12.0).reshape(2, 3, 2)
    with pytest.raises(TimeGridError, match="of trajectory 1 has a gap or an infinity before its padding"):
        record(y=y, t=[[0, 1, 2], [0, np.nan, 1]])
    with pytest.raises(TimeGridError, match="time of trajectory 0 goes back"):
        record(y=y, t=[[3, 1, 2], [0, 1, np.nan]])


def test_all_findings_come_together():
    ds = record()
    ds["a"][1] = np.inf
    del ds["b"].attrs["units"]
    ds = ds.assign_coords(time=("time", [0.0, 2.0, 1.0], ds["time"].attrs))
    with pytest.raises(TimeGridError, match="goes back") as caught:
        validate(ds)
    text = str(caught.value)
    assert "further findings" in text
    assert "a[1] is inf" in text
    assert "Units are missing for 'b'" in text


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (lambda ds: ds.rename(time="times"), ShapeError, r"no coordinate 'time'.*ds.rename\(\{'times': 'time'\}\)"),
        (lambda ds: ds.rename(time="epoch"), ShapeError, "no coordinate 'time'"),
        (lambda ds: ds.expand_dims(tme=2), ShapeError, "unknown dim 'tme'"),
        (lambda ds: ds.expand_dims(trajectory=2).transpose("time", "trajectory"), ShapeError, "use ds.transpose"),
        (lambda ds: ds.assign(a=ds["a"].astype(str).assign_attrs(units="1")), DataError, "dtype <U"),
        (lambda ds: ds.assign(a=ds["a"].assign_attrs(role="effect")), OptionError, "has the role 'effect'"),
        (lambda ds: ds.assign_coords(time=np.array(["2020-01-01", "2020-01-02", "2020-01-03"], "M8[ns]")),
         TimeGridError, "convert dates to days first"),
        (lambda ds: ds.assign_attrs(scidyn_kind="table"), OptionError, "scidyn_kind must be one of"),
        (lambda ds: ds.assign(mask=("time", [True, True, True])).assign(a=("time", [1, np.nan, 2], {"units": "m"})),
         NonFiniteError, r"a\[1\] is NaN but mask says it was observed"),
    ],
)  # fmt: skip
def test_what_validate_refuses(change, error, sentence):
    with pytest.raises(error, match=sentence):
        validate(change(record()))


def test_remarks():
    ds = record(y=[[1, np.nan], [1, np.nan], [1, 6]])
    assert validate(ds).warnings == ("a: all its values are 1", "b: 67 % of its values are missing",
                                     "b: all its values are 6")  # fmt: skip


def test_roles_go_to_their_place():
    ds = record(y=np.arange(12.0).reshape(2, 3, 2))
    ds["feed"] = ("time", [0.0, 1.0, 0.0], {"units": "g/h", "role": "control"})
    ds["volume"] = ("trajectory", [1.0, 2.0], {"units": "L", "role": "parameter"})
    assert state_variables(ds) == ["a", "b"]
    batch = to_batch(ds)
    assert batch.y.tolist() == np.arange(12.0).reshape(2, 3, 2).tolist()
    assert batch.control[..., 0].tolist() == [[0, 1, 0], [0, 1, 0]]
    assert batch.parameter.tolist() == [[1], [2]]
    assert batch.t.tolist() == [[0, 1, 2.5], [0, 1, 2.5]]
    assert batch.index.tolist() == [0, 1]
    assert bool(batch.mask.all())


def test_missing_values_are_zero_and_masked():
    batch = to_batch(record(y=[[1, np.nan], [3, 4], [5, 6]]))
    assert batch.y[0, 0].tolist() == [1, 0]
    assert batch.mask[0, 0].tolist() == [True, False]


def test_fields_on_a_grid():
    values = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    ds = xr.Dataset(
        {n: (("trajectory", "time", "x"), values + k, {"units": "1"}) for k, n in enumerate("uv")},
        {"time": ("time", [0.0, 1.0, 2.0], {"units": "s"}), "x": ("x", np.arange(4.0), {"units": "m"})},
        {"scidyn_kind": "trajectories"},
    )
    batch = to_batch(ds, dtype=None)
    assert batch.y.shape == (2, 3, 4, 2)
    assert str(batch.y.dtype) == "torch.float32"
    assert batch.y[1, 2, 3].tolist() == [23, 24]


def test_no_state_variable():
    ds = scidyn.datasets.load("lynx_hare")[[]]
    with pytest.raises(DataError, match="no measured variable"):
        state_variables(ds)


@pytest.mark.parametrize("where", [2**53 + 1, -(2**60), 2**63 - 1])
def test_whole_numbers_that_float64_cannot_tell_apart(where):
    t = np.array(sorted([0, where]))
    with pytest.raises(TimeGridError, match=r"time holds -?\d+, beyond the whole numbers"):
        from_arrays([1.0, 2.0], t, units=["m"], time_units="s")
    ds = xr.Dataset({"a": ("time", [1.0, 2.0], {"units": "m"})}, {"time": ("time", t, {"units": "s"})})
    with pytest.raises(TimeGridError, match="beyond the whole numbers"):
        validate(ds)
    assert from_arrays([1.0, 2.0], [0, 2**53], units=["m"], time_units="s")["time"].values[1] == 2.0**53


def test_controls_may_be_missing_in_padding_only():
    ds = record(y=np.ones((2, 3, 2)), t=[[0, 1, 2], [0, 5, np.nan]])
    held = np.where(np.isnan(ds["time"].values), np.nan, 1.0)
    ds["dose"] = (("trajectory", "obs"), held, {"units": "m", "role": "control"})
    validate(ds)
    ds["dose"][1, 1] = np.nan
    with pytest.raises(NonFiniteError, match=r"dose\[1, 1\] is NaN \(1 such"):
        validate(ds)


def test_a_mask_by_feature_speaks_of_each_variable():
    ds = record(y=[[1.0, np.nan], [3.0, 4.0], [5.0, 6.0]])
    said = np.ones((3, 2), dtype=bool)
    said[0, 1] = False
    validate(ds.assign(mask=(("time", "feature"), said)))
    with pytest.raises(NonFiniteError, match=r"b\[0\] is NaN but mask says it was observed \(1 such"):
        validate(ds.assign(mask=(("time", "feature"), np.ones((3, 2), dtype=bool))))

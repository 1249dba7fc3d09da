"""F09 to F14, F30, F31: what people really hand over, and what the call must say."""

import contextlib
import io
import locale
import math
import os
import subprocess
import sys
import time
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from harness import count, fault, in_child
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from makers import record

import scidyn
from scidyn.data import (
    Scaling,
    check_disjoint,
    convert_units,
    factor,
    from_arrays,
    loader,
    split,
    to_batch,
    validate,
    windows,
)
from scidyn.errors import (
    DataError,
    NonFiniteError,
    OptionError,
    ScidynError,
    ShapeError,
    SplitError,
    TimeGridError,
    UnitsError,
)
from scidyn.testing import time_grids

MANY = settings(
    max_examples=count(200, 5000), deadline=None, database=None, derandomize=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@MANY
@given(
    where=st.sampled_from(["y", "t", "masked", "said", "control", "parameter"]),
    bad=st.sampled_from([math.nan, math.inf, -math.inf]),
    places=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6)), min_size=1, max_size=5, unique=True),
)
def test_f09_non_finite_values(where, bad, places):
    y, t = np.ones((3, 7, 1)), np.arange(7.0)
    rows = tuple(np.array(places).T)
    with fault():
        if where == "y":
            y[rows] = bad
            if math.isnan(bad):  # NaN means missing
                batch = to_batch(from_arrays(y, t, units=["m"], time_units="s"))
                assert int((~batch.mask).sum()) == len(places)
                assert bool(torch.isfinite(batch.y).all())
            else:
                with pytest.raises(NonFiniteError, match=rf"\({len(places)} infinite values\)"):
                    from_arrays(y, t, units=["m"], time_units="s")
        elif where == "t":
            t[rows[1]] = bad
            with pytest.raises(TimeGridError, match=rf"time\[{rows[1].min()}\] is"):
                from_arrays(y, t, units=["m"], time_units="s")
        elif where == "masked":
            y[rows] = bad
            mask = np.ones(y.shape, bool)
            mask[rows] = False
            batch = to_batch(from_arrays(y, t, units=["m"], time_units="s", mask=mask))
            assert bool(torch.isfinite(batch.y).all())
        elif where == "said":
            y[rows] = bad
            with pytest.raises(NonFiniteError, match=rf"mask says it was observed \({len(places)} such"):
                from_arrays(y, t, units=["m"], time_units="s", mask=np.ones(y.shape, bool))
        else:
            ds = from_arrays(y, t, units=["m"], time_units="s")
            values = np.ones(7 if where == "control" else 3)
            values[places[0][1 if where == "control" else 0]] = bad
            ds["extra"] = ("time" if where == "control" else "trajectory", values, {"units": "1", "role": where})
            with pytest.raises(NonFiniteError, match=rf"extra\[{places[0][1 if where == 'control' else 0]}\]"):
                validate(ds)


@MANY
@given(
    grid=time_grids(3, 10),
    how=st.sampled_from(["swap", "repeat", "nan", "inf", "constant", "overflow", "ulp"]),
    data=st.data(),
)
def test_f10_time_grids(grid, how, data):
    k = data.draw(st.integers(0, grid.size - 2))
    bad = grid.copy()
    y = np.arange(float(grid.size))
    with fault():
        if how == "ulp":  # times that differ in the last digit are kept apart and never joined
            one = from_arrays(y, grid, units=["m"], time_units="s")
            other = from_arrays(y, np.nextafter(grid, math.inf), units=["m"], time_units="s")
            with xr.set_options(arithmetic_join="exact"), pytest.raises(ValueError, match=r"exact|not equal|align"):
                _ = one["y0"] + other["y0"]
            return
        if how == "swap":
            bad[[k, k + 1]] = bad[[k + 1, k]]
        elif how == "repeat":
            bad[k + 1] = bad[k]
        elif how == "constant":
            bad[:] = bad[0]
        elif how == "overflow":  # steps beyond the exact integers of float64, or wrapped around those of int32
            steps = np.arange(grid.size) + (2**31 - 1 - k)
            bad = steps.astype(np.int64) + 2**60 if k % 2 else steps.astype(np.int64).astype(np.int32)
        else:
            bad[k] = math.nan if how == "nan" else math.inf
        with pytest.raises(TimeGridError, match="time"):
            from_arrays(y, bad, units=["m"], time_units="s")


CONVERSIONS = [
    ("km", "m", 1000), ("m", "km", 1e-3), ("mm", "m", 1e-3), ("h", "min", 60), ("day", "h", 24),
    ("year", "day", 365.25), ("week", "day", 7), ("mg/L", "g/m^3", 1),
    ("µg/mL", "mg/L", 1), ("mmol/L", "mM", 1), ("g", "kg", 1e-3),
    ("m s-1", "km/h", 3.6), ("kg m^-3", "g/L", 1), ("N", "kg m s-2", 1), ("J", "N m", 1), ("W", "J/s", 1),
    ("%", "1", 0.01), ("mL", "L", 1e-3), ("1/day", "1/h", 1 / 24), ("bar", "Pa", 1e5),
    ("ha", "m2", 1e4), ("mmHg", "Pa", 133.322387415),
]  # fmt: skip
CLASHES = [("m", "s"), ("mg/L", "mmol/L"), ("K", "J"), ("1", "m"), ("h", "1/h")]
STRANGE = ["furlong", "mg/dLL", "°C/h"]


def test_f11_units():
    for source, target, expected in CONVERSIONS:
        with fault():
            scale, offset = factor(source, target)
            assert scale == pytest.approx(expected, rel=1e-12)
            assert offset == 0
    with fault():
        assert factor("°C", "K") == pytest.approx((1, 273.15))
        assert np.dot(factor("degF", "degC"), (212, 1)) == pytest.approx(100)
        assert np.dot(factor("degF", "degC"), (-40, 1)) == pytest.approx(-40)
    for source, target in CLASHES:
        with fault(), pytest.raises(UnitsError, match=r"measures .* measures .*do not convert"):
            factor(source, target)
    for text in STRANGE:
        with fault(), pytest.raises(UnitsError, match=r"is not known|stands alone"):
            factor(text, "m")
    ds = from_arrays([20.0, 30.0], [0, 1], units=["°C"], time_units="day")
    changed = convert_units(ds, {"y0": "K", "time": "h"})
    assert changed["y0"].values.tolist() == [293.15, 303.15]
    assert changed["time"].values.tolist() == [0, 24]
    assert changed["time"].attrs["units"] == "h"
    with fault(), pytest.raises(UnitsError, match="y0: '°C' measures K, 'm' measures m"):
        convert_units(ds, {"y0": "m"})


def test_f12_dims():
    y = np.ones((3, 4, 2, 5))
    right = ("trajectory", "time", "x", "y")
    coords = {"time": ("time", np.arange(4.0), {"units": "s"})}
    for dims in permutations(right):
        ds = xr.Dataset({"a": (right, y, {"units": "1"})}, coords).transpose(*dims)
        with fault():
            if dims.index("trajectory") < dims.index("time"):
                assert to_batch(ds).y.shape == (3, 4, 2, 5, 1)
            else:
                with pytest.raises(ShapeError, match=r"the order is .*use ds.transpose\('trajectory', 'time'"):
                    validate(ds)
    for wrong in ("tiem", "traj", "Time", "features", "lat", "batch"):
        for right_name in ("trajectory", "x"):
            ds = xr.Dataset({"a": (right, y, {"units": "1"})}, coords).rename({right_name: wrong})
            with fault(), pytest.raises(ShapeError, match=f"unknown dim {wrong!r}; known: trajectory, time"):
                validate(ds)
    for cells in (("feature", "cell"), ("cell", "feature"), ("cell",), ("cell", "gene")):
        ds = xr.Dataset(
            {"a": (cells, np.ones((4, 4)[: len(cells)]), {"units": "1"})},
            {"time": ("cell", [0.0, 0, 1, 1], {"units": "day"})},
            {"scidyn_kind": "snapshots"},
        )
        with fault():
            if cells == ("cell", "feature"):
                validate(ds)
            else:
                with pytest.raises(ShapeError, match=r"transpose\('cell', 'feature'\)|need a variable|known: cell"):
                    validate(ds)
    for dims in permutations(("sample", "x", "y")):
        pair = {r: (dims, np.ones((2, 2, 2)), {"units": "1", "role": r}) for r in ("input", "output")}
        with fault():
            ds = xr.Dataset(pair, attrs={"scidyn_kind": "pairs"})
            if dims[0] == "sample":
                validate(ds)
            else:
                with pytest.raises(ShapeError, match=r"use ds.transpose\('sample', ...\)"):
                    validate(ds)
    shapes = [((4,), (5,)), ((4, 2), (5,)), ((3, 4, 2), (5,)), ((3, 4, 2), (3, 5)), ((2, 3, 4, 5), (4,)), ((), (1,)),
              ((4, 2), (2, 4)), ((4, 2), ()), ((4,), (4, 1, 1))]  # fmt: skip
    for y_shape, t_shape in shapes:
        with fault(), pytest.raises(ShapeError, match=r"y has shape|t has two axes"):
            from_arrays(np.ones(y_shape), np.ones(t_shape), units=["m"], time_units="s")
    for name in ("t", "times", "Year", "hours", "date"):
        ds = xr.Dataset({"a": (name, np.ones(4), {"units": "1"})}, {name: np.arange(4.0)})
        with fault(), pytest.raises(ShapeError, match="no coordinate 'time'"):
            validate(ds)


def test_f13_too_little():
    one, two = record(rows=1), record(rows=2)
    table = [
        (lambda: split(one), SplitError), (lambda: split(two), SplitError),
        (lambda: split(two, fractions=(1, 0, 0)).train, None), (lambda: split(two, fractions=(0.5, 0, 0.5)), None),
        (lambda: split(one, by="time"), None), (lambda: split(one.isel(time=slice(0, 2)), by="time"), SplitError),
        (lambda: split(one, by="time", gap=1e9), SplitError), (lambda: from_arrays([1.0], [0.0]), DataError),
        (lambda: from_arrays(np.ones((0, 1)), []), DataError), (lambda: windows(one, 20), DataError),
        (lambda: windows(one, 19, horizon=1), None), (lambda: windows(one, 0), OptionError),
        (lambda: windows(one, 5, horizon=-1), OptionError),
        (lambda: list(loader(one, windows(one, 5), batch=10**6)), None),
        (lambda: loader(one, windows(one, 5), batch=10**6, drop_last=True), DataError),
        (lambda: loader(one, windows(one, 5), batch=0), OptionError),
        (lambda: loader(one, windows(one, 5), world=3, rank=3), OptionError),
        (lambda: list(loader(one, windows(one, 19), batch=4, world=3, rank=2)), None),
        (lambda: list(loader(one, batch=4)), None), (lambda: Scaling.fit(one.isel(time=slice(0, 2))), None),
        (lambda: validate(one.isel(time=slice(0, 1))), DataError), (lambda: validate(xr.Dataset()), ShapeError),
        (lambda: to_batch(one.isel(time=slice(0, 0))), DataError),
        (lambda: validate(one.isel(trajectory=slice(0, 0))), DataError),
        (lambda: split(two, fractions=(0, 0.5, 0.5)), SplitError),
    ]  # fmt: skip
    for k, (call, error) in enumerate(table):
        with fault():
            if error is None:
                assert call() is not None, k
            else:
                with pytest.raises(error) as caught:
                    call()
                assert len(str(caught.value)) > 30, k


def test_f14_leaks():
    generator = np.random.default_rng(14)
    for trial in range(count(20, 200)):
        with fault():
            rows, steps = int(generator.integers(6, 20)), int(generator.integers(12, 40))
            ds = record(rows=rows, steps=steps, seed=trial)
            donors = np.sort(generator.integers(0, 4, rows))
            ds = ds.assign_coords(donor=("trajectory", donors))
            by = ("donor", "time")[trial % 2]
            try:
                parts = split(ds, by=by, fractions=(0.6, 0, 0.4), gap=3.0 if by == "time" else 0, seed=trial)
            except SplitError:
                assert by == "donor"
                assert np.unique(donors).size < 3
                continue
            length = 3
            seen = [set(), set()]
            for part, rows_seen in zip((parts.train, parts.test), seen, strict=True):
                if part.sizes["time"] < length + 1:
                    with pytest.raises(DataError, match="shorten the window"):
                        windows(part, length, short="skip")
                    continue
                index = windows(part, length, short="skip")
                for w in range(len(index)):
                    k, start = (int(v) for v in index.locate(w))
                    label = int(part["trajectory"].values[k])
                    rows_seen |= {(label, float(v)) for v in part["time"].values[start : start + index.span]}
            assert not seen[0] & seen[1]  # no row of a test window is in a training window
            if by == "donor":
                assert not set(parts.train["donor"].values.tolist()) & set(parts.test["donor"].values.tolist())
                twins = np.flatnonzero(donors == donors[0])
                if twins.size > 1:
                    with pytest.raises(SplitError, match="is in two parts"):
                        check_disjoint(ds.isel(trajectory=twins[:1]), ds.isel(trajectory=twins[1:]))
            else:
                assert float(parts.test["time"].min() - parts.train["time"].max()) >= 3
            both = xr.concat([parts.train, parts.test], "trajectory" if by == "donor" else "time")
            with pytest.raises(SplitError, match="one split only"):
                Scaling.fit(both)


SCRIPT = """
import sys, pathlib
import scidyn
from scidyn.errors import ScidynError
folder = pathlib.Path(sys.argv[1])
cases = {
    "comma": "time (h);dye (mg/L)\\n0;1,25\\n1;2,5\\n",
    "word": "time (h),dye (mg/L)\\n0,1\\n1,low\\n",
    "repeat": "time (h),dye (mg/L)\\n0,1\\n0,2\\n",
    "back": "time (h),dye (mg/L)\\n1,1\\n0,2\\n",
    "units": "time (h),dye\\n0,1\\n1,2\\n",
    "micro": "time (h),dye (\\u00b5g/L)\\n0,1\\n1,2\\n",
    "dates": "date,dye (mg/L)\\n2024-03-30,1\\n2024-04-01,2\\n",
    "odd": "time (h),dye (mg/L)\\n0,1\\n1,#DIV/0!\\n",
    "furlong": "time (h),dye (furlong)\\n0,1\\n1,2\\n",
    "ragged": "time (h),dye (mg/L)\\n0,1\\n1,2,3\\n",
    "empty": "",
    "turkish": "T\\u0130ME (h),dye (mg/L)\\n0,1\\n1,2\\n",
}
for name, text in cases.items():
    path = folder / f"{name}.csv"
    path.write_bytes(text.encode())
    try:
        ds = scidyn.open(path)
        again = scidyn.open(scidyn.save(ds, folder / f"{name}.nc", overwrite=True))
        print(name, ascii(ds["dye"].values.tolist()), ascii(ds["dye"].attrs), again.identical(ds))
    except ScidynError as error:
        print(name, type(error).__name__, ascii(str(error).replace(str(folder), "")))
"""


def interpreter(tmp_path):
    """Another interpreter: without asserts, with another hash seed and an ASCII locale, all at once."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    folder = tmp_path / "other interpreter"
    folder.mkdir()
    env = os.environ | {"PYTHONPATH": str(Path(scidyn.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    env |= {"PYTHONHASHSEED": "7", "LC_ALL": "C", "LANG": "de_DE.UTF-8", "PYTHONUTF8": "0", "TZ": "Asia/Tokyo"}
    command = [sys.executable, "-O", str(script), str(folder)]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def german(patch, folder):
    """A locale that writes 1,5: the system's where it has it, else one that says so."""
    try:
        locale.setlocale(locale.LC_ALL, "de_DE.UTF-8")
    except locale.Error:
        patch.setattr(locale, "localeconv", lambda: {"decimal_point": ",", "thousands_sep": "."})
        patch.setattr(locale, "str", lambda x: str(x).replace(".", ","))


def frozen(patch, folder):
    place = folder / "frozen"
    place.mkdir()
    place.chmod(0o555)
    patch.chdir(place)


def homeless(patch, folder):
    for name in ("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME", "TMPDIR"):
        patch.delenv(name, raising=False)


def clock(patch, folder):
    """A clock that goes back by an hour at every look."""
    start = time.time()
    looks = iter(range(10**9))
    patch.setattr(time, "time", lambda: start - 3600.0 * next(looks))


SURROUNDINGS = {
    "a locale with decimal comma": german,
    "a path that is not ASCII": lambda patch, folder: folder / "größe [x] 数据",
    "a long path": lambda patch, folder: folder / ("l" * 200) / ("m" * 200) / ("n" * 200),
    "a read-only working directory": frozen,
    "no home": homeless,
    "a clock that jumps": clock,
}


def test_f30_other_surroundings(tmp_path):
    """-O, hash seeds, locales, odd paths, read-only folders, no home, a clock that jumps: the same lines."""

    def lines(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as here:
            patch.setattr(sys, "argv", ["script", str(folder)])
            exec(compile(SCRIPT, "script", "exec"), {})
        return here.getvalue().splitlines()

    def elsewhere(change, folder):
        with pytest.MonkeyPatch.context() as patch:
            folder.mkdir()
            return lines(change(patch, folder) or folder)

    plain = lines(tmp_path / "plain")
    assert "comma [1.25, 2.5]" in plain[0]
    assert len(plain) == 12
    other = interpreter(tmp_path)
    for what in ("without asserts", "another hash seed", "an ASCII locale"):
        with fault():
            assert other == plain, what
    for name, change in SURROUNDINGS.items():
        with fault():
            kind, found = in_child(lambda change=change, name=name: elsewhere(change, tmp_path / name))
            assert (kind, found) == ("ok", plain), name


def tables():
    """Forty tables: content, what comes back (values of dye), or what the message must hold."""
    good = [1.25, 0.5]
    head = "time (h),dye (mg/L)\n"
    yield "plain", head + "0,1.25\n1,0.5\n", good
    yield "BOM", "\ufeff" + head + "0,1.25\n1,0.5\n", good
    yield "CRLF", (head + "0,1.25\n1,0.5\n").replace("\n", "\r\n"), good
    yield "old Mac", (head + "0,1.25\n1,0.5\n").replace("\n", "\r"), good
    yield "no end of line", head + "0,1.25\n1,0.5", good
    yield "blank rows", head + "\n0,1.25\n\n1,0.5\n\n", good
    yield "semicolon", "time (h);dye (mg/L)\n0;1.25\n1;0.5\n", good
    yield "decimal comma", "time (h);dye (mg/L)\n0;1,25\n1;0,5\n", good
    yield "decimal comma and tab", "time (h)\tdye (mg/L)\n0\t1,25\n1\t0,5\n", good
    yield "quoted decimal comma", head + '0,"1,25"\n1,"0,5"\n', good
    yield "pipe", "time (h)|dye (mg/L)\n0|1.25\n1|0.5\n", good
    yield "brackets", "time [h],dye [mg/L]\n0,1.25\n1,0.5\n", good
    yield "spaces", " time (h) , dye (mg/L) \n 0 , 1.25 \n 1 , 0.5 \n", good
    yield "exponents", head + "0,125e-2\n1,5.0E-1\n", good
    yield "plus signs", head + "0,+1.25\n1,+.5\n", good
    yield "NA", head + "0,1.25\n1,NA\n2,0.5\n", [1.25, None, 0.5]
    yield "dash", head + "0,1.25\n1,-\n2,0.5\n", [1.25, None, 0.5]
    yield "dates", "date,dye (mg/L)\n2024-01-01,1.25\n2024-01-02,0.5\n", good
    yield "day labels", "time,dye (mg/L)\nday 1,1.25\nday 2,0.5\n", good
    yield "year column", "year,dye (mg/L)\n1900,1.25\n1901,0.5\n", good
    yield "units in call missing", "time (h),dye\n0,1\n1,2\n", "units={'dye'"
    yield "no time", "when,dye (mg/L)\n0,1\n1,2\n", "name it with time="
    yield "two times", "day,hour,dye (mg/L)\n0,1,1\n1,1,2\n", "name it with time="
    yield "bad cell", head + "0,1\n1,low\n", "column 'dye', row 3: 'low'"
    yield "division", head + "0,1\n1,#DIV/0!\n", "column 'dye', row 3: '#DIV/0!'"
    yield "value error", head + "0,1\n1,#VALUE!\n", "row 3: '#VALUE!'"
    yield "less than", head + "0,1\n1,<0.1\n", "row 3: '<0.1'"
    yield "mixed decimals", "time (h);dye (mg/L)\n0;1,25\n1;0.5\n", "row 2: '1,25'"
    yield "thousands", head + '0,"1,000.5"\n1,2\n', "row 2: '1,000.5'"
    yield "duplicate keys", head + "0,1\n0,2\n", "rows 2 and 3"
    yield "unsorted", head + "1,1\n0,2\n", "goes back from 1 h to 0 h at row 1"
    yield "time missing", head + "0,1\n,2\n", "every row needs a time"
    yield "no rows", head, "header and no rows"
    yield "empty", "", "is empty"
    yield "one row", head + "0,1\n", "1 time; at least 2"
    yield "ragged", head + "0,1\n1,2,3\n", "row 3: 3 cells where the header has 2"
    yield "mixed separators", head + "0,1\n1;2\n", "row 3: 1 cells where the header has 2"
    yield "American dates", "date,dye (mg/L)\n01/02/2024,1\n01/03/2024,2\n", "write dates as 2024-01-31"
    yield "mixed units of time", "time,dye (mg/L)\n1 h,1\n1 d,2\n", "write all times in one unit"
    yield "column twice", "time (h),dye (g),dye (g)\n0,1,1\n1,1,1\n", "two columns named 'dye'"


def test_f31_lab_tables(tmp_path):
    for name, text, expected in tables():
        with fault():
            path = tmp_path / "lab.csv"
            path.write_bytes(text.encode())
            if isinstance(expected, str):
                with pytest.raises(ScidynError) as caught:
                    scidyn.open(path)
                assert expected in str(caught.value), name
            else:
                wanted = np.array([np.nan if v is None else v for v in expected])
                assert np.array_equal(scidyn.open(path)["dye"].values, wanted, equal_nan=True), name
    rows = 10**6
    with fault():
        t = np.arange(rows)
        path.write_text("time (s),a (m)\n" + "".join(f"{k},{k % 97}.5\n" for k in t))
        ds = scidyn.open(path)
        assert np.array_equal(ds["a"].values, t % 97 + 0.5)

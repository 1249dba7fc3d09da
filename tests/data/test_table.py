"""Tables as spreadsheets and instruments write them: every layout in, every bad cell named."""

import numpy as np
import pandas as pd
import pytest

import scidyn
from scidyn.data import from_table
from scidyn.errors import ArtifactError, DataError, OptionError, TimeGridError, UnitsError


@pytest.fixture
def write(tmp_path):
    def put(content, name="lab.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return path

    return put


PLAIN = "time (h),dye (mg/L),salt [g/L]\n0,1.25,3\n1,0.5,2\n2.5,,1\n"


def same(ds):
    assert ds["time"].values.tolist() == [0, 1, 2.5]
    assert ds["time"].attrs["units"] == "h"
    assert np.array_equal(ds["dye"].values, [1.25, 0.5, np.nan], equal_nan=True)
    assert ds["dye"].attrs["units"] == "mg/L"
    assert ds["salt"].values.tolist() == [3, 2, 1]
    assert ds["salt"].attrs["units"] == "g/L"


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (PLAIN, "utf-8"),
        (PLAIN, "utf-8-sig"),
        (PLAIN, "utf-16"),
        (PLAIN.replace("\n", "\r\n"), "utf-8"),
        (PLAIN.replace(",", "\t"), "utf-8"),
        (PLAIN.replace(",", "|"), "utf-8"),
        (PLAIN.replace(",", ";"), "utf-8"),
        (PLAIN.replace(",", ";").replace("1.25", "1,25").replace("0.5", "0,5").replace("2.5", "2,5"), "utf-8"),
        (PLAIN.replace(",", "\t").replace("1.25", "1,25").replace("0.5", "0,5").replace("2.5", "2,5"), "utf-8-sig"),
        (PLAIN.replace("1.25", '"1.25"') + "\n\n", "utf-8"),
    ],
    ids=["plain", "BOM", "utf-16", "CRLF", "tab", "pipe", "semicolon", "decimal comma", "comma and tab", "quotes"],
)
def test_every_dialect_gives_the_same_record(write, content, encoding):
    same(scidyn.open(write(content, encoding=encoding)))


def test_the_suffix_does_not_matter(write):
    same(scidyn.open(write(PLAIN, "record.dat")))


def test_decimal_comma_inside_quotes_with_comma_as_delimiter(write):
    ds = scidyn.open(write('time (h),dye (mg/L)\n0,"1,25"\n1,"0,5"\n'))
    assert ds["dye"].values.tolist() == [1.25, 0.5]


def test_latin_1_units(write):
    ds = scidyn.open(write("time (h),dye (µg/L)\n0,1\n1,2\n", encoding="latin-1"))
    assert ds["dye"].attrs["units"] == "µg/L"


def test_long_layout_with_units_column_and_replicates(write):
    rows = ["animal,time (h),variable,value,units"]
    for animal, times in (("a", (0, 1, 3)), ("b", (0, 2))):
        rows += [f"{animal},{t},dye,{t + 1}.5,mg/L" for t in times]
        rows += [f"{animal},{t},salt,{t},g/L" for t in times]
    ds = scidyn.open(write("\n".join(rows)), id="animal")
    assert ds.attrs["scidyn_kind"] == "irregular"
    assert ds["trajectory"].values.tolist() == ["a", "b"]
    assert np.array_equal(ds["time"].values, [[0, 1, 3], [0, 2, np.nan]], equal_nan=True)
    assert np.array_equal(ds["dye"].values, [[1.5, 2.5, 4.5], [1.5, 3.5, np.nan]], equal_nan=True)
    assert ds["salt"].attrs["units"] == "g/L"


def test_replicates_with_shared_times_are_trajectories(write):
    ds = scidyn.open(write("id,time (h),dye (mg/L)\n7,0,1\n7,1,2\n8,0,3\n8,1,4\n"), id="id")
    assert ds.attrs["scidyn_kind"] == "trajectories"
    assert ds["dye"].dims == ("trajectory", "time")
    assert ds["trajectory"].values.tolist() == [7, 8]
    assert ds["dye"].values.tolist() == [[1, 2], [3, 4]]


def test_leading_zeros_of_names_are_kept(write):
    ds = scidyn.open(write("id,time (h),dye (mg/L)\n007,0,1\n007,1,2\n010,0,3\n010,1,4\n"), id="id")
    assert ds["trajectory"].values.tolist() == ["007", "010"]


def test_dates_become_days_since_the_first(write):
    ds = scidyn.open(write("date,dye (mg/L)\n2024-02-28,1\n2024-03-01,2\n2024-03-01T12:00,3\n"), time="date")
    assert ds["time"].values.tolist() == [0, 2, 2.5]  # 2024 is a leap year
    assert ds["time"].attrs["units"] == "day"
    assert ds["time"].attrs["reference"] == "2024-02-28T00:00:00"


@pytest.mark.parametrize(
    ("cells", "values", "unit"),
    [
        (("day 0", "day 2", "Day 4"), [0, 2, 4], "day"),
        (("d1", "d2", "d3.5"), [1, 2, 3.5], "day"),
        (("0 h", "6 h", "12 hours"), [0, 6, 12], "h"),
        (("0min", "5 min", "10min"), [0, 5, 10], "min"),
    ],
)
def test_times_with_words(write, cells, values, unit):
    ds = scidyn.open(write("time,dye (mg/L)\n" + "".join(f"{c},{k}\n" for k, c in enumerate(cells))))
    assert ds["time"].values.tolist() == values
    assert ds["time"].attrs["units"] == unit


@pytest.mark.parametrize(
    ("content", "error", "sentence"),
    [
        ("", DataError, "is empty"),
        ("time (h),dye (mg/L)\n", DataError, "header and no rows"),
        ("time (h),dye (mg/L)\n0,1\n1,2,3\n", DataError, "row 3: 3 cells where the header has 2"),
        ("time (h),dye (mg/L)\n0,1\n1,low\n", DataError, r"lab.csv, column 'dye', row 3: 'low' is not a number"),
        ("time (h),dye (mg/L)\n0,1\n1,#DIV/0!\n", DataError, r"column 'dye', row 3: '#DIV/0!' is not a number"),
        ("time (h),dye (mg/L)\n0,1\n1,1_000\n", DataError, r"row 3: '1_000' is not a number"),
        ("time (h),dye (mg/L)\n0,1\n,2\n", TimeGridError, r"time\[1\] is nan; every row needs a time"),
        ("time (h),dye (mg/L)\n0,1\n0,2\n", TimeGridError, "time 0 stands in rows 2 and 3; if these are replicates"),
        ("time (h),dye (mg/L)\n1,1\n0,2\n", TimeGridError, "goes back from 1 h to 0 h at row 1; sort the rows"),
        ("time (h),dye (mg/L)\n0,1\ninf,2\n", TimeGridError, r"time\[1\] is inf"),
        ("time (h),dye (mg/L)\n0,1\n1,inf\n", scidyn.errors.NonFiniteError, r"dye\[1\] is inf"),
        ("time (h),dye (mg/L)\n0,NA\n1,\n", scidyn.errors.NonFiniteError, "'dye' has no observed value"),
        ("time (h),dye\n0,1\n1,2\n", UnitsError, r"units are missing for 'dye'. Write them in the header, 'dye \(unit"),
        ("time,dye\n0,1\n1,2\n", UnitsError, "units are missing for 'time', 'dye'"),
        ("when (h),dye (mg/L)\n0,1\n1,2\n", DataError, "Which column is time"),
        ("day,hour,dye (mg/L)\n0,1,1\n1,1,2\n", DataError, "could all be time"),
        ("time (h),dye (mg/L),dye (g/L)\n0,1,1\n1,1,2\n", DataError, "two columns named 'dye'"),
        ("time (h),dye (mg/L),\n0,1,1\n1,1,2\n", DataError, "column without a name"),
        ("time (h),variable,value,units\n0,dye,1,g\n0,dye,2,g\n", TimeGridError, "Row 3 gives 'dye' at time 0"),
        ("date,dye (mg/L)\n01/02/2024,1\n02/02/2024,2\n", TimeGridError, "can be read as day or month first"),
        ("date,dye (mg/L)\n2024-01-01,1\nsoon,2\n", TimeGridError, "row 3: 'soon' is no date"),
        ("time,dye (mg/L)\n2 h,1\n1 d,2\n", TimeGridError, "'1 d' is in day, '2 h' is in h; write all"),
        ("time (h),dye (mg/L)\nday 1,1\nday 2,2\n", UnitsError, "written as day, but their units are stated as 'h'"),
        ("just some words\nand more\n", DataError, "Which column is time"),
        (b"\x00\x01\x02\x03" * 100, DataError, "is no file that scidyn knows"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(write, content, error, sentence):
    with pytest.raises(error, match=sentence):
        scidyn.open(write(content))


def test_hints_that_name_nothing(write):
    path = write(PLAIN)
    with pytest.raises(OptionError, match=r"time names 'tmie'.*Did you mean 'time'\?"):
        scidyn.open(path, time="tmie")
    with pytest.raises(OptionError, match=r"values names 'die'.*Did you mean 'dye'\?"):
        scidyn.open(path, values=["die"])
    with pytest.raises(OptionError, match="layout must be one of"):
        scidyn.open(path, layout="broad")
    with pytest.raises(OptionError, match="units names 'sugar'"):
        scidyn.open(path, units={"sugar": "g/L"})
    with pytest.raises(ArtifactError, match="does not exist"):
        scidyn.open(path.with_name("absent.csv"))


def test_units_of_the_call_win(write):
    ds = scidyn.open(write(PLAIN), units={"dye": "kg/m^3", "time": "hour"})
    assert ds["dye"].attrs["units"] == "kg/m^3"
    assert ds["time"].attrs["units"] == "hour"


def test_duplicate_name_of_a_replicate(write):
    with pytest.raises(TimeGridError, match="time 0 of 'a' stands in rows 2 and 3"):
        scidyn.open(write("id,time (h),dye (g/L)\na,0,1\na,0,2\nb,0,1\nb,1,2\n"), id="id")


def test_frame_with_numbers_and_slash_in_a_name():
    ds = from_table(pd.DataFrame({"t (s)": [0, 1], "dx/dt (m/s)": [1.0, None]}))
    assert np.array_equal(ds["dx_dt"].values, [1, np.nan], equal_nan=True)


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_table_comes_back_identical(tmp_path, suffix):
    generator = np.random.default_rng(0)
    values = generator.normal(size=(3, 5, 2)) * 10.0 ** generator.integers(-300, 300, size=(3, 5, 2))
    values[1, 2, 0] = np.nan
    ds = scidyn.data.from_arrays(values, np.sort(generator.random(5)), names=["a", "b"], units=["m/s", "1"],
                                 time_units="min")  # fmt: skip
    again = scidyn.open(scidyn.save(ds, tmp_path / f"table{suffix}"))
    assert np.array_equal(again["time"], ds["time"])
    assert again["trajectory"].values.tolist() == [0, 1, 2]
    for name in ("a", "b"):
        assert np.array_equal(again[name].values, ds[name].values, equal_nan=True)  # to the last bit
        assert again[name].attrs["units"] == ds[name].attrs["units"]

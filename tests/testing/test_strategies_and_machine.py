"""Any Dataset the strategies draw is valid and survives the disk; a machine walks through a record's life."""

import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import scidyn
from scidyn.data import Scaling, check_disjoint, split, to_batch, validate
from scidyn.data.readers.registry import FORMATS
from scidyn.data.schema import KINDS, state_variables, time_dim
from scidyn.errors import DataWarning, OptionError, ScidynError, SplitError
from scidyn.testing import check_reader, check_round_trip, datasets

QUIET = settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("kind", KINDS)
def test_drawn_datasets_are_valid_and_survive_the_disk(kind, tmp_path):
    @QUIET
    @given(datasets(kind))
    def check(ds):
        validate(ds)
        check_round_trip(ds, tmp_path)

    check()


@QUIET
@given(datasets("irregular"), st.integers(0, 100))
def test_missing_means_masked(ds, seed):
    batch = to_batch(ds)
    values = np.stack([ds[n].values for n in state_variables(ds)], -1)
    assert np.array_equal(batch.mask.numpy(), np.isfinite(values))
    assert np.array_equal(batch.y.numpy(), np.nan_to_num(values, nan=0.0).astype(float))


def test_check_round_trip_notices(tmp_path, monkeypatch):
    ds = scidyn.datasets.load("lynx_hare")
    other = ds.copy()
    other["hare"].attrs["units"] = "pelts"
    monkeypatch.setattr("scidyn.testing.contracts.open_file", lambda path: other)
    with pytest.raises(AssertionError, match="'hare' came back"):
        check_round_trip(ds, tmp_path)


def test_check_reader_notices(tmp_path):
    path = scidyn.save(scidyn.datasets.load("lynx_hare"), tmp_path / "r.nc")
    table = scidyn.save(scidyn.datasets.load("lynx_hare"), tmp_path / "r.csv")
    netcdf = next(f for f in FORMATS if f.name == "NetCDF")

    class Good:
        def sniff(self, file):
            return netcdf.sniff(file, file.read_bytes()[:1000])

        def read(self, file):
            return netcdf.read(file, {})

    assert check_reader(Good(), path, [table]).identical(scidyn.open(path))

    class Raw(Good):
        def read(self, file):
            if file != path:
                raise KeyError("x")
            return super().read(file)

    with pytest.raises(AssertionError, match="gave KeyError"):
        check_reader(Raw(), path)

    class Greedy(Good):
        def sniff(self, file):
            return 1.0

    with pytest.raises(AssertionError, match="which is not of its format"):
        check_reader(Greedy(), path, [table])


class LifeOfARecord(RuleBasedStateMachine):
    """create → validate → select → split → scale → save → open; nothing is lost on the way."""

    @initialize(ds=st.one_of(datasets("trajectories"), datasets("irregular")))
    def create(self, ds):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "record.nc"
        self.ds = self.created = ds
        self.saved = None

    @rule()
    def save(self):
        scidyn.save(self.ds, self.path, overwrite=True)
        self.saved = self.ds

    @precondition(lambda self: self.saved is not None)
    @rule()
    def open(self):
        self.ds = scidyn.open(self.path)
        assert self.ds.identical(self.saved)

    @precondition(lambda self: self.saved is not None)
    @rule()
    def refuse_to_overwrite(self):
        with pytest.raises(ScidynError, match="exists"):
            scidyn.save(self.ds, self.path)
        assert scidyn.open(self.path).identical(self.saved)

    @precondition(lambda self: self.ds.sizes.get("trajectory", 0) > 1)
    @rule(data=st.data())
    def select(self, data):
        rows = data.draw(st.lists(st.integers(0, self.ds.sizes["trajectory"] - 1), min_size=1, unique=True))
        chosen = self.ds.isel(trajectory=sorted(rows))
        try:
            validate(chosen)
        except ScidynError:
            return  # nothing observed is left of a variable
        self.ds = chosen

    @rule(by=st.sampled_from(["trajectory", "time", "donor"]), seed=st.integers(0, 9))
    def split(self, by, seed):
        whole = self.ds.drop_vars("split", errors="ignore")
        try:
            parts = split(whole, by=by, fractions=(0.6, 0.0, 0.4), seed=seed)
        except (SplitError, OptionError):
            return
        check_disjoint(parts.train, parts.test, groups=by != "time")
        along = time_dim(whole)
        if "trajectory" in whole.dims and by != "time":
            assert parts.train.sizes["trajectory"] + parts.test.sizes["trajectory"] == whole.sizes["trajectory"]
        for part in (parts.train, parts.test):
            assert part.sizes[along] >= 1
        try:
            validate(parts.train)
        except ScidynError:
            return  # one time is left, or a variable was observed in the other part only
        self.ds = parts.train

    @rule()
    def scale(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)  # a variable may not vary
            scaling = Scaling.fit(self.ds)
        batch = to_batch(self.ds)
        back = scaling.inverse(scaling.transform(batch.y))
        values = np.stack([self.ds[n].values for n in state_variables(self.ds)], -1)
        assert np.array_equal(batch.mask.numpy().reshape(values.shape), np.isfinite(values))
        size = max(1.0, float(batch.y.abs().max()))
        assert float((back - batch.y).abs().max()) <= 1e-12 * size
        assert Scaling.from_config(scaling.to_config()) == scaling

    @precondition(lambda self: hasattr(self, "ds"))
    @invariant()
    def what_is_left_is_as_created(self):
        """Names, units, coordinates, roles, values and gaps of the rows that are still there."""
        validate(self.ds)
        left = self.ds.drop_vars("split", errors="ignore")
        assert set(left.variables) == set(self.created.variables)
        assert {n: v.attrs for n, v in left.variables.items()} == {
            n: v.attrs for n, v in self.created.variables.items()
        }
        if "obs" not in left.dims:
            rows = {d: left[d].values for d in ("trajectory", "time") if d in left.dims}
            assert left.identical(self.created.sel(rows))
            return
        for label in left["trajectory"].values:
            now, whole = left.sel(trajectory=label), self.created.sel(trajectory=label)
            seen = np.isfinite(now["time"].values)
            at = np.flatnonzero(np.isin(whole["time"].values, now["time"].values[seen]))
            for name in ("time", *state_variables(left)):
                assert np.array_equal(now[name].values[seen], whole[name].values[at], equal_nan=True)
                assert np.isnan(now[name].values[~seen]).all()

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()


LifeOfARecord.TestCase.settings = settings(
    max_examples=15, stateful_step_count=10, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
TestLifeOfARecord = LifeOfARecord.TestCase

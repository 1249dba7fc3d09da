"""What figures show: the numbers they were given, in the right place, without touching global settings."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import stats

import scidyn
from scidyn import viz
from scidyn.errors import ArtifactError, DataError, OptionError, ShapeError
from scidyn.viz.phase_plane import find_fixed_point
from scidyn.viz.profiles import threshold
from scidyn.viz.residuals import standardised


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def line_with(ax, x, y):
    """Whether some line of ``ax`` goes through exactly these points."""
    return any(
        line.get_xdata().shape == np.shape(x)
        and np.allclose(line.get_xdata(), x, equal_nan=True)
        and np.allclose(line.get_ydata(), y, equal_nan=True)
        for line in ax.lines
        if not np.isscalar(line.get_xdata()) and hasattr(line.get_xdata(), "shape")
    )


def test_record_shows_every_value_with_units(record):
    axes = viz.plot_record(record)
    for one, name in zip(axes[:, 0], ("hare", "lynx"), strict=True):
        assert line_with(one, record["time"].values, record[name].values)
        assert one.get_ylabel() == "thousand pelts"
        assert one.get_title(loc="left") == name
    assert axes[-1, 0].get_xlabel() == "year"


def test_ticks_of_years_are_years(record):
    axes = viz.plot_record(record)
    axes[-1, 0].figure.canvas.draw()
    assert all(tick % 1 == 0 for tick in axes[-1, 0].get_xticks())


def test_fit_draws_points_curve_and_band(model, record):
    axes = viz.plot_fit(model, record)
    hare = axes[0, 0]
    assert line_with(hare, record["time"].values, record["hare"].values)
    curve = max(hare.lines, key=lambda line: len(line.get_xdata()))
    at_years = np.isin(curve.get_xdata(), record["time"].values)
    np.testing.assert_allclose(curve.get_ydata()[at_years], model.fitted_["hare"].values, rtol=1e-5)
    band = hare.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(float(curve.get_ydata().max()) * np.exp(1.645 * 0.25), rel=1e-6)


def test_forecast_marks_held_out_points_and_baselines(trial):
    axes = viz.plot_forecast(trial)
    hare = axes[0, 0]
    held_out = [line for line in hare.lines if line.get_markerfacecolor() == "#ffffff" and line.get_marker() == "o"]
    assert [line.get_xdata().tolist() for line in held_out] == [trial.test["time"].values.tolist()]
    words = {text.get_text() for text in hare.texts}
    assert {"StandIn", "persistence", "linear autoregression", "held out", "fitted"} <= words
    assert line_with(hare, trial.test["time"].values, np.full(7, float(trial.train["hare"][-1])))


def test_labels_of_lines_do_not_overlap(trial):
    axes = viz.plot_forecast(trial)
    figure = axes[0, 0].figure
    figure.canvas.draw()
    for one in axes[:, 0]:
        names = ("StandIn", "persistence", "linear autoregression")
        boxes = [t.get_window_extent() for t in one.texts if t.get_text() in names]
        assert len(boxes) == 3
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
        assert all(box.x1 <= figure.bbox.x1 for box in boxes)


def test_fixed_point_is_that_of_the_equation(model):
    found = find_fixed_point(model, np.array([30.0, 25.0]), 1900.0)
    np.testing.assert_allclose(found.state, [0.796 / 0.0237, 0.54 / 0.0272], rtol=1e-6)
    assert found.kind == "centre"


@pytest.mark.parametrize(
    ("matrix", "kind"),
    [
        ([[-1.0, 0.0], [0.0, -2.0]], "stable node"),
        ([[1.0, 0.0], [0.0, 2.0]], "unstable node"),
        ([[1.0, 0.0], [0.0, -2.0]], "saddle"),
        ([[-0.1, 1.0], [-1.0, -0.1]], "stable spiral"),
        ([[0.1, 1.0], [-1.0, 0.1]], "unstable spiral"),
        ([[0.0, 1.0], [-1.0, 0.0]], "centre"),
    ],
)
def test_kinds_of_fixed_points(matrix, kind):
    class Linear:
        def vector_field(self, t, y):
            return (np.asarray(y) - 1.0) @ np.array(matrix).T

    found = find_fixed_point(Linear(), np.array([2.0, 3.0]), 0.0)
    np.testing.assert_allclose(found.state, [1.0, 1.0], atol=1e-8)
    assert found.kind == kind


def test_no_fixed_point_where_there_is_none():
    class Drift:
        def vector_field(self, t, y):
            return np.ones_like(y)

    assert find_fixed_point(Drift(), np.array([2.0, 3.0]), 0.0) is None


def test_phase_plane_labels_and_unknown_variable(model, record):
    ax = viz.plot_phase_plane(model, record)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("hare (thousand pelts)", "lynx (thousand pelts)")
    assert "fixed point (centre)" in {t.get_text() for t in ax.texts}
    swapped = viz.plot_phase_plane(model, record, variables=["lynx", "hare"])
    assert swapped.get_xlabel() == "lynx (thousand pelts)"
    with pytest.raises(OptionError, match="Did you mean 'hare'"):
        viz.plot_phase_plane(model, record, variables=["lynx", "hares"])


def test_residuals_are_those_of_logarithms(model, record):
    ((t, z),) = standardised(model, record, "hare")
    np.testing.assert_allclose(z, np.log(record["hare"].values / model.fitted_["hare"].values) / 0.25, rtol=1e-12)
    axes = viz.plot_residuals(model, record)
    assert line_with(axes[0, 0], t, z)


def test_quantiles_follow_scipy(model, record):
    axes = viz.plot_residuals(model, record)
    ((_, z),) = standardised(model, record, "hare")
    expected = stats.norm.ppf((np.arange(1, 22) - 0.375) / 21.25)
    assert line_with(axes[0, 1], expected, np.sort(z))


def test_residuals_refuse_another_record(model, record):
    with pytest.raises(ShapeError, match="the record that the model was fitted to"):
        viz.plot_residuals(model, record.isel(time=slice(0, 10)))


def test_profiles_show_the_threshold_and_the_interval(model):
    axes = viz.plot_profiles(model)
    assert threshold(0.9) == pytest.approx(stats.chi2.ppf(0.9, 1), rel=1e-12)
    for one, name in zip(axes, ("alpha", "beta", "gamma", "delta"), strict=True):
        assert one.get_title(loc="left") == name
        assert any(np.allclose(line.get_ydata(), threshold(0.9)) for line in one.lines)
    assert axes[1].get_xlabel() == "1/(year * thousand pelts)"


def test_profiles_need_parameters():
    class Network:
        pass

    with pytest.raises(DataError, match="Network has no profile likelihoods"):
        viz.plot_profiles(Network())


def test_convergence_draws_the_history(model):
    ax = viz.plot_convergence(model)
    assert line_with(ax, np.arange(30.0), model.history_["loss"].values)
    assert ax.get_yscale() == "log"


def test_gaps_stay_gaps(record):
    holes = record.copy(deep=True)
    holes["hare"][5:8] = np.nan
    axes = viz.plot_record(holes)
    assert np.isnan(axes[0, 0].lines[0].get_ydata()[5:8]).all()


def test_replicates_stand_side_by_side(record):
    import xarray as xr

    both = xr.concat([record, record * 2], "trajectory").assign_coords(trajectory=["A", "B"])
    for name in ("hare", "lynx"):
        both[name].attrs["units"] = "thousand pelts"
    both["time"].attrs["units"] = "year"
    axes = viz.plot_record(both)
    assert axes.shape == (2, 2)
    assert axes[0, 1].get_title(loc="left") == "hare, B"


def test_own_axes_are_used_and_a_wrong_number_refused(model, record):
    figure, given = plt.subplots(2, 1)
    axes = viz.plot_fit(model, record, ax=given)
    assert axes.ravel().tolist() == given.ravel().tolist()
    with pytest.raises(ShapeError, match="needs 2"):
        viz.plot_fit(model, record, ax=figure.axes[0])


def test_names_with_dollars_are_text_and_not_mathematics():
    prices = scidyn.data.from_arrays(
        [[1.0], [2.0], [4.0]], [0, 1, 2], names=["a_$x$"], units=["$/kg^$"], time_units="day"
    )
    axes = viz.plot_record(prices)
    axes[0, 0].figure.canvas.draw()
    assert axes[0, 0].get_ylabel() == "$/kg^$"
    assert not axes[0, 0].yaxis.label.get_parse_math()


def test_global_settings_stay(model, record, trial):
    with mpl.rc_context({"font.size": 23.0, "axes.facecolor": "pink"}):
        before = dict(mpl.rcParams)
        for draw in (viz.plot_fit, viz.plot_phase_plane, viz.plot_residuals):
            draw(model, record)
        viz.plot_record(record), viz.plot_forecast(trial), viz.plot_convergence(model), viz.plot_profiles(model)
        assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_figures_are_saved_once(record, tmp_path, suffix, magic):
    path = tmp_path / f"pelts.{suffix}"
    axes = viz.plot_record(record)
    assert viz.save_figure(axes, path) == path
    content = path.read_bytes()
    assert content.startswith(magic)
    with pytest.raises(ArtifactError, match="exists; nothing was changed"):
        viz.save_figure(axes, path)
    viz.save_figure(axes, path, overwrite=True)
    if suffix != "svg":  # two writes of one figure are the same bytes where ids are not drawn at random
        assert path.read_bytes() == content
    with pytest.raises(OptionError, match="suffix"):
        viz.save_figure(axes, tmp_path / "pelts.gif")


class Tank:
    """Two states of which one is measured: a tank that drains into a hidden second one."""

    confidence, noise_model_ = 0.9, "normal"
    variables_ = ("level",)

    def vector_field(self, t, y):
        return 0.5 * (2.0 - y)

    def predict(self, times, interval=None):
        t = np.asarray(times, dtype=float)
        return scidyn.data.from_arrays(2.0 - np.exp(-0.5 * t), t, names=["level"], units=["m"], time_units="h")


def test_one_variable_shows_its_rate_against_its_value():
    record = Tank().predict(np.linspace(0.0, 6.0, 13))
    ax = viz.plot_phase_plane(Tank(), record)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("level (m)", "rate of level (m/h)")
    x, y = ax.lines[0].get_data()
    np.testing.assert_allclose(y, 0.5 * (2.0 - x))


def test_hidden_states_stand_at_their_fitted_start(record):
    import xarray as xr

    from scidyn.viz.phase_plane import middle_state, state_columns

    class Partial:
        variables_ = ("lynx",)
        states_ = xr.DataArray([1], dims="variable", coords={"variable": ["lynx"]})
        initial_ = xr.Dataset(
            {"estimate": (("trajectory", "state"), [[33.0, 5.0]])}, coords={"state": ["prey", "predator"]}
        )

    assert state_columns(Partial()) == (1,)
    np.testing.assert_allclose(middle_state(Partial(), record), [33.0, float(record["lynx"].median())])

"""The single-cell door: simulated lineages with known fates and growth, files, and what is refused."""

import h5py
import matplotlib
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from scidyn.bridges import SinkhornBridge, sc
from scidyn.errors import ArtifactError, DataError, NonFiniteError, NotFittedError, OptionError, TimeGridError

matplotlib.use("Agg")


def two_lineages(n=80, seed=0, grow=0.0):
    """Cells start at the middle and go left or right; with ``grow`` the right lineage multiplies."""
    rng = np.random.default_rng(seed)
    day, x, kind = [], [], []
    for t in (0, 1, 2):
        right = np.exp(grow * t) / (1 + np.exp(grow * t))
        side = np.where(np.arange(n) < round(n * right), 1.0, -1.0)
        day += [t] * n
        x.append(np.column_stack([side * (0.6 + t), t * np.ones(n)]) + 0.1 * rng.normal(size=(n, 2)))
        kind += ["right" if s > 0 else "left" for s in side]
    obs = pd.DataFrame({"day": day, "cell_type": kind})
    return sc.CellTable(obs, {"X_pca": np.concatenate(x)})


def write(cells, path, day=None):
    """A small h5ad file, written by hand to the published layout."""
    with h5py.File(path, "w") as file:
        obs = file.create_group("obs")
        obs.attrs["_index"] = "_index"
        obs.attrs["column-order"] = np.array(["day", "cell_type"], dtype=h5py.string_dtype())
        obs["_index"] = np.array([f"c{i}" for i in range(cells.n_obs)], dtype=h5py.string_dtype())
        obs["day"] = cells.obs["day"].to_numpy() if day is None else np.array(day, dtype=h5py.string_dtype())
        kinds = obs.create_group("cell_type")
        codes = pd.Categorical(cells.obs["cell_type"])
        kinds["codes"] = codes.codes
        kinds["categories"] = np.array(list(codes.categories), dtype=h5py.string_dtype())
        file.create_group("obsm")["X_pca"] = cells.obsm["X_pca"]
        file["X"] = np.zeros((cells.n_obs, 1))
    return path


def test_fates_follow_the_lineages():
    cells = two_lineages()
    sc.tl.bridge(cells)
    table = sc.tl.fate(cells)
    right = cells.obs["cell_type"].to_numpy() == "right"
    assert list(table.columns) == ["left", "right"]
    assert table["right"].to_numpy()[right].min() > 0.99
    assert table["right"].to_numpy()[~right].max() < 0.01
    assert np.allclose(cells.obsm["bridge_fate"].sum(axis=1), 1.0)
    assert cells.obs["bridge_entropy"].max() < 0.05


def test_the_transition_matrix_leads_to_the_fates():
    """Two steps of the chain from the first time are the fates; the last time stays."""
    cells = two_lineages()
    order = np.random.default_rng(0).permutation(cells.n_obs)
    cells = sc.CellTable(cells.obs.iloc[order].reset_index(drop=True), {"X_pca": cells.obsm["X_pca"][order]})
    with pytest.raises(NotFittedError, match="couplings"):
        sc.to_cellrank(cells)
    fitted = sc.tl.bridge(cells, sigma=3.0)
    sc.tl.couplings(cells, topk=1000, fitted=fitted)
    matrix = sc.to_cellrank(cells)
    fates = sc.tl.fate(cells, fitted=fitted).to_numpy()
    last = cells.obs["day"].to_numpy() == 2
    final = np.where(last[:, None], fates, 0.0)
    assert np.allclose(matrix @ (matrix @ final), fates, atol=1e-6)
    assert fates[~last].min() > 0.001


def test_velocities_and_interpolated_cells():
    cells = two_lineages()
    fitted = sc.tl.bridge(cells, sigma=0.1)
    sc.tl.velocity(cells, fitted=fitted)
    v = cells.obsm["bridge_velocity"]
    side = np.where(cells.obs["cell_type"] == "right", 1.0, -1.0)
    assert np.abs((v[:, 0] * side).mean() - 1.0) < 0.1
    assert np.abs(v[:, 1].mean() - 1.0) < 0.1
    between = sc.tl.interpolate(cells, time=0.5, n=200, fitted=fitted)["state"].values
    assert np.abs(between[:, 1].mean() - 0.5) < 0.05
    assert np.abs(np.abs(between[:, 0]).mean() - 1.1) < 0.05


def test_growth_of_a_lineage_is_found_and_a_prior_is_kept():
    cells = two_lineages(n=200, grow=0.7)
    fitted = sc.tl.bridge(cells, tau=0.5, sigma=0.4)
    assert isinstance(fitted, SinkhornBridge)
    rate = fitted.growth(0).numpy()
    right = cells.obs["cell_type"].to_numpy()[:200] == "right"
    # the share of the right lineage goes from 1/2 to e^0.7 / (1 + e^0.7): ratios 1.336 and 0.664
    assert np.exp(rate[right]).mean() == pytest.approx(1.336, abs=0.02)
    assert np.exp(rate[~right]).mean() == pytest.approx(0.664, abs=0.02)
    half = sc.tl.interpolate(cells, time=1.0, n=400, fitted=fitted)["state"].values
    assert (half[:, 0] > 0).mean() == pytest.approx(0.668, abs=0.02)
    cells.obs["rates"] = np.where(cells.obs["cell_type"] == "right", 0.7, 0.0)
    known = sc.tl.bridge(cells, growth_key="rates", sigma=0.4).growth(0).numpy()
    assert known[right].mean() - known[~right].mean() == pytest.approx(0.7, abs=1e-3)


def test_couplings_are_sparse_and_sum_to_one():
    cells = two_lineages(n=30)
    sc.tl.bridge(cells)
    first, second = sc.tl.couplings(cells, topk=5)
    assert first.shape == second.shape == (30, 30)
    assert first.nnz == 150
    assert np.allclose(first.sum(axis=1), 1.0)
    assert set(cells.uns["bridge"]["couplings"]) == {"0", "1"}


def test_settings_alone_lead_back_to_the_same_bridge():
    cells = two_lineages(n=30)
    fitted = sc.tl.bridge(cells, random_state=3)
    sc.tl.velocity(cells, fitted=fitted)
    first = cells.obsm.pop("bridge_velocity")
    sc.tl.velocity(cells)
    assert np.allclose(first, cells.obsm["bridge_velocity"])
    assert all(isinstance(v, str | int | float) for v in cells.uns["bridge"].values())


def test_evaluation_stands_beside_baselines():
    cells = two_lineages(n=40)
    sc.tl.bridge(cells)
    table = sc.tl.evaluate(cells, seeds=2)
    assert list(table.index) == ["bridge", "interpolation", "previous", "next", "floor"]
    assert table.loc["bridge", "one_step"] < 0.5 * table.loc["previous", "one_step"]


def test_figures_are_drawn():
    cells = two_lineages(n=30)
    fitted = sc.tl.bridge(cells)
    sc.tl.fate(cells, fitted=fitted)
    assert len(sc.pl.paths(cells, n=7, fitted=fitted).lines) == 7
    for draw in (sc.pl.fate, sc.pl.growth, sc.pl.marginals):
        assert draw(cells).collections


def test_growth_prior_has_the_published_shape():
    cells = sc.CellTable(pd.DataFrame({"proliferation": [0.25, 50.0, -50.0], "apoptosis": [0.1, -50.0, 50.0]}))
    sc.pp.growth_prior(cells)
    assert np.allclose(cells.obs["growth"], [0.0, 1.4, -1.4])


def test_files_go_round(tmp_path):
    cells = two_lineages(n=20)
    path = write(cells, tmp_path / "cells.h5ad")
    read = sc.read_h5ad(path)
    assert read.obs["day"].tolist() == cells.obs["day"].tolist()
    assert list(read.obs["cell_type"]) == list(cells.obs["cell_type"])
    assert np.array_equal(read.obsm["X_pca"], cells.obsm["X_pca"])
    sc.tl.bridge(read)
    sc.tl.velocity(read)
    sc.tl.fate(read)
    again = sc.read_h5ad(sc.write_results(read, path, tmp_path / "out.h5ad"))
    assert np.array_equal(again.obsm["bridge_fate"], read.obsm["bridge_fate"])
    assert "bridge_entropy" in again.obs
    with pytest.raises(ArtifactError, match="exists"):
        sc.write_results(read, path, tmp_path / "out.h5ad")


def test_the_command_writes_results_and_refuses_in_one_line(tmp_path):
    from scidyn.cli.main import app

    path = write(two_lineages(n=20), tmp_path / "cells.h5ad")
    done = CliRunner().invoke(app, ["trajectories", str(path), "--out", str(tmp_path / "o"), "--groups", "cell_type"])
    assert done.exit_code == 0, done.output
    assert {p.name for p in (tmp_path / "o").iterdir()} == {
        "cells.h5ad",
        "scores.csv",
        "report.html",
        "paths.png",
        "marginals.png",
    }
    assert "interpolation" in done.output
    again = CliRunner().invoke(app, ["trajectories", str(path), "--out", str(tmp_path / "o")])
    assert isinstance(again.exception, ArtifactError)


def test_what_cannot_be_used_is_refused(tmp_path):
    cells = two_lineages(n=20)
    with pytest.raises(DataError, match="no representation 'X_scVI'; it holds"):
        sc.tl.bridge(cells, use_rep="X_scVI")
    with pytest.raises(DataError, match="no column 'week'"):
        sc.tl.bridge(cells, time_key="week")
    with pytest.raises(NotFittedError, match="no bridge 'bridge'"):
        sc.tl.velocity(cells)
    named = sc.read_h5ad(write(cells, tmp_path / "named.h5ad", day=["Day 00-03"] * 20 + ["Day 06-09"] * 40))
    with pytest.raises(TimeGridError, match="'Day 00-03' is not a number"):
        sc.tl.bridge(named)
    numbers = sc.read_h5ad(write(cells, tmp_path / "text.h5ad", day=[str(d) for d in cells.obs["day"]]))
    sc.tl.bridge(numbers)
    lonely = two_lineages(n=20)
    lonely.obs.loc[0, "day"] = 7
    with pytest.raises(DataError, match="Snapshot 3 has 1 cell"):
        sc.tl.bridge(lonely)
    holes = two_lineages(n=20)
    holes.obsm["X_pca"][5, 1] = np.nan
    with pytest.raises(NonFiniteError, match="of cell 5 is not finite"):
        sc.tl.bridge(holes)
    sc.tl.bridge(cells)
    with pytest.raises(OptionError, match="No cell of the last time"):
        sc.tl.fate(cells, terminal=["Mono"])
    with pytest.raises(DataError, match="proliferation"):
        sc.pp.growth_prior(cells)
    (tmp_path / "text.h5ad").write_text("no")
    with pytest.raises(ArtifactError, match="not an HDF5 file"):
        sc.read_h5ad(tmp_path / "text.h5ad")

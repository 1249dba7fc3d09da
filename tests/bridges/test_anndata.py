"""The real AnnData: in memory, backed, views, and back to disk (needs anndata)."""

import matplotlib
import numpy as np
import pandas as pd
import pytest

from scidyn.bridges import sc
from scidyn.errors import DataError

anndata = pytest.importorskip("anndata")
matplotlib.use("Agg")

GENES, COMPONENTS = 6, 3


@pytest.fixture
def adata():
    """Two lineages in three components, whose loadings give expression of six genes."""
    rng = np.random.default_rng(0)
    day = np.repeat([0.0, 1.0, 2.0], 40)
    side = np.tile([-1.0, 1.0], 60)
    scores = np.column_stack([side * (0.5 + day), day, np.zeros(120)]) + 0.1 * rng.normal(size=(120, COMPONENTS))
    loadings = np.linalg.qr(rng.normal(size=(GENES, COMPONENTS)))[0]
    data = anndata.AnnData(
        (2.0 + scores @ loadings.T).astype(np.float32),
        obs=pd.DataFrame(
            {"day": day, "cell_type": pd.Categorical(np.where(side > 0, "right", "left"))},
            index=[f"cell{i}" for i in range(120)],
        ),
        var=pd.DataFrame(index=[f"gene{i}" for i in range(GENES)]),
    )
    data.obsm["X_pca"], data.varm["PCs"] = scores - 0.0, loadings
    data.obsm["X_umap"] = scores[:, :2] * 2 + 1
    return data


def everything(data):
    fitted = sc.tl.bridge(data, sigma=0.3)
    sc.tl.velocity(data, fitted=fitted)
    sc.tl.couplings(data, topk=5, fitted=fitted)
    table = sc.tl.fate(data, groups="cell_type", fitted=fitted)
    return fitted, table


def test_results_go_through_a_file(adata, tmp_path):
    _, table = everything(adata)
    assert table.loc["cell1", "right"] > 0.9
    adata.write_h5ad(tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad")
    assert np.array_equal(again.obsm["bridge_velocity"], adata.obsm["bridge_velocity"])
    assert np.array_equal(again.obs["bridge_entropy"], adata.obs["bridge_entropy"])
    assert (again.uns["bridge"]["couplings"]["0"] != adata.uns["bridge"]["couplings"]["0"]).nnz == 0
    first = again.obsm["bridge_velocity"].copy()
    sc.tl.velocity(again)  # from the settings alone
    assert np.allclose(again.obsm["bridge_velocity"], first)
    assert sc.to_cellrank(again).shape == (120, 120)
    ours = sc.read_h5ad(tmp_path / "cells.h5ad")
    assert np.array_equal(ours.obsm["X_pca"], adata.obsm["X_pca"])
    assert list(ours.obs["cell_type"]) == list(adata.obs["cell_type"])


def test_velocities_of_genes_are_those_of_components(adata):
    fitted = sc.tl.bridge(adata, sigma=0.3)
    sc.tl.velocity(adata, genes=True, fitted=fitted)
    back = adata.layers["bridge_velocity"] @ adata.varm["PCs"]
    assert np.allclose(back, adata.obsm["bridge_velocity"], atol=1e-5)
    del adata.varm["PCs"]
    with pytest.raises(DataError, match="PCs"):
        sc.tl.velocity(adata, genes=True, fitted=fitted)


def test_interpolated_cells_have_genes(adata):
    fitted = sc.tl.bridge(adata, sigma=0.3)
    between = sc.tl.interpolate(adata, time=0.5, n=60, fitted=fitted)
    assert between.shape == (60, GENES)
    assert (between.obs["day"] == 0.5).all()
    assert between.var_names.equals(adata.var_names)
    assert abs(between.obsm["X_pca"][:, 1].mean() - 0.5) < 0.1
    exact = adata.X.mean(axis=0) + between.obsm["X_pca"] @ adata.varm["PCs"].T
    assert np.allclose(between.X, exact, atol=1e-4)


def test_a_backed_file_is_left_alone_and_keeps_results_in_memory(adata, tmp_path):
    path = tmp_path / "cells.h5ad"
    adata.write_h5ad(path)
    before = path.read_bytes()
    backed = anndata.read_h5ad(path, backed="r")
    fitted, _ = everything(backed)
    assert backed.isbacked
    assert backed.obsm["bridge_fate"].shape == (120, 2)
    between = sc.tl.interpolate(backed, time=0.5, n=10, fitted=fitted)
    assert np.isfinite(between.X).all()
    backed.file.close()
    assert path.read_bytes() == before


def test_views_are_refused_and_stay_views(adata):
    view = adata[adata.obs["cell_type"] == "right"]
    for work in (lambda: sc.tl.bridge(view), lambda: sc.pp.growth_prior(view)):
        with pytest.raises(DataError, match=r"adata\.copy"):
            work()
    assert view.is_view
    assert "bridge" not in adata.uns
    sc.tl.bridge(view.copy(), sigma=0.3)


def test_paths_over_another_embedding(adata):
    fitted = sc.tl.bridge(adata, sigma=0.3)
    ax = sc.pl.paths(adata, basis="umap", n=5, fitted=fitted)
    low, high = adata.obsm["X_umap"].min(axis=0), adata.obsm["X_umap"].max(axis=0)
    for line in ax.lines:
        drawn = np.column_stack(line.get_data())
        assert (drawn >= low - 1e-9).all()
        assert (drawn <= high + 1e-9).all()
        assert drawn[-1, 1] > drawn[0, 1] + 2.0  # from day 0 to day 2

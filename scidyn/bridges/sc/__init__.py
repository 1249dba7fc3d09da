"""Trajectories for single-cell data in AnnData form: ``pp`` prepares, ``tl`` computes, ``pl`` draws.

Functions write into the object they are given, as scanpy's do. An ``anndata.AnnData`` works as it
is; without anndata, :func:`read_h5ad` opens the same files.
"""

from scidyn.bridges.sc import pl as pl
from scidyn.bridges.sc import pp as pp
from scidyn.bridges.sc import tl as tl
from scidyn.bridges.sc.cellrank import to_cellrank as to_cellrank
from scidyn.bridges.sc.example import example_cells as example_cells
from scidyn.bridges.sc.h5ad import CellTable as CellTable
from scidyn.bridges.sc.h5ad import read_h5ad as read_h5ad
from scidyn.bridges.sc.h5ad import write_results as write_results

__all__ = ["CellTable", "example_cells", "pl", "pp", "read_h5ad", "tl", "to_cellrank", "write_results"]

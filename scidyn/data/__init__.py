"""Any lab file to a checked Dataset, and a Dataset to the tensors of a fit."""

from scidyn.data.accessor import DatasetAccessor as DatasetAccessor
from scidyn.data.accessor import summary as summary
from scidyn.data.archive import make_archive as make_archive
from scidyn.data.archive import rechunk as rechunk
from scidyn.data.batch import Batch as Batch
from scidyn.data.convert import to_batch as to_batch
from scidyn.data.disk import HDF5Windows as HDF5Windows
from scidyn.data.files import open as open
from scidyn.data.files import save as save
from scidyn.data.io.shards import ShardWriter as ShardWriter
from scidyn.data.loader import Loader as Loader
from scidyn.data.loader import loader as loader
from scidyn.data.memory import MemoryWindows as MemoryWindows
from scidyn.data.moments import Moments as Moments
from scidyn.data.moments import moments as moments
from scidyn.data.readers.anndata_object import from_anndata as from_anndata
from scidyn.data.readers.table import from_table as from_table
from scidyn.data.readers.well_statistics import well_scaling as well_scaling
from scidyn.data.sampler import Sampler as Sampler
from scidyn.data.scaling import Scaling as Scaling
from scidyn.data.schema import from_arrays as from_arrays
from scidyn.data.schema import state_variables as state_variables
from scidyn.data.schema import units_of as units_of
from scidyn.data.split import Splits as Splits
from scidyn.data.split import check_disjoint as check_disjoint
from scidyn.data.split import split as split
from scidyn.data.units import Unit as Unit
from scidyn.data.units import convert_units as convert_units
from scidyn.data.units import factor as factor
from scidyn.data.units import parse_unit as parse_unit
from scidyn.data.validate import Report as Report
from scidyn.data.validate import validate as validate
from scidyn.data.windows import WindowIndex as WindowIndex
from scidyn.data.windows import windows as windows

__all__ = [
    "Batch",
    "DatasetAccessor",
    "HDF5Windows",
    "Loader",
    "MemoryWindows",
    "Moments",
    "Report",
    "Sampler",
    "Scaling",
    "ShardWriter",
    "Splits",
    "Unit",
    "WindowIndex",
    "check_disjoint",
    "convert_units",
    "factor",
    "from_anndata",
    "from_arrays",
    "from_table",
    "loader",
    "make_archive",
    "moments",
    "open",
    "parse_unit",
    "rechunk",
    "save",
    "split",
    "state_variables",
    "summary",
    "to_batch",
    "units_of",
    "validate",
    "well_scaling",
    "windows",
]

"""Small files of every format, damaged, hostile and odd ones."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import zipfile
from pathlib import Path

import h5py
import numpy as np
from scipy.io import savemat

import scidyn
from scidyn.data import ShardWriter


def record(rows=3, steps=20, seed=0):
    y = np.random.default_rng(seed).normal(size=(rows, steps, 2))
    return scidyn.data.from_arrays(y, np.arange(steps), names=["a", "b"], units=["m", "1"], time_units="s")


def files(folder):
    """One file per format with the hints that open it."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    ds = record()
    made = {
        "csv": (scidyn.save(ds, folder / "r.csv"), {}),
        "netcdf": (scidyn.save(ds, folder / "r.nc"), {}),
        "small": (scidyn.save(ds, folder / "s.nc", codec="small"), {}),
    }
    with h5py.File(folder / "c.h5ad", "w") as file:
        file["obs/day"] = np.repeat([1.0, 2.0], 10)
        file["obsm/X_pca"] = generator.normal(size=(20, 3))
        file["X"] = generator.normal(size=(20, 5))
    made["h5ad"] = (folder / "c.h5ad", {})
    with h5py.File(folder / "p.h5", "w") as file:
        file["tensor"] = generator.normal(size=(2, 5, 8))
        file["x-coordinate"], file["t-coordinate"] = np.arange(8.0), np.arange(6.0)
    made["pdebench"] = (folder / "p.h5", {})
    content = {"t": np.arange(9.0), "u": generator.normal(size=(9,))}
    with (folder / "a.npz").open("wb") as file:
        np.savez(file, **content)
    made["npz"] = (folder / "a.npz", {"units": "1"})
    savemat(folder / "m.mat", content)
    made["mat5"] = (folder / "m.mat", {"units": "1"})
    with h5py.File(folder / "m73.mat", "w", userblock_size=512) as file:
        for name, value in content.items():
            file.create_dataset(name, data=value[None]).attrs["MATLAB_class"] = np.bytes_(b"double")
    with (folder / "m73.mat").open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    made["mat73"] = (folder / "m73.mat", {"units": "1"})
    return made


def shards(folder):
    with ShardWriter(folder) as writer:
        for k in range(2):
            writer.write(record(seed=k))
    return folder


def hostile_hdf5(folder):
    """Files that reach out, lie about their size, or never end; name → path."""
    (folder / "secret").write_bytes(b"not yours " * 100)
    with h5py.File(folder / "other.h5", "w") as file:
        file["x"] = np.arange(3.0)

    def external_link(file):
        file["data"] = h5py.ExternalLink(str(folder / "other.h5"), "/x")

    def external_storage(file):
        file.create_dataset("data", (4,), "f8", external=[(str(folder / "secret"), 0, 32)])

    def virtual(file):
        layout = h5py.VirtualLayout((3,), "f8")
        layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", (3,))
        file.create_virtual_dataset("data", layout)

    def soft_cycle(file):
        file.create_group("a")["b"] = h5py.SoftLink("/a")

    def hard_cycle(file):
        group = file.create_group("a")
        group["again"] = group

    def many(file):
        for k in range(10_050):
            file.create_group(str(k))

    def deep(file):
        for _ in range(60):
            file = file.create_group("g")

    def inside_obs(file):
        file["obs/day"] = h5py.ExternalLink(str(folder / "other.h5"), "/x")
        file["X"] = np.ones((3, 2))

    made = {}
    for make in (external_link, external_storage, virtual, soft_cycle, hard_cycle, many, deep, inside_obs):
        made[make.__name__] = folder / f"{make.__name__}.h5"
        with h5py.File(made[make.__name__], "w") as file:
            make(file)
    return made


def bombs(folder):
    """Files that declare far more than they hold."""
    made = {}
    with h5py.File(folder / "hdf5.nc", "w") as file:
        file.create_dataset("data", (2**40,), "f8", chunks=(2**10,), compression="gzip")
    made["hdf5"] = folder / "hdf5.nc"
    with h5py.File(folder / "bomb.h5ad", "w") as file:
        file["obs/day"] = np.arange(3.0)
        file.create_dataset("X", (3, 2**38), "f8", chunks=(1, 2**10))
    made["h5ad"] = folder / "bomb.h5ad"
    with h5py.File(folder / "bomb-pde.h5", "w") as file:
        file.create_dataset("tensor", (2**20, 100, 2**12), "f8", chunks=(1, 1, 2**10))
        file["x-coordinate"], file["t-coordinate"] = np.arange(3.0), np.arange(100.0)
    made["pdebench"] = folder / "bomb-pde.h5"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**10,)})
    with zipfile.ZipFile(folder / "bomb.npz", "w") as archive:
        archive.writestr("t.npy", header.getvalue())
    made["npz"] = folder / "bomb.npz"
    with zipfile.ZipFile(folder / "swell.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("t.npy", "w") as out:
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": (2**31,)})
        out.write(head.getvalue() + bytes(10**6))
    made["npz that swells"] = folder / "swell.npz"
    with zipfile.ZipFile(folder / "book.xlsx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
        with archive.open("xl/worksheets/sheet1.xml", "w", force_zip64=True) as out:
            for _ in range(300):
                out.write(bytes(1 << 20))
    made["xlsx"] = folder / "book.xlsx"
    artefact = folder / "artefact"
    artefact.mkdir()
    lie = (2**62).to_bytes(8, "little") + b"{}"
    (artefact / "w.safetensors").write_bytes(lie)
    import hashlib

    entry = {"sha256": hashlib.sha256(lie).hexdigest(), "bytes": len(lie)}
    (artefact / "manifest.json").write_text(json.dumps({"format": 1, "files": {"w.safetensors": entry}}))
    made["safetensors"] = artefact
    with h5py.File(folder / "small-chunk.nc", "w") as file:
        file.attrs["scidyn_kind"] = "trajectories"
        file.create_dataset("a", (2**33,), "f8", chunks=(2**20,), compression="gzip")
        file.create_dataset("time", (2**33,), "f8", chunks=(2**20,), compression="gzip")
    made["netcdf"] = folder / "small-chunk.nc"
    made["table in gzip"] = folder / "table.csv.gz"
    with gzip.open(made["table in gzip"], "wb") as file:
        file.write(b"time (s),a (m)\n" + b"0,0\n" * 10**6)
    store = folder / "store.zarr"
    for name, shape in (("", None), ("time", [2**33]), ("a", [2**33])):
        (store / name).mkdir(parents=True, exist_ok=True)
        node = {"zarr_format": 3, "node_type": "array" if name else "group", "attributes": {}}
        if name:
            node |= {
                "shape": shape,
                "data_type": "float64",
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2**20]}},
                "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
                "fill_value": 0.0,
                "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
                "dimension_names": ["time"],
            }
        (store / name / "zarr.json").write_text(json.dumps(node))
    made["zarr"] = store
    return made


class Gadget:
    """Touches a marker when unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (Path.touch, (Path(self.marker),))


def gadgets(folder, marker):
    """Twelve files that run code if anything unpickles them."""
    thing = Gadget(marker)
    made = {}

    def put(name, content):
        made[name] = folder / name
        made[name].write_bytes(content)

    for protocol in range(6):
        put(f"protocol-{protocol}.pkl", pickle.dumps(thing, protocol))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(thing))
        archive.writestr("archive/version", "3")
    put("weights.pt", buffer.getvalue())
    put("weights.pth", pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(thing, 2))
    buffer = io.BytesIO()
    np.save(buffer, np.array([thing], dtype=object), allow_pickle=True)
    put("array.npy", buffer.getvalue())
    buffer = io.BytesIO()
    np.savez(buffer, t=np.arange(3.0), y=np.array([thing, 1, 2], dtype=object))
    put("arrays.npz", buffer.getvalue())
    put("model.joblib", b"\x80\x04" + pickle.dumps(thing, 4)[2:])
    put("disguised.csv", pickle.dumps(thing, 0))
    return made

"""Files are complete or absent: under kills, full disks, failing calls, two writers."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from scidyn.data.io import atomic, lock
from scidyn.data.io.artefact import FORMAT, read_artefact, write_artefact
from scidyn.errors import ArtifactError

LEFTOVERS = (".scidyn-new-", ".scidyn-old-", ".scidyn-lock-")


def in_child(work):
    """Run ``work`` in a forked child that never returns into pytest; its process id."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def killed_after(delay, work):
    child = in_child(work)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.parametrize("trial", range(8))
def test_a_kill_leaves_the_old_file_or_the_new(tmp_path, trial):
    path = tmp_path / "file"
    contents = [bytes([k]) * 3_000_000 for k in range(1, 5)]
    atomic.write_bytes(path, contents[0])

    def rewrite():
        while True:
            for content in contents:
                atomic.write_bytes(path, content)

    killed_after(0.01 + 0.02 * trial, rewrite)
    assert path.read_bytes() in contents
    atomic.write_bytes(path, b"after")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("trial", range(8))
def test_a_kill_leaves_a_whole_artefact(tmp_path, trial):
    path = tmp_path / "model"
    versions = [{"w": {"x": torch.full((200_000,), float(k))}} for k in range(3)]
    write_artefact(path, {"k": 0}, versions[0])

    def rewrite():
        while True:
            for k, tensors in enumerate(versions):
                write_artefact(path, {"k": k}, tensors, overwrite=True)

    killed_after(0.01 + 0.02 * trial, rewrite)
    manifest, tensors = read_artefact(path)
    assert torch.equal(tensors["w"]["x"], versions[manifest["k"]]["w"]["x"])
    write_artefact(path, {"k": 9}, versions[0], overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_kill_between_the_two_renames_is_undone(tmp_path):
    path = tmp_path / "model"
    write_artefact(path, {"k": 0}, {})
    os.replace(path, tmp_path / ".scidyn-old-model")  # what such a kill leaves
    assert read_artefact(path)[0]["k"] == 0


class Failing:
    """Stands for ``os`` in the atomic module and fails the n-th call that touches the disk."""

    def __init__(self, fail_at):
        self.calls, self.fail_at = 0, fail_at

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in ("replace", "fsync", "open", "close"):
            return real

        def call(*arguments, **keywords):
            self.calls += 1
            if self.calls == self.fail_at:
                raise OSError(5, "Input/output error")
            return real(*arguments, **keywords)

        return call


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_any_failing_call_leaves_the_old_one(tmp_path, monkeypatch, kind):
    path = tmp_path / kind

    def write(content):
        if kind == "file":
            atomic.write_bytes(path, content)
        else:
            atomic.replace_directory(path, lambda folder: (folder / "inside").write_bytes(content) and None)

    def content():
        return (path if kind == "file" else path / "inside").read_bytes()

    write(b"old")
    survived = 0
    for n in range(1, 60):
        failing = Failing(n)
        monkeypatch.setattr(atomic, "os", failing)
        try:
            write(b"new")
        except ArtifactError:
            survived += 1
            monkeypatch.setattr(atomic, "os", os)
            atomic.recover_directory(path)
            assert content() in (b"old", b"new")
            assert not [p for p in tmp_path.iterdir() if p.name.startswith(LEFTOVERS)]
            write(b"old")
        else:
            break
    else:
        pytest.fail("never succeeded")
    assert survived >= 4
    assert content() == b"new"


def test_a_second_writer_is_told_who_holds_the_file(tmp_path):
    path = tmp_path / "file"
    ready = tmp_path / "ready"

    def slow():
        def write(temporary):
            temporary.write_bytes(b"first")
            ready.touch()
            time.sleep(5)

        atomic.write_file(path, write)

    child = in_child(slow)
    try:
        while not ready.exists():
            time.sleep(0.005)
        with pytest.raises(ArtifactError, match=f"is being written by process {child} on"):
            atomic.write_bytes(path, b"second")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    atomic.write_bytes(path, b"third")  # the dead writer's lock and temporary file are taken over
    assert path.read_bytes() == b"third"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "ready"]


def test_where_the_system_has_no_locks(tmp_path, monkeypatch):
    path = tmp_path / "file"
    monkeypatch.setattr(lock, "_take", lambda handle: None)
    with lock.writing(path), pytest.raises(ArtifactError, match=f"process {os.getpid()}"), lock.writing(path):
        pytest.fail("two writers")
    dead = in_child(lambda: None)
    os.waitpid(dead, 0)
    mine = {"host": os.uname().nodename, "pid": dead, "started": "1"}
    lock.lock_file(path).write_text(json.dumps(mine))
    with lock.writing(path):
        assert lock.holder(path)["pid"] == os.getpid()


def test_full_disk_names_needed_bytes(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic.write_bytes(path, b"old")

    def full(temporary):
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(ArtifactError, match=r"\(1234 bytes are needed, \d+ bytes are free\); nothing was changed"):
        atomic.write_file(path, full, size=1234)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_long_and_odd_names(tmp_path):
    for name in ("x" * 240, "ünïcode [1].nc", "*.nc", "a b"):
        atomic.write_bytes(tmp_path / name, b"content")
        assert (tmp_path / name).read_bytes() == b"content"
    assert len(list(tmp_path.iterdir())) == 4


@pytest.fixture
def artefact(tmp_path) -> Path:
    tensors = {
        "weights": {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor([1, 2]), "b": torch.tensor(True)},
        "optimizer": {"m": torch.ones(3, dtype=torch.float64)},
    }
    return write_artefact(tmp_path / "model", {"class": "Toy", "config": {"hi": [1, 2.5, float("inf")]}}, tensors)


def test_artefact_round_trip(artefact):
    manifest, tensors = read_artefact(artefact)
    assert manifest["class"] == "Toy"
    assert manifest["config"] == {"hi": [1, 2.5, float("inf")]}
    assert tensors["weights"]["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert tensors["weights"]["n"].dtype == torch.int64
    assert tensors["weights"]["b"].dtype == torch.bool
    assert tensors["optimizer"]["m"].dtype == torch.float64


def test_artefact_is_not_overwritten_unasked(artefact, tmp_path):
    with pytest.raises(ArtifactError, match="exists; nothing was changed"):
        write_artefact(artefact, {}, {})
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("years of work")
    with pytest.raises(ArtifactError, match="is not a scidyn artefact, so it is not replaced"):
        write_artefact(tmp_path / "thesis", {}, {}, overwrite=True)
    assert (tmp_path / "thesis" / "chapter").read_text() == "years of work"


def cut(path):
    (path / "weights.safetensors").write_bytes((path / "weights.safetensors").read_bytes()[:-1])


def flip(path):
    content = bytearray((path / "weights.safetensors").read_bytes())
    content[-5] ^= 4
    (path / "weights.safetensors").write_bytes(content)


def edit(change):
    def apply(path):
        manifest = json.loads((path / "manifest.json").read_text())
        change(manifest)
        (path / "manifest.json").write_text(json.dumps(manifest))

    return apply


def link(path):
    (path / "weights.safetensors").rename(path.parent / "elsewhere")
    (path / "weights.safetensors").symlink_to(path.parent / "elsewhere")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (cut, "weights.safetensors is truncated: \\d+ bytes, \\d+ expected"),
        (flip, "weights.safetensors is damaged: its checksum"),
        (lambda p: (p / "weights.safetensors").unlink(), "weights.safetensors is missing"),
        (lambda p: (p / "manifest.json").unlink(), "is not a scidyn artefact"),
        (lambda p: (p / "manifest.json").write_bytes((p / "manifest.json").read_bytes()[:-9]), "truncated or damaged"),
        (lambda p: (p / "manifest.json").write_text("[]"), "is not the manifest"),
        (edit(lambda m: m.pop("files")), "is not the manifest"),
        (edit(lambda m: m.update(format=99)), "has format 99; this scidyn reads up to 2"),
        (edit(lambda m: m.pop("format")), "has format None"),
        (edit(lambda m: m["files"].update({"../secret.safetensors": {}})), "lies outside its folder"),
        (edit(lambda m: m["files"].update({"/etc/passwd": {}})), "lies outside its folder"),
        (edit(lambda m: m["files"].update({"weights.pt": {}})), "lies outside its folder"),
        (edit(lambda m: m["files"].update({"weights.safetensors": None})), "gives no size and checksum"),
        (edit(lambda m: m.update(seed=7)), "was edited: its own checksum"),
        (edit(lambda m: m.pop("sha256")), "was edited: its own checksum"),
        (edit(lambda m: m["config"].update(hi=0)), "was edited: its own checksum"),
        (link, "weights.safetensors is missing"),
    ],
)
def test_damaged_artefacts_are_refused(artefact, damage, sentence):
    damage(artefact)
    with pytest.raises(ArtifactError, match=sentence):
        read_artefact(artefact)


def test_absent_artefact(tmp_path):
    with pytest.raises(ArtifactError, match="does not exist"):
        read_artefact(tmp_path / "nothing")


@pytest.fixture
def order(monkeypatch):
    """Names of what is made durable and what is renamed, in the order of the calls."""
    calls = []
    names = {}
    sync, rename, begin = os.fsync, os.replace, os.open

    def told_open(path, *arguments, **keywords):
        handle = begin(path, *arguments, **keywords)
        names[handle] = Path(path).name
        return handle

    def told_sync(handle):
        calls.append(("sync", "new" if names[handle].startswith(".scidyn-new-") else names[handle]))
        sync(handle)

    def told_replace(source, target):
        calls.append(("rename", Path(target).name[:12]))
        rename(source, target)

    for name, told in (("open", told_open), ("fsync", told_sync), ("replace", told_replace)):
        monkeypatch.setattr(atomic.os, name, told)
    return calls


def test_a_file_is_durable_before_its_name_and_its_name_before_the_return(tmp_path, order):
    atomic.write_bytes(tmp_path / "a", b"1")
    durable = [call for call in order if call[0] == "rename" or call[1] in ("new", tmp_path.name)]
    assert durable == [("sync", "new"), ("rename", "a"), ("sync", tmp_path.name)]


def test_a_folder_is_durable_before_its_name_and_the_old_one_steps_aside(tmp_path, order):
    for k in range(2):
        order.clear()
        write_artefact(tmp_path / "a", {}, {"model": {"w": torch.ones(k + 1)}}, overwrite=True)
    files = {("sync", "manifest.json"), ("sync", "model.safetensors")}
    kept = [call for call in order if call[0] == "rename" or call[1] in ("new", tmp_path.name) or call in files]
    assert set(kept[:2]) == files
    assert kept[2:] == [("sync", "new"), ("rename", ".scidyn-old-"), ("rename", "a"), ("sync", tmp_path.name)]


def test_what_a_living_writer_has_begun_is_left_alone(tmp_path):
    child = in_child(lambda: None)
    os.waitpid(child, 0)
    living, dead = (tmp_path / f".scidyn-new-a-{pid}-0123abcd" for pid in (os.getppid(), child))
    for begun in (living, dead):
        begun.write_bytes(b"half")
    atomic.write_bytes(tmp_path / "a", b"1")
    assert living.exists()
    assert not dead.exists()


def test_the_next_format_is_refused(tmp_path):
    path = write_artefact(tmp_path / "a", {"format": FORMAT + 1}, {"model": {"w": torch.ones(1)}})
    with pytest.raises(ArtifactError, match=f"has format {FORMAT + 1}; this scidyn reads up to {FORMAT}"):
        read_artefact(path)

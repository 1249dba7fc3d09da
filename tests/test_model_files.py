"""Model files: damage and strangers are refused by name."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

import scidyn
from scidyn.data import from_arrays
from scidyn.errors import ArtifactError
from scidyn.sysid import MechanisticODE
from scidyn.systems import LotkaVolterra, Parameter, StateVariable, System


class Melting(System):
    states = (StateVariable("ice", positive=True),)
    parameters = (Parameter("rate", 1.0, 0.0, 10.0, {"time": -1}),)
    initial = (1.0,)
    equation = "a' = −k a"

    def vector_field(self, t, y, theta):
        return -theta[..., :1] * y


@pytest.fixture(scope="module")
def model():
    return MechanisticODE(LotkaVolterra(), profile=False, starts=2).fit(scidyn.datasets.load("lynx_hare"))


@pytest.fixture
def saved(model, tmp_path) -> Path:
    return model.save(tmp_path / "model")


def edit(path, change, *, seal=True):
    """Change the manifest, as somebody who also knows how to renew its checksum would."""
    file = path / "manifest.json"
    manifest = json.loads(file.read_text(encoding="utf-8"))
    change(manifest)
    if seal:
        manifest.pop("sha256", None)
        plain = json.dumps(manifest, sort_keys=True, allow_nan=False)
        manifest["sha256"] = hashlib.sha256(plain.encode()).hexdigest()
    file.write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "record.safetensors", "results.safetensors"])
def test_a_truncated_file_is_named(saved, name):
    file = saved / name
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ArtifactError, match=name):
        scidyn.load(saved)


def test_an_edited_or_missing_file_is_named(saved):
    file = saved / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match=r"model.safetensors is damaged"):
        scidyn.load(saved)
    file.write_bytes(bytes(content) + b"0" * 1000)
    with pytest.raises(ArtifactError, match=r"model.safetensors .* bytes"):
        scidyn.load(saved)
    file.unlink()
    with pytest.raises(ArtifactError, match=r"model.safetensors is missing"):
        scidyn.load(saved)
    with pytest.raises(ArtifactError, match="does not exist"):
        scidyn.load(saved.parent / "nowhere")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.update({"class": "os.system"}), "not a model of scidyn"),
        (lambda m: m.update({"class": "MechanisticOde"}), "Did you mean"),
        (lambda m: m.update({"format": 99}), "format 99"),
        (lambda m: m.update({"model_version": 99}), "version 99"),
        (lambda m: m["config"].update({"nois": 1}), "nois"),
        (lambda m: m["config"]["system"].update({"system": "LotkaVoltera"}), "Did you mean 'LotkaVolterra'"),
        (lambda m: m.pop("units"), "units"),
        (lambda m: m["files"].update({"../x.safetensors": {}}), "outside"),
        (lambda m: m["results"].update({"predict": m["results"]["fitted_"]}), "unknown result"),
    ],
)
def test_a_changed_manifest_is_refused(saved, change, says):
    edit(saved, change)
    with pytest.raises(ArtifactError, match=says):
        scidyn.load(saved)


def test_an_edit_by_hand_breaks_the_seal(saved):
    edit(saved, lambda m: m["config"].update({"seed": 7}), seal=False)
    with pytest.raises(ArtifactError, match="was edited"):
        scidyn.load(saved)


def test_nothing_else_is_overwritten(model, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(ArtifactError, match="not a scidyn artefact"):
        model.save(tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text(encoding="utf-8") == "years of work"


def test_a_system_of_ones_own(tmp_path):
    t = np.linspace(0, 3, 12)
    y = np.exp(-0.5 * t) * np.exp(0.05 * np.random.default_rng(0).normal(size=12))
    ds = from_arrays(y, t, names=["ice"], units=["kg"], time_units="h")
    model = MechanisticODE(Melting(), profile=False, starts=2).fit(ds)
    path = model.save(tmp_path / "melting")
    with pytest.raises(ArtifactError, match=r"systems=\[Melting\]"):
        scidyn.load(path)
    again = scidyn.load(path, systems=[Melting])
    assert again.predict([4.0], interval=0.9).identical(model.predict([4.0], interval=0.9))

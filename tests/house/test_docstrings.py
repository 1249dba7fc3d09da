"""Every public name is documented the house way, and the examples in the docstrings run."""

import doctest
import importlib
import inspect
import pkgutil
import re

import pytest

import scidyn

MODULES = sorted(m.name for m in pkgutil.walk_packages(scidyn.__path__, "scidyn.") if not m.name.endswith("__main__"))
ROOMS = ("bridges", "data", "datasets", "metrics", "nn", "solvers", "sysid", "systems", "training", "transport", "viz")
FRONT_DOOR = ("open", "save", "load", "show_versions", "cite")


def public_objects():
    seen = {f"scidyn.{name}": getattr(scidyn, name) for name in FRONT_DOOR}
    for room in ROOMS:
        package = importlib.import_module(f"scidyn.{room}")
        for name in package.__all__:
            thing = getattr(package, name)
            if inspect.isfunction(thing) or inspect.isclass(thing):
                seen[f"scidyn.{room}.{name}"] = thing
    return seen


PUBLIC = public_objects()


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module, tmp_path, monkeypatch, request):
    if not module.startswith("scidyn.sysid"):
        request.getfixturevalue("shared_fits")  # examples of figures and files need a fit, whichever
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(
        importlib.import_module(module), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    assert result.failed == 0


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_names_show_an_example(name):
    thing = PUBLIC[name]
    text = inspect.getdoc(thing) or ""
    plain_record = inspect.isclass(thing) and (issubclass(thing, tuple) or hasattr(thing, "__dataclass_fields__"))
    protocol = inspect.isclass(thing) and (getattr(thing, "_is_protocol", False) or inspect.isabstract(thing))
    enumeration = inspect.isclass(thing) and hasattr(thing, "__members__")
    assert text, f"{name} has no docstring"
    if not (plain_record or protocol or enumeration or name == "scidyn.systems.System"):
        assert ">>>" in text, f"{name} shows no example"


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_signature_and_docstring_agree(name):
    thing = PUBLIC[name]
    if inspect.isclass(thing) and "__init__" not in vars(thing):
        return
    text = inspect.getdoc(thing) or ""
    wanted = "Parameters|Attributes" if hasattr(thing, "__dataclass_fields__") else "Parameters"
    sections = re.findall(rf"(?:{wanted})\n-+\n(.*?)(?=\n\n?[A-Z][A-Za-z ]+\n-+\n|\Z)", text, re.DOTALL)
    documented = "\n".join(sections)
    heads = {n.strip(" *") for line in re.findall(r"^(\S[^:\n]*)", documented, re.MULTILINE) for n in line.split(",")}
    names = [
        p
        for p, v in inspect.signature(thing).parameters.items()
        if p != "self" and not p.startswith("_") and v.kind is not inspect.Parameter.VAR_POSITIONAL
    ]
    missing = [p for p in names if p not in heads]
    assert not missing, f"{name} does not document {missing}"

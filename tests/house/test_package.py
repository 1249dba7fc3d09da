"""Promises about the package as a whole: light imports, safe writes, agreeing metadata."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import scidyn
from scidyn import errors

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "scidyn").rglob("*.py"))


def modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.splitlines()[-1].split())


def test_import_is_light():
    loaded = modules_after("import scidyn")
    assert loaded.isdisjoint({"torch", "xarray", "matplotlib", "pandas", "scipy", "neuralop"})


def test_help_does_not_import_torch():
    loaded = modules_after(
        "from typer.testing import CliRunner\nfrom scidyn.cli.main import app\nCliRunner().invoke(app, ['--help'])"
    )
    assert "scidyn.cli.main" in loaded
    assert loaded.isdisjoint({"torch", "numpy", "xarray", "rich.console"} - {"rich.console"})


def test_solvers_do_not_pull_in_the_peers():
    assert modules_after("import scidyn.solvers").isdisjoint({"torchdiffeq", "torchsde", "neuralop", "matplotlib"})


def test_citation_agrees_with_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == project["version"] == scidyn.__version__
    assert [a["name"] for a in citation["authors"]] == [a["name"] for a in project["authors"]]
    assert citation["license"] == project["license"]


def test_every_exception_is_in_the_family_and_documented():
    for name in errors.__all__:
        kind = getattr(errors, name)
        assert issubclass(kind, errors.ScidynError | errors.ScidynWarning)
        assert kind.__doc__


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_assert_guards_a_user(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Assert)]


def test_names_of_test_files_are_unique():
    """Two files of one name in different folders cannot be collected in one run."""
    names = sorted(p.name for p in (ROOT / "tests").rglob("*.py") if p.name != "conftest.py")
    assert sorted(set(names)) == names


def test_files_are_written_by_one_module():
    writers = {"write_text", "write_bytes", "to_netcdf", "savetxt", "savez", "save_file", "to_csv"}
    offenders = []
    for path in SOURCES:
        if path.parent.name == "io" or path.name == "atomic.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        through = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "scidyn.data.io.atomic"
            for alias in node.names
        }
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name)):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            owner = (
                node.func.value.id
                if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name)
                else ""
            )
            in_memory = name in {"to_csv", "to_netcdf"} and not node.args
            opens = (
                name == "open"
                and owner in {"", "os", "io"}
                and any(
                    isinstance(a, ast.Constant)
                    and isinstance(a.value, str)
                    and set(a.value) & set("wax")
                    and len(a.value) <= 3
                    for a in node.args[1:]
                )
            )
            pickles = owner == "torch" and name == "save"
            safe = owner == "atomic" or (isinstance(node.func, ast.Name) and name in through)
            if (name in writers and not safe and not in_memory) or opens or pickles:
                offenders.append(f"{path.relative_to(ROOT)}:{node.lineno} {owner}.{name}")
    assert not offenders, "write through scidyn.data.io.atomic: " + ", ".join(offenders)

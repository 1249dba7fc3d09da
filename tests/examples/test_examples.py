"""Every example runs at reduced size and leaves what it says."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.usefixtures("shared_fits")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_example_runs(path, tmp_path, capsys):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 120
    module = load(path)
    module.main(tmp_path / "out", quick=True)
    shown = [p for p in (tmp_path / "out").iterdir() if p.suffix in (".html", ".png")]
    assert max(p.stat().st_size for p in shown) > 10_000
    assert capsys.readouterr().out

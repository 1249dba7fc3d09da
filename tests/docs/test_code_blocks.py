"""The Python that the README and the guides show runs as it stands."""

import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]


@pytest.fixture
def _few_starts(monkeypatch):
    """Fits from one starting point: the same estimates on this record, sooner."""
    from scidyn.sysid import MechanisticODE

    signature = inspect.signature(MechanisticODE.__init__).parameters.values()
    defaults = {p.name: p.default for p in signature if p.default is not p.empty}
    monkeypatch.setattr(MechanisticODE.__init__, "__defaults__", tuple((defaults | {"starts": 1}).values()))


@pytest.mark.usefixtures("_few_starts")
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_blocks_run_in_order(page, tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks, f"{page.name} shows no Python"
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": page.stem}
    for block in blocks:
        exec(compile(block, str(page), "exec"), namespace)

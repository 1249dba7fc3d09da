"""F23: text from files that is read as an expression. Units are the only such text that the package parses."""

import ast
import math
from pathlib import Path

import numpy as np
import pytest
from harness import count, fault
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import scidyn
from scidyn.data import from_arrays, parse_unit, validate
from scidyn.errors import UnitsError

HOSTILE = [
    "__import__('os').system('touch marker')", "os.system('touch marker')",
    "exec('1')", "eval('1')", "open('/etc/passwd')",
    "().__class__.__bases__", "{}", "[]", "()", "lambda: 0", "m if 1 else s", "m; s", "m\x00",
    "m()", "m[0]", "m.s",
    "f'{1}'", "`id`", "$(id)", "${HOME}", "%s%n", "{0.__class__}", "<script>", "m" * 101, "1/" * 60, "m^" + "9" * 5000,
    "km^99 km^99 km^99", "1/fm99 1/fm99 fm-99 fm-99", "m^^2", "m**", "m***2", "**2", "^2", "m^1.5", "m^1e9", "m^nan",
    "//", "m//s",
    "/", "m /", "inf", "nan", "0", "2", "-m", "+m", "m^٣", "ｍ", "m·", "\u202em",
]  # fmt: skip


def test_f23_hostile_units(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in HOSTILE:
        with fault():
            with pytest.raises(UnitsError) as caught:
                parse_unit(text)
            assert len(str(caught.value)) < 400
            ds = from_arrays([1.0, 2.0], [0, 1], units=["m"], time_units="s")
            ds["y0"].attrs["units"] = text  # kept as text, never run
            validate(ds)
    assert not list(tmp_path.iterdir())


WORDS = st.sampled_from(["m", "km", "s", "mg", "L", "1", "day", "mol", "µg", "hours", "Pa", "cell", "%", "K"])
POWERS = st.sampled_from(["", "2", "-1", "^3", "**-2", "^+1"])
PRODUCTS = st.lists(st.tuples(WORDS, POWERS).map("".join), min_size=1, max_size=4).map(" ".join)
MANY = settings(
    max_examples=count(250, 10_000), deadline=None, database=None, derandomize=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@MANY
@given(st.lists(PRODUCTS, min_size=1, max_size=3).map("/".join))
def test_f23_grammar(text):
    with fault():
        unit = parse_unit(text)
        assert math.isfinite(unit.scale)
        assert unit.scale > 0
        inverse = parse_unit("/".join(["1", *text.split("/")[:1]])) if "/" not in text else None
        if inverse is not None:
            assert unit.scale * inverse.scale == pytest.approx(1, rel=1e-9)
            assert dict(inverse.dimension) == {b: -p for b, p in unit.dimension}


@MANY
@given(st.text(alphabet="mskgL123^*/ ·.-+()[]{}'\"\\%µ_°\x00é", max_size=40))
def test_f23_noise(text):
    with fault():
        try:
            unit = parse_unit(text)
        except UnitsError:
            return
        assert np.isfinite(unit.scale)


def test_f23_nothing_else_runs_text():
    """No module of the package evaluates text: there is no eval, exec, compile of strings, or sympify in it."""
    with fault():
        found = []
        for file in Path(scidyn.__file__).parent.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call):
                    continue
                called = node.func
                name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
                plain = isinstance(called, ast.Name) and name in ("eval", "exec", "compile", "__import__")
                if plain or name in ("sympify", "parse_expr", "literal_eval", "unsafe_load"):
                    found.append(f"{file.name}:{node.lineno} {name}")
        assert found == []

"""Versions for a report of a fault, and what to cite."""

import re

import pytest

import scidyn
from scidyn import about
from scidyn.errors import OptionError
from scidyn.systems import Lorenz63, LotkaVolterra, VanDerPol


def keys(bibtex):
    return re.findall(r"^@\w+\{([^,]+),", bibtex, re.MULTILINE)


def test_scidyn_alone():
    assert keys(scidyn.cite()) == ["scidyn"]
    assert scidyn.__version__ in scidyn.cite()


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        (LotkaVolterra(), ["lotka", "volterra"]),
        (LotkaVolterra, ["lotka", "volterra"]),
        (Lorenz63(), ["lorenz"]),
        (VanDerPol(), ["van_der_pol"]),
        ("dopri5", ["dopri5"]),
    ],
)
def test_equations_and_methods(thing, expected):
    assert keys(scidyn.cite(thing)) == ["scidyn", *expected]


def test_unknown_things_are_refused():
    with pytest.raises(OptionError, match="Did you mean 'dopri5'"):
        scidyn.cite("dopri6")
    with pytest.raises(OptionError, match="no work behind dict"):
        scidyn.cite({})


def test_every_key_has_an_entry_and_every_entry_a_use():
    used = {key for works in about._WORKS.values() for key in works}
    assert used == set(about._entries())


def test_entries_are_balanced_and_dated():
    for key, entry in about._entries().items():
        assert entry.count("{") == entry.count("}"), key
        assert re.search(r"year = \{\d{4}\}", entry), key


def test_versions_name_what_a_fault_report_needs(capsys):
    scidyn.show_versions()
    lines = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    import torch

    assert lines["scidyn"] == scidyn.__version__
    assert lines["torch"] == torch.__version__
    assert int(lines["threads"]) == torch.get_num_threads()
    assert {"python", "system", "accelerator", "xarray"} <= set(lines)

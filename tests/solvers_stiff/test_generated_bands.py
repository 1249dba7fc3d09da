"""The band of a Jacobian in a generated program is found from the field itself."""

import shutil

import pytest
import torch
from problems import brusselator, brusselator_start

from scidyn.solvers import solve_ode
from scidyn.solvers.arguments import prepare
from scidyn.solvers.generated.solve import generated_solver
from scidyn.solvers.linear import LinearAlgebra
from scidyn.solvers.methods.rosenbrock import Rodas
from scidyn.solvers.stiff_tableaus import RODAS5P


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
def test_a_band_is_found_and_matches_the_plain_banded_solver(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def is_generated(method):
        options = {"args": None, "method": method, "rtol": 1e-6, "atol": 1e-8, "stepping": "per_sample"}
        return generated_solver(prepare(brusselator, y0, [0.0, 5.0], **options), compile=True) is not None

    y0 = torch.tensor(brusselator_start(20)).unsqueeze(0)
    method = Rodas(tableau=RODAS5P, algebra=LinearAlgebra("banded", (2, 2)))
    options = {"method": method, "stepping": "per_sample", "rtol": 1e-6, "atol": 1e-8}
    assert is_generated(method)
    fast, plain = (solve_ode(brusselator, y0, [0.0, 5.0], compile=c, **options).y for c in (True, False))
    torch.testing.assert_close(fast, plain, rtol=1e-6, atol=1e-7)
    narrow = Rodas(tableau=RODAS5P, algebra=LinearAlgebra("banded", (1, 1)))
    assert not is_generated(narrow)

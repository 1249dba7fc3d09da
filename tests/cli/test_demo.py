"""``scidyn demo``: `make demo` runs it whole, this at reduced size."""

import pytest

import scidyn
from scidyn.cli import demo, fit
from scidyn.sysid import MechanisticODE
from scidyn.systems import LotkaVolterra


@pytest.mark.usefixtures("shared_fits")
def test_demo_ends_with_tables_and_the_report_and_can_be_repeated(tmp_path, monkeypatch, capsys):
    def one_start(model, *, noise, seed):
        return MechanisticODE(LotkaVolterra(), noise=noise, seed=seed, starts=1, profile=False)

    monkeypatch.setattr(fit, "build", one_start)
    out = tmp_path / "scidyn-demo"
    out.mkdir()
    (out / "fitted.csv").write_text("half", encoding="utf-8")  # what a killed demo may leave
    demo.run_demo(out, progress=False)
    said = capsys.readouterr().out
    assert "lognormal noise" in said
    assert "linear autoregression" in said
    assert "best of its column" in said
    assert "report.html" in said.rstrip().splitlines()[-2]
    assert (out / "report.html").stat().st_size > 10_000
    assert scidyn.open(out / "fitted.csv").sizes["time"] == 21

"""``scidyn demo``, as ``make demo`` runs it."""

import subprocess
import sys

import scidyn


def test_demo_ends_with_tables_and_the_report_and_can_be_repeated(tmp_path):
    (tmp_path / "scidyn-demo").mkdir()  # what a killed demo may leave
    (tmp_path / "scidyn-demo" / "fitted.csv").write_text("half", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "scidyn", "demo"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "lognormal noise" in done.stdout
    assert "best of its column" in done.stdout
    assert done.stdout.rstrip().splitlines()[-2] == "report: scidyn-demo/report.html"
    assert (tmp_path / "scidyn-demo" / "report.html").stat().st_size > 10_000
    assert scidyn.open(tmp_path / "scidyn-demo" / "fitted.csv").sizes["time"] == 21

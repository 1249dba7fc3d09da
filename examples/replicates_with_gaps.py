# %% [markdown]
# # Replicates with gaps, from a spreadsheet with decimal commas
# Three cultures of predator and prey are sampled now and then, some samples are lost, and the
# spreadsheet writes 1,5 for one and a half. The true parameters are known here, so the intervals
# can be checked.

# %%
from pathlib import Path

import numpy as np

import scidyn
from scidyn import viz
from scidyn.sysid import MechanisticODE
from scidyn.systems import LotkaVolterra

TRUTH = {"alpha": 1.0, "beta": 0.1, "gamma": 1.5, "delta": 0.075}


def write_spreadsheet(path: Path, seed: int = 1) -> None:
    """A semicolon-separated table as a spreadsheet exports it: one row a sample, empty cells where lost."""
    random = np.random.default_rng(seed)
    times = np.linspace(0.0, 9.0, 19)
    rows = ["culture;time (day);prey (mg/L);predator (mg/L)"]
    for culture, start in {"A": (12.0, 5.0), "B": (20.0, 8.0), "C": (8.0, 12.0)}.items():
        clean = LotkaVolterra(**TRUTH).simulate(times, start, rtol=1e-8)
        for i, t in enumerate(times):
            cells = [
                "" if random.random() < 0.1 else f"{float(clean[name][i]) * np.exp(0.1 * random.normal()):.3f}"
                for name in ("prey", "predator")
            ]
            rows.append(";".join([culture, f"{t:g}", *cells]).replace(".", ","))
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def main(out: Path = Path("cultures"), *, quick: bool = False) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_spreadsheet(out / "cultures.csv")
    record = scidyn.open(out / "cultures.csv", id="culture")

    model = MechanisticODE(LotkaVolterra(), starts=2 if quick else 8, profile=not quick).fit(record)
    table = model.parameters_.to_dataframe()
    table["truth"] = [TRUTH[name] for name in table.index]
    print(table[["estimate", "lower", "truth", "upper", "units"]])
    print(viz.report(model, record, out / "report.html", overwrite=True))


if __name__ == "__main__":
    main()

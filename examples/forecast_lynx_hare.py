# %% [markdown]
# # Forecast the lynx and the hare
# Fit Lotka–Volterra to the Hudson Bay pelts, judge a forecast of held-out years, write the report.

# %%
from pathlib import Path

import scidyn
from scidyn import viz
from scidyn.sysid import MechanisticODE, backtest
from scidyn.systems import LotkaVolterra


def main(out: Path = Path("lynx-hare"), *, quick: bool = False) -> None:
    record = scidyn.datasets.load("lynx_hare")
    out.mkdir(parents=True, exist_ok=True)

    # The parameters, from the whole record.
    model = MechanisticODE(LotkaVolterra(), starts=2 if quick else 8, profile=not quick).fit(record)
    print(model.parameters_.to_dataframe())

    # The forecast, from the years before 1914.
    trial = backtest(model.clone(), record, at=1914)
    print(trial.errors["rmse"].to_pandas())

    # One folder for the model, one file to send around.
    model.save(out / "model", overwrite=True)
    print(viz.report(model, record, out / "report.html", backtest=trial, overwrite=True))


if __name__ == "__main__":
    main()

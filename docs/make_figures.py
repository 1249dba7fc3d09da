"""Draw the figures that README and front page show: ``python docs/make_figures.py``."""

from pathlib import Path

import scidyn
from scidyn import viz
from scidyn.sysid import MechanisticODE, backtest
from scidyn.systems import LotkaVolterra

STATIC = Path(__file__).parent / "_static"


def main(folder: Path = STATIC) -> Path:
    """Forecast the lynx and the hare from the years before 1914."""
    record = scidyn.datasets.load("lynx_hare")
    trial = backtest(MechanisticODE(LotkaVolterra(), profile=False), record, at=1914)
    folder.mkdir(exist_ok=True)
    return viz.save_figure(viz.plot_forecast(trial), folder / "lynx-hare-forecast.png", overwrite=True, dpi=150)


if __name__ == "__main__":
    print(main())

"""A neural differential equation fitted to a record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from scidyn.sysid.network_model import NetworkModel

if TYPE_CHECKING:
    import xarray as xr

    from scidyn.training import Progress

__all__ = ["NeuralODE"]


class NeuralODE(NetworkModel):
    r"""Fit ``dz/ds = network(z)`` in scaled coordinates, when no mechanism is known.

    ``z`` are standardised values, or standardised logarithms for positive data, so that simulated
    abundances stay positive. Training goes from short windows (multiple shooting) over the first parts
    of each trajectory to whole ones, by Adam and then L-BFGS. The weights that forecast the last stretch
    of the record best are chosen; from them the whole record is fitted by a few steps of L-BFGS.

    Parameters
    ----------
    hidden : sequence of int
        Widths of the hidden layers.
    noise : {"auto", "normal", "lognormal"}
        Noise of the measurements; "auto" is log-normal where all observed values are positive.
    max_iterations : int
        Steps of Adam; a tenth as many steps of L-BFGS follow.
    learning_rate : float
        Step size of Adam.
    weight_decay : float
        Penalty on the sum of squared weights, in units of the noise variance.
    validation : float
        Share of the times, at the end of each trajectory, kept for early stopping; 0 for none.
    refit : bool
        After early stopping, go on from the chosen weights on the whole record; False keeps the chosen ones.
    activation : str
        Activation of the network.
    adjoint : {None, "discrete", "direct"}
        Gradient of the solver; None is the solver's default.
    rtol : float
        Tolerance of the solver in scaled coordinates.
    confidence : float
        Probability of the bands in ``fitted_``.
    seed : int
        Seed of the initial weights.

    Raises
    ------
    scidyn.errors.OptionError
        For an option that does not exist; values are checked by ``fit``.

    Notes
    -----
    Bands are a linearised Laplace approximation over all weights and initial states, with the penalty
    of the fit as prior, plus the noise. With few data the network has nothing to hold on to: expect
    wide bands and poor forecasts, and ask :func:`scidyn.sysid.backtest`.

    Examples
    --------
    >>> import scidyn
    >>> from scidyn.sysid import NeuralODE
    >>> model = NeuralODE(hidden=(8,), max_iterations=20, refit=False)
    >>> model = model.fit(scidyn.datasets.load("lynx_hare"))
    >>> sorted(model.predict([1921.0], interval=0.9).data_vars)[:3]
    ['hare', 'hare_lower', 'hare_upper']

    References
    ----------
    R. T. Q. Chen et al., Neural ordinary differential equations, NeurIPS 2018.
    """

    kind: ClassVar[str] = "neural"

    def __init__(
        self,
        hidden: Sequence[int] = (32, 32),
        noise: str = "auto",
        max_iterations: int = 200,
        learning_rate: float = 2e-2,
        weight_decay: float = 1e-2,
        validation: float = 0.2,
        refit: bool = True,
        activation: str = "tanh",
        adjoint: str | None = None,
        rtol: float = 1e-3,
        confidence: float = 0.9,
        seed: int = 0,
    ) -> None:
        self.hidden = hidden
        self.noise = noise
        self.max_iterations = max_iterations
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.validation = validation
        self.refit = refit
        self.activation = activation
        self.adjoint = adjoint
        self.rtol = rtol
        self.confidence = confidence
        self.seed = seed

    def fit(
        self, ds: xr.Dataset, *, checkpoint: str | Path | None = None, progress: Progress | bool | None = None
    ) -> NeuralODE:
        """Train the network on a record.

        Parameters
        ----------
        ds : xarray.Dataset
            Kind ``trajectories`` or ``irregular``; NaN means missing.
        checkpoint : str or Path, optional
            Folder in which the state of the training is kept; a killed fit goes on from it.
        progress : Progress or bool, optional
            Show how far the fit has come.

        Returns
        -------
        NeuralODE
            Itself.

        Raises
        ------
        scidyn.errors.DataError
            If the record cannot be used or a trajectory is too short.
        scidyn.errors.SplitError
            If the validation stretch would be empty.
        scidyn.errors.FitError
            If training does not stay finite.
        """
        with self._all_or_nothing():
            self._fit(ds, checkpoint, progress)
        return self

    def equations(self) -> str:
        """The form of the equation: variables, coordinates, size of the network.

        Returns
        -------
        str
        """
        self._require_fitted("equations")
        z = "log " if self.noise_model_ == "lognormal" else ""
        layers = " → ".join(str(n) for n in (len(self.variables_), *self.hidden, len(self.variables_)))
        return f"dz/ds = network(z), z = standardised {z}({', '.join(self.variables_)}); layers {layers}"

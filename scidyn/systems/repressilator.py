"""The repressilator: three genes that repress each other in a ring."""

from __future__ import annotations

import torch
from torch import Tensor

from scidyn.systems.system import Parameter, StateVariable, System

__all__ = ["Repressilator"]


class Repressilator(System):
    """A ring of three repressors: ``x_i' = β / (1 + (x_{i−1} / k)^n) − γ x_i``.

    State ``(x1, x2, x3)``, shape ``(*batch, 3)``; gene 1 is repressed by gene 3. This is the reduced
    form in which messenger and protein are one quantity. The symmetric fixed point solves
    ``γ x = β / (1 + (x/k)^n)``; with ``s = β n u^n / (γ k u (1 + u^n)^2)``, ``u = x / k``, it loses its
    stability to a limit cycle at ``s = 2``, so that ``n > 2`` is necessary.

    Good values: β 10, n 3, k 1, γ 1.

    Parameters
    ----------
    beta : float
        Largest rate of production, concentration/time.
    n : float
        Hill coefficient.
    k : float
        Concentration of half repression.
    gamma : float
        Rate of decay, 1/time.

    Raises
    ------
    scidyn.errors.OptionError
        If a parameter is unknown or not a finite number.

    Examples
    --------
    >>> import torch
    >>> from scidyn.systems import Repressilator
    >>> Repressilator()(torch.tensor(0.0), torch.tensor([2.0, 2.0, 1.0]))
    tensor([ 3.0000, -0.8889,  0.1111])

    References
    ----------
    M. B. Elowitz, S. Leibler, A synthetic oscillatory network of transcriptional regulators,
    Nature 403, 335–338, 2000.
    """

    states = tuple(StateVariable(f"x{i}", f"concentration of repressor {i}", positive=True) for i in (1, 2, 3))
    parameters = (
        Parameter("beta", 10.0, 0.0, 1000.0, {"time": -1, "x1": 1}, "β", "largest rate of production"),
        Parameter("n", 3.0, 0.0, 20.0, {}, "n", "Hill coefficient"),
        Parameter("k", 1.0, 1e-6, 1000.0, {"x1": 1}, "k", "concentration of half repression"),
        Parameter("gamma", 1.0, 0.0, 100.0, {"time": -1}, "γ", "rate of decay"),
    )
    initial = (1.0, 1.0, 2.0)
    equation = "x_i' = β / (1 + (x_{i−1}/k)^n) − γ x_i"
    reference = "Elowitz & Leibler 2000"

    def vector_field(self, t: Tensor, y: Tensor, theta: Tensor) -> Tensor:
        """Evaluate the three rates; shapes as in :meth:`System.vector_field`.

        The Hill term is written as a logistic function of ``n log(x/k)``, and a concentration that a
        stochastic path has carried below zero represses like none at all.
        """
        beta, n, k, gamma = (p.unsqueeze(-1) for p in theta.unbind(-1))
        before = torch.roll(y, 1, dims=-1)
        floor = torch.finfo(y.dtype).tiny ** 0.5
        ratio = torch.log(before.clamp_min(floor)) - torch.log(k.clamp_min(floor))
        return beta * torch.sigmoid(-n * ratio) - gamma * y

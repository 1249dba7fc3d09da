"""Rate matrices of continuous-time Markov chains and what their matrix exponential tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scidyn._check.tensors import finite, floating
from scidyn.errors import DataError, OptionError, ShapeError
from scidyn.solvers.ctmc.process import repeat_start

if TYPE_CHECKING:
    from scidyn.solvers.ctmc.reaction_network import ReactionNetwork

__all__ = ["RateMatrix"]


class RateMatrix:
    """Generator Q of a continuous-time Markov chain on the states 0, …, S - 1.

    ``Q[i, j]`` for i ≠ j is the rate of jumps from i to j, ``Q[i, i] = -Σ_j≠i Q[i, j]``;
    probabilities as row vectors obey ``dp/dt = p Q``, so ``p(t) = p(0) exp(Q t)``.

    Parameters
    ----------
    Q : Tensor, shape (S, S)
        Rates per time; may require gradients.

    Attributes
    ----------
    Q : Tensor, shape (S, S)
        As given.
    size : int
        Number of states S.
    exit_rates : Tensor, shape (S,)
        ``-Q[i, i]``.

    Raises
    ------
    scidyn.errors.ShapeError
        If Q is not a square floating matrix.
    scidyn.errors.OptionError
        If a rate off the diagonal is negative or a row does not sum to zero.
    scidyn.errors.NonFiniteError
        If an entry is not finite.

    Notes
    -----
    Dense: good to a few thousand states. For counts of molecules see
    :class:`~scidyn.solvers.ReactionNetwork`, which never forms the matrix.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import RateMatrix
    >>> channel = RateMatrix(torch.tensor([[-2.0, 2.0], [3.0, -3.0]]))     # closed, open
    >>> channel.stationary()
    tensor([0.6000, 0.4000])

    References
    ----------
    J. R. Norris (1997), Markov Chains, Cambridge University Press, chapter 2.
    """

    def __init__(self, Q: Tensor) -> None:
        _check_square("Q", Q)
        values = Q.detach()
        _check_off_diagonal(values)
        rows = values.sum(-1)
        allowed = 64 * torch.finfo(values.dtype).eps * values.abs().sum(-1)
        bad = rows.abs() > allowed
        if bool(bad.any()):
            row = int(bad.to(torch.uint8).argmax())
            raise OptionError(
                f"row {row} of Q sums to {rows[row].item():g} instead of 0; set its diagonal entry to minus "
                "the sum of the others, or use RateMatrix.from_rates(Q), which does so."
            )
        self.Q = Q

    @classmethod
    def from_rates(cls, rates: Tensor) -> RateMatrix:
        """Fill the diagonal so that rows sum to zero.

        Parameters
        ----------
        rates : Tensor, shape (S, S)
            Rates of jumps from row to column; its diagonal is ignored.

        Returns
        -------
        RateMatrix
        """
        _check_square("rates", rates)
        off = rates - torch.diag(rates.diagonal())
        return cls(off - torch.diag(off.sum(-1)))

    @classmethod
    def birth_death(cls, birth: Tensor, death: Tensor) -> RateMatrix:
        """Chain that moves to neighbours only.

        Parameters
        ----------
        birth : Tensor, shape (S - 1,)
            Rates from i to i + 1.
        death : Tensor, shape (S - 1,)
            Rates from i + 1 to i.

        Returns
        -------
        RateMatrix

        Examples
        --------
        >>> import torch
        >>> from scidyn.solvers import RateMatrix
        >>> RateMatrix.birth_death(torch.ones(2), 2 * torch.ones(2)).exit_rates
        tensor([1., 3., 2.])
        """
        if birth.ndim != 1 or birth.shape != death.shape:
            raise ShapeError(
                f"birth and death must have one shape (S - 1,); got {tuple(birth.shape)} and {tuple(death.shape)}."
            )
        return cls.from_rates(torch.diag(birth, 1) + torch.diag(death, -1))

    def __repr__(self) -> str:
        return f"RateMatrix({self.size} states)"

    @property
    def size(self) -> int:
        """Number of states."""
        return self.Q.shape[0]

    @property
    def exit_rates(self) -> Tensor:
        """Rate of leaving each state."""
        return -self.Q.diagonal()

    @property
    def off_diagonal(self) -> Tensor:
        """Rates of the jumps, zero on the diagonal."""
        return self.Q - torch.diag(self.Q.diagonal())

    def transition_matrix(self, t: Tensor | float) -> Tensor:
        """Probabilities ``P(t)[i, j]`` of being in j a time t after being in i.

        Parameters
        ----------
        t : Tensor, shape () or (T,)
            Times ≥ 0.

        Returns
        -------
        Tensor, shape (S, S) or (T, S, S)
            ``exp(Q t)``, differentiable in Q and t.

        Raises
        ------
        scidyn.errors.OptionError
            If a time is negative.
        """
        time = torch.as_tensor(t, dtype=self.Q.dtype, device=self.Q.device)
        if bool((time.detach() < 0).any()):
            raise OptionError(f"t must be >= 0; got {float(time.detach().min()):g}.")
        return torch.linalg.matrix_exp(time[..., None, None] * self.Q)

    def marginals(self, p0: Tensor, t: Tensor | float) -> Tensor:
        """Probability of each state a time t after it was ``p0``.

        Parameters
        ----------
        p0 : Tensor, shape (S,)
            Initial probabilities.
        t : Tensor, shape () or (T,)
            Times since the start.

        Returns
        -------
        Tensor, shape (S,) or (T, S)

        Raises
        ------
        scidyn.errors.OptionError
            If ``p0`` is not a probability vector.
        """
        return self.distribution(p0) @ self.transition_matrix(t)

    def distribution(self, p0: Tensor) -> Tensor:
        """Return ``p0`` in the dtype of Q if it is a probability vector over the states."""
        if p0.shape != (self.size,):
            raise ShapeError(f"p0 must have shape ({self.size},); got {tuple(p0.shape)}.")
        finite("p0", p0.detach())
        total = float(p0.detach().sum())
        if bool((p0.detach() < 0).any()) or abs(total - 1.0) > 1e-6:
            raise OptionError(f"p0 must be >= 0 and sum to 1; it sums to {total:g}, smallest {float(p0.min()):g}.")
        return p0.to(self.Q)

    def stationary(self) -> Tensor:
        """Probabilities π with ``π Q = 0``.

        Returns
        -------
        Tensor, shape (S,)

        Raises
        ------
        scidyn.errors.DataError
            If there is more than one, the chain having several closed classes.
        """
        values = torch.linalg.svdvals(self.Q.detach())
        small = values <= values.amax() * self.size * torch.finfo(self.Q.dtype).eps
        if int(small.sum()) > 1:
            raise DataError(
                f"the chain has {int(small.sum())} stationary laws, because it falls into classes that do not "
                "communicate; restrict Q to one of them."
            )
        system = torch.cat([self.Q.T, self.Q.new_ones(1, self.size)])
        rhs = torch.cat([self.Q.new_zeros(self.size, 1), self.Q.new_ones(1, 1)])
        return torch.linalg.lstsq(system, rhs).solution.squeeze(-1)

    def propensities(self, x: Tensor) -> Tensor:
        """Rates of jumps from the states ``x`` (*batch,) to each state, shape (*batch, S)."""
        return self.off_diagonal[x]

    def fire(self, x: Tensor, channel: Tensor) -> Tensor:
        """States after the jumps: the channel is the state jumped to."""
        return channel

    def replay(self, x0: Tensor, channels: Tensor) -> Tensor:
        """States (B, J + 1) before, between and after the jumps ``channels`` (B, J); -1 does nothing."""
        place = torch.arange(1, channels.shape[1] + 1, device=channels.device).expand_as(channels)
        source = torch.where(channels >= 0, place, 0).cummax(1).values
        every = torch.cat([x0.unsqueeze(1), channels], dim=1)
        return torch.cat([x0.unsqueeze(1), every.gather(1, source)], dim=1)

    def start(self, x0: Tensor, trajectories: int | None = None) -> Tensor:
        """Check initial states () or (B,) and give them a batch axis."""
        index = torch.as_tensor(x0, device=self.Q.device)
        if index.is_floating_point() or index.dtype == torch.bool:
            raise ShapeError(f"x0 must hold whole state indices (torch.long); got dtype {index.dtype}.")
        if bool(((index < 0) | (index >= self.size)).any()):
            raise OptionError(f"x0 must lie in 0 … {self.size - 1}; got {int(index.min())} … {int(index.max())}.")
        return repeat_start(index.long(), 0, trajectories)

    def as_network(self) -> ReactionNetwork:
        """Independent molecules, each walking on the states: one reaction per nonzero rate.

        Returns
        -------
        ReactionNetwork
            Species ``X0 … X(S-1)`` count the molecules in each state.

        Examples
        --------
        >>> import torch
        >>> from scidyn.solvers import RateMatrix
        >>> RateMatrix.birth_death(torch.ones(2), torch.ones(2)).as_network()
        ReactionNetwork(4 reactions, species X0, X1, X2)
        """
        from scidyn.solvers.ctmc.reaction_network import ReactionNetwork

        source, target = (self.off_diagonal.detach() > 0).nonzero(as_tuple=True)
        one = torch.eye(self.size, dtype=torch.float64, device=self.Q.device)
        return ReactionNetwork(one[source], one[target], self.Q[source, target])


def _check_square(name: str, Q: Tensor) -> None:
    """Raise unless ``Q`` is a finite square floating matrix."""
    floating(name, Q)
    if Q.ndim != 2 or Q.shape[0] != Q.shape[1] or Q.shape[0] < 1:
        raise ShapeError(f"{name} must be a square matrix (states, states); got shape {tuple(Q.shape)}.")
    finite(name, Q.detach())


def _check_off_diagonal(values: Tensor) -> None:
    """Raise OptionError naming the first negative rate off the diagonal."""
    off = values - torch.diag(values.diagonal())
    if bool((off < 0).any()):
        row, column = divmod(int((off < 0).reshape(-1).to(torch.uint8).argmax()), values.shape[0])
        raise OptionError(
            f"the rate Q[{row}, {column}] from state {row} to {column} is {values[row, column].item():g}; "
            "rates off the diagonal cannot be negative."
        )

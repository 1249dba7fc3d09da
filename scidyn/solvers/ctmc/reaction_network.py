"""Reaction networks: stoichiometry, propensities in molecules, the truncated master equation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import torch
from torch import Tensor

from scidyn._check.tensors import finite
from scidyn._check.values import integer, number
from scidyn.errors import DataError, OptionError, ShapeError
from scidyn.solvers.ctmc.molecules import not_negative, read_sides, slots, whole
from scidyn.solvers.ctmc.process import repeat_start
from scidyn.solvers.ctmc.rates import RateMatrix

__all__ = ["ReactionNetwork"]


class ReactionNetwork:
    """Species that react: ``Σ_s reactants[r, s] X_s → Σ_s products[r, s] X_s`` at rate ``a_r(n)``.

    With mass action and counts ``n`` in molecules, the propensity of reaction r of order
    ``m_r = Σ_s reactants[r, s]`` in a volume Ω is::

        a_r(n) = k_r Ω^(1 - m_r) Π_s n_s (n_s - 1) … (n_s - reactants[r, s] + 1)

    so that ``k_r`` is the constant of the rate equation ``dc/dt = Σ_r ν_r k_r Π_s c_s^reactants``
    for concentrations ``c = n / Ω``. (Gillespie's constant is ``c_r = k_r Ω^(1 - m_r) Π_s reactants!``.)

    Parameters
    ----------
    reactants, products : Tensor of whole numbers, shape (R, S)
        Molecules consumed and produced by each reaction.
    rates : Tensor, shape (R,)
        Rate constants ``k_r`` ≥ 0, in concentration and time units that match ``volume``. May require
        gradients; :meth:`propensities` and the path divergences are differentiable in them.
    species : sequence of str, optional
        Names; default ``X0, X1, …``.
    volume : float
        Ω > 0, molecules per unit of concentration; 1 if the rates are per molecule already.
    propensities : callable, optional
        ``a(n, rates) -> (…, R)`` instead of mass action, e.g. for Michaelis–Menten kinetics. It must
        vanish where a reactant is missing.

    Raises
    ------
    scidyn.errors.OptionError
        If a rate, a coefficient or the volume is negative or not whole where it must be.
    scidyn.errors.ShapeError
        If shapes do not fit.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import ReactionNetwork
    >>> dimers = ReactionNetwork.parse({"0 -> A": 10.0, "2 A -> B": 0.1, "B -> 0": 1.0})
    >>> dimers.propensities(torch.tensor([4.0, 2.0], dtype=torch.float64)).tolist()
    [10.0, 1.2000000000000002, 2.0]

    References
    ----------
    D. T. Gillespie (2007), Stochastic simulation of chemical kinetics, Annu. Rev. Phys. Chem. 58.
    """

    def __init__(
        self,
        reactants: Tensor,
        products: Tensor,
        rates: Tensor,
        *,
        species: Sequence[str] | None = None,
        volume: float = 1.0,
        propensities: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self.rates = torch.as_tensor(rates, dtype=torch.float64)
        device = self.rates.device
        self.reactants = whole("reactants", reactants).to(device)
        self.products = whole("products", products).to(device)
        if self.reactants.ndim != 2 or self.reactants.shape != self.products.shape:
            raise ShapeError(
                "reactants and products must have one shape (reaction, species); "
                f"got {tuple(self.reactants.shape)} and {tuple(self.products.shape)}."
            )
        count, width = self.reactants.shape
        if self.rates.shape != (count,):
            raise ShapeError(f"rates must have shape ({count},); got {tuple(self.rates.shape)}.")
        finite("rates", self.rates.detach())
        not_negative("rates", self.rates.detach(), "rates are per time and cannot be negative")
        self.species = tuple(f"X{k}" for k in range(width)) if species is None else tuple(species)
        if len(self.species) != width or len(set(self.species)) != width:
            raise ShapeError(f"species must be {width} different names; got {list(self.species)}.")
        self.volume = number("volume", volume, above=0.0)
        self.stoichiometry = self.products - self.reactants
        self._law = propensities
        self._scale = self.volume ** (1.0 - self.reactants.sum(-1))
        self._slot_species, self._slot_taken = slots(self.reactants)

    @classmethod
    def parse(
        cls,
        reactions: Mapping[str, float],
        *,
        volume: float = 1.0,
        species: Sequence[str] | None = None,
        device: torch.device | str | None = None,
    ) -> ReactionNetwork:
        """Read reactions as chemists write them.

        Parameters
        ----------
        reactions : mapping of str to float
            ``"A + 2 B -> C"`` to its rate constant; ``0`` stands for nothing.
        volume : float
            As for the class.
        species : sequence of str, optional
            Order of the species; default: order of appearance.
        device : torch.device, optional
            Where counts will live.

        Returns
        -------
        ReactionNetwork

        Raises
        ------
        scidyn.errors.OptionError
            If a reaction cannot be read or names a species not listed.

        Examples
        --------
        >>> from scidyn.solvers import ReactionNetwork
        >>> sir = ReactionNetwork.parse({"S + I -> 2 I": 0.3, "I -> R": 0.1}, volume=1000.0)
        >>> sir.species, sir.stoichiometry.long().tolist()
        (('S', 'I', 'R'), [[-1, 1, 0], [0, -1, 1]])
        """
        sides = [read_sides(text) for text in reactions]
        seen = {name: None for left, right in sides for name in (*left, *right)}
        names = list(seen) if species is None else list(species)
        for name in seen:
            if name not in names:
                raise OptionError(f"species {name!r} is in the reactions but not in species={names}.")
        if not sides:
            raise OptionError("a network needs at least one reaction; got an empty mapping.")
        before, after = (
            torch.tensor([[side[k].get(name, 0) for name in names] for side in sides], device=device) for k in (0, 1)
        )
        constants = [number(f"the rate of {k!r}", v) for k, v in reactions.items()]
        rates = torch.tensor(constants, dtype=torch.float64, device=device)
        return cls(before, after, rates, species=names, volume=volume)

    def __repr__(self) -> str:
        return f"ReactionNetwork({len(self.rates)} reactions, species {', '.join(self.species)})"

    @property
    def mass_action(self) -> bool:
        """True unless the network was given its own propensities."""
        return self._law is None

    def propensities(self, x: Tensor) -> Tensor:
        """Evaluate the rate of each reaction, in events per time.

        Parameters
        ----------
        x : Tensor, shape (*batch, S)
            Counts in molecules.

        Returns
        -------
        Tensor, shape (*batch, R)
        """
        if self._law is not None:
            return self._law(x, self.rates)
        padded = torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)
        rate = (self.rates * self._scale).expand(*x.shape[:-1], -1)
        for species, taken in zip(self._slot_species, self._slot_taken, strict=True):
            rate = rate * (padded[..., species] - taken).clamp_min(0)
        return rate

    def rate_equation(self, t: Tensor, c: Tensor) -> Tensor:
        """Evaluate dc/dt of the deterministic limit, a vector field for ``solve_ode``.

        Parameters
        ----------
        t : Tensor
            Time; not used.
        c : Tensor, shape (*batch, S)
            Concentrations ``n / volume``.

        Returns
        -------
        Tensor, shape (*batch, S)

        Raises
        ------
        scidyn.errors.OptionError
            If the network has its own propensities instead of mass action.
        """
        if self._law is not None:
            raise OptionError("rate_equation needs mass action; this network has its own propensities.")
        flux = self.rates.to(c) * (c.unsqueeze(-2) ** self.reactants.to(c)).prod(-1)
        return flux @ self.stoichiometry.to(c)

    def fire(self, x: Tensor, channel: Tensor) -> Tensor:
        """Apply one reaction to each row: counts (B, S) and reactions (B,) to counts (B, S)."""
        return x + self.stoichiometry.index_select(0, channel)

    def replay(self, x0: Tensor, channels: Tensor) -> Tensor:
        """Counts (B, J + 1, S) before, between and after the reactions ``channels`` (B, J); -1 does nothing."""
        steps = self.stoichiometry[channels.clamp_min(0)]
        steps = torch.where((channels >= 0).unsqueeze(-1), steps, 0.0)
        return torch.cat([x0.unsqueeze(1), x0.unsqueeze(1) + steps.cumsum(1)], dim=1)

    def start(self, x0: Tensor, trajectories: int | None = None) -> Tensor:
        """Check initial counts (S,) or (B, S) and give them a batch axis."""
        counts = torch.as_tensor(x0, device=self.rates.device).detach().to(torch.float64)
        if counts.ndim == 0 or counts.shape[-1] != len(self.species):
            raise ShapeError(
                f"x0 must end in {len(self.species)} species {list(self.species)}; got shape {tuple(counts.shape)}."
            )
        return repeat_start(whole("x0", counts), 1, trajectories)

    def master_equation(self, upper: Sequence[int]) -> tuple[Tensor, RateMatrix]:
        """Enumerate the states ``0 ≤ n ≤ upper`` and the rates between them.

        Reactions that would leave the box are left out, so probability is conserved; choose
        ``upper`` so large that they hardly matter.

        Parameters
        ----------
        upper : sequence of int
            Largest count of each species.

        Returns
        -------
        states : Tensor, shape (N, S)
            All states in lexicographic order.
        rates : RateMatrix
            Of size N.

        Raises
        ------
        scidyn.errors.DataError
            If there are more than 20,000 states.
        scidyn.errors.ShapeError
            If ``upper`` has not one entry per species.

        Examples
        --------
        >>> from scidyn.solvers import ReactionNetwork
        >>> states, rates = ReactionNetwork.parse({"0 -> A": 2.0, "A -> 0": 1.0}).master_equation([30])
        >>> round(float(rates.stationary() @ states[:, 0]), 6)
        2.0
        """
        if len(upper) != len(self.species):
            raise ShapeError(f"upper must have {len(self.species)} entries, one per species; got {len(upper)}.")
        tops = [integer("upper", u, at_least=0) for u in upper]
        sizes = torch.tensor(tops, device=self.rates.device) + 1
        total = int(sizes.prod())
        if total > 20_000:
            raise DataError(f"the box holds {total} states; a dense matrix needs 20,000 or fewer: lower upper.")
        grid = list(product(*(range(u + 1) for u in tops)))
        states = torch.tensor(grid, dtype=torch.float64, device=self.rates.device)
        target = states.unsqueeze(1) + self.stoichiometry
        inside = ((target >= 0) & (target < sizes)).all(-1) & (self.stoichiometry != 0).any(-1)
        weight = torch.cat([sizes.flip(0).cumprod(0).flip(0)[1:], sizes.new_ones(1)]).to(torch.float64)
        index = torch.where(inside, (target * weight).sum(-1), 0.0).long()
        flow = torch.where(inside, self.propensities(states), 0.0)
        rates = torch.zeros(total, total, dtype=flow.dtype, device=flow.device).scatter_add(1, index, flow)
        return states, RateMatrix.from_rates(rates)

"""The trainable part of neural and hybrid equations: a network in scaled coordinates, and states to shoot from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from scidyn.data import Batch, Scaling
from scidyn.nn import MLP
from scidyn.solvers import solve_ode
from scidyn.training import Loss, Windows

if TYPE_CHECKING:
    from scidyn.systems import System

__all__ = ["NetworkField", "ShootingObjective", "scale_batch"]

Mechanism = Callable[[Tensor, Tensor, Tensor], Tensor]


class NetworkField(nn.Module):
    """``dz/ds = m(s, z; θ) + network(z)`` in scaled coordinates, with a state at every time of the record.

    Parameters
    ----------
    nodes : Tensor, shape (trajectory, time, variable)
        Scaled states that windows start from.
    hidden : sequence of int
        Widths of the network.
    scaling : Scaling
        Back to physical units, for the mechanism.
    system : System, optional
        The mechanism.
    order : sequence of int, optional
        Variable that each state of the system is.
    theta : Tensor, shape (parameter,), optional
        Start of the mechanism's parameters, in coordinates of the fit.
    log_parameters : Tensor of bool, optional
        Parameters on the logarithm.
    solver : dict
        Options of the solver.
    generator : torch.Generator
        Source of the initial weights.
    """

    def __init__(
        self,
        nodes: Tensor,
        hidden: Sequence[int],
        scaling: Scaling,
        *,
        solver: dict[str, Any],
        generator: torch.Generator | None = None,
        activation: str = "tanh",
        system: System | None = None,
        order: Sequence[int] = (),
        theta: Tensor | None = None,
        log_parameters: Tensor | None = None,
    ) -> None:
        super().__init__()
        size = nodes.shape[-1]
        network = MLP(size, size, hidden=hidden, activation=activation, final_gain=0.1, generator=generator)
        self.network = network.to(nodes.dtype)
        self.nodes = nn.Parameter(nodes.clone())
        self.scaling, self.system, self.order, self.solver = scaling, system, list(order), solver
        self.back = [self.order.index(k) for k in range(size)] if system is not None else []
        self.theta = None if theta is None else nn.Parameter(theta.clone())
        self.log_parameters = log_parameters

    def parameters_of_mechanism(self) -> Tensor:
        """Parameters (parameter,) in physical units."""
        if self.theta is None or self.log_parameters is None:
            return self.nodes.new_zeros(0)
        flags = self.log_parameters
        return torch.where(flags, torch.where(flags, self.theta, 0.0).exp(), self.theta)

    def mechanism(self, s: Tensor, z: Tensor) -> Tensor:
        """The mechanism's part of dz/ds."""
        system, theta = self.system, self.parameters_of_mechanism()
        if system is None:
            return torch.zeros_like(z)

        def physical(t: Tensor, y: Tensor) -> Tensor:
            return system.vector_field(t, y[..., self.order], theta)[..., self.back]

        return self.scaling.scaled_vector_field(physical)(s, z)

    def forward(self, s: Tensor, z: Tensor) -> Tensor:
        """Evaluate dz/ds for z (batch, variable)."""
        return self.network(z) if self.system is None else self.mechanism(s, z) + self.network(z)

    def solve(self, z0: Tensor, s: Tensor, adjoint: str | None | bool = True) -> Tensor:
        """Scaled states (row, time, variable) from z0 (row, variable) at s[:, 0], s NaN-padded (row, time)."""
        options = dict(self.solver)
        wanted = options.pop("adjoint", None)
        if adjoint is None:
            options["adjoint"] = None
        elif isinstance(adjoint, str):
            options["adjoint"] = adjoint
        elif wanted is not None:
            options["adjoint"] = wanted
        relative = s - s[:, :1] if self.system is None else s
        first = relative[:1]
        same = bool(((relative == first) | (relative.isnan() & first.isnan())).all()) and not bool(first.isnan().any())
        stepping = {"stepping": "shared"} if same else {"stepping": "per_sample"}
        return solve_ode(self, z0, first[0] if same else relative, **options, **stepping, on_failure="return").y

    def weights(self) -> list[Tensor]:
        """Parameters of the network."""
        return list(self.network.parameters())


class ShootingObjective:
    """Mean squared error of the windows, plus penalties on weights and on the network's rate.

    Parameters
    ----------
    count : int
        Observed values, by which the weight penalty is divided.
    weight_decay : float
        Factor of the sum of squared weights.
    network_penalty : float
        Factor of the mean of the squared network over ``visited``.
    visited : Tensor, shape (state, variable)
        Scaled states at which the network is kept small.
    """

    def __init__(self, count: int, weight_decay: float, network_penalty: float, visited: Tensor) -> None:
        self.count, self.weight_decay = count, weight_decay
        self.network_penalty, self.visited = network_penalty, visited

    def __call__(self, model: NetworkField, windows: Windows) -> Loss:
        """Evaluate on windows of the scaled record."""
        batch = windows.batch
        z = model.solve(model.nodes[batch.index, windows.first], batch.t)
        difference = torch.where(batch.mask, z - batch.y, 0.0)
        parts = {"data": (difference**2).sum() / batch.mask.sum().clamp_min(1)}
        if self.weight_decay:
            squares = sum(((w**2).sum() for w in model.weights()), start=z.new_zeros(()))
            parts["weights"] = self.weight_decay * squares / self.count
        if self.network_penalty:
            parts["network"] = self.network_penalty * (model.network(self.visited) ** 2).mean()
        return Loss(sum(parts.values(), start=z.new_zeros(())), parts)


class ValidationObjective:
    """Training objective on windows; on the validation stretch the data misfit alone."""

    def __init__(self, training: ShootingObjective, validation: Windows | None) -> None:
        self.training, self.validation = training, validation

    def __call__(self, model: NetworkField, windows: Windows) -> Loss:
        """Evaluate; the validation batch is recognised by identity."""
        if windows is not self.validation:
            return self.training(model, windows)
        loss = self.training(model, windows).parts["data"]
        return Loss(loss, {"data": loss})


def scale_batch(batch: Batch, scaling: Scaling) -> Batch:
    """Times and values in scaled coordinates."""
    values = torch.where(batch.mask, batch.y, torch.tensor(1.0, dtype=batch.y.dtype, device=batch.y.device))
    return batch._replace(
        t=scaling.time(batch.t), y=torch.where(batch.mask, scaling.transform(values), torch.zeros_like(values))
    )

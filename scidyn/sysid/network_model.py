"""What neural and hybrid estimators share: training with a validation stretch, Laplace bands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scidyn._check.values import choice, integer, number
from scidyn.data import Batch, Scaling
from scidyn.errors import DataError, FitError, OptionError, SplitError
from scidyn.nn.mlp import ACTIVATIONS
from scidyn.sysid.bands import padded_times
from scidyn.sysid.estimator import Estimator, progress_of
from scidyn.sysid.network_field import NetworkField, scale_batch
from scidyn.sysid.network_training import Recipe, joined, polish, split_stretch, train
from scidyn.sysid.observations import Observations, observe
from scidyn.training import Progress

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["NetworkModel"]


class NetworkModel(Estimator):
    """Base of :class:`NeuralODE` and :class:`HybridODE`; see there."""

    hidden: Sequence[int]
    noise: str
    max_iterations: int
    learning_rate: float
    weight_decay: float
    validation: float
    refit: bool
    adjoint: str | None
    activation: str
    rtol: float
    network_penalty: float = 0.0

    # ---- fitting -------------------------------------------------------------------------------

    def _fit(self, ds: xr.Dataset, checkpoint: str | Path | None, progress: Progress | bool | None) -> None:
        self._check_options()
        obs = observe(ds, self.noise)
        self._check_record(obs)
        stretch = self._stretch(obs)
        self._forget()
        with progress_of(progress, f"fit {type(self).__name__}") as bar:
            scaling = Scaling.fit(self._training_part(ds, obs, stretch), log=obs.noise == "lognormal")
            whole = scale_batch(obs.batch, scaling)
            field = self._make_field(ds, obs, scaling, whole, bar)
            history = self._train(field, whole, stretch, bar, checkpoint)
        self._remember(obs, scaling, field, whole, stretch, history)

    def _check_options(self) -> None:
        widths = self.hidden
        if isinstance(widths, int | str) or not len(list(widths)):
            raise OptionError(f"hidden must be a sequence of widths such as (32, 32); got {widths!r}.")
        for width in widths:
            integer("a width in hidden", width, at_least=1)
        choice("activation", self.activation, ACTIVATIONS)
        choice("adjoint", self.adjoint, (None, "discrete", "direct"))
        integer("max_iterations", self.max_iterations, at_least=1)
        integer("seed", self.seed, at_least=0)
        number("learning_rate", self.learning_rate, above=0)
        number("weight_decay", self.weight_decay, at_least=0)
        number("network_penalty", self.network_penalty, at_least=0)
        number("validation", self.validation, at_least=0, below=1)
        choice("refit", self.refit, (True, False))
        number("rtol", self.rtol, above=0, at_most=0.1)
        number("confidence", self.confidence, above=0, below=1)

    def _check_record(self, obs: Observations) -> None:
        per_row = obs.batch.mask.flatten(1).sum(dim=1)
        least = 4 * len(obs.names)
        short = (per_row < least).nonzero().flatten().tolist()
        if short:
            raise DataError(
                f"trajectory {short[0]} has {int(per_row[short[0]])} observed values; {type(self).__name__} needs at "
                f"least {least} ({len(obs.names)} variables): drop it or observe more."
            )

    def _stretch(self, obs: Observations) -> Tensor:
        """Number of training times of each trajectory; the rest of it is for validation."""
        counts = torch.isfinite(obs.batch.t).sum(dim=1)
        if self.validation == 0:
            return counts
        held = (counts * self.validation).round().to(torch.int64)
        train = counts - held
        columns = torch.arange(obs.batch.t.shape[1])
        later = (columns >= train.unsqueeze(1)) & (columns < counts.unsqueeze(1))
        observed = int((obs.batch.mask & later.unsqueeze(-1)).sum())
        if int(held.max()) < 1 or observed == 0:
            raise SplitError(
                f"validation={self.validation:g} leaves {int(held.max())} times with {observed} observed values for "
                f"validation of {int(counts.max())}; take a larger share, or validation=0 for no early stopping."
            )
        if int(train.min()) < 3:
            raise SplitError(
                f"validation={self.validation:g} leaves {int(train.min())} times to train on; take a smaller share."
            )
        return train

    def _training_part(self, ds: xr.Dataset, obs: Observations, stretch: Tensor) -> xr.Dataset:
        """The record without its validation stretch, for the constants of the scaling."""
        columns = torch.arange(obs.batch.t.shape[1])
        keep = (columns < stretch.unsqueeze(1)).unsqueeze(-1) & obs.batch.mask
        values = {n: torch.where(keep[..., k], obs.batch.y[..., k], torch.nan) for k, n in enumerate(obs.names)}
        return obs.dataset(values, obs.units)

    def _nodes(self, whole: Batch) -> Tensor:
        """Scaled states at every time, read off the data with gaps filled linearly."""
        nodes = torch.zeros_like(whole.y)
        for row in range(whole.t.shape[0]):
            t = whole.t[row].numpy()
            for k in range(whole.y.shape[2]):
                seen = whole.mask[row, :, k].numpy()
                if seen.any():
                    filled = np.interp(t, t[seen], whole.y[row, :, k].numpy()[seen])
                    nodes[row, :, k] = torch.as_tensor(np.nan_to_num(filled))
        return nodes

    def _solver(self) -> dict[str, Any]:
        return {"rtol": self.rtol, "atol": self.rtol, "max_steps": 1000, "adjoint": self.adjoint}

    def _make_field(self, ds: xr.Dataset, obs: Observations, scaling: Scaling, whole: Batch, bar: Progress) -> Any:
        generator = torch.Generator().manual_seed(self.seed)
        return NetworkField(
            self._nodes(whole),
            tuple(self.hidden),
            scaling,
            solver=self._solver(),
            generator=generator,
            activation=self.activation,
        )

    def _train(
        self,
        field: NetworkField,
        whole: Batch,
        stretch: Tensor,
        bar: Progress,
        checkpoint: str | Path | None,
    ) -> xr.Dataset:
        """Choose the weights on the validation stretch, then go on from them on the whole record."""
        recipe = Recipe(self.max_iterations, self.learning_rate, self.weight_decay, self.network_penalty, self.seed)
        folder = None if checkpoint is None else Path(checkpoint)
        part, validation = split_stretch(whole, stretch)
        visited = field.nodes.detach()[torch.isfinite(whole.t)].clone()
        bar.stage("train")
        result, history = train(
            field,
            part,
            validation,
            recipe,
            visited=visited,
            bar=bar,
            checkpoint=None if folder is None else folder / "chosen",
        )
        before = history.sizes["iteration"] - result.history.sizes["iteration"]
        self._training = {"best_iteration": before + result.best_iteration, "stopped_by": result.stopped_by}
        if not self.refit or validation is None:
            return history
        bar.stage("fit the whole record")
        again = polish(
            field,
            whole,
            recipe,
            visited=visited,
            bar=bar,
            checkpoint=None if folder is None else folder / "refit",
        )
        self._training["refit_iterations"] = again.sizes["iteration"]
        return joined(history, again)

    # ---- results -------------------------------------------------------------------------------

    def _remember(
        self,
        obs: Observations,
        scaling: Scaling,
        field: NetworkField,
        whole: Batch,
        stretch: Tensor,
        history: xr.Dataset,
    ) -> None:
        self._remember_record(obs)
        self._scaling, self._field, self._train_times = scaling, field, stretch
        self.history_ = history
        with torch.no_grad():
            fitted = field.solve(field.nodes[:, 0], whole.t, adjoint=None)
        if not bool(torch.isfinite(fitted[torch.isfinite(whole.t)]).all()):
            raise FitError("The fitted equation cannot be solved over the record; train with a smaller learning rate.")
        self._factor, self._variance = self._laplace(whole, fitted)
        scale = torch.tensor(scaling.scale, dtype=whole.y.dtype)
        self.noise_std_ = self._per_variable(self._variance.sqrt() * scale)
        self._remember_fit(obs)
        self.provenance_ = {**self._provenance(obs), "training": self._training}

    def _uncertain(self) -> list[Tensor]:
        """Tensors that the Laplace approximation covers: weights, mechanism, initial states."""
        theta = [] if self._field.theta is None else [self._field.theta]
        return [*self._field.weights(), *theta, self._field.nodes]

    def _flat(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """Gradient rows without the nodes that are no initial state."""
        parts = []
        for tensor, gradient in zip(self._uncertain(), gradients, strict=True):
            full = torch.zeros_like(tensor) if gradient is None else gradient
            parts.append((full[:, 0] if tensor is self._field.nodes else full).flatten())
        return torch.cat(parts)

    def _rows(self, outputs: Tensor) -> Tensor:
        """Jacobian (output, uncertain) of a flat tensor that has a graph."""
        tensors = self._uncertain()
        return torch.stack(
            [
                self._flat(torch.autograd.grad(value, tensors, retain_graph=True, allow_unused=True))
                for value in outputs.unbind()
            ]
        )

    def _laplace(self, whole: Batch, fitted: Tensor) -> tuple[Tensor, Tensor]:
        """Square root ``R`` of the posterior precision in units of the noise, and the noise variances.

        ``RᵀR = Σ J_iᵀJ_i/σ_i² + penalties``: a linearised Laplace approximation whose prior is the penalty
        that the fit used.
        """
        mask = whole.mask
        misfit = torch.where(mask, fitted - whole.y, 0.0) ** 2
        count = mask.sum(dim=(0, 1)).clamp_min(1)
        variance = (misfit.sum(dim=(0, 1)) / count).clamp_min(1e-16)
        z = self._field.solve(self._field.nodes[:, 0], whole.t, adjoint="direct")
        rows = self._rows(z[mask])
        sigma = variance.sqrt().expand(mask.shape)[mask].unsqueeze(1)
        prior = self._prior(whole, float(variance.mean()), int(mask.sum()))
        # effective number of parameters: what the data add to the penalties
        data = (rows / sigma).T @ (rows / sigma)
        precision = data + prior
        effective = float(torch.linalg.solve(precision, data).diagonal().sum())
        total = int(mask.sum())
        inflate = total / max(total - effective, 0.1 * total)
        return torch.linalg.cholesky((data + prior) / inflate).contiguous(), variance * inflate

    def _prior(self, whole: Batch, variance: float, count: int) -> Tensor:
        """Precision of the penalties, per noise variance."""
        sizes = [t.numel() for t in self._field.weights()]
        theta = 0 if self._field.theta is None else self._field.theta.numel()
        initial = self._field.nodes[:, 0].numel()
        decay = max(self.weight_decay, 1e-6) / variance
        diagonal = torch.cat(
            [torch.full((sum(sizes),), decay), torch.full((theta,), 1e-8), torch.full((initial,), 1e-2)]
        ).to(whole.y.dtype)
        prior = torch.diag(diagonal)
        if self.network_penalty:
            visited = self._field.nodes.detach()[torch.isfinite(whole.t)]
            rows = self._rows(self._field.network(visited).flatten())
            prior = prior + self.network_penalty * count / len(rows) / variance * rows.T @ rows
        return prior

    # ---- prediction ----------------------------------------------------------------------------

    def _predict(self, t: Tensor, interval: float | None) -> dict[str, Tensor]:
        grid, column, valid = padded_times(self._starts, t)
        s = self._scaling.time(grid)
        field = self._field
        with torch.set_grad_enabled(interval is not None):
            z = field.solve(field.nodes[:, 0], s, adjoint="direct" if interval is not None else None)
            index = column.unsqueeze(-1).expand(-1, -1, z.shape[-1])
            z = torch.where(valid.unsqueeze(-1), z.gather(1, index), torch.nan)
        mean = z.detach()
        y = self._scaling.inverse(mean)
        values = {n: y[..., k] for k, n in enumerate(self.variables_)}
        if interval is None:
            return values
        known = torch.isfinite(mean)
        spread = torch.zeros_like(mean)
        if bool(known.any()):
            rows = self._rows(z[known])
            spread[known] = torch.linalg.solve_triangular(self._factor, rows.T, upper=False).square().sum(dim=0)
        deviation = (spread + self._variance).sqrt() * math.sqrt(2) * float(torch.erfinv(torch.tensor(interval)))
        for side, sign in (("lower", -1), ("upper", 1)):
            edge = self._scaling.inverse(mean + sign * deviation)
            values |= {f"{n}_{side}": edge[..., k] for k, n in enumerate(self.variables_)}
        return values

    def _initial_states(self) -> Tensor:
        return self._scaling.inverse(self._field.nodes[:, 0].detach())

    def _simulate(self, y0: Tensor, t: Tensor) -> Tensor:
        from scidyn.solvers import solve_ode

        s = self._scaling.time(t)
        z0 = self._scaling.transform(y0.to(self._field.nodes.dtype))
        options = {**self._solver(), "adjoint": None}
        with torch.no_grad():
            z = solve_ode(self._field, z0, s, stepping="per_sample", **options).y
        return self._scaling.inverse(z)

    def vector_field(self, t: Any, y: Any) -> Tensor:
        """Evaluate dy/dt of the fitted equation in physical units; shapes as in :class:`Estimator`."""
        self._require_fitted("vector_field")
        state = torch.as_tensor(y, dtype=self._field.nodes.dtype)
        physical = self._scaling.physical_vector_field(self._field)
        with torch.no_grad():
            return physical(torch.as_tensor(t, dtype=state.dtype), state)

    # ---- files ---------------------------------------------------------------------------------

    def _extra_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        tensors = {f"field/{k}": v for k, v in self._field.state_dict().items()}
        tensors |= {"factor": self._factor, "variance": self._variance, "train_times": self._train_times}
        return {"scaling": self._scaling.to_config(), "training": self._training}, tensors

    def _restore_extra(self, values: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self._scaling = Scaling.from_config(values["scaling"])
        self._training = values["training"]
        self._factor, self._variance = tensors["factor"], tensors["variance"]
        self._train_times = tensors["train_times"]
        state = {k.removeprefix("field/"): v for k, v in tensors.items() if k.startswith("field/")}
        self._field = self._empty_field(state["nodes"], values)
        self._field.load_state_dict(state)

    def _empty_field(self, nodes: Tensor, values: dict[str, Any]) -> NetworkField:
        return NetworkField(nodes, tuple(self.hidden), self._scaling, solver=self._solver(), activation=self.activation)

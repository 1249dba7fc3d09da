"""The one fit loop: stages of optimisers, early stopping, checkpoints, resume after a kill."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from scidyn._check.values import integer
from scidyn.errors import ArtifactError, FitError, OptionError
from scidyn.training.checkpoint import read_checkpoint, write_checkpoint
from scidyn.training.progress import Progress
from scidyn.training.stages import LBFGS, Adam
from scidyn.training.stopping import TRY_AGAIN, StopRequest, stop_requests

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["FitResult", "Loss", "fit"]

PATIENCE_WITH_NAN = 20
LINE_SEARCH = 25
"""Most evaluations in one line search."""
SMALLEST_CHANGE = 1e-15
"""Where a line search gives up; the stage's tolerance on the gradient decides before."""


class Loss(NamedTuple):
    """What an objective returns.

    Attributes
    ----------
    total : Tensor, shape ()
        What is minimised.
    parts : dict of str to Tensor
        Its summands, for people.
    """

    total: Tensor
    parts: dict[str, Tensor]


class FitResult(NamedTuple):
    """What a fit did.

    Attributes
    ----------
    history : xarray.Dataset
        ``loss``, ``validation`` (NaN where it was not evaluated) and ``stage`` over ``iteration``.
    best_iteration : int
        Iteration whose parameters the model now has.
    stopped_by : str
        "iterations", "patience" or "tolerance": what ended the last stage.
    """

    history: xr.Dataset
    best_iteration: int
    stopped_by: str


def fit(
    model: nn.Module,
    objective: Callable[[nn.Module, Any], Loss],
    batches: Any,
    *,
    stages: Sequence[Adam | LBFGS],
    validation: Any = None,
    validate_every: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 50,
    resume: bool = True,
) -> FitResult:
    """Minimise an objective over the parameters of a module, in place.

    The model ends with the parameters of the best validation loss, or the last ones without validation.
    A fit that was killed goes on from its checkpoint and ends with the same bits.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place.
    objective : callable
        ``(model, batch) -> Loss``.
    batches : object or callable
        One batch for all steps, or ``(step, generator) -> batch``.
    stages : sequence of Adam or LBFGS
        Run in order.
    validation : object, optional
        A batch for early stopping, never trained on.
    validate_every : int
        Iterations between evaluations of the validation loss.
    seed : int
        Seed of the generator that ``batches`` is given.
    progress : Progress, optional
        Told how far the fit is.
    checkpoint : str or Path, optional
        Folder to keep the state in. With it, SIGTERM and SIGUSR1 end the fit after the running step with
        a checkpoint and the exit code 75.
    checkpoint_every : int
        Iterations between checkpoints.
    resume : bool
        Go on from ``checkpoint`` if it is there; False starts anew.

    Returns
    -------
    FitResult

    Raises
    ------
    scidyn.errors.FitError
        If the loss is not finite from the start, or stays not finite.
    scidyn.errors.ArtifactError
        If the checkpoint is damaged or belongs to another fit.

    Examples
    --------
    >>> import torch
    >>> from scidyn.training import Adam, LBFGS, Loss, fit
    >>> model = torch.nn.Linear(1, 1, dtype=torch.float64)
    >>> x = torch.linspace(0, 1, 8, dtype=torch.float64)[:, None]
    >>> def objective(model, batch):
    ...     loss = ((model(batch[0]) - batch[1]) ** 2).mean()
    ...     return Loss(loss, {"mse": loss})
    >>> result = fit(model, objective, (x, 2 * x + 1), stages=[Adam(20, 0.1), LBFGS(20)])
    >>> round(model.weight.item(), 4), result.history.sizes["iteration"] > 20
    (2.0, True)
    """
    integer("validate_every", validate_every, at_least=1)
    integer("checkpoint_every", checkpoint_every, at_least=1)
    if not stages or not all(isinstance(s, Adam | LBFGS) for s in stages):
        raise OptionError(f"stages must hold Adam(...) or LBFGS(...); got {stages!r}.")
    loop = _Loop(model, objective, batches, list(stages), validation, validate_every, seed)
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and resume and path.exists():
        loop.restore(read_checkpoint(path), path)
    total = sum(s.iterations for s in stages)
    with contextlib.nullcontext(StopRequest()) if path is None else stop_requests() as stop:
        _run(loop, path, checkpoint_every, total, stop, progress)
    return loop.result()


def _run(
    loop: _Loop, path: Path | None, checkpoint_every: int, total: int, stop: StopRequest, progress: Progress | None
) -> None:
    """Advance to the end, or to the step in which the process is asked to stop."""
    while not loop.finished:
        loop.advance()
        if path is not None and (stop or loop.step % checkpoint_every == 0 or loop.finished):
            write_checkpoint(path, loop.state())
        if stop and not loop.finished:
            print(f"{stop.received}: stopped at step {loop.step}; run again to go on from {path}", file=sys.stderr)
            raise SystemExit(TRY_AGAIN)
        if progress is not None and loop.losses:
            progress.advance(loop.step / max(total, 1), f"loss {loop.losses[-1]:.3g}")


class _Loop:
    """State of a running fit; everything that decides the next step is in :meth:`state`."""

    def __init__(
        self,
        model: nn.Module,
        objective: Callable[[nn.Module, Any], Loss],
        batches: Any,
        stages: list[Adam | LBFGS],
        validation: Any,
        validate_every: int,
        seed: int,
    ) -> None:
        self.model, self.objective, self.batches = model, objective, batches
        self.stages, self.validation, self.validate_every, self.seed = stages, validation, validate_every, seed
        self.generator = torch.Generator().manual_seed(seed)
        self.stage, self.within, self.step = 0, 0, 0
        self.losses: list[float] = []
        self.validations: list[float] = []
        self.stage_of: list[int] = []
        self.best_loss, self.best_iteration, self.unusable = math.inf, 0, 0
        self.since = 0
        self.best: dict[str, Tensor] = _copy(model.state_dict())
        self.stopped_by = "iterations"
        self.optimiser = self._optimiser()

    @property
    def finished(self) -> bool:
        """True when no stage is left."""
        return self.stage >= len(self.stages)

    def _optimiser(self) -> torch.optim.Optimizer | None:
        if self.finished:
            return None
        stage = self.stages[self.stage]
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        if isinstance(stage, Adam):
            return torch.optim.Adam(parameters, lr=stage.learning_rate)
        return torch.optim.LBFGS(
            parameters,
            lr=1.0,
            max_iter=1,
            max_eval=LINE_SEARCH,
            line_search_fn="strong_wolfe",
            tolerance_grad=0.0,
            tolerance_change=SMALLEST_CHANGE,
        )

    def advance(self) -> None:
        """Take one step, validate, and go to the next stage when this one is over."""
        stage = self.stages[self.stage]
        if self.within >= stage.iterations:
            self._next("iterations")
            return
        batch = self.batches(self.step, self.generator) if callable(self.batches) else self.batches
        loss, gradient = self._step(stage, batch)
        usable = math.isfinite(loss)
        self.unusable = 0 if usable else self.unusable + 1
        if not usable and (self.step == 0 or self.unusable > PATIENCE_WITH_NAN):
            raise FitError(
                f"The loss is {loss} at iteration {self.step}{'' if self.step else ', the first one'}; "
                "start from other values or a smaller learning rate."
            )
        self.losses.append(loss)
        self.stage_of.append(self.stage)
        self.step, self.within = self.step + 1, self.within + 1
        self._validate()
        if isinstance(stage, LBFGS) and gradient <= stage.tolerance:
            self._next("tolerance")
        elif stage.patience is not None and self.validation is not None and self.since >= stage.patience:
            self._next("patience")

    def _next(self, reason: str) -> None:
        self.stopped_by, self.stage, self.within, self.since = reason, self.stage + 1, 0, 0
        if self.validation is not None and math.isfinite(self.best_loss):
            self.model.load_state_dict(self.best)
        self.optimiser = self._optimiser()

    def _step(self, stage: Adam | LBFGS, batch: Any) -> tuple[float, float]:
        """Loss before the step, and the largest entry of its gradient (0 if a line search found no better point)."""
        optimiser = self.optimiser
        if optimiser is None:
            raise FitError("the fit has no stage left.")
        seen: list[tuple[float, float]] = []
        before = _copy(self.model.state_dict())

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = self.objective(self.model, batch).total
            if loss.requires_grad:
                loss.backward()
            grads = [p.grad for p in self.model.parameters() if p.grad is not None]
            largest = max((float(g.abs().max()) for g in grads if g.numel()), default=0.0)
            seen.append((float(loss.detach()), largest))
            return loss

        if isinstance(stage, LBFGS):
            optimiser.step(closure)  # type: ignore[arg-type]  # torch's stubs say float, its code wants a Tensor
        else:
            if stage.schedule == "cosine":
                for group in optimiser.param_groups:
                    group["lr"] = stage.learning_rate * 0.5 * (1 + math.cos(math.pi * self.within / stage.iterations))
            closure()
            if all(math.isfinite(v) for v in seen[-1]):
                if stage.clip is not None:
                    torch.nn.utils.clip_grad_norm_(self.model.parameters(), stage.clip)
                optimiser.step()
        if not all(bool(torch.isfinite(p).all()) for p in self.model.parameters()):
            self.model.load_state_dict(before)
            self.optimiser = self._optimiser()
            return math.nan, math.inf
        after = self.model.state_dict()
        still = isinstance(stage, LBFGS) and all(torch.equal(before[k], after[k]) for k in before)
        return seen[0][0], 0.0 if still else seen[0][1]

    def _validate(self) -> None:
        last = self.within >= self.stages[self.stage].iterations
        if self.validation is None:
            self.validations.append(math.nan)
            self.best_iteration = self.step
            return
        if self.step % self.validate_every and not last:
            self.validations.append(math.nan)
            self.since += 1
            return
        with torch.no_grad():
            value = float(self.objective(self.model, self.validation).total)
        self.validations.append(value)
        if value < self.best_loss:
            self.best_loss, self.best_iteration, self.since = value, self.step, 0
            self.best = _copy(self.model.state_dict())
        else:
            self.since += 1

    def result(self) -> FitResult:
        """End the fit: put the best parameters into the model."""
        import xarray as xr

        if self.validation is not None and math.isfinite(self.best_loss):
            self.model.load_state_dict(self.best)
        history = xr.Dataset(
            {
                "loss": ("iteration", torch.tensor(self.losses, dtype=torch.float64).numpy()),
                "validation": ("iteration", torch.tensor(self.validations, dtype=torch.float64).numpy()),
                "stage": ("iteration", torch.tensor(self.stage_of, dtype=torch.int64).numpy()),
            },
            coords={"iteration": list(range(len(self.losses)))},
        )
        return FitResult(history, self.best_iteration, self.stopped_by)

    # ---- checkpoints ---------------------------------------------------------------------------

    def _fingerprint(self) -> dict[str, Any]:
        shapes = {k: list(v.shape) for k, v in self.model.state_dict().items()}
        return {"stages": [repr(s) for s in self.stages], "seed": self.seed, "shapes": shapes}

    def state(self) -> dict[str, Any]:
        """Everything that decides the rest of the fit."""
        return {
            "fit": self._fingerprint(),
            "model": self.model.state_dict(),
            "best": self.best,
            "optimiser": None if self.optimiser is None else self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "counters": [self.stage, self.within, self.step, self.best_iteration, self.unusable, self.since],
            "best_loss": self.best_loss,
            "stopped_by": self.stopped_by,
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "validations": torch.tensor(self.validations, dtype=torch.float64),
            "stage_of": list(self.stage_of),
        }

    def restore(self, state: dict[str, Any], path: Path) -> None:
        """Invert :meth:`state`."""
        if state["fit"] != self._fingerprint():
            raise ArtifactError(f"{path} is the checkpoint of another fit; name another folder, or pass resume=False.")
        self.model.load_state_dict(state["model"])
        self.best = state["best"]
        self.generator.set_state(state["generator"])
        self.stage, self.within, self.step, self.best_iteration, self.unusable, self.since = state["counters"]
        self.best_loss, self.stopped_by = float(state["best_loss"]), state["stopped_by"]
        self.losses, self.validations = state["losses"].tolist(), state["validations"].tolist()
        self.stage_of = [int(i) for i in state["stage_of"]]
        self.optimiser = self._optimiser()
        if self.optimiser is not None:
            self.optimiser.load_state_dict(state["optimiser"])


def _copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in state.items()}

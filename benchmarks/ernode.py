"""Evaluations at prediction of a neural ODE classifier trained with and without penalties on hard steps.

Images of handwritten digits (scikit-learn's ``load_digits``, 8 x 8), z' = tanh(W2 [tanh(W1 [z; t]); t]) on [0, 1]
with 50 hidden units, a linear layer to ten classes; Tsit5 with shared steps, rtol = 1.2e-5,
atol = 1e-5. Run by command::

    python benchmarks/ernode.py --seeds 5
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch
from torch import Tensor, nn

from scidyn.solvers import LocalError, Stiffness, solve_ode
from scidyn.training import ExponentialDecay

ITERATIONS, BATCH, RATE = 250, 128, 5e-3
RTOL, ATOL = 1.2e-5, 1e-5  # single precision resolves no smaller relative tolerance
DECAYS = {"100 to 10": ExponentialDecay(100.0, 10.0, ITERATIONS), "10 to 1": ExponentialDecay(10.0, 1.0, ITERATIONS)}
VARIANTS = (
    "vanilla",
    "ERNODE mean(E h), 100 to 10",
    "ERNODE mean(E h), 10 to 1",
    "SRNODE mean(S / 3.5068), 0.3",
    "LRNODE error, uniform time, 100 to 10",
    "LRNODE error, accepted step, 100 to 10",
    "LRNODE error, initial step, 100 to 10",
)


class Classifier(nn.Module):
    """A neural ODE on the pixels and a linear layer on its end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(65, 50), nn.Linear(51, 64), nn.Linear(64, 10)

    def rate(self, t: Tensor, z: Tensor) -> Tensor:
        when = t.expand(len(z), 1)
        hidden = torch.tanh(self.first(torch.cat([z, when], dim=1)))
        return torch.tanh(self.second(torch.cat([hidden, when], dim=1)))

    def solve(self, x: Tensor, **options):
        parameters = [*self.first.parameters(), *self.second.parameters()]
        return solve_ode(self.rate, x, [0.0, 1.0], rtol=RTOL, atol=ATOL, dt0=0.1, params=parameters, **options)


def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """1,400 images to train on and 397 to test, split once for all seeds."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = torch.tensor(digits.data / 16.0, dtype=torch.float32), torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order[:1400]], y[order[:1400]], x[order[1400:]], y[order[1400:]]


def penalty(variant: str, step: int) -> tuple[object, float, dict[str, str] | None]:
    """What to ask of the solve, and the weight and options of a local penalty."""
    decay = DECAYS.get(variant.rsplit(", ", 1)[-1])
    if variant.startswith("SRNODE"):
        return Stiffness(weight=1.0 / 3.5068), 0.3, None
    if decay is not None and variant.startswith("ERNODE"):
        return LocalError(), decay(step), None
    if decay is not None:
        options = {"when": "uniform" if "uniform" in variant else "accepted"}
        return None, decay(step), options | {"step": "initial" if "initial" in variant else "accepted"}
    return None, 0.0, None


def trained(variant: str, seed: int, images: tuple[Tensor, ...]) -> tuple[float, int, float]:
    """Test accuracy, evaluations at prediction and seconds of training."""
    torch.manual_seed(seed)
    model, generator = Classifier(), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    x, y, x_test, y_test = images
    begin = time.perf_counter()
    for step in range(ITERATIONS):
        chosen = torch.randperm(len(x), generator=generator)[:BATCH]
        regularize, weight, local = penalty(variant, step)
        solution = model.solve(x[chosen], regularize=regularize)
        loss = nn.functional.cross_entropy(model.out(solution.y[:, -1]), y[chosen])
        if local is not None:
            loss = loss + weight * solution.local_regulariser("error", generator=generator, **local)
        elif solution.reg is not None:
            loss = loss + weight * solution.reg.value
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    seconds = time.perf_counter() - begin
    with torch.no_grad():
        solution = model.solve(x_test, adjoint=None)
        accuracy = (model.out(solution.y[:, -1]).argmax(dim=1) == y_test).double().mean().item()
    return accuracy, solution.stats.nfe, seconds


def main() -> None:
    """Train every variant with every seed, one after the other, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = data()
    print("| penalty | test accuracy | evaluations at prediction | ratio | training, s |\n|---|---|---|---|---|")
    results: dict[str, list[tuple[float, int, float]]] = {variant: [] for variant in VARIANTS}
    for seed in range(options.seeds):
        for variant in VARIANTS:
            results[variant].append(trained(variant, seed, images))
            print(f"{variant}, seed {seed}: {results[variant][-1]}", file=sys.stderr)
    base = statistics.mean(r[1] for r in results["vanilla"])
    for variant, rows in results.items():
        accuracy, work, seconds = zip(*rows, strict=True)
        spread = statistics.stdev(accuracy) if len(accuracy) > 1 else 0.0
        print(
            f"| {variant} | {statistics.mean(accuracy):.3f} ± {spread:.3f} | "
            f"{', '.join(map(str, work))} | {statistics.mean(work) / base:.2f} | {statistics.median(seconds):.1f} |"
        )


if __name__ == "__main__":
    main()

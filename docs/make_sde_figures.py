"""Draw the figures of the guide on stochastic models: strong and weak convergence."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import torch

from scidyn.solvers import BrownianIncrements, solve_sde

F64 = torch.float64
FINE = 1024
STEPS = (8, 16, 32, 64, 128)


def strong_errors(drift, diffusion, exact, methods, noise, calculus):
    y0 = torch.ones(1000, 1, dtype=F64)
    path = BrownianIncrements(torch.linspace(0, 1, FINE + 1, dtype=F64), y0.shape, seed=0, levels="WH", dtype=F64)
    target = exact(path)
    found = {}
    for method in methods:
        kind = {"noise": noise, "calculus": calculus, "method": method, "adjoint": None}
        ends = [solve_sde(drift, diffusion, y0, [0.0, 1.0], bm=path.coarsen(FINE // n), **kind).y[:, -1] for n in STEPS]
        found[method] = [(y - target).square().mean().sqrt().item() for y in ends]
    return found


def draw(axis, found, title, orders):
    h = [1 / n for n in STEPS[: len(next(iter(found.values())))]]
    for (name, errors), marker in zip(found.items(), "osD^v<>", strict=False):
        axis.loglog(h, errors, marker=marker, markersize=4, label=name)
    largest = max(max(e) for e in found.values())
    for order in orders:
        axis.loglog(h, [largest * (x / h[0]) ** order for x in h], "k:", linewidth=0.8)
        axis.annotate(f"{order:g}", (h[-1], largest * (h[-1] / h[0]) ** order), fontsize=8)
    axis.set(title=title, xlabel="step h")
    axis.minorticks_off()
    axis.set_xticks(h[::2], [f"1/{round(1 / x)}" for x in h[::2]])
    axis.legend(fontsize=7, frameon=False)


def weak_errors(methods, mu=1.0, sigma=0.3, rows=200_000):
    found = {}
    for method in methods:
        errors = []
        for n in STEPS[:3]:
            path = BrownianIncrements(torch.linspace(0, 1, n + 1, dtype=F64), (rows, 1), seed=n, levels="WH", dtype=F64)
            y = solve_sde(
                lambda t, y: mu * y,
                lambda t, y: sigma * y,
                torch.ones(rows, 1, dtype=F64),
                [0.0, 1.0],
                method=method,
                bm=path,
                adjoint=None,
            ).y[:, -1]
            errors.append(abs((y - torch.exp(mu - sigma**2 / 2 + sigma * path.path()[-1])).mean().item()))
        found[method] = errors
    return found


def main() -> None:
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.4), layout="constrained")
    mu, s = 0.5, 0.5
    ito = strong_errors(
        lambda t, y: mu * y,
        lambda t, y: s * y,
        lambda p: torch.exp(mu - s * s / 2 + s * p.path()[-1]),
        ("euler", "milstein", "sriw1"),
        "diagonal",
        "ito",
    )
    draw(axes[0], ito, "Itô, diagonal noise", (0.5, 1, 1.5))
    strat = strong_errors(
        lambda t, y: mu * y,
        lambda t, y: s * y,
        lambda p: torch.exp(mu + s * p.path()[-1]),
        ("euler_heun", "heun", "midpoint", "spark", "reversible_heun"),
        "diagonal",
        "stratonovich",
    )
    draw(axes[1], strat, "Stratonovich, diagonal noise", (1,))

    def drift(t, y):
        return -torch.sin(y)

    def diffusion(t, y):
        return (1.5 + 0.3 * t) * torch.ones_like(y)

    def fine(path):
        y0 = torch.ones(1000, 1, dtype=F64)
        options = {"noise": "additive", "method": "shark", "bm": path, "adjoint": None}
        return solve_sde(drift, diffusion, y0, [0.0, 1.0], **options).y[:, -1]

    additive = strong_errors(drift, diffusion, fine, ("euler", "sea", "sra1", "shark"), "additive", "ito")
    draw(axes[2], additive, "additive noise", (1, 1.5))
    draw(axes[3], weak_errors(("euler", "milstein", "platen", "sriw1")), "weak, Itô", (1, 2))
    axes[0].set_ylabel("strong error at t = 1")
    axes[3].set_ylabel("error of the mean at t = 1")
    figure.savefig(Path(__file__).parent / "_static" / "sde-convergence.png", dpi=130)


if __name__ == "__main__":
    main()

"""Brownian paths against their laws: moments, Chen's identity, additivity, areas, reproducibility."""

import itertools
import math

import pytest
import torch
from scipy import stats

from scidyn.errors import OptionError, ShapeError, TimeGridError
from scidyn.solvers import BrownianIncrements, BrownianTree, Noise, join, levy_area
from scidyn.solvers.brownian import hashing

F64 = torch.float64
LEVELS = ("W", "WH", "WHK")
VARIANCE = (1.0, 1 / 12, 1 / 720)


def close(a: Noise, b: Noise, tolerance: float = 1e-10) -> bool:
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None]
    return all(torch.allclose(x, y, atol=tolerance, rtol=0) for x, y in pairs)


def by_quadrature(w: torch.Tensor) -> Noise:
    """W, H and K of a finely sampled path (fine steps first) by the trapezoidal rule, from their definitions."""
    n = w.shape[0] - 1
    theta = torch.linspace(0, 1, n + 1, dtype=w.dtype).view(-1, 1)
    bridge = w - theta * w[-1]
    mean = torch.trapezoid(bridge, dx=1 / n, dim=0)
    return Noise(w[-1], mean, torch.trapezoid(bridge * (0.5 - theta), dx=1 / n, dim=0))


def test_join_agrees_with_the_definition_by_integrals():
    steps = torch.randn(3000, 50, generator=torch.Generator().manual_seed(0), dtype=F64) / math.sqrt(3000)
    w = torch.cat([torch.zeros(1, 50, dtype=F64), steps.cumsum(0)])
    cut = 900
    first, second = by_quadrature(w[: cut + 1]), by_quadrature(w[cut:] - w[cut])
    joined = join(first, second, cut / 3000, 1 - cut / 3000)
    assert close(joined, by_quadrature(w), 2e-4)


@pytest.mark.parametrize("levels", LEVELS)
def test_increments_have_the_right_moments_and_do_not_correlate(levels):
    noise = BrownianIncrements([0.0, 0.3, 1.0], (100_000, 1), seed=3, levels=levels, dtype=F64).block(0, 2)
    for i, h in enumerate((0.3, 0.7)):
        for x, v in zip(noise, VARIANCE, strict=False):
            if x is not None:
                assert abs(x[i].mean()) < 4 * math.sqrt(v * h / 1e5)
                assert x[i].var().item() == pytest.approx(v * h, rel=4 * math.sqrt(2 / 1e5))
    known = torch.stack([x[i, :, 0] for x in noise if x is not None for i in (0, 1)])
    off = torch.corrcoef(known) - torch.eye(len(known), dtype=F64)
    assert off.abs().max() < 4.5 / math.sqrt(1e5)


def test_increments_can_be_drawn_again_in_any_order_and_pieces():
    grid = torch.linspace(0, 1, 201, dtype=F64)
    noise = BrownianIncrements(grid, (5, 2), seed=1, levels="WHK", dtype=F64)
    whole = noise.block(0, 200)
    other = BrownianIncrements(grid, (5, 2), seed=1, levels="WHK", dtype=F64)
    late = other.block(130, 200)
    assert all(torch.equal(x[130:], y) for x, y in zip(whole[:3], late[:3], strict=True))
    assert torch.equal(other.block(60, 70).W, whole.W[60:70])
    assert torch.equal(other.with_levels("W").block(60, 70).W, whole.W[60:70])
    assert not torch.equal(BrownianIncrements(grid, (5, 2), seed=2, dtype=F64).block(0, 9).W, whole.W[:9])


def test_increments_of_a_row_do_not_depend_on_its_batch():
    grid = torch.linspace(0, 1, 101, dtype=F64)
    kind = {"seed": 1, "levels": "WH", "dtype": F64}
    whole = BrownianIncrements(grid, (500, 3), **kind).block(0, 100)
    rows = torch.tensor([499, 7])
    part = BrownianIncrements(grid, (2, 3), samples=rows, **kind).with_area().block(0, 100)
    assert torch.equal(part.W, whole.W[:, rows])
    assert torch.equal(part.H, whole.H[:, rows])
    with pytest.raises(ShapeError, match="samples"):
        BrownianIncrements(grid, (2, 3), seed=1, samples=torch.arange(3))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_numpy_and_tensors_draw_the_same_normals(dtype, monkeypatch):
    keys = hashing.lane_keys(5, torch.arange(300), 7)
    counters = torch.tensor([0, 3, (1 << 62) + 5])
    by_numpy = hashing.normal_steps(keys, counters, dtype, 0.3), *hashing.normal_pair(keys, 1 << 61, dtype)
    monkeypatch.setattr(hashing, "_on_host", lambda keys: False)
    by_tensors = hashing.normal_steps(keys, counters, dtype, 0.3), *hashing.normal_pair(keys, 1 << 61, dtype)
    for a, b in zip(by_numpy, by_tensors, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=8 * torch.finfo(dtype).eps)


def test_short_steps_of_a_single_precision_tree_keep_their_digits():
    single, double = (
        BrownianTree(0.0, 1.0, (50, 2), seed=3, levels="W", tol=1e-6, dtype=d) for d in (torch.float32, F64)
    )
    start = torch.full((50,), 0.9, dtype=F64)
    for s, t in ((0.9, 0.900002), (start, start + 2e-6)):
        exact = double.increment(s, t).W
        assert (single.increment(s, t).W - exact).abs().max() < 1e-5 * exact.abs().max()


def test_coarse_path_is_the_fine_path():
    noise = BrownianIncrements([0.1 * i * i for i in range(13)], (4, 3), seed=5, levels="WHK", dtype=F64)
    coarse = noise.coarsen(4)
    fine, steps = noise.block(0, 12), coarse.block(0, 3)
    for n in range(3):
        expected, length = fine.each(lambda x, n=n: x[4 * n]), noise.sizes[4 * n]
        for i in range(4 * n + 1, 4 * n + 4):
            expected = join(expected, fine.each(lambda x, i=i: x[i]), length, noise.sizes[i])
            length += noise.sizes[i]
        assert close(steps.each(lambda x, n=n: x[n]), expected)


def test_antithetic_and_correlated_increments():
    grid = [0.0, 1.0]
    pairs = BrownianIncrements(grid, (6, 2), seed=0, antithetic=True, dtype=F64).block(0, 1).W[0]
    assert torch.equal(pairs[:3], -pairs[3:])
    rho = torch.tensor([[1.0, -0.6], [-0.6, 1.0]], dtype=F64)
    w = BrownianIncrements(grid, (100_000, 2), seed=0, correlation=rho, dtype=F64).block(0, 1).W[0]
    assert torch.allclose(torch.cov(w.T), rho, atol=0.02)


def test_million_steps_need_no_recursion():
    noise = BrownianIncrements(range(1_000_001), (1, 1), seed=0, dtype=F64)
    assert torch.isfinite(noise.block(999_990, 1_000_000).W).all()
    tree = BrownianTree(0.0, 1e6, (1, 1), seed=0, tol=1.0, levels="W", dtype=F64)
    total = sum(tree.increment(float(i), float(i + 1)).W for i in range(999_000, 999_500))
    assert torch.allclose(total, tree.increment(999_000.0, 999_500.0).W)


@pytest.mark.parametrize("levels", LEVELS)
def test_tree_is_additive_whatever_the_order_of_queries(levels):
    def make():
        return BrownianTree(0.0, 2.0, (3, 2), seed=4, levels=levels, dtype=F64, tol=0.05)

    times = [0.0, 0.013, 0.3, 0.31, 0.311, 0.75, 1.0, 1.37, 2.0]
    parts = [make().increment(a, b) for a, b in itertools.pairwise(times)]
    backwards = make()
    again = [backwards.increment(a, b) for a, b in list(itertools.pairwise(times))[::-1]][::-1]
    assert all(close(a, b, 1e-12) for a, b in zip(parts, again, strict=True))
    total, length = parts[0], times[1]
    for noise, (a, b) in zip(parts[1:], list(itertools.pairwise(times))[1:], strict=True):
        total, length = join(total, noise, length, b - a), length + b - a
    assert close(total, make().increment(0.0, 2.0))
    low, high = torch.tensor([0.013, 0.0, 0.31], dtype=F64), torch.tensor([1.37, 2.0, 0.311], dtype=F64)
    rows = make().increment(low, high)
    for r in range(3):
        one = make().increment(low[r].item(), high[r].item())
        assert close(
            Noise(*(None if x is None else x[r] for x in rows)),
            Noise(*(None if x is None else x[r] for x in one)),
            1e-8,
        )


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("span", [(0.0, 0.5), (0.137, 0.142), (0.31, 0.9)])
def test_tree_has_the_law_of_brownian_motion(levels, span):
    tree = BrownianTree(0.0, 1.0, (20_000, 1), seed=11, tol=1 / 64, levels=levels, dtype=F64)
    noise, h = tree.increment(*span), span[1] - span[0]
    for x, v in zip(noise, VARIANCE, strict=False):
        if x is not None:
            assert stats.kstest((x / math.sqrt(v * h)).flatten().numpy(), "norm").pvalue > 1e-3
    known = torch.stack([x[:, 0] for x in (*noise, *tree.increment(span[1], 1.0)) if x is not None])
    off = torch.corrcoef(known) - torch.eye(len(known), dtype=F64)
    assert off.abs().max() < 4.5 / math.sqrt(2e4)


def test_tree_gives_a_row_the_same_path_in_any_batch_and_on_any_dtype():
    whole = BrownianTree(0.0, 1.0, (4, 3), seed=7, dtype=F64).increment(0.2, 0.7)
    part = BrownianTree(0.0, 1.0, (2, 3), seed=7, dtype=F64, samples=torch.tensor([3, 1])).increment(0.2, 0.7)
    assert torch.equal(part.W, whole.W[[3, 1]])
    assert torch.equal(part.H, whole.H[[3, 1]])
    single = BrownianTree(0.0, 1.0, (4, 3), seed=7).increment(0.2, 0.7)
    assert torch.allclose(single.W.double(), whole.W, atol=1e-5)
    assert not torch.allclose(BrownianTree(0.0, 1.0, (4, 3), seed=8, dtype=F64).increment(0.2, 0.7).W, whole.W)


def test_tree_does_not_depend_on_what_was_asked_before():
    fresh = BrownianTree(0.0, 1.0, (2, 2), seed=0, dtype=F64)
    used = BrownianTree(0.0, 1.0, (2, 2), seed=0, dtype=F64)
    for i in range(1000):
        used.increment(i / 1000, (i + 1) / 1000)
    for a, b in ((0.1234, 0.1239), (0.0, 1.0), (0.5, 0.75)):
        assert close(fresh.increment(a, b), used.increment(a, b), 1e-12)


@pytest.mark.parametrize("kind", ["davie", "foster"])
def test_area_has_variance_h_squared_over_four(kind):
    h = 0.7
    g = torch.Generator().manual_seed(1)
    z = torch.randn(2, 200_000, 2, generator=g, dtype=F64) * math.sqrt(h)
    area = levy_area(Noise(z[0], z[1] / math.sqrt(12)), h, g, kind)
    assert torch.equal(area, -area.transpose(-1, -2))
    assert area[:, 0, 1].var().item() == pytest.approx(h * h / 4, rel=0.015)
    if kind == "foster":  # excess kurtosis of the exact area is 2
        a = area[:, 0, 1]
        assert ((a**4).mean() / a.var() ** 2).item() == pytest.approx(5.0, abs=0.35)


def test_area_agrees_with_the_conditional_law_of_a_fine_path():
    g = torch.Generator().manual_seed(2)
    steps = torch.randn(400, 20_000, 2, generator=g, dtype=F64) / 20
    w = torch.cat([torch.zeros(1, 20_000, 2, dtype=F64), steps.cumsum(0)])
    area = 0.5 * ((w[:-1, :, 0] * steps[..., 1]) - (w[:-1, :, 1] * steps[..., 0])).sum(0)
    theta = torch.linspace(0, 1, 401, dtype=F64).view(-1, 1, 1)
    H = torch.trapezoid(w - theta * w[-1], dx=1 / 400, dim=0)
    rest = area - (H[:, 0] * w[-1, :, 1] - w[-1, :, 0] * H[:, 1])
    square = (H**2).sum(1)
    slope, intercept = stats.linregress(square.numpy(), (rest**2).numpy())[:2]
    assert slope == pytest.approx(1 / 5, abs=0.03)
    assert intercept == pytest.approx(1 / 20, abs=0.005)


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: BrownianIncrements([0.0, 0.0], (1, 1), seed=0), TimeGridError, "increase"),
        (lambda: BrownianIncrements([0.0, 1.0], (1, 1), seed=-1), OptionError, "seed"),
        (lambda: BrownianIncrements([0.0, 1.0], (3, 1), seed=0, antithetic=True), OptionError, "even"),
        (lambda: BrownianIncrements([0.0, 1.0], (3, 2), seed=0, correlation=[[1.0]]), ShapeError, "correlation"),
        (lambda: BrownianTree(1.0, 0.0, (1, 1), seed=0), TimeGridError, "after"),
        (lambda: BrownianTree(0.0, 1.0, (1, 1), seed=0).increment(0.5, 2.0), TimeGridError, "covers"),
        (lambda: BrownianTree(0.0, 1.0, (1, 1), seed=0, levels="A"), OptionError, "levels"),
        (lambda: levy_area(Noise(torch.zeros(1, 2)), 1.0), OptionError, "WH"),
    ],
)
def test_bad_input_is_one_sentence(make, kind, words):
    with pytest.raises(kind, match=words):
        make()

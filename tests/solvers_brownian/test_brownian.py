"""Brownian paths: laws, Chen's identity, independence of batch and order of queries."""

import itertools
import math

import pytest
import torch
from scipy.stats import kstest
from torch.testing import assert_close

from scidyn.errors import OptionError, ShapeError, TimeGridError
from scidyn.solvers import BrownianIncrements, BrownianTree, Noise, join, levy_area

F64 = torch.float64
VARIANCE = (1.0, 1 / 12, 1 / 720)
LEVELS = ("W", "WH", "WHK")


def known(noise):
    return [x for x in noise if x is not None]


def test_join_agrees_with_riemann_sums_of_a_fine_path():
    g = torch.Generator().manual_seed(0)
    first, second, dt = 3000, 5000, 1e-4
    steps = torch.randn(first + second, generator=g, dtype=F64) * dt**0.5

    def integrals(d):
        W = torch.cat([torch.zeros(1, dtype=F64), d.cumsum(0)])
        theta = torch.linspace(0, 1, len(W), dtype=F64)
        bridge = W - theta * W[-1]
        return Noise(W[-1], torch.trapezoid(bridge, theta), torch.trapezoid(bridge * (0.5 - theta), theta))

    whole = integrals(steps)
    joined = join(integrals(steps[:first]), integrals(steps[first:]), first * dt, second * dt)
    for a, b in zip(whole, joined, strict=True):
        assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("levels", LEVELS)
def test_tree_is_additive_under_any_queries(levels):
    tree = BrownianTree(-1.0, 1.5, (3, 2), seed=5, tol=0.01, levels=levels, dtype=F64)
    times = [-0.93, -0.2, 0.111, 0.112, 1.4]
    whole = tree.increment(times[0], times[-1])
    total, length = tree.increment(times[0], times[1]), times[1] - times[0]
    for a, b in itertools.pairwise(times[1:]):
        total, length = join(total, tree.increment(a, b), length, b - a), length + b - a
    for a, b in zip(known(whole), known(total), strict=True):
        assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize(("s", "t"), [(0.0, 1.0), (0.25, 0.5), (0.3, 0.77), (0.301, 0.303)])
def test_tree_has_the_law_of_brownian_motion(levels, s, t):
    rows = 20000
    noise = BrownianTree(0.0, 1.0, (rows, 1), seed=2, tol=1e-3, levels=levels, dtype=F64).increment(s, t)
    parts = known(noise)
    for x, v in zip(parts, VARIANCE, strict=False):
        scale = math.sqrt(v * (t - s))
        assert kstest((x / scale).flatten().numpy(), "norm").pvalue > 1e-4
    for i, x in enumerate(parts):
        for y in parts[:i]:
            assert abs(torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1].item()) < 4.5 / rows**0.5


def test_tree_increments_over_disjoint_steps_are_independent():
    tree = BrownianTree(0.0, 1.0, (20000, 1), seed=8, tol=1e-3, levels="WH", dtype=F64)
    a, b = tree.increment(0.2, 0.45), tree.increment(0.45, 0.6)
    for x in known(a):
        for y in known(b):
            assert abs(torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1].item()) < 4.5 / 20000**0.5


@pytest.mark.parametrize("levels", LEVELS)
def test_tree_depends_on_the_sample_alone(levels):
    whole = BrownianTree(0.0, 1.0, (6, 3), seed=4, levels=levels, dtype=F64).increment(0.1, 0.7)
    ids = torch.tensor([5, 0, 3])
    part = BrownianTree(0.0, 1.0, (3, 3), seed=4, levels=levels, dtype=F64, samples=ids)
    part.increment(0.9, 0.95)  # an earlier query changes nothing
    for a, b in zip(known(whole), known(part.increment(0.1, 0.7)), strict=True):
        assert torch.equal(a[ids], b)
    other = BrownianTree(0.0, 1.0, (6, 3), seed=5, levels=levels, dtype=F64).increment(0.1, 0.7)
    assert not torch.allclose(other.W, whole.W)


@pytest.mark.parametrize("levels", LEVELS)
def test_a_time_for_each_row_gives_the_same_path(levels):
    tree = BrownianTree(0.0, 2.0, (4, 2), seed=1, tol=0.01, levels=levels, dtype=F64)
    s = torch.tensor([0.0, 0.31, 0.5, 1.0], dtype=F64)
    t = torch.tensor([0.4, 1.77, 0.9, 2.0], dtype=F64)
    rows = tree.increment(s, t)
    for i in range(4):
        one = tree.increment(s[i].item(), t[i].item())
        for a, b in zip(known(rows), known(one), strict=True):
            assert_close(a[i], b[i], rtol=0, atol=1e-10)


def test_increments_are_redrawn_identically_in_any_order():
    grid = torch.linspace(0, 1, 301, dtype=F64)
    noise = BrownianIncrements(grid, (5, 2), seed=9, levels="WHK", dtype=F64)
    forward = noise.block(0, 300)
    again = BrownianIncrements(grid, (5, 2), seed=9, levels="WHK", dtype=F64)
    late, early = again.block(170, 230), again.block(3, 5)
    for x, a, b in zip(forward, late, early, strict=True):
        assert torch.equal(x[170:230], a)
        assert torch.equal(x[3:5], b)
    assert torch.equal(noise.with_levels("W").block(0, 300).W, forward.W)


def test_increments_have_their_variances_also_on_uneven_grids():
    grid = [0.0, 0.1, 0.5, 0.6]
    noise = BrownianIncrements(grid, (40000, 1), seed=0, levels="WHK", dtype=F64).block(0, 3)
    for x, v in zip(noise, VARIANCE, strict=True):
        for n, h in enumerate((0.1, 0.4, 0.1)):
            assert kstest((x[n] / math.sqrt(v * h)).flatten().numpy(), "norm").pvalue > 1e-4


def test_coarse_path_passes_through_the_fine_one():
    fine = BrownianIncrements(torch.linspace(0, 1, 65, dtype=F64), (3, 2), seed=1, levels="WH", dtype=F64)
    coarse = fine.coarsen(8)
    assert_close(coarse.path(), fine.path()[::8])
    W, H, _ = coarse.block(0, 8)
    assert_close(W.cumsum(0), coarse.path()[1:])
    # h (H + W / 2) is the integral of the path over the step, whatever the steps
    fine_W, fine_H, _ = fine.block(0, 64)
    path = fine.path()[:-1]
    integral = ((path + fine_W / 2 + fine_H) / 64).unflatten(0, (8, 8)).sum(1)
    start = coarse.path()[:-1]
    assert_close((start + W / 2 + H) / 8, integral)


def test_antithetic_and_correlated_paths():
    noise = BrownianIncrements([0.0, 1.0], (4, 2), seed=0, antithetic=True).block(0, 1).W[0]
    assert torch.equal(noise[:2], -noise[2:])
    R = [[1.0, 0.8], [0.8, 1.0]]
    W = BrownianIncrements([0.0, 1.0], (40000, 2), seed=0, correlation=R, dtype=F64).block(0, 1).W[0]
    assert abs(torch.corrcoef(W.T)[0, 1].item() - 0.8) < 0.01
    tree = BrownianTree(0.0, 1.0, (4, 2), seed=0, antithetic=True, dtype=F64).increment(0.1, 0.4).W
    assert torch.equal(tree[:2], -tree[2:])


@pytest.mark.parametrize("kind", ["davie", "foster"])
def test_levy_area_has_the_variance_of_theory(kind):
    g = torch.Generator().manual_seed(0)
    h, rows = 0.5, 200000
    z = torch.randn(2, rows, 2, generator=g, dtype=F64) * h**0.5
    noise = Noise(z[0], z[1] / 12**0.5)
    area = levy_area(noise, h, g, kind)
    assert_close(area, -area.transpose(-1, -2))
    # standard error of a variance: below 1 % here
    assert abs(area[:, 0, 1].var().item() / (h * h / 4) - 1) < 0.03


def test_a_million_steps_need_no_recursion():
    noise = BrownianIncrements(range(1_000_001), (1, 1), seed=0)
    assert noise.block(999_990, 1_000_000).W.shape == (10, 1, 1)
    tree = BrownianTree(0.0, 1e6, (1, 1), seed=0, tol=1e-3)
    assert torch.isfinite(tree.increment(123456.789, 987654.321).W).all()


def test_bad_input_is_named():
    with pytest.raises(TimeGridError, match="t1 must be after t0"):
        BrownianTree(1.0, 0.0, (1, 1), seed=0)
    with pytest.raises(TimeGridError, match="covers 0 to 1"):
        BrownianTree(0.0, 1.0, (1, 1), seed=0).increment(0.5, 1.2)
    with pytest.raises(TimeGridError, match="increase strictly"):
        BrownianIncrements([0.0, 0.0], (1, 1), seed=0)
    with pytest.raises(OptionError, match="even batch"):
        BrownianIncrements([0.0, 1.0], (3, 1), seed=0, antithetic=True)
    with pytest.raises(OptionError, match="space-time area"):
        levy_area(Noise(torch.zeros(2, 2)), 1.0)
    with pytest.raises(ShapeError, match="correlation must have shape"):
        BrownianIncrements([0.0, 1.0], (3, 2), seed=0, correlation=[[1.0]])

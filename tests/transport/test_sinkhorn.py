"""Sinkhorn against linear programming, closed forms, dense loops and finite differences."""

import math

import pytest
import torch

from scidyn.errors import DataError, NonFiniteError, OptionError, ShapeError, SolverError, SolverWarning
from scidyn.transport import SinkhornStatus, estimate_memory, exact_transport, sinkhorn, sinkhorn_divergence

DOUBLE = torch.float64


def clouds(n=60, m=50, d=3, seed=0, dtype=DOUBLE):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=dtype)
    y = 0.7 * torch.randn(m, d, generator=g, dtype=dtype) + 1.0
    a, b = torch.rand(n, generator=g, dtype=dtype) + 0.1, torch.rand(m, generator=g, dtype=dtype) + 0.1
    return x, y, a / a.sum(), b / b.sum()


def reference(C, a, b, eps, tau_a=1.0, tau_b=1.0, iterations=20_000):
    """The textbook log-domain loop."""
    f, g = torch.zeros_like(a), torch.zeros_like(b)
    for _ in range(iterations):
        f = -tau_a * eps * torch.logsumexp((g - C) / eps + b.log(), 1)
        new = -tau_b * eps * torch.logsumexp((f[:, None] - C) / eps + a.log()[:, None], 0)
        if (new - g).abs().max() < 1e-13:
            break
        g = new
    return a[:, None] * b * torch.exp((f[:, None] + g - C) / eps)


def squared(x, y):
    return (x[:, None] - y).square().sum(-1)


@pytest.mark.parametrize("method", ["stored", "streamed"])
@pytest.mark.parametrize(("tau_a", "tau_b"), [(1.0, 1.0), (0.9, 1.0), (1.0, 0.8), (0.95, 0.7)])
def test_plan_is_that_of_the_textbook_loop(method, tau_a, tau_b):
    x, y, a, b = clouds()
    plan = sinkhorn(x, y, a, b, epsilon=0.4, tau_a=tau_a, tau_b=tau_b, tolerance=1e-10, method=method)
    expected = reference(squared(x, y), a, b, 0.4, tau_a, tau_b)
    assert plan.status is SinkhornStatus.CONVERGED
    torch.testing.assert_close(plan.to_dense(), expected, rtol=1e-6, atol=1e-12)


def test_value_is_the_primal_objective():
    x, y, a, b = clouds()
    a, b = 1.3 * a, 0.6 * b
    eps, tau = 0.5, 0.8
    C, lam = squared(x, y), eps * tau / (1 - tau)
    plan = sinkhorn(x, y, a, b, epsilon=eps, tau_a=tau, tau_b=tau, tolerance=1e-11)
    P = reference(C, a, b, eps, tau, tau)

    def kl(p, q):
        return (p * (p / q).log() - p + q).sum()

    primal = (P * C).sum() + eps * kl(P, a[:, None] * b) + lam * (kl(P.sum(1), a) + kl(P.sum(0), b))
    torch.testing.assert_close(plan.value, primal, rtol=1e-9, atol=0)


def test_small_epsilon_approaches_the_linear_program():
    x, y, _, _ = clouds(40, 40)
    plan = sinkhorn(x, y, epsilon=2e-3, tolerance=1e-5, max_iterations=20_000)
    exact = exact_transport(x, y)
    cost = (plan.to_dense() * squared(x, y)).sum()
    # a plan whose marginals are off by 1e-5 may save that much of the largest cost
    assert exact.value <= cost + 1e-5 * squared(x, y).max()
    # the entropic plan is at most eps log(n) dearer
    assert cost - exact.value < 2e-3 * math.log(40)


def test_acceleration_saves_iterations_and_changes_nothing():
    x, y, _, _ = clouds(300, 300)
    fast, slow = (sinkhorn(x, y, epsilon_relative=0.02, tolerance=1e-7, accelerate=k, coarse=False) for k in (1, 0))
    assert fast.iterations * 3 < slow.iterations
    torch.testing.assert_close(fast.value, slow.value, rtol=1e-9, atol=0)


def test_methods_and_precisions_agree():
    x, y, _, _ = clouds(700, 600, 5)
    plans = [
        sinkhorn(x, y, epsilon_relative=0.02, tolerance=1e-5, dtype=dtype, method=method)
        for dtype in (DOUBLE, torch.float32)
        for method in ("stored", "streamed")
    ]
    for other in plans[1:]:
        assert float(other.value) == pytest.approx(float(plans[0].value), rel=2e-6)
        assert (other.to_dense().double() - plans[0].to_dense()).abs().sum() < 2e-4


def test_cost_matrix_and_points_agree():
    x, y, a, b = clouds()
    points = sinkhorn(x, y, a, b, epsilon=0.3, tolerance=1e-9)
    matrix = sinkhorn(None, None, a, b, cost=squared(x, y), epsilon=0.3, tolerance=1e-9)
    torch.testing.assert_close(points.to_dense(), matrix.to_dense(), rtol=1e-5, atol=1e-12)


def test_euclidean_cost_reads_distances():
    x, y, a, b = clouds()
    plan = sinkhorn(x, y, a, b, cost="euclidean", epsilon=0.3, tolerance=1e-10)
    torch.testing.assert_close(plan.to_dense(), reference(torch.cdist(x, y), a, b, 0.3), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("method", ["stored", "streamed"])
def test_outliers_and_far_clouds_do_not_underflow(method):
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(400, 2, generator=g), torch.randn(400, 2, generator=g) + 40.0
    x[0] = -60.0
    plan = sinkhorn(x, y, epsilon=1.0, tolerance=1e-4, method=method)
    dense = plan.to_dense().double()
    assert (dense.sum(0) - 1 / 400).abs().sum() < 2e-4
    assert (dense.sum(1) - 1 / 400).abs().sum() < 1e-3
    assert torch.isfinite(plan.f).all()


def test_points_of_weight_zero_get_nothing():
    x, y, a, b = clouds()
    b = b.clone()
    b[3] = 0.0
    b = b / b.sum()
    plan = sinkhorn(x, y, a, b, epsilon=0.3, tolerance=1e-9)
    keep = torch.arange(50) != 3
    kept = sinkhorn(x, y[keep], a, b[keep], epsilon=0.3, tolerance=1e-9)
    assert plan.to_dense()[:, 3].sum() < 1e-30
    torch.testing.assert_close(plan.to_dense()[:, keep], kept.to_dense(), rtol=1e-5, atol=1e-12)


def test_one_point_on_each_side():
    plan = sinkhorn(torch.zeros(1, 2), torch.ones(1, 2), epsilon=0.1)
    assert plan.to_dense().tolist() == [[pytest.approx(1.0)]]
    assert float(plan.value) == pytest.approx(2.0)


def test_warm_start_from_the_solution_takes_one_sweep():
    x, y, _, _ = clouds(300, 300)
    first = sinkhorn(x, y, epsilon=0.2, tolerance=1e-6)
    again = sinkhorn(x, y, epsilon=0.2, tolerance=2e-6, start=first)
    assert again.iterations == 1
    assert again.coarse_iterations == 0


def test_unbalanced_mass_of_two_points_solves_a_scalar_equation():
    # masses 1 and 1 at squared distance c: π^{1/τ·...} from f = -τ ε (g - c)/ε, g likewise
    c, eps, tau = 2.0, 0.5, 0.75
    plan = sinkhorn(torch.zeros(1, 1, dtype=DOUBLE), torch.full((1, 1), c**0.5, dtype=DOUBLE), epsilon=eps,
                    tau_a=tau, tau_b=tau, tolerance=1e-12)  # fmt: skip
    f = tau * c / (1 + tau)
    assert float(plan.f) == pytest.approx(f, rel=1e-10)
    assert plan.to_dense().item() == pytest.approx(math.exp((2 * f - c) / eps), rel=1e-9)


def test_products_top_entries_and_memory_guard():
    x, y, a, b = clouds()
    plan = sinkhorn(x, y, a, b, epsilon=0.3, tolerance=1e-9)
    dense = plan.to_dense()
    v, w = torch.randn(50, 2, dtype=DOUBLE), torch.randn(60, dtype=DOUBLE)
    torch.testing.assert_close(plan.apply(v), dense @ v)
    torch.testing.assert_close(plan.transpose_apply(w), dense.T @ w)
    torch.testing.assert_close(plan.barycentric(), (dense @ y) / dense.sum(1, keepdim=True))
    top = plan.topk(4)
    torch.testing.assert_close(top.values, dense.topk(4, 1).values)
    torch.testing.assert_close(dense.gather(1, top.columns), top.values)
    torch.testing.assert_close(top.kept, top.values.sum(1) / dense.sum(1))
    with pytest.raises(OptionError, match="topk"):
        plan.to_dense(memory_limit=1000)
    with pytest.raises(ShapeError, match="50 rows"):
        plan.apply(torch.ones(7))


def test_samples_follow_the_plan():
    x, y, a, b = clouds(6, 5)
    plan = sinkhorn(x, y, a, b, epsilon=1.0, tolerance=1e-9)
    count = 40_000
    pairs = plan.sample(count, seed=3)
    seen = torch.zeros(6, 5, dtype=DOUBLE).index_put_((pairs.source, pairs.target), torch.ones((), dtype=DOUBLE), True)
    expected = plan.to_dense() * count
    statistic = ((seen - expected).square() / expected).sum().item()
    # chi-squared with 29 degrees of freedom: 58.3 is exceeded once in a thousand
    assert statistic < 58.3
    same = plan.sample(count, seed=3)
    assert torch.equal(same.source, pairs.source)
    assert torch.equal(same.target, pairs.target)
    targets = plan.sample_targets(torch.full((count,), 2), seed=5)
    share = torch.bincount(targets, minlength=5) / count
    conditional = plan.to_dense()[2] / plan.to_dense()[2].sum()
    assert (share - conditional).abs().max() < 0.01
    with pytest.raises(OptionError, match="seed"):
        plan.sample(3)


def numeric(function, tensor, indices, h=1e-4):
    out = []
    for i in indices:
        ends = []
        for sign in (1, -1):
            moved = tensor.detach().clone()
            moved.view(-1)[i] += sign * h
            ends.append(float(function(moved)))
        out.append((ends[0] - ends[1]) / (2 * h))
    return torch.tensor(out, dtype=DOUBLE)


@pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean"])
@pytest.mark.parametrize("taus", [(1.0, 1.0), (0.9, 0.7)])
def test_gradients_in_the_points(cost, taus):
    x, y, a, b = clouds(12, 9, 2)
    v = torch.linspace(-1, 2, 9, dtype=DOUBLE)
    w = torch.linspace(1, -2, 12, dtype=DOUBLE)

    def solve(z):
        return sinkhorn(z, y, a, b, cost=cost, epsilon=0.8, tau_a=taus[0], tau_b=taus[1], tolerance=1e-13)

    quantities = {
        "value": lambda p: p.value,
        "apply": lambda p: (w * p.apply(v)).sum(),
        "transposed": lambda p: (v**2 * p.transpose_apply(w)).sum(),
        "potential": lambda p: ((p.f - p.f.mean()) * w).sum(),
        "barycentric": lambda p: p.barycentric().pow(2).sum(),
    }
    for name, quantity in quantities.items():
        z = x.clone().requires_grad_()
        quantity(solve(z)).backward()
        expected = numeric(lambda t, q=quantity: q(solve(t)), x, range(0, 24, 5))
        torch.testing.assert_close(z.grad.view(-1)[0:24:5], expected, rtol=2e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("taus", [(1.0, 1.0), (0.9, 0.7)])
def test_gradients_in_costs_and_weights(taus):
    x, y, a, b = clouds(8, 7, 2)
    C = squared(x, y)
    v = torch.linspace(-1, 2, 7, dtype=DOUBLE)
    w = torch.linspace(1, -2, 8, dtype=DOUBLE)

    def result(C, s, t, which):
        p = sinkhorn(None, None, torch.softmax(s, 0), torch.softmax(t, 0), cost=C, epsilon=0.8, tau_a=taus[0],
                     tau_b=taus[1], tolerance=1e-13)  # fmt: skip
        return p.value if which == "value" else (w * p.apply(v)).sum()

    start = (C, a.log(), b.log())
    for which in ("value", "apply"):
        leaves = [t.clone().requires_grad_() for t in start]
        result(*leaves, which).backward()
        for k, leaf in enumerate(leaves):
            expected = numeric(
                lambda t, k=k, q=which: result(*[t if i == k else s for i, s in enumerate(start)], q),
                start[k],
                range(0, start[k].numel(), 3),
            )
            torch.testing.assert_close(leaf.grad.view(-1)[::3], expected, rtol=2e-5, atol=1e-8, msg=f"{which} {k}")


def test_divergence_is_zero_at_equality_and_positive_elsewhere():
    x, y, _, _ = clouds(80, 80)
    assert abs(float(sinkhorn_divergence(x, x.clone(), epsilon=1.0, tolerance=1e-9))) < 1e-8
    assert float(sinkhorn_divergence(x, y)) > 0.1
    z = x.clone().requires_grad_()
    sinkhorn_divergence(z, x, epsilon=1.0, tolerance=1e-9).value.backward()
    assert z.grad.abs().max() < 1e-7


def test_a_set_against_itself_takes_the_symmetric_iteration():
    x, _, a, _ = clouds(80, 80)
    # almost reducible: isolated points hold the ordinary iteration at 1e-6 for thousands of sweeps
    plan = sinkhorn(x, x, a, a, epsilon=0.05, tolerance=1e-11)
    assert plan.iterations < 60
    torch.testing.assert_close(plan.f, plan.g)
    torch.testing.assert_close(plan.row_sums(), a, rtol=0, atol=1e-11)
    dense = plan.to_dense()
    primal = (dense * squared(x, x)).sum() + 0.05 * (dense * (dense / (a[:, None] * a)).log()).sum()
    torch.testing.assert_close(plan.value, primal, rtol=1e-7, atol=0)


def test_failure_is_told():
    x, y, _, _ = clouds(200, 200)
    options = {"epsilon_relative": 0.005, "max_iterations": 2, "tolerance": 1e-8}
    with pytest.raises(SolverError, match="marginal error") as caught:
        sinkhorn(x, y, **options)
    assert caught.value.solution.status is SinkhornStatus.MAX_ITERATIONS
    with pytest.warns(SolverWarning, match="MAX_ITERATIONS"):
        sinkhorn(x, y, on_failure="warn", **options)
    assert not sinkhorn(x, y, on_failure="return", **options).status.success
    with pytest.raises(SolverError, match="float64"):
        sinkhorn(x.float(), y.float(), tolerance=1e-12)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"x": torch.full((3, 2), math.nan)}, NonFiniteError, r"x\[0, 0\] is nan"),
        ({"x": torch.zeros(0, 2)}, ShapeError, "at least one point"),
        ({"x": torch.zeros(3)}, ShapeError, r"x\[:, None\]"),
        ({"x": torch.zeros(3, 5)}, ShapeError, "same dimension"),
        ({"x": torch.zeros(3, 2, dtype=torch.int64)}, ShapeError, "floating"),
        ({"a": torch.ones(3)}, DataError, "sums to 3"),
        ({"a": torch.tensor([1.5, -0.5, 0.0])}, DataError, r"a\[1\] is -0.5"),
        ({"a": torch.tensor([1.0, math.nan, 0.0])}, NonFiniteError, r"a\[1\] is nan"),
        ({"a": torch.zeros(3), "tau_a": 0.5}, DataError, "positive"),
        ({"a": torch.ones(4) / 4}, ShapeError, r"shape \(3,\)"),
        ({"epsilon": 0.0}, OptionError, "epsilon"),
        ({"epsilon": -1.0}, OptionError, "epsilon"),
        ({"epsilon": math.nan}, OptionError, "epsilon"),
        ({"epsilon": 1e-9}, OptionError, "float64"),
        ({"epsilon": 1.0, "epsilon_relative": 0.1}, OptionError, "not both"),
        ({"tau_a": 1.5}, OptionError, "tau_a"),
        ({"cost": "sqeuclidian"}, OptionError, "Did you mean 'sqeuclidean'"),
        ({"cost": torch.ones(3, 4)}, OptionError, "not both"),
        ({"method": "dense"}, OptionError, "streamed"),
        ({"memory_limit": 10.0}, OptionError, "memory_limit"),
        ({"start": torch.zeros(9)}, ShapeError, "start"),
        ({"x": torch.full((3, 2), 1e30)}, OptionError, "overflows"),
    ],
)
def test_bad_input_is_named(change, error, words):
    arguments = {"x": torch.zeros(3, 2), "y": torch.arange(8.0).reshape(4, 2)} | change
    with pytest.raises(error, match=words):
        sinkhorn(**arguments)


def test_bad_cost_matrices_are_named():
    C = torch.ones(3, 4)
    C[1, 2] = math.nan
    with pytest.raises(NonFiniteError, match=r"cost\[1, 2\] is nan"):
        sinkhorn(cost=C)
    with pytest.raises(OptionError, match="points x and y"):
        sinkhorn()


def test_estimate_tells_the_storage_that_is_chosen():
    x, y, _, _ = clouds(1500, 1500, dtype=torch.float32)
    need = estimate_memory(1500, 1500, 3)
    assert need.dense_plan == 1500 * 1500 * 4
    between = 0.5 * (need.stored + need.streamed)
    assert sinkhorn(x, y, memory_limit=between).method == "streamed"
    assert sinkhorn(x, y, memory_limit=1.01 * need.stored).method == "stored"

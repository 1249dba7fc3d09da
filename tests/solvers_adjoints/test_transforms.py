"""Solves inside torch.func transforms, against the matrix exponential and the same transforms of it."""

import pytest
import torch
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap

from scidyn.errors import OptionError
from scidyn.solvers import fixed_point, sol_jacobian, solve_ode, solve_steady_state

F64 = torch.float64
A = torch.tensor([[-0.5, 2.0], [-1.0, -0.2]], dtype=F64)
Y0 = torch.tensor([[1.0, 0.5], [0.3, -1.0]], dtype=F64)
T = torch.tensor([0.2, 0.5, 1.1], dtype=F64)
MANY_A, MANY_Y0 = torch.stack([A, 0.5 * A, A.T]), torch.stack([Y0, 2 * Y0, Y0 - 1])
SETUPS = {
    "shared": {},
    "per sample": {"stepping": "per_sample"},
    "stiff": {"method": "rodas5p"},
    "fixed": {"method": "rk4", "dt0": 0.03},
}


def exact(a, y0, t):
    return torch.einsum("tij,bj->bti", torch.linalg.matrix_exp((t - t[0]).reshape(-1, 1, 1) * a), y0)


def loss(solve):
    return lambda *x: (solve(*x) ** 2).sum()


TRANSFORMS = {
    "grad": lambda f: grad(loss(f), argnums=(0, 1, 2))(A, Y0, T),
    "jacrev": lambda f: jacrev(f, argnums=(0, 1, 2))(A, Y0, T),
    "jacfwd": lambda f: jacfwd(f, argnums=(0, 1, 2))(A, Y0, T),
    "jvp": lambda f: jvp(lambda a: f(a, Y0, T), (A,), (A.T.contiguous(),)),
    "vmap": lambda f: (vmap(f, in_dims=(0, None, None))(MANY_A, Y0, T),),
    "vmap of jacrev": lambda f: vmap(jacrev(f, argnums=(0, 1)), in_dims=(None, 0, None))(A, MANY_Y0, T),
    "vmap of grad": lambda f: vmap(grad(loss(f), argnums=(0, 1)), in_dims=(0, 0, None))(MANY_A, MANY_Y0, T),
}


@pytest.mark.parametrize(
    ("setup", "name"), [*(("shared", x) for x in TRANSFORMS), *((x, "vmap of grad") for x in SETUPS if x != "shared")]
)
def test_transforms_of_a_solve(setup, name):
    def solve(a, y0, t):
        return solve_ode(lambda s, y: y @ a.T, y0, t, rtol=1e-8, atol=1e-9, **SETUPS[setup]).y

    for got, want in zip(TRANSFORMS[name](solve), TRANSFORMS[name](exact), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["vmap", "vmap of grad"])
def test_nested_arguments_take_part(name):
    def solve(a, y0, t):
        return solve_ode(lambda s, y, p: y @ p["a"][0].T, y0, t, args={"a": [a], "n": 3}, rtol=1e-8, atol=1e-9).y

    for got, want in zip(TRANSFORMS[name](solve), TRANSFORMS[name](exact), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


def test_second_derivatives():
    def solve(a, y0, t):
        return solve_ode(lambda s, y: y @ a.T, y0, t, rtol=1e-6, atol=1e-8, method="dopri5").y

    def by_parameters(f):
        return hessian(lambda scale: (f(scale[0] * A, Y0 * scale[1], T[:2]) ** 2).sum())(torch.ones(2, dtype=F64))

    torch.testing.assert_close(by_parameters(solve), by_parameters(exact), rtol=1e-5, atol=1e-5)


def test_own_times_can_be_mapped_where_steps_are():
    times = torch.stack([T, 2 * T])

    def solve(t, **setup):
        return solve_ode(lambda s, y: y @ A.T, Y0, t, rtol=1e-8, atol=1e-9, **setup).y

    got = vmap(lambda t: solve(t, stepping="per_sample"))(times)
    torch.testing.assert_close(got, torch.stack([exact(A, Y0, t) for t in times]), rtol=1e-6, atol=1e-6)
    with pytest.raises(OptionError, match="needs stepping='per_sample'"):
        vmap(solve)(times)


def test_mapped_rows_do_not_depend_on_each_other():
    def solve(a):
        return solve_ode(lambda s, y: y @ a.T, Y0, T, stepping="per_sample").y

    alone = torch.stack([solve(a) for a in MANY_A])
    torch.testing.assert_close(vmap(solve)(MANY_A), alone, rtol=1e-13, atol=1e-14)


def test_an_ensemble_of_networks_trains_as_one_batch():
    nets = [torch.nn.Linear(2, 2, dtype=F64) for _ in range(3)]
    params, buffers = stack_module_state(nets)

    def solve(params, buffers):
        def f(t, y):
            return torch.tanh(functional_call(nets[0], (params, buffers), (y,)))

        return (solve_ode(f, Y0, T).y ** 2).sum()

    got = vmap(grad(solve))(params, buffers)
    for i, net in enumerate(nets):
        y = solve_ode(lambda t, y, net=net: torch.tanh(net(y)), Y0, T).y
        want = torch.autograd.grad((y**2).sum(), list(net.parameters()))
        # shared steps suit the hardest network, so the errors of the solves differ
        for name, one in zip(("weight", "bias"), want, strict=True):
            torch.testing.assert_close(got[name][i], one, rtol=1e-4, atol=1e-5)


def test_a_mapped_solve_passes_gradients_to_ordinary_parameters():
    weight = A.clone().requires_grad_()
    y = vmap(lambda y0: solve_ode(lambda s, y: y @ weight.T, y0, T, rtol=1e-8, atol=1e-9).y)(MANY_Y0)
    (got,) = torch.autograd.grad((y**2).sum(), weight)
    leaf = A.clone().requires_grad_()
    whole = torch.stack([exact(leaf, y0, T) for y0 in MANY_Y0])
    torch.testing.assert_close(got, torch.autograd.grad((whole**2).sum(), leaf)[0], rtol=1e-6, atol=1e-6)


def test_one_state_without_a_batch():
    def solve(a, y0, t):
        return solve_ode(lambda s, y: a @ y, y0, t, rtol=1e-9, atol=1e-10).y[0]

    got = vmap(jacrev(solve, argnums=1), in_dims=(None, 0, None))(A, Y0, T)
    want = torch.linalg.matrix_exp((T - T[0]).reshape(-1, 1, 1) * A)
    torch.testing.assert_close(got, want.expand(2, -1, -1, -1), rtol=1e-7, atol=1e-7)


def test_the_status_is_that_of_the_worst_copy():
    seen = []

    def solve(rate):
        solution = solve_ode(
            lambda t, y: rate * y * y, torch.ones(2, 1, dtype=F64), [0.0, 1.0], on_failure="return", max_steps=60
        )
        seen.append(solution)
        return solution.y

    y = vmap(solve)(torch.tensor([0.1, 3.0], dtype=F64))
    assert len(seen[0].status) == 2
    assert not seen[0].success
    assert seen[0].stats.n_accepted.shape == (2,)
    assert y.shape == (2, 2, 2, 1)


@pytest.mark.parametrize("option", [{"dense": True}, {"adjoint": None}, {"jump_times": [0.4]}])
def test_what_does_not_go_with_a_transform_is_refused(option):
    with pytest.raises(OptionError, match=r"torch\.func"):
        grad(lambda y0: solve_ode(lambda t, y: -y, y0, T, **option).y.sum())(Y0)


def test_steady_states_and_fixed_points():
    def g(w, b):
        return fixed_point(lambda z: torch.tanh(z @ w + b), torch.zeros(2, 2, dtype=F64), rtol=1e-11, atol=1e-12).y

    def unrolled(w, b):
        z = torch.zeros(2, 2, dtype=F64)
        for _ in range(60):
            z = torch.tanh(z @ w + b)
        return z

    w = 0.3 * torch.stack([A, A.T])
    for got, want in zip(
        *(vmap(jacrev(f, argnums=(0, 1)), in_dims=(0, None))(w, Y0) for f in (g, unrolled)), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-9)

    def steady(theta):
        return solve_steady_state(lambda t, y, p: p - y**3, torch.ones(1, 1, dtype=F64), args=theta).y.sum()

    theta = torch.tensor([0.5, 2.0], dtype=F64)
    torch.testing.assert_close(vmap(grad(steady))(theta), theta ** (-2 / 3) / 3)
    torch.testing.assert_close(vmap(grad(grad(steady)))(theta), -2 / 9 * theta ** (-5 / 3))


@pytest.mark.parametrize("method", ["tsit5", "kvaerno5"])
def test_sol_jacobian(method):
    solution, jacobian = sol_jacobian(
        lambda s, y, p: y @ p["a"].T, Y0, T, args={"a": A, "n": 3}, method=method, rtol=1e-9, atol=1e-11
    )
    by_a, by_y0 = jacrev(exact, argnums=(0, 1))(A, Y0, T)
    torch.testing.assert_close(solution.y, exact(A, Y0, T), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(jacobian["args"]["a"], by_a, rtol=1e-6, atol=1e-6)
    own = torch.stack([by_y0[i, :, :, i] for i in range(2)])
    torch.testing.assert_close(jacobian["y0"], own, rtol=1e-6, atol=1e-6)
    assert jacobian["args"]["n"] == 3


def test_sol_jacobian_of_a_state_with_two_axes():
    y0 = torch.linspace(0, 1, 12, dtype=F64).reshape(2, 3, 2)
    _, jacobian = sol_jacobian(lambda t, y: -y, y0, [0.0, 1.0], wrt=("y0",), rtol=1e-9, atol=1e-11)
    want = torch.eye(6, dtype=F64).reshape(3, 2, 3, 2) * torch.exp(torch.tensor(-1.0, dtype=F64))
    assert list(jacobian) == ["y0"]
    torch.testing.assert_close(jacobian["y0"][:, 1], want.expand(2, -1, -1, -1, -1), rtol=1e-7, atol=1e-8)
    with pytest.raises(OptionError, match="wrt"):
        sol_jacobian(lambda t, y: -y, y0, [0.0, 1.0], wrt=("params",))

"""Simulated jump processes against the master equation and closed-form moments."""

import math

import pytest
import torch
from torch.testing import assert_close

from scidyn.errors import OptionError, SolverError, SolverWarning, TimeGridError
from scidyn.solvers import JumpStatus, RateMatrix, ReactionNetwork, simulate_ssa, simulate_tau_leaping

F64 = torch.float64
BIRTH_DEATH = {"0 -> A": 6.0, "A -> 0": 1.0}


def grid(*times):
    return torch.tensor(times, dtype=F64)


def chi_square(counts, law):
    """Pearson statistic over states with five or more expected, minus its degrees of freedom, in deviations."""
    expected = law * counts.sum()
    kept = expected >= 5
    freedom = int(kept.sum()) - 1
    statistic = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
    return float(statistic - freedom) / math.sqrt(2 * freedom)


def test_ssa_on_a_rate_matrix_has_the_marginals_of_the_matrix_exponential():
    g = torch.Generator().manual_seed(1)
    chain = RateMatrix.from_rates(torch.rand(5, 5, generator=g, dtype=F64))
    t = grid(0.0, 0.4, 1.5, 6.0)
    sol = simulate_ssa(chain, torch.tensor(2), t, trajectories=20_000, seed=3)
    law = chain.marginals(torch.eye(5, dtype=F64)[2], t)
    assert sol.x.shape == (20_000, 4)
    for k in range(1, 4):
        assert chi_square(torch.bincount(sol.x[:, k], minlength=5).to(F64), law[k]) < 4.0


def test_ssa_of_birth_and_death_has_the_master_equations_law_at_two_times_jointly():
    network = ReactionNetwork.parse(BIRTH_DEATH)
    _, chain = network.master_equation([40])
    sol = simulate_ssa(network, torch.tensor([2.0]), grid(0.0, 0.5, 1.2), trajectories=20_000, seed=0)
    law = chain.marginals(torch.eye(41, dtype=F64)[2], grid(0.5, 1.2))
    for k in range(2):
        assert chi_square(torch.bincount(sol.x[:, k + 1, 0].long(), minlength=41).to(F64), law[k]) < 4.0
    # covariance of an infinite-server queue: Var n(s) times the survival probability
    first, second = sol.x[:, 1, 0], sol.x[:, 2, 0]
    variance = 2 * math.exp(-0.5) * (1 - math.exp(-0.5)) + 6 * (1 - math.exp(-0.5))
    covariance = float(torch.cov(torch.stack([first, second]))[0, 1])
    assert abs(covariance - variance * math.exp(-0.7)) < 4 * variance / math.sqrt(20_000) * 2


def test_ssa_of_a_second_order_network_has_the_master_equations_law():
    network = ReactionNetwork.parse({"0 -> A": 8.0, "2 A -> B": 0.1, "B -> 0": 0.5})
    states, chain = network.master_equation([22, 14])
    sol = simulate_ssa(network, torch.tensor([0.0, 0.0]), grid(0.0, 2.0), trajectories=10_000, seed=5)
    law = chain.marginals(torch.eye(len(states), dtype=F64)[0], 2.0)
    index = (sol.x[:, 1] @ torch.tensor([15.0, 1.0], dtype=F64)).long()
    assert chi_square(torch.bincount(index, minlength=len(states)).to(F64), law) < 4.0


def test_ssa_waits_exponentially_and_records_every_jump():
    network = ReactionNetwork.parse({"0 -> A": 3.0})
    sol = simulate_ssa(network, torch.tensor([0.0]), grid(0.0, 10.0), trajectories=2000, seed=0, record=True)
    assert_close(sol.n_jumps.to(F64), sol.x[:, -1, 0])
    assert_close(torch.isfinite(sol.jump_times).sum(1), sol.n_jumps)
    assert_close((sol.channels >= 0).sum(1), sol.n_jumps)
    first = sol.jump_times[:, 0]
    assert abs(float(first.mean()) - 1 / 3) < 4 / 3 / math.sqrt(2000)
    steps = sol.jump_times.diff(dim=1)
    assert bool((steps[torch.isfinite(steps)] > 0).all())


def test_the_state_between_recorded_jumps_is_the_replayed_one():
    network = ReactionNetwork.parse({"0 -> A": 4.0, "A -> B": 1.0, "B -> 0": 0.5})
    t = torch.linspace(0.0, 5.0, 23, dtype=F64)
    sol = simulate_ssa(network, torch.tensor([3.0, 1.0]), t, trajectories=7, seed=2, record=True)
    states = network.replay(sol.x[:, 0], sol.channels)
    for row in range(7):
        count = torch.searchsorted(sol.jump_times[row].nan_to_num(nan=math.inf), t)
        assert_close(sol.x[row], states[row, count])


def test_same_seed_same_trajectories_and_other_seed_others():
    network, t = ReactionNetwork.parse(BIRTH_DEATH), grid(0.0, 3.0)
    runs = [simulate_ssa(network, torch.tensor([5.0]), t, trajectories=50, seed=s).x for s in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    source = torch.Generator().manual_seed(1)
    assert torch.equal(simulate_ssa(network, torch.tensor([5.0]), t, trajectories=50, generator=source).x, runs[0])


def test_absorbed_trajectories_hold_their_state_and_say_so():
    sol = simulate_ssa(ReactionNetwork.parse({"A -> 0": 5.0}), torch.tensor([[3.0], [0.0]]), grid(0, 50, 99), seed=0)
    assert sol.success
    assert sol.status.tolist() == [JumpStatus.ABSORBED] * 2
    assert sol.x[:, 1:].abs().max() == 0


def test_trajectories_that_run_out_of_jumps_are_nan_from_there_on():
    network, t = ReactionNetwork.parse({"0 -> A": 1.0}), grid(0.0, 1.0, 1000.0)
    with pytest.raises(SolverError, match=r"2 of 2 trajectories stopped early, trajectory 0 .*max_jumps"):
        simulate_ssa(network, torch.tensor([0.0]), t, trajectories=2, seed=0, max_jumps=20)
    with pytest.warns(SolverWarning, match="largest number of jumps"):
        sol = simulate_ssa(network, torch.zeros(1), t, trajectories=2, seed=0, max_jumps=20, on_failure="warn")
    assert sol.status.tolist() == [JumpStatus.MAX_JUMPS] * 2
    assert torch.isfinite(sol.x[:, :2]).all()
    assert torch.isnan(sol.x[:, 2]).all()


@pytest.mark.parametrize("simulate", [simulate_ssa, simulate_tau_leaping])
def test_bad_propensities_and_missing_molecules_stop_their_own_trajectory_only(simulate):
    a, b, t = torch.tensor([[1.0]]), torch.tensor([[0.0]]), grid(0.0, 4.0)

    def careless(x, rates):
        return rates * torch.ones_like(x)

    def broken(x, rates):
        return rates * torch.where(x > 2, torch.nan, x)

    start = torch.tensor([[0.0], [100.0]])
    sol = simulate(ReactionNetwork(a, b, torch.ones(1), propensities=careless), start, t, seed=0, on_failure="return")
    assert sol.status.tolist() == [JumpStatus.NEGATIVE_COUNT, JumpStatus.SUCCESS]
    assert torch.isnan(sol.x[0, 1]).all()
    start = torch.tensor([[1.0], [3.0]])
    sol = simulate(ReactionNetwork(a, b, torch.ones(1), propensities=broken), start, t, seed=0, on_failure="return")
    assert JumpStatus.of(int(sol.status[0])).success
    assert sol.status[1] == JumpStatus.BAD_PROPENSITY


@pytest.mark.parametrize("simulate", [simulate_ssa, simulate_tau_leaping])
def test_bad_arguments_are_refused_in_one_sentence(simulate):
    network, t = ReactionNetwork.parse(BIRTH_DEATH), grid(0.0, 1.0)
    for call, error, text in [
        (lambda: simulate(network, torch.tensor([-1.0]), t, seed=0), OptionError, r"x0\[0\] is -1"),
        (lambda: simulate(network, torch.tensor([0.5]), t, seed=0), OptionError, "whole numbers of molecules"),
        (lambda: simulate(network, torch.tensor([1.0]), t.flip(0), seed=0), TimeGridError, "increase strictly"),
        (lambda: simulate(network, torch.tensor([1.0]), t), OptionError, "seed"),
        (lambda: simulate(network, torch.tensor([1.0]), t, seed=0, on_failure="ignore"), OptionError, "on_failure"),
    ]:
        with pytest.raises(error, match=text):
            call()


@pytest.mark.parametrize("options", [{"dt": 0.0}, {"dt": -1.0}, {"epsilon": 0.0}, {"epsilon": 1.0}])
def test_tau_leaping_refuses_steps_that_are_not_positive(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        simulate_tau_leaping(ReactionNetwork.parse(BIRTH_DEATH), torch.zeros(1), grid(0, 1), seed=0, **options)


def test_tau_leaping_has_the_moments_of_birth_and_death_in_few_leaps():
    network = ReactionNetwork.parse({"0 -> A": 2000.0, "A -> 0": 1.0})
    sol = simulate_tau_leaping(
        network, torch.tensor([500.0]), grid(0.0, 1.0, 3.0), trajectories=3000, seed=0, epsilon=0.01
    )
    for k, t in ((1, 1.0), (2, 3.0)):
        stay = math.exp(-t)
        mean, variance = 500 * stay + 2000 * (1 - stay), 500 * stay * (1 - stay) + 2000 * (1 - stay)
        assert abs(float(sol.x[:, k].mean()) / mean - 1) < 0.01
        assert abs(float(sol.x[:, k].var()) / variance - 1) < 0.12
    assert sol.n_jumps.max() < 600  # against about 5,000 reactions


def test_tau_leaping_with_few_molecules_is_exact():
    network = ReactionNetwork.parse(BIRTH_DEATH)
    _, chain = network.master_equation([40])
    sol = simulate_tau_leaping(network, torch.tensor([2.0]), grid(0.0, 1.2), trajectories=10_000, seed=1)
    law = chain.marginals(torch.eye(41, dtype=F64)[2], 1.2)
    assert chi_square(torch.bincount(sol.x[:, 1, 0].long(), minlength=41).to(F64), law) < 4.0


def test_fixed_leaps_have_a_bias_of_first_order():
    # mean after n leaps of size h: (1 - h)^n, against exp(-t)
    network = ReactionNetwork.parse({"A -> 0": 1.0})
    for n in (4, 8):
        sol = simulate_tau_leaping(
            network, torch.tensor([1e6]), grid(0.0, 1.0), trajectories=50, seed=0, dt=1.0 / n, on_failure="raise"
        )
        assert abs(float(sol.x[:, 1].mean()) / 1e6 - (1 - 1 / n) ** n) < 5e-4
        assert sol.n_jumps.tolist() == [n] * 50


def test_leaps_never_make_counts_negative():
    network = ReactionNetwork.parse({"A -> B": 10.0, "B -> A": 0.1, "A + B -> 0": 0.01})
    t = torch.linspace(0.0, 3.0, 31, dtype=F64)
    sol = simulate_tau_leaping(network, torch.tensor([300.0, 5.0]), t, trajectories=200, seed=0, epsilon=0.3)
    assert sol.success
    assert sol.x.min() >= 0
    assert torch.equal(sol.x, sol.x.round())


def test_a_rate_matrix_leaps_as_independent_walkers():
    chain = RateMatrix.birth_death(torch.tensor([1.0, 2.0], dtype=F64), torch.tensor([0.5, 1.0], dtype=F64))
    start = torch.tensor([9000.0, 0.0, 0.0])
    sol = simulate_tau_leaping(chain, start, grid(0.0, 0.8), trajectories=200, seed=0, epsilon=0.01)
    law = chain.marginals(torch.tensor([1.0, 0.0, 0.0], dtype=F64), 0.8)
    assert_close(sol.x[:, 1].sum(-1), torch.full((200,), 9000.0, dtype=F64))
    assert_close(sol.x[:, 1].mean(0) / 9000, law, rtol=0.0, atol=2e-3)


def test_solutions_become_datasets_with_units():
    network = ReactionNetwork.parse(BIRTH_DEATH)
    sol = simulate_ssa(network, torch.tensor([5.0]), grid(0.0, 1.0), trajectories=3, seed=0)
    ds = sol.to_xarray(species=network.species, time_units="min")
    assert ds["A"].dims == ("trajectory", "time")
    assert (ds["A"].attrs["units"], ds["time"].attrs["units"]) == ("molecule", "min")

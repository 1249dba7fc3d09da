"""Rate matrices and reaction networks against closed forms and SciPy's matrix exponential."""

import math

import pytest
import torch
from scipy.linalg import expm
from torch.testing import assert_close

from scidyn.errors import DataError, NonFiniteError, OptionError, ShapeError
from scidyn.solvers import RateMatrix, ReactionNetwork

F64 = torch.float64


def random_rates(size=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(size, size, generator=g, dtype=F64)


def test_transition_matrix_equals_scipys_exponential():
    chain = RateMatrix.from_rates(random_rates())
    for t in (0.0, 0.3, 4.0):
        assert_close(chain.transition_matrix(t), torch.from_numpy(expm(chain.Q.numpy() * t)), rtol=1e-11, atol=1e-12)


def test_two_state_chain_relaxes_at_the_sum_of_its_rates():
    a, b = 2.0, 3.0
    chain = RateMatrix(torch.tensor([[-a, a], [b, -b]], dtype=F64))
    t = torch.linspace(0.0, 2.0, 9, dtype=F64)
    open_ = a / (a + b) * (1 - torch.exp(-(a + b) * t))
    assert_close(chain.marginals(torch.tensor([1.0, 0.0], dtype=F64), t)[:, 1], open_)


def test_birth_death_stationary_law_obeys_detailed_balance():
    birth, death = torch.tensor([3.0, 1.0, 0.5], dtype=F64), torch.tensor([1.0, 2.0, 0.25], dtype=F64)
    weight = torch.cat([torch.ones(1, dtype=F64), (birth / death).cumprod(0)])
    assert_close(RateMatrix.birth_death(birth, death).stationary(), weight / weight.sum())


def test_marginals_are_differentiable_in_the_rates():
    p0 = torch.tensor([0.2, 0.5, 0.3], dtype=F64)

    def run(rates):
        return RateMatrix.from_rates(rates).marginals(p0, 0.7)

    assert torch.autograd.gradcheck(run, (random_rates(3).requires_grad_(),))


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: RateMatrix(torch.tensor([[-1.0, 1.0], [-2.0, 2.0]])), OptionError, r"Q\[1, 0\].*is -2"),
        (lambda: RateMatrix(torch.tensor([[-1.0, 2.0], [1.0, -1.0]])), OptionError, "row 0 of Q sums to 1"),
        (lambda: RateMatrix(torch.zeros(2, 3)), ShapeError, "square"),
        (lambda: RateMatrix(torch.full((2, 2), math.nan)), NonFiniteError, r"Q\[0, 0\] is nan"),
        (lambda: RateMatrix.from_rates(random_rates()).transition_matrix(-1.0), OptionError, "t must be >= 0"),
        (lambda: RateMatrix.from_rates(random_rates(2)).marginals(torch.ones(2), 1.0), OptionError, "sums to 2"),
        (lambda: RateMatrix(torch.zeros(2, 2)).stationary(), DataError, "2 stationary laws"),
        (lambda: RateMatrix(torch.zeros(2, 2)).start(torch.tensor([2])), OptionError, "0 … 1"),
        (lambda: RateMatrix(torch.zeros(2, 2)).start(torch.tensor([0.0])), ShapeError, "whole state indices"),
    ],
)
def test_bad_rate_matrices_are_refused_in_one_sentence(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_mass_action_counts_ordered_pairs_and_scales_with_the_volume():
    network = ReactionNetwork.parse({"0 -> A": 3.0, "A -> B": 0.5, "A + B -> C": 2.0, "3 A -> B": 0.25}, volume=10.0)
    got = network.propensities(torch.tensor([5.0, 4.0, 0.0], dtype=F64))
    assert_close(got, torch.tensor([30.0, 2.5, 2.0 / 10 * 20, 0.25 / 100 * 60], dtype=F64))
    assert_close(network.propensities(torch.tensor([2.0, 1.0, 9.0], dtype=F64))[-1], torch.tensor(0.0, dtype=F64))


def test_rate_equation_is_the_large_volume_limit_of_the_propensities():
    network = ReactionNetwork.parse({"2 A -> B": 0.7, "B -> A": 0.2}, volume=1e9)
    c = torch.tensor([1.5, 0.4], dtype=F64)
    drift = network.propensities(c * 1e9) @ network.stoichiometry / 1e9
    assert_close(network.rate_equation(torch.tensor(0.0), c), drift, rtol=1e-8, atol=0.0)
    assert_close(drift, torch.tensor([-2 * 0.7 * 1.5**2 + 0.2 * 0.4, 0.7 * 1.5**2 - 0.2 * 0.4], dtype=F64))


def test_master_equation_of_birth_and_death_has_a_poisson_law():
    states, chain = ReactionNetwork.parse({"0 -> A": 4.0, "A -> 0": 1.0}).master_equation([60])
    n = states[:, 0]
    poisson = torch.exp(n * math.log(4.0) - 4.0 - torch.lgamma(n + 1))
    assert_close(chain.stationary(), poisson, rtol=1e-8, atol=1e-12)


def test_master_equation_of_two_species_puts_rates_where_the_reactions_lead():
    states, chain = ReactionNetwork.parse({"A -> B": 2.0, "B -> 0": 1.0}).master_equation([2, 1])
    index = {tuple(s): k for k, s in enumerate(states.long().tolist())}
    assert chain.off_diagonal[index[2, 0], index[1, 1]] == 4.0
    assert chain.off_diagonal[index[1, 1], index[1, 0]] == 1.0
    assert chain.off_diagonal[index[2, 1]].tolist() == [1.0 if k == index[2, 0] else 0.0 for k in range(6)]


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: ReactionNetwork.parse({"A -> B": -1.0}), OptionError, r"rates\[0\] is -1"),
        (lambda: ReactionNetwork.parse({"A = B": 1.0}), OptionError, "one '->'"),
        (lambda: ReactionNetwork.parse({"A - B -> C": 1.0}), OptionError, "cannot read 'A - B'"),
        (lambda: ReactionNetwork.parse({"A -> B": 1.0}, species=["A"]), OptionError, "species 'B'"),
        (lambda: ReactionNetwork.parse({}), OptionError, "at least one reaction"),
        (lambda: ReactionNetwork.parse({"A -> B": 1.0}, volume=0.0), OptionError, "volume"),
        (lambda: ReactionNetwork(torch.ones(2, 2), torch.ones(2, 3), torch.ones(2)), ShapeError, "one shape"),
        (lambda: ReactionNetwork(torch.ones(2, 2), torch.ones(2, 2), torch.ones(3)), ShapeError, r"shape \(2,\)"),
        (lambda: ReactionNetwork(0.5 * torch.ones(1, 1), torch.ones(1, 1), torch.ones(1)), OptionError, "whole"),
        (lambda: ReactionNetwork.parse({"A -> B": 1.0}).start(torch.tensor([-1.0, 0.0])), OptionError, "negative"),
        (lambda: ReactionNetwork.parse({"A -> B": 1.0}).start(torch.tensor([1.0])), ShapeError, "2 species"),
        (lambda: ReactionNetwork.parse({"A -> B": 1.0}).start(torch.ones(3, 2), 4), OptionError, "trajectories=4"),
        (lambda: ReactionNetwork.parse({"A -> B": 1.0}).master_equation([300, 300]), DataError, "90601 states"),
    ],
)
def test_bad_networks_are_refused_in_one_sentence(make, error, text):
    with pytest.raises(error, match=text):
        make()

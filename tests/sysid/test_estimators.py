"""What every estimator promises."""

import numpy as np
import pytest
import torch

import scidyn
from scidyn.errors import ArtifactError, DataError, NotFittedError, OptionError, TimeGridError
from scidyn.sysid import HybridODE, MechanisticODE, NeuralODE
from scidyn.systems import LotkaVolterra

MAKERS = {
    "mechanistic": lambda **o: MechanisticODE(LotkaVolterra(), **o),
    "neural": lambda **o: NeuralODE(**o),
    "hybrid": lambda **o: HybridODE(LotkaVolterra(), **o),
}
KINDS = list(MAKERS)


@pytest.mark.parametrize("kind", KINDS)
def test_options_are_stored_and_copied(kind):
    model = MAKERS[kind](seed=3)
    params = model.get_params()
    assert params["seed"] == 3
    assert model.set_params(confidence=0.5) is model
    copy = model.clone()
    assert type(copy) is type(model)
    assert copy is not model
    assert copy.get_params() == model.get_params()
    assert "seed=3" in repr(copy)
    with pytest.raises(OptionError, match="Did you mean 'confidence'"):
        model.set_params(confidense=0.5)
    with pytest.raises(OptionError, match="Did you mean 'noise'"):
        MAKERS[kind](nois="normal")


@pytest.mark.parametrize("kind", KINDS)
def test_not_fitted(kind, record, tmp_path):
    model = MAKERS[kind]()
    for call in (
        lambda: model.predict([1921.0]),
        lambda: model.simulate([1921.0, 1922.0]),
        lambda: model.score(record),
        lambda: model.save(tmp_path / "m"),
        lambda: model.vector_field(0.0, [1.0, 1.0]),
        model.equations,
        lambda: model.fitted_,
    ):
        with pytest.raises(NotFittedError, match="call fit"):
            call()
    assert not hasattr(model, "parameters_")


@pytest.mark.parametrize("kind", KINDS)
def test_results(kind, fits, record):
    model = fits[kind]
    assert model.variables_ == ["hare", "lynx"]
    assert model.units_ == {"time": "year", "hare": "thousand pelts", "lynx": "thousand pelts"}
    assert model.times_.tolist() == list(range(1900, 1921))
    assert model.noise_model_ == "lognormal"
    assert model.noise_std_["variable"].values.tolist() == ["hare", "lynx"]
    assert bool((model.noise_std_ > 0).all())
    assert bool((model.fitted_["hare_lower"] < model.fitted_["hare"]).all())
    assert model.fitted_["lynx_upper"].attrs["units"] == "thousand pelts"
    assert model.residuals_.sizes == {"time": 21}
    assert {"loss", "validation"} <= set(model.history_.data_vars)
    assert {"versions", "seed", "date", "data_sha256", "settings"} <= set(model.provenance_)
    assert np.isfinite(model.score(record))
    assert model.equations()


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_continue_the_fit(kind, fits, record):
    model = fits[kind]
    again = model.predict(record["time"].values)
    np.testing.assert_allclose(again["hare"], model.fitted_["hare"], rtol=1e-8 if kind == "mechanistic" else 1e-5)
    wide, narrow = model.predict([1925.0], interval=0.95), model.predict([1925.0], interval=0.5)
    assert wide["hare_lower"].item() < narrow["hare_lower"].item() < narrow["hare_upper"].item()
    assert narrow["hare_upper"].item() < wide["hare_upper"].item()
    with pytest.raises(TimeGridError, match="starts at 1900"):
        model.predict([1899.0])
    with pytest.raises(TimeGridError, match="goes back"):
        model.predict([1925.0, 1924.0])
    with pytest.raises(OptionError, match="interval"):
        model.predict([1925.0], interval=90)


@pytest.mark.parametrize("kind", KINDS)
def test_simulation_follows_the_vector_field(kind, fits):
    model = fits[kind]
    start, h = np.array([30.0, 10.0]), 1e-4
    path = model.simulate([1900.0, 1900.0 + h], initial=start)
    step = np.array([float(path[n][1]) for n in ("hare", "lynx")]) - start
    np.testing.assert_allclose(step / h, model.vector_field(1900.0, start), rtol=2e-2, atol=2e-2)
    many = model.simulate([1900.0, 1901.0], initial=[[30.0, 10.0], [20.0, 5.0]])
    assert many.sizes == {"time": 2, "trajectory": 2}
    default = model.simulate([1900.0, 1901.0])
    np.testing.assert_allclose(default["hare"], model.fitted_["hare"][:2], rtol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_files_bring_back_the_same_bits(kind, fits, record, tmp_path):
    model = fits[kind]
    path = model.save(tmp_path / "model")
    again = scidyn.load(path)
    assert type(again) is type(model)
    assert again.predict([1921.0, 1930.5], interval=0.8).identical(model.predict([1921.0, 1930.5], interval=0.8))
    assert again.score(record) == model.score(record)
    assert torch.equal(again.vector_field(0.0, [30.0, 4.0]), model.vector_field(0.0, [30.0, 4.0]))
    for name in ("fitted_", "residuals_", "history_", "noise_std_"):
        assert getattr(again, name).identical(getattr(model, name)), name
    if kind != "neural":
        assert again.parameters_.identical(model.parameters_)
    assert again.provenance_ == model.provenance_
    assert again.get_params().keys() == model.get_params().keys()
    with pytest.raises(ArtifactError, match="nothing was changed"):
        model.save(path)
    model.save(path, overwrite=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_fit_changes_nothing(kind, fits, record):
    model = fits[kind]
    before = model.predict([1921.0])
    with pytest.raises(DataError):
        model.fit(record[["lynx", "hare"]].isel(time=slice(0, 2)))
    assert model.predict([1921.0]).identical(before)


def test_score_refuses_other_records(fits, record):
    model = fits["mechanistic"]
    with pytest.raises(DataError, match="select and convert"):
        model.score(record[["hare"]])
    with pytest.raises(TimeGridError, match="starts before"):
        model.score(record.assign_coords(time=record["time"] - 5))


def test_hybrid_says_what_the_network_carries(fits):
    model = fits["hybrid"]
    assert bool(((model.network_share_ >= 0) & (model.network_share_ < 1)).all())
    assert model.parameters_.attrs["interval"] == "conditional on the network penalty"
    assert bool((model.parameters_["lower"] < model.parameters_["upper"]).all())
    assert "the network carries" in model.equations()


def test_the_same_seed_gives_the_same_network(record):
    one, two = (NeuralODE(hidden=(4,), max_iterations=5, seed=1).fit(record) for _ in range(2))
    assert one.fitted_.identical(two.fitted_)
    other = NeuralODE(hidden=(4,), max_iterations=5, seed=2).fit(record)
    assert not other.fitted_["hare"].equals(one.fitted_["hare"])


def test_after_early_stopping_the_whole_record_is_fitted(fits, record, tmp_path):
    chosen = NeuralODE(hidden=(8,), max_iterations=20, refit=False)
    chosen.fit(record, checkpoint=tmp_path / "state")
    again, first = fits["neural"], chosen.history_.sizes["iteration"]
    assert again.history_.isel(iteration=slice(0, first)).identical(chosen.history_)
    later = again.history_["loss"].values[first:]
    assert len(later) == again.provenance_["training"]["refit_iterations"] > 0
    assert bool((np.diff(later) <= 0).all())
    held = slice(17, 21)  # the validation stretch, which only the last steps saw
    misfit = [float((m.residuals_["hare"][held] ** 2 + m.residuals_["lynx"][held] ** 2).sum()) for m in (again, chosen)]
    assert misfit[0] < misfit[1]
    resumed = NeuralODE(hidden=(8,), max_iterations=20).fit(record, checkpoint=tmp_path / "state")
    assert resumed.fitted_.identical(again.fitted_)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_default_network_follows_the_record(record, seed):
    """Residuals of logarithms below .25: a straight line through the record's logarithms leaves .8 and .9."""
    model = NeuralODE(seed=seed).fit(record)
    assert float(model.residuals_["hare"].std()) < 0.25
    assert float(model.residuals_["lynx"].std()) < 0.25

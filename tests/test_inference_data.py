"""Posteriors in ArviZ's form: groups, values, files, and both kinds of ArviZ."""

import math
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray
from scipy import stats

from sympgp import SSGP, Conservative, Friction, GaussianNoise, GaussNewton, fit
from sympgp.posterior import JointDraws, Posterior, SampledComponent, inference_data
from sympgp.posterior.importance import arviz_module, drawn, weights
from sympgp.systems import Pendulum
from sympgp.trajectories import Trajectories

NUM = 80
NAMES = ("angle", "momentum")
UNITS = {"angle": "rad", "time": "s"}


def small(dissipation, components=1, noise=None, seed=2, duration=5.0) -> Posterior:
    """Irregular data with missing entries, in units that differ between channels."""
    data = Pendulum(friction=0.15).simulate(
        2, rate=5, duration=duration, noise_std=0.1, missing=0.1, irregular=True, seed=seed
    )
    factor = torch.tensor([1.0, 20.0], dtype=torch.float64)
    data = Trajectories(
        list(data.times), [factor * x for x in data.states], names=NAMES, units=UNITS
    )
    model = SSGP(num_features=6, dissipation=dissipation, noise=noise or GaussianNoise())
    engine = GaussNewton(num_components=components, hyperparameter_rounds=1)
    return fit(model, data, inference=engine, progress=False)


@pytest.fixture(scope="module")
def posterior() -> Posterior:
    return small(Friction(), components=2)


@pytest.fixture(scope="module")
def exported(posterior):
    return posterior.to_arviz(NUM, seed=1, weights=True)


def groups(data) -> set[str]:
    names = data.groups() if callable(data.groups) else data.children
    return {name.strip("/") for name in names} - {""}


def test_groups_variables_and_dimensions(posterior, exported):
    count, paths = posterior.data.num_observations, len(posterior.data)
    expected = {
        "posterior": {
            "friction": (),
            "noise_std": ("coordinate",),
            "initial_state": ("trajectory", "coordinate"),
            "component": (),
            "weights": ("weight",),
        },
        "posterior_predictive": {"y": ("observation",)},
        "log_likelihood": {"y": ("observation",)},
        "sample_stats": {
            name: ()
            for name in ("lp", "diverging", "log_importance_ratio", "log_importance_weight")
        },
    }
    kinds = {"observed_data", "constant_data"}
    assert groups(exported) == expected.keys() | kinds
    for group, variables in expected.items():
        assert set(exported[group].data_vars) == set(variables)
        for name, dims in variables.items():
            assert exported[group][name].dims == ("chain", "draw", *dims)
            assert np.isfinite(exported[group][name].values).all()
        assert exported[group].sizes["chain"] == 1 and exported[group].sizes["draw"] == NUM
    sizes = {"coordinate": 2, "trajectory": paths, "weight": len(posterior.components[0].theta) - 1}
    assert sizes.items() <= dict(exported["posterior"].sizes).items()
    for group in kinds:
        for values in exported[group].data_vars.values():
            assert values.dims == ("observation",) and values.sizes["observation"] == count
    assert list(exported["posterior"]["coordinate"].values) == list(NAMES)
    assert exported["posterior"].attrs["units"] == "angle: rad, time: s"


def test_observations_and_where_they_are_from(posterior, exported):
    observed, places = exported["observed_data"]["y"].values, exported["constant_data"]
    position = {name: k for k, name in enumerate(NAMES)}
    for k, value in enumerate(observed):
        path = int(places["trajectory_of"][k])
        channel = position[str(places["coordinate_of"].values[k])]
        times = posterior.data.times[path].tolist()
        row = times.index(float(places["time"][k]))
        assert float(posterior.data.states[path][row, channel]) == value


def test_likelihoods_are_those_of_the_draws(posterior, exported):
    """Gaussian about paths from each draw's first state: they can be told from the residuals."""
    own = exported["log_likelihood"]["y"].values[0]
    noise = exported["posterior"]["noise_std"].values[0]
    channel = np.array([NAMES.index(c) for c in exported["constant_data"]["coordinate_of"].values])
    first = exported["posterior"]["initial_state"].values[0]
    observed, places = exported["observed_data"]["y"].values, exported["constant_data"]
    begin = {
        (k, d): float(t[0]) for k, t in enumerate(posterior.data.times) for d in range(len(NAMES))
    }
    checked = 0
    for k in range(len(observed)):
        path = int(places["trajectory_of"][k])
        if float(places["time"][k]) == begin[path, channel[k]]:
            mean, std = first[:, path, channel[k]], noise[:, channel[k]]
            np.testing.assert_allclose(own[:, k], stats.norm(mean, std).logpdf(observed[k]))
            checked += 1
    assert checked >= 2
    best = posterior.log_likelihood(num_samples=200).mean()
    assert own.mean() == pytest.approx(float(best), abs=0.1)


def test_parameters_have_the_posterior_s_moments(posterior):
    data = posterior.to_arviz(600, seed=0)["posterior"]
    friction, noise = posterior.dissipation(), posterior.noise()
    first = posterior.initial_states
    for values, known in (
        (data["friction"], friction),
        (data["noise_std"], noise),
        (data["initial_state"], first),
    ):
        mean, std = values.values[0].mean(0), values.values[0].std(0)
        deviation = known.stddev.numpy()
        assert np.abs((mean - known.mean.numpy()) / deviation).max() < 0.25
        np.testing.assert_allclose(std, deviation, rtol=0.25)
    share = np.bincount(data["component"].values[0]) / 600
    assert share.tolist() == [0.5, 0.5]
    # In random order: neighbouring draws are of either component.
    assert 220 < np.abs(np.diff(data["component"].values[0])).sum() < 380


def test_replicated_data_look_like_the_data(exported):
    observed = exported["observed_data"]["y"].values
    rank = (exported["posterior_predictive"]["y"].values[0] < observed).mean(0)
    assert stats.kstest(rank, "uniform").pvalue > 1e-3


def test_statistics_are_those_of_the_importance_weights(posterior, exported):
    statistics = exported["sample_stats"]
    found = weights(drawn(posterior, NUM, 1)).log_weights
    own = np.sort(statistics["log_importance_weight"].values[0])
    np.testing.assert_allclose(own, np.sort(found.numpy()))
    assert np.exp(own).sum() == pytest.approx(1.0)
    assert not statistics["diverging"].values.any()


def test_draws_are_those_of_the_seed(posterior, exported):
    again, other = (posterior.to_arviz(NUM, seed=s) for s in (1, 2))
    assert "weights" not in again["posterior"]
    np.testing.assert_array_equal(
        again["posterior"]["friction"].values, exported["posterior"]["friction"].values
    )
    assert (other["posterior"]["friction"] != exported["posterior"]["friction"]).any()


def test_files_keep_everything(exported, tmp_path):
    arviz, _ = arviz_module()
    path = str(tmp_path / "fit.nc")
    exported.to_netcdf(path)
    read = arviz.from_netcdf(path)
    assert groups(read) == groups(exported)
    for group in groups(exported):
        for name, values in exported[group].data_vars.items():
            np.testing.assert_array_equal(read[group][name].values, values.values)
            assert read[group][name].dims == values.dims


def test_arviz_computes_with_it(exported):
    arviz, new = arviz_module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pareto k with few draws, of a single chain
        found = arviz.loo(exported, pointwise=True)
        table = arviz.summary(exported, var_names=["friction", "noise_std"], round_to=6)
    assert math.isfinite(float(found.elpd if new else found.elpd_loo))
    mean = float(exported["posterior"]["friction"].mean())
    assert float(table.loc["friction", "mean"]) == pytest.approx(mean, rel=1e-3)
    assert {f"noise_std[{name}]" for name in NAMES} < set(table.index)


def test_without_friction_there_is_none():
    data = small(Conservative()).to_arviz(20)
    assert "friction" not in data["posterior"] and "noise_std" in data["posterior"]


def test_draws_of_monte_carlo_methods_have_no_ratios(posterior):
    """A bank of draws, some of them repeated in the sample."""
    one = posterior.components[0]
    draws = one.sample(50, torch.Generator().manual_seed(0))
    bank = SampledComponent(
        field=one.field,
        theta=draws.theta.mean(0),
        noise_std=draws.noise_std.mean(0),
        noise_group=one.noise_group,
        noise_dof=None,
        hyperparameters={},
        states=one.states,
        draws=draws,
    )
    sampled = replace(posterior, components=(bank,))
    data = sampled.to_arviz(80, seed=0)
    assert set(data["sample_stats"].data_vars) == {"lp", "diverging"}
    unit = float(one.field.dissipation.unit)
    found = np.sort(data["posterior"]["friction"].values[0])
    np.testing.assert_allclose(found, np.sort((draws.theta[:, -1] * unit).numpy()))
    half = JointDraws(*(None if x is None else x[:20] for x in draws))
    two = replace(posterior, components=(bank, replace(bank, draws=half)))
    assert weights(drawn(two, 80, 0)).log_weights.exp()[40:].sum() == pytest.approx(0.5)


def test_conditioned_posteriors_have_the_new_trajectories(posterior):
    data = posterior.data[:1].between(0.0, 2.0)
    new = posterior.condition(data).to_arviz(40)
    assert set(new["sample_stats"].data_vars) == {"diverging"}
    assert new["observed_data"].sizes["observation"] == data.num_observations
    assert new["posterior"].sizes["trajectory"] == 1


def test_counterfactuals_are_refused(posterior):
    with pytest.raises(ValueError, match="to_arviz: the training trajectories were damped"):
        posterior.without_dissipation().to_arviz()


def test_newer_arviz_takes_groups_in_one_mapping(posterior, monkeypatch):
    """``from_dict`` of version 1: nested groups, dimensions after those of the draws."""

    def from_dict(data, *, coords=None, dims=None):
        tree = {}
        for group, variables in data.items():
            lead = () if "data" in group else ("chain", "draw")
            own = {name: ((*lead, *dims.get(name, ())), v) for name, v in variables.items()}
            used = {dim for names, _ in own.values() for dim in names}
            place = {dim: values for dim, values in coords.items() if dim in used}
            tree[group] = xarray.Dataset(own, coords=place)
        return xarray.DataTree.from_dict(tree)

    fake = SimpleNamespace(from_dict=from_dict)
    expected = posterior.to_arviz(30)
    # Pareto smoothing goes on with the version that is there.
    monkeypatch.setattr(inference_data, "arviz_module", lambda: (fake, True))
    data = posterior.to_arviz(30)
    assert isinstance(data, xarray.DataTree) and groups(data) == groups(expected)
    for group in groups(data):
        for name, values in expected[group].data_vars.items():
            assert data[group][name].dims == values.dims
            np.testing.assert_array_equal(data[group][name].values, values.values)
        assert data[group].attrs["inference_library"] == "sympgp"

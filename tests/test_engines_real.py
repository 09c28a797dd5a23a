"""Every engine with every kind of part: friction, inputs, formulas, positions only."""

import math
from dataclasses import replace

import pytest
import torch
from problems import gaussian, hyperparameters, identity_scaling, ragged_data, randn, tensor
from torch.distributions import LogNormal

import sympgp as sg
from sympgp.dissipation import DiagonalFriction, Friction, MatrixFriction, Rayleigh
from sympgp.energies import FourierEnergy, PhysicsEnergy, QuadraticKinetic, SeparableEnergy
from sympgp.fields import HamiltonianField
from sympgp.inference.checkpoint import energy_mark, fingerprint
from sympgp.inference.linear_model import LinearModel
from sympgp.inference.prior_start import _prior_mean
from sympgp.inference.warm_start import same_data
from sympgp.inference.whitening import Whitening
from sympgp.inputs import KnownInputs, LearnedInputs
from sympgp.shooting.layout import Nodes, Windows
from sympgp.shooting.levenberg_marquardt import levenberg_marquardt
from sympgp.shooting.problem import Estimate, Problem
from sympgp.shooting.sensitivities import nominal_path
from sympgp.systems import Pendulum
from sympgp.trajectories import Trajectories

FORMULA = "p**2/(2*m) + k*(1 - cos(q))"
TRUTH = Pendulum(friction=0.1)
STATES = [[0.8, 0.5], [-0.5, 1.0], [1.2, -0.3]]


def physics(**changes) -> PhysicsEnergy:
    return PhysicsEnergy(FORMULA, {"k": LogNormal(0.0, 1.0), "m": 0.5} | changes)


def torque(t: float) -> float:
    return 0.6 * math.sin(1.3 * t)


def data(kind: str = "all", duration: float = 5.0) -> Trajectories:
    inputs = torque if kind == "driven" else None
    found = TRUTH.simulate(2, rate=5, duration=duration, noise_std=0.05, inputs=inputs, seed=0)
    if kind == "positions":
        states = [x.clone() for x in found.states]
        for x in states:
            x[:, 1] = torch.nan
        found = Trajectories(list(found.times), states)
    return found


def with_mass(**parts) -> sg.HamiltonianModel:
    return sg.SSGP(num_features=6, mass=0.5, **parts)


MODELS = {
    "diagonal": (lambda: with_mass(dissipation=DiagonalFriction()), "all"),
    "drag": (lambda: with_mass(dissipation=Rayleigh(drag="linear")), "all"),
    "learned": (lambda: with_mass(dissipation=Friction(), inputs=LearnedInputs(1)), "driven"),
    "known": (lambda: with_mass(inputs=KnownInputs([[1.0]]), dissipation=Friction()), "driven"),
    "formula": (lambda: sg.HamiltonianModel(physics(), dissipation=Friction()), "all"),
    "positions": (lambda: with_mass(dissipation=Friction()), "positions"),
    "hybrid": (
        lambda: sg.HamiltonianModel(
            physics() + FourierEnergy(1, 2, on="q"),
            dissipation=DiagonalFriction(),
            inputs=LearnedInputs(1, num_features=1),
        ),
        "driven",
    ),
}
ONE = sg.GaussNewton(num_components=1, hyperparameter_rounds=1)


def fit(name: str, engine=ONE, duration: float = 5.0, seed: int = 0) -> sg.Posterior:
    make, kind = MODELS[name]
    return sg.fit(make(), data(kind, duration), inference=engine, seed=seed, progress=False)


def check_alike(posterior, other, deviations: float, ratio: float) -> None:
    """Means within so many of the other's deviations, deviations within a factor."""
    pairs = [
        (posterior.vector_field(STATES), other.vector_field(STATES)),
        (posterior.dissipation(), other.dissipation()),
        (posterior.noise(), other.noise()),
        (posterior.initial_states, other.initial_states),
    ]
    if posterior.num_inputs:
        pairs.append((posterior.input_matrix(STATES), other.input_matrix(STATES)))
    for one, two in pairs:
        known = (two.stddev > 1e-9) & two.mean.isfinite()
        torch.testing.assert_close(one.mean[~known], two.mean[~known], equal_nan=True)
        if not bool(known.any()):
            continue
        off = ((one.mean - two.mean) / two.stddev)[known]
        assert float(off.abs().max()) < deviations
        share = (one.stddev / two.stddev)[known]
        assert float(share.max()) < ratio and float(share.min()) > 1.0 / ratio


# Parts of the engines


def matrix_problem():
    """A solved shooting problem of two degrees of freedom with a full friction matrix."""
    energy = FourierEnergy(2, 2, seed=0)
    damping = MatrixFriction().scaled(identity_scaling(2))
    field = HamiltonianField(energy.basis(hyperparameters(energy)), damping)
    theta = 0.1 * randn(field.num_parameters)
    rows, columns = torch.triu_indices(4, 4)
    theta[8:18][rows == columns] += 1.0
    nodes = Nodes.from_data(ragged_data(2), identity_scaling(2))
    whole = Windows.of_duration(nodes, math.inf)
    path, _ = nominal_path(field.bind(theta), 0.8 * randn(3, 4, seed=3), nodes, whole, 0.2)
    values = torch.zeros_like(nodes.values)
    values[whole.nodes.reshape(-1)] = path.flatten(0, 1)
    values = (values + 0.1 * randn(*values.shape, seed=8)) * nodes.mask
    windows, std = Windows.of_duration(nodes, 2.0), torch.full((4,), 0.1).double()
    nodes = replace(nodes, values=values)
    problem = Problem(nodes, windows, field, gaussian(4, std), 0.2)
    estimate = Estimate(theta, values[windows.start], std, 0.05, torch.ones(4).double())
    return problem, levenberg_marquardt(problem, estimate, max_iterations=20, tolerance=1e-6)


def test_correlated_dissipation_is_whitened():
    """Of parameters with any sign the whole Gaussian is that of Gauss-Newton."""
    problem, solution = matrix_problem()
    estimate = solution.estimate
    linear = LinearModel.about(problem, problem.field, solution)
    infinite = torch.full((4,), torch.inf).double()
    whitening = Whitening.about(linear, estimate.start, problem.noise, estimate.noise_std, infinite)
    slope = torch.func.jacrev(lambda xi: whitening(xi[None]).theta[0])(
        torch.zeros(whitening.size).double()
    )
    covariance = torch.linalg.inv(solution.precision)
    scale = covariance.diagonal().sqrt()
    error = (slope @ slope.mT - covariance) / torch.outer(scale, scale)
    assert float(error.abs().max()) < 1e-6
    rho = covariance[problem.field.num_weights :, problem.field.num_weights :]
    size = rho.diagonal().sqrt()
    assert float((rho / torch.outer(size, size) - torch.eye(3)).abs().max()) > 0.05
    volume = whitening(randn(2, whitening.size)).log_volume
    assert float(volume[0]) == pytest.approx(float(volume[1]), abs=1e-12)


def test_checkpoints_belong_to_inputs_too():
    one = data("driven")
    changed = [u.clone() for u in one.inputs]
    changed[1][3] += 0.1
    other = Trajectories(list(one.times), list(one.states), inputs=changed)
    closed = Trajectories(list(one.times), list(one.states))
    marks = {fingerprint(each, "settings") for each in (one, other, closed)}
    assert len(marks) == 3 and fingerprint(one, "settings") in marks
    assert same_data(one, one)
    assert not any(same_data(one, each) for each in (other, closed))
    assert not same_data(closed, one)


def test_checkpoints_tell_energies_apart():
    energies = [
        FourierEnergy(1, 4),
        FourierEnergy(1, 4, seed=1),
        FourierEnergy(1, 4, periodic=(0,)),
        SeparableEnergy(QuadraticKinetic(), FourierEnergy(1, 4, on="q")),
        physics(),
        physics(m=0.7),
        physics(k=LogNormal(0.0, 2.0)),
        physics() + FourierEnergy(1, 4, on="q"),
        physics(m=0.7) + FourierEnergy(1, 4, on="q"),
    ]
    marks = [energy_mark(sg.HamiltonianModel(energy)) for energy in energies]
    assert len({repr(mark) for mark in marks}) == len(energies)
    assert marks[0] == energy_mark(sg.HamiltonianModel(FourierEnergy(1, 4)))


def test_the_prior_mean_is_where_dissipation_acts():
    """Training starts where the force can grow and shrink; of half-normal priors at zero."""
    scaling, basis = (
        identity_scaling(),
        FourierEnergy(1, 2).basis(hyperparameters(FourierEnergy(1, 2))),
    )
    for family in (Friction(), DiagonalFriction(), MatrixFriction(), Rayleigh()):
        damping = family.scaled(scaling)
        field = HamiltonianField(basis, damping)
        w, rho = field.split(_prior_mean(field))
        assert not w.any()
        slope = damping.parameter_jacobian(torch.zeros(2).double(), tensor([0.3, 0.7]), rho)
        assert bool((slope.norm(dim=0) > 1e-3).all())


# Engines


@pytest.mark.slow
def test_stochastic_vi_takes_all_parts():
    """Formula, remainder, inputs that vary, and friction; a few steps keep what was found."""
    posterior = fit("hybrid", sg.StochasticVI(ONE, num_steps=5, learning_rate=0.02), 3.0)
    slope = posterior.vector_field(STATES, u=[1.0])
    truth = TRUTH.vector_field(tensor(STATES)) + tensor([0.0, 1.0])
    assert float((slope.mean - truth).abs().max()) < 1.0
    table = posterior.to_arviz(20, seed=1)["posterior"]
    assert table["k"].dims == ("chain", "draw")
    assert table["friction"].dims == ("chain", "draw", "momentum")
    assert table["input_matrix"].dims == ("chain", "draw", "coordinate", "input")
    assert list(table["momentum"].values) == ["p"]
    assert 0.5 < float(table["k"].mean()) < 5.0
    exact = float(posterior.input_matrix([[0.0, 0.0]]).mean[0, 1])
    assert float(table["input_matrix"].sel(coordinate="p").mean()) == pytest.approx(exact, abs=0.2)


def test_nuts_takes_positions_alone(tmp_path):
    engine = sg.NUTS(
        num_samples=4, num_warmup=4, num_chains=2, max_tree_depth=3, warm_start=ONE,
        checkpoint=tmp_path / "chains",
    )  # fmt: skip
    posterior = fit("positions", engine, 3.0)
    assert posterior.components[0].draws.theta.shape[0] == 8
    assert posterior.noise().mean.isnan().tolist() == [False, True]
    table = posterior.to_arviz(8)["posterior"]
    assert table["noise_std"].isnull().all(("chain", "draw")).values.tolist() == [False, True]
    rollout = posterior.rollout([1.0, 0.0], [0.0, 1.0, 2.0], num_samples=4)
    assert bool(rollout.samples.isfinite().all())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["learned", "formula"])
def test_sampling_agrees_with_gauss_newton(name):
    engine = sg.NUTS(num_samples=60, num_warmup=40, num_chains=2, warm_start=ONE)
    posterior = fit(name, engine)
    check_alike(posterior, fit(name), 1.0, 1.7)
    assert not posterior.to_arviz(100)["sample_stats"]["diverging"].any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["diagonal", "drag", "known", "formula", "positions", "hybrid"])
def test_training_agrees_with_gauss_newton(name):
    posterior = fit(name, sg.StochasticVI(ONE, num_steps=150))
    check_alike(posterior, fit(name), 1.0, 2.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["drag", "positions"])
def test_from_the_prior_the_same_is_found(name):
    posterior = fit(name, sg.StochasticVI(None, num_components=1, num_steps=150))
    check_alike(posterior, fit(name), 1.5, 2.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["formula", "hybrid"])
def test_hyperparameters_are_sampled_where_there_are_any(name):
    engine = sg.NUTS(
        num_samples=4, num_warmup=4, num_chains=2, max_tree_depth=3, warm_start=ONE,
        hyperparameters=True,
    )  # fmt: skip
    posterior = fit(name, engine)
    assert len(posterior.components) == (1 if name == "formula" else 8)
    check_alike(posterior, fit(name), 4.0, 20.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sympgp.comparison.ComparisonWarning")
def test_models_with_all_parts_are_compared():
    posteriors = {name: fit(name) for name in ("learned", "known", "hybrid")}
    table = sg.compare(posteriors, num_samples=200)
    assert set(table.index) == set(posteriors)
    # The true matrix is known to one of them: none of the others predicts much better.
    assert float(table.loc["known", "elpd_diff"]) < 4.0

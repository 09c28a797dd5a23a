"""Draws on the curved ridge of parameters that share a field."""

import pytest
import torch
from problems import hyperparameters, identity_scaling, randn, tensor

from sympgp import (
    SSGP,
    GaussNewton,
    GradientField,
    MatrixFriction,
    Rayleigh,
    StateDependentFriction,
    fit,
    metrics,
)
from sympgp.energies import FourierEnergy
from sympgp.fields import HamiltonianField
from sympgp.posterior.ridge import EXACT, LEAST, chosen_states, on_ridge
from sympgp.systems import Pendulum

FAMILIES = [
    MatrixFriction(),
    Rayleigh(),
    StateDependentFriction(num_features=3),
    GradientField(),
]
NAMES = ["matrix", "drag", "state", "gradient"]


def problem(family, num_states: int = 40):
    """A field with strong dissipation, a mode, and a root by which data know the field well."""
    energy = FourierEnergy(1, 6)
    field = HamiltonianField(
        energy.basis(hyperparameters(energy)), family.scaled(identity_scaling())
    )
    z = randn(num_states, 2, seed=2)
    stddev = field.prior_precision().rsqrt()
    mode = 0.3 * stddev * randn(len(stddev), seed=3)
    mode[field.num_weights :] = (1.5 * stddev)[field.num_weights :]
    jacobian = field.parameter_jacobian(z, mode).flatten(0, 1)
    precision = field.prior_precision().diag() + 1e4 * jacobian.mT @ jacobian
    root = torch.linalg.cholesky(torch.linalg.inv(precision))
    return field, mode, root, z


def off(field, mode, root, theta, z):
    """Distance of one draw's field from the linear one, by 0.3 deviations of every direction."""
    jacobian = field.parameter_jacobian(z, mode)
    target = field.bind(mode)(0.0, z) + jacobian @ (theta - mode)
    own = (jacobian @ root).flatten(0, 1)
    values, vectors = torch.linalg.eigh(own @ own.mT)
    deviation = (values + LEAST**2 * values.mean()).sqrt()
    return lambda other: (
        (field.bind(other)(0.0, z) - target).flatten() @ vectors / (EXACT * deviation)
    )


@pytest.mark.parametrize("num_states", [5, 40], ids=["few", "many"])
@pytest.mark.parametrize("family", FAMILIES, ids=NAMES)
def test_every_draw_is_the_nearest_one_with_the_linear_field(family, num_states):
    """The gradient of the objective vanishes, and fields agree better by far."""
    field, mode, root, z = problem(family, num_states)
    theta = mode + randn(20, len(mode), seed=4) @ root.mT
    moved = on_ridge(field, mode, root, theta, z)
    stddev = field.prior_precision().rsqrt()
    before, after, slopes = [], [], [0.0]
    for first, last in zip(theta, moved, strict=True):
        distance = off(field, mode, root, first, z)
        before.append(float(distance(first).square().mean().sqrt()))
        after.append(float(distance(last).square().mean().sqrt()))
        if torch.equal(first, last):
            assert before[-1] < 1.0
            continue

        def objective(white, first=first, distance=distance):
            return distance(first + stddev * white).square().sum() + white.square().sum()

        white = (last - first) / stddev
        value, lowest = objective(torch.zeros_like(white)), objective(white)
        assert float(lowest) < float(value)
        slope = torch.func.grad(objective)(white)
        start = torch.func.grad(objective)(torch.zeros_like(white))
        slopes.append(float(slope.norm() / start.norm()))
    assert sorted(slopes)[len(slopes) // 2] < 0.02
    assert sorted(after)[10] < 1.0 or sorted(after)[10] < 0.2 * sorted(before)[10]


def test_draws_that_are_on_it_stay():
    field, mode, root, z = problem(MatrixFriction())
    theta = mode + 1e-4 * randn(10, len(mode), seed=4) @ root.mT
    assert torch.equal(on_ridge(field, mode, root, theta, z), theta)


def test_counterfactuals_have_the_same_draws():
    field, mode, root, z = problem(GradientField())
    theta = mode + randn(10, len(mode), seed=4) @ root.mT
    found = on_ridge(field, mode, root, theta, z)
    for other in (field.undamped(), field.undamped().undamped()):
        assert torch.equal(on_ridge(other, mode, root, theta, z), found)
    drag, mode, root, z = problem(Rayleigh())
    theta = mode + randn(10, len(mode), seed=4) @ root.mT
    found = on_ridge(drag, mode, root, theta, z)
    assert torch.equal(on_ridge(drag.undamped(), mode, root, theta, z), found)


def test_chosen_states_are_few_and_spread_evenly():
    z = torch.arange(1000.0).unsqueeze(1).expand(-1, 4)
    found = chosen_states(z)
    assert len(found) == 20 and float(found[0, 0]) == 0.0 and float(found[-1, 0]) == 999.0
    assert torch.equal(chosen_states(z[:3]), z[:3])


def test_what_is_known_well_agrees_better_than_the_rest():
    """Differences are judged by the posterior of each direction, not by that of single rates."""
    field, mode, root, z = problem(GradientField())
    theta = mode + randn(20, len(mode), seed=4) @ root.mT
    moved = on_ridge(field, mode, root, theta, z)
    jacobian = field.parameter_jacobian(z, mode).flatten(0, 1)
    values, vectors = torch.linalg.eigh((jacobian @ root) @ (jacobian @ root).mT)
    variance = values + LEAST**2 * values.mean()
    assert float(variance.max() / variance.min()) > 1e3
    linear = field.bind(mode)(0.0, z).flatten() + (theta - mode) @ jacobian.mT
    for first, least in ((theta, False), (moved, True)):
        fields = torch.stack([field.bind(one)(0.0, z).flatten() for one in first])
        error = ((fields - linear) @ vectors).square().median(0).values / variance
        assert bool((error < 0.5).all()) == least


@pytest.mark.slow
@pytest.mark.parametrize("family", [Rayleigh(), GradientField()], ids=["drag", "gradient"])
def test_forecasts_are_as_good_as_with_one_friction(family):
    """The Gaussian's own draws lose energy too fast: median errors above 0.05, and 0.6 covered."""
    system = Pendulum(friction=0.05)
    data = system.simulate(5, rate=5, duration=10, noise_std=0.1, seed=0)
    engine = GaussNewton(num_components=1)
    model = SSGP(num_features=40, dissipation=family)
    posterior = fit(model, data, inference=engine, progress=False)
    starts = system.sample_initial(25, seed=1000)
    times = torch.linspace(0.0, 15.0, 151, dtype=torch.float64)
    found, truth = posterior.rollout(starts, times, 50, seed=1), system.exact(starts, times)
    errors = metrics.trajectory_mse(found, truth, per_trajectory=True)
    assert float(errors.median()) < 0.01
    assert 0.8 < float(metrics.coverage(found, truth)) < 0.98
    assert bool((posterior.noise_std - tensor(0.1)).abs().max() < 0.02)

"""Noise: densities and weights of its laws, known and tied levels, and fits that use them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import NAN, canonical, gaussian, randn, tensor
from scipy import stats
from scipy.integrate import quad
from scipy.optimize import minimize

from sympgp import SSGP, Friction, GaussianNoise, GaussNewton, StudentTNoise, fit
from sympgp.noise import DEGREES, RATE, SHAPE, Noise, ScaledNoise, log_density
from sympgp.systems import DoublePendulum, Pendulum
from sympgp.trajectories import Trajectories

ENGINE = GaussNewton(num_components=2)
QUICK = GaussNewton(num_components=1, hyperparameter_rounds=1)
PAIRS = ((0, 1), (2, 3))
MANY = st.floats(1.0, 60.0)
"""Degrees of freedom."""


def student(dof: float, dim: int = 1, free: bool = False) -> ScaledNoise:
    return replace(gaussian(dim), dof=dof, free=free)


def tied(num_dof: int = 2, **settings) -> ScaledNoise:
    """Coordinates share one level and momenta another, in units that differ widely."""
    return StudentTNoise(tied=PAIRS, **settings).scaled(canonical(num_dof))


# densities


@pytest.mark.parametrize("dof", [None, 1.0, 2.5, 30.0])
def test_densities_are_those_of_scipy(dof):
    residual, std = 3.0 * randn(50, 3), randn(3, seed=1).exp()
    law = stats.norm if dof is None else stats.t(dof)
    expected = torch.as_tensor(law.logpdf((residual / std).numpy())) - std.log()
    torch.testing.assert_close(log_density(residual, std, dof), expected)


def test_many_degrees_of_freedom_are_gaussian():
    residual, std = randn(20), tensor(0.7)
    torch.testing.assert_close(
        log_density(residual, std, 1e7), log_density(residual, std, None), atol=1e-5, rtol=0
    )


@given(MANY, st.floats(-8.0, 8.0), st.floats(-8.0, 8.0), st.floats(0.1, 10.0))
def test_weighted_squares_touch_the_density_from_above(dof, here, there, std):
    """``w r^2 / 2 s^2`` has the slope of ``-log t`` at its residual, and exceeds it elsewhere."""
    residual, scale = std * tensor([[here]]), tensor([std])
    weight = student(dof).weights(residual, scale)
    leaf = residual.clone().requires_grad_()
    (slope,) = torch.autograd.grad(-log_density(leaf, scale, dof).sum(), leaf)
    torch.testing.assert_close(weight * residual / scale**2, slope)
    other = std * tensor([[there]])
    bound = 0.5 * weight * (other**2 - residual**2) / scale**2
    rise = log_density(residual, scale, dof) - log_density(other, scale, dof)
    assert float(rise) <= float(bound) + 1e-10


def test_gaussian_residuals_weigh_the_same():
    assert torch.equal(gaussian(2).weights(randn(5, 2), tensor([0.1, 3.0])), torch.ones(5, 2))
    assert gaussian(2).information == gaussian(2).scale_information == 1.0


@pytest.mark.parametrize("dof", [1.0, 2.0, 4.0, 30.0])
def test_information_is_that_of_fisher(dof):
    """Squared slopes of the log density, averaged, for the mean and the scale."""

    def average(slope):
        return quad(lambda r: slope(r) ** 2 * stats.t.pdf(r, dof), -math.inf, math.inf)[0]

    def score(r):
        return (dof + 1.0) * r / (dof + r**2)

    law = student(dof)
    assert law.information == pytest.approx(average(score), rel=1e-6)
    # Of a Gaussian the information about the logarithm of the scale is two.
    assert law.scale_information == pytest.approx(average(lambda r: r * score(r) - 1) / 2, rel=1e-6)


# scales and degrees of freedom


def drawn(dof: float | None, count: int = 3000, seed: int = 0) -> torch.Tensor:
    """Residuals (count, 2) of scales 0.1 and 0.03."""
    generator = np.random.default_rng(seed)
    law = stats.norm if dof is None else stats.t(dof)
    values = law.rvs(size=(count, 2), random_state=generator)
    return torch.as_tensor(values) * tensor([0.1, 0.03])


def neighbours(dof: float) -> tuple[float, ...]:
    index = min(range(len(DEGREES)), key=lambda k: abs(DEGREES[k] - dof))
    return DEGREES[max(0, index - 1) : index + 2]


@pytest.mark.parametrize("dof", [1.0, 2.0, 4.0, 8.0])
def test_degrees_of_freedom_and_scales_are_found(dof):
    residual = drawn(dof)
    law, std = student(DEGREES[-1], 2, free=True).refined(residual, torch.ones(3000, 2).bool())
    assert law.dof in neighbours(dof) and law.free
    assert std.tolist() == pytest.approx([0.1, 0.03], rel=0.1)


def test_gaussian_residuals_take_many_degrees_of_freedom():
    law, std = student(1.0, 2, free=True).refined(drawn(None), torch.ones(3000, 2).bool())
    assert law.dof is not None and law.dof >= DEGREES[-2]
    assert std.tolist() == pytest.approx([0.1, 0.03], rel=0.06)


@pytest.mark.parametrize("dof", [1.0, 3.0, 20.0])
def test_scales_maximise_the_density_and_the_prior(dof):
    """Against a general optimiser, with the inverse-gamma prior of the variance."""
    residual = drawn(2.0, 200)
    law, std = student(dof, 2).refined(residual, torch.ones(200, 2).bool())
    assert law.dof == dof

    def objective(log: np.ndarray) -> float:
        scale = torch.as_tensor(log).exp()
        prior = (2 * SHAPE + 2) * scale.log() + RATE / scale**2
        return float(prior.sum() - log_density(residual, scale, dof).sum())

    best = minimize(objective, std.log().numpy(), method="Nelder-Mead", options={"xatol": 1e-6})
    assert std.tolist() == pytest.approx(np.exp(best.x).tolist(), rel=2e-3)


def test_what_is_not_observed_does_not_count():
    residual, mask = drawn(3.0, 400), torch.ones(400, 2).bool()
    law, std = student(30.0, 2, free=True).refined(residual[:300], mask[:300])
    mask[300:] = False
    residual[300:] = 1e3
    again, same = student(30.0, 2, free=True).refined(residual, mask)
    assert again.dof == law.dof
    torch.testing.assert_close(same, std)


# known and tied levels


def test_known_levels_stay():
    scaling = canonical()
    law = StudentTNoise(std=[0.2, NAN], dof=3).scaled(scaling)
    known = 0.2 / scaling.scale[0]
    residual = randn(60, 2)
    found = (
        law.start(tensor([7.0, 8.0])),
        law.update(tensor([5.0, 6.0]), tensor([50.0, 50.0])),
        law.refined(residual, residual.isfinite())[1],
    )
    for std in found:
        torch.testing.assert_close(std[0], known)
        assert float((std[1] / known - 1.0).abs()) > 1e-3
    assert found[0][1] == 8.0
    assert law.shape(tensor([40.0, 40.0])).isinf().tolist() == [True, False]


def test_one_known_number_is_that_of_every_channel():
    scaling = canonical(2)
    law = GaussianNoise(std=0.3).scaled(scaling)
    torch.testing.assert_close(law.known * scaling.scale, torch.full((4,), 0.3).double())
    assert GaussianNoise(std=NAN).scaled(scaling).known.isnan().all()
    assert law.dof is None and not law.free


def test_a_single_channel_moves_to_its_fixed_point():
    """``(RSS + 2 b) / (spare + 2 a + 2)`` in scaled units, whatever the user's."""
    law = GaussianNoise().scaled(canonical(2))
    squares, spare = randn(4).exp(), 30.0 + randn(4, seed=1).exp()
    expected = (squares + 2 * RATE) / (spare + 2 * SHAPE + 2)
    torch.testing.assert_close(law.update(squares, spare).square(), expected)


def test_tied_channels_are_one_channel_in_user_units():
    """The update and the posterior's shape of two channels are those of their pooled data."""
    law, unit = tied(), canonical(2).scale
    squares, spare = randn(4).exp(), 20.0 + randn(4, seed=1).exp()
    user = law.update(squares, spare) * unit
    for one, other in PAIRS:
        assert float(user[one]) == pytest.approx(float(user[other]), rel=1e-12)
        total = (squares * unit**2)[[one, other]].sum()
        pooled = total / (spare[[one, other]].sum() + 2 * SHAPE + 2)
        assert float(user[one] ** 2) == pytest.approx(float(pooled), rel=1e-4)
        shape = law.shape(spare)[[one, other]]
        share = 0.5 * law.scale_information * float(spare[[one, other]].sum())
        assert shape.tolist() == pytest.approx([SHAPE + share] * 2)
    assert float((user[0] / user[2] - 1.0).abs()) > 1e-2


def test_tied_first_guesses_are_root_mean_squares():
    law, unit, guess = tied(), canonical(2).scale, randn(4).exp()
    expected = ((guess * unit)[[0, 1]] ** 2).mean().sqrt()
    torch.testing.assert_close((law.start(guess) * unit)[:2], expected.expand(2))


def test_tied_scales_are_those_of_all_their_residuals():
    residual = drawn(2.0, 400).repeat(1, 2) * tensor([1.0, 5.0, 0.2, 1.0])
    law = tied(dof=2)
    _, std = law.refined(residual / law.unit, torch.ones(400, 4).bool())
    user = std * law.unit
    for one, other in PAIRS:
        both = residual[:, [one, other]].reshape(-1, 1)
        _, alone = student(2.0).refined(both, torch.ones(800, 1).bool())
        assert user[[one, other]].tolist() == pytest.approx([float(alone)] * 2, rel=1e-3)


def test_channels_are_their_own_group_unless_tied():
    assert GaussianNoise().scaled(canonical(2)).group.tolist() == [0, 1, 2, 3]
    assert GaussianNoise(tied=((3, 1),)).scaled(canonical(2)).group.tolist() == [0, 3, 2, 3]


# what is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"std": 0.0}, "std: expected a positive number, or one for each channel, got 0.0"),
        ({"std": [0.1, -1.0]}, "std: expected a positive number"),
        ({"std": math.inf}, "std: expected a positive number"),
        ({"std": [[0.1, 0.2]]}, "std: expected a positive number, or one for each channel"),
        ({"std": "loud"}, "std: expected real numbers"),
        ({"tied": ((0, 1), (1, 2))}, "tied: expected each channel in one group"),
        ({"tied": ((0, 0),)}, "tied: expected each channel in one group"),
    ],
)
@pytest.mark.parametrize("kind", [GaussianNoise, StudentTNoise])
def test_levels_and_groups_that_cannot_be_are_named(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(**settings)


@pytest.mark.parametrize("dof", [0.5, -1, math.inf, NAN])
def test_degrees_of_freedom_below_one_are_refused(dof):
    with pytest.raises(ValueError, match="dof: expected a finite number of at least 1"):
        StudentTNoise(dof=dof)


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (GaussianNoise(std=[0.1, 0.2]), "std: expected one number or 4, got 2"),
        (GaussianNoise(tied=((0, 4),)), "tied: expected channels from 0 to 3"),
        (GaussianNoise(tied=((-1, 0),)), "tied: expected channels from 0 to 3"),
        (GaussianNoise(std=0.1, tied=PAIRS), "tied: the noise of a channel of .* is given by std"),
    ],
)
def test_noise_of_other_data_is_named(noise, message):
    with pytest.raises(ValueError, match=message):
        noise.scaled(canonical(2))


# fits with one degree of freedom


def with_outliers(share: float, size: float = 0.5, seed: int = 3) -> Trajectories:
    """A pendulum's data, of noise 0.05, with outliers on top."""
    data = Pendulum().simulate(4, rate=5, duration=6, noise_std=0.05, seed=1)
    states = []
    for k, x in enumerate(data.states):
        hit = torch.rand(x.shape, generator=torch.Generator().manual_seed(100 * seed + k)) < share
        states.append(x + size * hit * randn(*x.shape, seed=100 * seed + k))
    return Trajectories(list(data.times), states)


def fitted(data: Trajectories, noise: Noise, engine: GaussNewton = QUICK):
    return fit(SSGP(num_features=20, noise=noise), data, inference=engine, progress=False)


def test_known_noise_is_the_fits_noise():
    posterior = fitted(with_outliers(0.0), GaussianNoise(std=[0.05, NAN]), ENGINE)
    noise, draws = posterior.noise(), posterior.sample(40).noise_std
    assert float(noise.mean[0]) == pytest.approx(0.05, rel=1e-9)
    assert float(noise.stddev[0]) == 0.0
    torch.testing.assert_close(draws[:, 0], torch.full((40,), 0.05).double())
    assert float(draws[:, 1].std()) > 0.0 and float(noise.stddev[1]) > 0.0
    assert float(noise.mean[1]) == pytest.approx(0.05, rel=0.3)


@pytest.mark.slow
def test_outliers_hardly_move_a_fit_with_heavy_tails():
    """Field errors stay near those of clean data, and the scale is that of the bulk."""
    system, clean = Pendulum(), with_outliers(0.0)
    x = torch.cat(list(clean.states))[::3]
    truth = system.vector_field(x)

    def error(data, noise):
        posterior = fitted(data, noise)
        return float((posterior.vector_field(x).mean - truth).square().mean().sqrt()), posterior

    dirty = with_outliers(0.2, seed=4)
    best, _ = error(clean, GaussianNoise())
    plain, _ = error(dirty, GaussianNoise())
    robust, posterior = error(dirty, StudentTNoise())
    assert robust < 2.5 * best and robust < 0.7 * plain
    assert posterior.noise_std.tolist() == pytest.approx([0.05, 0.05], rel=0.5)
    dof = posterior.components[0].noise_dof
    assert dof is not None and dof <= 4.0


@pytest.mark.slow
def test_few_outliers_do_not_break_trajectories():
    posterior = fitted(with_outliers(0.05), StudentTNoise())
    assert posterior.diagnostics.windows_joined
    assert posterior.diagnostics.jump_gain < 3.0


# fits with two degrees of freedom


@pytest.fixture(scope="module")
def double_pendulum():
    return DoublePendulum(friction=0.05).simulate(3, rate=5, duration=4, noise_std=0.02, seed=1)


@pytest.fixture(scope="module")
def two(double_pendulum):
    """Tied noise, and friction, whose scaled entries differ between the degrees of freedom."""
    return two_degrees(double_pendulum)


def two_degrees(data: Trajectories):
    noise = GaussianNoise(tied=PAIRS)
    model = SSGP(2, num_features=20, dissipation=Friction(), noise=noise)
    return fit(model, data, inference=ENGINE, progress=False)


def test_friction_is_one_number_in_user_units(two):
    scale = two.scaling.scale[2:]
    assert float(scale.max() / scale.min()) > 1.2
    friction = float(two.dissipation().mean)
    expected = torch.diag(tensor([0.0, 0.0, friction, friction]))
    torch.testing.assert_close(two.dissipation_matrix(torch.zeros(4))[0], expected)
    assert abs(friction - 0.05) < 4.0 * float(two.dissipation().stddev)
    # dx/dt loses friction times dq/dt in both momenta: the field less that of the same energy.
    x = torch.cat(list(two.data.states))[::5]
    for component in two.components:
        weights = component.theta.clone()
        weights[-1] = 0.0
        z = two.scaling.to_scaled(x)
        own, free = (component.field.bind(t)(0.0, z) for t in (component.theta, weights))
        rho = component.theta[-1] * component.field.dissipation.unit[0]
        loss = (own - free) * two.scaling.velocity_scale
        rate = free * two.scaling.velocity_scale
        torch.testing.assert_close(loss[:, 2:], -rho * rate[:, :2])
        torch.testing.assert_close(loss[:, :2], torch.zeros_like(rate[:, :2]))


def test_tied_noise_is_one_number_in_user_units(two):
    scale = two.scaling.scale
    assert float((scale[0] / scale[1] - 1.0).abs()) > 0.2
    noise, draws = two.noise(), two.sample(20).noise_std
    for values in (noise.mean, noise.stddev, *draws):
        for one, other in PAIRS:
            assert float(values[one]) == pytest.approx(float(values[other]), rel=1e-9)
    assert float(draws[:, 0].std()) > 0.0 and float((draws[0, 0] / draws[0, 2] - 1).abs()) > 1e-3
    assert noise.mean.tolist() == pytest.approx([0.02] * 4, rel=0.4)


@pytest.mark.slow
def test_units_with_one_kappa_do_not_change_the_predictions(double_pendulum, two):
    """Angles in hundredths of a radian, and seconds in milliseconds."""
    units, time = tensor([100.0, 100.0, 1.0, 1.0]), 1000.0
    other = Trajectories(
        [time * t for t in double_pendulum.times], [units * x for x in double_pendulum.states]
    )
    converted = two_degrees(other)
    x = torch.cat(list(double_pendulum.states))[::5]
    own, others = two.vector_field(x), converted.vector_field(units * x)
    rate = units / time
    ahead = [4.0, 5.0, 7.0]
    path = two.forecast(ahead, num_samples=30)
    moved = converted.forecast([time * t for t in ahead], num_samples=30)
    changes = {
        "field": (others.mean / rate - own.mean) / own.stddev,
        "field's deviation": others.stddev / rate / own.stddev - 1.0,
        "forecast": (moved.mean / units - path.mean) / path.std,
        "forecast's deviation": moved.std / units / path.std - 1.0,
    }
    worst = {name: float(change.abs().max()) for name, change in changes.items()}
    print({name: f"{value:.1e}" for name, value in worst.items()})
    assert max(worst.values()) < 1e-3
    friction = converted.dissipation().mean * units[0]
    torch.testing.assert_close(friction, two.dissipation().mean, rtol=1e-5, atol=0)
    torch.testing.assert_close(converted.noise_std / units, two.noise_std, rtol=1e-5, atol=0)

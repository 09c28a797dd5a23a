"""Log likelihoods of new data against dense Gaussians and quadrature; of a fit's own data."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from linear import DenseLinear, linear_data, linear_posterior
from problems import NAN, randn, tensor
from scipy import stats

from sympgp import RK4, SSGP, Friction, GaussNewton, StudentTNoise, fit
from sympgp.posterior.conditioning import MisfitWarning
from sympgp.shooting.sensitivities import INITIAL_VARIANCE
from sympgp.systems import Duffing, Pendulum
from sympgp.trajectories import Trajectories

NUM = 2
IRREGULAR = tensor([-2.0, -1.9, -1.72, -1.66, -1.4, -1.3, -1.25, -1.05, -0.9, -0.8])
LATER = tensor([0.5, 0.6, 0.7, 0.8])


def with_gaps(data: Trajectories) -> Trajectories:
    """A coordinate, a whole row within and a first row are missing."""
    states = [x.clone() for x in data.states]
    states[0][2, 1] = states[0][4] = states[0][7, 0] = NAN
    states[1][0] = NAN
    return replaced(data, states)


def replaced(data: Trajectories, states: list[torch.Tensor]) -> Trajectories:
    return Trajectories(
        list(data.times), states, names=data.names, units=data.units, labels=data.labels
    )


def dense(posterior, data: Trajectories) -> torch.Tensor:
    """The same matrix as ``log_likelihood``, from dense covariances."""
    part, rows = posterior.sample(NUM, seed=3).parts[0], []
    for theta, noise in zip(part.theta, part.noise_std, strict=True):
        models = [DenseLinear(posterior, theta, noise, data, k) for k in range(len(data))]
        rows.append(torch.cat([model.log_densities() for model in models]))
    return torch.stack(rows)


# linear fields: exact


@pytest.mark.parametrize("jump_std", [0.0, 0.1])
@pytest.mark.parametrize(("num_dof", "friction"), [(1, True), (2, False)])
def test_entries_are_those_of_the_dense_marginal_likelihood(num_dof, friction, jump_std):
    """Each observation given those before it, so that a row's sum is the marginal likelihood."""
    posterior = linear_posterior(num_dof, jump_std, friction)
    data = with_gaps(linear_data(posterior, [IRREGULAR, LATER]))
    found, expected = posterior.log_likelihood(data, NUM, seed=3), dense(posterior, data)
    assert found.shape == (NUM, data.num_observations)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_jumps_of_the_field_widen_the_likelihood():
    """Under a posterior with jumps, data that jump are likely; they are not without."""
    still, jumping = linear_posterior(width=1e-3), linear_posterior(jump_std=0.3, width=1e-3)
    data = linear_data(still, [IRREGULAR])
    states = data.states[0].clone()
    states[5:] += 0.6 * still.scaling.scale
    leaping = replaced(data, [states])
    with pytest.warns(MisfitWarning):
        still.condition(leaping)
    own, others = (p.log_likelihood(leaping, NUM).sum(1).mean() for p in (jumping, still))
    assert float(own - others) > 20.0
    own, others = (p.log_likelihood(data, NUM).sum(1).mean() for p in (jumping, still))
    assert float(own) < float(others)


def test_observations_do_not_depend_on_later_ones():
    posterior = linear_posterior()
    data = with_gaps(linear_data(posterior, [IRREGULAR, LATER]))
    whole = posterior.log_likelihood(data[0], NUM)
    first = posterior.log_likelihood(data[0].between(stop=-1.0), NUM)
    torch.testing.assert_close(whole[:, : first.shape[1]], first, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("jump_std", [0.0, 0.1])
@pytest.mark.slow
def test_trajectories_are_independent_given_the_field(jump_std):
    """Together, alone and in another order they have the same entries."""
    posterior = linear_posterior(jump_std=jump_std)
    data = linear_data(posterior, [IRREGULAR, LATER])
    together = posterior.log_likelihood(data, NUM)
    alone = [posterior.log_likelihood(one, NUM) for one in data]
    swapped = posterior.log_likelihood(data[[1, 0]], NUM)
    torch.testing.assert_close(together, torch.cat(alone, 1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(swapped, torch.cat(alone[::-1], 1), rtol=1e-6, atol=1e-6)


def test_tiny_jumps_are_none():
    """Filtered over many windows, and over one."""
    still, tiny = linear_posterior(), linear_posterior(jump_std=1e-4)
    data = linear_data(still, [IRREGULAR, LATER])
    found = [p.log_likelihood(data, NUM) for p in (still, tiny)]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-3)


def test_entries_are_densities_per_user_unit():
    """Rescaled states, centres and units with them, shift each entry by the factor's logarithm."""
    posterior = linear_posterior()
    data = linear_data(posterior, [IRREGULAR])
    factor = tensor([50.0, 0.2])
    scaling = posterior.scaling
    other = replace(scaling, center=factor * scaling.center, scale=factor * scaling.scale)
    moved = replace(posterior, scaling=other)
    rescaled = moved.log_likelihood(replaced(data, [factor * x for x in data.states]), NUM)
    expected = posterior.log_likelihood(data, NUM) - factor.log().repeat(len(IRREGULAR))
    torch.testing.assert_close(rescaled, expected)


def test_draws_are_those_of_the_seed():
    posterior = linear_posterior()
    data = linear_data(posterior, [LATER])
    first, again, other = (posterior.log_likelihood(data, NUM, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.allclose(first, other)


# fields that are not linear


@pytest.fixture(scope="module")
def pendulum():
    """Two components; training data of one length, with missing entries."""
    data = Pendulum(friction=0.1).simulate(
        4, rate=5, duration=6, noise_std=0.05, missing=0.1, seed=1
    )
    model = SSGP(num_features=20, dissipation=Friction())
    return fit(model, data, inference=GaussNewton(num_components=2), progress=False)


def unseen(system=None, duration: float = 3.0, noise_std: float = 0.05) -> Trajectories:
    system = Pendulum(friction=0.1) if system is None else system
    return system.simulate(2, rate=5, duration=duration, noise_std=noise_std, seed=11)


def quadrature(posterior, draw: int, data: Trajectories, dof: float | None = None) -> float:
    """Log marginal likelihood of one trajectory by a sum over a grid of first states."""
    draws, scaling = posterior.sample(NUM, seed=3), posterior.scaling
    noise = draws.noise_std[draw]
    best = posterior.condition(data).initial_states.mean[0]
    width = 5.0 * noise
    axis = torch.linspace(-1, 1, 61, dtype=torch.float64)
    grid = best + width * torch.cartesian_prod(axis, axis)
    path = RK4(0.05).solve(lambda t, x: draws(x)[draw], grid, data.times[0])
    law = stats.norm if dof is None else stats.t(dof)
    scaled = ((data.states[0] - path) / noise).numpy()
    density = torch.as_tensor(law.logpdf(scaled)) - noise.log()
    z = scaling.to_scaled(grid)
    prior = torch.as_tensor(stats.norm(scale=INITIAL_VARIANCE**0.5).logpdf(z.numpy()))
    total = density.sum((1, 2)) + (prior - scaling.scale.log()).sum(1)
    area = (width * (axis[1] - axis[0])).prod()
    return float(total.logsumexp(0) + area.log())


@pytest.mark.parametrize("draw", [0, NUM - 1])
def test_rows_of_a_curved_field_sum_to_the_integral_over_first_states(pendulum, draw):
    """Laplace's approximation about the states, for draws of either component."""
    data = unseen()[0]
    own = float(pendulum.log_likelihood(data, NUM, seed=3)[draw].sum())
    assert own == pytest.approx(quadrature(pendulum, draw, data), abs=0.05)


@pytest.mark.slow
def test_heavy_tails_sum_to_nearly_the_integral_over_first_states(pendulum):
    """Student's t is filtered by weighted Gaussians; two outliers of twenty deviations."""
    components = [replace(c, noise_dof=4.0) for c in pendulum.components]
    posterior = replace(pendulum, components=tuple(components))
    data = unseen()[0]
    states = data.states[0].clone()
    states[4, 0] += 1.0
    states[9, 1] -= 1.0
    wrong = replaced(data, [states])
    own = float(posterior.log_likelihood(wrong, NUM, seed=3)[0].sum())
    assert own == pytest.approx(quadrature(posterior, 0, wrong, 4.0), abs=2.0)
    plain = float(pendulum.log_likelihood(wrong, NUM, seed=3)[0].sum())
    assert own - plain > 100.0


def test_data_of_the_same_system_are_the_likelier_ones(pendulum):
    """Per observation: the system itself, more friction, another system."""
    means = []
    for system in (Pendulum(friction=0.1), Pendulum(friction=0.3), Duffing()):
        found = pendulum.log_likelihood(unseen(system), NUM)
        assert bool(found.isfinite().all())
        # The first ones say where a trajectory starts.
        means.append(float(found.reshape(NUM, 2, -1)[:, :, 4:].mean()))
    assert means[0] - 0.1 > means[1] > means[2] + 1.0
    entropy = 0.5 + 0.5 * math.log(2 * math.pi) + math.log(0.05)
    assert means[0] == pytest.approx(-entropy, abs=0.3)


def test_positions_alone_have_a_likelihood(pendulum):
    data = unseen()
    states = [x.clone() for x in data.states]
    for x in states:
        x[:, 1] = NAN
    positions = pendulum.log_likelihood(replaced(data, states), NUM)
    assert positions.shape == (NUM, 2 * 16) and bool(positions.isfinite().all())
    # The first two of a trajectory say where it starts; the others are predicted by them.
    assert float(positions[:, 2:16].mean()) > 0.5 > float(positions[:, :2].mean())


# own data


def test_own_data_are_conditional_on_each_draws_states(pendulum):
    found = pendulum.log_likelihood(num_samples=12, seed=5)
    noise = pendulum.sample(12, seed=5).noise_std[:, None].numpy()
    expected = []
    paths = pendulum.fitted(num_samples=12, seed=5)
    for x, path in zip(pendulum.data.states, paths, strict=True):
        density = stats.norm.logpdf(x.numpy(), path.samples[:, 0].numpy(), noise)
        expected.append(density[:, ~np.isnan(x.numpy())])
    assert found.shape == (12, pendulum.data.num_observations)
    torch.testing.assert_close(found, torch.as_tensor(np.concatenate(expected, 1)))
    assert torch.equal(pendulum.log_likelihood(pendulum.data, num_samples=12, seed=5), found)


def test_own_data_under_heavy_tails():
    data = unseen()
    model = SSGP(num_features=15, dissipation=Friction(), noise=StudentTNoise(dof=3))
    engine = GaussNewton(num_components=1, hyperparameter_rounds=1)
    posterior = fit(model, data, inference=engine, progress=False)
    found = posterior.log_likelihood(num_samples=6)
    noise = posterior.sample(6).noise_std[:, None].numpy()
    path = posterior.fitted(num_samples=6)[0].samples[:, 0].numpy()
    expected = stats.t(3).logpdf((data.states[0].numpy() - path) / noise) - np.log(noise)
    size = data.states[0].numel()
    torch.testing.assert_close(found[:, :size], torch.as_tensor(expected).flatten(1))


@pytest.mark.slow
def test_conditioned_posteriors_have_new_data_as_their_own(pendulum):
    """The marginal likelihood of the data is below their likelihood given the best states."""
    data = unseen()
    new = pendulum.condition(data)
    given, marginal = new.log_likelihood(num_samples=20), pendulum.log_likelihood(data, 20)
    assert given.shape == marginal.shape
    assert float((given.sum(1) - marginal.sum(1)).mean()) > 5.0


# what is refused


def test_other_data_are_refused(pendulum):
    wide = Trajectories([0.0, 1.0], randn(1, 2, 4))
    driven = Trajectories([0.0, 1.0], randn(1, 2, 2), randn(1, 2, 1))
    for data, message in (
        (wide, "data: the posterior has 1 degree.* of freedom, .* width 2 are expected; got 4"),
        (driven, "data: the field has no inputs, but the data have"),
    ):
        with pytest.raises(ValueError, match=message):
            pendulum.log_likelihood(data, NUM)


@pytest.mark.parametrize("count", [0, -1])
def test_counts_below_one_are_refused(pendulum, count):
    for data in (None, unseen()):
        with pytest.raises(ValueError, match="num_samples: expected a whole number of at least 1"):
            pendulum.log_likelihood(data, count)


@pytest.mark.slow
def test_without_dissipation_only_new_data_have_a_likelihood(pendulum):
    still = pendulum.without_dissipation()
    with pytest.raises(ValueError, match="log_likelihood: the training trajectories were damped"):
        still.log_likelihood()
    for system, better, worse in ((Pendulum(), still, pendulum), (None, pendulum, still)):
        data = unseen(system)
        gain = better.log_likelihood(data, NUM).mean() - worse.log_likelihood(data, NUM).mean()
        assert float(gain) > 0.3

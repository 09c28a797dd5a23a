"""One Gaussian of a posterior: the cut normal of friction, noise draws, moments of theta."""

import numpy as np
import pytest
import torch
from problems import randn, random_field, tensor
from scipy import stats

from sympgp.posterior import GaussianComponent, WindowStates
from sympgp.posterior.inverse_gamma import inverse_gamma_draws
from sympgp.posterior.truncated import truncated_moments, truncated_quantile

LEVELS = tensor([0.01, 0.3, 0.5, 0.9, 0.999])


@pytest.mark.parametrize("ratio", [-60.0, -20.0, -7.0, -6.01, -5.99, -3.0, 0.0, 1.0, 6.0, 50.0])
def test_the_cut_normal_is_that_of_scipy(ratio):
    """``N(mean, deviation^2)`` above zero, with the mean far on either side of it."""
    deviation = 0.3
    mean = ratio * deviation
    exact = stats.truncnorm(-ratio, np.inf, loc=mean, scale=deviation)
    first, second = truncated_moments(tensor([mean]), tensor([deviation]))
    assert float(first) == pytest.approx(exact.mean(), rel=1e-7)
    assert float(second) == pytest.approx(exact.var(), rel=1e-4)
    quantiles = truncated_quantile(tensor(mean).expand(5), tensor(deviation).expand(5), LEVELS)
    assert quantiles.tolist() == pytest.approx(exact.ppf(LEVELS.numpy()).tolist(), rel=1e-5)


def test_cut_quantiles_are_never_negative_and_increase():
    uniform = torch.linspace(0, 1 - 1e-12, 200, dtype=torch.float64)
    for ratio in (-1e4, -30.0, -6.0, 0.0, 5.0):
        mean = tensor(ratio).expand(200)
        values = truncated_quantile(mean, torch.ones_like(mean), uniform)
        assert bool(values.isfinite().all()) and values[0] >= 0.0
        assert bool((values.diff() >= 0).all())


@pytest.mark.parametrize("shape", [1.0, 1.5, 2.0, 8.0, 200.0])
def test_noise_draws_have_the_inverse_gamma_distribution(shape):
    one, group = tensor([shape]), torch.tensor([0])
    generator = torch.Generator().manual_seed(0)
    draws = inverse_gamma_draws(one, torch.ones_like(one), group, 20_000, generator)[:, 0]
    assert stats.kstest(draws.numpy() ** -2, stats.gamma(shape).cdf).pvalue > 1e-4


def component(mode: float = 0.1, friction: bool = True, seed: int = 0) -> GaussianComponent:
    """A component without training trajectories, its friction near ``mode`` give or take 0.1."""
    field, theta = random_field(1, friction=friction)
    size = len(theta)
    root = 0.3 * randn(size, size, seed=seed) + torch.eye(size).double()
    scale = torch.full((size,), 0.2).double()
    covariance = scale * (root @ root.mT) * scale[:, None]
    if friction:
        theta[-1] = mode
        shrink = torch.ones(size).double()
        shrink[-1] = 0.1 / covariance[-1, -1].sqrt()
        covariance = shrink * covariance * shrink[:, None]
    nothing = torch.zeros(0).double()
    states = WindowStates(
        torch.zeros(0, 1, dtype=torch.long),
        nothing,
        nothing,
        nothing.reshape(0, 2),
        nothing.reshape(0, 2, size),
        *(nothing.reshape(0, 2, 2) for _ in range(2)),
        nothing.reshape(0, 2),
        nothing.reshape(0, 2, size),
        0.0,
        1.0,
    )
    return GaussianComponent(
        field=field,
        theta=theta,
        factor=torch.linalg.cholesky(torch.linalg.inv(covariance)),
        noise_std=tensor([0.1, 0.2]),
        noise_shape=tensor([5.0, 50.0]),
        noise_rate=tensor([0.06, 2.04]),
        noise_group=torch.arange(2),
        noise_dof=None,
        hyperparameters={},
        states=states,
    )


@pytest.mark.parametrize("mode", [-0.3, 0.0, 0.1, 2.0])
def test_moments_of_theta_are_those_of_the_cut_gaussian(mode):
    """Cutting one coordinate moves and shrinks the others along their regression on it."""
    one = component(mode)
    covariance = torch.linalg.inv(one.factor @ one.factor.mT)
    exact = stats.truncnorm(-mode / 0.1, np.inf, loc=mode, scale=0.1)
    direction = covariance[:, -1] / covariance[-1, -1]
    mean, root = one.moments()
    torch.testing.assert_close(mean, one.theta + (exact.mean() - mode) * direction)
    cut = covariance + (exact.var() - 0.01) * torch.outer(direction, direction)
    torch.testing.assert_close(root @ root.mT, cut)
    first, second = one.damping_moments()
    assert float(first) == pytest.approx(exact.mean(), rel=1e-6)
    assert float(second) == pytest.approx(exact.var(), rel=1e-6)


def test_moments_without_friction_are_the_gaussian_ones():
    one = component(friction=False)
    mean, root = one.moments()
    torch.testing.assert_close(mean, one.theta)
    torch.testing.assert_close(root @ root.mT, torch.linalg.inv(one.factor @ one.factor.mT))
    assert one.damping_moments()[0].numel() == 0


@pytest.mark.parametrize("mode", [-0.3, 0.1])
def test_draws_have_the_cut_distribution(mode):
    one, num = component(mode), 20_000
    theta, noise, _ = one.sample(num, torch.Generator().manual_seed(1))
    assert bool((theta[:, -1] >= 0).all())
    exact = stats.truncnorm(-mode / 0.1, np.inf, loc=mode, scale=0.1)
    assert stats.kstest(theta[:, -1].numpy(), exact.cdf).pvalue > 1e-4
    mean, root = one.moments()
    deviation = (root @ root.mT).diagonal().sqrt()
    assert ((theta.mean(0) - mean) / deviation).abs().max() < 4.5 / num**0.5
    scaled = (theta - mean) / deviation
    expected = (root @ root.mT) / torch.outer(deviation, deviation)
    assert (scaled.mT @ scaled / num - expected).abs().max() < 0.06
    for channel in range(2):
        shape, rate = one.noise_shape[channel], one.noise_rate[channel]
        exact = stats.invgamma(float(shape), scale=float(rate))
        assert stats.kstest(noise[:, channel].numpy() ** 2, exact.cdf).pvalue > 1e-4


def test_draws_are_fixed_by_their_generator():
    one = component()
    first, second = (one.sample(3, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


@pytest.mark.parametrize("friction", [True, False])
def test_field_moments_are_those_of_many_draws(friction):
    one = component(0.5, friction)
    z = randn(6, 2, seed=3)
    mean, variance = one.field_moments(z)
    theta, *_ = one.sample(20_000, torch.Generator().manual_seed(2))
    values = one.field.bind(theta)(0.0, z.expand(len(theta), 6, 2))
    # The field is bilinear in weights and friction: their covariance and the square of both
    # deviations are left out of the moments.
    tolerance = 0.03 if friction else 5.0 / len(theta) ** 0.5
    deviation = variance.sqrt()
    assert ((values.mean(0) - mean) / deviation).abs().max() < 2 * tolerance
    ratio = values.std(0) / deviation
    assert (ratio - 1.0).abs().max() < (0.1 if friction else 0.03)


def test_moments_in_blocks_are_the_same(monkeypatch):
    one, z = component(), randn(20, 2)
    whole = (*one.field_moments(z), *one.energy_moments(z, torch.zeros(2).double()))
    monkeypatch.setattr("sympgp.posterior.component.POINTS_AT_ONCE", 100)
    parts = (*one.field_moments(z), *one.energy_moments(z, torch.zeros(2).double()))
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b)

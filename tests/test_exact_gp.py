"""Exact Gaussian processes on pairs: dense algebra, consistency of H and f, draws, features."""

import math

import pytest
import torch
from problems import hyperparameters, randn, tensor

from sympgp.dissipation import LinearDissipation
from sympgp.energies import FourierEnergy, independent_frequencies
from sympgp.inference.exact_gp import EnergyFamily, KernelRegression, centred_log_density
from sympgp.inference.feature_regression import FeatureRegression
from sympgp.inference.pairs import Pairs
from sympgp.inference.regression import NoiseFit
from sympgp.kernels import fourier_limit
from sympgp.phase_space import symplectic_matrix
from sympgp.posterior.component import Component, GaussianComponent
from sympgp.posterior.exact_component import ExactComponent, exact_component
from sympgp.posterior.truncated import truncated_moments

NOISE = tensor([0.1, 0.2])


def friction(num_dof: int = 1, present: bool = True) -> LinearDissipation:
    """R = rho diag(0, 1, 2, ...), or none."""
    matrix = torch.diag(torch.cat([torch.zeros(num_dof), torch.arange(1.0, num_dof + 1)])).double()
    count = int(present)
    return LinearDissipation(
        matrix.expand(count, -1, -1), tensor([2.0])[:count], tensor([1.0])[:count]
    )


def pendulum(num: int = 30, rho: float = 0.3, missing: bool = True, seed: int = 0) -> Pairs:
    """Noisy rates of a damped pendulum, some of them missing."""
    z = 1.2 * randn(num, 2, seed=seed)
    q, p = z.unbind(-1)
    rates = torch.stack([p, -q.sin() - rho * p], -1) + NOISE * randn(num, 2, seed=seed + 1)
    observed = torch.ones_like(rates, dtype=torch.bool)
    if missing:
        observed[2, 0] = observed[5, 1] = False
        observed[9] = False
    return Pairs(z, torch.where(observed, rates, 0.0), observed)


def energy_of(num_features: int = 20, seed: int = 0, **settings) -> FourierEnergy:
    return FourierEnergy(1, num_features, seed=seed, **settings)


def noise_fit(std=NOISE) -> NoiseFit:
    shape = torch.full_like(std, 9.0)
    return NoiseFit(std, shape, (shape + 1.0) * std**2, torch.arange(len(std)))


def exact(damped: bool = True, num: int = 30, rounds: int = 8, **settings) -> ExactComponent:
    """The exact posterior of the pendulum, Gauss-Newton carried to its end."""
    energy = energy_of(**settings)
    regression = KernelRegression(EnergyFamily(energy), friction(present=damped))
    rho = tensor([0.1])[: int(damped)]
    solution = regression.solve(pendulum(num), hyperparameters(energy), rho, NOISE)
    for _ in range(rounds):
        solution = solution.refined(NOISE)
    component = solution.component(noise_fit(), hyperparameters(energy))
    assert isinstance(component, ExactComponent)
    return component


def dense_prior(energy: FourierEnergy, z, structure):
    """``A cov(grad H, grad H) A'`` from blocks, one after another."""
    kernel = fourier_limit(energy, hyperparameters(energy))
    blocks = kernel.hessian(z, z)
    rows = [torch.cat([structure @ b @ structure.mT for b in row], 1) for row in blocks]
    return torch.cat(rows)


@pytest.mark.parametrize("damped", [True, False])
def test_the_evidence_is_the_density_of_the_measured_rates(damped):
    pairs, energy = pendulum(), energy_of()
    rho = tensor([0.2])[: int(damped)]
    structure = symplectic_matrix(1) - friction(present=damped).matrix(rho)
    seen = pairs.observed.flatten()
    cov = dense_prior(energy, pairs.z, structure)[seen][:, seen]
    cov = cov + torch.diag((NOISE**2).repeat(30)[seen])
    normal = torch.distributions.MultivariateNormal(torch.zeros(len(cov)).double(), cov)
    regression = KernelRegression(EnergyFamily(energy), friction(present=damped))
    found = regression.evidence(pairs, hyperparameters(energy), rho, NOISE)
    torch.testing.assert_close(found, normal.log_prob(pairs.values), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("num_features", [8, 60])
def test_the_evidence_of_features_is_the_same_in_either_space(num_features):
    """Fewer weights than rates, and more."""
    pairs, energy, rho = pendulum(), energy_of(num_features), tensor([0.2])
    field = (
        FeatureRegression(energy, friction())
        .solve(pairs, hyperparameters(energy), rho, NOISE)
        .field
    )
    rows = field.features(pairs.z, rho)[pairs.observed]
    cov = (rows * field.basis.prior_variance) @ rows.mT
    cov = cov + torch.diag(NOISE[pairs.channel] ** 2)
    normal = torch.distributions.MultivariateNormal(torch.zeros(len(cov)).double(), cov)
    regression = FeatureRegression(energy, friction())
    found = regression.evidence(pairs, hyperparameters(energy), rho, NOISE)
    torch.testing.assert_close(found, normal.log_prob(pairs.values))


def test_the_written_gradient_of_a_density_is_that_of_autograd():
    root, y = randn(6, 6).requires_grad_(), randn(6, seed=1)
    cov = root @ root.mT + torch.eye(6).double()
    normal = torch.distributions.MultivariateNormal(torch.zeros(6).double(), cov)
    (expected,) = torch.autograd.grad(normal.log_prob(y), root, retain_graph=True)
    value = centred_log_density(y, cov)
    (found,) = torch.autograd.grad(value, root)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(value.detach(), normal.log_prob(y).detach())


def test_a_conservative_posterior_is_that_of_dense_algebra():
    """Mean and covariance of the field at new states, from the joint covariance of all."""
    component, pairs, energy = exact(damped=False), pendulum(), energy_of()
    new = 1.5 * randn(4, 2, seed=7)
    whole = dense_prior(energy, torch.cat([pairs.z, new]), symplectic_matrix(1))
    seen = torch.cat([pairs.observed.flatten(), torch.zeros(8, dtype=torch.bool)])
    wanted = torch.arange(60, 68)
    C = whole[seen][:, seen] + torch.diag(NOISE[pairs.channel] ** 2)
    gain = torch.linalg.solve(C, whole[seen][:, wanted]).mT
    mean, cov = gain @ pairs.values, whole[wanted][:, wanted] - gain @ whole[seen][:, wanted]
    found, joint = component.joint_moments(new)
    torch.testing.assert_close(found.flatten(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(joint, cov, rtol=1e-4, atol=1e-6)
    marginal = component.field_moments(new)
    torch.testing.assert_close(marginal[0], found)
    torch.testing.assert_close(marginal[1].flatten(), joint.diagonal(), rtol=1e-6, atol=1e-12)


def test_friction_and_field_are_those_of_one_linear_gaussian_model():
    """About the fit: ``y = A grad H + g (rho - rho_0) + noise`` with rho ~ N(0, 1), by blocks."""
    component, pairs, energy = exact(), pendulum(), energy_of()
    gaussian = component.gaussian
    rho0, new = gaussian.anchor, 1.5 * randn(4, 2, seed=7)
    structure = symplectic_matrix(1) - friction().matrix(rho0)
    slope = gaussian.slope(pairs.z)
    g = -(slope @ friction().matrices[0].mT).flatten()
    seen = pairs.observed.flatten()
    kernel = fourier_limit(energy, hyperparameters(energy))
    both = torch.cat([pairs.z, new])
    G = kernel.hessian(both, both).transpose(1, 2).reshape(68, 68)
    A = torch.block_diag(*[structure] * 30)[seen]
    # Latent: all gradients of H, then rho.
    prior = torch.block_diag(G, torch.ones(1, 1).double())
    rows = torch.cat([A, torch.zeros(len(A), 8).double(), g[seen].unsqueeze(-1)], 1)
    C = rows @ prior @ rows.mT + torch.diag(NOISE[pairs.channel] ** 2)
    gain = torch.linalg.solve(C, rows @ prior).mT
    mean = gain @ (pairs.values + g[seen] * rho0)
    cov = prior - gain @ rows @ prior
    torch.testing.assert_close(mean[-1:], gaussian.rho, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(cov[-1:, -1:], gaussian.friction_covariance, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(gaussian.rho, rho0, rtol=1e-4, atol=1e-5)  # the fixed point
    # The cut at zero: rho's moments, and the rest by its regression on rho.
    centre, left = truncated_moments(mean[-1], cov[-1, -1].sqrt())
    direction = cov[:, -1] / cov[-1, -1]
    mean = mean + direction * (centre - mean[-1])
    cov = cov + torch.outer(direction, direction) * (left - cov[-1, -1])
    slopes = mean[60:68].reshape(4, 2)
    onto = symplectic_matrix(1) - friction().matrix(centre.reshape(1))
    own = -slopes @ friction().matrices[0].mT
    linear = torch.cat([torch.block_diag(*[onto] * 4), own.flatten().unsqueeze(-1)], 1)
    index = [*range(60, 68), 68]
    expected = linear @ cov[index][:, index] @ linear.mT
    found, joint = component.joint_moments(new)
    torch.testing.assert_close(found, slopes @ onto.mT, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(joint, expected, rtol=1e-3, atol=1e-6)
    variance = component.field_moments(new)[1]
    torch.testing.assert_close(variance.flatten(), joint.diagonal(), rtol=1e-6, atol=1e-12)
    damping = component.damping_moments()
    torch.testing.assert_close(
        torch.stack(damping).squeeze(), torch.stack([centre, left]), rtol=1e-4, atol=1e-8
    )


@pytest.mark.parametrize("damped", [True, False])
def test_the_mean_field_is_that_of_the_mean_energy(damped):
    component = exact(damped)
    z = 1.5 * randn(6, 2, seed=3).requires_grad_()
    reference = tensor([0.3, -0.2])
    energy, _ = component.energy_moments(z, reference)
    (slope,) = torch.autograd.grad(energy.sum(), z)
    structure = component.field.structure(component.damping_moments()[0])
    mean = component.field_moments(z.detach())[0]
    torch.testing.assert_close(slope @ structure.mT, mean)


@pytest.mark.parametrize("damped", [True, False])
def test_the_energys_variance_bends_as_the_gradients(damped):
    """``var(H(z + h) - H(z)) / h^2`` tends to the variance of the gradient along h."""
    component, h = exact(damped), 1e-3
    for z in 1.2 * randn(3, 2, seed=3):
        variance = component.field_moments(z[None])[1][0]
        # dq/dt = dH/dp has no friction in it; dp/dt = -dH/dq without friction.
        for d, channel in ((1, 0), (0, 1)) if not damped else ((1, 0),):
            step = torch.zeros(2).double()
            step[d] = h
            _, change = component.energy_moments((z + 0.5 * step)[None], z - 0.5 * step)
            assert float(change) / h**2 == pytest.approx(float(variance[channel]), rel=1e-3)


@pytest.mark.parametrize("damped", [True, False])
def test_draws_have_the_exact_moments_up_to_their_waves(damped):
    """The draws are linear in Gaussian numbers, so that their moments are known exactly."""
    component = exact(damped)
    z, reference = 1.3 * randn(40, 2, seed=5), torch.zeros(2).double()
    mean, variance = component.field_moments(z)
    energy, energy_variance = component.energy_moments(z, reference)
    parts = (component.noise_std, component.noise_shape, component.noise_rate)
    errors = []
    for count in (60, 900):
        own = exact_component(
            component.gaussian, (*parts, component.noise_group), {}, num_waves=count
        )
        found, spread = Component.field_moments(own, z)
        torch.testing.assert_close(found, mean)
        level, width = Component.energy_moments(own, z, reference)
        torch.testing.assert_close(level, energy)
        errors.append(float((spread / variance - 1.0).abs().mean()))
        errors.append(float((width / energy_variance - 1.0).abs().mean()))
    assert max(errors[2:]) < 0.01
    assert errors[2] < 0.2 * errors[0] and errors[3] < 0.2 * errors[1]


@pytest.mark.parametrize("damped", [True, False])
def test_samples_are_draws_of_the_stated_moments(damped):
    component = exact(damped)
    mean, root = component.moments()
    draws = component.sample(4000, torch.Generator().manual_seed(0))
    deviation = root.square().sum(-1).sqrt()
    assert draws.start is None
    free = deviation > 1e-9  # rows without rates have no part in the update
    z = ((draws.theta.mean(0) - mean) / deviation)[free] * math.sqrt(4000)
    assert float(z.abs().max()) < 5.0 and float(z.std()) == pytest.approx(1.0, abs=0.1)
    ratio = (draws.theta.std(0) / deviation)[free]
    assert float((ratio - 1.0).abs().max()) < 0.08
    if damped:
        assert bool((draws.theta[:, -1] >= 0.0).all())
        rho = draws.theta[:, -1]
        along = ((draws.theta - mean) * (rho - rho.mean()).unsqueeze(-1)).mean(0)
        torch.testing.assert_close(
            along, root @ root[-1], atol=0.05 * float(deviation.max()), rtol=0
        )


def test_a_draw_is_the_field_of_its_energy():
    """``f = (J - R) grad H`` by autograd for every draw, and its divergence is ``-tr(R H'')``."""
    component = exact()
    theta = component.sample(3, torch.Generator().manual_seed(0)).theta
    num = component.field.num_weights
    basis, bound = component.field.basis, component.field.bind(theta)
    z = 1.3 * randn(4, 2, seed=5)
    fields = bound(0.0, z.expand(3, 4, 2))
    torch.testing.assert_close(bound.first()(0.0, z.expand(1, 4, 2)), fields[:1])
    for s in range(3):
        w, rho = theta[s, :num], theta[s, num:]
        structure = component.field.structure(rho)
        for x, value in zip(z, fields[s], strict=True):
            slope = torch.func.jacrev(lambda v, w=w: basis.value(v[None], w)[0])(x)
            torch.testing.assert_close(structure @ slope, value)
        single = component.field.bind(theta[s])
        torch.testing.assert_close(single(0.0, z), fields[s])
        jacobian = component.field.jacobian(z, theta[s])
        expected = torch.func.vmap(torch.func.jacrev(lambda v, f=single: f(0.0, v[None])[0]))(z)
        torch.testing.assert_close(jacobian, expected)
        trace = expected.diagonal(dim1=-2, dim2=-1).sum(-1)
        torch.testing.assert_close(trace, -rho * basis.hessian(z, w)[:, 1, 1])


def test_draws_of_a_conservative_field_have_no_divergence():
    component = exact(damped=False)
    theta = component.sample(1, torch.Generator().manual_seed(0)).theta[0]
    single = component.field.bind(theta)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda v: single(0.0, v[None])[0]))(
        1.3 * randn(6, 2, seed=5)
    )
    trace = jacobian.diagonal(dim1=-2, dim2=-1).sum(-1)
    assert float(trace.abs().max()) < 1e-10 * float(jacobian.abs().max())


def test_a_draws_features_and_values_agree():
    component = exact()
    theta = component.sample(3, torch.Generator().manual_seed(0)).theta
    w, basis = theta[:, : component.field.num_weights], component.field.basis
    z = randn(3, 4, 2, seed=5)
    torch.testing.assert_close(basis.value(z, w), super(type(basis), basis).value(z, w))
    slopes = (basis.feature_gradient(z) @ w[:, None, :, None]).squeeze(-1)
    torch.testing.assert_close(basis.gradient_map(w)(z), slopes)
    torch.testing.assert_close(basis.value(z[0, 0], w[0]), basis.value(z, w)[0, 0])


def feature_component(num_features: int, seed: int, damped: bool) -> GaussianComponent:
    energy = energy_of(
        num_features,
        seed,
        quadratic=False,
        separable=0,
        frequencies=independent_frequencies,
    )
    regression = FeatureRegression(energy, friction(present=damped))
    rho = tensor([0.1])[: int(damped)]
    solution = regression.solve(pendulum(), hyperparameters(energy), rho, NOISE)
    for _ in range(4):
        solution = solution.refined(NOISE)
    component = solution.component(noise_fit(), hyperparameters(energy))
    assert isinstance(component, GaussianComponent)
    return component


@pytest.mark.parametrize("damped", [True, False])
def test_the_features_posterior_tends_to_the_exact_one(damped):
    """Means and standard deviations of field, energy and friction, at the same hyperparameters."""
    limit = exact(damped, quadratic=False, separable=0)
    z, reference = 1.3 * randn(20, 2, seed=5), torch.zeros(2).double()

    def predictions(component):
        field, energy = component.field_moments(z), component.energy_moments(z, reference)
        friction_parts = component.damping_moments()
        values = [field[0], field[1].sqrt(), energy[0], energy[1].sqrt()]
        return values + [part for part in friction_parts if len(part)]

    exactly = predictions(limit)
    errors = []
    for count in (25, 400):
        runs = [predictions(feature_component(count, seed, damped)) for seed in range(6)]
        errors.append(
            [
                math.sqrt(sum(float((r[k] - e).square().mean()) for r in runs) / 6)
                for k, e in enumerate(exactly)
            ]
        )
    sizes = [float(e.square().mean().sqrt()) for e in exactly]
    for few, many, size in zip(*errors, sizes, strict=True):
        assert many < 0.5 * few
        assert many < 0.1 * size


def test_the_feature_posterior_is_that_of_dense_regression():
    component, pairs = feature_component(10, 0, damped=True), pendulum()
    field, theta = component.field, component.theta
    num = field.num_weights
    jacobian = field.parameter_jacobian(pairs.z, theta)[pairs.observed]
    precision = torch.diag(1.0 / NOISE[pairs.channel] ** 2)
    expected = jacobian.mT @ precision @ jacobian + torch.diag(field.prior_precision())
    found = component.factor @ component.factor.mT
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * float(expected.max()))
    # At the mode the log posterior has no slope.
    residual = pairs.values - (field.features(pairs.z, theta[num:]) @ theta[:num])[pairs.observed]
    slope = jacobian.mT @ precision @ residual - field.prior_precision() * theta
    assert float((slope / expected.diagonal().sqrt()).abs().max()) < 1e-4


@pytest.mark.parametrize("kind", ["features", "kernel"])
def test_degrees_and_squares_are_those_of_the_hat_matrix(kind):
    """``trace(d fit / d y)`` by channel, without friction, by moving each rate."""
    energy, pairs = energy_of(15), pendulum()
    none = friction(present=False)
    make = {
        "features": lambda: FeatureRegression(energy, none),
        "kernel": lambda: KernelRegression(EnergyFamily(energy), none),
    }
    regression, hyper = make[kind](), hyperparameters(energy)
    solution = regression.solve(pairs, hyper, tensor([]), NOISE)

    def fitted(values):
        rates = torch.zeros_like(pairs.rates)
        rates[pairs.observed] = values
        own = regression.solve(Pairs(pairs.z, rates, pairs.observed), hyper, tensor([]), NOISE)
        component = own.component(noise_fit(), hyper)
        return component.field_moments(pairs.z)[0][pairs.observed]

    hat = torch.stack([fitted(unit) for unit in torch.eye(len(pairs.values)).double()], 1)
    torch.testing.assert_close(
        solution.degrees, pairs.per_channel(hat.diagonal()), rtol=1e-4, atol=1e-5
    )
    residual = pairs.values - hat @ pairs.values
    torch.testing.assert_close(
        solution.squares, pairs.per_channel(residual**2), rtol=1e-4, atol=1e-6
    )


def test_missing_rates_count_for_nothing():
    """What stands where nothing was measured does not matter, nor do rows without any."""
    energy, pairs = energy_of(), pendulum()
    regression = KernelRegression(EnergyFamily(energy), friction())
    hyper, z = hyperparameters(energy), randn(3, 2, seed=5)
    other = Pairs(pairs.z, torch.where(pairs.observed, pairs.rates, 7.0), pairs.observed)
    rows = pairs.observed.any(-1)
    fewer = Pairs(pairs.z[rows], pairs.rates[rows], pairs.observed[rows])
    assert len(fewer.z) == 29
    found = [
        regression.solve(p, hyper, tensor([0.1]), NOISE)
        .refined(NOISE)
        .component(noise_fit(), hyper)
        .field_moments(z)
        for p in (pairs, other, fewer)
    ]
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2], rtol=1e-6, atol=1e-8)


def test_friction_that_the_data_deny_is_cut_at_zero():
    """Pumped data: the mode is negative, the posterior is not."""
    energy = energy_of()
    regression = KernelRegression(EnergyFamily(energy), friction())
    solution = regression.solve(
        pendulum(60, rho=-0.4), hyperparameters(energy), tensor([0.0]), NOISE
    )
    for _ in range(8):
        solution = solution.refined(NOISE)
    component = solution.component(noise_fit(), hyperparameters(energy))
    assert float(solution.rho) < -0.2
    mean, variance = component.damping_moments()
    assert 0.0 < float(mean) < 0.1 and 0.0 < float(variance) < 0.01
    theta = component.sample(200, torch.Generator().manual_seed(0)).theta
    assert bool((theta[:, -1] >= 0.0).all())
    assert float(theta[:, -1].mean()) == pytest.approx(float(mean), rel=0.3)


def test_there_are_no_trajectories():
    component = exact()
    for call in (component.first_states, lambda: component.window_states):
        with pytest.raises(ValueError, match="learned from derivatives"):
            call()
    assert component.noise_dof is None

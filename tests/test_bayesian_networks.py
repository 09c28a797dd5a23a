"""Bayesian engines for networks: against closed forms, and what each of them promises."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import randn
from torch import Tensor

import sympgp as sg
from sympgp.energies import NetworkBasis, NetworkEnergy, TangentBasis, last_layer
from sympgp.fields import HamiltonianField
from sympgp.inference.feature_regression import FeatureSolution
from sympgp.inference.networks.density import PairDensity
from sympgp.inference.networks.descent import Unknowns
from sympgp.inference.networks.linear_gaussian import LinearGaussian
from sympgp.inference.networks.linearisation import Point, improved, linear_about, log_prob
from sympgp.inference.networks.sghmc import Chains
from sympgp.inference.networks.tangents import TangentFit
from sympgp.inference.networks.unconstrained import Unconstrained
from sympgp.inference.networks.variational import MeanField
from sympgp.inference.pairs import PreparedPairs, prepare_pairs
from sympgp.models import HamiltonianModel
from sympgp.posterior import SampledComponent
from sympgp.systems import Pendulum

NOISE = 0.1
ENGINES: dict[str, Any] = {
    "laplace": sg.Laplace(num_steps=30, num_draws=12),
    "last layer": sg.Laplace(weights="last_layer", num_steps=30, num_draws=12),
    "mean field": sg.MeanFieldVI(num_steps=30, num_vi_steps=10, num_draws=12),
    "dropout": sg.MCDropout(rate=0.2, num_steps=30, num_draws=12),
    "sghmc": sg.SGHMC(num_steps=30, num_chains=2, num_warmup=10, num_samples=8, thinning=1),
}


LATER = ("last layer", "mean field", "sghmc")
"""Engines whose fits of trajectories are tested with the slow ones."""


def pairs(num: int, noise: float = NOISE, seed: int = 0) -> sg.StateDerivatives:
    """Of a damped pendulum, at scattered states."""
    system = Pendulum(friction=0.1)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, 2, generator=generator, dtype=torch.float64)
    white = torch.randn(num, 2, generator=generator, dtype=torch.float64)
    return sg.StateDerivatives(x, system.vector_field(x) + noise * white)


def small(hidden: tuple[int, ...] = (6,), friction: bool = True) -> HamiltonianModel:
    """A network with friction."""
    return sg.HNN(1, hidden, dissipation=sg.Friction() if friction else None)


def network() -> tuple[NetworkBasis, Tensor]:
    """A basis and weights of it."""
    one = torch.ones(2, dtype=torch.float64)
    energy = NetworkEnergy(1, (5, 4))
    basis = energy.basis({k: v.median for k, v in energy.hyperpriors(one).items()})
    return basis, basis.initial(1, torch.Generator().manual_seed(0))[0]


def white(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear_problem(friction: bool = True) -> tuple[PreparedPairs, PairDensity, Point]:
    """Pairs under an energy that is linear in its weights, noise known, and a first guess."""
    kinds = sg.Friction() if friction else sg.Conservative()
    model = sg.SSGP(1, 6, dissipation=kinds, noise=sg.GaussianNoise(std=NOISE))
    prepared = prepare_pairs(model, pairs(40))
    priors = model.energy.hyperpriors(prepared.scaling.spread)
    basis = model.energy.basis({name: prior.median for name, prior in priors.items()})
    field = HamiltonianField(basis, model.dissipation.scaled(prepared.scaling))
    density = PairDensity(prepared.pairs, field, prepared.noise)
    theta = torch.cat([0.1 * white(field.num_weights), field.dissipation.start()])
    return prepared, density, Point(theta, prepared.noise.known, None)


# The model that is linear in its weights.


@pytest.mark.parametrize("chosen", ["all", "last"])
def test_tangents_are_the_first_order_expansion_with_all_its_derivatives(chosen: str) -> None:
    basis, nominal = network()
    index = torch.arange(basis.num_weights) if chosen == "all" else last_layer(basis)
    tangent = TangentBasis(basis, nominal, index)
    w = nominal[index] + 0.3 * white(3, len(index))
    z = white(3, 4, 2, seed=1)

    def energy(state: Tensor, own: Tensor) -> Tensor:
        change = torch.zeros_like(nominal).index_copy(0, index, own - nominal[index])
        parts = torch.func.jvp(lambda v: basis.value(state, v), (nominal,), (change,))
        return parts[0] + parts[1]

    rows = torch.func.vmap(torch.func.vmap(torch.func.grad(energy), (0, None)))
    second = torch.func.vmap(torch.func.vmap(torch.func.hessian(energy), (0, None)))
    value = torch.func.vmap(torch.func.vmap(energy, (0, None)))
    found = tangent.linearized(z, w)
    torch.testing.assert_close(tangent.value(z, w), value(z, w))
    torch.testing.assert_close(tangent.gradient_map(w)(z), rows(z, w))
    torch.testing.assert_close(found.slope, rows(z, w))
    torch.testing.assert_close(found.hessian, second(z, w))
    torch.testing.assert_close(tangent.hessian(z[1], w[1]), second(z, w)[1])
    pull = white(3, 4, 2, seed=2)
    expected = torch.einsum("sbd,sbdp->sp", pull, tangent.feature_gradient(z))
    torch.testing.assert_close(found.pull_back(pull), expected)
    torch.testing.assert_close(
        tangent.remainder(z[0], w[0]),
        rows(z, w)[0] - tangent.feature_gradient(z[0]) @ w[0],
    )


def test_tangents_have_the_same_derivatives_in_inference_mode() -> None:
    basis, nominal = network()
    tangent = TangentBasis(basis, nominal, torch.arange(basis.num_weights))
    w, z = nominal + 0.3 * white(3, len(nominal)), white(3, 4, 2, seed=1)
    known = tangent.linearized(z, w)
    with torch.inference_mode():
        inside = tangent.linearized(z, w)
        made = z + 0.0
    for found in (inside, tangent.linearized(made, w)):
        torch.testing.assert_close(found.slope, known.slope)
        torch.testing.assert_close(found.hessian, known.hessian)


def test_tangents_of_any_basis_are_those_of_the_network_written_out() -> None:
    basis, nominal = network()
    tangent = TangentBasis(basis, nominal, torch.arange(basis.num_weights))
    w, z = nominal + 0.3 * white(3, basis.num_weights), white(3, 4, 2, seed=1)
    moved = torch.einsum("sbdp,sp->sbd", basis.feature_gradient(z, nominal), w - nominal)
    expected = basis.gradient_map(nominal)(z) + moved
    own = tangent.gradient_map(w)
    torch.testing.assert_close(own(z), expected)
    turned = own.transformed(white(2, 2))
    torch.testing.assert_close(turned(z), expected @ white(2, 2).mT)
    torch.testing.assert_close(turned.first()(z[:1]), turned(z)[:1])


@pytest.mark.parametrize("rows", [5, 40])
def test_linear_gaussian_is_the_dense_posterior_in_either_space(rows: int) -> None:
    size, states = 12, 3
    a, lever, target = white(rows, size), white(rows, states, seed=1), white(rows, seed=2)
    stddev = white(size, seed=3).abs() + 0.5
    model = LinearGaussian(a, lever, target, stddev)
    assert model.wide == (rows < size)
    # The states have a flat prior here, which dense algebra cannot write: a very wide one.
    whole = torch.cat([a, lever], 1)
    prior = torch.cat([stddev**-2, torch.full((states,), 1e-12).double()])
    precision = whole.mT @ whole + torch.diag(prior)
    cov = torch.linalg.inv(precision)
    mean = cov @ (whole.mT @ target)
    torch.testing.assert_close(model.mean(), mean[:size], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(model.states(model.mean()), mean[size:], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(model.variance(), cov.diagonal()[:size], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(model.covariance(2), cov[2, :size], rtol=1e-6, atol=1e-8)
    hat = whole @ cov @ whole.mT
    torch.testing.assert_close(model.used(), hat.diagonal(), rtol=1e-6, atol=1e-8)
    draws = model.sample(4000, torch.Generator().manual_seed(0))
    error = (draws.mT.cov() - cov[:size, :size]).abs().max()
    assert float(error) < 5.0 * float(cov[:size, :size].diagonal().max()) / 4000**0.5


def test_evidence_of_a_linear_gaussian_is_that_of_the_marginal_law() -> None:
    a, target, stddev = white(7, 12), white(7, seed=2), white(12, seed=3).abs() + 0.5
    model = LinearGaussian(a, a[:, :0], target, stddev)
    for variance in (stddev**2, 3.0 * stddev**2):
        cov = a @ torch.diag(variance) @ a.mT + torch.eye(7).double()
        law = torch.distributions.MultivariateNormal(torch.zeros(7).double(), cov)
        expected = law.log_prob(target) + 0.5 * 7 * math.log(2.0 * math.pi)
        torch.testing.assert_close(model.log_evidence(variance), expected)


# Laplace.


def tangent_fit(density: PairDensity, at: Point, prepared: PreparedPairs) -> TangentFit:
    """Of an energy that is linear as it is, at fixed scales."""
    none = torch.arange(0)
    fit = TangentFit.of(
        density, at, none, sg.FourierEnergy(1, 6), prepared.scaling.spread, {}, False
    )
    for _ in range(5):  # with friction the model is a product, and steps approach the mode
        fit = fit.settled()
    return fit


def test_laplace_of_a_linear_energy_is_bayesian_linear_regression() -> None:
    prepared, density, at = linear_problem(friction=False)
    found = tangent_fit(density, at, prepared)
    z, std = prepared.pairs.z, prepared.noise.known
    features = density.field.features(z, at.theta[:0])
    rows = (features / std.unsqueeze(-1)).flatten(0, 1)
    precision = rows.mT @ rows + torch.diag(1.0 / density.field.basis.prior_variance)
    cov = torch.linalg.inv(precision)
    mean = cov @ rows.mT @ (prepared.pairs.rates / std).flatten()
    torch.testing.assert_close(found.at.theta, mean, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.linear().variance(), cov.diagonal(), rtol=1e-7, atol=0.0)


def test_laplace_with_friction_is_the_gauss_newton_posterior() -> None:
    prepared, density, at = linear_problem()
    found = tangent_fit(density, at, prepared)
    exact = FeatureSolution.settled(density.field, prepared.pairs, at.theta, at.noise_std)
    for _ in range(5):
        exact = exact.refined(at.noise_std)
    torch.testing.assert_close(found.at.theta, exact.theta, rtol=0.0, atol=1e-4)
    cov = torch.cholesky_inverse(exact.factor)
    torch.testing.assert_close(found.linear().variance(), cov.diagonal(), rtol=1e-4, atol=1e-12)


def test_laplace_of_the_last_layer_is_linear_regression_on_its_features() -> None:
    model = replace(small((5,), friction=False), noise=sg.GaussianNoise(std=NOISE))
    data = pairs(40)
    posterior = sg.fit(
        model,
        data,
        inference=sg.Laplace(weights="last_layer", evidence=False, num_steps=20, num_draws=4000),
        progress=False,
    )
    component = posterior.components[0]
    tangent = component.field.basis
    assert isinstance(tangent, TangentBasis)
    prepared = prepare_pairs(model, data)
    # H is linear in these weights: the network's other weights make features, and no constant.
    features = component.field.symplectic(prepared.pairs.z) @ tangent.feature_gradient(
        prepared.pairs.z
    )
    std = prepared.noise.known
    rows = (features / std.unsqueeze(-1)).flatten(0, 1)
    target = (prepared.pairs.rates / std).flatten()
    precision = rows.mT @ rows + torch.diag(1.0 / tangent.prior_variance)
    cov = torch.linalg.inv(precision)
    theta = component.draws.theta
    expected = cov @ rows.mT @ target
    assert float(((theta.mean(0) - expected) / cov.diagonal().sqrt()).abs().max()) < 0.08
    torch.testing.assert_close(theta.var(0), cov.diagonal(), rtol=0.12, atol=0.0)


def test_steps_raise_the_density_to_where_its_gradient_vanishes() -> None:
    _, density, at = linear_problem()
    found = improved(density, at)
    assert log_prob(density, found) > log_prob(density, at)
    theta = found.theta.unsqueeze(0).requires_grad_(True)
    total = sum(t.sum() for t in density.terms(theta, found.noise_std.unsqueeze(0), None).values())
    (gradient,) = torch.autograd.grad(total, theta)
    linear = linear_about(density, found)
    assert float((gradient[0] * linear.variance().sqrt()).abs().max()) < 0.05


# Mean-field inference and sampling.


def test_mean_field_on_a_linear_model_finds_the_optimal_normal_law() -> None:
    _, density, at = linear_problem(friction=False)
    at = improved(density, at)
    begin = Unknowns.at(at.theta.unsqueeze(0), density.noise, at.noise_std, None)
    unknowns = Unconstrained.of(density, begin)
    law = MeanField.about(unknowns, begin)
    shifted = replace(law, log_std=law.log_std + 0.7)  # away from the optimum
    found, _ = shifted.raised(800, 8, 1000, torch.Generator().manual_seed(0), lambda *_: None)
    linear = linear_about(density, at)
    precision = linear.rows.mT @ linear.rows + torch.diag(linear.stddev**-2)
    optimal = precision.diagonal().rsqrt()
    torch.testing.assert_close(found.log_std.exp(), optimal, rtol=0.1, atol=0.0)
    assert float(((found.mean - linear.mean()) / optimal).abs().max()) < 0.3


def test_precision_of_all_unknowns_is_the_negative_hessian_of_a_linear_model() -> None:
    _, density, at = linear_problem(friction=False)
    begin = Unknowns.at(at.theta.unsqueeze(0), density.noise, at.noise_std, None)
    unknowns = Unconstrained.of(density, begin)
    x = unknowns.packed(begin)[0]
    hessian = torch.autograd.functional.hessian(lambda v: unknowns.log_prob(v[None]).sum(), x)
    torch.testing.assert_close(unknowns.precision(x), -hessian, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(unknowns.curvature(x), -hessian.diagonal(), rtol=1e-6, atol=1e-6)


def test_vectors_stand_for_their_unknowns_and_friction_stays_positive() -> None:
    _, density, at = linear_problem()
    begin = Unknowns.at(at.theta.unsqueeze(0), density.noise, at.noise_std, None)
    unknowns = Unconstrained.of(density, begin)
    x = unknowns.packed(begin)
    back, _ = unknowns.unpacked(x)
    torch.testing.assert_close(back.theta, begin.theta)
    far = x.clone()
    far[:, -1] = -30.0
    own, volume = unknowns.unpacked(far)
    assert float(own.theta[0, -1]) >= 0.0
    assert float(volume) < 0.0


@pytest.mark.slow
def test_sghmc_draws_from_a_linear_models_posterior() -> None:
    _, density, at = linear_problem(friction=False)
    at = improved(density, at)
    begin = Unknowns.at(at.theta.expand(4, -1).clone(), density.noise, at.noise_std, None)
    chains = Chains.about(Unconstrained.of(density, begin), begin, seed=0)
    engine = sg.SGHMC(num_warmup=300, num_samples=800, thinning=6)
    kept = chains.run(engine, lambda *_: None).flatten(0, 1)
    linear = linear_about(density, at)
    off = (kept.mean(0) - linear.mean()) / linear.variance().sqrt()
    assert float(off.abs().max()) < 0.2
    torch.testing.assert_close(kept.var(0), linear.variance(), rtol=0.25, atol=0.0)


# What every engine promises.


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pairs_give_functions_that_come_back_from_a_file(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    data = pairs(30).to(dtype=dtype)
    posterior = sg.fit(small(), data, inference=ENGINES[name], progress=False)
    component = posterior.components[0]
    assert isinstance(component, SampledComponent)
    x = torch.tensor([[0.5, 0.2], [0.1, -0.4]], dtype=dtype)
    draws = posterior.sample(6)
    rates = draws(x)
    assert rates.dtype == posterior.vector_field(x).mean.dtype == posterior.dtype == dtype
    torch.testing.assert_close(rates, draws(x), rtol=0.0, atol=0.0)
    assert float(rates.std(0).max()) > 0.0
    assert bool(posterior.noise().mean.gt(0).all())
    assert float(posterior.dissipation().stddev) > 0.0
    assert "draws)" in posterior.summary()
    path = tmp_path / "fit.pt"
    posterior.save(path)
    again = sg.load(path)
    torch.testing.assert_close(again.sample(6)(x), rates, rtol=0.0, atol=0.0)
    torch.testing.assert_close(again.hamiltonian(x).stddev, posterior.hamiltonian(x).stddev)


@pytest.mark.parametrize(
    "name",
    ["dropout", *(pytest.param(n, marks=pytest.mark.slow) for n in ("laplace", *LATER))],
)
def test_trajectories_give_bands_of_paths_and_forecasts(name: str, tmp_path: Path) -> None:
    data = Pendulum(friction=0.1).simulate(2, rate=4, duration=4, noise_std=0.05, seed=0)
    posterior = sg.fit(small(), data, inference=ENGINES[name], progress=False)
    ahead = posterior.forecast([4.0, 4.5], num_samples=8)
    assert float(ahead.std.max()) > 0.0
    again_path = tmp_path / "fit.pt"
    posterior.save(again_path)
    again = sg.load(again_path)
    torch.testing.assert_close(
        again.forecast([4.0, 4.5], num_samples=8).samples, ahead.samples, rtol=0.0, atol=0.0
    )


def test_dropout_masks_are_fixed_for_a_whole_rollout() -> None:
    engine = sg.MCDropout(rate=0.3, num_steps=50, num_draws=10)
    posterior = sg.fit(small(friction=False), pairs(40), inference=engine, progress=False)
    times = torch.linspace(0.0, 3.0, 31).double()
    paths = posterior.rollout(
        [[0.5, 0.0]], times, num_samples=10, integrator=sg.GaussLegendre4(step=0.02)
    )
    energy = paths.energy()[:, 0]
    drift = (energy - energy[:, :1]).abs().amax(1)
    assert float(drift.max()) < 1e-5 * float(energy.abs().max().clamp(min=1.0))
    theta = posterior.components[0].draws.theta
    assert len(theta.unique(dim=0)) > 5  # masks differ
    assert bool((theta == 0).any())


def test_moments_of_a_bank_are_those_of_its_functions() -> None:
    posterior = sg.fit(small(), pairs(30), inference=ENGINES["dropout"], progress=False)
    component = posterior.components[0]
    theta, z = component.draws.theta, white(7, 2)
    rates = torch.stack([component.field.bind(row)(0.0, z) for row in theta])
    mean, variance = component.field_moments(z)
    torch.testing.assert_close(mean, rates.mean(0))
    torch.testing.assert_close(variance, rates.var(0))
    own, root = component.field_and_root(z)
    torch.testing.assert_close(own, mean)
    torch.testing.assert_close(root.square().sum(-1), variance)
    w = theta[:, : component.field.basis.num_weights]
    values = torch.stack([component.field.basis.value(z, row) for row in w])
    values = values - values[:, :1]
    mean, variance = component.energy_moments(z, z[0])
    torch.testing.assert_close(mean, values.mean(0))
    torch.testing.assert_close(variance, values.var(0))


@pytest.mark.slow
def test_new_trajectories_get_states_of_their_own_under_every_draw() -> None:
    system = Pendulum(friction=0.1)
    data = system.simulate(3, rate=4, duration=4, noise_std=0.05, seed=0)
    engine = sg.DeepEnsemble(num_members=3, num_steps=300)
    posterior = sg.fit(small((10,)), data[:2], inference=engine, progress=False)
    again = posterior.condition(data[2:])
    residual = again.fitted(num_samples=20)[0].mean[0] - data.states[2]
    assert float(residual.square().mean().sqrt()) < 0.15


@pytest.mark.slow
@pytest.mark.parametrize("name", ["laplace", "mean field"])
def test_means_approach_the_trained_network_as_data_grow(name: str) -> None:
    x = 0.7 * white(50, 2, seed=5)
    apart = []
    for num in (30, 1000):
        data = pairs(num)
        engine: Any = replace(ENGINES[name], num_steps=800, num_draws=200, batch_size=1000)
        if name == "mean field":
            engine = replace(engine, num_vi_steps=400)
        trained = sg.fit(
            small((8,)), data, inference=sg.MAP(num_steps=800, batch_size=1000), progress=False
        )
        found = sg.fit(small((8,)), data, inference=engine, progress=False)
        off = found.vector_field(x).mean - trained.vector_field(x).mean
        apart.append(float(off.square().mean().sqrt()))
    assert apart[1] < 0.5 * apart[0]


@pytest.mark.slow
def test_nuts_samples_small_networks_from_the_trained_one() -> None:
    data = Pendulum(friction=0.1).simulate(3, rate=5, duration=4, noise_std=0.05, seed=0)
    engine = sg.NUTS(num_samples=6, num_warmup=12, num_chains=2, max_tree_depth=4)
    posterior = sg.fit(small((5,)), data, inference=engine, progress=False)
    component = posterior.components[0]
    assert isinstance(component, SampledComponent)
    assert len(component.draws.theta) == 12
    torch.testing.assert_close(
        posterior.noise_std, torch.full((2,), 0.05).double(), rtol=0.4, atol=0
    )
    assert bool((component.draws.theta == component.theta).all(1).any())
    assert float(posterior.vector_field([[0.3, 0.1]]).stddev.max()) > 0.0


def test_momenta_of_a_lagrangian_under_laplace_are_those_of_its_draws():
    x = randn(40, 2, seed=3)
    pairs = sg.StateDerivatives(x, torch.stack([x[:, 1], -x[:, 0]], 1))
    engine = sg.Laplace(num_steps=50, num_draws=20)
    posterior = sg.fit(sg.LNN(1, (8,)), pairs, inference=engine, progress=False)
    found = posterior.momenta(x[:5])
    assert found.mean.shape == (5, 1) and bool((found.stddev > 0).all())
    with pytest.raises(TypeError, match="Lagrangian"):
        sg.fit(sg.HNN(1, (8,)), pairs, inference=engine, progress=False).momenta(x[:5])


def test_an_unfinished_search_is_not_called_converged(monkeypatch: pytest.MonkeyPatch):
    from sympgp.inference.networks import base

    monkeypatch.setattr(base, "LAST_STEPS", 1)
    x = randn(30, 2, seed=4)
    pairs = sg.StateDerivatives(x, torch.stack([x[:, 1], -(x[:, 0] ** 3)], 1))
    for engine in (sg.MAP(num_steps=20), sg.Laplace(num_steps=20, num_draws=10)):
        posterior = sg.fit(sg.HNN(1, (8,)), pairs, inference=engine, progress=False)
        assert not posterior.diagnostics.converged


def test_what_is_learned_with_the_rest_cannot_be_switched_off():
    x = randn(30, 2, seed=4)
    pairs = sg.StateDerivatives(x, torch.stack([x[:, 1], -x[:, 0]], 1))
    for model in (sg.DHNN(1, (4,)), sg.NeuralODE(1, (4,))):
        posterior = sg.fit(model, pairs, inference=sg.MAP(num_steps=5), progress=False)
        with pytest.raises(TypeError, match="without_dissipation"):
            posterior.without_dissipation()

"""Whole fits to pairs of states and derivatives: what they recover and must not depend on."""

import inspect
import math

import pytest
import torch
from gpytorch.kernels import MaternKernel, PeriodicKernel, RBFKernel, RQKernel, ScaleKernel
from gpytorch.priors import GammaPrior, LogNormalPrior
from problems import NAN, randn, tensor

from sympgp import (
    RK4,
    SSGP,
    DerivativeRegression,
    ExactGP,
    Friction,
    GaussianNoise,
    GaussNewton,
    StateDerivatives,
    StudentTNoise,
    fit,
)
from sympgp.energies import FourierEnergy
from sympgp.inference.derivative_search import Objective, search
from sympgp.inference.evidence import pack
from sympgp.inference.pairs import NoiseParameters, prepare_pairs
from sympgp.kernels import QuadraticKernel
from sympgp.posterior import derivative_storage
from sympgp.systems import HenonHeiles, Pendulum

ENGINES = [DerivativeRegression(num_components=2), ExactGP(num_components=2)]
NAMES = ["features", "kernel"]
MODEL = SSGP(num_features=40, dissipation=Friction())
CONSERVATIVE = SSGP(num_features=40)


def pairs_of(system, num: int, noise: float = 0.1, spread: float = 1.2, seed: int = 0, **settings):
    x = spread * randn(num, 2 * system.num_dof, seed=seed)
    rates = system.vector_field(x) + noise * randn(*x.shape, seed=seed + 1)
    return StateDerivatives(x, rates, **settings)


@pytest.fixture(scope="module")
def data() -> StateDerivatives:
    return pairs_of(Pendulum(friction=0.2), 45)


@pytest.fixture(scope="module", params=ENGINES, ids=NAMES)
def posterior(request, data):
    return fit(MODEL, data, inference=request.param, progress=False)


def test_field_friction_and_noise_are_found(posterior):
    truth = Pendulum(friction=0.2)
    x = 1.2 * randn(50, 2, seed=9)
    found = posterior.vector_field(x)
    error = (found.mean - truth.vector_field(x)) / found.stddev
    assert float(error.square().mean().sqrt()) < 1.8
    assert float(found.stddev.mean()) < 0.1
    friction = posterior.dissipation()
    assert abs(float(friction.mean) - 0.2) < 3.0 * float(friction.stddev) < 0.15
    noise = posterior.noise()
    assert float(((noise.mean - 0.1) / noise.stddev).abs().max()) < 3.0
    matrix = posterior.dissipation_matrix(x[:2])
    torch.testing.assert_close(
        matrix, torch.diag(torch.stack([0.0 * friction.mean, friction.mean])).expand(2, 2, 2)
    )


def test_the_energy_is_that_of_the_field(posterior):
    """Differences of the true H lie within the bands, and H(reference) is zero exactly."""
    truth, x = Pendulum(friction=0.2), 1.2 * randn(40, 2, seed=9)
    reference = tensor([0.5, 0.1])
    found = posterior.hamiltonian(x, reference)
    expected = truth.hamiltonian(x) - truth.hamiltonian(reference[None])
    assert float(((found.mean - expected) / found.stddev).square().mean().sqrt()) < 1.8
    at_reference = posterior.hamiltonian(reference[None], reference)
    assert abs(float(at_reference.mean)) < 1e-9 and float(at_reference.stddev) < 1e-4


def test_draws_are_functions_of_the_stated_moments(posterior):
    x = 1.2 * randn(8, 2, seed=9)
    draws = posterior.sample(1500, seed=1)
    values, found = draws(x), posterior.vector_field(x)
    assert values.shape == (1500, 8, 2) and draws.energy(x).shape == (1500, 8)
    error = (values.mean(0) - found.mean) / found.stddev * math.sqrt(1500)
    assert float(error.abs().max()) < 5.0
    torch.testing.assert_close(values.std(0), found.stddev, rtol=0.1, atol=0.0)
    noise = posterior.noise()
    torch.testing.assert_close(draws.noise_std.mean(0), noise.mean, rtol=0.02, atol=0.0)
    torch.testing.assert_close(draws(x[:3]), values[:, :3])
    few = posterior.sample(3)
    assert few.num_samples == 3 and torch.equal(few(x), posterior.sample(3)(x))


def test_the_joint_distribution_has_the_marginals(posterior):
    x = 1.2 * randn(6, 2, seed=9)
    joint, found = posterior.vector_field(x, joint=True), posterior.vector_field(x)
    torch.testing.assert_close(joint.mean, found.mean)
    torch.testing.assert_close(joint.variance.sqrt(), found.stddev, rtol=1e-4, atol=1e-6)
    covariance = joint.covariance_matrix
    assert float(torch.linalg.eigvalsh(covariance).min()) > -1e-10
    draws = posterior.sample(2000, seed=2)(x).flatten(1)
    scale = covariance.diagonal().sqrt()
    correlation = covariance / torch.outer(scale, scale)
    torch.testing.assert_close(torch.corrcoef(draws.mT), correlation, atol=0.1, rtol=0.0)


def test_rollouts_have_latent_bands_only(posterior):
    times = torch.linspace(0.0, 2.0, 5, dtype=torch.float64)
    rollouts = posterior.rollout([[1.0, 0.0], [0.5, 0.2]], times, num_samples=20)
    assert rollouts.samples.shape == (20, 2, 5, 2)
    lower, upper = rollouts.band()
    assert bool((lower <= upper).all())
    with pytest.raises(ValueError, match="predictive band needs noise_std"):
        rollouts.band(kind="predictive")
    energy = rollouts.energy()
    assert bool((energy.diff(dim=-1) < 1e-6).all())  # friction only takes energy away
    truth = Pendulum(friction=0.2)
    exact = RK4(0.01).solve(lambda t, x: truth.vector_field(x), tensor([[1.0, 0.0]]), times)[0]
    assert float((rollouts.mean[0] - exact).abs().max()) < 0.3


def test_without_dissipation_energy_stays(posterior):
    times = torch.linspace(0.0, 2.0, 5, dtype=torch.float64)
    still = posterior.without_dissipation()
    energy = still.rollout([1.0, 0.0], times, num_samples=5, integrator=RK4(0.05)).energy()
    torch.testing.assert_close(energy, energy[..., :1].expand_as(energy), rtol=1e-5, atol=1e-5)
    assert float(still.dissipation().mean) == 0.0
    x = randn(4, 2)
    turned = still.vector_field(x).mean
    torch.testing.assert_close(turned[:, 0], posterior.vector_field(x).mean[:, 0])
    assert "counterfactual" in still.summary()


def test_the_summary_says_what_was_found(posterior):
    text = posterior.summary()
    assert "45 pairs of states and derivatives, 90 observations" in text
    for line in ("noise of d q / dt", "noise of d p / dt", "friction: 0.", "lengthscales of H"):
        assert line in text
    assert "Nothing to worry about was found." in text


def test_a_saved_posterior_predicts_the_same(posterior, tmp_path):
    path = tmp_path / "fit.pt"
    posterior.save(path)
    content = torch.load(path, weights_only=True)
    again = derivative_storage.from_content(content)
    x = randn(5, 2)
    for name in ("vector_field", "hamiltonian"):
        found, expected = getattr(again, name)(x), getattr(posterior, name)(x)
        assert torch.equal(found.mean, expected.mean)
        assert torch.equal(found.stddev, expected.stddev)
    assert torch.equal(again.sample(4)(x), posterior.sample(4)(x))
    assert torch.equal(again.noise_std, posterior.noise_std)
    assert again.summary() == posterior.summary()


@pytest.mark.parametrize("engine", ENGINES, ids=NAMES)
@pytest.mark.parametrize("num_dof", [1, 2])
def test_units_do_not_matter(engine, num_dof):
    """All q products changed alike, and time: the same field in other units."""
    system = Pendulum(friction=0.2) if num_dof == 1 else HenonHeiles()
    data = pairs_of(system, 25, noise=0.02, spread=1.0 if num_dof == 1 else 0.25)
    kappa, minute = 3.0, 60.0
    q = tensor([0.01, 25.0])[:num_dof]
    unit, shift = torch.cat([q, kappa / q]), randn(2 * num_dof, seed=3)
    moved = StateDerivatives(data.states * unit + shift, data.derivatives * unit / minute)
    model = SSGP(num_dof, 20, dissipation=Friction() if num_dof == 1 else None)
    plain = fit(model, data, inference=engine, progress=False)
    other = fit(model, moved, inference=engine, progress=False)
    x = data.states[:10] * 1.1
    expected, found = plain.vector_field(x), other.vector_field(x * unit + shift)
    torch.testing.assert_close(found.mean, expected.mean * unit / minute, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found.stddev, expected.stddev * unit / minute, rtol=1e-3, atol=0.0)
    energy, converted = plain.hamiltonian(x), other.hamiltonian(x * unit + shift)
    torch.testing.assert_close(converted.mean, energy.mean * kappa / minute, rtol=1e-3, atol=1e-5)
    if num_dof == 1:  # dp/dt = -eta dH/dp, with dH/dp in units of q over time
        eta = plain.dissipation().mean * unit[1] / unit[0]
        torch.testing.assert_close(other.dissipation().mean, eta, rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("engine", ENGINES, ids=NAMES)
def test_missing_derivatives_count_for_nothing(engine, data):
    rates = data.derivatives.clone()
    rates[::3, 0] = NAN
    rates[5] = NAN
    gaps = StateDerivatives(data.states, rates)
    found = fit(MODEL, gaps, inference=engine, progress=False)
    x = 1.2 * randn(30, 2, seed=9)
    truth, values = Pendulum(friction=0.2).vector_field(x), found.vector_field(x)
    assert float(((values.mean - truth) / values.stddev).square().mean().sqrt()) < 1.8


def test_one_channel_alone_is_enough():
    """From dq/dt = dH/dp alone the force is known where H is determined by it, at no scale."""
    data = pairs_of(Pendulum(), 60)
    rates = data.derivatives.clone()
    rates[:, 0] = NAN
    found = fit(
        CONSERVATIVE, StateDerivatives(data.states, rates), inference=ENGINES[1], progress=False
    )
    values = found.vector_field(data.states)
    error = values.mean[:, 1] - Pendulum().vector_field(data.states)[:, 1]
    assert float(error.square().mean().sqrt()) < 0.1
    assert "no derivative of q was measured" in found.summary()


@pytest.mark.parametrize("engine", ENGINES, ids=NAMES)
def test_known_noise_is_kept_and_tied_noise_is_shared(engine, data):
    known = SSGP(num_features=40, noise=GaussianNoise(std=[0.15, NAN]), dissipation=Friction())
    found = fit(known, data, inference=engine, progress=False).noise()
    torch.testing.assert_close(found.mean[0], tensor(0.15))
    assert float(found.stddev[0]) == 0.0 < float(found.stddev[1])
    tied = SSGP(num_features=40, noise=GaussianNoise(tied=[(0, 1)]), dissipation=Friction())
    level = fit(tied, data, inference=engine, progress=False).noise_std
    torch.testing.assert_close(level[0], level[1])


@pytest.mark.parametrize("engine", ENGINES, ids=NAMES)
def test_the_search_ends_where_the_log_posterior_is_flat(engine, data):
    """And its noise is a fixed point of the update from residuals."""
    prepared = prepare_pairs(MODEL, data)
    regression = engine.regression(MODEL, prepared)
    found = search(regression, prepared, prepared.pairs)
    law = NoiseParameters(prepared.noise)
    objective = Objective(
        regression, prepared.pairs, found.priors, law, regression.dissipation.prior_stddev
    )
    vector = torch.cat([found.mean, law.pack(found.noise_std), found.rho]).numpy()
    _, slope = objective(vector)
    assert found.converged and (abs(slope) < 0.1).all()
    for k in range(len(vector)):  # the gradient is that of the value
        step = 1e-5 * torch.eye(len(vector), dtype=torch.float64)[k].numpy()
        quotient = (objective(vector + step)[0] - objective(vector - step)[0]) / 2e-5
        assert quotient == pytest.approx(slope[k], abs=1e-3)
    assert float(torch.linalg.eigvalsh(found.covariance).min()) > 0.0
    hyper = {name: part for name, part in _unpacked(found).items()}
    solution = regression.solve(prepared.pairs, hyper, found.rho, found.noise_std)
    spare = prepared.pairs.counts - solution.degrees
    again = prepared.noise.update(solution.squares, spare)
    torch.testing.assert_close(again, found.noise_std, rtol=0.05, atol=0.0)


def _unpacked(found):
    values, begin = {}, 0
    for name, prior in found.priors.items():
        size = prior.median.numel()
        values[name] = found.mean[begin : begin + size].exp().reshape(prior.median.shape)
        begin += size
    torch.testing.assert_close(pack(found.priors, values), found.mean)
    return values


@pytest.mark.parametrize("engine", ENGINES, ids=NAMES)
def test_exact_derivatives_are_followed(engine):
    """Without any noise, where covariances are hardly positive definite."""
    system = Pendulum(friction=0.2)
    found = fit(MODEL, pairs_of(system, 40, noise=0.0), inference=engine, progress=False)
    x = randn(30, 2, seed=9)
    error = found.vector_field(x).mean - system.vector_field(x)
    assert float(error.square().mean().sqrt()) < 5e-3
    friction = found.dissipation()
    assert float(friction.mean) == pytest.approx(0.2, abs=2e-3)


def test_data_of_single_precision_are_computed_with_in_double(data):
    single = data.to(dtype=torch.float32)
    again = StateDerivatives(single.states.double(), single.derivatives.double())
    x = randn(4, 2)
    fields = [
        fit(MODEL, pairs, inference=ENGINES[0], progress=False).vector_field(x).mean
        for pairs in (single, again)
    ]
    assert fields[0].dtype == torch.float32
    assert torch.equal(fields[0], fields[1].float())


def test_features_and_kernel_agree(data):
    """With many features and one component each."""
    model = SSGP(dissipation=Friction(), energy=FourierEnergy(1, 200))
    one = [
        fit(model, data, inference=engine(num_components=1), progress=False)
        for engine in (DerivativeRegression, ExactGP)
    ]
    x = 1.2 * randn(40, 2, seed=9)
    first, second = (posterior.vector_field(x) for posterior in one)
    assert float(((first.mean - second.mean) / second.stddev).abs().median()) < 0.25
    assert float((first.stddev / second.stddev - 1.0).abs().median()) < 0.15
    friction = [posterior.dissipation() for posterior in one]
    assert abs(float(friction[0].mean - friction[1].mean)) < 0.25 * float(friction[1].stddev)


def test_many_data_are_thinned_for_the_search_only(monkeypatch):
    monkeypatch.setattr("sympgp.inference.exact_gp.SEARCHED", 60)
    data = pairs_of(Pendulum(), 100)
    posterior = fit(CONSERVATIVE, data, inference=ExactGP(num_components=1), progress=False)
    component = posterior.components[0]
    assert len(component.gaussian.alpha) == 200
    prepared = prepare_pairs(CONSERVATIVE, data)
    few = ExactGP().searched(prepared.pairs)
    assert 50 <= int(few.counts.sum()) <= 60
    x = 1.2 * randn(30, 2, seed=9)
    found = posterior.vector_field(x)
    error = (found.mean - Pendulum().vector_field(x)) / found.stddev
    assert float(error.square().mean().sqrt()) < 1.8


def test_other_kernels_take_the_place_of_the_models(data):
    x = 1.2 * randn(40, 2, seed=9)
    truth = Pendulum(friction=0.2).vector_field(x)
    for base in (
        MaternKernel(2.5, ard_num_dims=2),
        ScaleKernel(RBFKernel(ard_num_dims=2)) + QuadraticKernel(),
    ):
        engine = ExactGP(base_kernel=base, num_components=2)
        before = [value.clone() for value in base.state_dict().values()]
        posterior = fit(MODEL, data, inference=engine, progress=False)
        assert all(map(torch.equal, before, base.state_dict().values()))
        found = posterior.vector_field(x)
        assert float(((found.mean - truth) / found.stddev).square().mean().sqrt()) < 1.8
        draws = posterior.sample(500)(x)
        torch.testing.assert_close(draws.std(0), found.stddev, rtol=0.2, atol=0.0)
        names = set(posterior.components[0].hyperparameters)
        assert any(name.endswith("lengthscale") for name in names)
        assert any(name.endswith("outputscale") for name in names)


def test_kernels_that_are_code_predict_but_cannot_be_drawn_or_saved(tmp_path):
    """A periodic angle: the field repeats after a turn."""
    data = pairs_of(Pendulum(), 40)
    base = PeriodicKernel(active_dims=(0,)) * RBFKernel(active_dims=(1,))
    with pytest.raises(ValueError, match="no spectral density is known for ProductKernel"):
        fit(CONSERVATIVE, data, inference=ExactGP(base), progress=False).sample(2)


def test_priors_of_a_kernels_own_are_kept():
    from sympgp.inference.base_kernels import BaseKernelFamily

    prior = LogNormalPrior(math.log(0.7), 0.2)
    family = BaseKernelFamily.of(RQKernel(lengthscale_prior=prior, ard_num_dims=2), 2)
    found = family.hyperpriors(tensor([1.0, 1.0]))
    assert set(found) == {"base_kernel.lengthscale", "base_kernel.alpha", "outputscale"}
    own = found["base_kernel.lengthscale"]
    torch.testing.assert_close(own.median, tensor([[0.7, 0.7]]), rtol=1e-6, atol=0.0)
    assert own.log_stddev == pytest.approx(0.2)
    other = BaseKernelFamily.of(RBFKernel(lengthscale_prior=GammaPrior(2.0, 1.0)), 2)
    with pytest.raises(ValueError, match="expected a LogNormalPrior or none, got GammaPrior"):
        other.hyperpriors(tensor([1.0, 1.0]))
    with pytest.raises(ValueError, match="no batch shape"):
        BaseKernelFamily.of(RBFKernel(batch_shape=torch.Size([2])), 2)


X = randn(6, 2)


@pytest.mark.parametrize(
    ("model", "data", "settings", "message"),
    [
        (SSGP(2, 10), StateDerivatives(X, X), {}, "data: the model has 2 degree"),
        (MODEL, StateDerivatives(X[:3], X[:3]), {}, "data: expected at least 4 pairs, got 3"),
        (MODEL, StateDerivatives(X * tensor([1.0, 0.0]), X), {}, "data: p never changes"),
        (MODEL, StateDerivatives(X, 0.0 * X), {}, "data: all derivatives are zero"),
        (SSGP(num_features=10, noise=StudentTNoise()), StateDerivatives(X, X), {}, "noise: pairs"),
        (MODEL, StateDerivatives(X, X), {"integrator": RK4(0.1)}, "integrator: nothing is integra"),
        (
            MODEL,
            StateDerivatives(X, X),
            {"inference": GaussNewton()},
            r"inference: expected DerivativeRegression\(\), .*MAP\(\) for pairs .*got GaussNewton$",
        ),
    ],
)
def test_what_cannot_be_fitted_is_refused(model, data, settings, message):
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(fit)(model, data, progress=False, **settings)


@pytest.mark.parametrize("engine", [ExactGP, DerivativeRegression])
def test_engines_check_their_settings(engine):
    for value in (0, True):
        with pytest.raises(ValueError, match="num_components: expected a whole number"):
            engine(num_components=value)
    with pytest.raises(ValueError, match="inference: expected an engine"):
        trajectories = Pendulum().simulate(2, rate=5, duration=2, noise_std=0.1)
        inspect.unwrap(fit)(MODEL, trajectories, inference=engine(), progress=False)


def test_rollouts_refuse_what_they_cannot_start_from(posterior):
    for x0, times, message in (
        ([NAN, 0.0], [0.0, 1.0], "x0: expected finite"),
        ([0.0, 0.0], [1.0, 0.0], "times"),
        ([0.0, 0.0, 0.0], [0.0, 1.0], "x0: expected states"),
    ):
        with pytest.raises(ValueError, match=message):
            posterior.rollout(x0, times)


def test_outliers_and_useless_channels_are_worried_about():
    data = pairs_of(Pendulum(), 50, noise=0.02)
    rates = data.derivatives.clone()
    rates[:, 0] = randn(50, seed=4)
    summary = fit(
        CONSERVATIVE, StateDerivatives(data.states, rates), inference=ENGINES[0], progress=False
    ).summary()
    assert "the model explains little of d q / dt" in summary


@pytest.mark.slow
@pytest.mark.parametrize("engine", [DerivativeRegression(), ExactGP()], ids=NAMES)
def test_bands_of_field_energy_and_friction_cover(engine):
    """90 % bands over 12 data sets of a pendulum and of Henon-Heiles."""
    inside = {"field": [], "energy": [], "friction": []}
    for seed in range(12):
        for system, model, spread, noise in (
            (Pendulum(friction=0.2), SSGP(dissipation=Friction()), 1.2, 0.2),
            (HenonHeiles(), SSGP(2), 0.3, 0.02),
        ):
            data = pairs_of(system, 60, noise, spread, seed=100 * seed)
            posterior = fit(model, data, inference=engine, progress=False, seed=seed)
            x = spread * randn(100, 2 * system.num_dof, seed=100 * seed + 7)
            found, energy = posterior.vector_field(x), posterior.hamiltonian(x)
            z = (found.mean - system.vector_field(x)) / found.stddev
            inside["field"].append((z.abs() < 1.645).double().mean())
            level = system.hamiltonian(x) - system.hamiltonian(data.states.mean(0)[None])
            z = (energy.mean - level) / energy.stddev
            inside["energy"].append((z.abs() < 1.645).double().mean())
            if model.dissipation == Friction():
                eta = posterior.dissipation()
                z = (eta.mean - 0.2) / eta.stddev
                inside["friction"].append((z.abs() < 1.645).double())
    share = {name: float(torch.stack(values).mean()) for name, values in inside.items()}
    assert 0.84 < share["field"] < 0.96, share
    assert 0.80 < share["energy"] < 0.97, share
    assert share["friction"] >= 8 / 12, share

"""Known physics in a fit: named parameters, remainders, summaries, saved formulas, forecasts."""

from dataclasses import replace
from statistics import median

import pytest
import torch
from problems import canonical, randn, tensor
from torch import distributions as dist

import sympgp as sg
from sympgp.dissipation import DiagonalFriction, Friction, MatrixFriction, Rayleigh
from sympgp.energies import (
    FourierEnergy,
    PhysicsEnergy,
    QuadraticKinetic,
    SeparableEnergy,
    SumEnergy,
    nearest_weights,
)
from sympgp.energies.priors import prior_of
from sympgp.energies.stand_in import stand_in
from sympgp.fields import HamiltonianField
from sympgp.posterior import parameters as named_parameters
from sympgp.posterior.found import (
    dissipation_lines,
    friction_worries,
    input_lines,
    physics_lines,
)
from sympgp.systems import Pendulum

FORMULA = "p**2/(2*m) + m*k*(1-cos(q))"
STIFFNESS, CUBIC = 6.0, 0.3
OF_MOMENTA = " (N m s)/rad"
QUICK = sg.GaussNewton(num_components=1)


class CubicPendulum(Pendulum):
    """A pendulum with a force ``-0.3 q^3`` beside its weight."""

    def _energy(self, q, p):
        return super()._energy(q, p) + 0.25 * CUBIC * (q**4).sum(-1)

    def _gradient(self, q, p):
        by_q, by_p = super()._gradient(q, p)
        return by_q + CUBIC * q**3, by_p


def known(prior=None):
    return PhysicsEnergy(FORMULA, {"k": prior or dist.LogNormal(1.0, 1.0), "m": 0.5})


def energy_of_a_pendulum(q, p, k):
    return (p**2 + 0.5 * k * (1.0 - q.cos())).squeeze(-1)


def fitted(energy, data, inference=QUICK, **parts):
    model = sg.HamiltonianModel(energy, **parts)
    return sg.fit(model, data, inference=inference, progress=False)


@pytest.fixture(scope="module")
def swings():
    return Pendulum(friction=0.1).simulate(2, rate=4, duration=5, noise_std=0.05, seed=2)


@pytest.fixture(scope="module")
def physics(swings):
    data = sg.Trajectories(
        swings.times, swings.states, units={"q": "rad", "p": "N m s", "time": "s"}
    )
    return fitted(known(), data, dissipation=Friction())


@pytest.fixture(scope="module")
def hybrid():
    data = CubicPendulum().simulate(2, rate=4, duration=5, noise_std=0.05, seed=1)
    return fitted(known(dist.Normal(5.0, 2.0)) + FourierEnergy(1, 8, on="q"), data)


# parameters


def test_parameters_are_in_user_units_with_their_moments_and_quantiles(physics):
    found = physics.parameters()
    assert list(found) == ["k"]
    k = found["k"]
    assert abs(float(k.mean) - STIFFNESS) < 4.0 * float(k.stddev) < 1.0
    low, high = k.interval(0.95)
    assert float(low) == float(k.quantile(0.025)) < float(k.mean) < float(high)
    torch.testing.assert_close(high - low, 3.92 * k.stddev, rtol=0.1, atol=0.0)
    draws = physics.sample(4000).parts[0]
    drawn = draws.basis.values(draws.weights)["k"]
    torch.testing.assert_close(drawn.mean(), k.mean, rtol=0.0, atol=0.1 * float(k.stddev))


def with_field(posterior, field, theta, deviation=0.1):
    """The same data with another field, whose parameters are known to a deviation."""
    factor = torch.eye(len(theta), dtype=theta.dtype) / deviation
    part = replace(
        posterior.components[0],
        field=field,
        theta=theta,
        factor=factor,
        states=None,
        anchors=None,
    )
    return replace(posterior, components=(part,))


def in_its_units(posterior, energy):
    """Basis of an energy in the posterior's units."""
    energy = energy.in_units(posterior.scaling)
    priors = energy.hyperpriors(posterior.scaling.spread)
    return energy.basis({name: prior.median for name, prior in priors.items()})


def test_fields_without_names_have_no_parameters(physics):
    basis = in_its_units(physics, FourierEnergy(1, 6))
    field = physics.components[0].field.with_basis(basis)
    found = with_field(physics, field, torch.zeros(field.num_parameters, dtype=torch.float64))
    assert found.parameters() == {} == found.parameters(nearest=True)
    assert physics_lines(found) == []


@pytest.mark.parametrize("probability", [-0.1, 1.5])
def test_probabilities_are_checked(physics, probability):
    with pytest.raises(ValueError, match="probability: expected"):
        physics.parameters()["k"].quantile(probability)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_levels_are_checked(physics, level):
    with pytest.raises(ValueError, match="level: expected"):
        physics.parameters()["k"].interval(level)


def test_a_mass_matrix_is_a_parameter(physics):
    energy = SeparableEnergy(QuadraticKinetic(), FourierEnergy(1, 6, on="q"))
    basis = in_its_units(physics, energy)
    field = physics.components[0].field.with_basis(basis)
    theta = torch.zeros(field.num_parameters, dtype=torch.float64)
    theta[0] = 0.4
    posterior = with_field(physics, field, theta, deviation=0.01)
    mass = posterior.parameters()["mass"]
    assert mass.mean.shape == (1, 1)
    expected = basis.mass_matrix(theta[: basis.num_weights])
    torch.testing.assert_close(mass.mean, expected, rtol=1e-3, atol=0.0)
    torch.testing.assert_close(mass.stddev, 0.02 * expected, rtol=0.05, atol=0.0)
    value = f"{float(mass.mean):.4g} +- {float(mass.stddev):.2g}"
    assert physics_lines(posterior) == [f"  mass: {value}"]


# what a remainder may do in a parameter's place


@pytest.mark.parametrize("prior", [dist.Normal(5.0, 2.0), dist.LogNormal(1.0, 1.0)], ids=str)
@pytest.mark.parametrize("orthogonal", [True, False])
def test_stand_ins_are_changes_of_parameters_with_the_same_field(prior, orthogonal):
    """Exactly, as H is linear in k: what they leave of a feature is orthogonal to the physics."""
    scaling, z = canonical(seed=3), 0.7 * randn(30, 2, seed=4)
    energy = SumEnergy([known(prior), FourierEnergy(1, 6)], orthogonal=orthogonal)
    energy = energy.in_units(scaling).prepare(z)
    priors = energy.hyperpriors(torch.ones(2, dtype=torch.float64))
    basis = energy.basis({name: prior.median for name, prior in priors.items()})
    w = 0.3 * randn(basis.num_weights, seed=5)
    found = stand_in(basis, z, w)
    change, none = found if orthogonal else found[::-1]
    torch.testing.assert_close(none, torch.zeros_like(none), atol=1e-9, rtol=0.0)
    assert not change[0, 0]
    unit = scaling.energy_scale
    x = scaling.to_user(z)
    tangent = torch.stack([0.5 * x[:, 0].sin(), 0.0 * x[:, 0]], 1) * scaling.scale / unit
    features = basis.parts[1].learned if orthogonal else basis.parts[1]
    left = features.feature_gradient(z) - tangent.unsqueeze(-1) * change[0, 1:]
    overlap = torch.einsum("bd,bdm->m", tangent, left)
    torch.testing.assert_close(overlap, torch.zeros_like(overlap), atol=1e-9, rtol=0.0)


def test_the_parameter_itself_is_what_the_closest_formula_and_the_remainder_leave(hybrid):
    """Of Gaussians in closed form: ``nearest = k + a`` is known, ``a ~ N(0, A V A')``."""
    component = hybrid.components[0]
    basis = component.field.basis
    z, w = named_parameters.region(hybrid), component.theta[: basis.num_weights]
    change = stand_in(basis, z, w).taken_over[0]
    nearest, own = hybrid.parameters(nearest=True)["k"], hybrid.parameters()["k"]
    other = (change**2 * basis.prior_variance).sum() + nearest.variance
    gain = 4.0 / (4.0 + other)
    expected = 5.0 + gain * (nearest.mean - 5.0)
    stddev = (4.0 * (1.0 - gain)).sqrt()
    torch.testing.assert_close(own.mean, expected, rtol=0.0, atol=0.1 * float(stddev))
    torch.testing.assert_close(own.stddev, stddev, rtol=0.06, atol=0.0)


def test_the_closest_formula_is_known_and_the_parameter_is_not(hybrid):
    nearest, own = hybrid.parameters(nearest=True)["k"], hybrid.parameters()["k"]
    low, high = own.interval()
    assert float(low) < STIFFNESS < float(high)
    assert float(own.stddev) > 10.0 * float(nearest.stddev)
    truth = closest(hybrid)
    assert abs(float(nearest.mean) - truth) < 3.5 * float(nearest.stddev)
    assert truth > STIFFNESS + 1.0


def closest(posterior, system=None):
    """The formula closest to the true field over the fitted paths."""
    system = CubicPendulum() if system is None else system
    scaling = posterior.scaling
    x = torch.cat([path.mean[0] for path in posterior.fitted(num_samples=20)])
    slope = torch.stack(system._gradient(x[:, :1], x[:, 1:]), 1).squeeze(-1)
    basis = known().in_units(scaling).basis()
    w = nearest_weights(basis, scaling.to_scaled(x), slope * scaling.scale / scaling.energy_scale)
    return float(basis.values(w)["k"])


@pytest.mark.slow
def test_nothing_unmodelled_leaves_the_parameter_known():
    """The remainder's scales fall to nothing, and with them what it may do in k's place."""
    data = Pendulum().simulate(4, rate=5, duration=8, noise_std=0.05, seed=1)
    posterior = fitted(known() + FourierEnergy(1, 20, on="q", quadratic=False), data)
    k = posterior.parameters()["k"]
    assert abs(float(k.mean) - STIFFNESS) < 4.0 * float(k.stddev) < 1.2
    assert "physics 100.0%, fourier 0.0%" in posterior.summary()


@pytest.mark.slow
def test_without_orthogonality_the_fit_itself_tells_both():
    data = CubicPendulum().simulate(3, rate=4, duration=6, noise_std=0.05, seed=1)
    energy = SumEnergy([known(), FourierEnergy(1, 20, on="q")], orthogonal=False)
    posterior = fitted(energy, data)
    nearest, own = posterior.parameters(nearest=True)["k"], posterior.parameters()["k"]
    assert float(own.stddev) > 3.0 * float(nearest.stddev)
    assert abs(float(nearest.mean) - closest(posterior)) < 4.0 * float(nearest.stddev)
    assert named_parameters.correlations(posterior)["k"] < -0.9


def test_scales_beside_a_formula_may_be_nothing():
    spread = torch.ones(2, dtype=torch.float64)
    alone = FourierEnergy(1, 8).hyperpriors(spread)
    beside = (known() + FourierEnergy(1, 8)).hyperpriors(spread)
    for name, prior in alone.items():
        wider = beside[f"fourier.{name}"]
        torch.testing.assert_close(wider.median, prior.median)
        assert wider.log_stddev == (prior.log_stddev if name == "lengthscale" else 3.0)


@pytest.mark.parametrize(
    "prior", [dist.Normal(1.0, 2.0), dist.LogNormal(0.5, 0.7), dist.Gumbel(0.0, 1.0)], ids=str
)
def test_densities_of_priors_are_found_from_their_quantiles(prior):
    values = prior.icdf(torch.linspace(0.01, 0.99, 9, dtype=torch.float64))
    found = named_parameters._log_density(prior_of("k", prior), values)
    expected = prior.log_prob(values)
    torch.testing.assert_close(
        found - found[0], expected - expected[0], rtol=0.0, atol=1e-5, check_dtype=False
    )


def test_values_outside_a_prior_have_no_density():
    prior = prior_of("k", dist.Uniform(0.0, 1.0))
    found = named_parameters._log_density(prior, tensor([-0.5, 0.5, 1.5]))
    assert found.isfinite().tolist() == [False, True, False]


# summaries


def test_the_summary_names_physics_and_units(physics):
    text = physics.summary()
    k, friction = physics.parameters()["k"], physics.dissipation()
    low, high = k.interval(0.95)
    assert f"k: {float(k.mean):.4g} +-" in text
    assert f"(95% from {float(low):.4g} to {float(high):.4g})" in text
    value = f"{float(friction.mean):.4g} +- {float(friction.stddev):.2g}"
    assert f"friction: {value} (N m s)/rad" in text
    assert "cannot be told apart" not in text and "closest" not in text


def test_the_summary_says_what_the_parts_explain_and_cannot_tell_apart(hybrid):
    text = hybrid.summary()
    nearest = hybrid.parameters(nearest=True)["k"]
    assert f"of the formula closest to the whole field {float(nearest.mean):.4g} +-" in text
    assert "of the field over the data, as mean squares: physics 9" in text
    assert "k and the learned part of the energy cannot be told apart (correlation -1.00)" in text
    lengths = next(line for line in text.splitlines() if "lengthscales" in line)
    assert lengths.strip().startswith("lengthscales of the fourier part of H: q ")
    assert " p " not in lengths


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        (DiagonalFriction(), [("friction of p", OF_MOMENTA)]),
        (
            DiagonalFriction(positions=True),
            [("friction of q", " rad/(N m s)"), ("friction of p", OF_MOMENTA)],
        ),
        (MatrixFriction(), [("friction of p", OF_MOMENTA)]),
        (
            Rayleigh(),
            [
                ("linear drag of p", OF_MOMENTA),
                ("coulomb drag of p", " (N m s)/s"),
                ("quadratic drag of p", " (N m s s)/rad^2"),
            ],
        ),
    ],
    ids=["diagonal", "positions", "matrix", "drag"],
)
def test_every_coefficient_of_a_dissipation_is_named(physics, family, expected):
    damping = family.scaled(physics.scaling)
    field = HamiltonianField(physics.components[0].field.basis, damping)
    theta = torch.cat([physics.components[0].theta[:1], damping.start()])
    posterior = replace(with_field(physics, field, theta), dissipation_family=family)
    found = posterior.dissipation()
    values = zip(found.mean.flatten().tolist(), found.stddev.flatten().tolist(), strict=True)
    shown = [
        f"  {name}: {mean:.4g} +- {stddev:.2g}{unit}"
        for (name, unit), (mean, stddev) in zip(expected, values, strict=True)
    ]
    assert dissipation_lines(posterior) == shown
    assert friction_worries(posterior) == []
    prior = torch.cat([theta[:1], torch.zeros_like(damping.start())])
    vague = replace(with_field(physics, field, prior, 1.0), dissipation_family=family)
    names = ", ".join(name for name, _ in expected)
    said = f"{names}: poorly identified, for the posterior is nearly as wide as the prior"
    assert friction_worries(vague) == [said]


def test_learned_inputs_are_in_the_summary(physics):
    data = physics.data
    torque = [t.sin().unsqueeze(-1) for t in data.times]
    data = sg.Trajectories(data.times, data.states, inputs=torque, input_names=["torque"])
    part = physics.components[0].field
    driven = sg.LearnedInputs(1).scaled(physics.scaling, tensor([0.7]))
    field = HamiltonianField(part.basis, part.dissipation, driven)
    theta = 0.5 * torch.ones(field.num_parameters, dtype=torch.float64)
    posterior = replace(with_field(physics, field, theta), data=data)
    found = posterior.input_matrix(posterior.scaling.center)
    value = f"{float(found.mean[0, 1, 0]):.4g} +- {float(found.stddev[0, 1, 0]):.2g}"
    assert f"  input torque on d p / dt: {value} per unit" in input_lines(posterior)


# saved formulas


def test_strings_are_saved_and_functions_are_handed_back(physics, tmp_path):
    path = tmp_path / "fit.pt"
    energy = PhysicsEnergy(energy_of_a_pendulum, {"k": dist.LogNormal(1.0, 1.0)})
    part = physics.components[0]
    basis = in_its_units(physics, energy + FourierEnergy(1, 4))
    field = part.field.with_basis(basis)
    theta = 0.1 * randn(field.num_parameters, seed=8)
    posterior = with_field(physics, field, theta)
    posterior.save(path)
    x = randn(4, 2, seed=7)
    expected = posterior.vector_field(x)
    for handed in (energy_of_a_pendulum, {"energy_of_a_pendulum": energy_of_a_pendulum}):
        loaded = sg.load(path, formula=handed)
        found = loaded.vector_field(x)
        torch.testing.assert_close(found.mean, expected.mean, rtol=0.0, atol=0.0)
        torch.testing.assert_close(found.stddev, expected.stddev, rtol=0.0, atol=0.0)
    with pytest.raises(ValueError, match="formula: .*function 'energy_of_a_pendulum'.*got None"):
        sg.load(path)
    with pytest.raises(ValueError, match="formula: the function gives other energies"):
        sg.load(path, formula=lambda q, p, k: energy_of_a_pendulum(q, p, 2.0 * k))
    with pytest.raises(ValueError, match="formula: the function cannot stand for"):
        sg.load(path, formula=lambda q, p, stiffness: q)


def test_functions_that_nothing_needs_are_refused(physics, tmp_path):
    physics.save(tmp_path / "fit.pt")
    loaded = sg.load(tmp_path / "fit.pt")
    assert loaded.summary() == physics.summary()
    with pytest.raises(ValueError, match="formula: expected None"):
        sg.load(tmp_path / "fit.pt", formula=energy_of_a_pendulum)


# figures


@pytest.mark.slow
def test_known_physics_and_a_remainder_forecast_better_than_either():
    """A force ``-0.3 q^3`` that the formula does not have; four data sets."""
    system, errors, inside, close = CubicPendulum(), [], [], []
    times = torch.linspace(0.0, 15.0, 151, dtype=torch.float64)
    start = system.sample_initial(20, seed=1000)
    truth = system.exact(start, times)
    models = (known() + FourierEnergy(1, 40, on="q"), known(), FourierEnergy(1, 80))
    for seed in range(4):
        data = system.simulate(5, rate=3, duration=10, noise_std=0.1, seed=seed)
        posteriors = [fitted(energy, data, sg.GaussNewton()) for energy in models]
        rollouts = [posterior.rollout(start, times, 40) for posterior in posteriors]
        errors.append([float(sg.metrics.trajectory_mse(r, truth).mean()) for r in rollouts])
        low, high = posteriors[0].parameters()["k"].interval()
        inside.append(float(low) < STIFFNESS < float(high))
        nearest = posteriors[0].parameters(nearest=True)["k"]
        close.append(abs(float(nearest.mean) - closest(posteriors[0])) / float(nearest.stddev))
    hybrid, formula, process = (median(column) for column in zip(*errors, strict=True))
    assert hybrid < 0.2 * formula and hybrid < process
    assert all(inside) and max(close) < 4.0

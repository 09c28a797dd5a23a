"""Variational inference: exact where the model is linear, unbiased, resumable, reproducible."""

import math
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from problems import gaussian, identity_scaling, ragged_data, randn, shooting, tensor

from sympgp import SSGP, Friction, GaussianNoise, StochasticVI, StudentTNoise, fit
from sympgp.dissipation import Conservative
from sympgp.energies.base import Basis, GradientMap
from sympgp.fields import HamiltonianField
from sympgp.inference import GaussNewton, InferenceEngine, ascent
from sympgp.inference.approximation import Approximation
from sympgp.inference.ascent import Ascent, Schedule, ascend
from sympgp.inference.checkpoint import Checkpoint
from sympgp.inference.elbo import bound_of_draws, elbo
from sympgp.inference.gaussian import as_component
from sympgp.inference.linearised import joined, linearised
from sympgp.inference.truncated import truncated_draws
from sympgp.integrators import RK4, Dopri5, ImplicitMidpoint
from sympgp.metrics import trajectory_mse
from sympgp.posterior import GaussianComponent, WindowStates
from sympgp.posterior.inverse_gamma import inverse_gamma_log_density
from sympgp.posterior.truncated import truncated_quantile
from sympgp.shooting.density import JointDensity
from sympgp.shooting.layout import Nodes, Windows
from sympgp.shooting.levenberg_marquardt import levenberg_marquardt
from sympgp.shooting.problem import Estimate, Problem
from sympgp.shooting.sensitivities import INITIAL_VARIANCE
from sympgp.systems import Pendulum

NONE = Checkpoint(None, "")


@pytest.fixture
def short_blocks(monkeypatch):
    """Looks at the bound after every ten steps, so that short trainings have several."""
    monkeypatch.setattr(ascent, "BLOCK", 10)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# A model that is linear in all unknowns: H = w . z, so that states move at a constant rate.


class ConstantMap(GradientMap):
    """``z -> K w``."""

    def __init__(self, slope):
        self.slope = slope

    def __call__(self, z):
        slope = self.slope.unsqueeze(-2) if self.slope.dim() > 1 else self.slope
        return slope.expand(z.shape)

    def transformed(self, matrix):
        return ConstantMap((matrix @ self.slope.unsqueeze(-1)).squeeze(-1))

    def first(self):
        return ConstantMap(self.slope[:1])


class LinearBasis(Basis):
    """``H(z) = w . z``."""

    num_weights = 2

    def __init__(self):
        self.prior_variance = tensor([0.5, 2.0])

    def features(self, z, w=None):
        return z

    def feature_gradient(self, z, w=None):
        return torch.eye(2).double().expand(*z.shape, 2)

    def gradient_map(self, w):
        return ConstantMap(w)

    def hessian(self, z, w):
        return 0.0 * z.unsqueeze(-1) * z.unsqueeze(-2)


def linear_problem(duration: float) -> tuple[Problem, JointDensity]:
    nodes = Nodes.from_data(ragged_data(), identity_scaling())
    windows = Windows.of_duration(nodes, duration)
    field = HamiltonianField(LinearBasis(), Conservative().scaled(identity_scaling()))
    noise = gaussian(2, tensor([0.3, 0.5]))
    defect = 0.0 if windows.joined else 0.2
    density = JointDensity(nodes, windows, field, noise, defect, 10.0)
    return Problem(nodes, windows, field, noise, 10.0), density


def exact_component(duration: float) -> tuple[GaussianComponent, JointDensity]:
    """The posterior of the linear problem: where the search stands still."""
    problem, density = linear_problem(duration)
    start = torch.zeros(problem.windows.num_windows, 2).double()
    begin = Estimate(
        torch.zeros(2).double(),
        start,
        problem.noise.known,
        density.defect_std,
        torch.ones(2).double(),
    )
    found = levenberg_marquardt(problem, begin, max_iterations=20, tolerance=1e-9).estimate
    return linearised(problem, found, {}, duration), density


def evidence(density: JointDensity) -> float:
    """Log density of all observations, from their dense covariance."""
    rows, levers = [], []
    nodes, windows = density.nodes, density.windows
    structure = density.field.structure(torch.zeros(0).double())
    for trajectory, (begin, end) in enumerate(zip(nodes.first, nodes.first[1:], strict=False)):
        chain = windows.chain[trajectory]
        leaps = nodes.times[windows.start[chain[chain >= 0]]][1:].tolist()
        for i in range(begin, end):
            for c in range(2):
                if nodes.mask[i, c]:
                    elapsed = nodes.times[i] - nodes.times[begin]
                    passed = sum(nodes.times[i] >= leap for leap in leaps)
                    rows.append((nodes.values[i, c], c, trajectory, nodes.times[i]))
                    levers.append((elapsed * structure[c], passed, leaps))
    count = len(rows)
    cov = torch.zeros(count, count).double()
    prior = torch.diag(density.field.basis.prior_variance)
    for a, (_, c, i, t) in enumerate(rows):
        for b, (_, d, j, s) in enumerate(rows):
            cov[a, b] = levers[a][0] @ prior @ levers[b][0]
            if i == j and c == d:
                shared = sum(min(t, s) >= leap for leap in levers[a][2])
                cov[a, b] += INITIAL_VARIANCE + shared * density.defect_std**2
        cov[a, a] += density.noise.known[c] ** 2
    values = torch.stack([row[0] for row in rows])
    law = torch.distributions.MultivariateNormal(torch.zeros(count).double(), cov)
    return float(law.log_prob(values))


@pytest.mark.parametrize("duration", [1.0, math.inf])
def test_the_bound_of_the_exact_posterior_is_the_evidence_in_every_draw(duration):
    component, density = exact_component(duration)
    q = Approximation.of(component)
    draws = q.sample(5, generator())
    terms = bound_of_draws(q, density, draws)
    bound = torch.stack(list(terms.values())).sum(0)
    expected = torch.full_like(bound, evidence(density))
    torch.testing.assert_close(bound, expected, rtol=0.0, atol=1e-3)
    named = elbo(q, density, 4, generator(1))
    assert set(named) == set(terms) and "entropy" in named
    assert float(sum(named.values())) == pytest.approx(evidence(density), abs=1e-3)


@pytest.mark.parametrize("duration", [1.0, math.inf])
def test_the_gradient_vanishes_draw_by_draw_at_the_exact_posterior(duration):
    component, density = exact_component(duration)
    training = Ascent.begin(Approximation.of(component), density, Schedule(1, 2, 0.1), 0)
    zeros = {name: torch.zeros_like(value) for name, value in training.q.trained.items()}
    _, step = training._gradient(zeros, True)
    assert max(float(part.abs().max()) for part in step.values()) < 1e-3


@pytest.mark.parametrize("duration", [1.0, math.inf])
def test_gradients_are_those_of_the_divergence_from_the_exact_posterior(duration):
    """The bound is the evidence less KL(q, posterior), which is known for Gaussians."""
    component, density = exact_component(duration)
    q = Approximation.of(component)
    moved = {
        name: 0.2 * randn(*value.shape, seed=k) for k, (name, value) in enumerate(q.trained.items())
    }
    leaves = {name: value.requires_grad_(True) for name, value in moved.items()}
    away = q.having(leaves)
    draws = away.sample(4_000, generator())
    total = torch.stack(list(bound_of_draws(away.detached(), density, draws).values())).sum(0)
    found = torch.autograd.grad(
        total.mean(), list(leaves.values()), allow_unused=True, materialize_grads=True
    )
    # The same by the log ratio of the two densities, whose score has mean zero.
    draws = away.sample(4_000, generator(1))
    divergence = (away.detached().log_prob(draws) - q.log_prob(draws)).mean()
    expected = torch.autograd.grad(
        -divergence, list(leaves.values()), allow_unused=True, materialize_grads=True
    )
    for name, one, other in zip(leaves, found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0.1, atol=0.15, msg=name)


def test_pairs_of_draws_know_the_gradient_of_the_mean_exactly():
    component, density = exact_component(math.inf)
    q = Approximation.of(component)
    leaves = {name: torch.zeros_like(value) for name, value in q.trained.items()}
    leaves["shift"] = tensor([0.7, -0.4]).requires_grad_(True)
    away = q.having(leaves)
    total = torch.stack(list(elbo(away, density, 2, generator()).values())).sum()
    draws = away.sample(2, generator())
    total = torch.stack(list(bound_of_draws(away.detached(), density, draws).values())).sum(0)
    (found,) = torch.autograd.grad(total.mean(), leaves["shift"])
    torch.testing.assert_close(found, tensor([-0.7, 0.4]))


def test_ascent_finds_the_exact_posterior():
    component, density = exact_component(1.0)
    exact = Approximation.of(component)
    moved = {name: value + 0.3 for name, value in exact.trained.items()}
    start = exact.having(moved).whitened()
    found = ascend(start, density, Schedule(250, 2, 0.2), 0, "all", NONE, lambda bound: None)
    assert found.lost == 0
    with torch.no_grad():
        draws = found.q.sample(500, generator())
        terms = bound_of_draws(found.q, density, draws)
        bound = torch.stack(list(terms.values())).sum(0)
        before = bound_of_draws(start, density, start.sample(500, generator()))
    assert float(bound.mean()) == pytest.approx(evidence(density), abs=0.05)
    assert float(sum(before.values()).mean()) < evidence(density) - 2.0
    away = component.factor.mT @ (found.q.centre - component.theta)
    assert float(away.abs().max()) < 0.1


# The family


@cache
def pendulum_component(friction: bool = True) -> tuple[GaussianComponent, JointDensity]:
    """About a path through ragged data in several windows."""
    problem, estimate = shooting(duration=1.6, friction=friction)
    component = linearised(problem, estimate, {}, 1.6)
    density = JointDensity(
        problem.nodes,
        problem.windows,
        problem.field,
        problem.noise,
        estimate.defect_std,
        problem.step,
        inflation=estimate.inflation,
    )
    return component, density


@pytest.mark.parametrize("friction", [True, False])
def test_a_component_is_taken_over_exactly(friction):
    """Its own draws have the moments of the approximation's, and it comes back as it was."""
    component, _ = pendulum_component(friction)
    q = Approximation.of(component)
    ours, theirs = q.sample(20_000, generator()), component.sample(20_000, generator(1))
    wide = [torch.cat([d.theta, d.start.flatten(1)], 1) for d in (ours, theirs)]
    scale = wide[1].std(0)
    assert float(((wide[0].mean(0) - wide[1].mean(0)) / scale).abs().max()) < 0.06
    assert float((wide[0].std(0) / scale - 1.0).abs().max()) < 0.06
    cov = [torch.cov((rows / scale).mT) for rows in wide]
    assert float((cov[0] - cov[1]).abs().max()) < 0.08
    back = as_component(q, component)
    torch.testing.assert_close(back.factor, component.factor)
    again = Approximation.of(back)
    torch.testing.assert_close(again.log_prob(theirs), q.log_prob(theirs))


@pytest.mark.parametrize("friction", [True, False])
def test_whitening_changes_nothing(friction):
    component, _ = pendulum_component(friction)
    q = Approximation.of(component)
    moved = q.having(
        {
            name: 0.2 * randn(*value.shape, seed=k)
            for k, (name, value) in enumerate(q.trained.items())
        }
    )
    draws = moved.sample(6, generator())
    torch.testing.assert_close(moved.whitened().log_prob(draws), moved.log_prob(draws))
    same = moved.whitened().sample(6, generator())
    torch.testing.assert_close(same.theta, draws.theta)
    torch.testing.assert_close(same.start, draws.start)


def test_the_density_is_that_of_dense_gaussians():
    component, _ = pendulum_component(False)
    q = Approximation.of(component)
    moved = q.having(
        {
            name: 0.2 * randn(*value.shape, seed=k)
            for k, (name, value) in enumerate(q.trained.items())
        }
    )
    # Draws are affine in the standard normal numbers, so the dense root is their Jacobian.
    size = len(q.centre) + q.mean.numel()

    def affine(white):
        local = white[len(q.centre) :].reshape(1, *q.mean.shape)
        inner = white[: len(q.centre)].unsqueeze(0)
        turned = inner[:, q.active] @ moved.scale().mT
        u = moved.shift + inner.index_copy(1, q.active, turned)
        theta = moved.centre + u @ moved.root.mT
        return torch.cat([theta.flatten(), moved._states(u, local).flatten()])

    root = torch.func.jacrev(affine)(torch.zeros(size).double())
    law = torch.distributions.MultivariateNormal(
        affine(torch.zeros(size).double()), root @ root.mT + 1e-13 * torch.eye(size).double()
    )
    draws = moved.sample(4, generator())
    noise = inverse_gamma_log_density(draws.noise_std, *moved.noise)
    values = torch.cat([draws.theta, draws.start.flatten(1)], 1)
    torch.testing.assert_close(
        moved.log_prob(draws) - noise, law.log_prob(values), atol=1e-5, rtol=0
    )


def test_most_axes_are_the_priors():
    component, _ = pendulum_component()
    q = Approximation.of(component)
    assert len(q.active) < len(q.centre)
    torch.testing.assert_close(q.root @ q.inverse, torch.eye(len(q.centre)).double())
    passive = [k for k in range(len(q.centre)) if k not in q.active.tolist()]
    share = (q.root.mT * component.field.prior_precision()) @ q.root
    assert (
        float((share[passive][:, passive] - torch.eye(len(passive)).double()).abs().max()) < 0.011
    )


@pytest.mark.parametrize("ratio", [40.0, 3.0, 0.0, -3.0, -20.0])
def test_truncated_draws_and_their_derivatives(ratio):
    uniform = tensor([0.05, 0.5, 0.95])
    deviation = tensor(0.3).requires_grad_(True)
    mean = tensor(ratio * 0.3).requires_grad_(True)
    values = truncated_draws(mean, deviation, uniform)
    torch.testing.assert_close(values, truncated_quantile(mean, deviation, uniform).detach())
    h = 1e-5
    for k in range(3):
        found = torch.autograd.grad(values[k], (mean, deviation), retain_graph=True)
        with torch.no_grad():
            up = truncated_quantile(mean + h, deviation, uniform)[k]
            down = truncated_quantile(mean - h, deviation, uniform)[k]
            by_mean = (up - down) / (2 * h)
            up = truncated_quantile(mean, deviation + h, uniform)[k]
            down = truncated_quantile(mean, deviation - h, uniform)[k]
        torch.testing.assert_close(found[0], by_mean, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(found[1], (up - down) / (2 * h), atol=1e-6, rtol=1e-4)


def test_friction_is_never_negative():
    component, _ = pendulum_component()
    theta = component.theta.clone()
    theta[-1] = -0.5
    q = Approximation.of(replace(component, theta=theta))
    assert bool((q.sample(1000, generator()).theta[:, -1] >= 0).all())


# Minibatches, noise, lost draws


@pytest.mark.parametrize("size", [1, 2])
def test_some_windows_stand_for_all_without_bias(size):
    """The mean over all choices is the whole, in every term and in the gradient."""
    component, density = pendulum_component()
    draws = component.sample(2, generator())
    theta = draws.theta.requires_grad_(True)
    whole = density.terms(theta, draws.noise_std, draws.start)
    count = density.windows.num_windows
    choices = torch.combinations(torch.arange(count), size)
    parts = [density.terms(theta, draws.noise_std, draws.start, rows) for rows in choices]
    for name, value in whole.items():
        mean = torch.stack([part[name] for part in parts]).mean(0)
        torch.testing.assert_close(mean, value)
    gradients = [
        torch.autograd.grad(sum(part.values()).sum(), theta, retain_graph=True)[0]
        for part in (whole, *parts)
    ]
    torch.testing.assert_close(torch.stack(gradients[1:]).mean(0), gradients[0])


@pytest.mark.parametrize("dof", [None, pytest.param(4.0, marks=pytest.mark.slow)])
def test_the_noise_moves_to_where_the_bound_is_highest(dof):
    """Its distribution given all else: rate over shape is what makes the expected score zero."""
    component, density = pendulum_component()
    density = replace(density, noise=replace(density.noise, dof=dof))
    # With all else held, ascent moves the noise alone.
    start = Approximation.of(component)
    training = Ascent.begin(start, density, Schedule(400, 4, 1e-12), 0)
    while training.steps < 50:
        training.cuts = 0
        training.block()
    level = training.q.noise_std.clone()

    def bound(log):
        with torch.no_grad():
            q = training.q.having({"noise_rate": training.q.noise_rate * torch.exp(2.0 * log)})
            draws = q.sample(400, generator())
            terms = bound_of_draws(q, density, draws)
            return float((terms["likelihood"] + terms["noise"]).mean())

    assert bool((level / start.noise_std - 1.0).abs().max() > 0.02)
    # Of Student's t the update is that of a fixed point, near the best one.
    slack = 0.05 if dof is None else 0.15
    for shift in (tensor([0.15, 0.0]), tensor([0.0, 0.15])):
        assert bound(tensor([0.0, 0.0])) > max(bound(shift), bound(-shift)) - slack


def test_known_noise_stays():
    _, density = exact_component(math.inf)
    component, _ = exact_component(math.inf)
    found = ascend(
        Approximation.of(component), density, Schedule(8, 2, 0.1), 0, "x", NONE, lambda b: None
    )
    torch.testing.assert_close(found.q.noise_std, density.noise.known)


def test_draws_that_diverge_are_left_out_and_counted():
    component, density = pendulum_component()
    q = Approximation.of(component)
    wild = replace(q, root=q.root * 10.0, inverse=q.inverse / 10.0)
    training = Ascent.begin(wild, density, Schedule(50, 8, 0.1), 0)
    zeros = {name: torch.zeros_like(value) for name, value in q.trained.items()}
    left = 0
    for _ in range(5):
        (bound, count), step = training._gradient(zeros, True)
        left += int(count)
        assert bound.isfinite()
        assert all(bool(part.isfinite().all()) for part in step.values())
    assert 0 < left < 5 * 8


def test_nothing_but_lost_draws_is_an_error():
    component, density = pendulum_component()
    q = Approximation.of(component)
    wild = replace(q, root=q.root * 1e9, inverse=q.inverse / 1e9)
    training = Ascent.begin(wild, density, Schedule(2, 2, 0.1), 0)
    with pytest.raises(FloatingPointError, match="every draw of the field diverged"):
        training.block()


def test_joined_windows_have_the_same_first_states():
    component, density = pendulum_component()
    whole = joined(component, density.nodes)
    assert whole.window_states.chain.shape[1] == 1
    torch.testing.assert_close(whole.first_states(), component.first_states())
    assert isinstance(whole.window_states, WindowStates)


# The engine


@cache
def pendulum_data():
    return Pendulum(friction=0.1).simulate(3, rate=5, duration=4, noise_std=0.05, seed=1)


MODEL = SSGP(num_features=10, dissipation=Friction())


@cache
def gauss_newton(model=MODEL):
    return fit(model, pendulum_data(), inference=GaussNewton(num_components=1), progress=False)


@dataclass(frozen=True)
class Remembered(InferenceEngine):
    """Gauss-Newton, computed once for all tests."""

    def run(self, model, data, seed, report):
        return gauss_newton(model)


WARM = Remembered()


@cache
def trained(**settings):
    engine = StochasticVI(WARM, num_steps=30, **settings)
    return fit(MODEL, pendulum_data(), inference=engine, progress=False)


def field_at(posterior):
    return posterior.vector_field(torch.cat(list(pendulum_data().states)))


def test_training_agrees_with_gauss_newton(short_blocks):
    base, found = gauss_newton(), trained()
    ours, theirs = field_at(found), field_at(base)
    away = ((ours.mean - theirs.mean).abs() / theirs.stddev).median()
    assert float(away) < 0.25
    assert float((ours.stddev / theirs.stddev).log().abs().median()) < 0.2
    assert found.diagnostics.engine == "StochasticVI"
    component = found.components[0]
    assert isinstance(component, GaussianComponent)
    assert found.forecast([4.0, 5.0], num_samples=5).samples.isfinite().all()


def test_the_same_seed_gives_the_same_posterior(short_blocks):
    engine = StochasticVI(WARM, num_steps=30)
    again = fit(MODEL, pendulum_data(), inference=engine, progress=False)
    assert torch.equal(again.components[0].theta, trained().components[0].theta)
    other = trained(learning_rate=0.05)
    assert not torch.equal(other.components[0].theta, trained().components[0].theta)


def test_an_interrupted_fit_goes_on_and_ends_where_it_would_have_ended(short_blocks, tmp_path):
    path = tmp_path / "training.pt"
    engine = StochasticVI(WARM, num_steps=30, checkpoint=path)
    reports = []

    def interrupt(stage, objective):
        if stage.startswith("component"):
            reports.append(objective)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.run(MODEL, pendulum_data(), 0, interrupt)
    assert reports and not path.exists()
    seen = []

    def later(stage, objective):
        if stage.startswith("component"):
            seen.append(objective)
            if len(seen) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.run(MODEL, pendulum_data(), 0, later)
    content = torch.load(path, weights_only=True)
    assert content["running"]["component 1 of 1"]["steps"] == 10
    rest = []
    found = engine.run(MODEL, pendulum_data(), 0, lambda stage, value: rest.append(stage))
    assert rest.count("component 1 of 1") == 2
    for name in ("theta", "factor", "noise_rate"):
        ours, theirs = (getattr(p.components[0], name) for p in (found, trained()))
        assert torch.equal(ours, theirs), name
    assert found.diagnostics.iterations == trained().diagnostics.iterations
    # A finished fit comes back from the file at once.
    rest.clear()
    again = engine.run(MODEL, pendulum_data(), 0, lambda stage, value: rest.append(stage))
    assert "component 1 of 1" not in rest
    assert torch.equal(again.components[0].theta, found.components[0].theta)


def test_checkpoints_of_other_fits_are_refused(tmp_path):
    path = tmp_path / "training.pt"
    engine = StochasticVI(WARM, num_steps=1, checkpoint=path)
    fit(MODEL, pendulum_data(), inference=engine, progress=False)
    other = replace(engine, draws_a_step=3)
    with pytest.raises(ValueError, match="belongs to a fit of other data or with other settings"):
        fit(MODEL, pendulum_data(), inference=other, progress=False)
    with pytest.raises(ValueError, match="belongs to a fit of other data or with other settings"):
        model = SSGP(num_features=11, dissipation=Friction())
        fit(model, pendulum_data(), inference=engine, progress=False)
    path.write_text("something else")
    with pytest.raises(ValueError, match="is not a checkpoint"):
        fit(MODEL, pendulum_data(), inference=engine, progress=False)


def test_too_few_steps_are_reported():
    engine = StochasticVI(WARM, num_steps=1)
    posterior = fit(MODEL, pendulum_data(), inference=engine, progress=False)
    assert not posterior.diagnostics.converged
    assert "training of component 1 ended after 1 steps" in posterior.summary()


def test_windows_batches_and_other_laws_of_noise(short_blocks):
    """Settings that take other ways through the code end near the same field."""
    reference = field_at(trained())
    model = SSGP(num_features=10, dissipation=Friction(), noise=StudentTNoise(dof=6))
    known = SSGP(num_features=10, dissipation=Friction(), noise=GaussianNoise(std=0.05))
    trials = [
        (MODEL, StochasticVI(WARM, num_steps=10, window=1.0, batch_size=5)),
        (MODEL, StochasticVI(WARM, num_steps=10, window=math.inf, draws_a_step=3)),
        (model, StochasticVI(WARM, num_steps=10)),
        (known, StochasticVI(WARM, num_steps=10)),
    ]
    for own, engine in trials:
        posterior = fit(own, pendulum_data(), inference=engine, progress=False)
        found = field_at(posterior)
        away = ((found.mean - reference.mean).abs() / reference.stddev).median()
        assert float(away) < 0.5
        assert float((found.stddev / reference.stddev).log().abs().median()) < 0.4
    assert posterior.noise_std.tolist() == pytest.approx([0.05, 0.05])


def test_other_integrators(short_blocks):
    engine = StochasticVI(WARM, num_steps=4)
    posterior = fit(
        MODEL,
        pendulum_data(),
        inference=engine,
        integrator=ImplicitMidpoint(step=0.2),
        progress=False,
    )
    away = (field_at(posterior).mean - field_at(trained()).mean).abs() / field_at(trained()).stddev
    assert float(away.median()) < 0.7
    posterior = fit(
        MODEL, pendulum_data(), inference=engine, integrator=RK4(step=0.05), progress=False
    )
    assert posterior.diagnostics.solver_step == pytest.approx(0.05)
    for wrong in (Dopri5(), RK4()):
        with pytest.raises(ValueError, match="integrator: expected"):
            fit(MODEL, pendulum_data(), inference=engine, integrator=wrong, progress=False)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_steps": 0}, "num_steps: expected a whole number"),
        ({"draws_a_step": -1}, "draws_a_step: expected a whole number"),
        ({"batch_size": 0}, "batch_size: expected a whole number"),
        ({"learning_rate": 0.0}, "learning_rate: expected a positive number"),
        ({"window": -1.0}, "window: expected a positive length"),
        ({"integrator": Dopri5()}, "integrator: expected a method of fixed steps"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        StochasticVI(**settings)


@pytest.mark.slow
def test_from_the_prior_it_finds_the_same_field(tmp_path):
    """Also when it is interrupted again and again."""
    engine = StochasticVI(warm_start=None, num_components=1)
    posterior = fit(MODEL, pendulum_data(), inference=engine, progress=False)
    engine = replace(engine, checkpoint=tmp_path / "training.pt")
    for patience in (100, 205, 6):
        seen = []

        def interrupt(stage, objective, seen=seen, patience=patience):
            seen.append(stage)
            if len(seen) == patience:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            engine.run(MODEL, pendulum_data(), 0, interrupt)
    again = fit(MODEL, pendulum_data(), inference=engine, progress=False)
    assert torch.equal(again.components[0].theta, posterior.components[0].theta)
    base = gauss_newton()
    ours, theirs = field_at(posterior), field_at(base)
    assert float(((ours.mean - theirs.mean).abs() / theirs.stddev).median()) < 0.5
    assert float((ours.stddev / theirs.stddev).log().abs().median()) < 0.3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sympgp.integrators.DivergenceWarning")
def test_trajectories_are_predicted_as_well_as_by_gauss_newton():
    """The published protocol with friction; warm-started and from the prior."""
    system = Pendulum(friction=0.05)
    data = system.simulate(5, rate=5, duration=10, noise_std=0.1, seed=1)
    times = torch.linspace(0, 15, 301, dtype=torch.float64)
    test = system.exact(system.sample_initial(25, seed=1001), times)
    model = SSGP(num_features=100, dissipation=Friction())

    def error(engine):
        posterior = fit(model, data, inference=engine, progress=False)
        return float(trajectory_mse(posterior.rollout(test[:, 0], times), test))

    reference = error(GaussNewton())
    assert error(StochasticVI()) < 1.1 * reference
    assert error(StochasticVI(warm_start=None)) < 1.5 * reference

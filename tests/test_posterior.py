"""Posteriors: moments against draws, dissipation, rollouts, forecasts and fitted paths."""

import math
import warnings
from dataclasses import replace

import pytest
import torch
from problems import NAN, randn, tensor
from scipy import stats

from sympgp import RK4, SSGP, Dopri5, Friction, GaussLegendre4, GaussNewton, ImplicitMidpoint, fit
from sympgp.posterior.prediction import SolverErrorWarning
from sympgp.posterior.solver import LONG_HORIZON, Solver
from sympgp.systems import HarmonicOscillator, Pendulum
from sympgp.trajectories import Trajectories

X = tensor([[0.5, 0.2], [-1.0, 1.0], [1.5, -0.5]])
TIMES = [0.0, 0.3, 1.0, 2.5, 4.0]


@pytest.fixture(scope="module")
def damped():
    """Four components; three trajectories of different lengths, one of them with gaps."""
    data = Pendulum(friction=0.1).simulate(3, rate=5, duration=6, noise_std=0.05, missing=0.1)
    parts = [data[0], data[1].between(0.0, 4.1), data[2]]
    data = Trajectories.concatenate(parts)
    model = SSGP(num_features=15, dissipation=Friction())
    return fit(model, data, progress=False)


@pytest.fixture(scope="module")
def conservative():
    """One component of a conservative oscillator."""
    data = HarmonicOscillator().simulate(2, rate=5, duration=6, noise_std=0.05, seed=2)
    model = SSGP(num_features=20)
    return fit(model, data, inference=GaussNewton(num_components=1), progress=False)


# moments


def mixture(parts):
    """Mean and variance of equally weighted parts."""
    means, variances = (torch.stack(list(p)) for p in zip(*parts, strict=True))
    mean = means.mean(0)
    return mean, variances.mean(0) + (means - mean).square().mean(0)


@pytest.mark.parametrize("name", ["damped", "conservative"])
def test_field_moments_are_those_of_many_functions(name, request):
    posterior = request.getfixturevalue(name)
    field, num = posterior.vector_field(X), 4000
    values = posterior.sample(num, seed=1)(X)
    assert ((values.mean(0) - field.mean) / field.stddev).abs().max() < 5 / num**0.5
    assert (values.std(0) / field.stddev - 1.0).abs().max() < 0.05
    torch.testing.assert_close(field.variance, field.stddev**2)


@pytest.mark.parametrize("reference", [None, [0.3, -0.4]])
def test_energy_moments_are_those_of_many_functions(damped, reference):
    energy, num = damped.hamiltonian(X, reference), 8000
    draws = damped.sample(num, seed=1)
    values = draws.energy(X)
    if reference is not None:
        values = values - draws.energy([reference])
        assert damped.hamiltonian([reference], reference).stddev.abs().max() == 0.0
    assert ((values.mean(0) - energy.mean) / energy.stddev).abs().max() < 5 / num**0.5
    assert (values.std(0) / energy.stddev - 1.0).abs().max() < 0.05


def test_energies_are_relative_to_the_mean_state(damped):
    centre = damped.scaling.center[None]
    zero = damped.hamiltonian(centre)
    assert zero.mean.abs().max() < 1e-12 and zero.stddev.max() < 1e-12
    assert damped.sample(3).energy(centre).abs().max() < 1e-12


@pytest.mark.parametrize("name", ["damped", "conservative"])
def test_the_joint_field_has_these_marginals(name, request):
    posterior = request.getfixturevalue(name)
    joint, field = posterior.vector_field(X, joint=True), posterior.vector_field(X)
    torch.testing.assert_close(joint.mean, field.mean)
    torch.testing.assert_close(joint.variance, field.variance)


def test_the_joint_covariance_is_that_of_many_functions(damped):
    joint, num = damped.vector_field(X, joint=True), 8000
    values = damped.sample(num, seed=1)(X).reshape(num, -1)
    covariance = joint.covariance_matrix
    deviation = covariance.diagonal().sqrt()
    error = (values.mT.cov() - covariance) / torch.outer(deviation, deviation)
    assert error.abs().max() < 0.08
    off = covariance / torch.outer(deviation, deviation) - torch.eye(6).double()
    assert off.abs().max() > 0.2


def test_joint_covariances_stay_low_rank(damped):
    """Many points: nothing of the size of points by points is made."""
    joint = damped.vector_field(randn(3000, 2), joint=True)
    root = joint.lazy_covariance_matrix.root
    assert root.shape == (6000, sum(len(c.theta) + 1 for c in damped.components))


def test_noise_moments_are_those_of_the_inverse_gamma(damped):
    noise = damped.noise()
    parts = []
    for c in damped.components:
        squares = [
            stats.invgamma(float(a), scale=float(b))
            for a, b in zip(c.noise_shape, c.noise_rate, strict=True)
        ]
        first = tensor([float(d.expect(lambda v: v**0.5)) for d in squares])
        parts.append((first, tensor([float(d.mean()) for d in squares]) - first**2))
    mean, variance = mixture(parts)
    torch.testing.assert_close(noise.mean, mean * damped.scaling.scale, rtol=1e-5, atol=0)
    torch.testing.assert_close(
        noise.stddev, variance.sqrt() * damped.scaling.scale, rtol=1e-3, atol=0
    )
    torch.testing.assert_close(damped.noise_std, noise.mean)
    drawn = damped.sample(8000, seed=3).noise_std
    assert ((drawn.mean(0) - noise.mean) / noise.stddev).abs().max() < 0.06


def test_friction_moments_are_those_of_the_draws(damped):
    friction = damped.dissipation()
    theta = torch.cat([part.theta for part in damped.sample(8000, seed=3).parts])
    drawn = theta[:, -1] * damped.components[0].field.dissipation.unit
    assert friction.mean.shape == ()
    assert float((drawn.mean() - friction.mean) / friction.stddev) == pytest.approx(0, abs=0.06)
    assert float(drawn.std() / friction.stddev) == pytest.approx(1.0, abs=0.05)
    matrix = damped.dissipation_matrix(X)
    expected = torch.diag(tensor([0.0, float(friction.mean)])).expand(3, 2, 2)
    torch.testing.assert_close(matrix, expected)


# structure of every draw


def with_friction(posterior, deviations):
    """The same posterior with friction's Gaussian so many deviations above zero."""
    moved = []
    for c in posterior.components:
        theta = c.theta.clone()
        theta[-1] = deviations * c.damping_direction()[1]
        moved.append(replace(c, theta=theta))
    return replace(posterior, components=tuple(moved))


@pytest.mark.parametrize("mode", [None, -4.0])
def test_no_draw_gains_energy(damped, mode):
    """``grad H . f <= 0`` at random states, also where friction's Gaussian is mostly negative."""
    posterior = damped if mode is None else with_friction(damped, mode)
    draws = posterior.sample(40, seed=2)
    x = (3.0 * randn(60, 2)).requires_grad_()
    for values, rates in zip(draws.energy(x), draws(x), strict=True):
        (gradient,) = torch.autograd.grad(values.sum(), x, retain_graph=True)
        power = (gradient * rates).sum(-1)
        rounding = 1e-12 * gradient.norm(dim=-1) * rates.norm(dim=-1)
        assert bool((power <= rounding).all())
    if mode is not None:
        friction = posterior.dissipation()
        assert 0.0 < float(friction.mean) < float(damped.dissipation().mean)


def test_energy_is_conserved_along_draws_without_friction(conservative):
    rollouts = conservative.rollout(X, TIMES, num_samples=20, integrator=RK4(step=0.01))
    energy = rollouts.energy()
    assert (energy - energy[..., :1]).abs().max() < 1e-7
    assert energy[..., 0].std() > 1e-2


def test_energy_falls_along_draws_with_friction(damped):
    energy = damped.rollout(X, TIMES, num_samples=20, integrator=RK4(step=0.01)).energy()
    assert energy.diff(dim=-1).max() < 1e-8


def test_rollout_energies_are_those_of_the_functions(damped):
    rollouts, draws = damped.rollout(X, TIMES, num_samples=7, seed=4), damped.sample(7, seed=4)
    for k in range(len(TIMES)):
        own = torch.stack([draws.energy(x)[s] for s, x in enumerate(rollouts.samples[:, :, k])])
        torch.testing.assert_close(rollouts.energy()[..., k], own)


def test_without_dissipation_only_the_friction_is_gone(damped):
    still = damped.without_dissipation()
    assert float(still.dissipation().mean) == float(still.dissipation().stddev) == 0.0
    own, other = damped.hamiltonian(X), still.hamiltonian(X)
    assert torch.equal(own.mean, other.mean) and torch.equal(own.stddev, other.stddev)
    assert torch.equal(damped.sample(5).energy(X), still.sample(5).energy(X))
    energy = still.rollout(X, TIMES, num_samples=10, integrator=RK4(step=0.01)).energy()
    assert (energy - energy[..., :1]).abs().max() < 1e-7
    assert float(damped.dissipation().mean) > 0.0


# functions and rollouts


def test_samples_are_functions(damped):
    """The same seed gives the same functions, wherever they are evaluated."""
    draws = damped.sample(6, seed=9)
    whole = draws(X)
    assert torch.equal(whole, damped.sample(6, seed=9)(X))
    torch.testing.assert_close(draws(X[1:2])[:, 0], whole[:, 1])
    assert not torch.equal(whole, damped.sample(6, seed=10)(X))
    assert whole[:, 0].std(0).min() > 0.0


@pytest.mark.parametrize("num_samples", [1, 2, 5])
def test_fewer_samples_than_components_are_enough(damped, num_samples):
    draws = damped.sample(num_samples)
    assert draws.num_samples == num_samples and draws(X).shape == (num_samples, 3, 2)
    for rollouts in (
        damped.rollout(X, TIMES, num_samples=num_samples),
        damped.forecast([6.0, 7.0], num_samples=num_samples),
        damped.fitted(num_samples=num_samples)[0],
    ):
        assert rollouts.num_draws == num_samples
        assert rollouts.energy().shape == rollouts.samples.shape[:-1]
        assert rollouts.noise_std.shape == (num_samples, 2)


def test_rollouts_solve_their_functions(damped):
    """From the given state, and with ``dx/dt`` of the same draw."""
    step = 1e-3
    rollouts = damped.rollout(X, [0.0, step, 2 * step], num_samples=6, seed=4)
    torch.testing.assert_close(rollouts.samples[:, :, 0], X.expand(6, 3, 2))
    rate = (rollouts.samples[:, :, 2] - rollouts.samples[:, :, 0]) / (2 * step)
    draws = damped.sample(6, seed=4)
    middle = torch.stack([draws(x)[s] for s, x in enumerate(rollouts.samples[:, :, 1])])
    torch.testing.assert_close(rate, middle, atol=1e-4, rtol=1e-4)


def test_rollouts_begin_at_their_first_time(damped):
    early = damped.rollout(X[0], TIMES, num_samples=5)
    late = damped.rollout(X[0], [t + 77.0 for t in TIMES], num_samples=5)
    torch.testing.assert_close(early.samples, late.samples)
    assert late.times.tolist() == [t + 77.0 for t in TIMES]
    assert early.names == ("q", "p") and early.units["q"] == "rad"


def test_integrators_take_steps_in_user_time(damped):
    times = [0.0, 1.0]
    exact = damped.rollout(X, times, num_samples=4, integrator=Dopri5(rtol=1e-9, atol=1e-9))
    errors = {}
    for integrator in (RK4(0.1), RK4(0.05), ImplicitMidpoint(0.02), RK4(), None):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SolverErrorWarning)
            found = damped.rollout(X, times, num_samples=4, integrator=integrator)
        errors[integrator] = float((found.samples - exact.samples).abs().max())
    assert errors[RK4(0.1)] / errors[RK4(0.05)] == pytest.approx(16.0, rel=0.4)
    assert errors[ImplicitMidpoint(0.02)] < 1e-2
    assert errors[RK4()] == errors[None] < 1e-3
    scaled = Solver(damped, RK4(0.1), 1.0).integrator.step
    assert scaled * float(damped.scaling.time_scale) == pytest.approx(0.1)


def test_long_horizons_take_a_symplectic_method(damped):
    assert isinstance(Solver(damped, None, 0.9 * LONG_HORIZON).integrator, RK4)
    assert isinstance(Solver(damped, None, 1.1 * LONG_HORIZON).integrator, GaussLegendre4)


def test_coarse_steps_are_warned_about(damped):
    with pytest.warns(SolverErrorWarning, match="of the posterior's standard deviation; pass an"):
        found = damped.rollout(X, TIMES, num_samples=8, integrator=RK4(step=0.8))
    assert found.solver_error > 0.1


def test_discrepancy_adds_jumps_of_the_stated_variance(conservative):
    """``jump_std^2`` a spacing in every scaled coordinate: an oscillator only turns them."""
    std, spacing = 0.3, 2.0
    (c,) = conservative.components
    states = replace(c.states, jump_std=std, spacing=spacing)
    jumpy = replace(conservative, components=(replace(c, states=states),))
    tau = float(jumpy.scaling.time_scale)
    times = [0.0, 0.5 * spacing * tau, 2.0 * spacing * tau]
    x0 = jumpy.scaling.center
    found = jumpy.rollout(x0, times, num_samples=2000, discrepancy=True)
    scaled = found.samples[:, 0] / jumpy.scaling.scale
    ratio = scaled.var(0)[1:] / (std**2 * tensor([[0.5], [2.0]]))
    assert ratio.mean(1).tolist() == pytest.approx([1.0, 1.0], rel=0.12)
    quiet = jumpy.rollout(x0, times, num_samples=200)
    assert (quiet.samples[:, 0] / jumpy.scaling.scale).var(0)[1:].max() < 0.1 * std**2
    forecast = jumpy.forecast([float(jumpy.data.times[0][-1]) + 2 * spacing * tau])
    assert float((forecast.std / jumpy.scaling.scale).min()) > std


# training trajectories


def test_fitted_paths_follow_the_data(damped):
    for fitted, t, x in zip(damped.fitted(), damped.data.times, damped.data.states, strict=True):
        assert fitted.samples.shape == (100, 1, len(t), 2)
        score = (x - fitted.mean[0]) / damped.noise_std
        assert score[~x.isnan()].square().mean().sqrt() < 1.3
        lower, upper = fitted.band(level=0.9, kind="predictive")
        inside = ((x >= lower[0]) & (x <= upper[0]))[~x.isnan()]
        assert inside.double().mean() > 0.75


def test_fitted_paths_at_other_times_are_the_same_paths(damped):
    """Between observations, at a window's start, and in whatever number."""
    middles = [0.5 * (t[1:] + t[:-1]) for t in damped.data.times]
    own, between = damped.fitted(num_samples=10), damped.fitted(middles, num_samples=10)
    both = [torch.cat(pair).sort().values for pair in zip(damped.data.times, middles, strict=True)]
    for one, other, all_of_them in zip(
        own, between, damped.fitted(both, num_samples=10), strict=True
    ):
        close = {"atol": 1e-4, "rtol": 1e-4}
        torch.testing.assert_close(all_of_them.samples[:, :, ::2], one.samples, **close)
        torch.testing.assert_close(all_of_them.samples[:, :, 1::2], other.samples, **close)


def test_forecasts_begin_where_the_fitted_paths_end(damped):
    """Field and state jointly: the same draws, at the last observation of every trajectory."""
    for k, fitted in enumerate(damped.fitted(num_samples=30, seed=3)):
        last = float(damped.data.times[k][-1])
        forecast = damped.forecast([last], trajectory=k, num_samples=30, seed=3)
        torch.testing.assert_close(
            forecast.samples[:, :, 0], fitted.samples[:, :, -1], atol=1e-5, rtol=1e-5
        )


def test_forecasts_continue_the_truth(damped):
    truth = Pendulum(friction=0.1).simulate(3, rate=5, duration=9, noise_std=0.0).states
    times = torch.linspace(6.2, 9.0, 15, dtype=torch.float64)
    found = damped.forecast(times, trajectory=2)
    error = (found.mean[0] - truth[2][-15:]) / found.std[0]
    assert error.square().mean().sqrt() < 2.5
    assert found.std.max() < 0.3


@pytest.mark.parametrize("mode", [None, -2.0])
def test_initial_states_are_those_of_the_fitted_draws(damped, mode):
    """Also where friction is cut off, which moves the states along with it."""
    posterior = damped if mode is None else with_friction(damped, mode)
    starts = posterior.initial_states
    first_two = [t[:2] for t in posterior.data.times]
    for k, fitted in enumerate(posterior.fitted(first_two, num_samples=4000, seed=1)):
        first = fitted.samples[:, 0, 0]
        assert ((first.mean(0) - starts.mean[k]) / starts.stddev[k]).abs().max() < 0.08
        assert (first.std(0) / starts.stddev[k] - 1.0).abs().max() < 0.06


def test_rows_before_the_first_observation_are_reached_backwards():
    system = Pendulum(friction=0.1)
    data = system.simulate(3, rate=5, duration=6, noise_std=0.05, seed=1)
    states = [x.clone() for x in data.states]
    states[0][:4] = NAN
    found = fit(
        SSGP(num_features=20, dissipation=Friction()),
        Trajectories(list(data.times), states),
        inference=GaussNewton(num_components=1),
        progress=False,
    )
    truth = system.simulate(3, rate=5, duration=6, noise_std=0.0, seed=1).states[0]
    fitted = found.fitted()[0]
    assert (fitted.mean[0] - truth).abs().max() < 0.15
    assert fitted.std[0, 0].max() > fitted.std[0, 4].max()


# bad input


@pytest.mark.parametrize("call", ["vector_field", "hamiltonian", "dissipation_matrix", "sample"])
def test_states_of_another_width_are_refused(damped, call):
    function = damped.sample(2) if call == "sample" else getattr(damped, call)
    for wrong in ([[1.0, 2.0, 3.0]], [1.0], [[[1.0, 2.0]]]):
        with pytest.raises(ValueError, match=r"x: expected states of shape \(number, 2\), got \("):
            function(wrong)


def test_lists_and_single_states_are_taken(damped):
    torch.testing.assert_close(damped.vector_field(X.tolist()).mean, damped.vector_field(X).mean)
    draws = damped.sample(2)
    torch.testing.assert_close(draws(X[0].numpy()), draws(X[:1]))
    torch.testing.assert_close(draws.energy(X[0].tolist()), draws.energy(X[:1]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda p: p.rollout([1.0, 2.0, 3.0], TIMES),
            r"x0: expected states of shape \(number, 2\), got \(1, 3\)",
        ),
        (lambda p: p.rollout([math.nan, 0.0], TIMES), "x0: expected finite states, got NaN"),
        (lambda p: p.rollout(X, [0.0, 1.0, 1.0]), "times: expected finite, strictly increasing"),
        (lambda p: p.rollout(X, [0.0, math.inf]), "times: expected finite, strictly increasing"),
        (lambda p: p.rollout(X, []), r"times: expected shape \(T,\)"),
        (lambda p: p.rollout(X, [[0.0, 1.0]]), r"times: expected shape \(T,\), got \(1, 2\)"),
        (
            lambda p: p.rollout(X, TIMES, num_samples=0),
            "num_samples: expected a whole number of at least 1, got 0",
        ),
        (lambda p: p.sample(0), "num_samples: expected a whole number of at least 1, got 0"),
        (lambda p: p.forecast([7.0], trajectory=3), "trajectory: expected a number from 0 to 2"),
        (lambda p: p.forecast([7.0], trajectory=-1), "trajectory: expected a number from 0 to 2"),
        (
            lambda p: p.forecast([1.0, 7.0], trajectory=1),
            r"times: a forecast of trajectory 1 begins at its last observation, t = 4, or later",
        ),
        (lambda p: p.fitted([TIMES]), "times: expected one array for each of 3 trajectories"),
        (
            lambda p: p.fitted([[0.0, 7.0]] * 3),
            r"times: trajectory 0 was observed from t = 0 to 6, got 0 to 7 \(use forecast\(\)",
        ),
        (
            lambda p: p.hamiltonian(X, [1.0, 2.0, 3.0]),
            "reference: expected states of shape",
        ),
    ],
)
def test_bad_input_is_named(damped, call, message):
    with pytest.raises(ValueError, match=message):
        call(damped)


@pytest.mark.slow
def test_the_default_step_is_halved_until_its_error_does_not_matter(damped, monkeypatch):
    """Two halvings of a method of order four."""
    times = torch.linspace(0.0, 10.0, 21, dtype=torch.float64)
    usual = damped.rollout(X, times, num_samples=8).solver_error
    monkeypatch.setattr("sympgp.posterior.prediction.TOLERANCE", 0.1 * usual)
    assert damped.rollout(X, times, num_samples=8).solver_error < 0.1 * usual

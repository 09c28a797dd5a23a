"""Whole fits: what they recover, what they must not depend on, and what they refuse."""

import inspect
import math

import pytest
import torch
from problems import NAN, randn, tensor

from sympgp import RK4, SSGP, Conservative, Dopri5, FourierEnergy, Friction, GaussNewton, fit
from sympgp.inference import InferenceEngine
from sympgp.inference.evidence import FrozenModel
from sympgp.inference.fit import _engine
from sympgp.inference.gauss_newton import _stratified
from sympgp.models import HamiltonianModel
from sympgp.noise import SHAPE
from sympgp.systems import HarmonicOscillator, Pendulum
from sympgp.trajectories import Trajectories

ENGINE = GaussNewton(num_components=2)
SHORT = GaussNewton(num_components=1, hyperparameter_rounds=1)
MODEL = SSGP(num_features=15, dissipation=Friction())
TIMES = [0.0, 0.5, 1.0, 2.0, 4.0, 8.0]
STARTS = tensor([[0.5, 0.2], [-1.0, 1.0], [2.0, -0.5]])


def simulated() -> Trajectories:
    data = Pendulum(friction=0.1).simulate(3, rate=5, duration=6, noise_std=0.05, missing=0.1)
    return Trajectories(list(data.times), list(data.states))


def quick(data: Trajectories, **settings):
    return fit(MODEL, data, **{"inference": ENGINE, "progress": False, **settings})


@pytest.fixture(scope="module")
def data() -> Trajectories:
    return simulated()


@pytest.fixture(scope="module")
def posterior(data):
    return quick(data)


def relative_difference(posterior, other, units=1.0, time: float = 1.0) -> float:
    """Largest difference of rolled-out draws in standard deviations of each channel's data."""
    states = torch.cat(list(posterior.data.states))
    std = ((states - states.nanmean(0)) ** 2).nanmean(0).sqrt()
    own = posterior.rollout(STARTS, TIMES, num_samples=10)
    others = other.rollout(units * STARTS, [time * t for t in TIMES], num_samples=10)
    return float(((others.samples / units - own.samples) / std).abs().max())


def test_units_of_angle_and_time_do_not_change_the_predictions(data, posterior):
    """Degrees for radians, momenta unchanged, and milliseconds for seconds."""
    units = tensor([180.0 / math.pi, 1.0])
    other = Trajectories([1000.0 * t for t in data.times], [units * x for x in data.states])
    converted = quick(other)
    assert relative_difference(posterior, converted, units, 1000.0) < 1e-6
    noise = converted.noise().mean / units
    torch.testing.assert_close(noise, posterior.noise().mean, rtol=1e-7, atol=0)
    # dp/dt = - friction dH/dp, and dH/dp = dq/dt: friction is a momentum by an angle.
    friction = converted.dissipation().mean * units[0]
    torch.testing.assert_close(friction, posterior.dissipation().mean, rtol=1e-7, atol=0)
    reference = posterior.data.states[0][0]
    own = posterior.hamiltonian(STARTS, reference)
    others = converted.hamiltonian(units * STARTS, units * reference)
    # An energy is a momentum times an angle by a time.
    factor = units[0] / 1000.0
    torch.testing.assert_close(others.mean / factor, own.mean, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(others.stddev / factor, own.stddev, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_the_origin_of_time_does_not_matter(data):
    """As for clock times: days in seconds leave enough digits."""
    own = quick(data, inference=SHORT)
    clock = Trajectories([t + 86400.0 for t in data.times], list(data.states))
    assert relative_difference(own, quick(clock, inference=SHORT)) < 1e-6


def test_the_order_of_trajectories_does_not_matter(data, posterior):
    permuted = quick(data[[2, 0, 1]])
    assert relative_difference(posterior, permuted) < 1e-6
    starts = permuted.initial_states
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(starts.mean, posterior.initial_states.mean[order], rtol=0, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("row", [0, 7])
def test_an_empty_row_is_the_same_as_no_row(data, row):
    states = [x.clone() for x in data.states]
    states[1][row] = NAN
    times = list(data.times)
    keep = torch.ones(len(times[1]), dtype=torch.bool)
    keep[row] = False
    without = Trajectories(
        [times[0], times[1][keep], times[2]], [states[0], states[1][keep], states[2]]
    )
    empty = quick(Trajectories(times, states), inference=SHORT)
    left_out = quick(without, inference=SHORT)
    for one, other in zip(empty.components, left_out.components, strict=True):
        assert torch.equal(one.theta, other.theta)
        assert torch.equal(one.factor, other.factor)
        assert torch.equal(one.noise_std, other.noise_std)
    own, others = (p.rollout(STARTS, TIMES, num_samples=5) for p in (empty, left_out))
    assert torch.equal(own.samples, others.samples)


def test_the_same_seed_gives_the_same_posterior(data, posterior):
    again = quick(data)
    for one, other in zip(posterior.components, again.components, strict=True):
        assert torch.equal(one.theta, other.theta)
    other = quick(data, seed=1)
    assert not torch.equal(other.components[1].theta, posterior.components[1].theta)


def test_components_differ_in_hyperparameters_and_spectral_points(posterior):
    """The mixture's quadrature: both uncertainties are carried into the predictions."""
    first, second = posterior.components
    own, other = (
        c.field.basis.frequencies * c.hyperparameters["lengthscale"] for c in (first, second)
    )
    torch.testing.assert_close(own, MODEL.energy.base_frequencies)
    assert (own - other).abs().max() > 0.1
    for name, value in first.hyperparameters.items():
        assert ((value / second.hyperparameters[name]).log().abs() > 1e-2).all()


@pytest.mark.parametrize(("count", "dim"), [(2, 4), (4, 4), (5, 2)])
def test_draws_of_hyperparameters_are_balanced(count, dim):
    """Mean zero and unit variance in every direction, however few there are."""
    points = _stratified(count, dim, seed=3)
    torch.testing.assert_close(points.mean(0), torch.zeros(dim).double())
    torch.testing.assert_close(points.square().mean(0), torch.ones(dim).double())


def test_the_noise_posterior_peaks_at_the_estimate(posterior):
    """Inverse gamma with the estimated variance as its mode, and a half per spare observation."""
    for c in posterior.components:
        torch.testing.assert_close(c.noise_rate / (c.noise_shape + 1.0), c.noise_std**2)
        spare = 2.0 * (c.noise_shape - SHAPE)
        counts = (~torch.cat(list(posterior.data.states)).isnan()).sum(0)
        assert bool((spare < counts).all()) and bool((spare > 0.5 * counts).all())


def test_long_data_are_thinned_for_the_evidence(data, monkeypatch):
    """What is kept counts as what it is: more weight would take its noise for signal."""
    whole = quick(data, inference=SHORT)
    monkeypatch.setattr("sympgp.inference.search.EVIDENCE_ROWS", 80)
    calls, solve = [], FrozenModel.solve
    monkeypatch.setattr(
        FrozenModel,
        "solve",
        lambda self, *rest, **how: (
            calls.append((self.weights.sum(), rest[-1])) or solve(self, *rest, **how)
        ),
    )
    quick(data, inference=SHORT)
    kept, precision = calls[len(calls) // 2]
    assert kept < 0.6 * data.num_observations
    full = 1.0 / whole.components[0].noise_std ** 2
    assert bool((precision / full < 1.4).all())


def test_friction_and_noise_are_recovered(posterior):
    friction, noise = posterior.dissipation(), posterior.noise()
    assert abs(float(friction.mean) - 0.1) < 4 * float(friction.stddev) < 0.05
    assert bool(((noise.mean - 0.05).abs() < 4 * noise.stddev).all())
    truth = Pendulum(friction=0.1)
    x = truth.sample_initial(50, seed=5)
    field = posterior.vector_field(x)
    score = (field.mean - truth.vector_field(x)) / field.stddev
    assert score.square().mean().sqrt() < 2.0


def test_initial_states_are_recovered(posterior):
    truth = Pendulum(friction=0.1).simulate(3, rate=5, duration=6, noise_std=0.0)
    first = torch.stack([x[0] for x in truth.states])
    estimate = posterior.initial_states
    # The first row of a trajectory may be missing, but not here.
    assert not any(x[0].isnan().all() for x in posterior.data.states)
    assert ((estimate.mean - first) / estimate.stddev).abs().max() < 4.0
    assert estimate.stddev.max() < 0.06


@pytest.mark.parametrize("dissipation", [Conservative(), Friction()])
def test_a_conservative_system_is_found_to_be_one(dissipation):
    system = HarmonicOscillator(mass=1.5, stiffness=3.0)
    data = system.simulate(3, rate=6, duration=6, noise_std=0.03, irregular=True, seed=4)
    model = SSGP(num_features=15, dissipation=dissipation)
    found = fit(model, data, inference=SHORT, progress=False)
    assert float(found.dissipation().mean) < 0.03
    rollouts = found.rollout(STARTS, TIMES, num_samples=20)
    truth = system.exact(STARTS, TIMES)
    assert (rollouts.mean - truth).square().mean().sqrt() < 0.15
    assert found.diagnostics.jump_gain < 3.0


@pytest.mark.slow
def test_jumps_of_the_state_are_found_and_reported():
    """Half way through every trajectory something kicks the system."""
    system = HarmonicOscillator()
    times = torch.linspace(0, 30, 151, dtype=torch.float64)
    parts = []
    for k in range(2):
        first = system.exact(tensor([1.0, 0.3 * k]), times[:76])[0]
        kicked = first[-1] + tensor([0.25, -0.3])
        parts.append(torch.cat([first[:-1], system.exact(kicked, times[75:])[0]]))
    states = torch.stack(parts) + 0.01 * randn(2, 151, 2)
    found = fit(SSGP(num_features=15), Trajectories(times, states), inference=SHORT, progress=False)
    assert found.diagnostics.jump_gain > 3.0
    assert "the data do not follow one ODE exactly" in found.summary()
    assert found.components[0].states.jump_std > 0.02


@pytest.mark.slow
def test_scarce_data_are_worried_about():
    data = Pendulum(friction=0.1).simulate(1, rate=3, duration=2, noise_std=0.05)
    text = quick(data, inference=SHORT).summary()
    assert "q has hardly more observations than the fit has freedom" in text


def test_two_degrees_of_freedom():
    """Two oscillators of different units, coupled by nothing."""
    one = HarmonicOscillator(mass=1.0, stiffness=1.0).simulate(3, 5, 6, 0.03, seed=1)
    two = HarmonicOscillator(mass=4.0, stiffness=9.0).simulate(3, 5, 6, 0.03, seed=2)
    states = [
        torch.stack([a[:, 0], 10 * b[:, 0], a[:, 1], b[:, 1]], 1)
        for a, b in zip(one.states, two.states, strict=True)
    ]
    data = Trajectories(list(one.times), states)
    found = fit(SSGP(2, 30, dissipation=Friction()), data, inference=SHORT, progress=False)
    x = torch.cat(states)[::9]
    truth = torch.stack([x[:, 2], 10 * x[:, 3] / 4, -x[:, 0], -0.9 * x[:, 1]], 1)
    error = (found.vector_field(x).mean - truth).square().mean(0).sqrt()
    assert (error / truth.square().mean(0).sqrt()).max() < 0.1


def test_a_given_solver_step_is_kept(data):
    found = quick(data, integrator=RK4(step=0.1), inference=SHORT)
    assert found.diagnostics.solver_step == pytest.approx(0.1)


def test_progress_goes_to_standard_error(data, capsys):
    fit(MODEL, data, inference=SHORT)
    shown = capsys.readouterr()
    assert not shown.out
    assert "smoothing the data" in shown.err and "objective" in shown.err
    quick(data, inference=SHORT)
    assert not capsys.readouterr().err


# bad input, found before any computing


class Refusing(InferenceEngine):
    """An engine that must not be reached."""

    def run(self, model, data, seed, report):
        raise AssertionError("the data were not checked before computing")


def refused(data, model=MODEL, **settings):
    fit(model, data, **{"inference": Refusing(), "progress": False, **settings})


def test_widths_must_agree(data):
    with pytest.raises(
        ValueError,
        match=r"data: the model has 2 degree\(s\) of freedom, so states of width 4 are expected; "
        "got 2",
    ):
        refused(data, SSGP(num_dof=2))


def test_a_channel_that_is_never_observed_is_named(data):
    states = [x.clone() for x in data.states]
    for x in states:
        x[:, 1] = NAN
    with pytest.raises(ValueError, match="data: expected at least 4 observations of p, got 0"):
        refused(Trajectories(list(data.times), states))


def test_a_channel_that_never_changes_is_named(data):
    states = [x.clone() for x in data.states]
    for x in states:
        x[:, 0] = 3.7
    for dtype in (torch.float64, torch.float32):  # whose mean is not exactly 3.7
        with pytest.raises(ValueError, match="data: q never changes"):
            refused(Trajectories(list(data.times), states, dtype=dtype))


def test_single_observed_rows_are_not_enough(data):
    states = [x.clone() for x in data.states] * 2
    for x in states:
        x[1:] = NAN
    times = list(data.times) * 2
    with pytest.raises(ValueError, match="data: expected a trajectory observed at two times"):
        refused(Trajectories(times, states))


def test_gaps_that_nothing_can_follow_across_are_named(data):
    times = list(data.times)
    times[1] = torch.cat([times[1][:15], times[1][15:] + 100.0])
    with pytest.raises(ValueError, match="data: trajectory 1 has a gap from t = 2.8 to 103"):
        quick(Trajectories(times, list(data.states)))


def test_devices_that_are_not_there_are_named(data):
    with pytest.raises(ValueError, match="device: 'nowhere' cannot be used here"):
        refused(data, device="nowhere")


def test_inputs_are_refused_by_models_without(data):
    inputs = [torch.ones(len(t), 1) for t in data.times]
    with pytest.raises(ValueError, match="data: the model has no inputs, but the data have"):
        refused(Trajectories(list(data.times), list(data.states), inputs))


# The type checks of these tests would refuse the wrong types first, so that they are switched
# off here by calling the function itself.
UNCHECKED = inspect.unwrap(fit)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("model", "SSGP", "model: expected an instance of HamiltonianModel, got str"),
        ("data", [1.0, 2.0], "data: expected an instance of Trajectories, got list"),
    ],
)
def test_arguments_of_other_kinds_are_refused(data, name, value, expected):
    arguments = {"model": MODEL, "data": data, "progress": False, name: value}
    with pytest.raises(ValueError, match=expected):
        UNCHECKED(arguments.pop("model"), arguments.pop("data"), **arguments)


def test_engines_of_other_kinds_are_refused():
    with pytest.raises(
        ValueError, match=r"inference: expected an engine such as GaussNewton\(\), got 'vi'"
    ):
        inspect.unwrap(_engine)("vi", None)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"integrator": Dopri5()}, "integrator: GaussNewton differentiates RK4 steps"),
        ({"integrator": RK4()}, "integrator: expected RK4 with a step"),
        ({"integrator": RK4(0.1), "inference": Refusing()}, "integrator: GaussNewton"),
    ],
)
def test_integrators_that_cannot_be_differentiated_are_refused(data, settings, expected):
    with pytest.raises(ValueError, match=expected):
        fit(MODEL, data, progress=False, **settings)


def test_models_check_their_parts():
    with pytest.raises(ValueError, match="energy: expected one for num_dof=1, got 2"):
        SSGP(num_dof=1, energy=FourierEnergy(2))
    with pytest.raises(ValueError, match="dissipation: expected an instance of Dissipation"):
        inspect.unwrap(HamiltonianModel.__init__)(
            HamiltonianModel.__new__(HamiltonianModel), FourierEnergy(1), 0.1
        )


def test_a_numerical_breakdown_is_said_with_what_may_help(data, monkeypatch):
    def broken(*_, **__):
        raise torch.linalg.LinAlgError("not positive-definite")

    monkeypatch.setattr(GaussNewton, "run_shared", broken)
    with pytest.raises(FloatingPointError, match="may lack what moves the system.*gross outliers"):
        quick(data)

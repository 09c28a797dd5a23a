"""Inputs from simulation to forecast: driven systems, fits to them, and what follows from a fit."""

import math
import warnings

import pytest
import torch
from problems import tensor

import sympgp as sg
from sympgp.integrators import RK4, ImplicitMidpoint
from sympgp.metrics import coverage, trajectory_mse
from sympgp.posterior.prediction import SolverErrorWarning
from sympgp.systems import DoublePendulum, Duffing, HarmonicOscillator, Pendulum

KINDS = ("linear", "held")
SYSTEM, GAIN, NOISE = Pendulum(friction=0.1), 0.8, 0.03
MATRIX = [[GAIN]]


def torque(seed: int, size: float = 0.25):
    """Two waves of random frequency and phase."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(2, 2, generator=generator).double()
    rate, phase = 0.3 + 2.7 * draws[0], 2 * math.pi * draws[1]
    return lambda t: float((size * torch.sin(rate * t + phase)).sum())


def simulate(count=3, seed=0, **settings):
    """A driven pendulum: data, and the functions that drove it."""
    pushes = [torque(100 * seed + i) for i in range(count)]
    own = {"rate": 5, "duration": 6, "noise_std": NOISE, "seed": seed} | settings
    return SYSTEM.simulate(count, inputs=pushes, input_matrix=MATRIX, **own), pushes


@pytest.fixture(scope="module")
def learned():
    data, _ = simulate()
    model = sg.SSGP(
        num_features=12, mass=0.5, dissipation=sg.Friction(), inputs=sg.LearnedInputs(1)
    )
    return sg.fit(model, data, progress=False)


def simulate_held(count=3, seed=0):
    """The same with torques that are held between their samples."""
    times = 0.4 * torch.arange(16)
    pushes = [torque(100 * seed + i) for i in range(count)]
    samples = tensor([[[push(t)] for t in times.tolist()] for push in pushes])
    return SYSTEM.simulate(
        count,
        rate=2.5,
        duration=6,
        noise_std=NOISE,
        seed=seed,
        inputs=samples,
        input_matrix=MATRIX,
        interpolation="held",
    )


@pytest.fixture(scope="module")
def held():
    inputs = sg.KnownInputs(MATRIX, interpolation="held")
    model = sg.SSGP(num_features=12, mass=0.5, dissipation=sg.Friction(), inputs=inputs)
    return sg.fit(model, simulate_held(), progress=False)


# Simulation


def test_a_driven_oscillator_has_its_exact_solution():
    """``q'' + q = cos(w t)`` from rest: ``(cos(w t) - cos t) / (1 - w^2)``."""
    times = torch.linspace(0, 12, 25, dtype=torch.float64)
    found = HarmonicOscillator().exact([0.0, 0.0], times, inputs=lambda t: math.cos(0.6 * t))
    expected = ((0.6 * times).cos() - times.cos()) / (1 - 0.36)
    torch.testing.assert_close(found[0, :, 0], expected, rtol=0, atol=1e-8)


def test_a_held_force_shifts_the_centre():
    """Between samples an oscillator turns about ``q = u``; the times asked for do not matter."""
    values = tensor([1.0, -0.5, 2.0, 0.0])
    own = torch.arange(4, dtype=torch.float64)
    x = tensor([0.3, -0.2])
    for u in values[:-1].tolist():
        angle = tensor(1.0)
        turn = torch.stack(
            [torch.stack([angle.cos(), angle.sin()]), torch.stack([-angle.sin(), angle.cos()])]
        )
        x = turn @ (x - tensor([u, 0.0])) + tensor([u, 0.0])
    start = [[0.3, -0.2]]
    found = HarmonicOscillator().exact(start, own, values, interpolation="held")
    torch.testing.assert_close(found[0, -1], x, rtol=0, atol=1e-9)
    coarse = HarmonicOscillator().exact(start, [0.0, 3.0], (own, values), interpolation="held")
    torch.testing.assert_close(coarse[0, -1], found[0, -1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_energy_changes_by_what_is_put_in_less_what_is_lost(kind):
    """``H(end) - H(start) = int dH/dx . G u - friction |dH/dp|^2 dt``."""
    system, matrix = Duffing(friction=0.2), tensor([[0.3], [1.2]])
    own = 0.5 * torch.arange(9, dtype=torch.float64)
    values = (2.0 * own).sin()
    times = torch.linspace(0, 4, 8 * 40 + 1, dtype=torch.float64)
    path = system.exact([[1.2, 0.1]], times, (own, values), matrix, kind)[0]
    pieces = path.unfold(0, 41, 40).mT  # (8, 41, 2): the samples' intervals, ends included
    share = torch.linspace(0, 1, 41, dtype=torch.float64)
    steps = values.diff().unsqueeze(-1) if kind == "linear" else torch.zeros(8, 1).double()
    u = values[:-1].unsqueeze(-1) + share * steps
    q, p = pieces.unbind(-1)
    slope = torch.stack([q**3 - q, p], -1)
    power = (slope @ matrix).squeeze(-1) * u - 0.2 * p**2
    weights = torch.ones(41, dtype=torch.float64)
    weights[1:-1:2], weights[2:-1:2] = 4.0, 2.0
    gained = (power * weights).sum() * (0.5 / 40) / 3
    energy = system.hamiltonian(path)
    assert float(energy[-1] - energy[0]) == pytest.approx(float(gained), abs=1e-8)


def test_data_hold_the_inputs_of_each_trajectory():
    still = SYSTEM.simulate(3, rate=4, duration=2, noise_std=0.1, seed=3)
    pushes = [lambda t: 0.0, lambda t: t, lambda t: [2.0]]
    data = SYSTEM.simulate(3, rate=4, duration=2, noise_std=0.1, seed=3, inputs=pushes)
    assert data.inputs[1].flatten().tolist() == data.times[1].tolist()
    assert data.inputs[2].unique().tolist() == [2.0]
    torch.testing.assert_close(data.states[0], still.states[0])
    assert torch.equal(data.states[2][0], still.states[2][0])
    assert (data.states[2][-1] - still.states[2][-1]).abs().max() > 0.5
    samples = torch.stack(list(data.inputs))
    again = SYSTEM.simulate(3, rate=4, duration=2, noise_std=0.1, seed=3, inputs=samples)
    torch.testing.assert_close(torch.stack(list(again.states)), torch.stack(list(data.states)))
    uneven = SYSTEM.simulate(3, rate=4, duration=2, irregular=True, inputs=pushes)
    torch.testing.assert_close(uneven.inputs[1].flatten(), uneven.times[1])


def test_forces_act_on_momenta_unless_a_matrix_says_otherwise():
    system, x0, times = DoublePendulum(), [[0.3, -0.2, 0.0, 0.0]], [0.0, 0.4, 0.9]
    inputs = tensor([[1.0, 0.5], [0.2, -1.0], [0.0, 1.0]])
    found = system.exact(x0, times, inputs)
    half = torch.eye(2, dtype=torch.float64)
    for matrix in (half, torch.cat([0.0 * half, half])):
        torch.testing.assert_close(system.exact(x0, times, inputs, matrix), found)
    one = system.exact(x0, times, inputs[:, 1], [[0.0], [1.0]])
    torch.testing.assert_close(one, system.exact(x0, times, inputs * tensor([0.0, 1.0])))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inputs": torch.zeros(11, 2)}, r"inputs: expected shape \(11, 1\).*got \(11, 2\)"),
        ({"inputs": torch.zeros(4, 11, 1)}, "inputs: expected those of 2 trajectories.*got 4"),
        ({"inputs": [math.sin] * 3}, "inputs: expected those of 2 trajectories.*got 3"),
        ({"inputs": ([0.0, 1.0], [0.0, 1.0])}, "inputs: .*from t = 0 to 1, but needed at 0 to 2"),
        (
            {"inputs": torch.zeros(11), "irregular": True},
            "inputs: they are given from t = .* but needed at 0",
        ),
        ({"inputs": lambda t: [t, t]}, r"inputs: expected a function .* shape \(1,\)"),
        ({"inputs": math.sin, "input_matrix": [1.0]}, r"input_matrix: expected shape \(2, m\)"),
        ({"inputs": math.sin, "input_matrix": [[1.0]] * 3}, "input_matrix: .*got .3, 1"),
        ({"inputs": math.sin, "input_matrix": [[math.nan]]}, "input_matrix: expected finite"),
        ({"inputs": math.sin, "interpolation": "cubic"}, "interpolation: expected 'linear' or"),
        ({"input_matrix": [[1.0]]}, "input_matrix: expected None where there are no inputs"),
    ],
)
def test_inputs_that_do_not_fit_a_simulation_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SYSTEM.simulate(2, rate=5, duration=2, **settings)


# A fitted field


def test_the_gain_is_found(learned):
    found = learned.input_matrix([[0.5, 0.2], [-1.0, 1.0]])
    assert found.mean.shape == (2, 2, 1) and not found.mean[:, 0].any()
    assert ((found.mean[:, 1] - GAIN).abs() < 3 * found.stddev[:, 1]).all()
    assert (found.stddev[:, 1] < 0.2 * GAIN).all()
    assert float(learned.noise_std[0]) == pytest.approx(NOISE, rel=0.3)


def test_an_unseen_input_is_answered(learned, held):
    x0, times = SYSTEM.sample_initial(4, seed=9), torch.linspace(0, 4, 11).double()
    push = torque(77)
    truth = SYSTEM.exact(x0, times, push, MATRIX)
    still = trajectory_mse(SYSTEM.exact(x0, times), truth)
    assert trajectory_mse(learned.rollout(x0, times, 20, inputs=push), truth) < 0.05 * still
    own = 0.4 * torch.arange(11, dtype=torch.float64)
    samples = own, tensor([push(t) for t in own.tolist()])
    truth = SYSTEM.exact(x0, times, samples, MATRIX, "held")
    assert trajectory_mse(held.rollout(x0, times, 20, inputs=samples), truth) < 0.05 * still


def test_forms_of_inputs_agree(learned):
    x0, times = tensor([[1.0, 0.0]]), torch.linspace(0, 2, 6).double()
    values = (2.0 * times).cos()
    forms = [values, values[:, None], (times, values), (times.tolist(), values.tolist())]
    found = [learned.rollout(x0, times, 3, inputs=form).samples for form in forms]
    for one in found[1:]:
        assert torch.equal(one, found[0])
    fine = torch.linspace(0, 2, 81).double()
    several = learned.rollout(x0, times, 3, inputs=(fine, (2.0 * fine).cos())).samples
    smooth = learned.rollout(x0, times, 3, inputs=lambda t: math.cos(2.0 * t)).samples
    torch.testing.assert_close(several, smooth, rtol=0, atol=1e-3)


def balance(posterior, integrator, kind) -> float:
    """Change of energy along rollouts less the integral of its rate, relative to the change."""
    count, fine, spacing = 6, 8, 0.4
    own = spacing * torch.arange(count + 1, dtype=torch.float64)
    values = 0.6 * (1.7 * own).sin()
    times = torch.linspace(0, spacing * count, count * fine + 1, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolverErrorWarning)
        rollouts = posterior.rollout(
            [1.3, 0.2], times, 2, inputs=(own, values), integrator=integrator, seed=4
        )
    share = torch.linspace(0, 1, fine + 1, dtype=torch.float64)
    steps = values.diff().unsqueeze(-1) if kind == "linear" else torch.zeros(count, 1).double()
    u = (values[:-1].unsqueeze(-1) + share * steps).reshape(-1, 1)
    draws, energies = posterior.sample(2, seed=4), rollouts.energy()[:, 0]
    # The closed Newton-Cotes formula of nine points.
    half = [989.0, 5888.0, -928.0, 10496.0]
    weights = tensor([*half, -4540.0, *reversed(half)]) * spacing / fine * 4 / 14175
    worst = 0.0
    for s in range(2):
        x = rollouts.samples[s, 0].unfold(0, fine + 1, fine).mT.reshape(-1, 2)
        x = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(draws.energy(x)[s].sum(), x)
        x = x.detach()
        lost = (slope * draws(x)[s]).sum(-1)
        assert (lost < 1e-12).all()
        rate = (slope * draws(x, u)[s]).sum(-1).reshape(count, fine + 1)
        gained = float((rate * weights).sum())
        change = float(energies[s, -1] - energies[s, 0])
        worst = max(worst, abs(change - gained) / abs(change))
    return worst


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        (RK4, "held"),
        (ImplicitMidpoint, "linear"),
        pytest.param(RK4, "linear", marks=pytest.mark.slow),
        pytest.param(ImplicitMidpoint, "held", marks=pytest.mark.slow),
    ],
)
def test_energy_balance_along_a_rollout(learned, held, method, kind):
    """Right to the integrator's order, whether inputs bend or step."""
    posterior = learned if kind == "linear" else held
    coarse, fine = (balance(posterior, method(step), kind) for step in (0.05, 0.025))
    assert coarse / fine > 0.6 * 2.0**method.order
    assert coarse < (1e-3 if method.order == 4 else 0.1)


@pytest.mark.parametrize("name", [pytest.param("learned", marks=pytest.mark.slow), "held"])
def test_everything_that_follows_from_a_fit(name, request, tmp_path):
    posterior = request.getfixturevalue(name)
    data = posterior.data
    fitted = posterior.fitted(num_samples=5)
    for rollouts, x in zip(fitted, data.states, strict=True):
        assert float((rollouts.mean[0] - x).square().mean().sqrt()) < 1.2 * NOISE
    pointwise = posterior.log_likelihood(num_samples=2)
    assert pointwise.shape == (2, data.num_observations) and bool(pointwise.isfinite().all())
    assert float(posterior.residuals(num_samples=2).values[0].nanmean()) < NOISE
    assert posterior.noise_std.shape == (2,)

    push = torque(5)
    new = simulate(1, seed=6)[0] if name == "learned" else simulate_held(1, seed=6)
    seen = new.between(0.0, 4.0)
    following = posterior.condition(seen)
    ahead = following.forecast(new.times[0][-3:], 0, 10, inputs=(new.times[0], new.inputs[0]))
    assert (ahead.mean[0] - new.states[0][-3:]).abs().max() < 0.3
    marginal = posterior.log_likelihood(seen, num_samples=2)
    assert marginal.shape == (2, seen.num_observations) and bool(marginal.isfinite().all())

    posterior.save(tmp_path / "fit.pt")
    loaded = sg.load(tmp_path / "fit.pt")
    times = [6.0, 6.5, 7.0]
    for one in (
        lambda p: p.forecast(times, 1, 3, inputs=push).samples,
        lambda p: p.rollout([1.0, 0.0], times, 3, inputs=push).samples,
        lambda p: p.vector_field([[1.0, 0.0]], u=[0.7]).mean,
        lambda p: p.input_matrix([[1.0, 0.0]]).stddev,
        lambda p: torch.cat(list(p.data.inputs)),
    ):
        assert torch.equal(one(posterior), one(loaded))
    assert loaded.interpolation == posterior.interpolation
    table = posterior.forecast(times, 1, 3, inputs=push).to_xarray()
    assert table.sizes["time"] == 3


def test_the_field_is_affine_in_the_input(learned):
    x = tensor([[0.5, 0.2], [-1.0, 1.0]])
    base, G = learned.vector_field(x), learned.input_matrix(x).mean
    for u in ([0.7], [[0.7], [-0.3]]):
        values = tensor(u).expand(2, 1)
        expected = base.mean + (G @ values.unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(learned.vector_field(x, u=u).mean, expected, atol=1e-2, rtol=0)
    joint = learned.vector_field(x, joint=True, u=[0.7])
    single = learned.vector_field(x, u=[0.7])
    torch.testing.assert_close(joint.mean, single.mean)
    diagonal = joint.covariance_matrix.diagonal().reshape(2, 2)
    torch.testing.assert_close(diagonal.clamp(min=0).sqrt(), single.stddev, rtol=0.02, atol=1e-6)


def test_inputs_that_are_missing_or_wrong_are_refused(learned):
    x0, times = [1.0, 0.0], [6.0, 6.5, 7.0]
    wide = torch.zeros(3, 2).double()
    for predict in (
        lambda u: learned.rollout(x0, times, 2, inputs=u),
        lambda u: learned.forecast(times, 0, 2, inputs=u),
    ):
        with pytest.raises(ValueError, match=r"inputs: expected shape \(3, 1\).*got \(3, 2\)"):
            predict(wide)
        with pytest.raises(ValueError, match="inputs: expected finite numbers, got nan"):
            predict([0.0, math.nan, 0.0])
        with pytest.raises(ValueError, match="inputs: .*from t = 0 to 6.5, but needed at"):
            predict(([0.0, 6.5], [0.0, 1.0]))
    with pytest.raises(ValueError, match="inputs: the field has 1 input.*got None"):
        learned.rollout(x0, times, 2)
    # A forecast goes on under the trajectory's own inputs, as far as they are known.
    with pytest.raises(ValueError, match="inputs: .*from t = 0 to 6, but needed at"):
        learned.forecast(times, 0, 2)
    for call in (lambda u: learned.vector_field([x0], u=u), lambda u: learned.sample(2)([x0], u)):
        with pytest.raises(ValueError, match=r"u: expected shape \(1, 1\) or \(1,\), got \(2,\)"):
            call([0.0, 1.0])


def test_data_and_fields_without_the_inputs_of_the_other_are_refused(learned):
    data, _ = simulate(2, duration=2)
    bare = sg.Trajectories(data.times, data.states)
    wide = sg.Trajectories(data.times, data.states, [torch.zeros(11, 2)] * 2)
    for given, message in ((bare, "data: .*1 input.*got 0"), (wide, "data: .*1 input.*got 2")):
        for call in (learned.condition, learned.log_likelihood):
            with pytest.raises(ValueError, match=message):
                call(given)
    with pytest.raises(ValueError, match="data: the model has no inputs, but the data have"):
        sg.fit(sg.SSGP(num_features=5), data, progress=False)
    model = sg.SSGP(num_features=5, inputs=sg.LearnedInputs(1))
    with pytest.raises(ValueError, match="data: the model has inputs, but the data have none"):
        sg.fit(model, bare, progress=False)
    with pytest.raises(ValueError, match="data: the model has 1 input.*but the data have 2"):
        sg.fit(model, wide, progress=False)


# Figures


DRIVEN = {
    "known": sg.KnownInputs(MATRIX),
    "learned": sg.LearnedInputs(1),
    "of the state": sg.LearnedInputs(1, num_features=10),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DRIVEN)
def test_a_driven_pendulum_is_forecast_under_an_unseen_torque(name):
    """5 trajectories at 5 Hz with noise 0.1, and 10 s under a torque of another shape."""
    system = Pendulum(friction=0.05)
    pushes = [torque(i) for i in range(5)]
    data = system.simulate(5, noise_std=0.1, inputs=pushes, input_matrix=MATRIX)
    model = sg.SSGP(num_features=40, dissipation=sg.Friction(), inputs=DRIVEN[name])
    posterior = sg.fit(model, data, progress=False)
    x0, times = system.sample_initial(10, seed=50), torch.linspace(0, 10, 51).double()
    truth = system.exact(x0, times, torque(50), MATRIX)
    rollouts = posterior.rollout(x0, times, 30, inputs=torque(50))
    assert float(trajectory_mse(rollouts, truth)) < 0.05
    assert float(coverage(rollouts, truth).mean()) > 0.7
    G = posterior.input_matrix(x0)
    assert ((G.mean[:, 1] - GAIN).abs() <= 3 * G.stddev[:, 1] + 1e-9).all()

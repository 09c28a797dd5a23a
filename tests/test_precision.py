"""Float32: fits agree with float64, results come back in it, times and units keep their digits."""

import math

import pytest
import torch
from click.testing import CliRunner
from problems import canonical, randn, tensor
from torch.distributions import LogNormal

from sympgp import (
    HNN,
    SSGP,
    Dopri5,
    ExactGP,
    Friction,
    GaussNewton,
    KnownInputs,
    Laplace,
    PhysicsEnergy,
    Pooled,
    Rayleigh,
    StateDependentFriction,
    StateDerivatives,
    StochasticVI,
    StudentTNoise,
    fit,
    load,
    metrics,
)
from sympgp.benchmarks.ssgp import SYSTEMS
from sympgp.cli.program import cli
from sympgp.dissipation import Conservative
from sympgp.energies import Context, FourierEnergy
from sympgp.fields import HamiltonianField
from sympgp.posterior.draws import Draws, FunctionDraws
from sympgp.systems import Pendulum
from sympgp.trajectories import Trajectories

SINGLE, DOUBLE = torch.float32, torch.float64
CLOSE = 1e-2
"""Posterior standard deviations by which fields may differ over the data."""
QUICK = GaussNewton(num_components=1, hyperparameter_rounds=1)
MODEL = SSGP(num_features=8, dissipation=Friction())


def quick(data, model=MODEL, inference=QUICK, **settings):
    return fit(model, data, inference=inference, progress=False, **settings)


def apart(one, other, x) -> torch.Tensor:
    """Differences of the mean fields in standard deviations, where these are not zero."""
    own, others = one.vector_field(x), other.vector_field(x)
    off = (others.mean.double() - own.mean.double()).abs() / own.stddev.double()
    return off[own.stddev > 0]


def assert_close(one, other, x) -> None:
    """Root mean square and 99% quantile of the differences, and of the deviations themselves."""
    off = apart(one, other, x)
    assert float(off.square().mean().sqrt()) <= CLOSE
    assert float(off.quantile(0.99)) <= CLOSE
    own, others = (p.vector_field(x).stddev.double() for p in (one, other))
    torch.testing.assert_close(others, own, rtol=0.02, atol=1e-6 * float(own.max()))


@pytest.fixture(scope="module")
def data() -> Trajectories:
    return Pendulum(friction=0.1).simulate(2, rate=4, duration=4, noise_std=0.05)


@pytest.fixture(scope="module")
def states(data):
    return torch.cat(list(data.states))


@pytest.fixture(scope="module")
def double(data):
    return quick(data)


@pytest.fixture(scope="module")
def single(data):
    return quick(data, dtype=SINGLE)


def test_the_field_is_that_of_float64(double, single, states):
    assert (double.dtype, single.dtype) == (DOUBLE, SINGLE)
    assert_close(double, single, states)
    assert single.diagnostics.iterations == double.diagnostics.iterations


@pytest.mark.slow
def test_data_in_float32_ask_for_it(single, data, states):
    found = quick(data.to(dtype=SINGLE))
    assert found.dtype == SINGLE
    assert_close(single, found, states)


def test_only_two_types_can_be_asked_for(data):
    with pytest.raises(ValueError, match=r"dtype: expected torch.float32.*got torch.float16"):
        quick(data, dtype=torch.float16)


def results(posterior, x) -> dict[str, torch.Tensor]:
    """Everything that a posterior of trajectories tells."""
    last = float(posterior.data.times[0][-1])
    rollouts = posterior.rollout(x[:2], [0.0, 0.5, 1.0], num_samples=4)
    forecast = posterior.forecast([last, last + 1.0], num_samples=4)
    draws, left = posterior.sample(3), posterior.residuals(num_samples=4)
    marginals = {
        "field": posterior.vector_field(x),
        "energy": posterior.hamiltonian(x),
        "dissipation": posterior.dissipation(),
        "noise": posterior.noise(),
        "initial states": posterior.initial_states,
        **posterior.parameters(),
    }
    found = {f"{name} mean": marginal.mean for name, marginal in marginals.items()}
    found |= {f"{name} stddev": marginal.stddev for name, marginal in marginals.items()}
    return found | {
        "joint": posterior.vector_field(x[:2], joint=True).covariance_matrix,
        "matrix": posterior.dissipation_matrix(x),
        "noise_std": posterior.noise_std,
        "draws": draws(x),
        "draws' energy": draws.energy(x),
        "draws' noise": draws.noise_std,
        "rollouts": rollouts.samples,
        "mean": rollouts.mean,
        "std": rollouts.std,
        "band": rollouts.band(kind="predictive")[0],
        "energies": rollouts.energy(),
        "forecast": forecast.samples,
        "fitted": posterior.fitted(num_samples=4)[0].samples,
        "conditioned": posterior.condition(posterior.data[:1]).initial_states.mean,
        "undamped": posterior.without_dissipation().rollout(x[:1], [0.0, 1.0], 4).samples,
        "likelihood": posterior.log_likelihood(num_samples=4),
        "residuals": left.values[0],
        "scores": left.standardized[0],
        "error": metrics.trajectory_mse(rollouts, rollouts.mean),
        "coverage": metrics.coverage(rollouts, rollouts.mean),
        "crps": metrics.crps(rollouts, rollouts.mean),
    }


@pytest.fixture(scope="module")
def told(single, states):
    return results(single, states)


def test_everything_comes_back_in_float32_and_near_float64(double, single, told, states):
    own, wide = told, results(double, states)
    assert {name for name, value in own.items() if value.dtype != SINGLE} == set()
    assert {name for name, value in wide.items() if value.dtype != DOUBLE} == set()
    for name, value in own.items():
        size = float(wide[name].abs().max())
        torch.testing.assert_close(
            value.double(), wide[name], rtol=0.0, atol=2e-3 * size + 1e-6, msg=name
        )
    assert single.rollout(states[:1], [0.0, 1.0], num_samples=2).times.dtype == DOUBLE


def test_a_file_keeps_the_type(single, told, states, tmp_path):
    single.save(tmp_path / "fit.pt")
    found = load(tmp_path / "fit.pt")
    assert found.dtype == SINGLE
    for name, value in results(found, states).items():
        assert torch.equal(value, told[name]), name


def test_clock_times_keep_their_digits(single, data, states):
    """1.6e9 seconds, of which float32 tells every 128th."""
    clock = Trajectories([t + 1.6e9 for t in data.times], list(data.states), dtype=SINGLE)
    found = quick(clock)
    assert_close(single, found, states)
    later = [1.6e9 + 4.0, 1.6e9 + 4.5]
    ahead, own = found.forecast(later, num_samples=4), single.forecast([4.0, 4.5], num_samples=4)
    assert ahead.times.tolist() == later
    torch.testing.assert_close(ahead.samples, own.samples, rtol=0.0, atol=1e-3)


@pytest.mark.parametrize(
    "units", [(1e-12, 1e6, 1e-9), pytest.param((1e10, 1e-24, 1e12), marks=pytest.mark.slow)]
)
def test_tiny_and_huge_units_far_from_zero_lose_nothing(single, data, states, units):
    """Scaled in float64: squares of such units are no numbers in float32."""
    q, p, time = units
    unit, offset = tensor([q, p]), tensor([1e5 * q, 0.0])
    other = Trajectories([time * t for t in data.times], [unit * x + offset for x in data.states])
    found = quick(other, dtype=SINGLE)
    own, others = single.vector_field(states), found.vector_field(unit * states + offset)
    rate = unit / time
    off = (others.mean.double() / rate - own.mean.double()) / own.stddev.double()
    assert float(off.square().mean().sqrt()) <= CLOSE
    torch.testing.assert_close(
        others.stddev.double() / rate, own.stddev.double(), rtol=0.02, atol=0
    )


def test_a_field_answers_in_the_type_that_it_is_asked_in():
    """Computed in float32: within its rounding of float64, and once bound to float32 only in it."""
    scaling = canonical(2)
    energy = FourierEnergy(2, 30)
    hyper = {name: p.median for name, p in energy.hyperpriors(scaling.spread).items()}
    wide = HamiltonianField(energy.basis(hyper), Friction().scaled(scaling))
    narrow = wide.to(SINGLE)
    z, theta = randn(7, 4), wide.prior_precision().rsqrt() * randn(wide.num_parameters, seed=1)
    weights = randn(7, 3, 2, 4, seed=2)
    pull = randn(1, 7, 4, seed=3)

    def answers(field, x, parameters):
        bound = field.bind(parameters)
        stages = torch.stack([x, 0.5 * x], 1)
        linear = field.linearized(x[None], parameters[None])
        return {
            "rate": bound(0.0, x),
            "energy": bound.energy(x),
            "slope": bound.gradient(x),
            "flow": bound.flow(0.0, x, x),
            "jacobian": field.jacobian(x, parameters),
            "parameters": field.parameter_jacobian(x, parameters),
            "weighted": field.weighted_parameter_jacobian(stages, weights.to(x), parameters),
            "remainder": field.remainder(x, parameters),
            "linearized": linear.jacobian,
            "pulled": linear.pull_back(pull.to(x)),
        }

    exact = answers(wide, z, theta)
    for x, parameters in ((z, theta), (z.float(), theta.float())):
        found = answers(narrow, x, parameters)
        assert {value.dtype for value in found.values()} == {x.dtype}
        for name, value in found.items():
            atol = 2e-5 * float(exact[name].abs().max())
            torch.testing.assert_close(value.double(), exact[name], rtol=0, atol=atol, msg=name)
    assert narrow.bind(theta.float())(0.0, z.float()).dtype == SINGLE
    assert narrow.to(DOUBLE).dtype == DOUBLE and wide.to(DOUBLE) is wide


def test_what_binds_a_field_keeps_its_type():
    """Some of the draws, a compiled field, and parameters of which few are free."""
    scaling = canonical(1)
    energy = FourierEnergy(1, 5)
    hyper = {name: p.median for name, p in energy.hyperpriors(scaling.spread).items()}
    family = HamiltonianField(energy.basis(hyper), Friction().scaled(scaling)).to(SINGLE)
    theta, z = randn(3, family.num_parameters), randn(3, 4, 2)
    wide = family.bind(theta)
    for part, places in ((wide.some(slice(1, 3)), slice(1, 3)), (wide.first(), slice(1))):
        torch.testing.assert_close(part(0.0, z[places]), wide(0.0, z)[places])
    assert wide.compiled().compiled_rate() is None
    assert family.bind(theta.float()).compiled().compiled_rate() is not None
    fixed = family.fixed(theta[0], torch.tensor([1, 2]))
    for free in (theta[1, 1:3], theta[1, 1:3].float()):
        whole = fixed.whole(free)
        assert whole.dtype == DOUBLE and torch.equal(whole[1:3], free.double())


def test_an_adaptive_method_in_float32(single, states):
    """The box that states must not leave is in float64."""
    found = single.rollout(states[:2], [0.0, 0.5], num_samples=2, integrator=Dopri5())
    usual = single.rollout(states[:2], [0.0, 0.5], num_samples=2)
    assert found.samples.dtype == SINGLE
    torch.testing.assert_close(found.samples, usual.samples, rtol=0, atol=1e-3)


def test_draws_keep_their_context_in_another_type():
    """Every trajectory has a k of its own: draws as the second meets them."""
    nothing, scaling = torch.zeros(0, dtype=DOUBLE), canonical(1)
    runs = Context(("a", "b"), (), nothing, nothing + 1, torch.zeros(2, 0, dtype=DOUBLE))
    energy = PhysicsEnergy("p**2/2 + k*(1-cos(q))", {"k": Pooled(LogNormal(0.3, 0.5))})
    basis = energy.in_context(runs).in_units(scaling).basis({"k_spread": tensor(0.4)})
    family = HamiltonianField(basis, Friction().scaled(scaling))
    theta = randn(3, family.num_parameters)
    part = Draws(family.bind(theta), basis, family.parts(theta)[0], theta, torch.ones(3, 2))
    own = FunctionDraws([part], scaling, scaling.center).within(tensor([[1.0]]))
    other, x = own.to(SINGLE), randn(4, 2)
    assert other(x).dtype == SINGLE
    torch.testing.assert_close(other(x).double(), own(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(other.energy(x).double(), own.energy(x), rtol=1e-5, atol=1e-5)


def test_formulas_stay_in_float64():
    """They see user units, which float32 may not hold."""
    energy = PhysicsEnergy("p**2 / 2 - k * cos(q)", {"k": torch.distributions.LogNormal(2.0, 0.5)})
    scaling = canonical(1)
    basis = energy.in_units(scaling).basis({})
    assert HamiltonianField(basis, Friction().scaled(scaling)).to(SINGLE).dtype == DOUBLE


def test_the_command_line_asks_for_it(data, tmp_path):
    data.to_csv(tmp_path / "data.csv")
    arguments = ["fit", str(tmp_path / "data.csv"), "--features", "6", "--friction", "--quiet"]
    arguments += ["--engine", "gauss-newton:num_components=1", "--dtype", "float32"]
    found = CliRunner().invoke(cli, [*arguments, "-o", str(tmp_path / "fit.pt")])
    assert found.exit_code == 0, found.output
    assert load(tmp_path / "fit.pt").dtype == SINGLE


# --- the criterion of whole fits


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pendulum-friction", "duffing", "double-pendulum"])
def test_fits_of_the_protocol_agree_with_float64(name):
    system = SYSTEMS[name]
    data = system.simulate(5, 5.0, 10.0, noise_std=0.1, seed=0)
    damping = Friction() if system.friction else Conservative()
    model = SSGP(system.num_dof, 100, dissipation=damping)
    one, other = (fit(model, data, progress=False, dtype=d) for d in (DOUBLE, SINGLE))
    assert_close(one, other, torch.cat(list(data.states)))


ENGINES = {
    "rayleigh": (SSGP(1, 15, dissipation=Rayleigh()), QUICK),
    "matrices": (SSGP(1, 15, dissipation=StateDependentFriction()), QUICK),
    "periodic": (SSGP(1, 15, dissipation=Friction(), periodic=(0,)), QUICK),
    "mass": (SSGP(1, 15, dissipation=Friction(), mass=1.0), QUICK),
    "outliers": (SSGP(1, 15, dissipation=Friction(), noise=StudentTNoise()), QUICK),
    "variational": (SSGP(1, 10, dissipation=Friction()), StochasticVI(num_steps=30)),
    "laplace": (HNN(1, hidden=(6,), dissipation=Friction()), Laplace()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_other_models_and_engines_agree_with_float64(name, data, states):
    model, engine = ENGINES[name]
    one, other = (quick(data, model, engine, dtype=d) for d in (DOUBLE, SINGLE))
    assert other.rollout(states[:1], [0.0, 1.0], num_samples=3).samples.dtype == SINGLE
    assert_close(one, other, states)


@pytest.mark.slow
def test_driven_systems(data, states):
    forces = [torch.sin(t).unsqueeze(-1) for t in data.times]
    driven = Trajectories(list(data.times), list(data.states), forces)
    model = SSGP(1, 10, inputs=KnownInputs(tensor([[0.0], [1e-3]])), dissipation=Friction())
    one, other = (quick(driven, model, dtype=d) for d in (DOUBLE, SINGLE))
    assert_close(one, other, states)
    grid = tensor([4.0, 4.5, 5.0])
    paths = [p.rollout(states[:2], grid, 4, inputs=grid.sin()).samples for p in (one, other)]
    assert paths[1].dtype == SINGLE
    torch.testing.assert_close(paths[1].double(), paths[0], rtol=0.0, atol=1e-3)


def test_pairs_of_states_and_derivatives(tmp_path):
    """Covariances of gradients are float64 whatever is asked for; what they tell is float32."""
    x = randn(20, 2)
    pairs = StateDerivatives(x, Pendulum().vector_field(x) + 0.05 * randn(20, 2, seed=1))
    model = SSGP(1, 10)
    one, other = (quick(pairs, model, ExactGP(), dtype=d) for d in (DOUBLE, SINGLE))
    assert_close(one, other, x)
    assert one.vector_field(x).mean.dtype == DOUBLE
    rollouts = other.rollout(x[:2], [0.0, 1.0], num_samples=3)
    found = (other.vector_field(x).stddev, other.hamiltonian(x).mean, other.noise_std)
    assert {t.dtype for t in (*found, rollouts.samples, other.sample(2)(x))} == {SINGLE}
    other.save(tmp_path / "pairs.pt")
    again = load(tmp_path / "pairs.pt")
    assert again.dtype == SINGLE
    assert torch.equal(again.rollout(x[:2], [0.0, 1.0], 3).samples, rollouts.samples)
    assert math.isfinite(float(rollouts.samples.sum()))

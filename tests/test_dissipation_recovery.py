"""Whole fits with dissipation of every kind: what they recover, and what every draw keeps to."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from problems import randn, tensor
from scipy.integrate import solve_ivp
from torch import Tensor

from sympgp import (
    SSGP,
    DiagonalFriction,
    Friction,
    GaussNewton,
    GradientField,
    HamiltonianModel,
    MatrixFriction,
    Rayleigh,
    StateDependentFriction,
    Trajectories,
    fit,
    metrics,
)
from sympgp.dissipation import Conservative, Dissipation
from sympgp.energies import PhysicsEnergy
from sympgp.integrators import DivergenceWarning
from sympgp.posterior import Posterior
from sympgp.posterior.identification import dissipative_split, identification
from sympgp.systems import Duffing, Pendulum, System

Slope = Callable[[np.ndarray], np.ndarray]
QUICK = GaussNewton(num_components=1, max_iterations=5, hyperparameter_rounds=1, step=0.25)

FAMILIES: dict[str, Dissipation] = {
    "one": Friction(),
    "diagonal": DiagonalFriction(),
    "everywhere": DiagonalFriction(positions=True),
    "matrix": MatrixFriction(),
    "fourier": StateDependentFriction(num_features=3),
    "network": StateDependentFriction(features="network", num_features=3),
    "drag": Rayleigh(),
    "gradient": GradientField(),
    "gradient of the state": GradientField(features="fourier", num_features=2),
}


def pendulum_slope(x: np.ndarray) -> np.ndarray:
    """Of ``H = 3 (1 - cos q) + p^2``."""
    return np.array([3.0 * np.sin(x[0]), 2.0 * x[1]])


def coupled_slope(x: np.ndarray) -> np.ndarray:
    """Of two hardening oscillators with a spring between them."""
    pull = 0.5 * (x[0] - x[1])
    return np.array(
        [x[0] + 0.3 * x[0] ** 3 + pull, 1.5 * x[1] + 0.2 * x[1] ** 3 - pull, x[2], x[3]]
    )


def damped(
    slope: Slope, drag: Slope, starts: Sequence[Sequence[float]], rate: float, seed: int
) -> tuple[Trajectories, Tensor]:
    """Trajectories of 10 s, ``dp/dt = -dH/dq - drag(dH/dp)``, with noise 0.05; and without."""

    def field(_: float, x: np.ndarray) -> np.ndarray:
        q, p = np.split(slope(x), 2)
        return np.concatenate([p, -q - drag(p)])

    times = np.linspace(0.0, 10.0, int(10 * rate) + 1)
    kind = {"method": "DOP853", "t_eval": times, "rtol": 1e-10, "atol": 1e-12}
    paths = [torch.tensor(solve_ivp(field, (0.0, 10.0), s, **kind).y.T) for s in starts]
    states = [x + 0.05 * randn(*x.shape, seed=100 * seed + k) for k, x in enumerate(paths)]
    return Trajectories([torch.tensor(times)] * len(paths), states), torch.cat(paths)


def oscillators(matrix: np.ndarray, seed: int) -> Trajectories:
    """Ten trajectories of the two oscillators with this friction matrix, 10 Hz."""
    starts = np.random.default_rng(seed).uniform(-1.5, 1.5, (10, 4))
    return damped(coupled_slope, lambda v: matrix @ v, starts.tolist(), 10.0, seed)[0]


@pytest.fixture(scope="module", params=FAMILIES, ids=list(FAMILIES))
def posterior(request) -> Posterior:
    data = Pendulum(friction=0.2).simulate(2, rate=4, duration=4, noise_std=0.05, seed=1)
    model = SSGP(num_features=12, dissipation=FAMILIES[request.param])
    return fit(model, data, inference=QUICK, progress=False)


def work(posterior: Posterior, states: Tensor) -> tuple[Tensor, Tensor]:
    """``grad H . f`` of all draws at scaled states, and the size of its terms."""
    found = [
        (part.field.gradient(z), part.field(0.0, z))
        for part in posterior.sample(20).parts
        for z in [states.expand(len(part.theta), *states.shape)]
    ]
    slope, rate = (torch.cat(parts) for parts in zip(*found, strict=True))
    return (slope * rate).sum(-1), (slope * rate).abs().sum(-1)


def test_no_draw_gains_energy_anywhere(posterior):
    power, size = work(posterior, 3.0 * randn(60, 2, seed=3))
    assert bool((power <= 1e-12 * size).all())
    assert float(power.min()) < 0.0


def test_without_dissipation_every_draw_keeps_its_energy(posterior):
    power, size = work(posterior.without_dissipation(), 3.0 * randn(60, 2, seed=3))
    assert bool((power.abs() <= 1e-12 * size).all())


def test_what_is_not_identified_is_said(posterior):
    lines, family = identification(posterior), posterior.dissipation_family
    assert not identification(posterior.without_dissipation())
    text = "\n".join(lines)
    if isinstance(family, Friction):
        assert not lines
        return
    assert "the dissipative part of the field is known to" in text
    assert ("identified: the friction force R(x) dH/dp" in text) == isinstance(
        family, StateDependentFriction
    )
    assert ("h(H) and M / h'(H) are the same field" in text) == isinstance(family, GradientField)
    assert ("friction of coordinates and of momenta" in text) == (family == FAMILIES["everywhere"])
    split = dissipative_split(posterior)
    assert split is not None and 0.0 < split.whole and 0.0 < split.deviation < 3.0 * split.size


def test_a_formula_and_no_dissipation_leave_less_to_say():
    data = Pendulum(friction=0.2).simulate(2, rate=4, duration=4, noise_std=0.05, seed=1)
    formula = PhysicsEnergy("3 * (1 - cos(q)) + p**2", {})
    model = HamiltonianModel(formula, dissipation=StateDependentFriction(num_features=3))
    lines = identification(fit(model, data, inference=QUICK, progress=False))
    assert lines and not any("slopes of H" in line for line in lines)
    still = SSGP(num_features=12, dissipation=Conservative())
    assert not identification(fit(still, data, inference=QUICK, progress=False))


def test_the_same_field_with_another_energy():
    """``h(H)`` and ``M / h'(H)``: the reason why H and M are not identified apart."""
    x, draws = randn(5, 4), randn(4, 4, seed=1)
    matrix = torch.block_diag(*[tensor([[0.0, 1.0], [-1.0, 0.0]])] * 2) - draws @ draws.mT

    def energy(z):
        return (z**2).sum(-1) + 0.1 * (z**4).sum(-1)

    def slope(function):
        return torch.func.vmap(torch.func.grad(function))(x)

    other, rise = slope(lambda z: energy(z).exp()), energy(x).exp()
    torch.testing.assert_close(slope(energy) @ matrix.mT, other @ matrix.mT / rise[:, None])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_friction_of_two_degrees_of_freedom(kind, seed):
    """Every entry within 15% and three posterior standard deviations of the truth."""
    truth = np.array([[0.1, 0.05], [0.05, 0.2]]) if kind == "full" else np.diag([0.05, 0.2])
    family = MatrixFriction() if kind == "full" else DiagonalFriction()
    model = SSGP(2, num_features=60, dissipation=family)
    engine = GaussNewton(num_components=1)
    posterior = fit(model, oscillators(truth, seed), inference=engine, progress=False)
    expected = torch.tensor(truth if kind == "full" else np.diag(truth))
    found = posterior.dissipation()
    assert bool(((found.mean - expected).abs() < 3.0 * found.stddev).all())
    assert bool(((found.mean / expected - 1.0).abs() < 0.15).all())
    assert posterior.diagnostics.converged and not posterior.diagnostics.notes


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [("quadratic",), ("linear", "quadratic")])
def test_quadratic_drag(kinds):
    """The mean dissipative force is off by less than 10% of its size over the data."""
    linear = 0.03 if "linear" in kinds else 0.0

    def drag(v):
        return linear * v + 0.05 * np.abs(v) * v

    for seed in (0, 1):
        starts = Pendulum().sample_initial(5, seed=seed).tolist()
        data, truth = damped(pendulum_slope, drag, starts, 10.0, seed)
        model = SSGP(num_features=50, dissipation=Rayleigh(drag=kinds))
        posterior = fit(model, data, progress=False)
        z = posterior.scaling.to_scaled(truth[::3])
        total = torch.zeros_like(z)
        for part in posterior.sample(100).parts:
            states = z.expand(len(part.theta), *z.shape)
            damping, slope = part.field.family.dissipation, part.field.gradient(states)
            total += damping.force(states, slope, part.field.rho).sum(0)
        found = (total / 100 * posterior.scaling.velocity_scale)[:, 1]
        expected = torch.tensor(drag(2.0 * truth[::3, 1].numpy()))
        assert float((found - expected).norm() / expected.norm()) < 0.1
        assert posterior.diagnostics.converged


@pytest.mark.slow
@pytest.mark.parametrize("system", [Pendulum, Duffing], ids=["pendulum", "duffing"])
def test_counterfactual_without_friction(system: type[System]):
    """The second task of the SSGP paper: learned with friction, predicted without it."""
    times = torch.linspace(0.0, 15.0, 301, dtype=torch.float64)
    errors = []
    for seed in (0, 1, 2):
        data = system(friction=0.05).simulate(5, rate=5, duration=10, noise_std=0.1, seed=seed)
        posterior = fit(SSGP(dissipation=Friction()), data, progress=False, seed=seed)
        starts = system(friction=0.05).sample_initial(25, seed=1000 + seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DivergenceWarning)  # of a few draws far from the data
            found = posterior.without_dissipation().rollout(starts, times, 30, seed=seed)
        truth = system().exact(starts, times)
        errors.append(metrics.trajectory_mse(found, truth, per_trajectory=True))
    assert float(torch.cat(errors).median()) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", [GradientField(), StateDependentFriction(num_features=8)], ids=["gradient", "state"]
)
def test_general_dissipation_is_followed(family):
    """The search ends at the noise of the data, with the true loss of energy."""
    data = Pendulum(friction=0.05).simulate(5, rate=5, duration=10, noise_std=0.1, seed=0)
    engine = GaussNewton(num_components=2)
    model = SSGP(num_features=50, dissipation=family)
    posterior = fit(model, data, inference=engine, progress=False)
    assert float(posterior.noise_std.max()) < 0.115
    assert posterior.diagnostics.iterations < 150
    system, x = Pendulum(friction=0.05), torch.cat(list(data.states))[::5]
    found = posterior.vector_field(x)
    error = (found.mean - system.vector_field(x)) / found.stddev
    assert float(error.square().mean().sqrt()) < 2.0

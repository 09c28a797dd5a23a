"""Pairs of states and derivatives with dissipation that is not linear in its parameters."""

import math

import pytest
import torch
from problems import randn, tensor
from torch import Tensor

from sympgp import (
    SSGP,
    DerivativeRegression,
    DiagonalFriction,
    ExactGP,
    Friction,
    GradientField,
    HamiltonianModel,
    LearnedInputs,
    MatrixFriction,
    Rayleigh,
    StateDependentFriction,
    StateDerivatives,
    fit,
    load,
)
from sympgp.dissipation import Dissipation
from sympgp.energies import FourierEnergy, PhysicsEnergy
from sympgp.inference.feature_regression import FeatureSolution
from sympgp.inference.pairs import prepare_pairs
from sympgp.posterior import DerivativePosterior

QUICK = DerivativeRegression(num_components=1)


def damped_pendulum(x: Tensor, linear: float, quadratic: float) -> Tensor:
    """``H = 3 (1 - cos q) + p^2`` with drag as a function of the velocity 2 p."""
    velocity = 2.0 * x[:, 1]
    drag = linear * velocity + quadratic * velocity.abs() * velocity
    return torch.stack([velocity, -3.0 * x[:, 0].sin() - drag], 1)


def damped_oscillators(x: Tensor, matrix: Tensor) -> Tensor:
    """Two hardening oscillators with a spring between them and this friction matrix."""
    q, p = x.split(2, 1)
    pull = 0.5 * (q[:, :1] - q[:, 1:])
    force = q + 0.3 * q**3 + torch.cat([pull, -pull], 1)
    return torch.cat([p, -force - p @ matrix], 1)


def pairs(num: int, rate, num_dof: int = 1, noise: float = 0.05, seed: int = 0) -> StateDerivatives:
    x = 1.2 * randn(num, 2 * num_dof, seed=seed)
    return StateDerivatives(x, rate(x) + noise * randn(*x.shape, seed=seed + 1))


def learn(data: StateDerivatives, family: Dissipation, engine=QUICK) -> DerivativePosterior:
    model = SSGP(data.num_dof, num_features=40, dissipation=family)
    return fit(model, data, inference=engine, progress=False)


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_friction_of_two_degrees_of_freedom(kind):
    matrix = (
        tensor([[0.1, 0.05], [0.05, 0.3]]) if kind == "full" else torch.diag(tensor([0.1, 0.3]))
    )
    data = pairs(150, lambda x: damped_oscillators(x, matrix), num_dof=2)
    found = learn(data, MatrixFriction() if kind == "full" else DiagonalFriction()).dissipation()
    expected = matrix if kind == "full" else matrix.diagonal()
    assert bool(((found.mean - expected).abs() < 3.0 * found.stddev).all())
    assert float(found.stddev.max()) < 0.02


@pytest.mark.parametrize("kinds", [("quadratic",), ("linear", "quadratic")])
def test_drag(kinds):
    linear = 0.1 if "linear" in kinds else 0.0
    data = pairs(80, lambda x: damped_pendulum(x, linear, 0.1))
    posterior = learn(data, Rayleigh(drag=kinds))
    found, expected = posterior.dissipation(), tensor([[linear], [0.1]])[-len(kinds) :]
    assert bool(((found.mean - expected).abs() < 3.0 * found.stddev).all())
    assert float(found.stddev[-1]) < 0.01 and posterior.diagnostics.converged
    x = randn(60, 2, seed=7)
    field = posterior.vector_field(x)
    error = (field.mean - damped_pendulum(x, linear, 0.1)) / field.stddev
    assert float(error.square().mean().sqrt()) < 1.8


@pytest.mark.parametrize(
    "family",
    [
        StateDependentFriction(num_features=6),
        StateDependentFriction(features="network", num_features=4),
        GradientField(),
        GradientField(features="fourier", num_features=4),
    ],
    ids=["fourier", "network", "gradient", "gradient of the state"],
)
def test_matrices_that_vary_follow_the_field(family, tmp_path):
    """And the posterior is read back, and loses no energy without dissipation."""
    data = pairs(80, lambda x: damped_pendulum(x, 0.2, 0.0))
    posterior = learn(data, family)
    x = randn(60, 2, seed=7)
    field = posterior.vector_field(x)
    error = field.mean - damped_pendulum(x, 0.2, 0.0)
    assert float((error / field.stddev).square().mean().sqrt()) < 1.8
    assert float(error.square().mean().sqrt()) < 0.08
    posterior.save(tmp_path / "fit.pt")
    again = load(tmp_path / "fit.pt")
    torch.testing.assert_close(again.vector_field(x).mean, field.mean, rtol=0.0, atol=0.0)
    draws = posterior.without_dissipation().sample(5).parts[0]
    states = x.expand(5, *x.shape)
    slope, rate = draws.field.gradient(states), draws.field(0.0, states)
    assert bool(((slope * rate).sum(-1).abs() <= 1e-12 * (slope * rate).abs().sum(-1)).all())


def test_drag_that_is_linear_is_friction():
    """Two families, one model: the same friction but for the priors."""
    data = pairs(60, lambda x: damped_pendulum(x, 0.2, 0.0))
    one, other = learn(data, Friction()), learn(data, Rayleigh(drag="linear"))
    x = randn(30, 2, seed=7)
    torch.testing.assert_close(
        one.vector_field(x).mean, other.vector_field(x).mean, rtol=0.0, atol=0.02
    )
    mine, its = one.dissipation(), other.dissipation()
    assert abs(float(mine.mean - its.mean)) < 0.3 * float(mine.stddev)
    assert float(its.stddev) == pytest.approx(float(mine.stddev), rel=0.2)


@pytest.mark.parametrize("learned", [False, True], ids=["formula", "and more"])
def test_formulas_with_unknown_parameters(learned):
    """Not linear in them: found by Gauss-Newton, with drag that is not linear either."""
    prior = {"k": torch.distributions.LogNormal(0.0, 1.0)}
    energy = PhysicsEnergy("p**2 + k * (1 - cos(q))", prior)
    model = HamiltonianModel(
        energy + FourierEnergy(1, 20) if learned else energy, Rayleigh(drag="quadratic")
    )
    data = pairs(60, lambda x: damped_pendulum(x, 0.0, 0.1))
    posterior = fit(model, data, inference=QUICK, progress=False)
    found = posterior.dissipation()
    assert abs(float(found.mean - 0.1)) < 3.0 * float(found.stddev) < 0.03
    assert bool((posterior.noise_std - 0.05).abs().max() < 0.02)
    if not learned:
        part = posterior.components[0]
        k = part.field.basis.values(part.theta[:1])["k"]
        assert float(k) == pytest.approx(3.0, abs=0.1)


@pytest.mark.parametrize("family", [DiagonalFriction(), Rayleigh(), StateDependentFriction()])
def test_a_settled_solution_is_where_the_posterior_is_highest(family):
    """The gradient of the exact log posterior vanishes there."""
    data = pairs(50, lambda x: damped_pendulum(x, 0.1, 0.1))
    model = SSGP(num_features=10, dissipation=family)
    prepared = prepare_pairs(model, data)
    regression = QUICK.regression(model, prepared)
    hyper = {n: p.median for n, p in regression.hyperpriors(prepared.scaling.spread).items()}
    noise = tensor([0.1, 0.1])
    known = regression.started(prepared.pairs, hyper, noise)
    first = known.solve(prepared.pairs, hyper, family.scaled(prepared.scaling).start(), noise)
    field = first.field
    found = FeatureSolution.settled(field, prepared.pairs, first.theta, noise)

    def log_posterior(theta: Tensor) -> Tensor:
        w, _, rho = field.parts(theta)
        slope = field.basis.gradient_map(w)(prepared.pairs.z)
        force = field.dissipation.force(prepared.pairs.z, slope, rho)
        rate = slope @ field.symplectic(theta).mT - force
        misfit = ((rate - prepared.pairs.rates) / noise).square().sum()
        return -0.5 * misfit - 0.5 * (field.prior_precision() * theta**2).sum()

    slope = torch.func.grad(log_posterior)(found.theta)
    at_start = torch.func.grad(log_posterior)(first.theta)
    stddev = field.prior_precision().rsqrt()
    assert float((stddev * slope).norm()) < max(0.05, 0.01 * float((stddev * at_start).norm()))
    assert float(log_posterior(found.theta)) >= float(log_posterior(first.theta))
    assert math.isfinite(float(found.squares.sum()))


def test_what_pairs_cannot_have_is_refused_at_once():
    data = pairs(20, lambda x: damped_pendulum(x, 0.1, 0.0))
    with pytest.raises(ValueError, match="inputs: pairs of states and derivatives come without"):
        fit(SSGP(inputs=LearnedInputs(1)), data, progress=False)
    with pytest.raises(ValueError, match=r"ExactGP\(\) takes Conservative\(\) or Friction\(\)"):
        learn(data, Rayleigh(), ExactGP())
    broken = HamiltonianModel(PhysicsEnergy("p**2 + log(q)", {}))
    with pytest.raises(ValueError, match="formula"):
        fit(broken, data, progress=False)

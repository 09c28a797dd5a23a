"""Levenberg-Marquardt against dense and closed forms, and what a fit must not depend on."""

import math
from dataclasses import replace

import pytest
import torch
from problems import (
    dense_gauss_newton,
    dense_jacobian,
    gaussian,
    identity_scaling,
    observed,
    randn,
    shooting,
    tensor,
    unknowns,
)
from torch import Tensor

from sympgp import GaussNewton
from sympgp.dissipation import LinearDissipation
from sympgp.energies import FourierEnergy
from sympgp.fields import HamiltonianField
from sympgp.noise import RATE, SHAPE
from sympgp.phase_space import symplectic_matrix
from sympgp.shooting.layout import Nodes, Windows
from sympgp.shooting.levenberg_marquardt import levenberg_marquardt, solve_damped
from sympgp.shooting.linearization import linearize
from sympgp.shooting.noise_levels import noise_update, squares_after
from sympgp.shooting.problem import Estimate, Problem
from sympgp.shooting.reduction import Reduction
from sympgp.shooting.sensitivities import INITIAL_VARIANCE
from sympgp.trajectories import Trajectories

# Levenberg-Marquardt


def solvable(duration: float) -> tuple[Problem, Estimate]:
    """Data that the field can produce, up to noise, and a start some way off."""
    problem, truth = shooting(duration=math.inf)
    path, _, _ = problem.evaluate(truth)
    values = torch.zeros_like(problem.nodes.values)
    values[problem.windows.nodes.reshape(-1)] = path.flatten(0, 1)
    windows = Windows.of_duration(problem.nodes, duration)
    start = values[windows.start] + 0.1
    values = values + 0.1 * randn(*values.shape, seed=8)
    nodes = replace(problem.nodes, values=values * problem.nodes.mask)
    theta = 0.8 * truth.theta + 0.02
    noise = tensor([0.1, 0.12])
    return replace(problem, nodes=nodes, windows=windows), Estimate(
        theta, start, noise, 0.05, torch.ones(2).double()
    )


def with_known_noise(problem: Problem, estimate: Estimate) -> tuple[Problem, Estimate]:
    return replace(problem, noise=gaussian(len(estimate.noise_std), estimate.noise_std)), estimate


@pytest.mark.parametrize("duration", [1.1, math.inf])
def test_noise_moves_to_its_fixed_point(duration):
    """``(RSS + 2 b) / (n - gamma + 2 a + 2)``, gamma the trace over all unknowns."""
    problem, estimate = shooting(duration=duration)
    path, end, _ = problem.evaluate(estimate)
    linear = linearize(
        problem.field, estimate.theta, path, problem.nodes, problem.windows, problem.step
    )
    reduced = Reduction.of(problem, linear, estimate, end)
    precision, _ = reduced.normal_equations
    squares = linear.shared[:, -1, -1]
    noise, gamma = noise_update(reduced, precision, squares)
    Q, _ = dense_gauss_newton(problem, estimate)
    jacobian = dense_jacobian(problem, estimate)
    predicted, values, channels = observed(problem, unknowns(estimate))
    for channel in range(2):
        rows = channels == channel
        own = jacobian[rows]
        expected = torch.linalg.solve(Q, own.mT @ own).trace() * estimate.precision[channel]
        torch.testing.assert_close(gamma[channel], expected)
        rss = (predicted - values)[rows].square().sum()
        torch.testing.assert_close(squares[channel], rss)
        spare = rows.sum() - expected + 2 * SHAPE + 2
        torch.testing.assert_close(noise[channel] ** 2, (rss + 2 * RATE) / spare)


def test_squares_after_a_step_are_those_of_the_linearised_residuals():
    problem, estimate = shooting()
    path, _, _ = problem.evaluate(estimate)
    linear = linearize(
        problem.field, estimate.theta, path, problem.nodes, problem.windows, problem.step
    )
    step, moved = 0.1 * randn(len(estimate.theta)), 0.1 * randn(*estimate.start.shape, seed=1)
    predicted, values, channels = observed(problem, unknowns(estimate))
    change = dense_jacobian(problem, estimate) @ torch.cat([step, moved.reshape(-1)])
    residual = predicted + change - values
    expected = torch.stack([residual[channels == c].square().sum() for c in range(2)])
    torch.testing.assert_close(squares_after(linear, step, moved), expected)


def test_undamped_steps_solve_the_normal_equations():
    root, gradient = randn(5, 5), randn(5, seed=1)
    prior = randn(5, seed=2).exp()
    precision = root @ root.mT + torch.diag(prior)
    step = solve_damped(precision, gradient, prior, 0.0)
    torch.testing.assert_close(precision @ step, -gradient)
    short = solve_damped(precision, gradient, prior, 1e6)
    assert short.norm() < 1e-4 * step.norm() and short @ gradient < 0


@pytest.mark.parametrize("duration", [1.1, math.inf])
def test_the_search_descends_to_a_stationary_point(duration):
    problem, estimate = with_known_noise(*solvable(duration))
    values = [float(problem.evaluate(estimate)[2])]
    solution = levenberg_marquardt(
        problem,
        estimate,
        max_iterations=100,
        tolerance=1e-9,
        on_step=values.append,
    )
    assert solution.converged and len(values) == solution.iterations + 1
    assert values == sorted(values, reverse=True)
    _, gradient = dense_gauss_newton(problem, solution.estimate)
    Q, start = dense_gauss_newton(problem, estimate)
    assert gradient @ torch.linalg.solve(Q, gradient) < 1e-6
    assert start @ torch.linalg.solve(Q, start) > 1.0
    torch.testing.assert_close(solution.estimate.noise_std, estimate.noise_std)


def test_steps_that_raise_the_objective_are_not_taken(monkeypatch):
    """Far from any optimum some steps overshoot; they are tried again, shorter."""
    problem, estimate = with_known_noise(*shooting(duration=math.inf))
    estimate = replace(estimate, theta=3.0 * estimate.theta, start=2.0 * estimate.start)
    tried, evaluate = [], Problem.evaluate
    monkeypatch.setattr(Problem, "evaluate", lambda self, e: tried.append(e) or evaluate(self, e))
    values = [float(evaluate(problem, estimate)[2])]
    solution = levenberg_marquardt(
        problem,
        estimate,
        max_iterations=15,
        tolerance=1e-9,
        on_step=values.append,
    )
    assert len(tried) > solution.iterations + 1
    assert values == sorted(values, reverse=True) and values[-1] < 0.5 * values[0]


def test_the_returned_precision_is_that_at_the_optimum():
    problem, estimate = with_known_noise(*solvable(1.1))
    solution = levenberg_marquardt(problem, estimate, max_iterations=100, tolerance=1e-9)
    Q, _ = dense_gauss_newton(problem, solution.estimate)
    num = problem.field.num_parameters
    schur = Q[:num, :num] - Q[:num, num:] @ torch.linalg.solve(Q[num:, num:], Q[num:, :num])
    torch.testing.assert_close(solution.precision, schur, rtol=1e-6, atol=1e-6)


def test_estimated_noise_is_at_its_fixed_point():
    problem, estimate = solvable(math.inf)
    solution = levenberg_marquardt(problem, estimate, max_iterations=200, tolerance=1e-6)
    assert solution.converged
    spare = problem.nodes.counts - solution.degrees + 2 * SHAPE + 2
    expected = ((solution.squares + 2 * RATE) / spare).sqrt()
    torch.testing.assert_close(solution.estimate.noise_std, expected, rtol=5e-3, atol=0)


def test_the_iteration_limit_is_reported():
    problem, estimate = solvable(1.1)
    solution = levenberg_marquardt(problem, estimate, max_iterations=1, tolerance=1e-9)
    assert solution.iterations == 1 and not solution.converged


# the linear-Gaussian limit: a quadratic energy and nearly exact data

STIFFNESS, MASS, FRICTION, EXACT = 1.3, 0.8, 0.15, 1e-4


def linear_flow(parameters: Tensor, z0: Tensor, times: Tensor) -> Tensor:
    """States (T, 2) of ``z' = (J - rho R) (Q z + b)`` by the matrix exponential."""
    b, (qq, qp, pp), rho = parameters[:2], parameters[2:5], parameters[5]
    Q = torch.stack([torch.stack([qq, qp]), torch.stack([qp, pp])])
    structure = symplectic_matrix(1) - rho * torch.diag(tensor([0.0, 1.0]))
    generator = torch.zeros(3, 3).double()
    top = torch.cat([structure @ Q, (structure @ b)[:, None]], 1)
    generator = torch.cat([top, generator[2:]])
    extended = torch.cat([z0, tensor([1.0])])
    return (torch.linalg.matrix_exp(generator * times[:, None, None]) @ extended)[:, :2]


@pytest.fixture(scope="module")
def linear_problem():
    """A fit with fixed noise of an oscillator whose energy the quadratic features hold exactly."""
    times = 0.35 * torch.arange(20, dtype=torch.float64)
    truth = tensor([0.0, 0.0, STIFFNESS, 0.0, 1.0 / MASS, FRICTION])
    starts = tensor([[1.0, 0.2], [-0.3, 1.4]])
    clean = [linear_flow(truth, z0, times) for z0 in starts]
    noise = tensor([EXACT, 2 * EXACT])
    data = Trajectories(times, torch.stack(clean) + noise * randn(2, 20, 2))
    energy = FourierEnergy(1, 1, separable=0.0)
    hyper = {
        "lengthscale": tensor([1.0, 1.0]),
        "signal_scale": tensor(1e-9),
        "quadratic_scale": tensor(1.0),
    }
    friction = LinearDissipation(torch.diag(tensor([0.0, 1.0]))[None], tensor([1.0]), tensor([1.0]))
    field = HamiltonianField(energy.basis(hyper), friction)
    nodes = Nodes.from_data(data, identity_scaling())
    problem = Problem(nodes, Windows.of_duration(nodes, math.inf), field, gaussian(2, noise), 0.02)
    theta = torch.cat([torch.zeros(2).double(), 0.9 * truth + 0.02])
    estimate = Estimate(theta, starts.clone(), noise, 0.0, torch.ones(2).double())
    solution = levenberg_marquardt(problem, estimate, max_iterations=100, tolerance=1e-9)
    return data, truth, starts, noise, solution


def test_quadratic_energies_have_their_closed_form_posterior(linear_problem):
    """Mean and precision of [b, Q, rho] from derivatives of the matrix exponential."""
    data, truth, starts, noise, solution = linear_problem
    vector = torch.cat([truth, starts.reshape(-1)])

    def prediction(v: Tensor) -> Tensor:
        paths = [
            linear_flow(v[:6], z0, t) for z0, t in zip(v[6:].reshape(2, 2), data.times, strict=True)
        ]
        return torch.cat([p.reshape(-1) for p in paths])

    jacobian = torch.func.jacrev(prediction)(vector)
    residual = torch.cat([x.reshape(-1) for x in data.states]) - prediction(vector)
    weights = (1.0 / noise**2).repeat(40)
    prior = torch.cat([torch.ones(6), torch.full((4,), 1.0 / INITIAL_VARIANCE)]).double()
    precision = jacobian.mT @ (weights[:, None] * jacobian) + torch.diag(prior)
    force = jacobian.mT @ (weights * residual) - prior * vector
    mean = vector + torch.linalg.solve(precision, force)
    covariance = torch.linalg.inv(precision)

    own = torch.linalg.inv(solution.precision)[2:, 2:]
    deviation = covariance.diagonal().sqrt()
    scaled = (own - covariance[:6, :6]) / torch.outer(deviation[:6], deviation[:6])
    assert scaled.abs().max() < 2e-3
    shift = (solution.estimate.theta[2:] - mean[:6]) / deviation[:6]
    assert shift.abs().max() < 0.02
    assert ((solution.estimate.start.reshape(-1) - mean[6:]) / deviation[6:]).abs().max() < 0.02


def test_the_closed_form_is_not_merely_the_truth(linear_problem):
    """The noise moves the posterior mean by about its deviation, and the fit with it."""
    _, truth, _, _, solution = linear_problem
    deviation = torch.linalg.inv(solution.precision).diagonal()[2:].sqrt()
    shift = ((solution.estimate.theta[2:] - truth) / deviation).abs()
    assert 0.1 < shift.max() < 4.0


# settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_components": 0}, "num_components: expected a whole number of at least 1, got 0"),
        ({"max_iterations": True}, "max_iterations: expected a whole number of at least 1"),
        ({"hyperparameter_rounds": -1}, "hyperparameter_rounds: expected a whole number"),
        ({"step": 0.0}, "step: expected a positive number, got 0.0"),
        ({"step": math.nan}, "step: expected a positive number, got nan"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GaussNewton(**settings)

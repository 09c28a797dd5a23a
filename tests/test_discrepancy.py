"""The evidence of jumps against a dense marginal likelihood; autocorrelation of residuals."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import (
    dense_jacobian,
    identity_scaling,
    jumps,
    observed,
    randn,
    shooting,
    tensor,
    unknowns,
)
from torch.distributions import MultivariateNormal

from sympgp import SSGP, Friction, GaussNewton, fit
from sympgp.inference.discrepancy import (
    DefectPosterior,
    autocorrelation_time,
    defect_posterior,
    log_evidence,
)
from sympgp.integrators import RK4
from sympgp.shooting.layout import Nodes
from sympgp.shooting.linearization import linearize
from sympgp.shooting.sensitivities import INITIAL_VARIANCE
from sympgp.trajectories import Trajectories, wrapped

NOISES = [tensor([0.4, 0.9]), tensor([0.25, 0.5])]
DEFECTS = [1e-3, 0.05, 0.3, 2.0]


class Dense:
    """The linearised model of the observations with everything else integrated out."""

    def __init__(self, problem, estimate) -> None:
        self.vector = unknowns(estimate)
        num, dim = problem.field.num_parameters, estimate.start.shape[1]
        self.rows = torch.func.jacrev(lambda v: jumps(problem, v))(self.vector)
        self.rows = self.rows.reshape(-1, len(self.vector))
        self.gap = jumps(problem, self.vector).reshape(-1)
        self.prior = torch.zeros_like(self.vector)
        self.prior[:num] = problem.field.prior_precision()
        for first in problem.windows.chain[:, 0].tolist():
            begin = num + first * dim
            self.prior[begin : begin + dim] = 1.0 / INITIAL_VARIANCE
        self.jacobian = dense_jacobian(problem, estimate)
        self.predicted, self.values, self.channels = observed(problem, self.vector)

    def log_evidence(self, noise_std, defect: float) -> float:
        """Under the prior of parameters and first states, and a chain of jumps."""
        precision = torch.diag(self.prior) + self.rows.mT @ self.rows / defect**2
        force = -self.prior * self.vector - self.rows.mT @ self.gap / defect**2
        mean = self.predicted + self.jacobian @ torch.linalg.solve(precision, force)
        covariance = self.jacobian @ torch.linalg.solve(precision, self.jacobian.mT)
        covariance = covariance + torch.diag(noise_std[self.channels] ** 2)
        likelihood = MultivariateNormal(mean, 0.5 * (covariance + covariance.mT))
        return float(likelihood.log_prob(self.values))


@pytest.mark.parametrize("friction", [True, False])
def test_evidence_of_jumps_and_noise_is_the_dense_one(friction):
    """Up to one constant, over noise levels and sizes of the jumps."""
    problem, estimate = shooting(duration=1.6, friction=friction)
    estimate = replace(estimate, inflation=torch.ones(2).double())
    path, end, _ = problem.evaluate(estimate)
    linear = linearize(
        problem.field, estimate.theta, path, problem.nodes, problem.windows, problem.step
    )
    reference, own, dense = Dense(problem, estimate), [], []
    for noise in NOISES:
        for defect in DEFECTS:
            trial = replace(estimate, noise_std=noise, defect_std=defect)
            own.append(log_evidence(problem, linear, trial, path, end)[0])
            dense.append(reference.log_evidence(noise, defect))
    differences = np.array(own) - np.array(dense)
    assert differences == pytest.approx(differences[0], abs=1e-6)
    assert np.ptp(dense) > 1.0


def test_jumps_are_found_where_there_are_jumps():
    """States that leap between windows favour jumps of about the size of the leaps."""
    problem, estimate = shooting(duration=1.6)
    path, _, _ = problem.evaluate(estimate)
    nodes, noise = problem.nodes, tensor([0.01, 0.01])
    values = nodes.values.clone()
    values[problem.windows.nodes.reshape(-1)] = path.flatten(0, 1)
    values = values + noise * randn(*values.shape)
    leaping = replace(problem, nodes=replace(nodes, values=values))
    leaps = replace(estimate, noise_std=noise, inflation=torch.ones(2).double())
    found = defect_posterior(leaping, leaps)
    assert found.gain > 3.0
    assert sum(found.weights) == pytest.approx(1.0)
    # The grid ends at a few times the noise; leaps of one unit are beyond it.
    assert found.root_mean_square > 0.5 * found.grid[-1]


def test_single_windows_have_no_jumps():
    problem, estimate = shooting(duration=float("inf"))
    found = defect_posterior(problem, estimate)
    assert found.root_mean_square == found.gain == 0.0


def test_the_root_mean_square_weighs_variances():
    found = DefectPosterior((0.1, 0.2, 0.4), (0.5, 0.25, 0.25), 0.0)
    assert found.root_mean_square**2 == pytest.approx(0.5 * 0.01 + 0.25 * 0.04 + 0.25 * 0.16)


def residuals(correlation: float, count: int = 4000):
    """A stationary autoregressive series in the first channel, white noise in the second."""
    white = randn(count, 2, seed=3)
    series = [white[0, 0]]
    for shock in white[1:, 0]:
        series.append(correlation * series[-1] + (1 - correlation**2) ** 0.5 * shock)
    values = torch.stack([torch.stack(series), white[:, 1]], 1)
    data = Trajectories(torch.arange(count), values)
    nodes = Nodes.from_data(data, identity_scaling())
    return nodes.values, nodes


@pytest.mark.parametrize("correlation", [0.3, 0.6])
def test_autocorrelation_time_of_an_autoregression(correlation):
    """``(1 + c) / (1 - c)`` observations count as one; white noise counts in full."""
    times = autocorrelation_time(*residuals(correlation))
    exact = (1 + correlation) / (1 - correlation)
    assert float(times[0]) == pytest.approx(exact, rel=0.15)
    assert float(times[1]) == pytest.approx(1.0, abs=0.02)


def test_alternating_residuals_do_not_count_for_more_than_they_are():
    values, nodes = residuals(-0.6)
    assert autocorrelation_time(values, nodes)[0] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(6, id="steps into wild fields"),
        pytest.param(2, id="starts in a wild field"),
    ],
)
def test_fits_of_models_that_lack_the_inputs_end_with_jumps(seed):
    """A pendulum whirled by torques that the model does not know, recorded within one turn."""
    generator = torch.Generator().manual_seed(seed)
    torque = 8.0 * torch.randn(2, 40, generator=generator, dtype=torch.float64)
    times = torch.arange(0.0, 12.01, 0.25, dtype=torch.float64)

    def field(t, x):
        push = torque[:, int(float(t) / 0.8 + 1e-9)]
        return torch.stack([x[:, 1], push - 9.81 * x[:, 0].sin() - 0.1 * x[:, 1]], 1)

    paths = RK4(0.02).solve(field, tensor([[1.0, 0.0], [0.5, 2.0]]), times)
    noisy = paths + 0.05 * torch.randn(paths.shape, generator=generator, dtype=torch.float64)
    noisy[..., 0] = wrapped(noisy[..., 0])
    model = SSGP(num_features=10, periodic=(0,), dissipation=Friction())
    engine = GaussNewton(num_components=1, hyperparameter_rounds=1)
    posterior = fit(model, Trajectories(times, noisy), inference=engine, progress=False)
    assert posterior.diagnostics.jump_gain > 20.0
    assert "the paths have to jump" in posterior.check().verdict
    assert "model discrepancy: jumps of" in posterior.summary()

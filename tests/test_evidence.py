"""The frozen-path evidence against a dense Gaussian marginal likelihood, and its optimiser."""

import math

import pytest
import torch
from problems import (
    dense_jacobian,
    hyperparameters,
    identity_scaling,
    observed,
    plain_path,
    randn,
    shooting,
    tensor,
    unknowns,
    window_nodes,
)
from torch import Tensor
from torch.distributions import MultivariateNormal

from sympgp.energies import Basis, FourierEnergy
from sympgp.fields import HamiltonianField
from sympgp.inference.evidence import (
    FrozenModel,
    linear_rate,
    optimise_hyperparameters,
    pack,
    unpack,
)
from sympgp.shooting.linearization import linearize
from sympgp.shooting.sensitivities import INITIAL_VARIANCE, freeze

ENERGY = FourierEnergy(1, 3, separable=0.0, seed=4)
PRIORS = ENERGY.hyperpriors(identity_scaling().spread)
POINTS = [pack(PRIORS, hyperparameters(ENERGY, seed)) for seed in range(4)]
"""Logarithms of hyperparameters."""


class Frozen:
    """A frozen model about a path, and the same model written densely."""

    def __init__(self, friction: bool, duration: float) -> None:
        self.problem, self.estimate = shooting(duration=duration, friction=friction)
        problem, theta = self.problem, self.estimate.theta
        self.path, _, _ = problem.evaluate(self.estimate)
        index = problem.windows.nodes.reshape(-1)
        starts = self.path.reshape(-1, 2)
        frozen = freeze(problem.field, theta, starts, problem.nodes.dt[index], problem.step)
        slope = linear_rate(problem.field, frozen.stages, theta)
        self.model = FrozenModel.about(frozen, slope, self.path, problem.nodes, problem.windows)
        self.jacobian = dense_jacobian(problem, self.estimate)
        vector = unknowns(self.estimate)
        self.predicted, self.values, self.channels = observed(problem, vector)
        self.points, self.response = self.perturbed()

    @property
    def arguments(self):
        return self.problem.field, self.estimate.theta, self.estimate.precision

    def solve(self, log: Tensor) -> tuple[Tensor, Tensor]:
        field, theta, weights = self.arguments
        return self.model.solve(ENERGY.basis(unpack(PRIORS, log)), field, theta, weights)

    def perturbed(self) -> tuple[Tensor, Tensor]:
        """Stages of the solver, and derivatives of the predictions by a push at each of them."""
        problem, estimate = self.problem, self.estimate
        w, rho = problem.field.split(estimate.theta)
        points: list[Tensor] = []

        def predicted(pushes: Tensor) -> Tensor:
            points.clear()

            def rate(z: Tensor) -> Tensor:
                points.append(z.detach())
                return problem.field.features(z, rho) @ w + pushes[len(points) - 1]

            parts = []
            for k in range(problem.windows.num_windows):
                path, _ = plain_path(rate, estimate.start[k], problem, k)
                parts.append(path[problem.nodes.mask[window_nodes(problem, k)]])
            return torch.cat(parts)

        pushes = torch.zeros(4000, 2).double()
        response = torch.autograd.functional.jacobian(predicted, pushes, vectorize=True)
        return torch.stack(points), response[:, : len(points)]

    def dense(self, log: Tensor) -> tuple[Tensor, Tensor]:
        """Log marginal likelihood, and the posterior mean of weights and friction."""
        field, theta, weights = self.arguments
        basis = ENERGY.basis(unpack(PRIORS, log))
        w, rho = field.split(theta)
        features = HamiltonianField(basis, field.dissipation).features(self.points, rho)
        by_weight = torch.einsum("nsd,sdp->np", self.response, features)
        # The learned field's own share of the prediction, which the base is without.
        own = self.jacobian[:, : field.num_weights] @ w
        friction = self.jacobian[:, field.num_weights : field.num_parameters]
        design = torch.cat([by_weight, friction], 1)
        prior = torch.cat([basis.prior_variance, field.dissipation.prior_stddev**2])
        centre = torch.cat([torch.zeros(basis.num_weights).double(), -rho])
        states = self.jacobian[:, field.num_parameters :]
        noise = INITIAL_VARIANCE * states @ states.mT + torch.diag(1.0 / weights[self.channels])
        mean = self.predicted - own + design @ centre
        covariance = (design * prior) @ design.mT + noise
        likelihood = MultivariateNormal(mean, covariance)
        gain = torch.linalg.solve(covariance, self.values - mean)
        return likelihood.log_prob(self.values), prior * (design.mT @ gain)


CASES = [(False, 1.1), (True, 1.1), (True, math.inf)]


@pytest.fixture(scope="module", params=CASES, ids=str)
def frozen(request):
    return Frozen(*request.param)


def test_evidence_differs_from_the_dense_one_by_a_constant(frozen):
    differences = [float(frozen.solve(log)[0] - frozen.dense(log)[0]) for log in POINTS]
    assert differences == pytest.approx([differences[0]] * len(differences), abs=1e-8)
    values = [float(frozen.dense(log)[0]) for log in POINTS]
    assert max(values) - min(values) > 0.1


def test_solved_weights_are_the_dense_posterior_mean(frozen):
    for log in POINTS[:2]:
        torch.testing.assert_close(frozen.solve(log)[1], frozen.dense(log)[1])


def test_gradient_of_the_evidence_against_finite_differences(frozen):
    log = POINTS[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(frozen.solve(log)[0], log)
    h = 1e-4
    for k, shift in enumerate(h * torch.eye(len(log)).double()):
        ahead, behind = (frozen.dense(POINTS[0] + s)[0] for s in (shift, -shift))
        assert float(gradient[k]) == pytest.approx(float(ahead - behind) / (2 * h), abs=1e-5)


def test_the_base_and_the_own_weights_give_the_path_back(frozen):
    """Frozen about its own path, the linear model predicts that path at the present weights."""
    field, theta, _ = frozen.arguments
    response = frozen.model.response(field.basis, field, theta) @ theta
    state = torch.zeros_like(frozen.path[:, 0])
    steps = frozen.model.frozen.transition.reshape(*frozen.path.shape, 2)
    moved = []
    for slot in range(frozen.path.shape[1]):
        moved.append(state)
        own = response.reshape(frozen.path.shape)[:, slot]
        state = (steps[:, slot] @ state.unsqueeze(-1)).squeeze(-1) + own
    valid = frozen.problem.windows.nodes < frozen.problem.nodes.first[-1]
    predicted = frozen.model.base + torch.stack(moved, 1)
    torch.testing.assert_close(predicted[valid], frozen.path[valid])


def test_gram_matrices_of_the_own_basis_are_those_of_the_sensitivities(frozen):
    """About the same path, freezing and shooting are one linearisation."""
    problem, (field, theta, weights) = frozen.problem, frozen.arguments
    response = frozen.model.response(field.basis, field, theta)
    gram, _ = frozen.model.normal_equations(response, weights)
    linear = linearize(field, theta, frozen.path, problem.nodes, problem.windows, problem.step)
    shared = torch.einsum("c,cij->ij", weights, linear.shared)[:-1, :-1]
    local = torch.einsum("c,cwde->wde", weights, linear.local)
    inner = local[..., :2] + torch.eye(2).double() / INITIAL_VARIANCE
    side = local[..., 2:-1]
    expected = shared - (side.mT @ torch.linalg.solve(inner, side)).sum(0)
    torch.testing.assert_close(gram, expected)


def test_hyperparameters_go_into_a_vector_and_back():
    values = hyperparameters(ENERGY, seed=2)
    again = unpack(PRIORS, pack(PRIORS, values))
    assert list(again) == list(PRIORS)
    for name, value in values.items():
        torch.testing.assert_close(again[name], value)


def gaussian_evidence(mean: Tensor, stddev: float):
    """An evidence that is Gaussian in the logarithms, read off the basis."""

    def evidence(basis: Basis) -> Tensor:
        inverse = (basis.frequencies / ENERGY.base_frequencies)[0]
        signal = basis.prior_variance[0] * ENERGY.num_features
        log = torch.cat(
            [-inverse.log(), 0.5 * torch.stack([signal, basis.prior_variance[-1]]).log()]
        )
        return -0.5 * (((log - mean) / stddev) ** 2).sum()

    return evidence


def test_the_optimiser_finds_the_conjugate_posterior():
    """Gaussian evidence times log-normal prior: mean and covariance in closed form."""
    target, stddev = pack(PRIORS, {k: p.median for k, p in PRIORS.items()}) + 0.3 * randn(4), 0.2
    start = {name: prior.median for name, prior in PRIORS.items()}
    found = optimise_hyperparameters(
        gaussian_evidence(target, stddev), ENERGY, PRIORS, start, curvature=True
    )
    centre = pack(PRIORS, start)
    spread = tensor([0.5, 0.5, 1.0, 1.0])
    precision = 1 / stddev**2 + 1 / spread**2
    mean = (target / stddev**2 + centre / spread**2) / precision
    torch.testing.assert_close(found.mean, mean, atol=2e-3, rtol=0)
    torch.testing.assert_close(found.covariance, torch.diag(1 / precision), atol=1e-6, rtol=1e-4)
    values = found.hyperparameters(found.mean)
    assert float(values["signal_scale"]) == pytest.approx(math.exp(float(mean[2])), rel=1e-3)


def test_the_prior_alone_is_returned_where_the_data_say_nothing():
    start = {name: 1.5 * prior.median for name, prior in PRIORS.items()}
    nothing = optimise_hyperparameters(
        lambda basis: 0.0 * basis.prior_variance.sum() + 0.0 * basis.frequencies.sum(),
        ENERGY,
        PRIORS,
        start,
        curvature=True,
    )
    centre = pack(PRIORS, {name: prior.median for name, prior in PRIORS.items()})
    torch.testing.assert_close(nothing.mean, centre, atol=1e-3, rtol=0)
    spread = tensor([0.5, 0.5, 1.0, 1.0])
    torch.testing.assert_close(nothing.covariance, torch.diag(spread**2), atol=1e-6, rtol=1e-4)


def test_directions_that_curve_upwards_get_the_widest_priors_width():
    """Off a maximum the Hessian may be indefinite; the covariance stays positive and bounded."""
    start = {name: prior.median for name, prior in PRIORS.items()}

    def upwards(basis: Basis) -> Tensor:
        signal = 0.5 * (basis.prior_variance[0] * ENERGY.num_features / 4.0).log()
        return 40.0 * signal.cosh() + 0.0 * basis.frequencies.sum()

    found = optimise_hyperparameters(
        upwards, ENERGY, PRIORS, start, max_evaluations=1, curvature=True
    )
    values = torch.linalg.eigvalsh(found.covariance)
    assert values.min() > 0.0 and values.max() <= 1.0 + 1e-9

"""Differentiable paths: values and gradients against the integrator, autograd and differences."""

import math

import pytest
import torch
from problems import plain_field, plain_path, randn, shooting, tensor, window_nodes

from sympgp.energies.base import Basis, GradientMap
from sympgp.fields import HamiltonianField
from sympgp.shooting import adjoint
from sympgp.shooting.adjoint import solve_paths
from sympgp.shooting.sensitivities import nominal_path

DURATIONS = [0.6, 2.7, math.inf]


def drawn(problem, estimate, num=3):
    """Draws about an estimate, each with its own parameters and states."""
    theta = estimate.theta + 0.05 * randn(num, len(estimate.theta), seed=11)
    start = estimate.start + 0.3 * randn(num, *estimate.start.shape, seed=12)
    return theta.requires_grad_(True), start.requires_grad_(True)


def paths(problem, theta, start):
    return solve_paths(problem.field, theta, start, problem.nodes, problem.windows, problem.step)


def weighted(problem, path, end):
    """A scalar that looks at every node and every end, differently."""
    first = randn(*path.shape[-3:], seed=13) * problem.nodes.mask[problem.windows.nodes]
    return (first * path.sin()).sum() + (randn(*end.shape[-2:], seed=14) * end**2).sum()


@pytest.mark.parametrize("num_dof", [1, 2])
@pytest.mark.parametrize("duration", DURATIONS)
def test_paths_are_the_nominal_ones(num_dof, duration):
    problem, estimate = shooting(num_dof, duration)
    theta, start = drawn(problem, estimate)
    path, end, alive = paths(problem, theta, start)
    bound = problem.field.bind(theta.detach())
    expected = nominal_path(bound, start.detach(), problem.nodes, problem.windows, problem.step)
    assert bool(alive.all())
    torch.testing.assert_close(path, expected[0], atol=0.0, rtol=1e-14)
    torch.testing.assert_close(end, expected[1], atol=0.0, rtol=1e-14)


@pytest.mark.parametrize(
    "num_dof, duration, friction",
    [(1, 0.6, True), (1, math.inf, False), (2, 2.7, True), (2, 0.6, False)],
)
def test_gradients_are_those_of_autograd_through_plain_loops(num_dof, duration, friction):
    """With gaps, several substeps, ragged windows, and draws that differ in everything."""
    problem, estimate = shooting(num_dof, duration, friction=friction)
    theta, start = drawn(problem, estimate, 2)
    path, end, _ = paths(problem, theta, start)
    weighted(problem, path, end).backward()
    found = theta.grad, start.grad
    theta.grad = start.grad = None
    total = 0.0
    looks = randn(*path.shape[-3:], seed=13) * problem.nodes.mask[problem.windows.nodes]
    pulls = randn(*end.shape[-2:], seed=14)
    for own, states in zip(theta, start, strict=True):
        field = plain_field(problem.field, own)
        for k in range(problem.windows.num_windows):
            states_at, last = plain_path(field, states[k], problem, k)
            count = len(window_nodes(problem, k))
            total = total + (looks[k, :count] * states_at.sin()).sum()
            total = total + (pulls[k] * last**2).sum()
    total.backward()
    torch.testing.assert_close(found[0], theta.grad, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(found[1], start.grad, rtol=1e-9, atol=1e-10)


def test_gradients_against_finite_differences():
    problem, estimate = shooting(duration=1.1)
    theta, start = drawn(problem, estimate, 2)

    def both(theta, start):
        return paths(problem, theta, start)[:2]

    assert torch.autograd.gradcheck(both, (theta, start), eps=1e-6, atol=1e-5, fast_mode=True)


def test_only_what_is_asked_for_is_differentiated():
    problem, estimate = shooting()
    theta, start = drawn(problem, estimate)
    path, end, _ = paths(problem, theta, start)
    full = torch.autograd.grad(weighted(problem, path, end), (theta, start))
    path, end, _ = paths(problem, theta.detach(), start)
    (alone,) = torch.autograd.grad(weighted(problem, path, end), start)
    torch.testing.assert_close(alone, full[1])
    path, end, _ = paths(problem, theta, start.detach())
    (alone,) = torch.autograd.grad(weighted(problem, path, end), theta)
    torch.testing.assert_close(alone, full[0])


@pytest.mark.parametrize("kept", [0, 10**9])
@pytest.mark.parametrize("block", [1, 10**9])
def test_blocks_of_any_size_give_the_same_gradients(monkeypatch, block, kept):
    problem, estimate = shooting(num_dof=2)
    theta, start = drawn(problem, estimate)

    def gradients():
        path, end, _ = paths(problem, theta, start)
        return torch.autograd.grad(weighted(problem, path, end), (theta, start))

    whole = gradients()
    monkeypatch.setattr(adjoint, "BLOCK_ELEMENTS", block)
    monkeypatch.setattr(adjoint, "SMALLEST_BLOCK", 7)
    monkeypatch.setattr(adjoint, "KEPT_ELEMENTS", kept)
    for one, other in zip(gradients(), whole, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("broken", [1e7, math.nan, 1e200])
def test_a_draw_that_diverges_leaves_the_others_alone(broken):
    problem, estimate = shooting()
    theta, start = drawn(problem, estimate)
    path, end, _ = paths(problem, theta, start)
    full = torch.autograd.grad(weighted(problem, path, end), (theta, start))
    wrong = theta.detach().clone()
    wrong[1] = broken
    wrong.requires_grad_(True)
    path, end, alive = paths(problem, wrong, start)
    assert alive.tolist() == [True, False, True]
    assert not path[1].any() and not end[1].any()
    found = torch.autograd.grad(weighted(problem, path, end), (wrong, start))
    for one, other in zip(found, full, strict=True):
        torch.testing.assert_close(one[[0, 2]], other[[0, 2]])
        assert not one[1].any()


class QuarticMap(GradientMap):
    """``K (w_0 z + w_1 z^3)``, written without any thought of derivatives."""

    def __init__(self, w, matrix):
        self.w, self.matrix = w, matrix

    def __call__(self, z):
        w = self.w.unsqueeze(-2) if z.dim() > self.w.dim() else self.w
        slope = w[..., :1] * z + w[..., 1:] * z**3
        return slope @ self.matrix.mT

    def transformed(self, matrix):
        return QuarticMap(self.w, matrix @ self.matrix)

    def first(self):
        return QuarticMap(self.w[:1], self.matrix[:1])


class QuarticBasis(Basis):
    """``H = sum_i w_0 z_i^2 / 2 + w_1 z_i^4 / 4``."""

    num_weights = 2

    def __init__(self):
        self.prior_variance = tensor([1.0, 2.0])

    def features(self, z, w=None):
        return torch.stack([0.5 * (z**2).sum(-1), 0.25 * (z**4).sum(-1)], -1)

    def feature_gradient(self, z, w=None):
        return torch.stack([z, z**3], -1)

    def gradient_map(self, w):
        return QuarticMap(w, torch.eye(2, dtype=w.dtype))

    def hessian(self, z, w):
        return torch.diag_embed(w[0] + 3.0 * w[1] * z**2)


def test_any_basis_will_do():
    """The backward pass knows of a field only how it is evaluated and its state Jacobian."""
    problem, estimate = shooting()
    field = HamiltonianField(QuarticBasis(), problem.field.dissipation)
    assert field.num_parameters == 3
    theta = (tensor([[1.0, 0.3, 0.1], [0.7, 0.1, 0.4]])).requires_grad_(True)
    start = (0.5 * randn(2, *estimate.start.shape, seed=5)).requires_grad_(True)

    def both(theta, start):
        return solve_paths(field, theta, start, problem.nodes, problem.windows, problem.step)[:2]

    assert torch.autograd.gradcheck(both, (theta, start), eps=1e-6, atol=1e-5, fast_mode=True)

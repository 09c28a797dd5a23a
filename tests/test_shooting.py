"""Paths through the ODE: their sensitivities, Gram matrices, objective and normal equations."""

import math

import pytest
import torch
from problems import (
    NAN,
    dense_gauss_newton,
    dense_jacobian,
    identity_scaling,
    jumps,
    observed,
    plain_field,
    plain_path,
    ragged_data,
    random_field,
    shooting,
    tensor,
    unknowns,
    window_nodes,
)

from sympgp.integrators import RK4
from sympgp.shooting import linearization as library
from sympgp.shooting.layout import Nodes, Windows
from sympgp.shooting.linearization import linearize
from sympgp.shooting.sensitivities import INITIAL_VARIANCE, nominal_path
from sympgp.trajectories import Trajectories

DURATIONS = [0.6, 2.7, math.inf]


@pytest.mark.parametrize("duration", DURATIONS)
def test_nominal_paths_are_those_of_the_integrator(duration):
    problem, estimate = shooting(duration=duration)
    path, end, _ = problem.evaluate(estimate)
    bound = problem.field.bind(estimate.theta)
    integrator = RK4(problem.step)
    for k in range(problem.windows.num_windows):
        index = window_nodes(problem, k)
        times = problem.nodes.times[index].tolist()
        times.append(times[-1] + float(problem.nodes.dt[index[-1]]))
        if times[-1] == times[-2]:
            del times[-1]
        states = integrator.solve(bound, estimate.start[k : k + 1], times)[0]
        torch.testing.assert_close(path[k, : len(index)], states[: len(index)])
        torch.testing.assert_close(end[k], states[-1])


@pytest.mark.parametrize("num_dof", [1, 2])
@pytest.mark.parametrize("duration", DURATIONS)
def test_gram_matrices_are_those_of_the_dense_jacobian(num_dof, duration):
    """With gaps, ragged lengths, missing entries and several windows."""
    problem, estimate = shooting(num_dof, duration)
    path, _, _ = problem.evaluate(estimate)
    linear = linearize(
        problem.field, estimate.theta, path, problem.nodes, problem.windows, problem.step
    )
    jacobian = dense_jacobian(problem, estimate)
    predicted, values, channels = observed(problem, unknowns(estimate))
    num, dim = problem.field.num_parameters, 2 * num_dof
    for channel in range(dim):
        rows = channels == channel
        wide = torch.cat([jacobian[rows, :num], (predicted - values)[rows, None]], 1)
        torch.testing.assert_close(linear.shared[channel], wide.mT @ wide)
        for k in range(problem.windows.num_windows):
            own = jacobian[rows, num + k * dim : num + (k + 1) * dim]
            expected = own.mT @ torch.cat([own, wide], 1)
            torch.testing.assert_close(linear.local[channel, k], expected)


@pytest.mark.parametrize("duration", DURATIONS)
def test_each_observation_enters_the_gram_matrices_once(duration):
    """States at rest repeat their start: the start's Gram entries count the observations."""
    problem, estimate = shooting(duration=duration)
    theta = torch.zeros_like(estimate.theta)
    path = estimate.start[:, None].expand(-1, problem.windows.nodes.shape[1], -1)
    linear = linearize(problem.field, theta, path, problem.nodes, problem.windows, problem.step)
    counted = linear.local[..., :2].diagonal(dim1=-2, dim2=-1).sum((0, 1))
    torch.testing.assert_close(counted, problem.nodes.counts)
    assert int(counted.sum()) == ragged_data().num_observations


def test_end_derivatives_against_finite_differences():
    problem, estimate = shooting(num_dof=2)
    path, _, _ = problem.evaluate(estimate)
    nodes, windows, step = problem.nodes, problem.windows, problem.step
    linear = linearize(problem.field, estimate.theta, path, nodes, windows, step)

    def ends(theta, start):
        return nominal_path(problem.field.bind(theta), start, nodes, windows, step)[1]

    h, theta, start = 1e-5, estimate.theta, estimate.start
    columns = []
    for shift in h * torch.eye(4).double():
        columns.append((ends(theta, start + shift) - ends(theta, start - shift)) / (2 * h))
    for shift in h * torch.eye(len(theta)).double():
        columns.append((ends(theta + shift, start) - ends(theta - shift, start)) / (2 * h))
    torch.testing.assert_close(linear.end, torch.stack(columns, -1), atol=1e-7, rtol=1e-6)


def test_end_derivatives_against_autograd():
    problem, estimate = shooting()
    path, _, _ = problem.evaluate(estimate)
    linear = linearize(
        problem.field, estimate.theta, path, problem.nodes, problem.windows, problem.step
    )
    for k in range(problem.windows.num_windows):

        def end(start, theta, window=k):
            return plain_path(plain_field(problem.field, theta), start, problem, window)[1]

        by_start, by_theta = torch.func.jacrev(end, (0, 1))(estimate.start[k], estimate.theta)
        torch.testing.assert_close(linear.end[k], torch.cat([by_start, by_theta], -1))


@pytest.mark.parametrize("chunk", [1, 2_000, 20_000])
def test_blocks_of_any_size_give_the_same_gram_matrices(monkeypatch, chunk):
    problem, estimate = shooting(num_dof=2)
    path, _, _ = problem.evaluate(estimate)
    arguments = (problem.field, estimate.theta, path, problem.nodes, problem.windows, problem.step)
    whole = linearize(*arguments)
    monkeypatch.setattr(library, "CACHED_ELEMENTS", chunk)
    calls, plain = [], library.interval_derivatives
    monkeypatch.setattr(
        library, "interval_derivatives", lambda *a: calls.append(a[2].shape[0]) or plain(*a)
    )
    parts = linearize(*arguments)
    assert len(calls) > 1
    for name in ("shared", "local", "end"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))


def test_a_missing_entry_drops_only_itself():
    """The Gram matrices without an entry are those of all entries less its own row."""
    data = ragged_data()
    fewer = [x.clone() for x in data.states]
    fewer[0][4, 1] = NAN
    field, theta = random_field()
    linear = []
    for states in (data.states, fewer):
        nodes = Nodes.from_data(Trajectories(list(data.times), list(states)), identity_scaling())
        windows = Windows.of_duration(nodes, math.inf)
        start = tensor([[0.5, 0.1]]).expand(3, 2)
        path, _ = nominal_path(field.bind(theta), start, nodes, windows, 0.1)
        linear.append(linearize(field, theta, path, nodes, windows, 0.1))
    full, less = linear
    assert torch.equal(full.shared[0], less.shared[0])
    assert torch.equal(full.local[0], less.local[0])
    assert torch.equal(full.end, less.end)
    difference = full.shared[1] - less.shared[1]
    values = torch.linalg.eigvalsh(difference)
    assert values[-1] > 1e-3 and values[:-1].abs().max() < 1e-12 * values[-1]
    assert torch.equal(full.local[1, 1:], less.local[1, 1:])


@pytest.mark.parametrize("duration", DURATIONS)
def test_normal_equations_are_those_of_the_whole_objective(duration):
    """Precision and gradient of the parameters from the dense Gauss-Newton matrix and gradient."""
    problem, estimate = shooting(duration=duration)
    path, end, _ = problem.evaluate(estimate)
    linear = linearize(
        problem.field, estimate.theta, path, problem.nodes, problem.windows, problem.step
    )
    chain = problem.eliminate(linear, estimate, end)
    precision, gradient = problem.normal_equations(linear, estimate, chain)
    Q, g = dense_gauss_newton(problem, estimate)
    num = problem.field.num_parameters
    lever = torch.linalg.solve(Q[num:, num:], torch.cat([Q[num:, :num], g[num:, None]], 1))
    torch.testing.assert_close(precision, Q[:num, :num] - Q[:num, num:] @ lever[:, :-1])
    torch.testing.assert_close(gradient, g[:num] - Q[:num, num:] @ lever[:, -1])


@pytest.mark.parametrize("duration", DURATIONS)
def test_the_objective_and_its_gradient(duration):
    """The objective's own gradient by autograd is the one the normal equations are made of."""
    problem, estimate = shooting(duration=duration)

    def objective(vector):
        num, dim = problem.field.num_parameters, estimate.start.shape[1]
        predicted, values, channels = observed(problem, vector)
        squares = (estimate.precision[channels] * (predicted - values) ** 2).sum()
        squares = squares + (problem.field.prior_precision() * vector[:num] ** 2).sum()
        start = vector[num:].reshape(-1, dim)[problem.windows.chain[:, 0]]
        squares = squares + (start**2).sum() / INITIAL_VARIANCE
        return 0.5 * (squares + (jumps(problem, vector) ** 2).sum() / estimate.defect_std**2)

    vector = unknowns(estimate)
    _, _, value = problem.evaluate(estimate)
    torch.testing.assert_close(value, objective(vector))
    _, gradient = dense_gauss_newton(problem, estimate)
    torch.testing.assert_close(torch.func.grad(objective)(vector), gradient)

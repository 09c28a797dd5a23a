"""Elimination of window states along trajectories against one dense elimination."""

import math
from dataclasses import replace

import pytest
import torch
from problems import randn, shooting, tensor

from sympgp.posterior import WindowStates
from sympgp.shooting.elimination import eliminate
from sympgp.shooting.layout import Windows
from sympgp.shooting.linearization import linearize


def windows_of_lengths(lengths: list[int]) -> Windows:
    """Chains of so many windows each."""
    total, longest = sum(lengths), max(lengths)
    chain = torch.full((len(lengths), longest), -1)
    begin = 0
    for row, length in enumerate(lengths):
        chain[row, :length] = torch.arange(begin, begin + length)
        begin += length
    start = torch.arange(total)
    return Windows(start, start.unsqueeze(-1), chain)


LENGTHS = [[1], [1, 1, 1], [4], [3, 1, 5, 2]]


@pytest.fixture(params=LENGTHS, ids=str)
def quadratic(request):
    """A quadratic problem in window states and parameters, and its dense form."""
    lengths, dim, params, variance = request.param, 2, 3, 4.0
    windows = windows_of_lengths(lengths)
    count = windows.num_windows
    root = randn(count, dim, dim)
    blocks = {
        "hessian": root @ root.mT,
        "border": randn(count, dim, params, seed=1),
        "gradient": randn(count, dim, seed=2),
        "end": randn(count, dim, dim + params, seed=3),
        "jump": randn(count, dim, seed=4),
        "defect_variance": tensor([0.3, 0.05]),
        "prior_mean": randn(len(lengths), dim, seed=5),
        "prior_variance": variance,
    }
    size = count * dim + params
    Q, g = torch.zeros(size, size).double(), torch.zeros(size).double()

    def part(k: int) -> slice:
        return slice(k * dim, (k + 1) * dim)

    theta = slice(count * dim, size)
    for k in range(count):
        Q[part(k), part(k)] += blocks["hessian"][k]
        Q[part(k), theta] += blocks["border"][k]
        Q[theta, part(k)] += blocks["border"][k].mT
        g[part(k)] += blocks["gradient"][k]
    for row in windows.chain.tolist():
        row = [k for k in row if k >= 0]
        mean = blocks["prior_mean"][windows.chain[:, 0].tolist().index(row[0])]
        Q[part(row[0]), part(row[0])] += torch.eye(dim) / variance
        g[part(row[0])] -= mean / variance
        for here, ahead in zip(row[:-1], row[1:], strict=True):
            rows = torch.zeros(dim, size).double()
            rows[:, part(here)], rows[:, theta] = blocks["end"][here].split([dim, params], 1)
            rows[:, part(ahead)] -= torch.eye(dim)
            weighted = rows.mT / blocks["defect_variance"]
            Q += weighted @ rows
            g += weighted @ blocks["jump"][here]
    return windows, blocks, Q, g, params


def test_elimination_equals_one_dense_elimination(quadratic):
    windows, blocks, Q, g, params = quadratic
    chain = eliminate(windows, **blocks)
    states = Q[:-params, :-params]
    lever = torch.linalg.solve(states, torch.cat([Q[:-params, -params:], g[:-params, None]], 1))
    shared = Q[-params:, -params:] - Q[-params:, :-params] @ lever[:, :-1]
    gradient = g[-params:] - Q[-params:, :-params] @ lever[:, -1]
    # The parameters' own terms from the defects are part of what is eliminated.
    torch.testing.assert_close(chain.shared, shared)
    torch.testing.assert_close(chain.gradient, gradient)


def test_smoothed_states_are_the_dense_conditionals(quadratic):
    windows, blocks, Q, g, params = quadratic
    mean, slope, cov = eliminate(windows, **blocks).smooth(windows)
    inverse = torch.linalg.inv(Q[:-params, :-params])
    torch.testing.assert_close(mean.reshape(-1), -inverse @ g[:-params])
    torch.testing.assert_close(slope.reshape(-1, params), -inverse @ Q[:-params, -params:])
    for k in range(windows.num_windows):
        block = inverse[2 * k : 2 * k + 2, 2 * k : 2 * k + 2]
        torch.testing.assert_close(cov[k], block)


def test_log_determinant_is_that_of_the_dense_states(quadratic):
    """``log |Q_zz|`` relative to the priors of the first states and the jumps."""
    windows, blocks, Q, _, params = quadratic
    chain = eliminate(windows, **blocks)
    first = len(windows.chain)
    prior = 2 * first * math.log(blocks["prior_variance"])
    prior += (windows.num_windows - first) * float(blocks["defect_variance"].log().sum())
    expected = torch.linalg.slogdet(Q[:-params, :-params]).logabsdet + prior
    torch.testing.assert_close(chain.logdet, expected)


def window_states(quadratic) -> WindowStates:
    windows, blocks, *_ = quadratic
    chain = eliminate(windows, **blocks)
    return WindowStates(
        chain=windows.chain,
        times=windows.start.double(),
        last=windows.chain[:, 0].double(),
        mean=chain.mean,
        slope=chain.slope,
        gain=chain.gain,
        cov=chain.cov,
        ahead_mean=chain.ahead_mean,
        ahead_slope=chain.ahead_slope,
        jump_std=0.1,
        spacing=1.0,
    )


def test_sampled_window_states_have_the_dense_distribution(quadratic):
    """Exactly: a draw is affine in its white noise and in the parameters."""
    windows, _, Q, g, params = quadratic
    states = window_states(quadratic)
    inverse = torch.linalg.inv(Q[:-params, :-params])
    mean, slope = -inverse @ g[:-params], -inverse @ Q[:-params, -params:]
    size = windows.num_windows * 2
    still = torch.zeros(1, params).double()
    quiet = torch.zeros(1, windows.num_windows, 2).double()
    centre = states.sample(still, quiet).reshape(-1)
    torch.testing.assert_close(centre, mean)
    white = torch.eye(size).double().reshape(size, -1, 2)
    root = states.sample(still.expand(size, -1), white).reshape(size, -1) - centre
    torch.testing.assert_close(root.mT @ root, inverse)
    moved = states.sample(torch.eye(params).double(), quiet.expand(params, -1, -1))
    torch.testing.assert_close((moved.reshape(params, -1) - centre).mT, slope)


def test_the_smoothed_start_is_the_dense_one(quadratic):
    windows, _, Q, g, params = quadratic
    states = window_states(quadratic)
    inverse = torch.linalg.inv(Q[:-params, :-params])
    for trajectory, first in enumerate(windows.chain[:, 0].tolist()):
        rows = slice(2 * first, 2 * first + 2)
        mean, slope, cov = states.smoothed_start(trajectory)
        torch.testing.assert_close(mean, -(inverse @ g[:-params])[rows])
        torch.testing.assert_close(slope, -(inverse @ Q[:-params, -params:])[rows])
        torch.testing.assert_close(cov, inverse[rows, rows])


def test_vanishing_jumps_join_the_windows():
    """Windows along one path, tied by jumps of almost zero size, know what one window knows."""
    whole, estimate = shooting(duration=math.inf)
    path, end, _ = whole.evaluate(estimate)
    linear = linearize(whole.field, estimate.theta, path, whole.nodes, whole.windows, whole.step)
    chain = whole.eliminate(linear, estimate, end)
    precision, gradient = whole.normal_equations(linear, estimate, chain)

    windows = Windows.of_duration(whole.nodes, 1.1)
    problem = replace(whole, windows=windows)
    states = torch.zeros_like(whole.nodes.values)
    states[whole.windows.nodes.reshape(-1)] = path.flatten(0, 1)
    parts = replace(estimate, start=states[windows.start], defect_std=1e-9)
    path, end, _ = problem.evaluate(parts)
    linear = linearize(problem.field, parts.theta, path, problem.nodes, windows, problem.step)
    tied = problem.eliminate(linear, parts, end)
    tied_precision, tied_gradient = problem.normal_equations(linear, parts, tied)
    assert windows.num_windows > 2 * whole.windows.num_windows
    torch.testing.assert_close(tied_precision, precision, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(tied_gradient, gradient, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(tied.logdet - chain.logdet, tensor(0.0), atol=1e-6, rtol=0)


def test_paths_that_depend_strongly_on_their_starts_leave_the_parameters_known():
    """Against orthogonal transformations of all rows, where the normal equations lose all digits.

    Neighbouring windows follow unstable paths: all that they do grows by 1e6 along one direction.
    """
    dim, params, rows, growth, std, variance = 2, 3, 6, 1e6, 0.3, 25.0
    windows = windows_of_lengths([3])
    outward, along = randn(3, rows, 1, seed=1), randn(3, 1, dim + params, seed=2)
    data = randn(3, rows, dim + params, seed=3) + growth * outward * along
    stretched = randn(3, dim, 1, seed=4)
    end = randn(3, dim, dim + params, seed=5) + growth * stretched * along
    gram = data.mT @ data
    chain = eliminate(
        windows,
        gram[:, :dim, :dim],
        gram[:, :dim, dim:],
        torch.zeros(3, dim).double(),
        end,
        torch.zeros(3, dim).double(),
        tensor([std**2] * dim),
        torch.zeros(1, dim).double(),
        variance,
    )
    found = gram[:, dim:, dim:].sum(0) + chain.shared
    # [z_1, z_2, z_3, theta]: what the data, the prior of z_1 and the jumps say.
    every = torch.zeros(3 * rows + 3 * dim, 3 * dim + params).double()
    for k in range(3):
        own = slice(k * rows, (k + 1) * rows)
        every[own, k * dim : (k + 1) * dim], every[own, 3 * dim :] = data[k].split([dim, params], 1)
    every[3 * rows : 3 * rows + dim, :dim] = torch.eye(dim) / variance**0.5
    for k in range(2):
        own = slice(3 * rows + (k + 1) * dim, 3 * rows + (k + 2) * dim)
        phi, push = end[k].split([dim, params], 1)
        every[own, k * dim : (k + 1) * dim], every[own, 3 * dim :] = phi / std, push / std
        every[own, (k + 1) * dim : (k + 2) * dim] = -torch.eye(dim).double() / std
    root = torch.linalg.qr(every).R[3 * dim :, 3 * dim :]
    rounding = torch.finfo(torch.float64).eps * float(gram.abs().max())
    assert (found - root.mT @ root).abs().max() < 100 * rounding
    assert torch.linalg.eigvalsh(found).min() > 0.1

"""The search under Student's t, its stopping rules, merged stages, and fields that are fixed."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import (
    NAN,
    canonical,
    dense_jacobian,
    gaussian,
    identity_scaling,
    observed,
    plain_field,
    plain_path,
    randn,
    random_field,
    shooting,
    tensor,
    unknowns,
)
from torch import Tensor

from sympgp import DiagonalFriction, Trajectories
from sympgp.energies import fourier_gradient
from sympgp.fields import FixedField, HamiltonianField
from sympgp.inference.discrepancy import DefectPosterior
from sympgp.noise import RATE, SHAPE, log_density
from sympgp.shooting import linearization
from sympgp.shooting.layout import Nodes, Windows
from sympgp.shooting.levenberg_marquardt import (
    STAGNATION,
    Point,
    Solution,
    _stagnates,
    levenberg_marquardt,
)
from sympgp.shooting.linearization import linearize
from sympgp.shooting.noise_levels import accelerated
from sympgp.shooting.problem import Estimate, Problem
from sympgp.shooting.sensitivities import INITIAL_VARIANCE, freeze

DURATIONS = [1.1, math.inf]
SEARCH = "sympgp.shooting.levenberg_marquardt"
NOISE = tensor([0.1, 0.12])


def solvable(
    duration: float, dof: float | None, outliers: float = 0.0, known: bool = True
) -> tuple[Problem, Estimate]:
    """Data of the field with noise, some of them far off, and a start some way off."""
    problem, truth = shooting(duration=math.inf)
    path, _, _ = problem.evaluate(truth)
    values = torch.zeros_like(problem.nodes.values)
    values[problem.windows.nodes.reshape(-1)] = path.flatten(0, 1)
    windows = Windows.of_duration(problem.nodes, duration)
    start = values[windows.start] + 0.05
    values = values + NOISE * randn(*values.shape, seed=8)
    values[3::7, 0] += outliers
    values[5::9, 1] -= outliers
    nodes = replace(problem.nodes, values=values * problem.nodes.mask)
    law = replace(gaussian(2, NOISE if known else None), dof=dof)
    estimate = Estimate(0.9 * truth.theta, start, NOISE, 0.05, torch.ones(2).double())
    return replace(problem, nodes=nodes, windows=windows, noise=law), estimate


def search(problem: Problem, estimate: Estimate, **settings) -> Solution:
    return levenberg_marquardt(
        problem, estimate, **{"max_iterations": 200, "tolerance": 1e-8, **settings}
    )


def true_objective(problem: Problem, estimate: Estimate, vector: Tensor) -> Tensor:
    """Negative log posterior with the law of the noise itself, jumps and priors included."""
    num, dim = problem.field.num_parameters, estimate.start.shape[1]
    predicted, values, channels = observed(problem, vector)
    scale = estimate.noise_std[channels]
    value = -log_density(predicted - values, scale, problem.noise.dof).sum()
    value = value + 0.5 * (problem.field.prior_precision() * vector[:num] ** 2).sum()
    start = vector[num:].reshape(-1, dim)
    value = value + 0.5 * (start[problem.windows.chain[:, 0]] ** 2).sum() / INITIAL_VARIANCE
    here, ahead = problem.following()
    field = plain_field(problem.field, vector[:num])
    for k, following in zip(here.tolist(), ahead.tolist(), strict=True):
        jump = plain_path(field, start[k], problem, k)[1] - start[following]
        value = value + 0.5 * (jump**2).sum() / estimate.defect_std**2
    return value


# Student's t


@pytest.fixture
def patient(monkeypatch):
    """Searches that end by their tolerance alone."""
    monkeypatch.setattr(f"{SEARCH}._stagnates", lambda totals, tolerance: False)


@pytest.mark.parametrize(("duration", "dof"), [(1.1, 4.0), (math.inf, 1.5)])
def test_reweighted_searches_end_where_the_true_density_is_stationary(duration, dof, patient):
    """Slopes of ``-log t`` at the start and at the end, by derivatives of the whole."""
    problem, estimate = solvable(duration, dof, outliers=1.5)
    solution = search(problem, estimate)

    def slope(point: Estimate) -> float:
        function = torch.func.grad(lambda v: true_objective(problem, point, v))
        return float(function(unknowns(point)).norm())

    assert solution.converged
    assert slope(solution.estimate) < 1e-4 * slope(estimate)


@pytest.mark.parametrize("duration", DURATIONS)
def test_searches_do_not_stagnate_while_the_density_grows(duration):
    """Weights that change make sums of weighted squares incomparable."""
    assert search(*solvable(duration, 1.5, outliers=1.5)).converged


def test_the_true_objective_falls_with_every_step(monkeypatch, patient):
    """Though a step sees only weighted squares."""
    problem, estimate = solvable(math.inf, 2.0, outliers=1.5)
    visited, reweighted = [], Problem.reweighted

    def recorded(self, point, path):
        visited.append(float(true_objective(problem, point, unknowns(point))))
        return reweighted(self, point, path)

    monkeypatch.setattr(Problem, "reweighted", recorded)
    search(problem, estimate, tolerance=1e-3)
    assert len(visited) > 4
    assert all(b <= a + 1e-9 for a, b in zip(visited, visited[1:], strict=False))


def test_weights_are_those_of_the_residuals_and_none_where_nothing_is_seen():
    problem, estimate = solvable(1.1, 3.0, outliers=2.0)
    path, _, _ = problem.evaluate(estimate)
    weights = problem.reweighted(estimate, path).nodes.weights
    assert bool((weights[~problem.nodes.mask] == 0.0).all())
    predicted, values, _ = observed(problem, unknowns(estimate))
    own, index = [], problem.windows.nodes
    for window in range(problem.windows.num_windows):
        rows = index[window][index[window] < problem.nodes.first[-1]]
        own.append(weights[rows][problem.nodes.mask[rows]])
    _, _, channels = observed(problem, unknowns(estimate))
    expected = 4.0 / (3.0 + ((predicted - values) / NOISE[channels]) ** 2)
    torch.testing.assert_close(torch.cat(own), expected)


def test_gaussian_problems_are_not_reweighted():
    problem, estimate = solvable(1.1, None)
    path, _, _ = problem.evaluate(estimate)
    assert problem.reweighted(estimate, path) is problem


@pytest.mark.slow
@pytest.mark.parametrize(("dof", "least", "most"), [(3.0, 0.0, 0.05), (None, 1.0, math.inf)])
def test_a_gross_outlier_is_as_good_as_left_out(dof, least, most, patient):
    """Parameters with it and without it, in posterior deviations; a Gaussian follows it."""
    problem, estimate = solvable(math.inf, dof)
    values, mask = problem.nodes.values.clone(), problem.nodes.mask.clone()
    values[6, 0] += 6.0
    mask[6, 0] = False
    wrong = replace(problem.nodes, values=values)
    without = replace(problem.nodes, mask=mask, weights=mask.double())
    clean = search(replace(problem, nodes=without), estimate)
    found = search(replace(problem, nodes=wrong), clean.estimate, max_iterations=40).estimate
    deviation = torch.linalg.inv(clean.precision).diagonal().sqrt()
    moved = ((found.theta - clean.estimate.theta) / deviation).abs().max()
    assert least <= float(moved) <= most


@pytest.mark.parametrize("dof", [None, 3.0])
def test_known_levels_are_kept_beside_those_to_be_found(dof):
    problem, estimate = solvable(math.inf, dof)
    law = replace(problem.noise, known=tensor([0.1, NAN]))
    problem = replace(problem, noise=law)
    solution = search(problem, replace(estimate, noise_std=tensor([0.1, 0.3])), tolerance=1e-4)
    assert float(solution.estimate.noise_std[0]) == 0.1
    assert 0.05 < float(solution.estimate.noise_std[1]) < 0.2


@pytest.mark.parametrize("dof", [None, 4.0])
def test_tied_levels_stay_tied_in_user_units(dof):
    problem, estimate = solvable(math.inf, dof, known=False)
    law = replace(problem.noise, group=torch.tensor([0, 0]), unit=tensor([2.0, 3.0]))
    solution = search(replace(problem, noise=law), estimate, tolerance=1e-4)
    user = solution.estimate.noise_std * law.unit
    assert float(user[0]) == pytest.approx(float(user[1]), rel=1e-9)
    area = law.unit**2
    total = (area * solution.squares).sum() + RATE * area.sum()
    spare = (problem.nodes.counts - solution.degrees).sum() + 2 * SHAPE + 2
    assert float(user[0] ** 2) == pytest.approx(float(total / spare), rel=5e-3)


def test_the_scale_of_heavy_tails_is_at_its_fixed_point():
    """Weighted squares over the spare observations, weights at the solution itself."""
    problem, estimate = solvable(math.inf, 2.0, outliers=1.5, known=False)
    solution = search(problem, estimate, tolerance=1e-3)
    assert solution.converged
    predicted, values, channels = observed(problem, unknowns(solution.estimate))
    noise = solution.estimate.noise_std
    residual = predicted - values
    weights = 3.0 / (2.0 + (residual / noise[channels]) ** 2)
    squares = torch.stack([(weights * residual**2)[channels == c].sum() for c in range(2)])
    spare = problem.nodes.counts - solution.degrees + 2 * SHAPE + 2
    torch.testing.assert_close(noise, ((squares + 2 * RATE) / spare).sqrt(), rtol=0.01, atol=0)


# when a search ends


@given(st.floats(0.01, 0.8), st.floats(1e-4, 0.09), st.sampled_from([-1.0, 1.0]))
def test_a_geometric_series_is_summed(ratio, size, sign):
    before = sign * size * tensor([1.0])
    rest = accelerated(ratio * before, before)
    assert float(rest) == pytest.approx(float(sum(before * ratio**k for k in range(1, 400))))


def test_large_and_growing_changes_are_left_alone():
    """And a first one that was zero; what is left of a slow series is taken at most fivefold."""
    change, before = tensor([0.02, 0.2, 0.02, 0.0, 0.0]), tensor([0.01, 0.4, 0.0, 0.0, 0.1])
    assert torch.equal(accelerated(change, before), change)
    slow = accelerated(tensor([0.0099]), tensor([0.01]))
    assert float(slow) == pytest.approx(5 * 0.0099)


def from_afar(tolerance: float) -> Solution:
    """A search from noise that is far too large in one channel and too small in the other."""
    problem, estimate = solvable(math.inf, None, known=False)
    estimate = replace(estimate, noise_std=tensor([0.4, 0.03]))
    return search(problem, estimate, tolerance=tolerance)


def test_acceleration_does_not_change_the_fixed_point(monkeypatch):
    own = from_afar(1e-4)
    monkeypatch.setattr(f"{SEARCH}.accelerated", lambda change, before: change)
    plain = from_afar(1e-6)
    assert own.converged and plain.converged
    torch.testing.assert_close(own.estimate.noise_std, plain.estimate.noise_std, rtol=0.01, atol=0)


def test_accelerated_searches_settle():
    assert from_afar(1e-6).converged


def test_searches_that_fall_by_little_in_many_steps_stagnate():
    slow = [10.0 - 1e-3 * k for k in range(40)]
    assert _stagnates(slow, 0.01) and not _stagnates(slow, 1e-4)
    assert not _stagnates(slow[:STAGNATION], 0.01)
    assert _stagnates(slow[: STAGNATION + 1], 0.01)


def test_one_good_step_among_the_last_is_progress():
    """Values that go up and down are judged by the best of them."""
    flat = [5.0, 5.2] * STAGNATION
    assert _stagnates(flat, 0.01)
    assert not _stagnates([*flat, 4.0, 5.1], 0.01)
    assert _stagnates([*flat, 4.0, *flat], 0.01)


# jumps that may hardly be at all


def jumps(problem: Problem, estimate: Estimate) -> Tensor:
    _, end, _ = problem.evaluate(estimate)
    here, ahead = problem.following()
    return end[here] - estimate.start[ahead]


def test_corrected_window_states_leave_jumps_of_third_order():
    """Beyond those of the linear model; without the correction they are of second order."""
    problem, estimate = solvable(1.1, None)
    estimate = replace(estimate, defect_std=1e-7)
    path, end, _ = problem.evaluate(estimate)
    nodes, windows = problem.nodes, problem.windows
    linear = linearize(problem.field, estimate.theta, path, nodes, windows, problem.step)
    here, ahead = problem.following()
    plain, corrected = [], []
    for size in (0.08, 0.04, 0.02):
        step, moved = size * randn(len(estimate.theta), seed=4), size * randn(*end.shape, seed=5)
        new = replace(estimate, theta=estimate.theta + step, start=estimate.start + moved)
        rest = problem.beyond(linear, step, moved, end, problem.evaluate(new)[1])
        turned = linear.end[here] @ torch.cat([moved[here], step.expand(len(here), -1)], -1).mT
        turned = turned.diagonal(dim1=0, dim2=2).mT
        expected = jumps(problem, estimate) + turned - moved[ahead]
        torch.testing.assert_close(jumps(problem, new) - expected, rest[here])
        new = replace(new, start=new.start + problem.closing(linear, estimate, rest))
        plain.append(float(rest.norm()))
        corrected.append(float((jumps(problem, new) - expected).norm()))
    for errors, order in ((plain, 2.0), (corrected, 3.0)):
        slopes = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
        assert min(slopes) > order - 0.3


@pytest.mark.parametrize("share", [1.0, 0.8])
def test_narrow_jumps_do_not_slow_the_search(share):
    """With friction that is not linear in its parameters, from a path without jumps."""
    family = DiagonalFriction(positions=True).scaled(canonical(1))
    field, theta = random_field()
    field = HamiltonianField(field.basis, family)
    theta = torch.cat([theta[:-1], tensor([-0.5, -0.5])])
    times = [torch.arange(0.0, 24.0, 0.4, dtype=torch.float64)] * 2
    data = Trajectories(times, [torch.zeros(len(t), 2, dtype=torch.float64) for t in times])
    nodes = Nodes.from_data(data, identity_scaling(1))
    windows = Windows.of_duration(nodes, math.inf)
    truth = Estimate(theta, tensor([[1.5, 0.0], [-0.3, 1.2]]), NOISE, 0.0, torch.ones(2).double())
    problem = Problem(nodes, windows, field, gaussian(2, NOISE), 0.2)
    states = torch.zeros_like(nodes.values)
    states[windows.nodes.reshape(-1)] = problem.evaluate(truth)[0].flatten(0, 1)
    values = states + NOISE * randn(*states.shape, seed=8) * nodes.mask
    windows = Windows.of_duration(nodes, 3.0)
    problem = replace(problem, nodes=replace(nodes, values=values), windows=windows)
    counts, heights = [], []
    for defect in (1e-3, 1e-4, 1e-5):
        start = replace(truth, theta=share * theta, start=states[windows.start], defect_std=defect)
        found = search(problem, start, tolerance=1e-3)
        assert found.converged
        counts.append(found.iterations)
        heights.append(found.objective)
    assert max(counts) <= 20
    assert heights[1] - heights[0] < 0.1 and heights[2] - heights[1] < 1e-2


# merged stages


def frozen_path(step: float, num: int = 6):
    """Intervals of 0.6 time units, from several states."""
    field, theta = random_field()
    start = 0.8 * randn(num, 2, seed=2)
    return freeze(field, theta, start, tensor([0.6] * num), step)


def smooth_function(z: Tensor) -> Tensor:
    """Three columns (..., D, 3) of a smooth function of the state."""
    q, p = z[..., :1], z[..., 1:]
    rows = [torch.cat([q.sin(), p * q], -1), torch.cat([(q + p).cos(), p**2], -1)]
    return torch.stack([*rows, (rows[0] * rows[1])], -1)


def test_merged_stages_are_half_as_many_and_their_weights_add_up():
    frozen = frozen_path(0.2)
    merged = frozen.merged()
    assert frozen.stages.shape[1] == 12 and merged.stages.shape[1] == 7
    assert torch.equal(merged.transition, frozen.transition)
    torch.testing.assert_close(merged.weights.sum(2), frozen.weights.sum(2))
    constant = randn(2, 4).expand(6, 1, 2, 4)
    torch.testing.assert_close(
        merged.response(constant.expand(-1, 7, -1, -1)),
        frozen.response(constant.expand(-1, 12, -1, -1)),
    )


def test_merged_stages_lie_on_the_path():
    """They go by in the order edges, then middles; each within the step of its own solution."""
    errors = []
    for step in (0.2, 0.1, 0.05):
        merged, fine = frozen_path(step).merged(), frozen_path(0.6 / 96)
        count = round(0.6 / step)
        exact = torch.cat([fine.stages[:, ::4], fine.stages[:, -1:]], 1)
        edges, middles = exact[:, :: 96 // count], exact[:, 48 // count :: 96 // count]
        found = torch.cat([edges[:, : count + 1], middles], 1)
        errors.append(float((merged.stages - found).abs().max()))
    assert errors[0] < 5e-3
    assert errors[0] / errors[1] > 3.0 and errors[1] / errors[2] > 3.0


def test_responses_of_merged_stages_differ_by_the_square_of_the_step():
    errors = []
    for step in (0.3, 0.15, 0.075, 0.0375):
        frozen = frozen_path(step)
        merged = frozen.merged()
        full = frozen.response(smooth_function(frozen.stages))
        half = merged.response(smooth_function(merged.stages))
        errors.append(float((half - full).norm() / full.norm()))
    assert errors[0] < 0.02
    orders = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert min(orders) > 1.8


def test_merging_keeps_intervals_of_different_lengths_apart():
    """A short interval beside a long one has empty steps, whose stages weigh nothing."""
    field, theta = random_field()
    start, dt = 0.8 * randn(2, 2, seed=2), tensor([0.1, 0.6])
    both = freeze(field, theta, start, dt, 0.1).merged()
    assert both.stages.shape[1] == 13
    empty = [2, 3, 4, 5, 6, *range(8, 13)]
    assert bool((both.weights[0][:, empty] == 0.0).all())
    assert bool((both.weights[1].abs().sum((0, 2)) > 0.0).all())
    alone = freeze(field, theta, start[:1], dt[:1], 0.1).merged()
    torch.testing.assert_close(both.weights[0][:, [0, 1, 7]], alone.weights[0])


# fixed fields


@pytest.mark.parametrize("friction", [True, False])
def test_fixed_fields_are_their_family_at_one_parameter_vector(friction):
    family, theta = random_field(2, friction=friction)
    field, none, z = family.fixed(theta), theta[:0], randn(5, 4)
    assert field.num_parameters == 0 and field.prior_precision().shape == (0,)
    torch.testing.assert_close(field.bind(none)(0.0, z), family.bind(theta)(0.0, z))
    torch.testing.assert_close(field.jacobian(z, none), family.jacobian(z, theta))
    weights = randn(5, 4, 3, 4)
    stages = randn(5, 3, 4)
    assert field.weighted_parameter_jacobian(stages, weights, none).shape == (5, 4, 0)


@pytest.mark.parametrize("duration", DURATIONS)
def test_fixed_fields_have_the_same_paths_and_state_sensitivities(duration):
    problem, estimate = shooting(duration=duration)
    family, theta = problem.field, estimate.theta
    assert not isinstance(family, FixedField)
    fixed = replace(problem, field=family.fixed(theta))
    known = replace(estimate, theta=theta[:0])
    path, end, value = problem.evaluate(estimate)
    same, last, other = fixed.evaluate(known)
    assert torch.equal(same, path) and torch.equal(last, end)
    prior = 0.5 * (family.prior_precision() * theta**2).sum()
    torch.testing.assert_close(other + prior, value)
    rest = (problem.nodes, problem.windows, problem.step)
    linear = linearize(family, theta, path, *rest)
    alone = linearize(fixed.field, theta[:0], path, *rest)
    keep = [0, 1, -1]
    torch.testing.assert_close(alone.local, linear.local[..., keep])
    torch.testing.assert_close(alone.shared, linear.shared[:, -1:, -1:])
    torch.testing.assert_close(alone.end, linear.end[..., :2])


@pytest.mark.parametrize("duration", DURATIONS)
def test_a_held_field_has_the_derivatives_of_its_paths(duration):
    """By automatic differentiation through plain loops, with the energy's gradient by autograd."""
    problem, estimate = shooting(2, duration)
    held, none = problem.field.fixed(estimate.theta), estimate.theta[:0]
    path, end, _ = problem.evaluate(estimate)
    found = linearize(held, none, path, problem.nodes, problem.windows, problem.step)
    assert found.end.shape == (len(end), 4, 4)
    field = plain_field(problem.field, estimate.theta)
    for k in range(problem.windows.num_windows):
        by_start = torch.func.jacrev(lambda start, k=k: plain_path(field, start, problem, k)[1])
        torch.testing.assert_close(found.end[k], by_start(estimate.start[k]))


@pytest.mark.parametrize("size", [1, 300, 10**7])
def test_held_fields_are_linearised_in_blocks_of_any_size(monkeypatch, size):
    problem, estimate = shooting(2)
    path, _, _ = problem.evaluate(estimate)
    held, rest = problem.field.fixed(estimate.theta), (problem.nodes, problem.windows, 0.17)
    whole = linearize(held, estimate.theta[:0], path, *rest)
    monkeypatch.setattr(linearization, "CACHED_ELEMENTS", size)
    monkeypatch.setattr(fourier_gradient, "IN_CACHE", size)
    parts = linearize(held, estimate.theta[:0], path, *rest)
    for name, expected in vars(whole).items():
        torch.testing.assert_close(getattr(parts, name), expected)


@pytest.mark.parametrize("duration", DURATIONS)
def test_a_foreseen_end_is_as_near_the_optimum_as_the_tolerance(duration):
    """It takes fewer steps than a search that has to see the objective stay where it is."""
    problem, estimate = solvable(duration, None)
    theta = estimate.theta / 0.9
    fixed = replace(problem, field=problem.field.fixed(theta))
    estimate = replace(estimate, theta=theta[:0])
    best = search(fixed, estimate)
    tolerance = 0.01
    options = {"max_iterations": 50, "tolerance": tolerance}
    seen = levenberg_marquardt(fixed, estimate, **options)
    foreseen = levenberg_marquardt(fixed, estimate, **options, foresee=True)
    assert foreseen.converged and foreseen.iterations < seen.iterations
    assert foreseen.objective - best.objective < 1.1 * tolerance
    again = levenberg_marquardt(fixed, foreseen.estimate, **options, foresee=True)
    assert again.iterations == 0 and again.objective == foreseen.objective


def test_only_searches_with_the_field_held_can_be_foreseen():
    problem, estimate = solvable(1.1, None)
    with pytest.raises(ValueError, match="foresee: expected a field with all parameters known"):
        levenberg_marquardt(problem, estimate, max_iterations=1, tolerance=1.0, foresee=True)


@pytest.mark.parametrize("duration", DURATIONS)
def test_states_under_a_fixed_field_are_those_of_the_dense_normal_equations(duration):
    """Their mean and covariance at the optimum, where the gradient of the states is zero."""
    problem, estimate = solvable(duration, None)
    theta = estimate.theta / 0.9
    assert not isinstance(problem.field, FixedField)
    fixed = replace(problem, field=problem.field.fixed(theta))
    solution = search(fixed, replace(estimate, theta=theta[:0]))
    whole = replace(solution.estimate, theta=theta)

    def objective(start: Tensor) -> Tensor:
        return true_objective(problem, whole, torch.cat([theta, start]))

    start = solution.estimate.start.reshape(-1)
    slope = torch.func.grad(objective)(start)
    rows = dense_jacobian(problem, whole)[:, problem.field.num_parameters :]
    _, _, channels = observed(problem, unknowns(whole))
    curvature = rows.mT @ (rows / NOISE[channels, None] ** 2)
    prior = torch.zeros_like(start).reshape(-1, 2)
    prior[problem.windows.chain[:, 0]] = 1.0 / INITIAL_VARIANCE
    curvature = curvature + torch.diag(prior.reshape(-1))
    here, ahead = problem.following()
    for k, following in zip(here.tolist(), ahead.tolist(), strict=True):

        def jump(states: Tensor, k=k, following=following) -> Tensor:
            states = states.reshape(-1, 2)
            field = plain_field(problem.field, theta)
            return plain_path(field, states[k], problem, k)[1] - states[following]

        side = torch.func.jacrev(jump)(start)
        curvature = curvature + side.mT @ side / estimate.defect_std**2
    covariance = torch.linalg.inv(curvature)
    assert float(slope @ covariance @ slope) < 1e-8
    mean, _, cov = solution.chain.smooth(problem.windows)
    assert float(mean.abs().max()) < 1e-4
    count = len(cov)
    blocks = covariance.reshape(count, 2, count, 2)[range(count), :, range(count)]
    torch.testing.assert_close(cov, blocks, rtol=1e-6, atol=1e-12)


# sizes of the jumps between windows


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=8), st.integers(1, 6))
def test_strata_of_the_jumps_keep_their_mean_square(masses, count):
    """Parts of equal probability, in order; one part is the whole."""
    weights = [mass / sum(masses) for mass in masses]
    found = DefectPosterior(tuple(0.1 * 2.0**k for k in range(len(masses))), tuple(weights), 0.0)
    strata = found.strata(count)
    assert len(strata) == count and all(
        a <= b + 1e-12 for a, b in zip(strata, strata[1:], strict=False)
    )
    assert found.grid[0] <= strata[0] + 1e-12 and strata[-1] <= found.grid[-1] + 1e-12
    mean = sum(size**2 for size in strata) / count
    assert mean == pytest.approx(found.root_mean_square**2)


def test_strata_of_equal_probabilities_are_the_grid():
    found = DefectPosterior((0.1, 0.2, 0.5, 0.9), (0.25,) * 4, 0.0)
    assert found.strata(4) == pytest.approx([0.1, 0.2, 0.5, 0.9])
    assert found.strata(2) == pytest.approx([(0.025) ** 0.5, (0.53) ** 0.5])
    assert DefectPosterior((0.0,), (1.0,), 0.0).strata(3) == [0.0] * 3


def test_a_start_that_cannot_be_linearised_is_said_with_its_place():
    """A field thirty times too fast: its paths depend on their starts beyond any precision."""
    problem, estimate = solvable(1.1, None)
    wild = replace(estimate, theta=30.0 * estimate.theta)
    with pytest.raises(FloatingPointError, match=r"trajectory 0 from scaled time.*inputs="):
        search(problem, wild)


def test_steps_to_where_nothing_can_be_linearised_are_refused(monkeypatch):
    """Only places where a share of the way is gone are said to be usable."""
    problem, estimate = solvable(1.1, None)
    usable, tried = Point.at.__func__, []

    def picky(cls, problem, point, path, end):
        tried.append(point.theta)
        if len(tried) == 2:
            raise FloatingPointError("lost")
        return usable(cls, problem, point, path, end)

    monkeypatch.setattr(Point, "at", classmethod(picky))
    search(problem, estimate, max_iterations=1)
    steps = [float((theta - tried[0]).norm()) for theta in tried[1:]]
    # The first place is linearised again before a shorter step is tried.
    assert len(steps) == 3 and steps[1] == 0.0 < steps[2] < steps[0]

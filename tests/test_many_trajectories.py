"""Fits of many trajectories: work in parts, and first searches on some of them."""

import math
from dataclasses import replace

import pytest
import torch
from problems import identity_scaling, ragged_data, randn, shooting, tensor

from sympgp import SSGP, Friction, GaussNewton, Trajectories, fit
from sympgp.inference import subset
from sympgp.inference.discrepancy import log_evidence
from sympgp.inference.start import prepare
from sympgp.inference.subset import extended, first_trajectories
from sympgp.shooting import linearization, problem, sensitivities
from sympgp.shooting.gram import COLUMNS, add_gram, symmetric
from sympgp.shooting.layout import Nodes, Windows
from sympgp.shooting.levenberg_marquardt import levenberg_marquardt
from sympgp.shooting.linearization import linearize
from sympgp.shooting.noise_levels import noise_update
from sympgp.shooting.reduction import Reduction
from sympgp.systems import Pendulum

CLOSE = {"rtol": 1e-9, "atol": 1e-10}


@pytest.fixture
def in_small_parts(monkeypatch):
    """Blocks of a few numbers, and one trajectory at a time."""
    monkeypatch.setattr(linearization, "CACHED_ELEMENTS", 1)
    monkeypatch.setattr(sensitivities, "CACHED_ELEMENTS", 1)
    monkeypatch.setattr(problem, "GROUP_ELEMENTS", 1)


def linearised(duration):
    given, estimate = shooting(duration=duration)
    path, end, _ = given.evaluate(estimate)
    arguments = (given.field, estimate.theta, path, given.nodes, given.windows, given.step)
    return given, estimate, path, end, linearize(*arguments)


# sums


@pytest.mark.parametrize("cols", [3, COLUMNS, 2 * COLUMNS + 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gram_matrices_from_their_upper_blocks(cols, dtype):
    rows = randn(7, cols).to(dtype)
    total = torch.zeros(cols, cols, dtype=torch.float64)
    add_gram(total, rows)
    add_gram(total, rows[:2], -1.0)
    expected = rows[2:].mT @ rows[2:]
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    found = symmetric(total)
    torch.testing.assert_close(found, expected.double(), rtol=tolerance, atol=tolerance)
    assert torch.equal(found, found.mT)


@pytest.mark.parametrize("duration", [1.1, math.inf])
def test_sums_and_eliminations_are_in_double_precision(duration):
    """Single precision changes rows, not how they are added up or eliminated."""
    given, estimate, path, end, linear = linearised(duration)
    field, nodes = given.field, given.nodes
    half = {name: getattr(nodes, name).float() for name in ("times", "values", "dt", "weights")}
    basis = replace(
        field.basis,
        frequencies=field.basis.frequencies.float(),
        prior_variance=field.basis.prior_variance.float(),
    )
    small = replace(nodes, **half)
    own = replace(field, basis=basis, dissipation=field.dissipation)
    if field.dissipation.num_parameters:
        own = replace(own, dissipation=to_single(field.dissipation))
    found = linearize(own, estimate.theta.float(), path.float(), small, given.windows, given.step)
    for name in ("shared", "local", "end"):
        value, expected = getattr(found, name), getattr(linear, name)
        assert value.dtype == torch.float64
        size = expected.abs().amax()
        assert float((value - expected).abs().amax()) < 1e-5 * float(size)


def to_single(dissipation):
    """All of its tensors in single precision."""
    parts = {k: v.float() for k, v in vars(dissipation).items() if torch.is_tensor(v)}
    return replace(dissipation, **{k: v for k, v in parts.items() if not k.startswith("_")})


# parts of the trajectories


@pytest.mark.parametrize("most", [1, 3, 5, 100])
def test_groups_are_whole_trajectories_in_order(most):
    nodes = Nodes.from_data(ragged_data(), identity_scaling())
    windows = Windows.of_duration(nodes, 0.9)
    groups = windows.groups(most)
    assert torch.equal(torch.cat([own.start for _, own in groups]), windows.start)
    chains = [[k + part.start for k in row if k >= 0] for part, own in groups for row in own.chain]
    assert chains == [[k for k in row if k >= 0] for row in windows.chain.tolist()]
    for part, own in groups:
        assert part.stop - part.start == own.num_windows
        assert own.num_windows <= most or len(own.chain) == 1


@pytest.mark.parametrize("damping", [0.0, 0.3])
@pytest.mark.parametrize("duration", [0.9, math.inf])
def test_eliminating_one_trajectory_at_a_time_changes_nothing(
    in_small_parts, monkeypatch, damping, duration
):
    given, estimate, path, end, linear = linearised(duration)
    parts = Reduction.of(given, linear, estimate, end, damping)
    assert not parts.kept and len(given.windows.groups(1)) == 3
    joined = given.eliminate(linear, estimate, end, damping)
    evidence = log_evidence(given, linear, estimate, path, end)
    monkeypatch.setattr(problem, "GROUP_ELEMENTS", 10**6)
    whole = Reduction.of(given, linear, estimate, end, damping)
    assert whole.kept
    chain = given.eliminate(linear, estimate, end, damping)
    for name in ("shared", "gradient", "logdet"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), **CLOSE)
    for name, value in vars(chain).items():
        torch.testing.assert_close(getattr(joined, name), value, **CLOSE)
    step = 0.01 * randn(given.field.num_parameters)
    monkeypatch.setattr(problem, "GROUP_ELEMENTS", 1)
    torch.testing.assert_close(parts.moved(step), whole.moved(step), **CLOSE)
    precision, _ = whole.normal_equations
    squares = linear.shared[:, -1, -1]
    torch.testing.assert_close(
        noise_update(parts, precision, squares), noise_update(whole, precision, squares), **CLOSE
    )
    monkeypatch.setattr(problem, "GROUP_ELEMENTS", 10**6)
    expected = log_evidence(given, linear, estimate, path, end)
    torch.testing.assert_close(tensor(evidence[0]), tensor(expected[0]), **CLOSE)
    torch.testing.assert_close(evidence[1], expected[1], **CLOSE)


def test_paths_of_some_windows_at_a_time(monkeypatch):
    given, estimate = shooting(duration=0.9)
    whole = given.evaluate(estimate)
    monkeypatch.setattr(sensitivities, "SMALLEST", 1)
    monkeypatch.setattr(sensitivities, "CACHED_ELEMENTS", 1)
    for part, expected in zip(given.evaluate(estimate), whole, strict=True):
        torch.testing.assert_close(part, expected)


def test_a_search_in_small_parts_ends_in_the_same_place(in_small_parts, monkeypatch):
    given, estimate = shooting(duration=1.1)
    options = {"max_iterations": 2, "tolerance": 1e-6}
    parts = levenberg_marquardt(given, estimate, **options)
    for module in (linearization, sensitivities):
        monkeypatch.setattr(module, "CACHED_ELEMENTS", 10**6)
    monkeypatch.setattr(problem, "GROUP_ELEMENTS", 10**6)
    whole = levenberg_marquardt(given, estimate, **options)
    assert parts.iterations == whole.iterations
    near = {"rtol": 1e-6, "atol": 1e-7}
    torch.testing.assert_close(parts.estimate.theta, whole.estimate.theta, **near)
    torch.testing.assert_close(parts.estimate.noise_std, whole.estimate.noise_std, **near)
    torch.testing.assert_close(parts.path, whole.path, **near)
    torch.testing.assert_close(parts.chain.slope, whole.chain.slope, **near)


# first searches on some trajectories


def pendulums(count: int, points: int = 20) -> Trajectories:
    return Pendulum(friction=0.1).simulate(
        count, rate=4, duration=points / 4, noise_std=0.05, seed=3
    )


def test_nodes_of_some_trajectories_are_those_of_their_data():
    data = ragged_data()
    nodes = Nodes.from_data(data, identity_scaling())
    chosen = torch.tensor([0, 2])
    own, index = nodes.of(chosen)
    for part, name in ((own.times, "times"), (own.values, "values"), (own.mask, "mask")):
        assert torch.equal(part, getattr(nodes, name)[index])
    lengths = [nodes.first[1], nodes.first[3] - nodes.first[2]]
    assert own.first == (0, lengths[0], sum(lengths))
    assert float(own.dt[-1]) == 0.0 and not bool(own.mask[-1].any())


def test_few_trajectories_are_looked_at_together(monkeypatch):
    nodes = Nodes.from_data(pendulums(90), identity_scaling())
    assert first_trajectories(nodes) is None
    monkeypatch.setattr(subset, "ENOUGH", 10)
    assert len(first_trajectories(nodes)) == subset.LEAST
    monkeypatch.setattr(subset, "LEAST", 30)
    assert first_trajectories(nodes) is None
    monkeypatch.setattr(subset, "LEAST", 3)
    monkeypatch.setattr(subset, "ENOUGH", 400)  # of 40 in each
    chosen = first_trajectories(nodes)
    assert 9 <= len(chosen) <= 11 and bool((chosen.diff() > 0).all())
    assert torch.equal(chosen, first_trajectories(nodes))
    assert len(chosen.diff().unique()) > 2  # no stride, which may meet one condition alone


def test_long_trajectories_and_all_channels_are_in_a_part(monkeypatch):
    """Jumps show in long trajectories; of a channel that is not in the part nothing is known."""
    monkeypatch.setattr(subset, "ENOUGH", 100)
    monkeypatch.setattr(subset, "LEAST", 3)
    data = pendulums(60)
    ends = [len(t) if k % 10 == 7 else 6 for k, t in enumerate(data.times)]
    times = [t[:end] for t, end in zip(data.times, ends, strict=True)]
    ragged = Trajectories(times, [x[:end] for x, end in zip(data.states, ends, strict=True)])
    chosen = first_trajectories(Nodes.from_data(ragged, identity_scaling()))
    assert max(ends[k] for k in chosen.tolist()) == max(ends)
    nodes = Nodes.from_data(data, identity_scaling())
    hidden = [x.clone() for x in data.states]
    for k in first_trajectories(nodes).tolist():
        hidden[k][:, 1] = torch.nan
    partial = Nodes.from_data(Trajectories(data.times, hidden), identity_scaling())
    assert first_trajectories(partial) is None


def test_states_of_all_trajectories_follow_the_field_of_some(monkeypatch):
    """With the field held, the others' paths are as near their data as the noise is."""
    data = pendulums(12)
    engine = GaussNewton(num_components=1)
    model = SSGP(num_features=15, dissipation=Friction())
    monkeypatch.setattr(subset, "ENOUGH", 100)
    monkeypatch.setattr(subset, "LEAST", 3)
    prepared = prepare(data, model.noise, None, 0.25)
    part, index = prepared.of(first_trajectories(prepared.nodes))
    scaled = model.in_units(prepared.scaling, prepared.known_states)
    search = engine._start(scaled, part, data, lambda *_: None)
    search.grow_windows()
    search.measure_discrepancy()
    whole = extended(search, prepared, index)
    assert whole.theta is search.theta and len(whole.states) == len(prepared.nodes.times)
    residual = (whole.states - prepared.nodes.values)[prepared.nodes.mask.all(1)]
    assert bool((residual.square().mean(0).sqrt() < 1.5 * search.noise_std).all())


@pytest.mark.slow
def test_a_fit_that_begins_with_some_trajectories_agrees_with_one_on_all(monkeypatch):
    data = pendulums(40)
    model = SSGP(num_features=20, dissipation=Friction())
    engine = GaussNewton(num_components=1)
    whole = fit(model, data, inference=engine, progress=False)
    assert not whole.diagnostics.details
    monkeypatch.setattr(subset, "ENOUGH", 400)
    monkeypatch.setattr(subset, "LEAST", 5)
    found = fit(model, data, inference=engine, progress=False)
    assert "from 10 of 40 trajectories" in found.diagnostics.details[0]
    x = tensor([[0.5, 0.0], [-1.0, 0.5], [0.2, -0.8]])
    one, other = found.vector_field(x), whole.vector_field(x)
    assert bool(((one.mean - other.mean).abs() < other.stddev).all())
    torch.testing.assert_close(one.stddev, other.stddev, rtol=0.3, atol=0.0)
    torch.testing.assert_close(found.noise_std, whole.noise_std, rtol=0.02, atol=0.0)
    first, second = found.initial_states, whole.initial_states
    assert first.mean.shape == (40, 2)
    assert bool(((first.mean - second.mean).abs() < second.stddev).all())

"""What every field promises, whatever its energy, dissipation and inputs are made of."""

import math

import pytest
import torch
from problems import canonical, gaussian, ragged_data, randn, tensor, window_nodes
from torch import distributions as dist

from sympgp.dissipation import (
    Conservative,
    DiagonalFriction,
    Friction,
    GradientField,
    MatrixFriction,
    Rayleigh,
    StateDependentFriction,
)
from sympgp.energies import (
    DissipativeNetworkEnergy,
    FourierEnergy,
    FreeEnergy,
    KANEnergy,
    KnownKinetic,
    LagrangianEnergy,
    NetworkEnergy,
    PhysicsEnergy,
    QuadraticKinetic,
    SeparableEnergy,
    SumEnergy,
    fourier_gradient,
)
from sympgp.fields import HamiltonianField, rate_and_jacobian
from sympgp.inference.evidence import FrozenModel, linear_rate
from sympgp.inputs import KnownInputs, LearnedInputs
from sympgp.integrators import RK4
from sympgp.phase_space import symplectic_matrix
from sympgp.shooting.adjoint import recorded_paths, solve_paths
from sympgp.shooting.layout import Nodes, Windows
from sympgp.shooting.linearization import linearize
from sympgp.shooting.problem import Problem
from sympgp.shooting.sensitivities import Drive, chain_sensitivities, freeze, nominal_path
from sympgp.trajectories import Trajectories

FORMULA = "p**2/(2*m) + k*(1 - cos(q))"
PRIORS = {"k": dist.LogNormal(0.0, 0.3), "m": dist.HalfNormal(1.5)}
COUPLED = "p1**2/(2*m) + p2**2/2 + k*(q1 - q2)**2/2 + q1**4/20"


def by_function(q, p, k, m):
    return (p**2 / (2 * m) + k * (1 - q.cos())).squeeze(-1)


def remainder(orthogonal):
    physics = PhysicsEnergy(FORMULA, PRIORS)
    return SumEnergy([physics, FourierEnergy(1, 4, seed=1)], orthogonal=orthogonal)


ENERGIES = {
    "fourier": (1, lambda: FourierEnergy(1, 5)),
    "fourier-2": (2, lambda: FourierEnergy(2, 4)),
    "angle": (1, lambda: FourierEnergy(1, 5, periodic=(0,))),
    "known-mass": (1, lambda: SeparableEnergy(KnownKinetic(0.5), half(1, periodic=(0,)))),
    "any-mass": (2, lambda: SeparableEnergy(QuadraticKinetic(), half(2))),
    "halves": (1, lambda: SeparableEnergy(FourierEnergy(1, 4, on="p"), half(1))),
    "string": (1, lambda: PhysicsEnergy(FORMULA, PRIORS)),
    "string-2": (2, lambda: PhysicsEnergy(COUPLED, PRIORS, num_dof=2)),
    "function": (1, lambda: PhysicsEnergy(by_function, PRIORS)),
    "remainder": (1, lambda: remainder(True)),
    "beside": (1, lambda: remainder(False)),
    "sum": (2, lambda: SumEnergy([FourierEnergy(2, 3), FourierEnergy(2, 4, on="q", seed=1)])),
    "perceptron": (2, lambda: NetworkEnergy(2, (4, 3), periodic=(1,))),
    "beside-perceptron": (1, lambda: PhysicsEnergy(FORMULA, PRIORS) + NetworkEnergy(1, (4,))),
    "splines": (1, lambda: KANEnergy(1, (2,), grid=3)),
    "free": (1, lambda: FreeEnergy(1, (4,))),
    "potential": (1, lambda: DissipativeNetworkEnergy(NetworkEnergy(1, (4,)), half(1))),
    "lagrangian": (2, lambda: LagrangianEnergy(NetworkEnergy(2, (4,)))),
}
NOT_CANONICAL = {"free", "potential", "lagrangian"}


def half(num_dof, **settings):
    return FourierEnergy(num_dof, 4, on="q", **settings)


DISSIPATION = {
    "none": Conservative(),
    "friction": Friction(),
    "diagonal": DiagonalFriction(),
    "everywhere": DiagonalFriction(positions=True),
    "matrix": MatrixFriction(),
    "state": StateDependentFriction(num_features=3),
    "network": StateDependentFriction(features="network", num_features=2),
    "rayleigh": Rayleigh(),
    "common": Rayleigh(drag=("linear", "quadratic"), common=True),
    "gradient": GradientField(),
    "gradient-state": GradientField(features="fourier", num_features=2),
}
INPUTS = {
    "closed": lambda n: None,
    "known": lambda n: KnownInputs((0.3 * randn(2 * n, 2, seed=8)).tolist()),
    "force": lambda n: KnownInputs([[1.0]] * n, interpolation="held"),
    "learned": lambda n: LearnedInputs(2),
    "varying": lambda n: LearnedInputs(1, num_features=3, positions=True),
}
# Every energy, every dissipation and every kind of inputs, each beside several of the others.
CASES = [
    ("fourier", "none", "known"),
    ("fourier", "state", "learned"),
    ("fourier-2", "matrix", "varying"),
    ("fourier-2", "gradient-state", "known"),
    ("angle", "network", "force"),
    ("known-mass", "diagonal", "force"),
    ("known-mass", "none", "closed"),
    ("any-mass", "common", "learned"),
    ("any-mass", "everywhere", "closed"),
    ("halves", "friction", "varying"),
    ("halves", "rayleigh", "closed"),
    ("string", "none", "closed"),
    ("string", "rayleigh", "varying"),
    ("string-2", "gradient", "known"),
    ("function", "friction", "learned"),
    ("function", "state", "closed"),
    ("remainder", "diagonal", "learned"),
    ("remainder", "gradient", "closed"),
    ("beside", "matrix", "force"),
    ("beside", "gradient-state", "varying"),
    ("sum", "network", "learned"),
    ("sum", "friction", "closed"),
    ("perceptron", "matrix", "learned"),
    ("perceptron", "none", "closed"),
    ("beside-perceptron", "rayleigh", "force"),
    ("splines", "state", "known"),
    ("splines", "friction", "closed"),
    ("free", "none", "varying"),
    ("potential", "none", "learned"),
    ("lagrangian", "none", "known"),
    ("lagrangian", "diagonal", "closed"),
]
every_field = pytest.mark.parametrize("names", CASES, ids="-".join)
every_canonical_field = pytest.mark.parametrize(
    "names", [names for names in CASES if names[0] not in NOT_CANONICAL], ids="-".join
)
NUM_DRAWS, NUM_POINTS = 3, 4


def build(names, scaling=None):
    """A field of these parts in scaled units."""
    num_dof, make = ENERGIES[names[0]]
    scaling = canonical(num_dof, seed=2) if scaling is None else scaling
    energy = make().in_units(scaling)
    energy = energy.prepare(0.8 * randn(30, 2 * num_dof, seed=6).to(scaling.scale))
    priors = energy.hyperpriors(scaling.spread)
    basis = energy.basis({name: prior.median for name, prior in priors.items()})
    inputs = INPUTS[names[2]](num_dof)
    if inputs is not None:
        size = scaling.scale.new_tensor([0.7, 2.0])[: inputs.num_inputs]
        inputs = inputs.scaled(scaling, size)
    return HamiltonianField(basis, DISSIPATION[names[1]].scaled(scaling), inputs)


def drawn(field, num=NUM_DRAWS, seed=1, spread=0.4):
    """Parameters of several draws."""
    theta = spread * field.prior_precision().rsqrt() * randn(num, field.num_parameters, seed=seed)
    if field.dissipation.truncated:
        theta[:, field.num_weights :].abs_()
    return theta


def points_of(field, *shape, seed=4):
    return 0.6 * randn(*shape, field.dissipation.dim + field.num_inputs, seed=seed)


def gradient_of(field, z, w):
    if not field.basis.canonical:  # the covector that is written, of fields that are not J grad H
        return field.basis.slope(z[None], w)[0]
    return torch.func.grad(lambda x: field.basis.value(x, w))(z)


def plain_rate(field, theta):
    """``J grad H - d + G u`` at one point, by autograd of H and with G written out."""
    w, gamma, rho = field.parts(theta)
    inputs, dim = field.inputs, field.dissipation.dim

    def rate(point):
        z, u = point[:dim], point[dim:]
        slope = gradient_of(field, z, w)
        force = field.dissipation.force(z[None], slope[None], rho)[0]
        total = symplectic_matrix(dim // 2) @ slope - force
        if field.num_inputs:
            waves = torch.cos(inputs.frequencies @ z + inputs.phases)
            features = torch.cat([torch.ones_like(z[:1]), waves])
            entries = features @ gamma.reshape(len(features), len(inputs.patterns))
            matrix = inputs.known + torch.tensordot(entries, inputs.patterns, dims=1)
            total = total + matrix @ u
        return total

    return rate


def test_every_part_is_covered():
    used = [set(column) for column in zip(*CASES, strict=True)]
    assert used == [set(ENERGIES), set(DISSIPATION), set(INPUTS)]


@every_field
def test_a_field_is_the_sum_of_its_parts(names):
    """One draw and several, at states and at points of a batch, all at once and one by one."""
    field = build(names)
    theta = drawn(field)
    points = points_of(field, NUM_DRAWS, NUM_POINTS)
    bound, dim = field.bind(theta), field.dissipation.dim
    found = bound(0.0, points)
    for s in range(NUM_DRAWS):
        expected = torch.stack([plain_rate(field, theta[s])(x) for x in points[s]])
        torch.testing.assert_close(found[s], expected)
        torch.testing.assert_close(field.bind(theta[s])(0.0, points[s]), expected)
    torch.testing.assert_close(bound.first()(0.0, points[:1]), found[:1])
    slope = bound.gradient(points[..., :dim])
    torch.testing.assert_close(bound.flow(0.0, points, slope), found)
    with torch.no_grad():
        torch.testing.assert_close(bound(0.0, points), found)


@every_canonical_field
def test_energy_is_what_the_inputs_put_in_less_what_is_dissipated(names):
    """``grad H . f <= 0`` at ``u = 0``, for every draw; zero without dissipation."""
    field = build(names)
    theta, dim = drawn(field, 20, spread=1.0), field.dissipation.dim
    points = torch.cat([2.0 * randn(20, 10, dim), torch.zeros(20, 10, field.num_inputs)], -1)
    bound = field.bind(theta)
    slope = bound.gradient(points[..., :dim])
    power = (slope * bound(0.0, points)).sum(-1)
    size = slope.square().sum(-1) * (1.0 + drawn(field, 20, spread=1.0).abs().amax(-1)[:, None])
    assert bool((power <= 1e-13 * size).all())
    assert bound.conservative == (names[1] == "none" and names[2] == "closed")
    still = field.undamped().bind(theta)
    kept = (slope * still(0.0, points)).sum(-1)
    assert bool((kept.abs() <= 1e-13 * size).all())
    assert still.conservative or field.num_inputs or names[1].startswith("gradient")
    if names[1] != "none":
        assert power.median() < 0
    pushed = points_of(field, 20, 10)
    rest = torch.cat([pushed[..., :dim], torch.zeros_like(pushed[..., dim:])], -1)
    if field.num_inputs:
        z, u = field.split_points(pushed)
        push = field.inputs.matrix(z, field.parts(theta)[1]) @ u.unsqueeze(-1)
        torch.testing.assert_close(bound(0.0, pushed), bound(0.0, rest) + push.squeeze(-1))


@every_field
def test_derivatives_by_states_and_parameters(names):
    field = build(names)
    theta, points = drawn(field)[1], points_of(field, NUM_POINTS)
    dim = field.dissipation.dim
    by_state, by_parameter = field.jacobian(points, theta), field.parameter_jacobian(points, theta)
    for k, point in enumerate(points):
        expected = torch.func.jacrev(plain_rate(field, theta))(point)[:, :dim]
        torch.testing.assert_close(by_state[k], expected)
        expected = torch.func.jacrev(lambda t, x=point: plain_rate(field, t)(x))(theta)
        torch.testing.assert_close(by_parameter[k], expected)
    rest = field.remainder(points, theta)
    rest = torch.zeros(()).double() if rest is None else rest
    torch.testing.assert_close(by_parameter @ theta + rest, field.bind(theta)(0.0, points))
    stages, weights = points_of(field, 3, 2, seed=5), randn(3, dim, 2, dim, seed=6)
    each = field.parameter_jacobian(stages.flatten(0, 1), theta).unflatten(0, (3, 2))
    expected = torch.einsum("bosd,bsdp->bop", weights, each)
    found = field.weighted_parameter_jacobian(stages, weights, theta)
    torch.testing.assert_close(found, expected)


@every_field
@pytest.mark.parametrize("sines", [fourier_gradient.IN_CACHE, 1])
def test_rates_and_jacobians_from_the_same_sines(names, sines, monkeypatch):
    """All states at once, and one at a time."""
    monkeypatch.setattr(fourier_gradient, "IN_CACHE", sines)
    field = build(names)
    theta, points = drawn(field)[1], points_of(field, NUM_POINTS)
    found = rate_and_jacobian(field.bind(theta), points)
    assert (found is not None) == field.basis.shares
    if found is not None:
        torch.testing.assert_close(found[0], field.bind(theta)(0.0, points))
        torch.testing.assert_close(found[1], field.jacobian(points, theta))


@every_field
def test_linearized_fields_of_several_draws(names):
    field = build(names)
    theta, points = drawn(field), points_of(field, NUM_DRAWS, NUM_POINTS)
    pull = randn(NUM_DRAWS, NUM_POINTS, field.dissipation.dim, seed=7)
    known = field.linearized(points, theta)
    found = known.pull_back(pull)
    assert found.shape == theta.shape
    for s in range(NUM_DRAWS):
        torch.testing.assert_close(known.jacobian[s], field.jacobian(points[s], theta[s]))
        rows = field.parameter_jacobian(points[s], theta[s])
        torch.testing.assert_close(found[s], torch.einsum("bd,bdp->p", pull[s], rows))


@every_field
def test_single_precision_stays_single(names):
    field = build(names, canonical(ENERGIES[names[0]][0], seed=2).to(dtype=torch.float32))
    theta, points = drawn(field).float(), points_of(field, NUM_DRAWS, NUM_POINTS).float()
    known = field.linearized(points, theta)
    weights = torch.ones(NUM_DRAWS, 1, NUM_POINTS, field.dissipation.dim, dtype=torch.float32)
    results = [
        field.bind(theta)(0.0, points),
        field.jacobian(points[0], theta[0]),
        field.parameter_jacobian(points[0], theta[0]),
        field.weighted_parameter_jacobian(points, weights, theta[0]),
        known.jacobian,
        known.pull_back(torch.ones_like(points[..., : field.dissipation.dim])),
        field.prior_precision(),
    ]
    assert [x.dtype for x in results] == [torch.float32] * len(results)
    assert all(bool(x.isfinite().all()) for x in results)


# Paths: shooting problems of ragged data with inputs, in their own units.

PATHS = [
    ("remainder", "diagonal", "learned"),
    ("string-2", "common", "force"),
    ("known-mass", "state", "varying"),
    ("beside", "gradient-state", "known"),
    ("fourier", "friction", "force"),
]
every_path = pytest.mark.parametrize("names", PATHS, ids="-".join)
few_paths = pytest.mark.parametrize(
    "names",
    [*PATHS[:3], *(pytest.param(names, marks=pytest.mark.slow) for names in PATHS[3:])],
    ids="-".join,
)


def driven_data(num_dof, num_inputs):
    """Ragged data with inputs, a gap, and rows without any observation in which inputs bend."""
    data, rows = ragged_data(num_dof), [slice(6, 12), slice(4, 9)]
    times = [data.times[k][part] for k, part in enumerate(rows)]
    states = [data.states[k][part] for k, part in enumerate(rows)]
    inputs = [randn(len(t), num_inputs, seed=20 + k) for k, t in enumerate(times)]
    return Trajectories(times, states, inputs=inputs)


def shooting_of(names, duration=1.1, step=0.22):
    """A problem about a path that fits badly, its parameters and window states, and inputs."""
    field = build(names)
    num_dof = field.dissipation.dim // 2
    data = driven_data(num_dof, field.num_inputs)
    units = canonical(num_dof, seed=2)
    ones = torch.ones_like(units.scale)
    units = type(units)(0.0 * ones, ones, tensor(1.0), tensor(0.0), ones)
    nodes = Nodes.from_data(data, units, field.inputs.interpolation)
    windows = Windows.of_duration(nodes, duration)
    problem = Problem(nodes, windows, field, gaussian(2 * num_dof), step)
    start = 0.5 * randn(windows.num_windows, 2 * num_dof, seed=3)
    return problem, drawn(field, 1, spread=0.2)[0], start, data


def signal_of(data, trajectory, begin, end, interpolation):
    """``u(t)`` within one interval, by hand."""
    times, values = data.times[trajectory], data.inputs[trajectory]
    if interpolation == "held":
        row = values[int((times <= 0.5 * (begin + end)).sum()) - 1]
        return lambda t: row
    later = int((times < 0.5 * (begin + end)).sum())
    low, high = times[later - 1], times[later]
    return lambda t: (
        values[later - 1] + (values[later] - values[later - 1]) * ((t - low) / (high - low))
    )


def plain_window(problem, data, theta, start, window):
    """States of one window at its nodes, and its end, by RK4 written as loops."""
    rate, nodes = plain_rate(problem.field, theta), problem.nodes
    z, states = start, []
    for node in window_nodes(problem, window):
        states.append(z)
        begin, interval = float(nodes.times[node]), float(nodes.dt[node])
        trajectory = sum(node >= first for first in nodes.first[1:])
        count = math.ceil(interval / problem.step - 1e-9)
        if count:
            kind = problem.field.inputs.interpolation
            u = signal_of(data, trajectory, begin, begin + interval, kind)
        for sub in range(count):
            h, t = interval / count, begin + sub * interval / count
            k1 = rate(torch.cat([z, u(t)]))
            k2 = rate(torch.cat([z + h / 2 * k1, u(t + h / 2)]))
            k3 = rate(torch.cat([z + h / 2 * k2, u(t + h / 2)]))
            k4 = rate(torch.cat([z + h * k3, u(t + h)]))
            z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return torch.stack(states), z


def looked_at(problem, path, end):
    """A scalar that looks at every node and every end, differently."""
    first = randn(*path.shape[-3:], seed=13) * (
        problem.windows.nodes < problem.nodes.first[-1]
    ).unsqueeze(-1)
    return (first * path.sin()).sum() + (randn(*end.shape[-2:], seed=14) * end**2).sum()


@few_paths
def test_paths_and_their_gradients_with_inputs(names):
    """Against autograd through plain loops; and recorded step by step."""
    problem, theta, start, data = shooting_of(names)
    nodes, windows, step = problem.nodes, problem.windows, problem.step
    theta = (theta + 0.05 * randn(2, len(theta), seed=11)).requires_grad_()
    start = (start + 0.2 * randn(2, *start.shape, seed=12)).requires_grad_()
    path, end, alive = solve_paths(problem.field, theta, start, nodes, windows, step)
    assert bool(alive.all())
    found = torch.autograd.grad(looked_at(problem, path, end), (theta, start))
    total = 0.0
    for s in range(2):
        ends, paths = [], torch.zeros_like(path[0])
        for k in range(windows.num_windows):
            states, last = plain_window(problem, data, theta[s], start[s, k], k)
            torch.testing.assert_close(path[s, k, : len(states)], states)
            paths = paths.index_put((torch.tensor(k), torch.arange(len(states))), states)
            ends.append(last)
        torch.testing.assert_close(end[s], torch.stack(ends))
        total = total + looked_at(problem, paths, torch.stack(ends))
    for one, other in zip(found, torch.autograd.grad(total, (theta, start)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)
    path, end, _ = recorded_paths(RK4(), problem.field, theta, start, nodes, windows, step)
    again = torch.autograd.grad(looked_at(problem, path, end), (theta, start))
    for one, other in zip(found, again, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


@few_paths
def test_gram_matrices_with_inputs(names):
    """Against the derivative of plain loops by all unknowns."""
    problem, theta, start, data = shooting_of(names, duration=2.0)
    nodes, windows = problem.nodes, problem.windows
    path, end = nominal_path(problem.field.bind(theta), start, nodes, windows, problem.step)
    linear = linearize(problem.field, theta, path, nodes, windows, problem.step)
    dim, num = start.shape[1], len(theta)
    shared = torch.zeros_like(linear.shared)
    for k in range(windows.num_windows):
        jacobians, last = torch.func.jacrev(
            lambda t, z, k=k: plain_window(problem, data, t, z, k), (0, 1)
        )(theta, start[k])
        torch.testing.assert_close(linear.end[k], torch.cat([last[1], last[0]], -1))
        index = window_nodes(problem, k)
        residual = path[k, : len(index)] - nodes.values[index]
        rows = torch.cat([jacobians[0], residual.unsqueeze(-1)], -1)
        rows = torch.cat([jacobians[1], rows], -1) * nodes.mask[index].unsqueeze(-1)
        gram = torch.einsum("lda,ldb->dab", rows, rows)
        torch.testing.assert_close(linear.local[:, k], gram[:, :dim])
        shared = shared + gram[:, dim:, dim:]
    torch.testing.assert_close(linear.shared, shared)
    assert shared.shape == (dim, num + 1, num + 1)
    held = linearize(problem.field.fixed(theta), theta[:0], path, nodes, windows, problem.step)
    torch.testing.assert_close(held.end, linear.end[..., :dim])
    torch.testing.assert_close(held.local, linear.local[..., [*range(dim), -1]])
    torch.testing.assert_close(held.shared, linear.shared[:, -1:, -1:])


@every_path
def test_frozen_models_are_right_to_first_order(names):
    """Predicted states of other parameters are off by the square of the change."""
    problem, theta, start, _ = shooting_of(names, duration=1.1)
    field, nodes, windows = problem.field, problem.nodes, problem.windows
    path, _ = nominal_path(field.bind(theta), start, nodes, windows, problem.step)
    index, dim = windows.nodes.reshape(-1), start.shape[1]
    drive = Drive.over(nodes, index)
    frozen = freeze(field, theta, path.reshape(-1, dim), nodes.dt[index], problem.step, drive)
    slope = linear_rate(field, frozen.stages, theta)
    model = FrozenModel.about(frozen, slope, path, nodes, windows)
    response = model.response(field.basis, field, theta).reshape(*path.shape, -1)
    transition = frozen.transition.reshape(*path.shape, dim)
    lever, _ = chain_sensitivities(transition, response, torch.zeros_like(response[:, 0]))
    torch.testing.assert_close(model.base + lever @ theta, path)
    errors = []
    change = 0.1 * randn(len(theta), seed=9)
    for size in (1e-2, 1e-3):
        other = theta + size * change
        exact, _ = nominal_path(field.bind(other), start, nodes, windows, problem.step)
        errors.append(float((model.base + lever @ other - exact).abs().max()))
    assert errors[1] < 0.02 * errors[0] or errors[0] < 1e-12

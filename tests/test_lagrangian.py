"""Lagrangian fields: known motions, energy, gauge, units, singular masses, learned ones."""

import jaxtyping
import pytest
import torch
from problems import canonical, randn, tensor

from sympgp.dissipation import Friction
from sympgp.energies import (
    FourierEnergy,
    FreeEnergy,
    KANEnergy,
    LagrangianEnergy,
    NetworkEnergy,
    PhysicsEnergy,
)
from sympgp.energies.lagrangian_basis import _recorded_rows, continued_solve, velocity_rows
from sympgp.energies.slope import covector
from sympgp.inference import MAP, fit
from sympgp.integrators import RK4
from sympgp.models import LNN
from sympgp.phase_space import CanonicalScaling, join, split
from sympgp.systems import (
    DoublePendulum,
    Duffing,
    HarmonicOscillator,
    Pendulum,
    SpringPendulum,
)
from sympgp.trajectories import StateDerivatives

# Written in the velocities, which a formula calls p.
LAGRANGIANS = {
    "oscillator": (HarmonicOscillator(), "p**2/2 - q**2/2"),
    "pendulum": (Pendulum(mass=1.0, length=1.0, gravity=9.8), "p**2/2 + 9.8*cos(q)"),
    "double-pendulum": (
        DoublePendulum(masses=(1.5, 0.7), lengths=(0.8, 1.3)),
        "1.1*0.64*p1**2 + 0.35*1.69*p2**2 + 0.7*0.8*1.3*p1*p2*cos(q1 - q2)"
        " + 2.2*9.8*0.8*cos(q1) + 0.7*9.8*1.3*cos(q2)",
    ),
    "spring": (
        SpringPendulum(),
        "(p1**2 + (3 + q1)**2*p2**2)/2 - 5*q1**2 + 9.81*(3 + q1)*cos(q2)",
    ),
}
every_system = pytest.mark.parametrize("name", LAGRANGIANS)


def formula(text, num_dof, **parameters):
    return LagrangianEnergy(PhysicsEnergy(text, parameters, num_dof), False, 0.0)


def known(system, x):
    """Velocities at canonical states x, and their derivatives along Hamilton's equations."""

    def velocity(row):
        return split(system.vector_field(row))[0]

    rates = system.vector_field(x)
    moved = [torch.func.jvp(velocity, (a,), (b,))[1] for a, b in zip(x, rates, strict=True)]
    return join(split(x)[0], split(rates)[0]), torch.stack(moved)


def user_rate(energy, scaling, x):
    """``dx/dt`` in user units."""
    basis = energy.in_units(scaling).basis({})
    slope = basis.slope(scaling.to_scaled(x), x.new_zeros(0))
    return -covector(slope) * scaling.velocity_scale


LEARNED = {
    "network": lambda num_dof: NetworkEnergy(num_dof, (7, 6), "softplus"),
    "kan": lambda num_dof: KANEnergy(num_dof, hidden=(3,)),
    "fourier": lambda num_dof: FourierEnergy(num_dof, 5),
}


def basis_of(function, scaling=None, floor=0.0, **settings):
    energy = LagrangianEnergy(function, floor=floor, **settings)
    scaling = canonical(function.num_dof) if scaling is None else scaling
    energy = energy.in_units(scaling)
    priors = energy.hyperpriors(scaling.spread)
    return energy.basis({key: prior.median for key, prior in priors.items()})


def weights_of(basis, num, size=0.2):
    return size * basis.prior_variance.sqrt() * randn(num, basis.num_weights, seed=5)


@every_system
def test_known_lagrangians_move_as_hamiltons_equations_say(name):
    system, text = LAGRANGIANS[name]
    n = system.num_dof
    x, accelerations = known(system, 0.6 * randn(12, 2 * n, seed=1))
    rate = user_rate(formula(text, n), CanonicalScaling.from_spread(*plain_units(n)), x)
    torch.testing.assert_close(rate, join(split(x)[1], accelerations))
    torch.testing.assert_close(user_rate(formula(text, n), canonical(n, seed=3), x), rate)


def plain_units(num_dof):
    one = torch.ones(2 * num_dof, dtype=torch.float64)
    return 0.0 * one, one, tensor(1.0), tensor(0.0)


@every_system
def test_energy_and_momenta_are_those_of_the_legendre_transform(name):
    """``v . dL/dv - L`` is H, and ``dL/dv`` are the momenta at which ``dH/dp = v``."""
    system, text = LAGRANGIANS[name]
    n = system.num_dof
    canonical_states = 0.6 * randn(9, 2 * n, seed=1)
    x, _ = known(system, canonical_states)
    scaling = canonical(n, seed=3)
    basis = formula(text, n).in_units(scaling).basis({})
    z, w = scaling.to_scaled(x), x.new_zeros(0)
    energy = basis.value(z, w) * scaling.energy_scale
    true = system.hamiltonian(canonical_states)
    torch.testing.assert_close(energy - energy[0], true - true[0])
    unit = split(scaling.scale)[0] / scaling.time_scale
    torch.testing.assert_close(basis.momenta(z, w) * unit, split(canonical_states)[1])


@pytest.mark.parametrize("num_dof", [1, 2, 3])
@pytest.mark.parametrize(
    ("kind", "lengthscale"), [("network", 1.0), ("network", 3.0), ("kan", 1.0), ("fourier", 2.0)]
)
def test_learned_lagrangians_keep_their_energy_and_the_meaning_of_velocity(
    kind, lengthscale, num_dof
):
    """``dE/dt = 0`` and ``dq/dt = v`` for all weights, states and units."""
    scaling = canonical(num_dof, seed=4)
    basis = basis_of(LEARNED[kind](num_dof), scaling, velocity_lengthscale=lengthscale)
    w, z = weights_of(basis, 4), 0.7 * randn(4, 6, 2 * num_dof, seed=2)
    leaf = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(basis.value(leaf, w).sum(), leaf)
    rate = -covector(basis.slope(z, w))
    size = (slope.abs() * rate.abs()).sum(-1)
    assert bool(((slope * rate).sum(-1).abs() < 1e-9 * size).all())
    velocities = (rate * scaling.velocity_scale)[..., :num_dof]
    torch.testing.assert_close(velocities, scaling.to_user(z)[..., num_dof:])


def test_momenta_are_the_slope_of_the_lagrangian_and_lengthscales_those_of_the_learned_part():
    """``p = dL/dv`` and ``E = v p - L``, with ``l(q, v) = function(q, v / lengthscale)``."""
    scaling = canonical(2, seed=4)
    basis = basis_of(LEARNED["network"](2), scaling, velocity_lengthscale=3.0)
    w, z = weights_of(basis, 1)[0], 0.7 * randn(6, 4, seed=2)

    def lagrangian(z):
        q, v = split(z)
        kinetic = 0.5 * (basis.mass * (v + basis.drift).square()).sum(-1)
        return kinetic + basis.function.value(join(q, v / 3.0), w)

    leaf = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(lagrangian(leaf).sum(), leaf)
    torch.testing.assert_close(basis.momenta(z, w), split(slope)[1])
    y = split(z)[1] + basis.drift
    energy = (y * split(slope)[1]).sum(-1) - lagrangian(z)
    torch.testing.assert_close(basis.value(z, w), energy)


def test_total_derivatives_and_factors_of_the_lagrangian_change_no_motion():
    """``c L + dF/dt`` with ``F = q1^2 q2 - cos q1``: momenta are ``c p + dF/dq``, energies c E."""
    system, text = LAGRANGIANS["double-pendulum"]
    x, _ = known(system, 0.6 * randn(8, 4, seed=1))
    scaling = canonical(2, seed=3)
    z, w = scaling.to_scaled(x), x.new_zeros(0)
    plain = formula(text, 2).in_units(scaling).basis({})
    more = f"2.5*({text}) + (2*q1*q2 + sin(q1))*p1 + q1**2*p2"
    other = formula(more, 2).in_units(scaling).basis({})
    torch.testing.assert_close(other.slope(z, w), plain.slope(z, w))
    torch.testing.assert_close(other.value(z, w), 2.5 * plain.value(z, w))
    q1, q2, _, _ = x.unbind(-1)
    unit = split(scaling.scale)[0] / scaling.time_scale
    slope = torch.stack([2 * q1 * q2 + q1.sin(), q1**2], -1)
    expected = 2.5 * plain.momenta(z, w) * unit + slope
    torch.testing.assert_close(other.momenta(z, w) * unit, expected)


@pytest.mark.parametrize("num_dof", [1, 2])
def test_a_change_of_units_changes_no_prediction(num_dof):
    """Lengths in other units, all alike, and times in others: the same field of the same w."""
    center, spread = randn(2 * num_dof, seed=1), randn(2 * num_dof, seed=2).exp()
    length, time = 1000.0, 60.0
    unit = tensor([length] * num_dof + [length / time] * num_dof)
    first = CanonicalScaling.from_spread(center, spread, tensor(0.4), tensor(0.0))
    second = CanonicalScaling.from_spread(
        center * unit, spread * unit, tensor(0.4 * time), tensor(0.0)
    )
    x = center + spread * randn(5, 2 * num_dof, seed=3)
    rates, momenta = [], []
    for scaling, states in ((first, x), (second, x * unit)):
        basis = basis_of(NetworkEnergy(num_dof, (8,)), scaling, floor=1e-3)
        w = weights_of(basis, 1)[0]
        z = scaling.to_scaled(states)
        rates.append(-covector(basis.slope(z, w)) * scaling.velocity_scale)
        momenta.append(basis.momenta(z, w) * split(scaling.scale)[0] / scaling.time_scale)
    torch.testing.assert_close(rates[1], rates[0] * unit / time)
    torch.testing.assert_close(momenta[1], momenta[0] * length / time)


def test_free_motion_is_where_learning_starts():
    """With ``l = 0`` nothing accelerates, and of one degree of freedom the mass is one."""
    scaling = canonical(1)
    basis = basis_of(NetworkEnergy(1, (5,)), scaling)
    w, x = torch.zeros(basis.num_weights).double(), randn(7, 2, seed=1)
    z = scaling.to_scaled(x)
    rate = -covector(basis.slope(z, w)) * scaling.velocity_scale
    torch.testing.assert_close(rate, join(x[:, 1:], 0.0 * x[:, 1:]))
    torch.testing.assert_close(basis.value(z, w) * scaling.energy_scale, x[:, 1] ** 2 / 2)
    unit = scaling.scale[:1] / scaling.time_scale
    torch.testing.assert_close(basis.momenta(z, w) * unit, x[:, 1:])


@pytest.mark.parametrize("num_dof", [1, 2, 3, 4])
def test_masses_are_inverted_where_they_can_be_and_continued_elsewhere(num_dof):
    matrix = randn(20, num_dof, num_dof)
    matrix, right = matrix + matrix.mT, randn(20, num_dof, seed=1)
    exact = torch.linalg.solve(matrix, right)
    torch.testing.assert_close(continued_solve(matrix, right, 0.0), exact)
    heavy = matrix @ matrix.mT + 0.3 * torch.eye(num_dof).double()
    exact = torch.linalg.solve(heavy, right)
    torch.testing.assert_close(continued_solve(heavy, right, 0.3), exact)
    assert torch.autograd.gradgradcheck(
        lambda m, b: continued_solve(m + m.mT, b, 0.3),
        (0.5 * matrix[:3].clone().requires_grad_(), right[:3].clone().requires_grad_()),
    )


@pytest.mark.parametrize("num_dof", [1, 2, 3, 4])
def test_the_continued_inverse_is_symmetric_and_positive_definite(num_dof):
    """Of indefinite and singular matrices too: force and acceleration never point apart."""
    matrix = randn(30, num_dof, num_dof)
    values, vectors = torch.linalg.eigh(matrix + matrix.mT)
    values[:10, 0] = 0.0
    matrix = vectors @ torch.diag_embed(values) @ vectors.mT
    eye = torch.eye(num_dof).double().expand(30, -1, -1)
    inverse = torch.stack([continued_solve(matrix, b, 0.1) for b in eye.unbind(1)], -1)
    torch.testing.assert_close(inverse, inverse.mT)
    torch.testing.assert_close(inverse @ matrix, matrix @ inverse)
    assert bool((torch.linalg.cholesky_ex(inverse)[1] == 0).all())


def test_the_continued_inverse_rises_as_masses_fall_through_zero():
    """Twice differentiable at the floor, and no way down leads to smaller accelerations."""
    mass = torch.linspace(-3.0, 3.0, 601).double()
    inverse = continued_solve(mass.view(-1, 1, 1), torch.ones(601, 1).double(), 0.2).squeeze(1)
    assert bool((inverse > 0).all()) and bool((inverse.diff() < 0).all())
    floor = torch.tensor([0.2 - 1e-9, 0.2 + 1e-9]).double()
    derivatives = [
        torch.func.vmap(d)(floor)
        for d in (
            torch.func.grad(_reciprocal),
            torch.func.grad(torch.func.grad(_reciprocal)),
        )
    ]
    for found, exact in zip(derivatives, (-25.0, 250.0), strict=True):
        torch.testing.assert_close(found, torch.full_like(floor, exact), rtol=1e-6, atol=0.0)


def _reciprocal(mass):
    return continued_solve(mass.view(1, 1), torch.ones(1).to(mass), 0.2)[0]


@pytest.mark.parametrize("kind", ["network", "kan"])
@pytest.mark.parametrize(
    ("shape", "several"),
    [((), False), ((5,), False), ((2, 3), False), ((3, 4), True), ((3, 1, 2), False)],
)
def test_written_velocity_rows_are_the_recorded_ones(kind, shape, several):
    """Values, and their derivatives by states and weights."""
    basis = basis_of(LEARNED[kind](2)).function
    w = weights_of(basis, 3)
    w = w if several else w[0]
    z = 0.5 * randn(*shape, 4, seed=1)
    seeds = torch.eye(4).double()[2:]
    results = []
    for rows in (velocity_rows, lambda f, a, b: recorded(f, a, b, seeds)):
        leaves = z.clone().requires_grad_(), w.clone().requires_grad_()
        slope, found = rows(basis, *leaves)
        total = (slope * (1.0 + slope)).sum() + found.pow(2).sum()
        results.append([slope, found, *torch.autograd.grad(total, leaves)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def recorded(function, z, w, seeds):
    if w.dim() > 1:
        return _recorded_rows(function, z, w, seeds)
    slope, rows = _recorded_rows(function, z.reshape(1, -1, 4), w.unsqueeze(0), seeds)
    return slope.reshape(z.shape), rows.reshape(*z.shape[:-1], 2, 4)


def test_angles_of_the_function_are_angles_of_the_field():
    energy = LagrangianEnergy(NetworkEnergy(1, (6,), periodic=(0,)))
    assert energy.angles == {0: pytest.approx(2.0 * torch.pi)}
    scaling = canonical(1)
    energy = energy.in_units(scaling)
    basis = energy.basis({k: v.median for k, v in energy.hyperpriors(scaling.spread).items()})
    w, x = weights_of(basis, 1)[0], randn(4, 2, seed=1)
    turned = x + tensor([2.0 * torch.pi, 0.0])
    torch.testing.assert_close(
        basis.slope(scaling.to_scaled(turned), w), basis.slope(scaling.to_scaled(x), w)
    )


def test_functions_and_floors_are_checked():
    with pytest.raises(ValueError, match="function: expected a scalar function of the state"):
        LagrangianEnergy(FreeEnergy(1))
    with pytest.raises(ValueError, match="floor: expected a finite number"):
        LagrangianEnergy(NetworkEnergy(1), floor=-1.0)
    with pytest.raises(ValueError, match="velocity_lengthscale: expected a positive number"):
        LagrangianEnergy(NetworkEnergy(1), velocity_lengthscale=0.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": 32}, "hidden: expected widths"),
        ({"floor": "a"}, "floor: expected a finite number of at least 0, got 'a'"),
        ({"network": "kan", "order": "a"}, "order: expected a whole number of at least 3, got 'a'"),
        (
            {"network": "kan", "activation": "tanh"},
            'activation: expected None beside network="kan"',
        ),
        (
            {"network": "kan", "velocity_lengthscale": 2.0},
            'velocity_lengthscale: expected None beside network="kan"',
        ),
        ({"velocity_lengthscale": -1.0}, "velocity_lengthscale: expected a positive number"),
        ({"grid": 5}, 'grid: expected None beside network="mlp", which has none, got 5'),
        ({"order": 3}, 'order: expected None beside network="mlp"'),
    ],
)
def test_the_shortcut_refuses_what_it_cannot_use(settings, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        LNN(**settings)


@pytest.mark.parametrize("num_dof", [1, 2, 3, 4])
def test_without_a_floor_singular_masses_give_no_number(num_dof):
    """And disturb no other state."""
    matrix = torch.eye(num_dof).double() + torch.zeros(3, 1, 1).double()
    matrix[1, 0, 0] = 0.0
    right = randn(3, num_dof)
    found = continued_solve(matrix, right, 0.0)
    assert not bool(found[1].isfinite().all())
    torch.testing.assert_close(found[::2], right[::2])


def test_a_path_through_singular_masses_is_lost():
    """One of three masses is ``q_1``, which is zero."""
    text = "q1*p1**2/2 + p2**2/2 + p3**2/2"
    basis = formula(text, 3).in_units(CanonicalScaling.from_spread(*plain_units(3))).basis({})
    x = randn(2, 6)
    x[1, 0] = 0.0
    rate = basis.slope(x, x.new_zeros(0))
    assert bool(rate[0].isfinite().all()) and not bool(rate[1].isfinite().all())


# Learned from pairs.


@pytest.mark.parametrize("num_dof", [1, 2])
def test_a_search_that_begins_at_a_negative_mass_finds_the_positive_one(num_dof):
    """Solved exactly, accelerations shrink as a negative mass falls, and none leads back."""
    force = randn(20, num_dof)
    mass = torch.full((num_dof,), -0.5).double().requires_grad_()
    search = torch.optim.Adam([mass], 0.05)
    for _ in range(400):
        off = continued_solve(torch.diag(mass).expand(20, -1, -1), force, 0.1) - force
        search.zero_grad()
        (off.square().mean() + 1.0).log().backward()
        search.step()
    torch.testing.assert_close(mass, torch.ones_like(mass), atol=1e-3, rtol=0.0)


def test_large_accelerations_of_a_few_states_are_learned_without_singular_masses(monkeypatch):
    """Friction makes most states small and few large; Adam alone is to fit both."""
    monkeypatch.setattr("sympgp.inference.networks.base.affordable", lambda density: False)
    system = Duffing(1.0, alpha=1.0, beta=2.0)
    states = system.exact(randn(40, 2), torch.linspace(0.0, 5.0, 25).double()).flatten(0, 1)
    rates = system.vector_field(states)
    model = LNN(1, (32, 32), dissipation=Friction())
    posterior = fit(
        model, StateDerivatives(states, rates), inference=MAP(num_steps=400), progress=False
    )
    off = (posterior.vector_field(states).mean - rates)[:, 1]
    assert float(off.var()) < 0.01 * float(rates[:, 1].var())


@pytest.mark.slow
def test_a_kolmogorov_arnold_lagrangian_of_the_duffing_oscillator():
    """``H = p^2/2 + q^2/4 + q^4/16``: squared errors of accelerations within 2.05e-5.

    The figure published for a network of ten inner functions, on the training pairs.
    """
    system = Duffing(alpha=0.5, beta=0.25)
    times = torch.linspace(0.0, 5.0, 50).double()
    paths = RK4(0.02).solve(lambda t, x: system.vector_field(x), randn(80, 2), times)
    states = paths.flatten(0, 1)
    rates = system.vector_field(states)
    model = LNN(1, (10,), network="kan")
    engine = MAP(num_steps=2000, learning_rate=0.02)
    posterior = fit(model, StateDerivatives(states, rates), inference=engine, progress=False)
    error = posterior.vector_field(states).mean - rates
    assert float(error[:, 1].square().mean()) <= 2.05e-5
    assert float(error[:, 0].abs().max()) < 1e-12


def angular_momenta(system, q, v):
    """Of a double pendulum: ``M(q) v``."""
    (m1, m2), (l1, l2) = system.masses, system.lengths
    coupling = m2 * l1 * l2 * torch.cos(q[..., 0] - q[..., 1])
    first = (m1 + m2) * l1**2 * v[..., 0] + coupling * v[..., 1]
    return torch.stack([first, m2 * l2**2 * v[..., 1] + coupling * v[..., 0]], -1)


def gauges(q, degree):
    """Gradients of all monomials of q up to a degree, as columns over states and entries."""
    columns = []
    for a in range(degree + 1):
        for b in range(degree + 1 - a):
            if a + b:
                by_first = a * q[:, 0] ** max(a - 1, 0) * q[:, 1] ** b
                by_second = b * q[:, 0] ** a * q[:, 1] ** max(b - 1, 0)
                columns.append(torch.stack([by_first, by_second], -1).flatten())
    return torch.stack(columns, 1)


@pytest.mark.slow
def test_a_lagrangian_network_of_the_double_pendulum():
    """Its energy stays, the true one too, and momenta are the true ones up to ``c p + dF/dq``."""
    system = DoublePendulum()
    start = system.sample_initial(420, seed=0)  # at rest, so that p = v = 0
    times = torch.linspace(0.0, 10.0, 10).double()
    x = RK4(0.02).solve(lambda t, x: system.vector_field(x), start[:400], times).flatten(0, 1)
    states, accelerations = known(system, x)
    pairs = StateDerivatives(states, join(split(states)[1], accelerations))
    engine = MAP(num_steps=5000)
    posterior = fit(LNN(2), pairs, inference=engine, progress=False)

    rollouts = posterior.rollout(start[400:], torch.linspace(0.0, 10.0, 101), num_samples=1)
    own = rollouts.energy()[0]
    rest = posterior.hamiltonian(torch.zeros(1, 4)).mean
    assert bool(((own - own[:, :1]).abs() <= 1e-3 * (own[:, :1] - rest)).all())
    q, v = split(rollouts.samples[0])
    true = system.hamiltonian(join(q, angular_momenta(system, q, v)))
    highest = 2.0 * sum(system._torques)
    assert float((true - true[:, :1]).abs().max()) <= 0.01 * highest

    q, p = split(x)
    found = posterior.momenta(states).mean.flatten()
    columns = torch.cat([p.reshape(-1, 1), gauges(q, 8)], 1)
    fitted = torch.linalg.lstsq(columns, found.unsqueeze(1)).solution
    left = found - (columns @ fitted).squeeze(1)
    assert float(left.square().sum()) < 0.02 * float(found.square().sum())

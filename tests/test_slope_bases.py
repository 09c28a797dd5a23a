"""Fields that are not ``J grad H``: derivatives, what is refused, storage, training."""

import math

import matplotlib.pyplot as plt
import pytest
import torch
from problems import canonical, identity_scaling, randn, tensor
from torch.distributions import LogNormal

from sympgp import plots
from sympgp.dissipation import Conservative, Friction
from sympgp.energies import (
    DissipativeNetworkEnergy,
    FourierEnergy,
    FreeEnergy,
    LagrangianEnergy,
    NetworkEnergy,
    PhysicsEnergy,
    Pooled,
    SlopeBasis,
    SumEnergy,
    dropout_factors,
    initial_weights,
    last_layer,
)
from sympgp.energies.slope import covector
from sympgp.fields import HamiltonianField
from sympgp.inference import MAP, fit
from sympgp.inputs import LearnedInputs
from sympgp.integrators import DiscreteGradient, GaussLegendre4, Leapfrog, Tao
from sympgp.models import DHNN, LNN, HamiltonianModel, NeuralODE
from sympgp.noise import GaussianNoise
from sympgp.phase_space import symplectic_matrix
from sympgp.posterior import load
from sympgp.posterior.parts import plain, rebuilt
from sympgp.rollouts import solve_rollouts
from sympgp.systems import Pendulum
from sympgp.trajectories import StateDerivatives


class Swirl(SlopeBasis):
    """``g_i = w_1 z_i^2 z_(i+1) + w_2 sin(w_3 z_(i-1))``: of no energy, and not linear in w."""

    num_weights = 3
    prior_variance = tensor([1.0, 1.0, 1.0])

    def slope(self, z, w):
        w1, w2, w3 = (w[..., None, :] if w.dim() > 1 else w).split(1, -1)
        return w1 * z**2 * z.roll(-1, -1) + w2 * torch.sin(w3 * z.roll(1, -1))


def network(num_dof, **settings):
    return NetworkEnergy(num_dof, (6, 5), "softplus", **settings)


ENERGIES = {
    "free": lambda n: FreeEnergy(n, (6, 5)),
    "free-angle": lambda n: FreeEnergy(n, (6,), periodic=(0,)),
    "dissipative": lambda n: DissipativeNetworkEnergy(network(n), network(n, periodic=(0,))),
    "lagrangian": lambda n: LagrangianEnergy(network(n)),
    "lagrangian-fourier": lambda n: LagrangianEnergy(FourierEnergy(n, 3)),
    "sum": lambda n: SumEnergy([FourierEnergy(n, 3), FreeEnergy(n, (4,))]),
}
CASES = [
    ("free", 1),
    ("free-angle", 2),
    ("dissipative", 2),
    ("lagrangian", 1),
    ("lagrangian", 2),
    ("lagrangian-fourier", 1),
    ("sum", 2),
]
NUM_DRAWS, NUM_POINTS = 3, 4
every_kind = pytest.mark.parametrize("kind", ENERGIES)
every_case = pytest.mark.parametrize(("kind", "num_dof"), CASES)


def basis_of(kind, num_dof=1, scaling=None):
    scaling = canonical(num_dof, seed=2) if scaling is None else scaling
    energy = ENERGIES[kind](num_dof).in_units(scaling)
    priors = energy.hyperpriors(scaling.spread)
    return energy.basis({name: prior.median for name, prior in priors.items()})


def field_of(kind, num_dof=1, damping=None, scaling=None):
    scaling = canonical(num_dof, seed=2) if scaling is None else scaling
    dissipation = (Conservative() if damping is None else damping).scaled(scaling)
    return HamiltonianField(basis_of(kind, num_dof, scaling), dissipation)


def drawn(basis, num=NUM_DRAWS, seed=1):
    return 0.3 * basis.prior_variance.sqrt() * randn(num, basis.num_weights, seed=seed)


def check_derivatives(basis, z, w):
    """All derivatives of a basis against automatic ones of its gradient map."""

    def slope(x, weights):
        return basis.gradient_map(weights)(x)

    def at(x, weights):
        return slope(x.unsqueeze(0), weights).squeeze(0)

    dim, pull = z.shape[-1], randn(*z.shape, seed=7)
    known = basis.linearized(z, w)
    found = known.pull_back(pull)
    together = slope(z, w)
    for s in range(len(w)):
        by_state = torch.stack([torch.func.jacrev(at, 0)(x, w[s]) for x in z[s]])
        by_weight = torch.stack([torch.func.jacrev(at, 1)(x, w[s]) for x in z[s]])
        torch.testing.assert_close(together[s], slope(z[s], w[s]))
        torch.testing.assert_close(known.slope[s], together[s])
        torch.testing.assert_close(known.hessian[s], by_state)
        torch.testing.assert_close(basis.hessian(z[s], w[s]), by_state)
        torch.testing.assert_close(basis.feature_gradient(z[s], w[s]), by_weight)
        torch.testing.assert_close(found[s], torch.einsum("bd,bdp->p", pull[s], by_weight))
        rest = basis.remainder(z[s], w[s])
        torch.testing.assert_close(by_weight @ w[s] + rest, together[s])
    stages, weights = z[:, :2], randn(len(z), dim, 2, dim, seed=6)
    each = basis.feature_gradient(stages, w[0])
    expected = torch.einsum("bosd,bsdp->bop", weights, each)
    torch.testing.assert_close(basis.weighted_gradient(stages, weights, w[0]), expected)


@pytest.mark.parametrize("dim", [2, 4])
def test_a_written_slope_is_differentiated(dim):
    """With a derivative by the states that is not symmetric."""
    basis, w = Swirl(), randn(NUM_DRAWS, 3)
    z = randn(NUM_DRAWS, NUM_POINTS, dim, seed=1)
    check_derivatives(basis, z, w)
    hessian = basis.hessian(z[0], w[0])
    assert float((hessian - hessian.mT).abs().max()) > 0.1


@every_case
def test_derivatives_of_every_kind(kind, num_dof):
    basis = basis_of(kind, num_dof)
    z = 0.6 * randn(NUM_DRAWS, NUM_POINTS, 2 * num_dof, seed=4)
    check_derivatives(basis, z, drawn(basis))


@every_case
def test_transformed_maps_and_fields_turn_the_slope(kind, num_dof):
    field = field_of(kind, num_dof)
    w, z = drawn(field.basis), randn(NUM_DRAWS, 5, 2 * num_dof, seed=4)
    matrix = randn(NUM_DRAWS, 2 * num_dof, 2 * num_dof, seed=5)
    slope = field.basis.gradient_map(w)
    turned = slope.transformed(symplectic_matrix(num_dof)).transformed(matrix)
    expected = slope(z) @ (matrix @ symplectic_matrix(num_dof)).mT
    torch.testing.assert_close(turned(z), expected)
    torch.testing.assert_close(turned.first()(z[:1]), expected[:1])
    rate = field.bind(w)(0.0, z)
    torch.testing.assert_close(covector(rate), slope(z))


@every_case
def test_jacobians_of_fields_do_not_take_the_slope_for_a_gradient(kind, num_dof):
    """With friction too: ``df/dz``, ``df/dtheta`` and the pull-back, by autograd of the field."""
    field = field_of(kind, num_dof, Friction())
    theta = torch.cat([drawn(field.basis), tensor([[0.3], [0.1], [0.2]])], 1)
    z = 0.6 * randn(NUM_DRAWS, NUM_POINTS, 2 * num_dof, seed=4)
    pull = randn(*z.shape, seed=7)
    known = field.linearized(z, theta)
    found = known.pull_back(pull)

    def rate(x, parameters):
        return field.bind(parameters)(0.0, x.unsqueeze(0)).squeeze(0)

    for s in range(NUM_DRAWS):
        by_state = torch.stack([torch.func.jacrev(rate, 0)(x, theta[s]) for x in z[s]])
        by_parameter = torch.stack([torch.func.jacrev(rate, 1)(x, theta[s]) for x in z[s]])
        torch.testing.assert_close(known.jacobian[s], by_state)
        torch.testing.assert_close(field.jacobian(z[s], theta[s]), by_state)
        torch.testing.assert_close(field.parameter_jacobian(z[s], theta[s]), by_parameter)
        torch.testing.assert_close(found[s], torch.einsum("bd,bdp->p", pull[s], by_parameter))


@pytest.mark.parametrize("kind", ["free", "dissipative", "lagrangian"])
def test_slices_of_parameters_are_pulled_back_to_while_nothing_is_recorded(kind):
    """As in the backward pass of a path, where weights are a slice of what is differentiated."""
    field = field_of(kind, 1, Friction())
    theta = torch.cat([drawn(field.basis), tensor([[0.3], [0.1], [0.2]])], 1)
    z, pull = randn(2, NUM_DRAWS, NUM_POINTS, 2, seed=4)
    expected = field.linearized(z, theta).pull_back(pull)
    leaf = theta.clone().requires_grad_()
    with torch.no_grad():
        torch.testing.assert_close(field.linearized(z, leaf).pull_back(pull), expected)


@every_kind
def test_energies_are_there_or_refused(kind):
    basis = basis_of(kind)
    z, w = randn(NUM_POINTS, 2, seed=4), drawn(basis)[0]
    if basis.has_energy:
        expected = torch.func.jacrev(lambda v: basis.value(z, v))(w)
        torch.testing.assert_close(basis.features(z, w), expected)
        return
    for ask in (basis.value, basis.features):
        with pytest.raises(TypeError, match="a field without an energy"):
            ask(z, w)


def test_two_networks_are_a_rotation_and_a_slope():
    """``f = J grad H + grad D``, its energy H: it falls where ``grad H . grad D`` is negative."""
    basis = basis_of("dissipative", 2)
    w, z = drawn(basis)[0], randn(6, 4, seed=4)
    own, other = basis.split(w)

    def slope(part, weights):
        return torch.func.vmap(torch.func.grad(lambda x: part.value(x, weights)))(z)

    grad_h, grad_d = slope(basis.energy, own), slope(basis.potential, other)
    rate = HamiltonianField(basis, Conservative().scaled(identity_scaling(2))).bind(w)(0.0, z)
    torch.testing.assert_close(rate, grad_h @ symplectic_matrix(2).mT + grad_d)
    torch.testing.assert_close(basis.value(z, w), basis.energy.value(z, own))


def test_free_fields_reach_constants_and_are_periodic_in_angles():
    scaling = canonical(1, seed=2)
    basis = basis_of("free-angle", 1, scaling)
    w, x = drawn(basis)[0], randn(5, 2, seed=1)
    turned = x + tensor([2.0 * torch.pi, 0.0])
    slope = basis.slope(scaling.to_scaled(x), w)
    torch.testing.assert_close(basis.slope(scaling.to_scaled(turned), w), slope)
    constant = torch.zeros_like(w)
    constant[-2:] = tensor([2.0, -3.0])
    torch.testing.assert_close(basis.slope(x, constant), covector(tensor([2.0, -3.0]).expand(5, 2)))


@pytest.mark.parametrize("kind", ["free", "dissipative", "lagrangian"])
def test_training_begins_anywhere_but_at_zero_and_drops_units(kind):
    basis = basis_of(kind, 2)
    generator = torch.Generator().manual_seed(0)
    start = initial_weights(basis, 4, generator)
    assert start.shape == (4, basis.num_weights) and start.dtype == torch.float64
    assert bool((start.std(0)[last_layer(basis)] > 0).any())
    factors = dropout_factors(basis, 0.5, 200, generator)
    assert set(factors.unique().tolist()) == {0.0, 1.0, 2.0}
    assert factors.mean().item() == pytest.approx(1.0, abs=0.05)
    kept = dropout_factors(basis, 0.0, 2, generator)
    torch.testing.assert_close(kept, torch.ones_like(kept))


def test_a_dropped_unit_of_a_free_field_acts_on_no_output():
    """Where all units of the last layer are dropped only the constants are left."""
    basis = basis_of("free", 1)
    factors = basis.dropout(0.6, 400, torch.Generator().manual_seed(1))
    above = factors[:, basis.last_layer][:, :-2].reshape(400, 2, 5)
    torch.testing.assert_close(above[:, 0], above[:, 1])
    lost = factors[(above == 0).all(-1).all(-1)]
    assert len(lost)
    w, z = drawn(basis)[0], randn(7, 2)
    found = basis.slope(z, w * lost[0])
    torch.testing.assert_close(found, covector(w[-2:].expand(7, 2)))


@pytest.mark.parametrize("kind", ["free", "free-angle", "dissipative", "lagrangian"])
def test_bases_can_be_written_and_read(kind):
    basis = basis_of(kind, 2)
    again = rebuilt(plain(basis, "energy"))
    z, w = randn(3, 4), drawn(basis)[0]
    assert type(again) is type(basis) and again.num_weights == basis.num_weights
    torch.testing.assert_close(again.slope(z, w), basis.slope(z, w), rtol=0, atol=0)


@every_kind
def test_single_precision_stays_single(kind):
    scaling = canonical(2, seed=2).to(dtype=torch.float32)
    basis = basis_of(kind, 2, scaling)
    double = basis_of(kind, 2)
    w = drawn(double)
    z = 0.6 * randn(NUM_DRAWS, NUM_POINTS, 4, seed=4)
    known = basis.linearized(z.float(), w.float())
    exact = double.linearized(z, w)
    assert basis.prior_variance.dtype == torch.float32
    for found, expected in zip(known[:2], exact[:2], strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)
    assert known.pull_back(z.float()).dtype == torch.float32


@pytest.mark.parametrize("kind", ["free", "dissipative", "lagrangian"])
def test_methods_for_gradients_of_energies_refuse_other_fields(kind):
    field = field_of(kind, scaling=identity_scaling())
    bound = field.bind(drawn(field.basis, 2))
    assert not bound.conservative and not bound.canonical
    z0 = 0.1 * randn(2, 3, 2)
    for method in (DiscreteGradient(0.1), Tao(0.1), Leapfrog(0.1)):
        with pytest.raises(ValueError, match="not made of the gradient of an energy"):
            method.solve(bound, z0, [0.0, 0.1])
    paths, diverged = solve_rollouts(bound, z0, [0.0, 0.1, 0.2], GaussLegendre4(0.1))
    assert paths.shape == (2, 3, 3, 2) and not bool(diverged.any())


def test_parts_have_to_be_scalar():
    with pytest.raises(ValueError, match="energy: expected a scalar function"):
        DissipativeNetworkEnergy(FreeEnergy(1), NetworkEnergy(1))
    with pytest.raises(ValueError, match=r"potential: expected one for 1 degree"):
        DissipativeNetworkEnergy(NetworkEnergy(1), NetworkEnergy(2))


POOLED = PhysicsEnergy("p**2/2 - k*cos(q)", {"k": Pooled(LogNormal(0.0, 1.0))})


@pytest.mark.parametrize("part", [POOLED, POOLED + NetworkEnergy(1, (4,))])
def test_functions_that_differ_by_trajectory_are_refused(part):
    for make in (LagrangianEnergy, lambda p: DissipativeNetworkEnergy(NetworkEnergy(1), p)):
        with pytest.raises(ValueError, match="expected one function for all trajectories"):
            make(part)


def test_sums_with_free_fields_are_not_scalar():
    with pytest.raises(ValueError, match="function: expected a scalar function"):
        LagrangianEnergy(NetworkEnergy(1, (4,)) + FreeEnergy(1, (4,)))


def test_nominal_parameters_reach_the_energy():
    physics = PhysicsEnergy("p**2/2 - k*cos(q)", {"k": LogNormal(0.0, 1.0)})
    energy = DissipativeNetworkEnergy(physics + FourierEnergy(1, 3), NetworkEnergy(1, (4,)))
    prepared = energy.prepare(randn(5, 2), tensor([0.7]))
    assert prepared.energy._nominal.tolist() == [0.7]


@pytest.mark.parametrize("kind", ["free", "dissipative", "sum"])
def test_no_dissipation_stands_beside_fields_that_have_their_own(kind):
    energy = ENERGIES[kind](1)
    assert HamiltonianModel(energy).num_dof == 1
    with pytest.raises(ValueError, match=r"dissipation: expected Conservative\(\) beside a field"):
        HamiltonianModel(energy, Friction())


# Whole fits: what posteriors of such fields say, and what they refuse.


MODELS = {
    "free": lambda noise: NeuralODE(1, (12,), noise=noise),
    "dissipative": lambda noise: DHNN(1, (8,), noise=noise),
    "lagrangian": lambda noise: LNN(1, (8,), noise=noise),
}


@pytest.fixture(scope="module")
def fitted():
    """Posteriors of quick fits to pairs of a pendulum, whose momenta are its velocities."""
    system = Pendulum(mass=1.0, length=1.0, gravity=3.0)
    x = 1.2 * randn(60, 2)
    pairs = StateDerivatives(x, system.vector_field(x))
    engine, noise = MAP(num_steps=150, learning_rate=0.02), GaussianNoise(std=0.1)
    return {
        kind: fit(make(noise), pairs, inference=engine, progress=False)
        for kind, make in MODELS.items()
    }


@pytest.mark.parametrize("kind", MODELS)
def test_fields_are_learned(kind, fitted):
    posterior = fitted[kind]
    rate = posterior.vector_field(posterior.data.states).mean
    error = (rate - posterior.data.derivatives).square().mean(0)
    assert bool((error < 0.1 * posterior.data.derivatives.square().mean(0)).all())
    if kind == "lagrangian":
        torch.testing.assert_close(rate[:, 0], posterior.data.states[:, 1])


@pytest.mark.parametrize("kind", MODELS)
def test_posteriors_answer_all_but_what_has_no_meaning(kind, fitted, tmp_path):
    posterior = fitted[kind]
    assert posterior.has_energy == (kind != "free")
    assert "of d q / dt" in posterior.summary()
    rollouts = posterior.rollout([[0.5, 0.0]], [0.0, 0.5, 1.0], num_samples=3)
    x = randn(4, 2, seed=5)
    draws = posterior.sample(2)
    asked = [
        lambda: posterior.hamiltonian(x),
        rollouts.energy,
        lambda: draws.energy(x),
        lambda: plots.hamiltonian(posterior),
        lambda: plots.energy(rollouts),
    ]
    for ask in asked:
        if kind == "free":
            with pytest.raises(TypeError, match=r"without an energy|no energies"):
                ask()
        else:
            ask()
    assert plots.vector_field(posterior) is not None
    plt.close("all")
    assert ("energy" in rollouts.to_xarray()) == (kind != "free")
    posterior.save(tmp_path / "fit.pt")
    again = load(tmp_path / "fit.pt")
    torch.testing.assert_close(again.vector_field(x).mean, posterior.vector_field(x).mean)


def test_momenta_are_those_of_lagrangians(fitted):
    posterior = fitted["lagrangian"]
    x = randn(4, 2, seed=5)
    found = posterior.momenta(x)
    step = 1e-5 * tensor([0.0, 1.0])
    rise = posterior.hamiltonian(x + step).mean - posterior.hamiltonian(x - step).mean
    change = posterior.momenta(x + step).mean - posterior.momenta(x - step).mean
    # dE/dv = v dp/dv, whatever the gauge
    torch.testing.assert_close(rise, x[:, 1] * change.squeeze(1), rtol=1e-4, atol=1e-9)
    assert found.mean.shape == found.stddev.shape == (4, 1)
    assert not bool(found.stddev.any())  # one network has no spread
    for kind in ("free", "dissipative"):
        with pytest.raises(TypeError, match="momenta: expected the posterior of a Lagrangian"):
            fitted[kind].momenta(x)


def test_shortcuts_check_their_arguments():
    with pytest.raises(ValueError, match='network: expected "mlp" or "kan"'):
        LNN(1, network="gru")
    with pytest.raises(ValueError, match="order: expected a whole number of at least 3"):
        LNN(1, network="kan", order=2)
    assert LNN(2, periodic=(1,)).energy.angles == {1: pytest.approx(2.0 * torch.pi)}


@pytest.mark.slow
@pytest.mark.parametrize("make", [NeuralODE, DHNN, LNN])
def test_inputs_act_beside_what_is_learned(make):
    """A driven pendulum of unit mass: torques enter dp/dt, and dv/dt of a Lagrangian."""
    system = Pendulum(mass=1.0, length=1.0, gravity=3.0)
    pushes = [lambda t, k=k: 3.0 * math.sin((2.0 + 0.3 * k) * t + k) for k in range(15)]
    data = system.simulate(15, noise_std=0.02, inputs=pushes, input_matrix=[[1.0]])
    model = make(1, (16,), inputs=LearnedInputs(1), noise=GaussianNoise(std=0.02))
    engine = MAP(num_steps=400, learning_rate=0.02)
    posterior = fit(model, data, inference=engine, progress=False)
    gain = posterior.input_matrix(torch.zeros(1, 2).double()).mean
    assert gain.flatten().tolist() == pytest.approx([0.0, 1.0], abs=0.2)

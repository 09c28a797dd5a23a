"""Separable energies: kinetic parts, functions of one half of the state, and their sums."""

import pytest
import torch
from problems import canonical, hyperparameters, randn, tensor

from sympgp import SSGP, fit
from sympgp.energies import (
    FourierEnergy,
    KnownKinetic,
    PhysicsEnergy,
    QuadraticKinetic,
    SeparableBasis,
    SeparableEnergy,
    SumEnergy,
)
from sympgp.phase_space import CanonicalScaling
from sympgp.systems import Pendulum

MASSES = [1.7, [0.6, 2.0], [[2.0, 0.7], [0.7, 1.1]]]
KINETIC = [
    *(KnownKinetic(mass, 2) for mass in MASSES),
    QuadraticKinetic(1),
    QuadraticKinetic(2),
    QuadraticKinetic(3),
    QuadraticKinetic(3, diagonal=True),
]


def kinetic_basis(kinetic):
    return kinetic.in_units(canonical(kinetic.num_dof)).basis({})


def check_derivatives(basis, dim: int):
    """Everything written against automatic differentiation of the value, draws and single."""
    z, w = randn(3, 5, dim), randn(3, basis.num_weights, seed=1)
    leaf, own = z.clone().requires_grad_(), w.clone().requires_grad_()
    value = basis.value(leaf, own).sum()
    assert basis.value(leaf, own).shape == (3, 5)
    gradient, by_weights = torch.autograd.grad(
        value, (leaf, own), create_graph=True, materialize_grads=True
    )
    torch.testing.assert_close(basis.gradient_map(w)(z), gradient)
    single = torch.func.hessian(lambda x: basis.value(x, w[1]))
    hessian = torch.stack([single(x) for x in z[1]])
    torch.testing.assert_close(basis.hessian(z[1], w[1]), hessian)
    torch.testing.assert_close(basis.gradient_map(w[1])(z[1]), gradient[1])
    summed = basis.features(z[1], w[1]).sum(0)
    torch.testing.assert_close(summed, by_weights[1])
    pull, rows = randn(3, 5, dim, seed=3), randn(3, 2, 5, dim, seed=4)
    both = basis.linearized(z, w)
    torch.testing.assert_close(both.slope, gradient)
    torch.testing.assert_close(both.hessian[1], hessian)
    expected = torch.zeros_like(w)
    if basis.num_weights:
        (expected,) = torch.autograd.grad((pull * gradient).sum(), own, materialize_grads=True)
    torch.testing.assert_close(both.pull_back(pull), expected)
    slopes = basis.feature_gradient(z, w[1])
    assert slopes.shape == (3, 5, dim, basis.num_weights)
    mixed = torch.func.jacrev(lambda v: basis.gradient_map(v)(z[1]))(w[1])
    torch.testing.assert_close(slopes[1], mixed)
    expected = torch.einsum("bosd,bsdp->bop", rows, slopes)
    torch.testing.assert_close(basis.weighted_gradient(z, rows, w[1]), expected)
    rest = basis.remainder(z[1], w[1])
    rest = torch.zeros_like(z[1]) if rest is None else rest
    torch.testing.assert_close(slopes[1] @ w[1] + rest, gradient[1])


def check_separable(basis, dim: int):
    """No second derivative joins a coordinate and a momentum."""
    assert basis.separable
    w = randn(basis.num_weights, seed=2)
    mixed = basis.hessian(randn(6, dim), w)[:, : dim // 2, dim // 2 :]
    torch.testing.assert_close(mixed, torch.zeros_like(mixed))


@pytest.mark.parametrize("kinetic", KINETIC)
def test_derivatives_of_kinetic_energies(kinetic):
    basis = kinetic_basis(kinetic)
    check_derivatives(basis, 2 * kinetic.num_dof)
    check_separable(basis, 2 * kinetic.num_dof)
    assert not basis.linear
    assert basis.prior_variance.shape == (basis.num_weights,)


@pytest.mark.parametrize("kinetic", KINETIC)
def test_gradient_maps_multiply_from_the_left_and_take_draws(kinetic):
    dim, basis = 2 * kinetic.num_dof, kinetic_basis(kinetic)
    z, matrix = randn(3, 4, dim), randn(3, dim, dim, seed=1)
    plain = basis.gradient_map(randn(3, basis.num_weights, seed=2))
    moved = plain.transformed(matrix).transformed(matrix[0])
    torch.testing.assert_close(moved(z), plain(z) @ matrix.mT @ matrix[0].mT)
    torch.testing.assert_close(moved.first()(z[:1]), moved(z)[:1])


@pytest.mark.parametrize("mass", MASSES)
def test_a_known_kinetic_energy_is_that_of_user_units(mass):
    kinetic, scaling = KnownKinetic(mass, 2), canonical(2)
    basis, none = kinetic.in_units(scaling).basis({}), randn(0)
    matrix = torch.as_tensor(mass).double()
    matrix = matrix if matrix.dim() == 2 else torch.diag(matrix.expand(2))
    z = randn(7, 4)
    p = scaling.to_user(z)[:, 2:]
    energy = 0.5 * (p * torch.linalg.solve(matrix, p.mT).mT).sum(1)
    torch.testing.assert_close(scaling.energy_scale * basis.value(z, none), energy)
    velocity = scaling.velocity_scale[:2] * basis.gradient_map(none)(z)[:, 2:]
    torch.testing.assert_close(kinetic.momenta(p, velocity), p)
    assert basis.num_weights == 0


def test_weights_give_positive_mass_matrices_in_user_units():
    """T~ of any weights is ``p' M^-1 p / 2`` with the reported M; zero is a mass of order one."""
    scaling = canonical(3)
    kinetic = QuadraticKinetic(3)
    basis = kinetic.in_units(scaling).basis({})
    w = randn(4, basis.num_weights)
    mass = basis.mass_matrix(w)
    assert bool((torch.linalg.eigvalsh(mass) > 0).all())
    z = randn(4, 7, 6, seed=1)
    p = scaling.to_user(z)[..., 3:]
    energy = 0.5 * (p * torch.linalg.solve(mass, p.mT).mT).sum(-1)
    torch.testing.assert_close(scaling.energy_scale * basis.value(z, w), energy)
    eye = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(basis.inverse_mass(0.0 * w[0]), eye)
    torch.testing.assert_close(basis.mass_matrix(w[1]), mass[1])
    assert kinetic.momenta(p, p) is None


def test_every_positive_mass_matrix_has_weights():
    basis = kinetic_basis(QuadraticKinetic(3))
    root = randn(3, 3)
    wanted = root @ root.mT + 0.1 * torch.eye(3, dtype=torch.float64)
    lower = torch.linalg.cholesky(wanted)
    diagonal = lower.diagonal()
    rows, columns = torch.tril_indices(3, 3, -1)
    w = torch.cat([diagonal.log(), lower[rows, columns] / diagonal[rows]])
    torch.testing.assert_close(basis.inverse_mass(w), wanted)


def test_priors_of_the_mass_follow_the_arguments():
    kinetic = QuadraticKinetic(2, log_stddev=0.8, coupling=0.3)
    torch.testing.assert_close(kinetic_basis(kinetic).prior_variance, tensor([0.16, 0.16, 0.09]))
    diagonal = kinetic_basis(QuadraticKinetic(2, diagonal=True))
    matrix = diagonal.mass_matrix(randn(2))
    torch.testing.assert_close(matrix, torch.diag(matrix.diagonal()))


def float32(scaling: CanonicalScaling) -> CanonicalScaling:
    return scaling.to(dtype=torch.float32)


@pytest.mark.parametrize("kinetic", KINETIC[2:5])
def test_kinetic_energies_keep_the_precision_of_their_units(kinetic):
    n = kinetic.num_dof
    basis = kinetic.in_units(float32(canonical(n))).basis({})
    w = randn(basis.num_weights).float()
    assert basis.prior_variance.dtype == torch.float32
    assert basis.gradient_map(w)(randn(3, 2 * n).float()).dtype == torch.float32


@pytest.mark.parametrize("kinetic", KINETIC[2:5])
def test_kinetic_energies_stay_on_the_device_of_their_units(kinetic):
    """Meta tensors have a device but no memory, and do not mix with others."""
    n = kinetic.num_dof
    basis = kinetic.in_units(canonical(n).to(device="meta")).basis({})
    w, z = torch.empty(3, basis.num_weights, device="meta").double(), randn(3, 5, 2 * n).to("meta")
    both = basis.linearized(z, w)
    found = [*both[:2], both.pull_back(z), basis.value(z, w), basis.feature_gradient(z, w[0])]
    assert all(value.device.type == "meta" for value in found)


ONE_HALF = [
    {"num_dof": 1, "on": "q"},
    {"num_dof": 2, "on": "p"},
    {"num_dof": 2, "on": "q", "quadratic": False},
    {"num_dof": 2, "separable": 1.0},
    {"num_dof": 1, "separable": 1, "quadratic": False},
]


@pytest.mark.parametrize("settings", ONE_HALF)
@pytest.mark.parametrize("num_features", [1, 6, 7])
def test_fourier_energies_of_halves_of_the_state(settings, num_features):
    energy = FourierEnergy(num_features=num_features, **settings)
    basis, dim = energy.basis(hyperparameters(energy)), 2 * energy.num_dof
    check_derivatives(basis, dim)
    check_separable(basis, dim)
    assert len(basis.frequencies) == num_features
    slope = basis.gradient_map(randn(basis.num_weights))(randn(5, dim))
    reached = (slope.abs().amax(0) > 0).tolist()
    half = energy.num_dof
    if energy.on != "state":
        assert reached == [energy.on == "q"] * half + [energy.on == "p"] * half
        assert hyperparameters(energy)["lengthscale"].shape == (half,)
        assert "separable_scale" not in hyperparameters(energy)
    else:
        assert "signal_scale" not in hyperparameters(energy)
    again = energy.redraw(3)
    assert (again.on, again.separable) == (energy.on, energy.separable)


@pytest.mark.parametrize("on", ["q", "p"])
def test_the_kernel_of_one_half_is_the_squared_exponential_of_it(on):
    energy = FourierEnergy(2, 4000, on=on, quadratic=False)
    length, z = tensor([0.8, 1.7]), randn(10, 4, seed=3)
    basis = energy.basis({"lengthscale": length, "signal_scale": tensor(1.3)})
    features = basis.features(z)
    kernel = (features * basis.prior_variance) @ features.mT
    own = z[:, :2] if on == "q" else z[:, 2:]
    exact = 1.3**2 * torch.exp(-0.5 * ((own[:, None] - own) / length).square().sum(-1))
    torch.testing.assert_close(kernel, exact, atol=0.02, rtol=0)


def test_lengthscales_of_one_half_follow_its_channels():
    spread = tensor([0.5, 1.0, 2.0, 3.0])
    for on, own in (("q", spread[:2]), ("p", spread[2:])):
        priors = FourierEnergy(2, 4, on=on).hyperpriors(spread)
        torch.testing.assert_close(priors["lengthscale"].median, 2.0 * own)


def potential(num_dof: int, **settings):
    return FourierEnergy(num_dof, 5, on="q", **settings)


POSITIVE = torch.distributions.LogNormal(0.0, 0.5)
SPRING = PhysicsEnergy("k * q**2 / 2", {"k": POSITIVE})
QUARTIC = PhysicsEnergy("a * p**4", {"a": POSITIVE})
SEPARABLE = [
    lambda: SeparableEnergy(KnownKinetic(2.0), potential(2)),
    lambda: SeparableEnergy(KnownKinetic([[2.0, 0.3], [0.3, 1.0]]), potential(2, periodic=(1,))),
    lambda: SeparableEnergy(QuadraticKinetic(), potential(2, periodic=(0, 1), period=3.0)),
    lambda: SeparableEnergy(FourierEnergy(1, 4, on="p"), potential(1)),
    lambda: SeparableEnergy(KnownKinetic(0.7), SPRING),
    lambda: SeparableEnergy(QUARTIC, SumEnergy([SPRING, potential(1)])),
    lambda: SeparableEnergy(SumEnergy([KnownKinetic(), FourierEnergy(1, 3, on="p")]), potential(1)),
]


def in_units(energy):
    return energy.in_units(canonical(energy.num_dof))


@pytest.mark.parametrize("make", SEPARABLE)
def test_separable_energies_are_the_sums_of_their_parts(make):
    energy = in_units(make())
    basis, dim = energy.basis(hyperparameters(energy)), 2 * energy.num_dof
    assert isinstance(basis, SeparableBasis)
    check_separable(basis, dim)
    check_derivatives(basis, dim)
    w, z = randn(basis.num_weights, seed=1), randn(6, dim)
    slope = basis.gradient_map(w)(z)
    swapped = torch.cat([z[:, : dim // 2], z[:, dim // 2 :].flip(0)], 1)
    forces = basis.gradient_map(w)(swapped)[:, : dim // 2]
    torch.testing.assert_close(forces, slope[:, : dim // 2])
    again = SeparableBasis(basis.parts, basis.names)
    torch.testing.assert_close(again.gradient_map(w)(z), slope)


def test_separable_energies_name_their_hyperparameters_by_part():
    energy = in_units(SeparableEnergy(FourierEnergy(1, 4, on="p"), potential(1)))
    scales = ("lengthscale", "signal_scale", "quadratic_scale")
    expected = [f"{part}.{name}" for part in ("kinetic", "potential") for name in scales]
    assert list(hyperparameters(energy)) == expected
    other = energy.redraw(9)
    assert isinstance(other, SeparableEnergy)
    ours, theirs = (e.basis(hyperparameters(e)).parts[1].frequencies for e in (energy, other))
    assert not torch.equal(ours, theirs)


def test_numbers_of_degrees_of_freedom_come_from_either_part():
    assert SeparableEnergy(KnownKinetic(2.0), potential(3)).num_dof == 3
    assert SeparableEnergy(QuadraticKinetic(2)).potential.num_dof == 2
    assert SeparableEnergy(QuadraticKinetic(), num_dof=4).kinetic.num_dof == 4


def test_a_known_mass_gives_momenta_and_others_do_not():
    velocity = randn(5, 2)
    known = SeparableEnergy(KnownKinetic([2.0, 3.0]), potential(2))
    torch.testing.assert_close(known.momenta(velocity, velocity), velocity * tensor([2.0, 3.0]))
    for kinetic in (QuadraticKinetic(), FourierEnergy(2, 3, on="p")):
        assert SeparableEnergy(kinetic, potential(2)).momenta(velocity, velocity) is None


def test_the_mass_matrix_is_found_among_all_weights():
    energy = in_units(SeparableEnergy(QuadraticKinetic(), potential(2)))
    basis = energy.basis(hyperparameters(energy))
    w = randn(4, basis.num_weights)
    torch.testing.assert_close(basis.mass_matrix(w), basis.parts[0].mass_matrix(w[:, :3]))
    known = in_units(SeparableEnergy(KnownKinetic(1.0), potential(1)))
    with pytest.raises(TypeError, match="QuadraticKinetic only"):
        known.basis(hyperparameters(known)).mass_matrix(w[:, :12])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: SeparableEnergy(KnownKinetic(), FourierEnergy(1, 3)),
            'with on="q", got on="state"',
        ),
        (lambda: SeparableEnergy(potential(1), potential(1)), 'with on="p", got on="q"'),
        (lambda: SeparableEnergy(KnownKinetic(), QuadraticKinetic()), "got a kinetic energy"),
        (lambda: SeparableEnergy(KnownKinetic([1.0, 2.0]), potential(1)), "num_dof=1, got 2"),
        (lambda: SeparableEnergy(FourierEnergy(2, 3, on="p"), potential(1)), "num_dof=1, got 2"),
        (
            lambda: in_units(SeparableEnergy(KnownKinetic(), PhysicsEnergy("q**2 + 0.1 * p"))),
            "potential: expected an energy that does not depend on momenta",
        ),
        (
            lambda: in_units(SeparableEnergy(PhysicsEnergy("p**2 * (2 + cos(q))"), potential(1))),
            "kinetic: expected an energy that does not depend on coordinates",
        ),
    ],
)
def test_parts_that_are_not_what_they_claim_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KnownKinetic(-1.0), "mass: expected positive numbers"),
        (lambda: KnownKinetic([1.0, 0.0]), "mass: expected positive numbers"),
        (lambda: KnownKinetic([1.0, 2.0], 3), r"mass: expected one number, \(3,\) or \(3, 3\)"),
        (lambda: KnownKinetic(float("nan")), "mass: expected finite numbers"),
        (lambda: KnownKinetic([[1.0, 2.0], [2.0, 1.0]]), "mass: expected a positive definite"),
        (lambda: KnownKinetic([[1.0, 0.2], [0.1, 1.0]]), "mass: expected a symmetric matrix"),
        (lambda: KnownKinetic(1.0, 0), "num_dof: expected a whole number of at least 1"),
        (lambda: QuadraticKinetic(log_stddev=0.0), "log_stddev: expected a positive number"),
        (lambda: QuadraticKinetic(coupling=-1.0), "coupling: expected a positive number"),
        (lambda: KnownKinetic(1.0, 2).in_units(canonical(1)), "expected one for num_dof=2, got 1"),
        (lambda: FourierEnergy(1, on="z"), 'on: expected "state", "q" or "p"'),
    ],
)
def test_parts_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_kinetic_energy_without_units_has_no_basis():
    with pytest.raises(RuntimeError, match="in_units"):
        KnownKinetic(1.0).basis({})


@pytest.mark.slow
def test_the_mass_of_a_pendulum_is_within_its_uncertainty():
    """H = 3 (1 - cos q) + p^2: the mass is a half."""
    energy = SeparableEnergy(QuadraticKinetic(), FourierEnergy(1, on="q", periodic=(0,)))
    posterior = fit(SSGP(energy=energy), Pendulum().simulate(5, seed=1), progress=False)
    component = posterior.components[0]
    num = component.field.num_weights
    draws = component.sample(200, torch.Generator().manual_seed(0)).theta[:, :num]
    mass = component.field.basis.mass_matrix(draws).flatten()
    assert abs(mass.mean() - 0.5) < 3.0 * mass.std()
    assert mass.std() < 0.05

"""Vector fields ``(J - R) grad H``: derivatives, symplectic features, their kernel, dissipation."""

import math

import pytest
import torch
from problems import canonical, identity_scaling, plain_field, randn, random_field, tensor
from torch.distributions import LogNormal

from sympgp.dissipation import Friction
from sympgp.energies import (
    Basis,
    FourierEnergy,
    PhysicsEnergy,
    independent_frequencies,
    quasi_random_frequencies,
)
from sympgp.fields import HamiltonianField
from sympgp.phase_space import symplectic_matrix

CASES = [(1, True), (1, False), (2, True), (3, False)]


@pytest.mark.parametrize(("num_dof", "friction"), CASES)
def test_symplectic_features_times_weights_are_the_field_of_the_energy(num_dof, friction):
    """``Psi(z) w = (J - R) grad H(z)``, the gradient by autograd."""
    field, theta = random_field(num_dof, friction=friction)
    z = randn(8, 2 * num_dof, seed=1)
    expected = torch.stack([plain_field(field, theta)(row) for row in z])
    w, rho = field.split(theta)
    torch.testing.assert_close(field.features(z, rho) @ w, expected)
    torch.testing.assert_close(field.bind(theta)(0.0, z), expected)


@pytest.mark.parametrize(("num_dof", "friction"), CASES)
def test_jacobians_in_state_and_parameters(num_dof, friction):
    field, theta = random_field(num_dof, friction=friction)
    z = randn(5, 2 * num_dof, seed=1)
    for row, state, parameter in zip(
        z, field.jacobian(z, theta), field.parameter_jacobian(z, theta), strict=True
    ):
        by_state = torch.func.jacrev(plain_field(field, theta))(row)
        torch.testing.assert_close(state, by_state)
        by_parameter = torch.func.jacrev(lambda t, x=row: plain_field(field, t)(x))(theta)
        torch.testing.assert_close(parameter, by_parameter)


def test_parameter_jacobians_take_any_batch():
    field, theta = random_field(2)
    z = randn(3, 4, 4)
    whole = field.parameter_jacobian(z, theta)
    assert whole.shape == (3, 4, 4, field.num_parameters)
    torch.testing.assert_close(whole[1], field.parameter_jacobian(z[1], theta))


def test_parameter_jacobians_of_damped_formulas_take_any_batch():
    scaling = canonical(1)
    energy = PhysicsEnergy("p**2/2 - k*cos(q)", {"k": LogNormal(0.0, 0.5)}).in_units(scaling)
    field = HamiltonianField(energy.basis({}), Friction().scaled(scaling))
    z, theta = randn(3, 4, 2), randn(field.num_parameters, seed=1)
    whole = field.parameter_jacobian(z, theta)
    torch.testing.assert_close(whole[1], field.parameter_jacobian(z[1], theta))


@pytest.mark.parametrize("friction", [True, False])
def test_draws_in_a_batch_are_each_its_own_field(friction):
    field, theta = random_field(2, friction=friction)
    draws = theta + 0.3 * randn(4, len(theta), seed=2)
    draws[:, field.num_weights :].abs_()
    z = randn(4, 6, 4)
    bound = field.bind(draws)
    for s in range(4):
        torch.testing.assert_close(bound(0.0, z)[s], field.bind(draws[s])(0.0, z[s]))
    torch.testing.assert_close(bound.first()(0.0, z[:1]), bound(0.0, z)[:1])


@pytest.mark.parametrize(("num_dof", "friction"), CASES)
def test_energy_never_rises(num_dof, friction):
    """``grad H . f = -grad H' R grad H``: at most zero with friction, zero without."""
    field, theta = random_field(num_dof, friction=friction)
    draws = theta + randn(20, len(theta), seed=2)
    draws[:, field.num_weights :].abs_()
    z = 3.0 * randn(20, 50, 2 * num_dof)
    gradient = field.basis.gradient_map(draws[:, : field.num_weights])(z)
    power = (gradient * field.bind(draws)(0.0, z)).sum(-1)
    rounding = 1e-14 * gradient.square().sum(-1)
    assert bool((power <= rounding).all())
    if friction:
        assert power.median() < -1e-3
    else:
        assert bool((power.abs() <= rounding).all())


def symplectic_kernel(structure, lengthscale, scale, z):
    """``(J - R) [grad grad' k] (J - R)'`` of the squared exponential k, at all pairs of states."""

    def k(x, y):
        return scale**2 * torch.exp(-0.5 * ((x - y) / lengthscale).square().sum())

    cross = torch.func.jacfwd(torch.func.jacrev(k, argnums=0), argnums=1)
    rows = [torch.stack([structure @ cross(x, y) @ structure.mT for y in z]) for x in z]
    return torch.stack(rows)


@pytest.fixture(scope="module")
def kernel_errors():
    """Root mean squared error of the features' kernel by number of features, over 12 seeds."""
    counts, z = [64, 256, 1024, 4096], randn(5, 2, seed=9)
    lengthscale, scale, rho = tensor([0.8, 1.7]), 1.5, tensor([0.4])
    damping = Friction().scaled(identity_scaling())
    structure = symplectic_matrix(1) - damping.matrix(rho)
    exact = symplectic_kernel(structure, lengthscale, scale, z)
    errors = {}
    for draw in (independent_frequencies, quasi_random_frequencies):
        errors[draw] = []
        for count in counts:
            squares = 0.0
            for seed in range(12):
                energy = FourierEnergy(
                    1, count, quadratic=False, separable=0.0, frequencies=draw, seed=seed
                )
                basis = energy.basis({"lengthscale": lengthscale, "signal_scale": tensor(scale)})
                psi = HamiltonianField(basis, damping).features(z, rho)
                weighted = psi * basis.prior_variance
                approximate = torch.einsum("adm,bem->abde", weighted, psi)
                squares += (approximate - exact).square().mean().item() / 12
            errors[draw].append(math.sqrt(squares))
    return tensor(counts), errors


def test_feature_kernel_tends_to_the_symplectic_kernel_at_the_monte_carlo_rate(kernel_errors):
    counts, errors = kernel_errors
    design = torch.stack([counts.log(), torch.ones_like(counts)], 1)
    logs = tensor(errors[independent_frequencies]).log()
    slope = torch.linalg.lstsq(design, logs[:, None]).solution[0].item()
    assert slope == pytest.approx(-0.5, abs=0.1)


def test_quasi_random_frequencies_are_closer_to_the_kernel(kernel_errors):
    _, errors = kernel_errors
    for plain, quasi in zip(*errors.values(), strict=True):
        assert quasi < plain


@pytest.mark.parametrize("friction", [True, False])
def test_weighted_jacobians_are_sums_over_stages(friction):
    """Both the Fourier basis's own summation and the plain one."""
    field, theta = random_field(2, friction=friction)
    z, weights = randn(5, 3, 4, seed=2), randn(5, 4, 3, 4, seed=3)
    expected = torch.einsum("bosd,bsdp->bop", weights, field.parameter_jacobian(z, theta))
    found = field.weighted_parameter_jacobian(z, weights, theta)
    torch.testing.assert_close(found, expected)
    plain = Basis.weighted_gradient(field.basis, z, weights)
    torch.testing.assert_close(field.basis.weighted_gradient(z, weights), plain)


def test_prior_precision_covers_weights_and_friction():
    field, theta = random_field(1)
    precision = field.prior_precision()
    assert precision.shape == theta.shape
    torch.testing.assert_close(precision[:-1], 1.0 / field.basis.prior_variance)
    torch.testing.assert_close(precision[-1:], field.dissipation.prior_stddev**-2)
    still, weights = random_field(1, friction=False)
    assert still.num_parameters == still.num_weights == len(weights)

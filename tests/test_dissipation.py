"""Friction in scaled units, positive semidefinite, one number for the user."""

import pytest
import torch
from problems import canonical, randn, tensor

from sympgp.dissipation import Conservative, Friction


@pytest.mark.parametrize("num_dof", [1, 2, 3])
def test_friction_is_carried_to_scaled_units(num_dof):
    """``R~ = kappa S^-1 diag(0, eta I) S^-1`` for one user coefficient eta."""
    scaling, eta = canonical(num_dof, seed=2), 0.7
    damping = Friction().scaled(scaling)
    assert damping.num_parameters == 1
    momentum = torch.cat([torch.zeros(num_dof), torch.ones(num_dof)]).double()
    inverse = torch.diag(1.0 / scaling.scale)
    expected = scaling.kappa * inverse @ torch.diag(eta * momentum) @ inverse
    rho = eta / damping.coefficients(tensor([1.0])).reshape(1)
    torch.testing.assert_close(damping.matrix(rho), expected)


def test_the_parameter_is_the_mean_scaled_entry():
    """So that its prior means the same whatever the units and the number of momenta."""
    damping = Friction().scaled(canonical(3))
    entries = damping.matrix(tensor([1.0])).diagonal()[3:]
    assert entries.mean().item() == pytest.approx(1.0)
    assert entries.std() > 0.1


@pytest.mark.parametrize("num_dof", [1, 2])
def test_matrices_of_draws_are_positive_semidefinite(num_dof):
    damping = Friction().scaled(canonical(num_dof))
    rho = randn(6, 1).abs()
    matrices = damping.matrix(rho)
    assert matrices.shape == (6, 2 * num_dof, 2 * num_dof)
    torch.testing.assert_close(matrices, matrices.mT)
    assert torch.linalg.eigvalsh(matrices).min() >= 0.0
    torch.testing.assert_close(matrices[3], damping.matrix(rho[3]))


def test_no_dissipation_has_no_parameters():
    damping, none = Conservative().scaled(canonical(2)), torch.zeros(7, 0).double()
    assert damping.num_parameters == 0
    assert torch.equal(damping.matrix(none), torch.zeros(7, 4, 4).double())
    assert damping.coefficients(none).tolist() == [0.0] * 7


def test_users_see_one_number():
    scaling = canonical(2)
    damping = Friction().scaled(scaling)
    assert damping.coefficients(tensor([0.3])).shape == ()
    found = damping.coefficients(tensor([[0.3], [0.6]]))
    assert found.shape == (2,)
    assert (found[1] / found[0]).item() == pytest.approx(2.0)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_prior_scales_that_are_not_positive_are_refused(scale):
    with pytest.raises(ValueError, match="prior_scale: expected a positive number, got"):
        Friction(prior_scale=scale)


def test_the_prior_scale_is_that_of_the_scaled_entry():
    assert Friction(prior_scale=0.2).scaled(canonical(2)).prior_stddev.tolist() == [0.2]

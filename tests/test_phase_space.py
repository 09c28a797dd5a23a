"""Phase space: the symplectic form, (q, p) order, and changes of unit that keep both."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import canonical, randn, tensor

from sympgp.dissipation import Friction
from sympgp.phase_space import CanonicalScaling, join, split, symplectic_matrix


@pytest.mark.parametrize("num_dof", [1, 2, 3])
def test_symplectic_matrix_is_a_complex_structure(num_dof):
    J = symplectic_matrix(num_dof)
    assert torch.equal(J.mT, -J)
    assert torch.equal(J @ J, -torch.eye(2 * num_dof, dtype=torch.float64))
    assert symplectic_matrix(num_dof, dtype=torch.float32).dtype == torch.float32


def test_the_symplectic_gradient_is_hamiltons_equations():
    """``dq/dt = dH/dp`` and ``dp/dt = -dH/dq``, coordinates first."""
    gradient = tensor([1.0, 2.0, 3.0, 4.0])  # dH/dq1, dH/dq2, dH/dp1, dH/dp2
    dq, dp = split(symplectic_matrix(2) @ gradient)
    assert dq.tolist() == [3.0, 4.0] and dp.tolist() == [-1.0, -2.0]


def test_join_undoes_split():
    x = randn(5, 3, 6)
    q, p = split(x)
    assert torch.equal(q, x[..., :3]) and torch.equal(p, x[..., 3:])
    assert torch.equal(join(q, p), x)


@pytest.mark.parametrize("num_dof", [1, 2, 3])
@given(seed=st.integers(0, 1000))
def test_canonical_scaling_keeps_the_symplectic_form(num_dof, seed):
    """``kappa S^-1 J S^-1 = J``: Hamilton's equations stay Hamilton's equations."""
    scaling = canonical(num_dof, seed)
    J, inverse = symplectic_matrix(num_dof), torch.diag(1.0 / scaling.scale)
    torch.testing.assert_close(scaling.kappa * inverse @ J @ inverse, J)


def test_one_degree_of_freedom_is_standardised():
    spread = tensor([0.02, 300.0])
    scaling = CanonicalScaling.from_spread(tensor([1.0, 2.0]), spread, tensor(1.0), tensor(0.0))
    torch.testing.assert_close(scaling.scale, spread)
    torch.testing.assert_close(scaling.spread, torch.ones_like(spread))


def test_several_degrees_of_freedom_share_the_mean_product():
    """Each pair keeps its ratio of spreads; what is left of them multiplies to one."""
    spread = tensor([1.0, 2.0, 3.0, 10.0])
    scaling = CanonicalScaling.from_spread(0 * spread, spread, tensor(1.0), tensor(0.0))
    q, p = split(scaling.spread)
    torch.testing.assert_close(q, p)
    torch.testing.assert_close((q * p).prod(), tensor(1.0))
    torch.testing.assert_close(scaling.scale * scaling.spread, spread)


def test_states_go_there_and_back():
    scaling, x = canonical(2), randn(7, 3, 4)
    torch.testing.assert_close(scaling.to_user(scaling.to_scaled(x)), x)
    assert scaling.to_scaled(scaling.center).abs().max() == 0.0


def test_scaled_times_count_from_the_origin():
    scaling = canonical()
    times = scaling.to_scaled_time(scaling.time_origin + scaling.time_scale * randn(5))
    torch.testing.assert_close(times, randn(5))


@pytest.mark.parametrize("num_dof", [1, 2, 3])
def test_energy_and_friction_carried_to_scaled_units_give_the_users_field(num_dof):
    """``(J - R) grad H`` in user units from ``H~ = tau H / kappa`` and the scaled friction."""
    scaling, eta = canonical(num_dof, seed=4), 0.3
    curvature, cubic = randn(2 * num_dof, 2 * num_dof), randn(2 * num_dof, seed=1)

    def energy(x):
        return 0.5 * x @ curvature @ x + (cubic @ x) ** 3 / 6

    def scaled_energy(z):
        return energy(scaling.to_user(z)) / scaling.energy_scale

    damping = Friction().scaled(scaling)
    R = damping.matrix(eta / damping.unit)
    J = symplectic_matrix(num_dof)
    friction = eta * torch.diag(join(torch.zeros(num_dof), torch.ones(num_dof))).double()
    x = randn(2 * num_dof, seed=2)
    expected = (J - friction) @ torch.func.grad(energy)(x)
    rate = (J - R) @ torch.func.grad(scaled_energy)(scaling.to_scaled(x))
    torch.testing.assert_close(scaling.velocity_scale * rate, expected)


@pytest.mark.parametrize("num_dof", [1, 2])
def test_units_with_one_kappa_do_not_show_in_scaled_states(num_dof):
    """Coordinates and momenta in other units, every product q p changed alike."""
    factors = (0.5 * randn(num_dof)).exp()
    units = join(factors, 25.0 / factors)
    spread, center, x = randn(2 * num_dof).exp(), randn(2 * num_dof, seed=1), randn(4, 2 * num_dof)
    time = (tensor(1.0), tensor(0.0))
    before = CanonicalScaling.from_spread(center, spread, *time)
    after = CanonicalScaling.from_spread(units * center, units * spread, *time)
    torch.testing.assert_close(after.to_scaled(units * x), before.to_scaled(x))
    torch.testing.assert_close(after.spread, before.spread)
    torch.testing.assert_close(after.kappa, 25.0 * before.kappa)


def test_a_copy_in_another_type_has_everything_in_it():
    copy = canonical(2).to(dtype=torch.float32)
    parts = (copy.center, copy.scale, copy.time_scale, copy.time_origin, copy.spread, copy.kappa)
    assert {part.dtype for part in parts} == {torch.float32}

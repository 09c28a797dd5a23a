"""Fourier energies: derivatives against autograd, the prior's kernel, hyperparameters."""

import math

import pytest
import torch
from problems import hyperparameters, randn, tensor

from sympgp.energies import FourierEnergy, independent_frequencies, quasi_random_frequencies
from sympgp.phase_space import symplectic_matrix

CASES = [(1, True), (1, False), (2, True), (3, False)]


def basis_of(num_dof: int, quadratic: bool = True, num_features: int = 7):
    energy = FourierEnergy(num_dof, num_features, quadratic=quadratic, seed=1)
    return energy.basis(hyperparameters(energy))


@pytest.mark.parametrize(("num_dof", "quadratic"), CASES)
def test_gradients_are_those_of_the_value(num_dof, quadratic):
    basis = basis_of(num_dof, quadratic)
    z, w = randn(9, 2 * num_dof), randn(basis.num_weights, seed=1)
    leaf = z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(basis.value(leaf, w).sum(), leaf)
    torch.testing.assert_close(basis.feature_gradient(z) @ w, gradient)
    torch.testing.assert_close(basis.gradient_map(w)(z), gradient)


@pytest.mark.parametrize(("num_dof", "quadratic"), CASES)
def test_every_draw_of_a_batch_has_its_own_gradient(num_dof, quadratic):
    basis = basis_of(num_dof, quadratic)
    z, w = randn(4, 9, 2 * num_dof), randn(4, basis.num_weights, seed=1)
    gradients = basis.gradient_map(w)(z)
    assert gradients.shape == z.shape
    for s in range(4):
        torch.testing.assert_close(gradients[s], basis.gradient_map(w[s])(z[s]))
    leaf = z.clone().requires_grad_()
    (expected,) = torch.autograd.grad(basis.value(leaf, w).sum(), leaf)
    torch.testing.assert_close(gradients, expected)


@pytest.mark.parametrize(("num_dof", "quadratic"), CASES)
def test_hessian_is_that_of_the_value(num_dof, quadratic):
    basis = basis_of(num_dof, quadratic)
    z, w = randn(5, 2 * num_dof), randn(basis.num_weights, seed=1)
    expected = torch.stack([torch.func.hessian(lambda x: basis.value(x, w))(row) for row in z])
    torch.testing.assert_close(basis.hessian(z, w), expected)


def test_transformed_gradient_maps_multiply_from_the_left():
    basis = basis_of(2)
    z, w = randn(3, 6, 4), randn(3, basis.num_weights, seed=1)
    plain = basis.gradient_map(w)
    J, own = symplectic_matrix(2), randn(3, 4, 4, seed=2)
    torch.testing.assert_close(plain.transformed(J)(z), plain(z) @ J.mT)
    twice = plain.transformed(J).transformed(own)
    torch.testing.assert_close(twice(z), (plain(z) @ J.mT) @ own.mT)
    torch.testing.assert_close(twice.first()(z[:1]), twice(z)[:1])


def test_values_at_shared_states_take_all_draws():
    basis = basis_of(1)
    z, w = randn(5, 2), randn(3, basis.num_weights, seed=1)
    values = basis.value(z.expand(3, 5, 2), w)
    torch.testing.assert_close(values, (basis.features(z) @ w.mT).mT)


def kernel_error(frequencies, num_features: int, seed: int) -> float:
    """Mean squared error of the features' kernel over pairs of states, D = 2."""
    energy = FourierEnergy(
        1, num_features, quadratic=False, separable=0.0, frequencies=frequencies, seed=seed
    )
    lengthscale = tensor([0.8, 1.7])
    basis = energy.basis({"lengthscale": lengthscale, "signal_scale": tensor(1.5)})
    z = randn(12, 2, seed=99)
    features = basis.features(z)
    approximate = (features * basis.prior_variance) @ features.mT
    distance = (z[:, None] - z) / lengthscale
    exact = 1.5**2 * torch.exp(-0.5 * distance.square().sum(-1))
    return (approximate - exact).square().mean().item()


def test_feature_kernel_tends_to_the_squared_exponential():
    """At the Monte Carlo rate for independent frequencies, faster for quasi-random ones."""
    counts = [32, 128, 512, 2048]
    errors = {
        draw: [
            math.sqrt(sum(kernel_error(draw, m, seed) for seed in range(12)) / 12) for m in counts
        ]
        for draw in (independent_frequencies, quasi_random_frequencies)
    }

    def slope(values):
        logs = tensor([[math.log(m), 1.0] for m in counts])
        return torch.linalg.lstsq(logs, tensor(values).log()[:, None]).solution[0].item()

    assert slope(errors[independent_frequencies]) == pytest.approx(-0.5, abs=0.12)
    assert slope(errors[quasi_random_frequencies]) < -0.7
    for plain, quasi in zip(*errors.values(), strict=True):
        assert quasi < plain


def test_separable_points_add_the_kernels_of_coordinates_and_momenta():
    """``separable^2 (k(q, q') + k(p, p')) + signal^2 k(z, z')``, two degrees of freedom."""
    energy = FourierEnergy(2, 6000, quadratic=False, separable=0.6)
    lengthscale = tensor([0.8, 1.7, 2.0, 1.1])
    scales = {"signal_scale": tensor(0.7), "separable_scale": tensor(1.3)}
    basis = energy.basis({"lengthscale": lengthscale, **scales})
    z = randn(10, 4, seed=3)
    features = basis.features(z)
    kernel = (features * basis.prior_variance) @ features.mT
    squares = ((z[:, None] - z) / lengthscale).square()
    q, p, both = (torch.exp(-0.5 * part.sum(-1)) for part in (*squares.split(2, -1), squares))
    torch.testing.assert_close(kernel, 1.3**2 * (q + p) + 0.7**2 * both, atol=0.02, rtol=0)


def test_separable_points_alone_give_forces_that_do_not_mix():
    """Of V(q) + T(p), dH/dq depends on q alone and dH/dp on p alone."""
    energy = FourierEnergy(2, 40, quadratic=False, separable=0.9)
    basis = energy.basis(
        {k: prior.median for k, prior in energy.hyperpriors(randn(4).abs()).items()}
    )
    w = randn(basis.num_weights)
    joint = 40 - 2 * energy.num_half
    w[:joint] = w[40 : 40 + joint] = 0.0
    mixed = basis.hessian(randn(5, 4, seed=1), w)[:, :2, 2:]
    assert energy.num_half == 18
    torch.testing.assert_close(mixed, torch.zeros_like(mixed))


def test_the_quadratic_part_reaches_every_quadratic_polynomial():
    basis = basis_of(2)
    num = 2 * basis.frequencies.shape[0]
    w = torch.zeros(basis.num_weights, dtype=torch.float64)
    w[num:] = randn(basis.num_weights - num)
    linear = w[num : num + 4]
    matrix = basis.hessian(torch.zeros(1, 4, dtype=torch.float64), w)[0]
    torch.testing.assert_close(matrix, matrix.mT)
    upper = matrix[tuple(torch.triu_indices(4, 4))]
    torch.testing.assert_close(upper, w[num + 4 :])
    z = randn(6, 4, seed=5)
    expected = z @ linear + 0.5 * ((z @ matrix) * z).sum(-1)
    torch.testing.assert_close(basis.value(z, w), expected)


def test_prior_variances_follow_the_hyperparameters():
    energy = FourierEnergy(2, 10, separable=0.4)
    values = {
        "lengthscale": tensor([1.0, 2.0, 3.0, 4.0]),
        "signal_scale": tensor(3.0),
        "separable_scale": tensor(2.0),
        "quadratic_scale": tensor(0.5),
    }
    basis = energy.basis(values)
    cosines, sines = basis.prior_variance[:10], basis.prior_variance[10:20]
    assert torch.equal(cosines, sines)
    assert cosines[:6].unique().item() == pytest.approx(3.0**2 / 6)
    assert cosines[6:].unique().item() == pytest.approx(2.0**2 / 2)
    assert basis.prior_variance[20:].unique().item() == pytest.approx(0.25)
    assert len(basis.prior_variance) == 20 + 4 + 10
    torch.testing.assert_close(basis.frequencies * values["lengthscale"], energy.base_frequencies)


def test_hyperpriors_follow_the_data():
    spread = tensor([0.5, 2.0])
    priors = FourierEnergy(1, 4).hyperpriors(spread)
    ratio = priors["lengthscale"].median / spread
    assert bool(((ratio >= 1.0) & (ratio <= 3.0)).all())
    plain = FourierEnergy(1, 4, quadratic=False, separable=0.0).hyperpriors(spread)
    assert set(plain) == {"lengthscale", "signal_scale"}
    assert set(FourierEnergy(1, 4).hyperpriors(spread)) == {
        "lengthscale",
        "signal_scale",
        "separable_scale",
        "quadratic_scale",
    }


@pytest.mark.parametrize("draw", [independent_frequencies, quasi_random_frequencies])
def test_frequencies_are_standard_normal_and_fixed_by_their_seed(draw):
    points = draw(4096, 3, 7)
    assert points.dtype == torch.float64
    assert points.mean(0).abs().max() < 0.06
    torch.testing.assert_close(points.T.cov(), torch.eye(3).double(), atol=0.08, rtol=0)
    assert torch.equal(points, draw(4096, 3, 7))
    assert not torch.equal(points, draw(4096, 3, 8))


def test_redrawing_changes_the_frequencies_only():
    settings = {"quadratic": False, "separable": 0.4, "frequencies": independent_frequencies}
    other = FourierEnergy(2, 6, **settings, seed=0).redraw(5)
    fresh = FourierEnergy(2, 6, **settings, seed=5)
    assert torch.equal(other.base_frequencies, fresh.base_frequencies)
    assert torch.equal(fresh.base_frequencies[:4], independent_frequencies(4, 4, 5))
    assert (other.num_dof, other.num_features, other.quadratic) == (2, 6, False)
    assert other.separable == 0.4


@pytest.mark.parametrize("settings", [{"num_dof": 0}, {"num_features": -1}, {"num_dof": True}])
def test_counts_below_one_are_refused(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name}: expected a whole number of at least 1"):
        FourierEnergy(**{"num_dof": 1, **settings})


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_shares_outside_the_unit_interval_are_refused(share):
    with pytest.raises(ValueError, match=r"separable: expected a share in \[0, 1\]"):
        FourierEnergy(1, separable=share)

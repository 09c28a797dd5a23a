"""Covariances of Hamiltonians and of their vector fields, against automatic differentiation."""

import math
from collections.abc import Callable

import gpytorch
import pytest
import torch
from gpytorch.kernels import (
    CosineKernel,
    LinearKernel,
    MaternKernel,
    PeriodicKernel,
    PiecewisePolynomialKernel,
    PolynomialKernel,
    RBFKernel,
    RBFKernelGrad,
    RQKernel,
    ScaleKernel,
)
from problems import hyperparameters, randn, tensor

from sympgp.dissipation import LinearDissipation
from sympgp.energies import FourierEnergy, independent_frequencies
from sympgp.kernels import (
    QuadraticKernel,
    SymplecticGP,
    SymplecticKernel,
    fourier_limit,
    symplectic_likelihood,
)
from sympgp.kernels.energy import EnergyKernel, PairwiseExpansion, from_plain
from sympgp.kernels.translation import energy_kernel
from sympgp.phase_space import symplectic_matrix

LENGTHSCALES = tensor([0.8, 1.7, 1.2, 0.6])


def squared(x, y, dims=slice(None)):
    return (((x - y) / LENGTHSCALES[: len(x)])[dims] ** 2).sum()


def rbf(x, y):
    return torch.exp(-0.5 * squared(x, y))


def matern52(x, y):
    r = (5.0 * squared(x, y)).sqrt()
    return (1.0 + r + r**2 / 3.0) * torch.exp(-r)


def matern32(x, y):
    r = (3.0 * squared(x, y)).sqrt()
    return (1.0 + r) * torch.exp(-r)


def rational(x, y):
    return (1.0 + squared(x, y) / (2.0 * 1.3)) ** -1.3


def quadratic(x, y):
    """Linear and quadratic features one by one, half on the diagonal."""
    rows, columns = torch.triu_indices(len(x), len(x))
    half = torch.where(rows == columns, 0.5, 1.0)
    return x @ y + (half**2 * x[rows] * x[columns] * y[rows] * y[columns]).sum()


def parts(x, y):
    """``2 k(q, q') + 0.7 k(x, x') + 0.3 quadratic``."""
    half = slice(0, len(x) // 2)
    return 2.0 * torch.exp(-0.5 * squared(x, y, half)) + 0.7 * rbf(x, y) + 0.3 * quadratic(x, y)


def periodic(x, y):
    sine = torch.sin(0.5 * (x[0] - y[0])) ** 2
    return torch.exp(-2.0 * sine / 0.9) * torch.exp(-0.5 * ((x[1] - y[1]) / 1.4) ** 2)


def scaled(kernel, dim: int):
    kernel.lengthscale = LENGTHSCALES[:dim]
    return kernel


def sum_of_parts(dim: int):
    half = RBFKernel(ard_num_dims=dim // 2, active_dims=tuple(range(dim // 2))).double()
    first = ScaleKernel(scaled(half, dim // 2)).double()
    second = ScaleKernel(scaled(RBFKernel(ard_num_dims=dim).double(), dim)).double()
    third = QuadraticKernel().double()
    first.outputscale, second.outputscale, third.variance = tensor(2.0), tensor(0.7), tensor(0.3)
    return first + second + third


def rational_quadratic(dim: int):
    kernel = scaled(RQKernel(ard_num_dims=dim).double(), dim)
    kernel.alpha = tensor(1.3)
    return kernel


def periodic_in_q(dim: int):
    first = PeriodicKernel(active_dims=(0,)).double()
    first.period_length, first.lengthscale = tensor(2.0 * math.pi), tensor(0.9)
    second = RBFKernel(active_dims=(1,)).double()
    second.lengthscale = tensor(1.4)
    return first * second


def rbf_kernel(dim: int):
    return scaled(RBFKernel(ard_num_dims=dim).double(), dim)


def matern_kernel(nu: float):
    return lambda dim: scaled(MaternKernel(nu, ard_num_dims=dim).double(), dim)


CASES: dict[str, tuple[Callable, Callable, int]] = {
    "rbf": (rbf_kernel, rbf, 2),
    "rbf, two degrees of freedom": (rbf_kernel, rbf, 4),
    "matern 5/2": (matern_kernel(2.5), matern52, 4),
    "matern 3/2": (matern_kernel(1.5), matern32, 2),
    "quadratic": (lambda dim: QuadraticKernel().double(), quadratic, 4),
    "sum": (sum_of_parts, parts, 4),
    "rational quadratic, by autograd": (rational_quadratic, rational, 4),
    "periodic times rbf, by autograd": (periodic_in_q, periodic, 2),
}


@pytest.fixture(params=CASES, ids=list(CASES))
def case(request) -> tuple[EnergyKernel, Callable, int]:
    """A kernel, the same as a function of two states, the width of the states."""
    make, plain, dim = CASES[request.param]
    base = make(dim)
    if request.param == "quadratic":
        base.variance = tensor(1.0)
    with torch.no_grad():
        return energy_kernel(base, dim), plain, dim


def pairwise(function: Callable, x, y):
    return torch.stack([torch.stack([function(a, b) for b in y]) for a in x])


@torch.no_grad()
def test_derivatives_are_those_of_the_covariance(case):
    kernel, plain, dim = case
    x, y = randn(4, dim), randn(3, dim, seed=1)
    torch.testing.assert_close(kernel.value(x, y), pairwise(plain, x, y))
    slope = torch.func.jacrev(plain, 1)
    torch.testing.assert_close(kernel.gradient(x, y), pairwise(slope, x, y))
    mixed = torch.func.jacrev(torch.func.jacrev(plain, 0), 1)
    torch.testing.assert_close(kernel.hessian(x, y), pairwise(mixed, x, y))


@torch.no_grad()
def test_at_coinciding_states_the_gradient_has_the_variance_of_a_difference_quotient(case):
    kernel, plain, dim = case
    x, step = randn(3, dim), 1e-4
    own = kernel.hessian_at(x)
    torch.testing.assert_close(kernel.variance_at(x), torch.stack([plain(a, a) for a in x]))
    all_pairs = kernel.hessian(x, x)
    torch.testing.assert_close(own, all_pairs[range(3), range(3)])
    for a, matrix in zip(x, own, strict=True):
        for d in range(dim):
            b = a.clone()
            b[d] += step
            quotient = (plain(a, a) + plain(b, b) - 2.0 * plain(a, b)) / step**2
            assert float(quotient) == pytest.approx(float(matrix[d, d]), rel=1e-3)


@torch.no_grad()
def test_gradients_of_the_energy_have_a_symmetric_positive_covariance(case):
    kernel, _, dim = case
    x = randn(8, dim)
    whole = kernel.hessian(x, x).transpose(1, 2).reshape(8 * dim, -1)
    torch.testing.assert_close(whole, whole.mT)
    assert float(torch.linalg.eigvalsh(whole).min()) > -1e-10


@torch.no_grad()
def test_expansions_sum_covariances(case):
    """One function at (B, D), and one for each of S draws at (S, B, D) or at shared states."""
    kernel, _, dim = case
    centers, z = randn(5, dim), randn(3, 4, dim, seed=1)
    u = randn(3, 5, dim, seed=2)
    plain, own = PairwiseExpansion(kernel, centers, u), kernel.expansion(centers, u)
    shared = z[0].expand(3, 4, dim)
    for states in (z, shared):
        torch.testing.assert_close(own.value(states), plain.value(states))
        torch.testing.assert_close(own.gradient(states), plain.gradient(states))
    single = kernel.expansion(centers, u[1])
    torch.testing.assert_close(single.value(z[1]), own.value(z)[1])
    torch.testing.assert_close(single.gradient(z[1]), own.gradient(z)[1])


@torch.no_grad()
def test_factors_multiply_everything(case):
    kernel, _, dim = case
    x, y = randn(3, dim), randn(2, dim, seed=1)
    twice = kernel.scaled(tensor(2.5))
    for name in ("value", "gradient", "hessian"):
        once = getattr(kernel, name)(x, y)
        torch.testing.assert_close(getattr(twice, name)(x, y), 2.5 * once)
    torch.testing.assert_close(twice.hessian_at(x), 2.5 * kernel.hessian_at(x))


@pytest.mark.parametrize("name", ["rbf", "matern 5/2", "sum", "rational quadratic, by autograd"])
def test_gradients_flow_to_the_kernels_parameters(name):
    """Also at coinciding states, where the distance itself has no derivative."""
    make, _, dim = CASES[name]
    base, x = make(dim), randn(3, dim)
    weight = randn(3, 3, dim, dim, seed=1)
    total = (weight * energy_kernel(base, dim).hessian(x, x)).sum()
    (slope,) = torch.autograd.grad(total, next(base.parameters()))
    assert bool(slope.isfinite().all())
    raw, step = next(base.parameters()), 1e-6
    change = []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            raw.flatten()[0] += sign * step
            change.append((weight * energy_kernel(base, dim).hessian(x, x)).sum())
            raw.flatten()[0] -= sign * step
    quotient = float(change[0] - change[1]) / (2.0 * step)
    assert float(slope.flatten()[0]) == pytest.approx(quotient, rel=1e-5)


@pytest.mark.parametrize("name", ["rbf", "matern 5/2", "matern 3/2", "sum"])
@torch.no_grad()
def test_waves_have_the_kernels_covariance(name):
    """``sum_m v_m cos(omega_m . (x - y))`` and the polynomials tend to k."""
    make, plain, dim = CASES[name]
    x, y = randn(6, dim), randn(5, dim, seed=1)
    exact = pairwise(plain, x, y)
    errors = []
    for count in (100, 10_000):
        basis = energy_kernel(make(dim), dim).spectrum(dim, count, 0).basis()
        found = (basis.features(x) * basis.prior_variance) @ basis.features(y).mT
        errors.append(float((found - exact).square().mean().sqrt()))
    assert errors[1] < 0.01 and errors[1] < 0.2 * errors[0]


@pytest.mark.parametrize("name", ["rbf", "matern 5/2", "sum"])
@torch.no_grad()
def test_kernels_come_back_from_their_description(name):
    make, _, dim = CASES[name]
    kernel = energy_kernel(make(dim), dim)
    again = from_plain(kernel.plain())
    x = randn(3, dim)
    assert torch.equal(again.hessian(x, x), kernel.hessian(x, x))
    with pytest.raises(ValueError, match="kind"):
        from_plain({"kind": "unknown"})


def friction_of(num_dof: int) -> LinearDissipation:
    matrix = torch.diag(torch.cat([torch.zeros(num_dof), torch.arange(1.0, num_dof + 1)])).double()
    return LinearDissipation(matrix[None], tensor([1.0]), tensor([0.5]))


@pytest.mark.parametrize("num_dof", [1, 2])
def test_fields_have_the_covariance_of_their_energies_gradients(num_dof):
    """``(J - R) [grad grad' k] (J - R)'`` at every pair of states, the outputs of one together."""
    dim = 2 * num_dof
    kernel = SymplecticKernel(rbf_kernel(dim), num_dof, friction=friction_of(num_dof)).double()
    kernel.friction = tensor([0.3])
    R = 0.3 * friction_of(num_dof).matrices[0]
    structure = symplectic_matrix(num_dof) - R
    x, y = randn(4, dim), randn(3, dim, seed=1)
    found = kernel(x, y).to_dense().detach()
    assert found.shape == (4 * dim, 3 * dim)
    mixed = torch.func.jacrev(torch.func.jacrev(rbf, 0), 1)
    for i, a in enumerate(x):
        for j, b in enumerate(y):
            block = found[i * dim : (i + 1) * dim, j * dim : (j + 1) * dim]
            torch.testing.assert_close(block, structure @ mixed(a, b) @ structure.mT)


def test_outputs_are_ordered_as_in_gpytorchs_own_derivative_kernels():
    base, own = rbf_kernel(2), RBFKernelGrad(ard_num_dims=2).double()
    own.lengthscale = LENGTHSCALES[:2]
    x = randn(4, 2)
    whole = own(x).to_dense().reshape(4, 3, 4, 3)
    J = symplectic_matrix(1)
    expected = torch.einsum("de,ieja,fa->idjf", J, whole[:, 1:, :, 1:], J).reshape(8, 8)
    kernel = SymplecticKernel(base, 1)
    torch.testing.assert_close(kernel(x).to_dense(), expected)
    cross = torch.einsum("ija,fa->ijf", whole[:, 0, :, 1:], J).reshape(4, 8)
    torch.testing.assert_close(kernel.cross_covariance(x, x), cross)
    torch.testing.assert_close(kernel.energy_covariance(x, x), base(x).to_dense())


def test_diagonals_need_no_matrix():
    kernel = SymplecticKernel(sum_of_parts(4), 2, friction=True).double()
    x = randn(5, 4)
    torch.testing.assert_close(kernel(x, diag=True), kernel(x).to_dense().diagonal())
    torch.testing.assert_close(kernel(x).diagonal(), kernel(x).to_dense().diagonal())


@pytest.mark.parametrize("base", [RBFKernel, PeriodicKernel])
def test_batches_of_kernels_are_each_its_own(base):
    shape = torch.Size([3])
    inner = base(ard_num_dims=2, batch_shape=shape)
    whole = SymplecticKernel(ScaleKernel(inner, batch_shape=shape), 1).double()
    with torch.no_grad():
        inner.lengthscale = randn(3, 1, 2).exp()
        whole.base_kernel.outputscale = randn(3, seed=1).exp()
    x, y = randn(3, 4, 2), randn(3, 5, 2, seed=1)
    assert whole.batch_shape == shape
    dense, diagonal = whole(x, y).to_dense(), whole(x, diag=True)
    shared = whole(x[0], y[0]).to_dense()
    for k in range(3):
        one = base(ard_num_dims=2)
        single = SymplecticKernel(ScaleKernel(one), 1).double()
        one.lengthscale = inner.lengthscale[k].detach()
        single.base_kernel.outputscale = whole.base_kernel.outputscale[k].detach()
        torch.testing.assert_close(dense[k], single(x[k], y[k]).to_dense())
        torch.testing.assert_close(diagonal[k], single(x[k], diag=True))
        torch.testing.assert_close(shared[k], single(x[0], y[0]).to_dense())


@torch.no_grad()
def test_the_divergence_of_a_conservative_field_has_no_variance():
    """``div f``, a linear functional of f, applied to both sides of the kernel."""
    kernel = SymplecticKernel(matern_kernel(2.5)(4), 2)

    def block(a, b):
        return kernel(a[None], b[None]).to_dense()

    def divergence(a, b):
        by_b = torch.func.jacrev(lambda v: torch.func.jacrev(block, 0)(a, v))(b)
        return torch.einsum("ijij->", by_b)

    x, y = randn(2, 4).unbind()
    assert abs(float(divergence(x, y))) < 1e-12


def feature_kernel_error(energy: FourierEnergy, hyper) -> float:
    """RMS error of ``Psi V Psi'`` against the kernel that features tend to."""
    z = randn(10, 2 * energy.num_dof, seed=9)
    basis = energy.basis(hyper)
    gradients = basis.feature_gradient(z).flatten(0, 1)
    found = (gradients * basis.prior_variance) @ gradients.mT
    exact = fourier_limit(energy, hyper).hessian(z, z).transpose(1, 2).reshape(found.shape)
    return float((found - exact).square().mean())


@pytest.mark.parametrize(
    ("num_dof", "settings"),
    [(1, {"quadratic": False, "separable": 0}), (2, {"quadratic": True, "separable": 0.6})],
)
def test_the_features_kernel_tends_to_the_exact_one(num_dof, settings):
    """At the Monte Carlo rate, for every part of the energy."""
    errors = []
    for count in (100, 1600):
        energies = [
            FourierEnergy(
                num_dof, count, frequencies=independent_frequencies, seed=seed, **settings
            )
            for seed in range(12)
        ]
        hyper = hyperparameters(energies[0])
        errors.append(sum(feature_kernel_error(e, hyper) for e in energies) / 12)
    assert math.log(errors[0] / errors[1]) / math.log(16.0) == pytest.approx(1.0, abs=0.25)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (MaternKernel(0.5), "not twice differentiable"),
        (ScaleKernel(MaternKernel(0.5)) + RBFKernel(), "not twice differentiable"),
        (PiecewisePolynomialKernel(q=0), "not twice differentiable"),
        (RBFKernel() * MaternKernel(0.5), "not twice differentiable"),
        (CosineKernel(), "does not find the derivatives of CosineKernel"),
        (RBFKernelGrad(), "one output"),
        (RBFKernel(ard_num_dims=3), "one lengthscale or 2, got 3"),
    ],
)
def test_energies_without_a_gradient_are_refused(base, message):
    with pytest.raises(ValueError, match=message):
        SymplecticKernel(base.double(), 1)


@pytest.mark.parametrize("base", [LinearKernel(), PolynomialKernel(power=2)])
def test_short_cuts_for_equal_arguments_do_not_mislead_autograd(base):
    kernel = SymplecticKernel(base.double(), 1)
    x = randn(3, 2)
    apart = kernel(x, x + 1e-9).to_dense()
    torch.testing.assert_close(kernel(x).to_dense(), apart, atol=1e-7, rtol=1e-7)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="num_dof: expected a whole number of at least 1, got 0"):
        SymplecticKernel(RBFKernel(), num_dof=0)
    with pytest.raises(ValueError, match="width 2"):
        SymplecticKernel(RBFKernel(), 1)(randn(3, 4)).to_dense()


def test_friction_is_a_positive_parameter_with_a_prior():
    kernel = SymplecticKernel(RBFKernel(), 1, friction=True)
    assert [name for name, *_ in kernel.named_priors()] == ["friction_prior"]
    for raw in (-30.0, 0.0, 30.0):
        kernel.initialize(raw_friction=torch.tensor([raw]))
        assert float(kernel.friction.detach()) >= 0.0
    kernel.friction = 0.25
    assert float(kernel.friction.detach()) == pytest.approx(0.25)
    torch.testing.assert_close(kernel.structure.detach(), torch.tensor([[0.0, 1.0], [-1.0, -0.25]]))
    assert len(SymplecticKernel(RBFKernel(), 1).friction) == 0


def pendulum_model(friction: bool = True):
    x = 1.5 * randn(25, 2)
    rates = torch.stack([x[:, 1], -x[:, 0].sin() - 0.2 * x[:, 1]], -1)
    rates = rates + 0.1 * randn(25, 2, seed=1)
    kernel = SymplecticKernel(ScaleKernel(RBFKernel(ard_num_dims=2)), 1, friction=friction)
    model = SymplecticGP(x, rates, kernel).double()
    model.likelihood.task_noises = tensor([0.01, 0.02])
    return model, x, rates


def test_gpytorchs_own_likelihood_and_predictions_are_those_of_dense_algebra():
    model, x, rates = pendulum_model()
    with torch.no_grad():
        K = model.covar_module(x).to_dense() + torch.diag(tensor([0.01, 0.02]).repeat(25))
        loss = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
        value = loss(model(x), rates) * 50 - model.covar_module.friction_prior.log_prob(
            model.covar_module.friction
        )
        expected = torch.distributions.MultivariateNormal(torch.zeros(50).double(), K)
        torch.testing.assert_close(
            value.squeeze(), expected.log_prob(rates.flatten()), rtol=1e-6, atol=1e-6
        )
        new = randn(4, 2, seed=5)
        found = model.eval()(new)
        cross = model.covar_module(new, x).to_dense()
        solved = torch.linalg.solve(K, torch.cat([rates.reshape(-1, 1), cross.mT], 1))
        torch.testing.assert_close(found.mean.flatten(), cross @ solved[:, 0], rtol=1e-5, atol=1e-6)
        cov = model.covar_module(new).to_dense() - cross @ solved[:, 1:]
        torch.testing.assert_close(found.covariance_matrix, cov, rtol=1e-4, atol=1e-6)


def test_gpytorchs_own_training_finds_the_friction():
    model, x, rates = pendulum_model()
    loss = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=40, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = -loss(model(x), rates).sum()
        value.backward()
        return value

    before = float(closure().detach())
    optimizer.step(closure)
    assert float(closure().detach()) < before - 0.1
    assert float(model.covar_module.friction.detach()) == pytest.approx(0.2, abs=0.08)


def test_models_refuse_other_shapes():
    kernel = SymplecticKernel(RBFKernel(), 1)
    with pytest.raises(ValueError, match=r"expected \(N, 2\) each"):
        SymplecticGP(randn(3, 4), randn(3, 4), kernel)
    assert symplectic_likelihood(2).num_tasks == 4

"""Periodic coordinates of Fourier energies: exact periods, kernels, derivatives, bad input."""

import math

import pytest
import torch
from problems import canonical, hyperparameters, randn, tensor
from scipy.special import ive

from sympgp import SSGP, Trajectories, fit
from sympgp.energies import (
    FourierEnergy,
    KnownKinetic,
    SeparableEnergy,
    independent_frequencies,
)
from sympgp.energies.spectral_points import LARGEST, SpectralPoints, log_wave_weights
from sympgp.systems import Pendulum

ONE_ANGLE = {"num_dof": 1, "periodic": (0,)}
CASES = [
    ONE_ANGLE,
    {"num_dof": 1, "periodic": (0,), "period": 3.7, "separable": 0.0},
    {"num_dof": 2, "periodic": (1,), "period": 2.0},
    {"num_dof": 2, "periodic": (0, 1), "period": (1.3, 4.0), "separable": 0.4},
    {"num_dof": 2, "periodic": (0, 1), "separable": 1.0, "quadratic": False},
    {"num_dof": 2, "periodic": (0,), "on": "q"},
    {"num_dof": 3, "periodic": (0, 1, 2), "on": "q"},
]


def in_units(num_features: int = 9, seed: int = 0, **settings):
    """An energy in the units of channels with different spreads, and its basis."""
    energy = FourierEnergy(num_features=num_features, seed=seed, **settings)
    scaling = canonical(energy.num_dof)
    energy = energy.in_units(scaling)
    return energy, scaling, energy.basis(hyperparameters(energy))


@pytest.mark.parametrize("settings", CASES)
def test_the_energy_repeats_after_whole_periods_in_user_units(settings):
    energy, scaling, basis = in_units(30, **settings)
    w = randn(basis.num_weights, seed=1)
    z, turns = randn(20, 2 * energy.num_dof, seed=2), torch.zeros(2 * energy.num_dof).double()
    for i, period in zip(energy.periodic, energy.period, strict=True):
        turns[i] = (1 + i) * period
    moved = scaling.to_scaled(scaling.to_user(z) + turns)
    for function in (lambda x: basis.value(x, w), basis.gradient_map(w)):
        before, after = function(z), function(moved)
        assert (after - before).abs().max() < 1e-12 * before.abs().max()
    moved = scaling.to_scaled(scaling.to_user(z) + 0.3 * turns)
    assert (basis.value(moved, w) - basis.value(z, w)).abs().max() > 0.01


@pytest.mark.parametrize("settings", CASES)
def test_derivatives_are_those_of_the_value(settings):
    energy, _, basis = in_units(**settings)
    dim = 2 * energy.num_dof
    z, w = randn(3, 5, dim), randn(3, basis.num_weights, seed=1)
    leaf = z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(basis.value(leaf, w).sum(), leaf)
    torch.testing.assert_close(basis.gradient_map(w)(z), gradient)
    torch.testing.assert_close(basis.feature_gradient(z[0]) @ w[0], gradient[0])
    single = torch.func.hessian(lambda x: basis.value(x, w[0]))
    hessian = torch.stack([single(x) for x in z[0]])
    torch.testing.assert_close(basis.hessian(z[0], w[0]), hessian)
    pull = randn(3, 5, dim, seed=3)
    both = basis.linearized(z, w)
    torch.testing.assert_close(both.slope, gradient)
    torch.testing.assert_close(both.hessian[0], hessian)
    expected = torch.einsum("sbd,sbdp->sp", pull, basis.feature_gradient(z))
    torch.testing.assert_close(both.pull_back(pull), expected)
    rows = randn(3, 2, 5, dim, seed=4)
    expected = torch.einsum("bosd,bsdp->bop", rows, basis.feature_gradient(z))
    torch.testing.assert_close(basis.weighted_gradient(z, rows), expected)


def test_waves_of_the_periodic_squared_exponential_are_its_fourier_coefficients():
    """Bessel functions of all orders, and their derivative by the lengthscale."""
    ratio = tensor([0.01, 0.1, 0.3, 1.0, 2.0, 10.0])
    orders = torch.arange(LARGEST + 1)
    expected = torch.as_tensor(ive(orders.numpy(), ratio.numpy()[:, None] ** -2.0))
    torch.testing.assert_close(log_wave_weights(ratio), expected.log(), rtol=1e-6, atol=1e-6)
    torch.autograd.gradcheck(log_wave_weights, ratio[1:5].clone().requires_grad_())


def exact_kernel(energy, scaling, z, lengthscale, columns):
    """Product of periodic and squared-exponential kernels over some entries of the state."""
    exponent = torch.zeros(len(z), len(z), dtype=z.dtype)
    for i in columns:
        gap = z[:, None, i] - z[:, i]
        if i in energy.periodic:
            unit = 2.0 * math.pi * scaling.scale[i] / energy.period[energy.periodic.index(i)]
            exponent += (1.0 - torch.cos(unit * gap)) / (unit * lengthscale[i]) ** 2
        else:
            exponent += 0.5 * (gap / lengthscale[i]) ** 2
    return torch.exp(-exponent)


def feature_kernel(basis, z):
    features = basis.features(z)
    return (features * basis.prior_variance) @ features.mT


def lengthscales(energy, scaling, ratio: float):
    """1.2 scaled units, and a multiple of a radian of every period."""
    values = torch.full((2 * energy.num_dof,), 1.2, dtype=torch.float64)
    for i, period in zip(energy.periodic, energy.period, strict=True):
        values[i] = ratio * period / (2.0 * math.pi * scaling.scale[i])
    return values


@pytest.mark.parametrize("ratio", [0.4, 1.0, 2.5])
def test_the_kernel_tends_to_the_product_of_periodic_and_squared_exponential(ratio):
    """At the Monte Carlo rate for independent spectral points."""
    counts, errors = [64, 256, 1024, 4096], []
    scaling, z = canonical(2), randn(10, 4, seed=9)
    for count in counts:
        squares = []
        for seed in range(6):
            energy = FourierEnergy(
                2,
                count,
                periodic=(1,),
                quadratic=False,
                separable=0.0,
                frequencies=independent_frequencies,
                seed=seed,
            ).in_units(scaling)
            length = lengthscales(energy, scaling, ratio)
            basis = energy.basis({"lengthscale": length, "signal_scale": tensor(1.5)})
            exact = 1.5**2 * exact_kernel(energy, scaling, z, length, range(4))
            squares.append((feature_kernel(basis, z) - exact).square().mean())
        errors.append(torch.stack(squares).mean().sqrt().log())
    logs = tensor([[math.log(m), 1.0] for m in counts])
    slope = torch.linalg.lstsq(logs, torch.stack(errors)[:, None]).solution[0].item()
    assert slope == pytest.approx(-0.5, abs=0.12)
    assert errors[-1].exp() < 0.05


@pytest.mark.parametrize("num_dof", [1, 2])
def test_functions_of_angles_alone_have_the_exact_kernel_up_to_a_constant(num_dof):
    scaling, z = canonical(num_dof), randn(10, 2 * num_dof, seed=9)
    angles = tuple(range(num_dof))
    energy = FourierEnergy(num_dof, 200, periodic=angles, on="q").in_units(scaling)
    length = lengthscales(energy, scaling, 0.8)[:num_dof]
    basis = energy.basis({"lengthscale": length, "signal_scale": tensor(1.5)})
    exact = 1.5**2 * exact_kernel(energy, scaling, z, length, angles)
    rest = feature_kernel(basis, z) - exact
    torch.testing.assert_close(rest, rest.mean().expand_as(rest), atol=1e-4, rtol=0)
    assert basis.num_weights == 2 * (LARGEST if num_dof == 1 else 200)


def test_separable_shares_work_with_angles():
    """V(q) + T(p) + U(q, p), the first without its constant."""
    scaling, z = canonical(1), randn(10, 2, seed=9)
    energy = FourierEnergy(1, 8000, periodic=(0,), separable=0.5, quadratic=False)
    energy = energy.in_units(scaling)
    length = lengthscales(energy, scaling, 0.9)
    scales = {"signal_scale": tensor(0.7), "separable_scale": tensor(1.3)}
    basis = energy.basis({"lengthscale": length, **scales})
    own = exact_kernel(energy, scaling, z, length, [0])
    own = own - ive(0, 0.9**-2) + exact_kernel(energy, scaling, z, length, [1])
    exact = 1.3**2 * own + 0.7**2 * exact_kernel(energy, scaling, z, length, [0, 1])
    torch.testing.assert_close(feature_kernel(basis, z), exact, atol=0.02, rtol=0)


def test_prior_variances_add_to_the_square_of_the_scale():
    energy, _, basis = in_units(40, num_dof=2, periodic=(0,), separable=0.0, quadratic=False)
    expected = hyperparameters(energy)["signal_scale"] ** 2
    torch.testing.assert_close(basis.prior_variance[:40].sum(), expected)
    assert bool((basis.prior_variance > 0).all())
    mild = energy.basis({**hyperparameters(energy), "lengthscale": tensor([50.0, 1.0, 1.0, 1.0])})
    assert bool((mild.prior_variance > 0).all())


def test_the_evidence_can_be_differentiated_in_the_lengthscales():
    energy, _, _ = in_units(num_dof=2, periodic=(1,))
    values, z = hyperparameters(energy), randn(4, 4)

    def total(length):
        basis = energy.basis({**values, "lengthscale": length})
        return feature_kernel(basis, z).sum()

    assert torch.autograd.gradcheck(total, values["lengthscale"].requires_grad_())


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({"num_dof": 2, "periodic": (0,)}, [1, 2, 3]),
        ({"num_dof": 2, "periodic": (0, 1)}, [2, 3]),
        ({"num_dof": 2, "periodic": (1,), "on": "q"}, [0]),
        ({"num_dof": 2, "periodic": (0, 1), "on": "q"}, []),
    ],
)
def test_the_polynomial_part_leaves_angles_out(settings, left):
    energy, _, basis = in_units(5, **settings)
    waves = 2 * len(basis.frequencies)
    count = len(left) + len(left) * (len(left) + 1) // 2
    assert basis.num_weights == waves + count
    assert ("quadratic_scale" in hyperparameters(energy)) == bool(left)
    w = randn(basis.num_weights)
    w[:waves] = 0.0
    slope = basis.gradient_map(w)(randn(6, 4))
    reached = slope.abs().amax(0) > 0
    assert reached.nonzero().flatten().tolist() == left


def test_lengthscales_start_within_a_radian_of_the_period():
    scaling = canonical(1)
    energy = FourierEnergy(**ONE_ANGLE).in_units(scaling)
    for spread in (0.01, 100.0):
        length = energy.hyperpriors(tensor([spread, 1.0]))["lengthscale"].median
        expected = min(2.0 * spread, 1.0 / float(scaling.scale[0]))
        torch.testing.assert_close(length, tensor([expected, 2.0]))


def test_short_whole_vectors_come_first_and_once():
    line = SpectralPoints.lattice(5, 1).base
    assert line.flatten().tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    plane = SpectralPoints.lattice(12, 2).base
    assert sorted(plane.square().sum(1).tolist()) == [1, 1, 2, 2, 4, 4, 5, 5, 5, 5, 8, 8]
    both = torch.cat([plane, -plane])
    assert len(both.unique(dim=0)) == 24


def test_units_survive_another_draw_and_are_needed():
    energy = FourierEnergy(2, 6, periodic=(1,), period=3.0)
    other = energy.in_units(canonical(2)).redraw(5)
    again = FourierEnergy(2, 6, periodic=(1,), period=3.0, seed=5).in_units(canonical(2))
    found, expected = (e.basis(hyperparameters(e)) for e in (other, again))
    assert torch.equal(found.frequencies, expected.frequencies)
    assert torch.equal(found.prior_variance, expected.prior_variance)
    for ask in (lambda: energy.hyperpriors(torch.ones(4)), lambda: energy.basis({})):
        with pytest.raises((RuntimeError, KeyError)):
            ask()
    with pytest.raises(RuntimeError, match="in_units"):
        energy.basis({"lengthscale": torch.ones(4), "signal_scale": tensor(1.0)})
    plain = FourierEnergy(1, 4)
    assert plain.in_units(canonical(1)) is plain


@pytest.mark.parametrize("settings", CASES)
def test_energies_stay_on_the_device_of_their_units(settings):
    """Meta tensors have a device but no memory, and do not mix with others."""
    energy = FourierEnergy(num_features=7, **settings)
    scaling = canonical(energy.num_dof).to(device="meta", dtype=torch.float32)
    energy = energy.in_units(scaling)
    priors = energy.hyperpriors(scaling.spread)
    basis = energy.basis({name: prior.median for name, prior in priors.items()})
    z, w = torch.empty(3, 5, len(scaling.scale), device="meta"), basis.prior_variance.expand(3, -1)
    both = basis.linearized(z, w)
    for value in (*both[:2], both.pull_back(z), basis.value(z, w), basis.features(z)):
        assert (value.device.type, value.dtype) == ("meta", torch.float32)


def test_periods_keep_to_their_coordinates():
    first = FourierEnergy(2, 6, periodic=(1, 0), period=(3.0, 5.0))
    assert (first.periodic, first.period) == ((0, 1), (5.0, 3.0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"periodic": (1,)}, "entry 1 of the state is the momentum of coordinate 0"),
        ({"periodic": (2,)}, "periodic: expected indices from 0 to 0, got 2"),
        ({"periodic": (-1,)}, "periodic: expected indices from 0 to 0, got -1"),
        ({"periodic": (0, 0)}, "periodic: expected every index once"),
        ({"periodic": (0,), "on": "p"}, "expected none for a function of momenta"),
        ({"periodic": (0,), "period": 0.0}, "period: expected positive numbers, got 0.0"),
        ({"periodic": (0,), "period": -2.0}, "period: expected positive numbers"),
        ({"periodic": (0,), "period": math.nan}, "period: expected positive numbers"),
        ({"periodic": (0,), "period": (1.0, 2.0)}, "expected one number or one for each of 1"),
    ],
)
def test_angles_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        FourierEnergy(1, 4, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("mass", [None, 0.5])
def test_a_whirling_pendulum_is_forecast_across_the_seam(mass):
    """Fitted to angles that turn many times over, started at others, to and fro and over."""
    pendulum = Pendulum()
    start = tensor([[0.0, 3.0], [0.2, 1.6], [0.5, -2.9], [1.0, 1.0], [-1.0, 2.8]])
    times = torch.arange(0.0, 10.0, 0.2, dtype=torch.float64)
    states = pendulum.exact(start, times)
    noisy = states + 0.1 * randn(*states.shape)
    energy = FourierEnergy(1, 100, periodic=(0,))
    if mass is not None:
        energy = SeparableEnergy(KnownKinetic(mass), FourierEnergy(1, periodic=(0,), on="q"))
    posterior = fit(SSGP(energy=energy), Trajectories([times] * 5, list(noisy)), progress=False)
    new = tensor([[0.3, 2.7], [1.5, 0.5], [-2.0, 0.5], [0.0, -3.2]])
    truth = pendulum.exact(new, times)
    error = (posterior.rollout(new, times, num_samples=20).mean - truth).square().mean()
    assert truth[..., 0].abs().max() > 20.0
    assert error < 0.1
    again = posterior.rollout(new + tensor([2 * math.pi, 0.0]), times, num_samples=20).mean
    moved = posterior.rollout(new, times, num_samples=20).mean + tensor([2 * math.pi, 0.0])
    torch.testing.assert_close(again, moved, rtol=1e-6, atol=1e-6)

"""Networks as energies: derivatives, periodicity, priors, dropout, storage."""

import math

import jaxtyping
import pytest
import torch
from problems import canonical, identity_scaling, randn

from sympgp.energies import (
    FourierEnergy,
    NetworkBasis,
    NetworkEnergy,
    NonlinearBasis,
    dropout_factors,
    has_layers,
    initial_weights,
    last_layer,
)
from sympgp.models import HNN
from sympgp.posterior import parts

KINDS = [
    pytest.param("tanh", (), id="tanh"),
    pytest.param("softplus", (1,), id="softplus, an angle"),
    pytest.param("silu", (0, 1), id="silu, angles"),
    pytest.param("sin", (), id="sin"),
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def medians(energy, num_dof: int) -> dict[str, torch.Tensor]:
    priors = energy.hyperpriors(torch.ones(2 * num_dof, dtype=torch.float64))
    return {name: prior.median for name, prior in priors.items()}


def network(activation: str = "tanh", periodic=(), hidden=(5, 4), num_dof: int = 2) -> NetworkBasis:
    energy = NetworkEnergy(num_dof, hidden, activation, periodic=periodic)
    energy = energy.in_units(canonical(num_dof, seed=3))
    return energy.basis(medians(energy, num_dof))


def explicit(basis: NetworkBasis, w: torch.Tensor) -> torch.nn.Sequential:
    """The same network out of the library's layers, with dropout after every activation."""
    layers: list[torch.nn.Module] = []
    start = 0
    for wide, out in zip(basis.widths[:-1], basis.widths[1:], strict=True):
        layer = torch.nn.Linear(wide, out, dtype=w.dtype)
        layer.weight.data = w[start : start + wide * out].reshape(out, wide)
        layer.bias.data = w[start + wide * out : start + (wide + 1) * out]
        layers += [layer, torch.nn.Tanh(), torch.nn.Identity()]
        start += (wide + 1) * out
    last = torch.nn.Linear(basis.widths[-1], 1, bias=False, dtype=w.dtype)
    last.weight.data = w[start:].unsqueeze(0)
    return torch.nn.Sequential(*layers, last)


def test_it_is_the_perceptron_that_it_says():
    basis, z = network(), randn(7, 4)
    w = basis.initial(1, generator())[0]
    torch.testing.assert_close(basis.value(z, w), explicit(basis, w)(z).squeeze(-1).detach())


@pytest.mark.parametrize(("activation", "periodic"), KINDS)
def test_slopes_and_hessians_are_those_of_the_value(activation, periodic):
    basis, z = network(activation, periodic), randn(3, 6, 4)
    w = basis.initial(3, generator())
    for draw in range(3):
        single = torch.func.vmap(torch.func.hessian(lambda x, k=draw: basis.value(x, w[k])))
        slope = torch.func.vmap(torch.func.grad(lambda x, k=draw: basis.value(x, w[k])))(z[draw])
        torch.testing.assert_close(basis.gradient_map(w[draw])(z[draw]), slope)
        torch.testing.assert_close(basis.gradient_map(w)(z)[draw], slope)
        torch.testing.assert_close(basis.hessian(z[draw], w[draw]), single(z[draw]))
        torch.testing.assert_close(basis.linearized(z, w).hessian[draw], single(z[draw]))
    torch.testing.assert_close(basis.linearized(z, w).slope, basis.gradient_map(w)(z))


@pytest.mark.parametrize(("activation", "periodic"), KINDS)
def test_derivatives_by_weights_are_those_of_the_value(activation, periodic):
    basis, z = network(activation, periodic), randn(3, 6, 4)
    w = basis.initial(3, generator())
    general = NonlinearBasis
    torch.testing.assert_close(basis.features(z[0], w[0]), general.features(basis, z[0], w[0]))
    torch.testing.assert_close(
        basis.feature_gradient(z, w[0]), general.feature_gradient(basis, z, w[0])
    )
    weights = randn(3, 2, 6, 4, seed=1)
    torch.testing.assert_close(
        basis.weighted_gradient(z, weights, w[0]),
        general.weighted_gradient(basis, z, weights, w[0]),
    )
    pull, leaf = randn(3, 6, 4, seed=2), w.clone().requires_grad_(True)
    (wanted,) = torch.autograd.grad((pull * basis.gradient_map(leaf)(z)).sum(), leaf)
    torch.testing.assert_close(basis.linearized(z, w).pull_back(pull), wanted)


@pytest.mark.parametrize("periodic", [(), (0,)])
def test_transformed_slopes_multiply_from_the_left(periodic):
    basis, z, matrix = network(periodic=periodic), randn(2, 6, 4), randn(4, 4, seed=5)
    slopes = basis.gradient_map(basis.initial(2, generator()))
    turned = slopes.transformed(matrix)
    torch.testing.assert_close(turned(z), slopes(z) @ matrix.mT)
    torch.testing.assert_close(turned.transformed(matrix)(z), slopes(z) @ (matrix @ matrix).mT)
    torch.testing.assert_close(turned.first()(z[:1]), turned(z)[:1])


def test_many_states_are_evaluated_in_blocks(monkeypatch):
    basis, z = network(), randn(2, 50, 4)
    slopes = basis.gradient_map(basis.initial(2, generator()))
    whole = slopes(z)
    monkeypatch.setattr("sympgp.energies.network_basis.AT_ONCE", 60)
    torch.testing.assert_close(slopes(z), whole)


@pytest.mark.parametrize("activation", ["tanh", "softplus", "silu", "sin"])
def test_energies_are_exactly_periodic_in_angles(activation):
    scaling = canonical(2, seed=3)
    basis = network(activation, periodic=(1,))
    period = 2.0 * math.pi / float(scaling.scale[1])
    z, w = randn(9, 4), basis.initial(1, generator())[0]
    moved = z + period * torch.eye(4, dtype=z.dtype)[1]
    torch.testing.assert_close(basis.value(moved, w), basis.value(z, w))
    torch.testing.assert_close(basis.gradient_map(w)(moved), basis.gradient_map(w)(z))


def test_single_precision_stays_single():
    energy = NetworkEnergy(1, (6, 6))
    priors = energy.hyperpriors(torch.ones(2, dtype=torch.float32))
    basis = energy.basis({name: prior.median for name, prior in priors.items()})
    w, z = basis.initial(2, generator()), randn(2, 5, 2).float()
    known = basis.linearized(z, w)
    for found in (basis.value(z, w), known.slope, known.hessian, known.pull_back(z)):
        assert found.dtype == torch.float32


def test_widening_keeps_the_size_of_h():
    """The prior is a fan-in prior: H has about the same spread whatever the width."""
    spreads = []
    for width in (20, 200):
        basis = network(hidden=(width, width))
        white = torch.randn(200, basis.num_weights, generator=generator(), dtype=torch.float64)
        values = basis.value(randn(200, 2, 4), white * basis.prior_variance.sqrt())
        spreads.append(float((values[:, 0] - values[:, 1]).std()))
    assert spreads[1] == pytest.approx(spreads[0], rel=0.2)


def test_scales_are_those_of_hidden_and_output_weights():
    energy = NetworkEnergy(1, (4, 3))
    one = torch.ones((), dtype=torch.float64)
    basis = energy.basis({"weight_scale": 2.0 * one, "signal_scale": 5.0 * one})
    wanted = [4.0 / 2] * 8 + [4.0] * 4 + [4.0 / 4] * 12 + [4.0] * 3 + [25.0 / 3] * 3
    assert basis.prior_variance.tolist() == pytest.approx(wanted)
    assert last_layer(basis).tolist() == list(range(27, 30))


def test_beginnings_follow_their_seed_alone():
    basis = network()
    assert torch.equal(basis.initial(3, generator(4)), basis.initial(3, generator(4)))
    assert not torch.equal(basis.initial(1, generator(4)), basis.initial(1, generator(5)))


def test_a_dropout_mask_drops_units_of_the_network():
    basis, z, rate = network(hidden=(6, 5)), randn(7, 4), 0.4
    w = basis.initial(1, generator())[0]
    factors = dropout_factors(basis, rate, 1, generator(8))[0]
    known = explicit(basis, w)
    uniform = generator(8)
    for place, width in ((2, 6), (5, 5)):
        kept = (torch.rand(1, width, generator=uniform, dtype=torch.float64) >= rate).double()
        known[place] = _Scaled(kept[0] / (1.0 - rate))
    assert 0 < int((factors == 0).sum())
    torch.testing.assert_close(basis.value(z, w * factors), known(z).squeeze(-1).detach())


class _Scaled(torch.nn.Module):
    """Units times fixed factors."""

    def __init__(self, factors: torch.Tensor) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        return a * self.factors


def test_a_rate_of_zero_keeps_everything():
    factors = dropout_factors(network(), 0.0, 3, generator())
    assert bool((factors == 1).all())


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_impossible_rates_are_refused(rate):
    with pytest.raises(ValueError, match="rate"):
        dropout_factors(network(), rate, 1, generator())


def test_parts_of_sums_keep_their_own_ways():
    energy = FourierEnergy(1, 4) + NetworkEnergy(1, (3,))
    basis = energy.basis(medians(energy, 1))
    fourier = basis.parts[0].num_weights
    w = initial_weights(basis, 2, generator())
    assert has_layers(basis)
    assert not has_layers(basis.parts[0])
    assert float(w[:, :fourier].abs().max()) < 0.2 < float(w[:, fourier:].abs().max())
    assert bool((dropout_factors(basis, 0.9, 1, generator())[0, :fourier] == 1).all())
    wanted = [*range(fourier), *range(basis.num_weights - 3, basis.num_weights)]
    assert last_layer(basis).tolist() == wanted


def test_a_basis_survives_a_file():
    basis = network("silu", periodic=(0,))
    again = parts.rebuilt(parts.plain(basis, "energy"))
    z, w = randn(5, 4), basis.initial(1, generator())[0]
    assert torch.equal(again.value(z, w), basis.value(z, w))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"num_dof": 0}, "num_dof"),
        ({"hidden": (4, 0)}, "hidden"),
        ({"hidden": ()}, "hidden"),
        ({"activation": "relu"}, "activation"),
        ({"periodic": (1,)}, "periodic"),
        ({"periodic": (0,), "period": -1.0}, "period"),
    ],
)
def test_impossible_settings_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        NetworkEnergy(**({"num_dof": 1} | settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": 32}, r"hidden: expected widths such as \(64, 64\), got 32"),
        ({"hidden": "64"}, "hidden: expected widths"),
        ({"hidden": (64.0,)}, "hidden: expected a whole number of at least 1, got 64.0"),
        ({"activation": [1]}, r'activation: expected one of "tanh", .*, got \[1\]'),
        ({"periodic": 0}, r"periodic: expected indices such as \(0,\), got 0"),
        ({"periodic": (0,), "period": "a"}, "period: expected positive numbers, got 'a'"),
    ],
)
def test_arguments_of_other_kinds_are_refused(settings, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        HNN(**settings)


def test_angles_need_units():
    energy = NetworkEnergy(1, (4,), periodic=(0,))
    with pytest.raises(RuntimeError, match="in_units"):
        energy.basis(medians(energy, 1))
    assert energy.angles == {0: 2.0 * math.pi}
    scaled = energy.in_units(identity_scaling())
    assert scaled.basis(medians(energy, 1)).waves.tolist() == [1.0]


def test_the_shortcut_names_a_model_of_networks():
    model = HNN(2, (8, 8), activation="silu", periodic=(1,))
    assert isinstance(model.energy, NetworkEnergy)
    assert model.energy.hidden == (8, 8)
    assert model.energy.angles == {1: 2.0 * math.pi}

"""Sums of energies: parts beside each other, remainders orthogonal to the physics, shares."""

from dataclasses import fields

import pytest
import torch
from problems import canonical, identity_scaling, randn, tensor
from torch import distributions as dist

from sympgp.energies import (
    FourierEnergy,
    NonlinearBasis,
    OrthogonalBasis,
    PhysicsEnergy,
    SumBasis,
    SumEnergy,
    correlations,
    nearest_weights,
    shares,
)
from sympgp.energies.base import Energy
from sympgp.phase_space import symplectic_matrix

PRIORS = {"k": dist.LogNormal(0.0, 0.5), "m": dist.HalfNormal(2.0)}


def pendulum(priors=PRIORS) -> PhysicsEnergy:
    return PhysicsEnergy("p**2/(2*m) - k*cos(q)", priors)


def by_function() -> PhysicsEnergy:
    return PhysicsEnergy(lambda q, p, k, m: (p**2 / (2 * m) - k * q.cos()).squeeze(-1), PRIORS)


def coupled() -> PhysicsEnergy:
    formula = "p1**2/(2*m) + p2**2/2 + k*(q1 - q2)**2/2"
    return PhysicsEnergy(formula, PRIORS, num_dof=2)


def medians(energy: Energy, dim: int = 2):
    priors = energy.hyperpriors(torch.ones(dim, dtype=torch.float64))
    return {name: prior.median for name, prior in priors.items()}


def fourier(num_dof: int = 1) -> FourierEnergy:
    return FourierEnergy(num_dof, 8, seed=1)


def orthogonal_sum(make=pendulum):
    """Physics and Fourier features in scaled units, with states of the data."""
    physics = make()
    energy = SumEnergy([physics, fourier(physics.num_dof)]).in_units(
        canonical(physics.num_dof, seed=2)
    )
    states = 0.8 * randn(40, 2 * physics.num_dof, seed=6)
    return energy.prepare(states), states


SUMS = {
    "orthogonal": lambda: orthogonal_sum()[0],
    "function": lambda: orthogonal_sum(by_function)[0],
    "coupled": lambda: orthogonal_sum(coupled)[0],
    "two": lambda: SumEnergy([pendulum(), fourier(), by_function()]).prepare(randn(20, 2)),
    "plain": lambda: SumEnergy([pendulum(), fourier()], orthogonal=False),
    "linear": lambda: SumEnergy([fourier(), fourier()]),
}


@pytest.fixture(params=list(SUMS))
def case(request):
    energy = SUMS[request.param]()
    dim = 2 * energy.num_dof
    basis = energy.basis(medians(energy, dim))
    return basis, 0.6 * randn(3, 5, dim), 0.4 * randn(3, basis.num_weights, seed=1)


def test_derivatives_are_those_of_the_value(case):
    basis, z, w = case
    at, v = z[0], w[0]

    def slope(x, u):
        return torch.func.grad(lambda y: basis.value(y, u))(x)

    gradients = torch.stack([slope(x, v) for x in at])
    torch.testing.assert_close(basis.gradient_map(v)(at), gradients)
    by_weights = torch.stack([torch.func.jacrev(lambda u, x=x: slope(x, u))(v) for x in at])
    torch.testing.assert_close(basis.feature_gradient(at, v), by_weights)
    features = torch.stack([torch.func.jacrev(lambda u, x=x: basis.value(x, u))(v) for x in at])
    torch.testing.assert_close(basis.features(at, v), features)
    hessian = torch.stack([torch.func.jacrev(lambda y: slope(y, v))(x) for x in at])
    torch.testing.assert_close(basis.hessian(at, v), hessian)
    remainder = basis.remainder(at, v)
    if basis.linear:
        assert remainder is None
    else:
        torch.testing.assert_close(remainder, gradients - by_weights @ v)


def test_batches_of_draws_are_draws_one_by_one(case):
    basis, z, w = case
    weights, pull = randn(3, 2, 5, z.shape[-1], seed=7), randn(*z.shape, seed=8)
    expected = torch.einsum("bosd,bsdp->bop", weights, basis.feature_gradient(z, w[0]))
    torch.testing.assert_close(basis.weighted_gradient(z, weights, w[0]), expected)
    known, gradient = basis.linearized(z, w), basis.gradient_map(w)
    pulled, J = known.pull_back(pull), symplectic_matrix(z.shape[-1] // 2)
    turned, value = gradient.transformed(J), basis.value(z, w)
    for s in range(3):
        one = basis.gradient_map(w[s])(z[s])
        torch.testing.assert_close(gradient(z)[s], one)
        torch.testing.assert_close(turned(z)[s], one @ J.mT)
        torch.testing.assert_close(known.slope[s], one)
        torch.testing.assert_close(known.hessian[s], basis.hessian(z[s], w[s]))
        by_weights = torch.einsum("bd,bdp->p", pull[s], basis.feature_gradient(z[s], w[s]))
        torch.testing.assert_close(pulled[s], by_weights)
        torch.testing.assert_close(value[s], basis.value(z[s], w[s]))
    torch.testing.assert_close(turned.first()(z[:1]), turned(z)[:1])


def test_gradient_maps_can_be_differentiated_by_the_weights(case):
    basis, z, w = case
    leaf, pull = w.clone().requires_grad_(), randn(*z.shape, seed=8)
    (found,) = torch.autograd.grad((pull * basis.gradient_map(leaf)(z)).sum(), leaf)
    torch.testing.assert_close(found, basis.linearized(z, w).pull_back(pull))


def test_bases_are_rebuilt_from_their_fields(case):
    basis, z, w = case

    def rebuilt(part):
        if not isinstance(part, (SumBasis, OrthogonalBasis)):
            return part
        known = {f.name: getattr(part, f.name) for f in fields(part)}
        for name, value in known.items():
            if isinstance(value, tuple):
                known[name] = tuple(rebuilt(item) for item in value)
            elif isinstance(value, SumBasis):
                known[name] = rebuilt(value)
        return type(part)(**known)

    assert torch.equal(rebuilt(basis).gradient_map(w)(z), basis.gradient_map(w)(z))
    assert torch.equal(rebuilt(basis).prior_variance, basis.prior_variance)


@pytest.mark.parametrize("make", [pendulum, by_function, coupled])
def test_remainders_are_orthogonal_to_the_physics_at_the_states(make):
    """No gradient of the learned part is what a change of the physics' parameters makes."""
    energy, states = orthogonal_sum(make)
    physics, learned = energy.basis(medians(energy, 2 * energy.num_dof)).parts
    tangents = physics.feature_gradient(states, torch.zeros(2, dtype=torch.float64)).flatten(0, 1)
    features = learned.feature_gradient(states).flatten(0, 1)
    product = (tangents / tangents.norm(dim=0)).mT @ (features / features.norm(dim=0))
    torch.testing.assert_close(product, torch.zeros_like(product), atol=1e-10, rtol=0)


def test_the_projection_keeps_what_the_physics_cannot_explain():
    """Physics' tangents and projected features span what tangents and features span."""
    energy, states = orthogonal_sum()
    physics, learned = energy.basis(medians(energy)).parts
    tangents = physics.feature_gradient(states, torch.zeros(2, dtype=torch.float64)).flatten(0, 1)
    before = torch.cat([tangents, learned.learned.feature_gradient(states).flatten(0, 1)], 1)
    after = torch.cat([tangents, learned.feature_gradient(states).flatten(0, 1)], 1)
    fitted = torch.linalg.lstsq(after, before, driver="gelsd").solution
    torch.testing.assert_close(after @ fitted, before, atol=1e-8, rtol=0)


def test_parameters_beside_a_remainder_are_those_of_the_best_approximation():
    """Least squares of a field: with the remainder as without it, exactly where it is linear.

    Of ``p^2/2 - k cos q`` with a cubic force beside it, k is what fits best over the states.
    """
    physics = PhysicsEnergy("p**2/2 - k*cos(q)", {"k": dist.Normal(1.0, 10.0)})
    states = randn(60, 2, seed=3)
    energy = SumEnergy([physics, fourier()]).in_units(identity_scaling()).prepare(states)
    basis = energy.basis(medians(energy))
    q, p = states.unbind(-1)
    field = torch.stack([1.3 * q.sin() + 0.3 * q**3, p], -1)
    zero = torch.zeros(basis.num_weights, dtype=torch.float64)
    target = (field - basis.gradient_map(zero)(states)).flatten()
    design = basis.feature_gradient(states, zero).flatten(0, 1)
    alone = torch.linalg.lstsq(design[:, :1], target.unsqueeze(-1)).solution[0, 0]
    ridge = torch.diag(1e-3 / basis.prior_variance)
    both = torch.linalg.solve(design.mT @ design + ridge, design.mT @ target)[0]
    torch.testing.assert_close(both, alone, rtol=1e-3, atol=0)
    found = nearest_weights(physics.basis({}), states, field)
    torch.testing.assert_close(found, alone.reshape(1))
    left = target - design[:, 0] * both
    assert (
        left.norm()
        > 10
        * (
            target - design @ torch.linalg.lstsq(design, target.unsqueeze(-1)).solution.squeeze(-1)
        ).norm()
    )


def test_the_projection_follows_the_hyperparameters():
    energy, _ = orthogonal_sum()
    values = {k: v.clone().requires_grad_() for k, v in medians(energy).items()}
    z, w = randn(4, 2), randn(energy.basis(values).num_weights, seed=1)

    def field(lengthscale):
        return energy.basis({**values, "fourier.lengthscale": lengthscale}).gradient_map(w)(z)

    lengthscale = values["fourier.lengthscale"].detach()
    found = torch.func.jacrev(
        lambda v: energy.basis({**values, "fourier.lengthscale": v}).parts[1].feature_gradient(z)
    )(lengthscale)
    step = 1e-6
    for d in range(2):
        moved = step * torch.eye(2, dtype=torch.float64)[d]
        ends = [
            energy.basis({**values, "fourier.lengthscale": lengthscale + s * moved})
            .parts[1]
            .feature_gradient(z)
            for s in (1, -1)
        ]
        torch.testing.assert_close(
            found[..., d], (ends[0] - ends[1]) / (2 * step), atol=1e-6, rtol=1e-5
        )
    leaf = lengthscale.clone().requires_grad_()
    assert torch.autograd.grad(field(leaf).sum(), leaf)[0].isfinite().all()


def test_parameters_that_cannot_be_told_apart_do_no_harm():
    """Of ``m g l`` three names and one direction: the projection takes that direction."""
    three = {name: dist.LogNormal(0.0, 0.5) for name in ("m", "g", "l")}
    energy = SumEnergy([PhysicsEnergy("p**2/2 - m*g*l*cos(q)", three), fourier()])
    states = randn(30, 2)
    learned = energy.prepare(states).basis(medians(energy)).parts[1]
    sines = torch.stack([states[:, 0].sin(), 0.0 * states[:, 0]], -1).flatten()
    product = sines @ learned.feature_gradient(states).flatten(0, 1)
    torch.testing.assert_close(product, torch.zeros_like(product), atol=1e-9, rtol=0)
    assert learned.projection.abs().max() < 1e2


def test_reference_states_follow_the_data_or_its_spread():
    energy = SumEnergy([pendulum(), fourier()])
    hyper = medians(energy)
    plain = energy.basis(hyper).parts[1].projection
    scaled = energy.in_units(identity_scaling()).basis(hyper).parts[1].projection
    torch.testing.assert_close(plain, scaled)
    states = randn(1000, 2, seed=1)
    with_gaps = states.clone()
    with_gaps[::7, 0] = torch.nan
    for given in (states, with_gaps):
        prepared = energy.prepare(given)
        assert prepared._tangents[2].shape == (300, 2)
        assert bool(prepared._tangents[2].isfinite().all())
        redrawn = prepared.redraw(3)._tangents[2]
        assert torch.equal(redrawn, prepared._tangents[2])
    nominal = tensor([0.3, -0.2])
    moved = energy.prepare(states, nominal).basis(hyper).parts[1]
    assert torch.equal(moved.nominal, nominal)


def test_hyperparameters_are_named_by_the_part():
    single = SumEnergy([pendulum(), fourier()])
    assert set(single.hyperpriors(torch.ones(2))) == {
        f"fourier.{name}" for name in fourier().hyperpriors(torch.ones(2))
    }
    several = SumEnergy([fourier(), pendulum(), fourier()])
    assert several.names == ("fourier1", "physics", "fourier2")
    names = {name.split(".")[0] for name in several.hyperpriors(torch.ones(2))}
    assert names == {"fourier1", "fourier2"}
    hyper = medians(several)
    hyper["fourier2.signal_scale"] = tensor(7.0)
    first, _, second = several.basis(hyper).parts
    assert second.prior_variance.max() > 5 * first.prior_variance.max()


def test_sums_of_sums_are_flat():
    inner = SumEnergy([pendulum(), fourier()])
    assert len(SumEnergy([inner, fourier()]).parts) == 3


def test_redrawn_parts_differ_from_each_other():
    first, second = SumEnergy([fourier(), fourier()]).redraw(4).parts
    assert torch.equal(first.base_frequencies, fourier().redraw(4).base_frequencies)
    assert not torch.equal(first.base_frequencies, second.base_frequencies)


def test_weights_and_parameters_are_found_again():
    basis = SUMS["two"]().basis(medians(SUMS["two"]()))
    w = 0.3 * randn(5, basis.num_weights, seed=2)
    values = basis.values(w)
    assert list(values) == ["k", "m", "physics2.k", "physics2.m"]
    torch.testing.assert_close(values["k"], (0.5 * w[:, 0]).exp())
    torch.testing.assert_close(values["physics2.k"], (0.5 * w[:, -2]).exp())
    assert [part.shape[-1] for part in basis.split(w)] == [2, 21, 2]


def test_separability_and_linearity_need_all_parts():
    potential = PhysicsEnergy("q**4/4")
    mixed = PhysicsEnergy("k*p**2*q**2", {"k": 1.0})
    assert SumEnergy([pendulum(), potential]).basis({}).separable
    assert not SumEnergy([pendulum(), mixed]).basis({}).separable
    assert not SumEnergy([pendulum(), potential]).basis({}).linear
    assert SUMS["linear"]().basis(medians(SUMS["linear"]())).linear


def test_momenta_are_those_of_the_first_part_that_has_them():
    q, velocity = randn(4, 1), randn(4, 1, seed=1)
    energy = SumEnergy([PhysicsEnergy("q**4/4"), fourier(), pendulum({"k": 1.0, "m": 3.0})])
    torch.testing.assert_close(energy.momenta(q, velocity), 3.0 * velocity)
    assert SumEnergy([fourier(), fourier()]).momenta(q, velocity) is None


def test_formulas_among_the_parts_are_tried_on_the_data():
    energy = SumEnergy([fourier(), PhysicsEnergy("p**2/2 + log(q)")])
    with pytest.raises(ValueError, match="formula: the energy is not finite"):
        energy.check(tensor([[-1.0, 0.0]]))


class Cubic(NonlinearBasis):
    def __init__(self) -> None:
        self.num_weights, self.prior_variance = 1, torch.ones(1, dtype=torch.float64)

    def value(self, z, w):
        return (w * w) * z[..., 0] ** 3


class CubicEnergy(Energy):
    num_dof = 1

    def hyperpriors(self, spread):
        return {}

    def basis(self, hyperparameters):
        return Cubic()

    def redraw(self, seed):
        return self


def test_learned_parts_that_are_not_linear_stay_as_they_are():
    energy = SumEnergy([pendulum(), CubicEnergy()])
    assert energy.names == ("physics", "cubic")
    assert isinstance(energy.basis({}).parts[1], Cubic)
    with pytest.raises(ValueError, match="orthogonal: expected learned parts that are linear"):
        SumEnergy([pendulum(), CubicEnergy()], orthogonal=True).basis({})


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([fourier()], "parts: expected two energies or more, got 1"),
        ([fourier(1), fourier(2)], r"parts: expected one number of degrees of freedom, got \[1, 2"),
        ([fourier(), fourier()], "orthogonal: expected physics with unknown parameters"),
        ([pendulum(), pendulum()], "orthogonal: expected physics with unknown parameters"),
        ([PhysicsEnergy("p**2"), fourier()], "orthogonal: expected physics with unknown"),
    ],
)
def test_parts_that_make_no_sum_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        SumEnergy(parts, orthogonal=True)


def test_known_physics_without_unknowns_leaves_the_features_alone():
    energy = SumEnergy([PhysicsEnergy("p**2/2"), fourier()])
    assert not isinstance(energy.basis(medians(energy)).parts[1], OrthogonalBasis)


def test_shares_add_up_and_are_the_parts_own():
    energy, states = orthogonal_sum()
    basis = energy.basis(medians(energy))
    w = 0.3 * randn(4, basis.num_weights, seed=2)
    found = shares(basis, states, w)
    assert list(found) == ["physics", "fourier"]
    torch.testing.assert_close(sum(found.values()), torch.ones(4, dtype=torch.float64))
    one = shares(basis, states, w[2])
    torch.testing.assert_close(one["physics"], found["physics"][2])
    none = w.clone()
    none[:, 2:] = 0.0
    torch.testing.assert_close(
        shares(basis, states, none)["physics"], torch.ones(4, dtype=torch.float64)
    )


@pytest.mark.parametrize("orthogonal", [False, True])
def test_correlations_say_whether_the_parts_can_be_told_apart(orthogonal):
    """Posterior of a field seen at many states: the parameter against its imitation."""
    physics = PhysicsEnergy("p**2/2 - k*cos(q)", {"k": dist.Normal(1.0, 0.5)})
    states = randn(80, 2, seed=3)
    energy = SumEnergy([physics, fourier()], orthogonal=orthogonal).prepare(states)
    basis = energy.basis(medians(energy))
    w = torch.zeros(basis.num_weights, dtype=torch.float64)
    design = basis.feature_gradient(states, w).flatten(0, 1)
    precision = design.mT @ design / 0.05**2 + torch.diag(1.0 / basis.prior_variance)
    found = correlations(basis, states, w, torch.linalg.inv(precision))
    assert list(found) == ["k"]
    if orthogonal:
        assert found["k"] == 0.0
    else:
        assert found["k"] < -0.9


def test_correlations_of_physics_alone_are_zero():
    energy = SumEnergy([pendulum(), PhysicsEnergy("q**4/4")])
    basis = energy.basis({})
    w = torch.zeros(2, dtype=torch.float64)
    found = correlations(basis, randn(9, 2), w, torch.eye(2).double())
    assert found == {"k": 0.0, "m": 0.0}


def test_the_nearest_weights_of_a_formula_are_its_own():
    physics = PhysicsEnergy("p**2/(2*m) - k*cos(c*q)", {**PRIORS, "c": dist.LogNormal(0.0, 0.5)})
    basis = physics.in_units(canonical()).basis({})
    z, w = randn(40, 2), tensor([0.7, -0.6, 0.4])
    found = nearest_weights(basis, z, basis.gradient_map(w)(z))
    torch.testing.assert_close(found, w, atol=1e-7, rtol=0)


def test_single_precision_is_kept():
    physics = pendulum().in_units(canonical().to(dtype=torch.float32))
    hyper = {name: value.float() for name, value in medians(SUMS["plain"]()).items()}
    energy = SumEnergy([physics, fourier()]).prepare(randn(20, 2).float())
    basis = energy.basis(hyper)
    z, w = randn(4, 2).float(), 0.1 * randn(basis.num_weights).float()
    assert basis.gradient_map(w)(z).dtype == torch.float32
    assert basis.feature_gradient(z, w).dtype == torch.float32
    assert basis.hessian(z, w).dtype == torch.float32
    assert basis.prior_variance.dtype == torch.float32

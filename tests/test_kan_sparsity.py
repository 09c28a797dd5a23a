"""Edges of Kolmogorov-Arnold energies that cost something: the bound, its steps, whole fits."""

import math
from dataclasses import replace

import pytest
import torch
from problems import randn

import sympgp as sg
from sympgp import KANEnergy
from sympgp.energies import (
    KANBasis,
    KANFunction,
    LagrangianEnergy,
    NetworkEnergy,
    PhysicsEnergy,
    costs,
    edge_penalty,
    penalty_rows,
)
from sympgp.energies.dissipative_network import DissipativeNetworkEnergy
from sympgp.energies.kan_penalty import ROUND, edges, sparse_parts
from sympgp.energies.kan_sparsity import deviation_slopes, deviations
from sympgp.fields import HamiltonianField
from sympgp.inference.networks import linearisation, polish, sparse
from sympgp.inference.networks.density import PairDensity
from sympgp.inference.networks.linearisation import Point, linear_about, log_prob
from sympgp.inference.networks.polish import stepped
from sympgp.inference.networks.randomized import RandomizedDensity
from sympgp.inference.pairs import prepare_pairs


def quartic(num: int = 120, noise: float = 0.05) -> sg.StateDerivatives:
    """``H = p^2 / 2 + q^4 / 4``, which is separable."""
    x = randn(num, 2)
    q, p = x.unbind(-1)
    return sg.StateDerivatives(x, torch.stack([p, -(q**3)], -1) + noise * randn(num, 2, seed=1))


def basis_of(energy, num: int = 40):
    energy = energy.prepare(randn(num, 2 * energy.num_dof))
    priors = energy.hyperpriors(torch.ones(2 * energy.num_dof, dtype=torch.float64))
    return energy.basis({name: prior.median for name, prior in priors.items()})


def density_of(energy, data=None, noise=None) -> PairDensity:
    """Of pairs, at noise of one and with edges at their cost."""
    data = quartic() if data is None else data
    model = sg.HamiltonianModel(energy, noise=sg.GaussianNoise() if noise is None else noise)
    prepared = prepare_pairs(model, data)
    own = model.in_units(prepared.scaling, prepared.pairs.z)
    priors = own.energy.hyperpriors(prepared.scaling.spread)
    basis = own.energy.basis({name: prior.median for name, prior in priors.items()})
    field = HamiltonianField(basis, own.dissipation.scaled(prepared.scaling))
    return PairDensity(prepared.pairs, field, prepared.noise, penalised=True)


def sizes(posterior) -> torch.Tensor:
    """Standard deviations of all edges of a typical draw."""
    function, states, weights = posterior.splines()
    values = function.edge_values(states, weights[0])
    return torch.cat([(v - v.mean(0)).square().mean(0).sqrt().flatten() for _, v in values])


def test_edges_cost_their_size():
    basis = basis_of(KANEnergy(1, (3,), sparsity=2.0))
    w = randn(4, basis.num_weights)
    expected = torch.zeros(4, dtype=torch.float64)
    for s in range(4):
        for _, values in basis.function.edge_values(basis.states, w[s]):
            expected[s] += 2.0 * values.std(0, correction=0).sum()
    # each of nine edges is rounded by at most ROUND
    assert bool((expected - edge_penalty(basis, w) < 2.0 * 9 * ROUND).all())
    assert bool((edge_penalty(basis, w) <= expected).all())
    nothing = torch.zeros(1, basis.num_weights, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(edge_penalty(basis, nothing).sum(), nothing)
    assert float(edge_penalty(basis, nothing.detach())) == 0.0 and bool(slope.isfinite().all())


def energies() -> dict:
    kan = KANEnergy(1, (2,), grid=3, sparsity=5.0)
    return {
        "alone": kan,
        "sum": PhysicsEnergy("p**2/2") + kan,
        "two": kan + KANEnergy(1, (), sparsity=3.0),
        "angle": KANEnergy(1, (2,), periodic=(0,), sparsity=4.0).in_units(plain_units()),
        "Lagrangian": LagrangianEnergy(kan),
        "two functions": DissipativeNetworkEnergy(NetworkEnergy(1, (3,)), kan),
    }


def plain_units() -> sg.phase_space.CanonicalScaling:
    one = torch.ones(2, dtype=torch.float64)
    return sg.phase_space.CanonicalScaling(0.0 * one, one, one[0], 0.0 * one[0], one)


@pytest.mark.parametrize("energy", energies().values(), ids=energies())
def test_the_parabola_touches_the_penalty(energy):
    """Same slope, a curvature that is not negative; of weights beside the network none."""
    basis = basis_of(energy)
    w = randn(basis.num_weights).requires_grad_(True)
    (slope,) = torch.autograd.grad(edge_penalty(basis, w.unsqueeze(0)).sum(), w)
    rows, target = penalty_rows(basis, w.detach())
    torch.testing.assert_close(rows.mT @ (rows @ w.detach() - target), slope, rtol=1e-6, atol=1e-8)
    own = torch.zeros(basis.num_weights, dtype=torch.bool)
    for _, part in sparse_parts(basis):
        own[part] = True
    assert bool((rows[:, ~own] == 0).all()) and bool((slope[~own] == 0).all())
    assert len(rows) <= basis.num_weights
    assert sorted(costs(basis)) in ([4.0], [5.0], [3.0, 5.0])


@pytest.mark.parametrize("cut", [False, True])
def test_slopes_of_edges_are_their_derivatives(cut):
    one, z = torch.ones(2, dtype=torch.float64), randn(7, 2)
    kan = KANFunction.on_box(-one, one, (3, 2), grid=2, periodic=(1,))
    kan = replace(kan, edges=torch.tensor([0, 2, 5, 6, 9, 10, 13, 15])) if cut else kan
    w = randn(kan.num_weights)

    def values(v):
        coefficients = kan.coefficients(v.unsqueeze(0))
        traced, _ = kan.traced(z.unsqueeze(0), coefficients)
        return torch.cat([own.flatten(2)[0] for own in deviations(traced, coefficients)], 1)

    expected = torch.autograd.functional.jacobian(values, w)
    torch.testing.assert_close(deviation_slopes(kan, z, w), expected)


def test_the_parabola_is_above_the_penalty_wherever_edges_are_linear_in_their_weights():
    basis = basis_of(KANEnergy(1, (), sparsity=5.0))
    at, others = randn(basis.num_weights), randn(200, basis.num_weights, seed=1)
    others = torch.cat([others, 0.01 * others, at + 0.1 * others, 0.0 * others[:1]])
    rows, target = penalty_rows(basis, at)

    def parabola(w):
        return 0.5 * (w @ rows.mT - target).square().sum(-1)

    here = at.unsqueeze(0)
    above = parabola(others) - parabola(here) - edge_penalty(basis, others)
    assert bool((above + edge_penalty(basis, here) >= -1e-9).all())


def test_undamped_steps_never_lower_the_density_of_a_linear_field():
    """The descent property of majorisation, to the optimum, where the gradient is zero."""
    density = density_of(KANEnergy(1, (), grid=3, sparsity=40.0))
    noise = density.noise.start(torch.full((2,), 0.1, dtype=torch.float64))
    at = Point(randn(density.field.num_parameters), noise, None)
    values = [log_prob(density, at)]
    for _ in range(60):
        at = stepped(density, linear_about(density, at), at, 0.0)
        values.append(log_prob(density, at))
    rises = torch.tensor(values).diff()
    assert bool((rises > -1e-8 * abs(values[-1])).all()) and float(rises[0]) > 10.0
    theta = at.theta.unsqueeze(0).requires_grad_(True)
    total = sum(t.sum() for t in density.terms(theta, noise.unsqueeze(0)).values())
    (slope,) = torch.autograd.grad(total, theta)
    free = sum(
        t.sum() for n, t in density.terms(theta, noise.unsqueeze(0)).items() if n != "sparsity"
    )
    (without,) = torch.autograd.grad(free, theta)
    assert float(slope.norm()) < 1e-3 * float(without.norm())


def test_accepted_steps_raise_the_density_of_any_network():
    energy = KANEnergy(1, (3,), grid=3, sparsity=40.0)
    density = density_of(energy, noise=sg.GaussianNoise(std=0.05))
    theta = density.field.basis.initial(1, torch.Generator().manual_seed(0))[0].double()
    at = Point(theta, density.noise.known, None)
    told = [-log_prob(density, at)]
    end = polish.polish(density, at, 15, told.append)
    assert end.steps == len(told) - 1 > 5
    assert bool((torch.tensor(told).diff() < 0.0).all())
    assert log_prob(density, end.at) == -told[-1]
    terms = density.terms(end.at.theta.unsqueeze(0), end.at.noise_std.unsqueeze(0))
    assert "sparsity" in terms and float(terms["sparsity"]) < 0.0


def test_perturbed_data_leave_the_cost_of_edges_as_it_is():
    density = density_of(KANEnergy(1, (2,), grid=3, sparsity=5.0))
    theta = randn(1, density.field.num_parameters)
    noise = density.noise.start(torch.full((2,), 0.1, dtype=torch.float64))
    own = RandomizedDensity.of(density, noise.unsqueeze(0), 0)
    terms, known = (d.terms(theta, noise.unsqueeze(0)) for d in (own, density))
    assert torch.equal(terms["sparsity"], known["sparsity"])
    at = Point(theta[0], noise, None)
    plain, moved = linear_about(density, at), own.linear(at)
    num = int(density.counts.sum())
    assert torch.equal(plain.rows, moved.rows) and torch.equal(
        plain.target[num:], moved.target[num:]
    )
    assert not bool(torch.isclose(plain.target[:num], moved.target[:num]).any())


def test_edges_that_the_data_do_not_need_fade():
    """At nearly the same error where nothing was seen; and the rest has names."""
    data, test = quartic(), 0.8 * randn(200, 2, seed=5)
    truth = torch.stack([test[:, 1], -(test[:, 0] ** 3)], -1)
    found, errors = {}, {}
    for sparsity in (0.0, 300.0):
        model = sg.HamiltonianModel(KANEnergy(1, (3,), grid=3, sparsity=sparsity))
        posterior = sg.fit(model, data, inference=sg.MAP(num_steps=300), progress=False)
        off = posterior.vector_field(test).mean - truth
        found[sparsity], errors[sparsity] = posterior, float(off.square().mean().sqrt())
    plain, own = (sizes(known).sort().values for known in found.values())
    assert float(own[:4].max()) < 0.05 * float(plain[:4].max())
    assert errors[300.0] < 1.3 * errors[0.0]
    assert len(found[300.0].symbols(("x", "x^2"), threshold=0.05)) < 9
    assert len(found[0.0].symbols(("x", "x^2"))) == 9


def test_no_cost_is_no_stage_and_no_term(monkeypatch):
    def refused(*args):
        raise AssertionError("there is nothing to go on with")

    monkeypatch.setattr(sg.inference.networks.base, "sparsified", refused)
    energy = KANEnergy(1, (2,), grid=3, sparsity=0.0)
    sg.fit(sg.HamiltonianModel(energy), quartic(20), inference=sg.MAP(num_steps=5), progress=False)
    basis = basis_of(energy)
    w = randn(basis.num_weights)
    assert basis.states is None and not energy.sparse and not costs(basis)
    assert edge_penalty(basis, w.unsqueeze(0)) is None and penalty_rows(basis, w) is None
    density = density_of(energy)
    at = Point(w, density.noise.start(torch.full((2,), 0.1, dtype=torch.float64)), None)
    assert len(linear_about(density, at).target) == int(density.counts.sum())


ENGINES = {
    "MAP": sg.MAP(num_steps=20),
    "randomized": sg.DeepEnsemble(num_members=2, num_steps=20),
    "plain": sg.DeepEnsemble(num_members=2, num_steps=20, randomize=False),
    "dropout": sg.MCDropout(num_steps=20),
    "mean field": sg.MeanFieldVI(num_steps=20, num_vi_steps=20),
    "SGHMC": sg.SGHMC(num_steps=20, num_chains=1, num_samples=3, num_warmup=10, thinning=1),
}
OSCILLATIONS = sg.systems.HarmonicOscillator().simulate(
    2, rate=4, duration=2, noise_std=0.05, seed=0
)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("MAP", OSCILLATIONS),
        ("randomized", OSCILLATIONS),
        *((name, quartic(20)) for name in ENGINES),
    ],
)
def test_pairs_and_trajectories_take_it_and_files_keep_it(name, data, tmp_path, monkeypatch):
    monkeypatch.setattr(sparse, "PAIR_STEPS", 3)
    monkeypatch.setattr(sparse, "WINDOW_STEPS", 1)
    model = sg.HamiltonianModel(KANEnergy(1, (), grid=3, sparsity=20.0))
    posterior = sg.fit(model, data, inference=ENGINES[name], progress=False)
    basis = posterior.components[0].field.basis
    assert isinstance(basis, KANBasis) and basis.sparsity == 20.0
    posterior.save(tmp_path / "fit.pt")
    again = sg.load(tmp_path / "fit.pt")
    other = again.components[0].field.basis
    assert other.sparsity == 20.0 and torch.equal(other.states, basis.states)
    z = torch.zeros(1, 2)
    assert torch.equal(again.vector_field(z).mean, posterior.vector_field(z).mean)


def test_adam_goes_on_with_it_where_gauss_newton_is_too_large(monkeypatch):
    for module in (sparse, sg.inference.networks.trajectories, sg.inference.networks.base):
        monkeypatch.setattr(module, "affordable", lambda density: False)
    data, found = quartic(20), []
    for sparsity in (0.0, 1000.0):
        model = sg.HamiltonianModel(KANEnergy(1, (2,), grid=3, sparsity=sparsity))
        engine = sg.MAP(num_steps=150)
        found.append(sg.fit(model, data, inference=engine, progress=False))
    assert float(sizes(found[1]).sum()) < 0.7 * float(sizes(found[0]).sum())
    assert [known.diagnostics.iterations for known in found] == [150, 225]


def test_large_networks_go_on_by_adam_without_jacobians_of_their_edges(monkeypatch):
    def refused(basis, w):
        raise AssertionError(f"{basis.num_weights} weights are too many for rows of edges")

    monkeypatch.setattr(linearisation, "penalty_rows", refused)
    monkeypatch.setattr(sg.inference.networks.base, "LAST_STEPS", 1)
    data, energy = quartic(20), KANEnergy(1, (40, 40), grid=1, sparsity=5.0)
    density = density_of(energy, data)
    assert not polish.affordable(density)
    assert polish.affordable(replace(density, penalised=False))
    assert not polish.affordable_part(density).penalised
    for engine in (sg.MAP(num_steps=4), sg.MeanFieldVI(num_steps=4, num_vi_steps=1)):
        posterior = sg.fit(sg.HamiltonianModel(energy), data, inference=engine, progress=False)
        assert bool(posterior.components[0].draws.theta.isfinite().all())


def test_small_networks_keep_their_rows():
    density = density_of(KANEnergy(1, (5,), sparsity=5.0))
    assert polish.affordable(density) and polish.affordable_part(density) is density


def test_checkpoints_know_the_cost(tmp_path):
    engine = sg.MAP(num_steps=10, checkpoint=tmp_path / "kept.pt")
    for sparsity in (0.0, 20.0):
        model = sg.HamiltonianModel(KANEnergy(1, (), grid=3, sparsity=sparsity))
        if sparsity:
            with pytest.raises(ValueError, match="checkpoint: .* with other settings"):
                sg.fit(model, quartic(20), inference=engine, progress=False)
        else:
            sg.fit(model, quartic(20), inference=engine, progress=False)


@pytest.mark.parametrize(
    "engine",
    [sg.Laplace(), sg.NUTS(warm_start=sg.MAP()), sg.StochasticVI(), sg.GaussNewton()],
    ids=lambda engine: type(engine).__name__,
)
def test_engines_that_know_nothing_of_it_refuse_it(engine):
    data = OSCILLATIONS
    name = type(engine).__name__
    for energy in (KANEnergy(1, sparsity=1.0), PhysicsEnergy("p**2/2") + KANEnergy(1, sparsity=1)):
        with pytest.raises(ValueError, match=f"sparsity: expected 0, or an engine .* got {name}"):
            sg.fit(sg.HamiltonianModel(energy), data, inference=engine, progress=False)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, True])
def test_impossible_costs_are_refused(value):
    with pytest.raises(ValueError, match="sparsity: expected a finite number of at least 0"):
        KANEnergy(1, sparsity=value)


@pytest.mark.slow
def test_superfluous_edges_fade_in_fits_of_trajectories():
    system = sg.systems.Duffing(alpha=0.0)
    data = system.simulate(3, rate=5, duration=3, noise_std=0.02, seed=0)
    test, found, errors = 0.8 * randn(100, 2, seed=5), [], []
    for sparsity in (0.0, 100.0):
        model = sg.HamiltonianModel(KANEnergy(1, (2,), sparsity=sparsity))
        posterior = sg.fit(model, data, inference=sg.MAP(num_steps=1500), progress=False)
        off = posterior.vector_field(test).mean - system.vector_field(test)
        found.append(sizes(posterior).sort().values)
        errors.append(float(off.square().mean().sqrt()))
    assert float(found[1].sum()) < 0.6 * float(found[0].sum())
    assert errors[1] < 1.3 * errors[0]


def test_edges_need_states():
    energy = KANEnergy(1, (2,), sparsity=1.0)
    priors = energy.hyperpriors(torch.ones(2, dtype=torch.float64))
    basis = energy.basis({name: prior.median for name, prior in priors.items()})
    with pytest.raises(RuntimeError, match="a sparse energy has a basis for data only"):
        edge_penalty(basis, randn(1, basis.num_weights))


def test_edges_are_centred_at_the_reference_states():
    basis = basis_of(KANEnergy(1, (3,), sparsity=1.0), num=500)
    off = edges(basis, randn(2, basis.num_weights))
    assert off.shape == (2, 100, 9)
    torch.testing.assert_close(off.mean(1), torch.zeros(2, 9, dtype=torch.float64))

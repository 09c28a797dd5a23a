"""Parameters that differ by trajectory, partially pooled: derivatives, slots, predictions."""

import math
from collections.abc import Iterator

import pytest
import torch
from problems import canonical, randn, tensor, unchecked
from torch import Tensor
from torch.distributions import LogNormal

import sympgp as sg
from sympgp.dissipation import Friction
from sympgp.energies import Context, ContextualBasis, PhysicsEnergy, SumEnergy
from sympgp.energies.base import Basis
from sympgp.fields import HamiltonianField, TrajectoryField, as_points
from sympgp.shooting.layout import Nodes
from sympgp.systems import Pendulum

PENDULUM = "p**2/2 + k*(1-cos(q))"
MEDIAN, SPREAD = 2.0, 0.2
"""Of the log-normal population that the trajectories' k are drawn from."""


def formula(q: Tensor, p: Tensor, k: Tensor, m: Tensor) -> Tensor:
    return (p**2).sum(-1) / (2 * m) + k * (1 - q.cos()).sum(-1)


def context(count: int = 3, covariates: int = 0) -> Context:
    labels = tuple(f"run {i}" for i in range(count))
    names = tuple(f"c{i}" for i in range(covariates))
    zero, one = torch.zeros(covariates).double(), torch.ones(covariates).double()
    return Context(labels, names, zero, one, randn(count, covariates, seed=9))


def contextual(kind: str = "string", covariates: int = 0) -> tuple[ContextualBasis, Tensor]:
    """A basis with pooled k (and k from covariates), in scaled units, and some weights."""
    text = "p**2/(2*m) + k*(1-cos(q))"
    k = sg.FromCovariates(LogNormal(0.3, 0.5), hidden=(4, 3), pooled=True)
    own = k if covariates else sg.Pooled(LogNormal(0.3, 0.5))
    energy = PhysicsEnergy(
        text if kind == "string" else formula, {"m": LogNormal(0.0, 0.4), "k": own}
    )
    energy = energy.in_context(context(covariates=covariates)).in_units(canonical())
    basis = energy.basis({"k_spread": tensor(0.4), "k_effect": tensor(0.7)})
    assert isinstance(basis, ContextualBasis)
    return basis, randn(basis.num_weights, seed=4)


def points(basis: Basis, *shape: int) -> Tensor:
    """States with the contexts of all trajectories, a new one and a typical one."""
    z = randn(*shape, 2, seed=1)
    number = torch.arange(math.prod(shape)).reshape(*shape, 1) % 5
    return torch.cat([z, number.double(), randn(*shape, basis.num_context - 1, seed=2)], -1)


def differentiated(basis: Basis, z: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dH/dw, grad H, its derivative by w and second derivatives by the states, by autograd."""

    def value(state: Tensor, rest: Tensor, weights: Tensor) -> Tensor:
        return basis.value(torch.cat([state, rest]), weights)

    def of(function):
        rows = [function(row[:2], row[2:], w) for row in z]
        return torch.stack(rows)

    jacobian = torch.autograd.functional.jacobian
    by_state = lambda s, r, v: jacobian(lambda x: value(x, r, v), s, create_graph=True)  # noqa: E731
    return (
        of(lambda s, r, v: jacobian(lambda x: value(s, r, x), v)),
        of(lambda s, r, v: by_state(s, r, v)),
        of(lambda s, r, v: jacobian(lambda x: by_state(s, r, x), v)),
        of(lambda s, r, v: jacobian(lambda x: by_state(x, r, v), s)),
    )


@pytest.mark.parametrize("covariates", [0, 2])
@pytest.mark.parametrize("kind", ["string", "function"])
def test_derivatives_are_those_of_the_energy(kind, covariates):
    basis, w = contextual(kind, covariates)
    z = points(basis, 6)
    features, slope, mixed, hessian = differentiated(basis, z, w)
    torch.testing.assert_close(basis.features(z, w), features)
    torch.testing.assert_close(basis.gradient_map(w)(z), slope)
    torch.testing.assert_close(basis.feature_gradient(z, w), mixed)
    torch.testing.assert_close(basis.hessian(z, w), hessian)
    torch.testing.assert_close(basis.remainder(z, w), slope - mixed @ w)
    weights = randn(2, 4, 3, 2, seed=8)
    found = basis.weighted_gradient(z.reshape(2, 3, -1), weights, w)
    wanted = torch.einsum("bosd,bsdk->bok", weights, mixed.reshape(2, 3, 2, -1))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("covariates", [0, 2])
def test_several_draws_at_once_are_each_alone(covariates):
    basis, _ = contextual(covariates=covariates)
    w, z = randn(3, basis.num_weights, seed=5), points(basis, 3, 4)
    known, pull = basis.linearized(z, w), randn(3, 4, 2, seed=6)
    pulled = known.pull_back(pull)
    turned = basis.gradient_map(w).transformed(randn(2, 2))
    for s in range(3):
        torch.testing.assert_close(basis.value(z, w)[s], basis.value(z[s], w[s]))
        torch.testing.assert_close(known.slope[s], basis.gradient_map(w[s])(z[s]))
        torch.testing.assert_close(known.hessian[s], basis.hessian(z[s], w[s]))
        wanted = torch.einsum("bd,bdk->k", pull[s], basis.feature_gradient(z[s], w[s]))
        torch.testing.assert_close(pulled[s], wanted)
        torch.testing.assert_close(turned(z)[s], known.slope[s] @ randn(2, 2).mT)


def test_each_trajectory_moves_with_its_own_deviation_alone():
    basis, w = contextual()
    z = randn(2, seed=3).expand(5, 2)
    every = torch.cat([z, torch.arange(5.0).double().unsqueeze(1)], 1)
    before = basis.value(every, w)
    for slot in range(4):
        changed = w.clone()
        changed[2 + slot] += 0.5
        moved = (basis.value(every, changed) - before).abs() > 1e-9
        assert moved.tolist() == [number == slot + 1 for number in range(5)]
    # A state without a context is a typical trajectory's.
    torch.testing.assert_close(basis.value(z[0], w), before[0])
    torch.testing.assert_close(basis.inner.value(z[0], w[:2]), before[0])


def test_a_field_takes_inputs_and_context_together():
    basis, w = contextual()
    driven = sg.LearnedInputs().scaled(canonical(), tensor([1.0]))
    field = HamiltonianField(basis, Friction().scaled(canonical()), driven)
    theta = torch.cat([w, randn(1), tensor([0.3])])
    assert field.num_extra == 2
    z, u, c = randn(4, 2), randn(4, 1, seed=1), tensor([[1.0], [2.0], [4.0], [0.0]])
    whole = torch.cat([z, u, c], 1)
    bound = field.bind(theta)
    slope = bound.gradient(torch.cat([z, c], 1))
    wanted = slope @ field.structure(theta[-1:]).mT
    wanted = wanted + field.inputs.force(z, u, theta[-2:-1])
    torch.testing.assert_close(bound(0.0, whole), wanted)
    torch.testing.assert_close(TrajectoryField(bound, c)(0.0, as_points(z, u)), wanted)
    by_theta = torch.autograd.functional.jacobian(lambda x: field.bind(x)(0.0, whole), theta)
    torch.testing.assert_close(field.parameter_jacobian(whole, theta), by_theta)
    one = torch.autograd.functional.jacobian(
        lambda x: bound(0.0, torch.cat([x, u[0], c[0]]).unsqueeze(0))[0], z[0]
    )
    torch.testing.assert_close(field.jacobian(whole, theta)[0], one)
    linear = field.linearized(whole.expand(2, 4, 4), theta.expand(2, -1))
    torch.testing.assert_close(linear.jacobian[1], field.jacobian(whole, theta))


def test_in_a_sum_other_parts_are_asked_at_the_states():
    physics = PhysicsEnergy(PENDULUM, {"k": sg.Pooled(LogNormal(0.0, 1.0))})
    energy = SumEnergy([physics, sg.FourierEnergy(1, 6, on="q")])
    energy = energy.in_context(context()).in_units(canonical()).prepare(randn(40, 2))
    priors = energy.hyperpriors(torch.ones(2).double())
    assert "physics.k_spread" in priors
    basis = energy.basis({name: prior.median for name, prior in priors.items()})
    w, z = 0.3 * randn(basis.num_weights, seed=2), points(basis, 4)
    features, slope, mixed, hessian = differentiated(basis, z, w)
    torch.testing.assert_close(basis.features(z, w), features)
    torch.testing.assert_close(basis.gradient_map(w)(z), slope)
    torch.testing.assert_close(basis.feature_gradient(z, w), mixed)
    torch.testing.assert_close(basis.hessian(z, w), hessian)
    # What is learned is orthogonal to what k does, whatever the trajectory.
    learned = basis.parts[1].feature_gradient(randn(40, 2)).flatten(0, 1)
    tangent = basis.parts[0].inner.feature_gradient(randn(40, 2), tensor([0.0])).flatten(0, 1)
    assert float((tangent.mT @ learned).abs().max()) < 1e-9
    assert list(basis.values(w)) == ["k"]


def test_nodes_carry_the_context_as_an_input_that_never_changes():
    data = pendulums(tensor([1.0, 2.0]), 0)
    with_context = data.with_context(tensor([[1.0, 0.3], [2.0, -0.4]]))
    nodes = Nodes.from_data(with_context[[1, 0]], canonical())
    first = nodes.first
    assert nodes.inputs is not None and nodes.inputs.shape[1:] == (2, 2)
    assert bool((nodes.inputs[: first[1]] == tensor([2.0, -0.4])).all())
    assert bool((nodes.inputs[first[1] : first[2]] == tensor([1.0, 0.3])).all())
    assert not bool(nodes.inputs[first[2] :].any())


def pendulums(
    k: Tensor, seed: int, noise: float = 0.1, rate: float = 3.0, duration: float = 2.4
) -> sg.Trajectories:
    """One trajectory for each k."""
    runs = [
        Pendulum(mass=1.0, gravity=float(own)).simulate(
            1, rate=rate, duration=duration, noise_std=noise, seed=1000 * seed + i
        )
        for i, own in enumerate(k)
    ]
    return sg.Trajectories.concatenate(runs)


def population(seed: int, count: int = 8) -> Tensor:
    return MEDIAN * (SPREAD * randn(count, seed=seed)).exp()


def model(k, noise: float | None = None) -> sg.HamiltonianModel:
    law = sg.GaussianNoise() if noise is None else sg.GaussianNoise(std=noise)
    return sg.HamiltonianModel(PhysicsEnergy(PENDULUM, {"k": k}), noise=law)


PRIOR = LogNormal(math.log(MEDIAN), 1.0)
QUICK = sg.GaussNewton(num_components=1)


@pytest.fixture(scope="module")
def whole() -> sg.Posterior:
    data = pendulums(population(1, 4), 1)
    with unchecked():
        return sg.fit(model(sg.Pooled(PRIOR)), data, inference=QUICK, progress=False)


@pytest.fixture
def fits_unchecked() -> Iterator[None]:
    with unchecked():
        yield


@pytest.fixture
def fitted(whole) -> Iterator[sg.Posterior]:
    with unchecked():
        yield whole


def test_a_new_trajectory_is_as_the_prior_has_it(fitted):
    component = fitted.components[0]
    mean, root = component.moments()
    new = 1 + 4  # behind k and the deviations of the four
    assert abs(float(mean[new])) < 1e-9
    variance = component.field.basis.prior_variance[new]
    torch.testing.assert_close(root[new].square().sum(), variance)
    covariance = root @ root[new]
    covariance[new] = 0.0
    assert float(covariance.abs().max()) < 1e-9
    found = fitted.parameters()
    width = found["k[new]"].stddev
    assert all(float(found[f"k[{i}]"].stddev) < 0.5 * float(width) for i in fitted.data.labels)


def test_trajectories_are_continued_with_their_own_parameter(fitted):
    k, last = fitted.parameters(), fitted.data.times[0][-1]
    for i in range(4):
        path = fitted.forecast([float(last), 3.0], trajectory=i, num_samples=20)
        draws = fitted.sample(20)
        own = fitted.data.context[i : i + 1]
        rate = draws.within(own)([[1.0, 0.0]])[:, 0, 1]
        value = k[f"k[{fitted.data.labels[i]}]"]
        assert abs(float(-rate.mean() / math.sin(1.0) - value.mean)) < float(value.stddev)
        assert path.samples.shape == (20, 1, 2, 2)
    # A new one differs from draw to draw, as do its energies.
    spread = fitted.sample(200)([[1.0, 0.0]])[:, 0, 1].std() / math.sin(1.0)
    assert float(spread) > 0.5 * float(k["k[new]"].stddev)
    field = fitted.vector_field([[1.0, 0.0]])
    assert isinstance(field.stddev, Tensor) and float(field.stddev[0, 1]) > 0.5 * float(spread)


def test_energy_is_kept_along_each_draw(fitted):
    path = fitted.rollout([[1.0, 0.0], [0.5, 0.5]], torch.linspace(0, 5, 11), num_samples=10)
    energy = path.energy()
    assert float((energy - energy[:, :, :1]).abs().max()) < 1e-3
    for i, own in enumerate(fitted.fitted(num_samples=5)):
        energy = own.energy()
        assert float((energy - energy[:, :, :1]).abs().max()) < 1e-3, i


def test_order_and_names_of_the_trajectories_do_not_matter(fitted):
    data = fitted.data
    order = [2, 0, 3, 1]
    again = sg.fit(model(sg.Pooled(PRIOR)), data[order], inference=QUICK, progress=False)
    before, after = fitted.parameters(), again.parameters()
    assert set(before) == set(after)
    for name in before:
        torch.testing.assert_close(after[name].mean, before[name].mean, rtol=2e-2, atol=0.0)
    torch.testing.assert_close(again.noise_std, fitted.noise_std, rtol=1e-3, atol=0.0)


def test_saved_and_loaded_it_predicts_the_same(fitted, tmp_path):
    fitted.save(tmp_path / "fit.pt")
    loaded = sg.load(tmp_path / "fit.pt")
    for call in (
        lambda p: p.rollout([[1.0, 0.0]], [0.0, 1.0]).samples,
        lambda p: p.forecast([2.5, 4.0], trajectory=2).samples,
        lambda p: p.vector_field([[1.0, 0.0]]).stddev,
        lambda p: p.parameters()["k[0-2]"].draws,
    ):
        assert torch.equal(call(fitted), call(loaded))


def test_the_summary_says_it_in_few_lines(fitted):
    lines = fitted.summary().splitlines()
    assert sum("by trajectory" in line for line in lines) == 1
    assert any("68% of trajectories" in line for line in lines)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: sg.Pooled(PRIOR, spread=0.0), "spread: expected a positive"),
        (lambda: model(sg.Pooled(2.0)), "parameters: expected a distribution .*'k'"),
        (lambda: model(sg.Pooled(sg.FromCovariates(PRIOR))), "pooled=True"),
        (
            lambda: sg.fit(model(sg.Pooled(PRIOR)), pendulums(tensor([1.0]), 0)),
            "data: expected two trajectories or more",
        ),
        (
            lambda: sg.fit(
                model(sg.Pooled(PRIOR)),
                sg.Trajectories([0.0, 1.0], torch.rand(1001, 2, 2).double()),
            ),
            "data: expected at most 1000",
        ),
        (
            lambda: sg.fit(
                model(sg.Pooled(PRIOR)), sg.StateDerivatives(randn(9, 2), randn(9, 2, seed=1))
            ),
            "k differs by trajectory",
        ),
    ],
)
def test_what_cannot_be_pooled_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.slow
def test_arviz_has_the_parameters_of_all(fitted):
    assert {"k[0]", "k[new]", "k spread"} <= set(fitted.to_arviz(20).posterior.data_vars)


@pytest.mark.slow
def test_partial_pooling_beats_complete_and_none(fits_unchecked):
    errors, inside, covered, noise = [], [], [], 0.4
    for seed in range(3):
        truth = population(seed)
        data = pendulums(truth, seed, noise)
        kinds = {"pooled": sg.Pooled(PRIOR), "complete": PRIOR}
        found = {
            name: sg.fit(model(k, noise), data, progress=False).parameters()
            for name, k in kinds.items()
        }
        how = {"inference": QUICK, "progress": False}
        alone = [sg.fit(model(PRIOR, noise), one, **how).parameters()["k"] for one in data]
        own = [found["pooled"][f"k[{label}]"] for label in data.labels]
        guesses = (
            torch.stack([k.mean for k in own]),
            found["complete"]["k"].mean.expand(len(truth)),
            torch.stack([k.mean for k in alone]),
        )
        errors.append(torch.stack([(guess - truth).square().mean() for guess in guesses]))
        bands = [k.interval(0.9) for k in own]
        inside += [bool(a <= k <= b) for k, (a, b) in zip(truth, bands, strict=True)]
        low, high = found["pooled"]["k[new]"].interval(0.9)
        others = population(100 + seed, 500)
        covered.append(((others >= low) & (others <= high)).double().mean())
    pooled, complete, none = torch.stack(errors).mean(0).tolist()
    assert pooled < complete and pooled < none
    assert 0.8 <= sum(inside) / len(inside) <= 1.0
    assert 0.8 <= float(torch.stack(covered).mean()) <= 1.0


@pytest.mark.slow
def test_a_pooled_parameter_beside_a_learned_remainder(fits_unchecked):
    data = pendulums(population(3, 4), 3, noise=0.05, duration=5.0)
    physics = PhysicsEnergy(PENDULUM, {"k": sg.Pooled(PRIOR)})
    energy = physics + sg.FourierEnergy(1, 10, on="q")
    posterior = sg.fit(sg.HamiltonianModel(energy), data, inference=QUICK, progress=False)
    found = posterior.parameters(nearest=True)
    for label, truth in zip(data.labels, population(3, 4), strict=True):
        k = found[f"k[{label}]"]
        assert abs(float(k.mean - truth)) < 4 * float(k.stddev) + 0.05 * float(truth)
    assert posterior.forecast([5.0, 6.0], trajectory=1).mean.isfinite().all()
    assert "k spread" in found and posterior.summary()

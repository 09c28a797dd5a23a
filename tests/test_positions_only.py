"""Momenta that were never observed: from smoothed positions, and of no account in the noise."""

import math
from dataclasses import replace

import pytest
import torch
from problems import NAN, canonical, gaussian, randn, tensor

from sympgp import SSGP, fit
from sympgp.dissipation import Conservative
from sympgp.energies import FourierEnergy
from sympgp.fields import HamiltonianField
from sympgp.inference.smoothing import smooth
from sympgp.inference.start import integral_form, prepare
from sympgp.metrics import trajectory_mse
from sympgp.noise import GaussianNoise, ScaledNoise, StudentTNoise
from sympgp.shooting.layout import Nodes
from sympgp.systems import DoublePendulum, Pendulum
from sympgp.trajectories import Trajectories

MASS, NOISE = 1.7, 0.05
LAWS = [GaussianNoise(), StudentTNoise(), StudentTNoise(dof=4.0, std=[0.05, NAN])]


def times_mass(q, velocity):
    return MASS * velocity


def without(data: Trajectories, *channels: int) -> Trajectories:
    """The same data with some channels missing."""
    states = [x.clone() for x in data.states]
    for x in states:
        x[:, channels] = NAN
    return Trajectories(list(data.times), states)


def heavy_pendulum(seed: int = 0, **settings) -> tuple[Trajectories, Trajectories]:
    """A pendulum whose momenta are in units in which the mass is MASS: all, and positions."""
    data = Pendulum().simulate(5, rate=5, duration=10, noise_std=NOISE, seed=seed, **settings)
    scale = tensor([1.0, 2.0 * MASS])  # dq/dt = 2 p in the units of the system
    data = Trajectories(list(data.times), [scale * x for x in data.states])
    return data, without(data, 1)


def momentum_errors(prepared, full: Trajectories) -> float:
    """Root mean square error of the smoothed momenta over that of the momenta."""
    scaling, nodes = prepared.scaling, prepared.nodes
    truth = torch.cat([x[~x[:, 0].isnan()] for x in full.states])[:, 1]
    found = scaling.to_user(prepared.path.stages[nodes.mask.any(1), 0])[:, 1]
    seen = ~truth.isnan()
    error = (found - truth)[seen].square().mean() - (2.0 * MASS * NOISE) ** 2
    return math.sqrt(max(float(error), 0.0) / float(truth[seen].square().mean()))


@pytest.mark.parametrize("seed", range(3))
def test_scaling_and_momenta_are_those_of_full_observation(seed):
    full, positions = heavy_pendulum(seed)
    expected = prepare(full, GaussianNoise(), None, 0.25)
    found = prepare(positions, GaussianNoise(), None, 0.25, times_mass)
    for name in ("scale", "spread", "time_scale"):
        one, other = getattr(found.scaling, name), getattr(expected.scaling, name)
        torch.testing.assert_close(one, other, rtol=0.1, atol=0)
    shift = (found.scaling.center - expected.scaling.center) / expected.scaling.scale
    assert shift.abs().max() < 0.1
    assert momentum_errors(found, full) < 0.15
    assert found.path.rates is None


@pytest.mark.parametrize("law", LAWS)
def test_rough_data_and_every_law(law):
    """Missing entries, uneven times and outliers."""
    full, positions = heavy_pendulum(3, missing=0.1, irregular=True)
    found = prepare(positions, law, None, 0.25, times_mass)
    assert bool(found.path.stages.isfinite().all())
    assert momentum_errors(found, full) < 0.2
    assert found.path.noise_std[1] == 1.0
    assert 0.5 * NOISE < float(found.path.noise_std[0] * found.scaling.scale[0]) < 1.5 * NOISE


def test_units_of_time_and_momentum_do_not_matter():
    _, positions = heavy_pendulum()
    slow = Trajectories([1e3 * t for t in positions.times], list(positions.states))
    one = prepare(positions, GaussianNoise(), None, 0.25, times_mass)
    other = prepare(slow, GaussianNoise(), None, 0.25, lambda q, v: 1e6 * v)
    moving = one.nodes.dt > 0
    torch.testing.assert_close(
        one.path.stages[moving], other.path.stages[moving], rtol=1e-3, atol=1e-3
    )
    torch.testing.assert_close(
        1e3 * one.scaling.time_scale, other.scaling.time_scale, rtol=1e-3, atol=0
    )


def test_momenta_of_one_degree_of_freedom():
    """Those that are observed are used as they are; the relation may depend on positions."""
    system = DoublePendulum()
    data = system.simulate(6, rate=10, duration=6, noise_std=0.02)

    (m1, m2), (l1, l2) = system.masses, system.lengths

    def momenta(q, velocity):
        """``p = M(q) v`` with the mass matrix of the two rods."""
        v1, v2 = velocity.unbind(-1)
        coupling = m2 * l1 * l2 * (q[..., 0] - q[..., 1]).cos()
        first = (m1 + m2) * l1**2 * v1 + coupling * v2
        return torch.stack([first, m2 * l2**2 * v2 + coupling * v1], -1)

    x = torch.cat(list(data.states))
    velocity = system.vector_field(x)[:, :2]
    torch.testing.assert_close(momenta(x[:, :2], velocity), x[:, 2:], rtol=1e-6, atol=1e-6)
    expected = prepare(data, GaussianNoise(), None, 0.25)
    found = prepare(without(data, 3), GaussianNoise(), None, 0.25, momenta)
    torch.testing.assert_close(found.scaling.scale, expected.scaling.scale, rtol=0.1, atol=0)
    torch.testing.assert_close(found.scaling.center[:3], expected.scaling.center[:3])
    rows = expected.nodes.mask.any(1)
    one, other = found.path.stages[rows, 0], expected.path.stages[rows, 0]
    one, other = found.scaling.to_user(one), expected.scaling.to_user(other)
    error = (one - other).square().mean(0).sqrt() / other.square().mean(0).sqrt()
    assert error[:3].max() < 1e-3 and error[3] < 0.15


def test_the_integral_form_starts_from_positions_alone():
    """The field of a plain Fourier energy, within a few per cent before any shooting."""
    full, positions = heavy_pendulum()
    prepared = prepare(positions, GaussianNoise(), None, 0.25, times_mass)
    nodes, path = prepared.completed()
    seen = prepared.nodes.mask[:, 0]
    assert torch.equal(nodes.mask, seen[:, None].expand(-1, 2))
    assert torch.equal(nodes.values[seen, 1], prepared.path.stages[seen, 0, 1])
    assert 0.05 < float(path.noise_std[1]) < 0.2
    energy, scaling = FourierEnergy(1, 50), prepared.scaling
    priors = energy.hyperpriors(scaling.spread)
    basis = energy.basis({name: prior.median for name, prior in priors.items()})
    field = HamiltonianField(basis, Conservative().scaled(scaling))
    theta = integral_form(field, prepared)
    x, units = torch.cat(list(full.states)), tensor([1.0, 2.0 * MASS])
    rates = field.bind(theta)(0.0, scaling.to_scaled(x)) * scaling.velocity_scale
    truth = units * Pendulum().vector_field(x / units)
    error = (rates - truth).square().mean(0).sqrt() / truth.square().mean(0).sqrt()
    assert error.max() < 0.05


def test_momenta_of_some_trajectories_are_as_good_as_all():
    """Nothing is asked of the energy then."""
    full, positions = heavy_pendulum()
    mixed = full[:3] + positions[3:]
    prepared = prepare(mixed, GaussianNoise(), None, 0.25)
    assert bool(prepared.path.stages.isfinite().all())
    assert prepared.noise.known.isnan().all()


@pytest.mark.parametrize("momenta", [None, lambda q, velocity: None])
def test_a_scale_that_nothing_fixes_is_refused(momenta):
    _, positions = heavy_pendulum()
    message = "data: p is never observed, and the energy does not fix the scale.* known mass"
    with pytest.raises(ValueError, match=message):
        prepare(positions, GaussianNoise(), None, 0.25, momenta)


def test_what_cannot_be_told_is_refused():
    full, positions = heavy_pendulum()
    with pytest.raises(
        ValueError, match="data: expected observations of every coordinate, got .*q"
    ):
        prepare(without(full, 0), GaussianNoise(), None, 0.25, times_mass)
    with pytest.raises(ValueError, match="data: the energy gives no finite momenta"):
        prepare(positions, GaussianNoise(), None, 0.25, lambda q, v: (v - 1e3).log())


def test_rates_are_the_derivatives_of_the_smoothed_path():
    _, positions = heavy_pendulum()
    nodes = Nodes.from_data(positions, canonical())
    path = smooth(nodes, 40, rates=True)
    moving = nodes.dt > 0
    step = nodes.dt[moving, None] / 80
    middle = (path.stages[moving, 2:] - path.stages[moving, :-2])[..., 0] / (2 * step)
    torch.testing.assert_close(path.rates[moving, 1:-1, 0], middle, rtol=1e-3, atol=1e-3)
    assert not bool(path.stages[..., 1].any()) and not bool(path.rates[..., 1].any())
    assert path.noise_std[1] == 1.0
    assert smooth(nodes, 1).rates is None


# levels of noise


def tied(known=None) -> ScaledNoise:
    """Two groups of two channels in units of their own."""
    law = gaussian(4, known)
    return replace(law, group=torch.tensor([0, 0, 2, 2]), unit=tensor([1.0, 10.0, 3.0, 0.1]))


@pytest.mark.parametrize("gone", [[2, 3], [0], [1, 2], []])
@pytest.mark.parametrize("dof", [None, 4.0])
def test_unobserved_channels_say_nothing_about_others(gone, dof):
    """The levels of those that remain are those of a law without the unobserved ones."""
    here = [c for c in range(4) if c not in gone]
    absent = torch.tensor([c in gone for c in range(4)])
    law = replace(tied(), dof=dof).ignoring(absent)
    alone = replace(
        tied(),
        known=tensor([NAN] * len(here)),
        group=torch.tensor([here.index(min(k for k in here if k // 2 == c // 2)) for c in here]),
        unit=tied().unit[here],
        dof=dof,
    )
    residual, mask = randn(200, 4), torch.ones(200, 4).bool()
    residual[:, gone], mask[:, gone] = 0.0, False
    squares, counts = residual.square().sum(0), mask.sum(0).double()
    pairs = [
        (law.start(squares), alone.start(squares[here])),
        (law.update(squares, counts), alone.update(squares[here], counts[here])),
        (law.shape(counts), alone.shape(counts[here])),
        (law.refined(residual, mask)[1], alone.refined(residual[:, here], mask[:, here])[1]),
    ]
    for one, other in pairs:
        torch.testing.assert_close(one[here], other)
    for levels, _ in (pairs[0], pairs[1], pairs[3]):
        assert bool((levels[gone] == 1.0).all())
    assert bool(law.shape(counts)[gone].isinf().all())


def test_given_levels_of_unobserved_channels_stay():
    law = gaussian(2, tensor([NAN, 0.3])).ignoring(torch.tensor([False, True]))
    assert law.start(tensor([0.2, 5.0])).tolist() == [0.2, 0.3]


# A fit


def test_plain_models_say_why_positions_are_not_enough():
    _, positions = heavy_pendulum()
    message = "data: expected at least 4 observations of p, got 0; nothing fixes the scale .*mass="
    with pytest.raises(ValueError, match=message):
        fit(SSGP(num_features=5), positions, progress=False)


@pytest.mark.parametrize("periodic", [(), pytest.param((0,), marks=pytest.mark.slow)])
def test_momenta_are_found_from_positions_and_a_mass(periodic):
    """The unseen momentum of every state, the field, and no noise of what is not observed."""
    full, positions = heavy_pendulum()
    # dq/dt = p / MASS: the momentum was multiplied by 2 MASS, and dq/dt = 2 p.
    model = SSGP(num_features=15, mass=MASS, periodic=periodic)
    posterior = fit(model, positions[:3], progress=False)
    truth = torch.cat([x for x in full.states[:3]])
    found = torch.cat([one.mean[0] for one in posterior.fitted(num_samples=20)])
    error = (found - truth)[:, 1].square().mean().sqrt()
    assert float(error) < 1.5 * 2.0 * MASS * NOISE  # of the truth's own noise
    assert torch.isnan(posterior.noise_std).tolist() == [False, True]
    assert 0.7 * NOISE < float(posterior.noise_std[0]) < 1.3 * NOISE
    rates = posterior.vector_field([[0.5, 1.0]])
    assert rates.mean[0].tolist() == pytest.approx(
        [1.0 / MASS, -6.0 * MASS * math.sin(0.5)], rel=0.1
    )
    rollouts = posterior.forecast([10.0, 11.0], 0, 10)
    band = rollouts.band(0.9, kind="predictive")
    assert bool((band[1][..., 0] - band[0][..., 0] > 2 * NOISE).all())


@pytest.mark.slow
def test_positions_alone_predict_nearly_as_well():
    """Trajectory MSE over 15 s within four times that of full observation, median over seeds."""
    system = Pendulum()
    x0, times = system.sample_initial(25, seed=1000), torch.linspace(0, 15, 151).double()
    truth = system.exact(x0, times)
    ratios = []
    for seed in range(3):
        full = system.simulate(5, rate=5, duration=10, noise_std=NOISE, seed=seed)
        errors = []
        for data in (full, without(full, 1)):
            model = SSGP(num_features=40, mass=0.5, periodic=(0,))
            posterior = fit(model, data, progress=False)
            errors.append(float(trajectory_mse(posterior.rollout(x0, times, 30), truth)))
        ratios.append(errors[1] / errors[0])
    assert sorted(ratios)[1] < 4.0

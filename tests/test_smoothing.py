"""The start of a fit: smoothed channels, scales of state and time, the integral form."""

import math

import pytest
import torch
from problems import NAN, identity_scaling, ragged_data, randn, tensor

from sympgp.dissipation import Friction
from sympgp.energies import FourierEnergy
from sympgp.fields import HamiltonianField
from sympgp.inference import smoothing
from sympgp.inference.smoothing import smooth
from sympgp.inference.start import _simpson, integral_form, prepare
from sympgp.noise import GaussianNoise
from sympgp.shooting.layout import Nodes
from sympgp.systems import HarmonicOscillator, Pendulum
from sympgp.trajectories import Trajectories

NOISE = 0.05


def waves(count: int = 120, noise: float = NOISE, period: float = 2.0) -> Trajectories:
    times = torch.linspace(0, 12, count, dtype=torch.float64)
    angle = 2 * math.pi * times / period
    clean = torch.stack([angle.sin(), 0.5 * angle.cos()], 1)
    return Trajectories(times, clean + noise * randn(count, 2))


def nodes_of(data: Trajectories) -> Nodes:
    return Nodes.from_data(data, identity_scaling())


def test_smoothing_recovers_waves_and_their_noise():
    nodes = nodes_of(waves())
    path = smooth(nodes, 1)
    truth = waves(noise=0.0).states[0]
    error = (path.stages[:-1, 0] - truth).square().mean(0).sqrt()
    assert bool((error < 0.6 * NOISE).all())
    assert path.noise_std.tolist() == pytest.approx([NOISE, NOISE], rel=0.25)
    middle = nodes.times[:-2] + 0.5 * nodes.dt[:-2]
    angle = math.pi * middle
    between = torch.stack([angle.sin(), 0.5 * angle.cos()], 1)
    error = (path.stages[:-2, 1] - between).square().mean(0).sqrt()
    assert bool((error < 0.6 * NOISE).all())


def test_noise_free_data_are_interpolated():
    nodes = nodes_of(waves(noise=0.0))
    path = smooth(nodes, 2)
    assert path.stages.shape == (121, 5, 2)
    assert (path.stages[:-1, 0] - nodes.values[:-1]).abs().max() < 1e-3
    assert path.noise_std.max() < 1e-3


def test_smoothing_does_not_depend_on_the_units():
    """Tiny times and large values give the same path: time is counted in samples."""
    data = waves(60)
    other = Trajectories(1e-7 * data.times[0], 1e4 * data.states[0])
    path, scaled = smooth(nodes_of(data), 1), smooth(nodes_of(other), 1)
    torch.testing.assert_close(scaled.stages[:-1], 1e4 * path.stages[:-1], rtol=1e-4, atol=1e-1)
    torch.testing.assert_close(scaled.noise_std, 1e4 * path.noise_std, rtol=1e-4, atol=0)


def test_smoothed_paths_are_continuous_from_interval_to_interval():
    data = ragged_data()
    nodes = nodes_of(data)
    path = smooth(nodes, 2)
    moving = (nodes.dt > 0).nonzero().flatten()
    torch.testing.assert_close(path.stages[moving, -1], path.stages[moving + 1, 0])
    assert bool(path.stages.isfinite().all())


def test_pieces_may_be_smoothed_one_by_one(monkeypatch):
    nodes = nodes_of(ragged_data())
    whole = smooth(nodes, 2, rates=True)
    monkeypatch.setattr(smoothing, "CACHED_ELEMENTS", 1)
    for one, expected in zip(
        vars(smooth(nodes, 2, rates=True)).values(), vars(whole).values(), strict=True
    ):
        torch.testing.assert_close(one, expected)


def test_long_trajectories_are_smoothed_in_overlapping_pieces(monkeypatch):
    nodes = nodes_of(waves(150))
    pieces = smooth(nodes, 1)
    monkeypatch.setattr(smoothing, "CORE", 1000)
    whole = smooth(nodes, 1)
    assert (pieces.stages - whole.stages)[:-1].abs().max() < 0.3 * NOISE


def test_missing_entries_do_not_touch_the_other_channel():
    data = waves()
    states = data.states[0].clone()
    states[10:14, 0] = NAN
    full, holes = (
        smooth(nodes_of(data), 1),
        smooth(nodes_of(Trajectories(data.times[0], states)), 1),
    )
    assert torch.equal(full.stages[..., 1], holes.stages[..., 1])
    truth = waves(noise=0.0).states[0]
    assert (holes.stages[10:14, 0, 0] - truth[10:14, 0]).abs().max() < 4 * NOISE


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_simpson_weights_integrate_cubics(parts):
    t = torch.linspace(0, 1, 2 * parts + 1, dtype=torch.float64)
    weights = _simpson(parts)
    for power in range(4):
        assert float(weights @ t**power) == pytest.approx(1 / (power + 1))


@pytest.mark.parametrize("unit", [1.0, 1000.0])
def test_one_scaled_time_is_a_radian_of_the_oscillation(unit):
    """``time_scale = 1 / omega`` for a harmonic oscillator, whatever the units of time."""
    system = HarmonicOscillator(mass=2.0, stiffness=18.0)
    data = system.simulate(4, rate=12, duration=6, noise_std=0.02)
    data = Trajectories([unit * t for t in data.times], list(data.states))
    prepared = prepare(data, GaussianNoise(), None, 0.25)
    assert float(prepared.scaling.time_scale) == pytest.approx(unit / 3.0, rel=0.05)
    assert prepared.step == 0.25
    fixed = prepare(data, GaussianNoise(), unit * 0.1, 0.25)
    assert fixed.step == pytest.approx(0.3, rel=0.05)


def test_prepared_nodes_are_the_data_in_scaled_units():
    data = ragged_data(2)
    prepared = prepare(data, GaussianNoise(), None, 0.25)
    scaling, nodes = prepared.scaling, prepared.nodes
    states = torch.cat(list(data.states))
    torch.testing.assert_close(scaling.center, states.nanmean(0))
    spread = ((states - states.nanmean(0)) ** 2).nanmean(0).sqrt()
    torch.testing.assert_close(scaling.spread * scaling.scale, spread)
    seen = nodes.mask.any(1)
    rows = torch.cat([~x.isnan().all(1) for x in data.states])
    torch.testing.assert_close(
        scaling.to_user(nodes.values[seen])[nodes.mask[seen]], states[rows][~states[rows].isnan()]
    )
    times = torch.cat(list(data.times))[rows]
    torch.testing.assert_close(nodes.times[seen], scaling.to_scaled_time(times))


@pytest.mark.parametrize("friction", [0.0, 0.3])
def test_the_integral_form_is_already_a_rough_fit(friction):
    system = Pendulum(friction=friction)
    data = system.simulate(6, rate=10, duration=5, noise_std=0.02)
    prepared = prepare(data, GaussianNoise(), None, 0.25)
    energy = FourierEnergy(1, 20)
    priors = energy.hyperpriors(prepared.scaling.spread)
    basis = energy.basis({name: prior.median for name, prior in priors.items()})
    damping = Friction().scaled(prepared.scaling)
    field = HamiltonianField(basis, damping)
    theta = integral_form(field, prepared)
    x = torch.cat(list(data.states))
    scaling = prepared.scaling
    rates = field.bind(theta)(0.0, scaling.to_scaled(x)) * scaling.velocity_scale
    truth = system.vector_field(x)
    error = (rates - truth).square().mean(0).sqrt() / truth.square().mean(0).sqrt()
    assert error.max() < 0.1
    assert float(theta[-1] * damping.unit[0]) == pytest.approx(friction, abs=0.05)


def test_smoothing_needs_few_points():
    data = Trajectories(tensor([0.0, 1.0, 2.0]), randn(3, 2))
    assert bool(smooth(nodes_of(data), 1).stages.isfinite().all())

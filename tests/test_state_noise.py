"""Noise of the states in pairs (x, dx/dt)."""

import math

import pytest
import torch
from scipy.optimize import brentq
from torch.distributions import Normal

import sympgp as sg
from sympgp.inference.pairs import Pairs
from sympgp.inference.rate_noise import RateNoise, log_density_of_rates

STATES, RATES = 0.3, 0.2
"""Noise of the oscillator's states and rates."""
STIFF, SPEED = 1.5, 0.8
FORMULA = sg.HamiltonianModel(
    sg.PhysicsEnergy("a*q**2/2 + b*p**2/2", {"a": Normal(1.0, 100.0), "b": Normal(1.0, 100.0)}),
    noise=sg.GaussianNoise(std=RATES),
)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def oscillator(num: int = 150, **settings) -> sg.StateDerivatives:
    x = 2.0 * randn(num, 2)
    rates = torch.stack([SPEED * x[:, 1], -STIFF * x[:, 0]], 1)
    seen, found = x + STATES * randn(num, 2, seed=1), rates + RATES * randn(num, 2, seed=2)
    return sg.StateDerivatives(seen, found, **settings)


def deming(x: torch.Tensor, y: torch.Tensor) -> float:
    """The slope of least orthogonal squares through the origin, with known noise of both."""

    def tilt(b: float) -> float:
        off, variance = y - b * x, RATES**2 + (b * STATES) ** 2
        return float((off * (x + b * STATES**2 * off / variance)).sum())

    return brentq(tilt, 0.1, 5.0)


@pytest.mark.parametrize(
    "engine",
    [
        sg.DerivativeRegression(num_components=1),
        sg.MAP(num_steps=50),
        pytest.param(sg.Laplace(num_steps=50, evidence=False), marks=pytest.mark.slow),
        sg.DeepEnsemble(num_steps=50, num_members=20),
    ],
    ids=lambda engine: type(engine).__name__,
)
def test_a_linear_system_gives_total_least_squares(engine):
    """dq/dt = b p and dp/dt = -a q are two lines, each with noise of both axes."""
    data = oscillator(state_noise=STATES)
    (q, p), (dq, dp) = data.states.mT, data.derivatives.mT
    found = sg.fit(FORMULA, data, inference=engine, progress=False)
    off = torch.tensor([0.0, 0.0], dtype=torch.float64)
    at = torch.eye(2, dtype=torch.float64)
    rates = found.vector_field(torch.cat([at, off[None]])).mean
    slopes = (float(rates[1, 0] - rates[2, 0]), -float(rates[0, 1] - rates[2, 1]))
    # members of an ensemble are draws
    close = 0.02 if isinstance(engine, sg.DeepEnsemble) else 2e-3
    assert slopes[0] == pytest.approx(deming(p, dq), rel=close)
    assert slopes[1] == pytest.approx(deming(q, -dp), rel=close)


def test_deviations_are_those_of_the_line():
    """First-order deviation of a slope: sqrt(C / sum of squared true positions)."""
    data = oscillator(state_noise=STATES)
    engine = sg.DerivativeRegression(num_components=1)
    found = sg.fit(FORMULA, data, inference=engine, progress=False).parameters()
    for name, k, slope in (("a", 0, STIFF), ("b", 1, SPEED)):
        variance = RATES**2 + (slope * STATES) ** 2
        right = math.sqrt(variance / float((2.0 * randn(150, 2))[:, k].square().sum()))
        assert float(found[name].stddev) == pytest.approx(right, rel=0.1)


def test_exact_states_are_states_without_noise():
    engine = sg.DerivativeRegression(num_components=1)
    model = sg.SSGP(num_features=10)
    x = torch.tensor([[0.5, -0.2]], dtype=torch.float64)
    fits = [
        sg.fit(model, oscillator(40, state_noise=noise), inference=engine, progress=False)
        for noise in (None, 0.0)
    ]
    assert torch.equal(fits[0].vector_field(x).mean, fits[1].vector_field(x).mean)


@pytest.fixture(scope="module")
def duffing() -> tuple[torch.Tensor, torch.Tensor, float]:
    """States and rates of a damped oscillator, and its damping."""
    system = sg.systems.Duffing(0.1, alpha=1.0, beta=2.0)
    times = torch.linspace(0, 5, 25, dtype=torch.float64)
    x = system.exact(randn(40, 2, seed=3), times).flatten(0, 1)
    rates = system.vector_field(x)
    return x, rates, 0.1


@pytest.mark.slow
def test_noise_of_states_no_longer_biases_damping_and_noise(duffing):
    x, rates, damping = duffing
    model = sg.SSGP(num_features=30, dissipation=sg.Friction())
    engine = sg.DerivativeRegression(num_components=1)
    states, rates = x + 0.08 * randn(*x.shape, seed=4), rates + 0.05 * randn(*x.shape, seed=5)
    fits = [
        sg.fit(model, sg.StateDerivatives(states, rates, state_noise=noise), inference=engine)
        for noise in (None, 0.08)
    ]
    off = [(float(f.dissipation().mean) - damping) / float(f.dissipation().stddev) for f in fits]
    assert abs(off[1]) < 2 and float(fits[1].dissipation().stddev) < 0.1 * damping
    assert float(fits[0].dissipation().mean) < float(fits[1].dissipation().mean)
    assert float(fits[0].noise_std.max()) > 0.3
    assert fits[1].noise_std.tolist() == pytest.approx([0.05, 0.05], abs=0.02)
    errors = [float((f.vector_field(x).mean - duffing[1]).square().mean()) for f in fits]
    assert errors[1] < errors[0]


def test_units_do_not_matter(duffing):
    states, rates, _ = duffing
    states = states + 0.08 * randn(*states.shape, seed=4)
    unit = torch.tensor([10.0, 0.5], dtype=torch.float64)
    model = sg.SSGP(num_features=8, dissipation=sg.Friction())
    engine = sg.DerivativeRegression(num_components=1)
    few = slice(0, None, 25)
    one, other = (
        sg.fit(
            model,
            sg.StateDerivatives(states[few] * u, rates[few] * u, state_noise=0.08 * u),
            inference=engine,
            progress=False,
        ).vector_field(states[:5] * u)
        for u in (torch.ones(2, dtype=torch.float64), unit)
    )
    assert torch.allclose(one.mean, other.mean / unit, rtol=1e-5, atol=1e-6)
    assert torch.allclose(one.stddev, other.stddev / unit, rtol=1e-3)


@pytest.mark.parametrize(
    ("model", "engine"),
    [
        (sg.SSGP(num_features=10), sg.ExactGP()),
        (sg.HNN(1, (4,)), sg.MeanFieldVI()),
        (sg.HNN(1, (4,)), sg.SGHMC()),
        (sg.HNN(1, (4,)), sg.MCDropout()),
    ],
    ids=lambda one: type(one).__name__,
)
def test_engines_that_take_states_as_exact_refuse(model, engine):
    data = oscillator(20, state_noise=0.1)
    name = type(engine).__name__
    with pytest.raises(ValueError, match=rf"inference: {name}\(\) takes states as exact; pairs"):
        sg.fit(model, data, inference=engine, progress=False)


def test_networks_that_all_diverged_are_said_to_have():
    engine = sg.DeepEnsemble(num_members=2, num_steps=3, learning_rate=1e200)
    data = oscillator(20, state_noise=0.1)
    with pytest.raises(FloatingPointError, match="all networks diverged in training"):
        sg.fit(sg.HNN(1, (4,)), data, inference=engine, progress=False)


@pytest.mark.parametrize("noise", [-0.1, math.nan, [0.1, 0.1, 0.1], [0.1, math.inf]])
def test_noise_that_is_none_is_refused(noise):
    with pytest.raises(ValueError, match="state_noise: expected a number or 2 of them"):
        oscillator(5, state_noise=noise)


def test_the_container_keeps_the_noise(tmp_path):
    data = oscillator(30, state_noise=0.1)
    for part in (data, data[:5], data.to(dtype=torch.float32)):
        assert part.state_noise.tolist() == pytest.approx([0.1, 0.1])
    assert data.to(dtype=torch.float32).state_noise.dtype is torch.float32
    engine = sg.DerivativeRegression(num_components=1)
    fit = sg.fit(sg.SSGP(num_features=5), data, inference=engine, progress=False)
    fit.save(tmp_path / "fit.pt")
    assert sg.load(tmp_path / "fit.pt").data.state_noise.tolist() == [0.1, 0.1]


@pytest.mark.parametrize(
    ("model", "engine"),
    [
        (sg.SSGP(num_features=8), sg.DerivativeRegression(num_components=1)),
        (sg.HNN(1, (4,)), sg.MAP(num_steps=100)),
    ],
    ids=["features", "network"],
)
def test_noise_that_cannot_be_told_from_that_of_the_states_is_named(model, engine):
    x = randn(40, 2)
    rates = torch.stack([x[:, 1], -x[:, 0]], 1)
    data = sg.StateDerivatives(x + 0.5 * randn(40, 2, seed=1), rates, state_noise=0.5)
    found = sg.fit(model, data, inference=engine, progress=False)
    assert "noise of the derivative of q cannot be told from that of the states" in found.summary()


def mixed(num: int = 12) -> Pairs:
    """Pairs of four channels with covariances, some rates missing."""
    root = randn(num, 4, 4, seed=8)
    observed = torch.rand(num, 4, generator=torch.Generator().manual_seed(2)) < 0.7
    rates = randn(num, 4, seed=9) * observed
    return Pairs(randn(num, 4), rates, observed, root @ root.mT)


def test_white_rates_have_the_density_of_the_gaussian():
    pairs, std = mixed(), torch.tensor([0.3, 0.5, 1.0, 2.0], dtype=torch.float64)
    total = 0.0
    for rates, seen, own in zip(pairs.rates, pairs.observed, pairs.covariance, strict=True):
        if not bool(seen.any()):
            continue
        whole = (torch.diag(std**2) + own)[seen][:, seen]
        law = torch.distributions.MultivariateNormal(torch.zeros_like(rates[seen]), whole)
        total += float(law.log_prob(rates[seen]))
    density = log_density_of_rates(pairs.rates[None], std[None], pairs.covariance, pairs.observed)
    assert float((density * pairs.observed).sum()) == pytest.approx(total)
    law = RateNoise.of(pairs, std)
    white, count = law.white(pairs.values), int(pairs.observed.sum())
    constant = 0.5 * count * math.log(2 * math.pi)
    own = -0.5 * white.square().sum() - law.log_det - constant
    assert float(own) == pytest.approx(total)


def test_without_covariance_sums_are_those_of_squares():
    pairs, std = mixed(), torch.tensor([0.3, 0.5, 1.0, 2.0], dtype=torch.float64)
    none = Pairs(pairs.z, pairs.rates, pairs.observed, 0.0 * pairs.covariance)
    plain = Pairs(pairs.z, pairs.rates, pairs.observed)
    leverage = 0.1 * torch.ones_like(plain.values)
    one = RateNoise.of(none, std).by_channel(plain.values, leverage)
    other = RateNoise.of(plain, std).by_channel(plain.values, leverage)
    spare = plain.counts - other[1]
    assert torch.allclose(one[1], other[1])
    assert torch.allclose(
        one[0].clamp(min=0.1 * spare * std**2), torch.maximum(other[0], 0.1 * spare * std**2)
    )

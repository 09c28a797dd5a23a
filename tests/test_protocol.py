"""Whole fits on published protocols and measured data: errors, friction, honest bands.

Slow; the published and measured files are read from the folder named by SYMPGP_DATA. With
``pytest -m slow -s tests/test_protocol.py`` every figure is printed.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sympgp import SSGP, Conservative, Friction, Posterior, Trajectories, fit
from sympgp.metrics import coverage, trajectory_mse
from sympgp.systems import Duffing, Pendulum
from sympgp.systems.base import System

# Draws that diverge are counted, and left out of means and bands, by the metrics themselves.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::sympgp.integrators.DivergenceWarning"),
]

FRICTION = 0.05


@dataclass(frozen=True)
class Limits:
    """Largest trajectory MSE: the mean over splits of the mean and of the median over tests."""

    system: System
    mean: float
    median: float


SYSTEMS = {
    "pendulum_conservative": Limits(Pendulum(), 0.12, 0.03),
    "pendulum_friction": Limits(Pendulum(friction=FRICTION), 0.04, 0.003),
    "duffing_conservative": Limits(Duffing(), 0.06, 0.03),
    "duffing_friction": Limits(Duffing(friction=FRICTION), 0.08, 0.05),
}
SPLITS = range(3)


@dataclass(frozen=True)
class Split:
    """Noisy training data, and noise-free test trajectories (N, T, 2)."""

    train: Trajectories
    times: Tensor
    test: Tensor


@dataclass(frozen=True)
class Score:
    """What one fit came to."""

    mean: float
    median: float
    coverage: float
    posterior: Posterior


def simulated(name: str, seed: int) -> Split:
    """The protocol by this package's simulator: 5 trajectories, 5 Hz, 10 s, noise 0.1."""
    system = SYSTEMS[name].system
    train = system.simulate(5, rate=5, duration=10, noise_std=0.1, seed=seed)
    times = torch.linspace(0, 15, 301, dtype=torch.float64)
    return Split(train, times, system.exact(system.sample_initial(25, seed=1000 + seed), times))


def published(folder: Path, name: str, split: int) -> Split:
    with np.load(folder / "ssgp_protocol" / f"{name}_split{split}.npz") as file:
        train = Trajectories(file["times"], file["train"])
        times, test = torch.as_tensor(file["test_times"]), torch.as_tensor(file["test"])
    return Split(train, times.double(), test.double())


def score(name: str, split: Split) -> Score:
    dissipation = Friction() if SYSTEMS[name].system.friction else Conservative()
    model = SSGP(num_features=100, dissipation=dissipation)
    posterior = fit(model, split.train, progress=False)
    rollouts = posterior.rollout(split.test[:, 0], split.times)
    errors = trajectory_mse(rollouts, split.test, per_trajectory=True)
    covered = coverage(rollouts, split.test, level=0.9)
    friction = posterior.dissipation()
    print(
        f"{name}: trajectory MSE {errors.mean():.4f}, median {errors.median():.4f}, coverage "
        f"{covered:.3f}, friction {friction.mean:.4f} +- {friction.stddev:.4f}, "
        f"fit {posterior.diagnostics.seconds:.1f} s"
    )
    return Score(float(errors.mean()), float(errors.median()), float(covered), posterior)


@cache
def scores(source: str, folder: Path | None) -> dict[str, list[Score]]:
    """All systems and splits; computed once for all tests."""
    found = {}
    for name in SYSTEMS:
        splits = [
            simulated(name, k) if folder is None else published(folder, name, k) for k in SPLITS
        ]
        found[name] = [score(name, split) for split in splits]
    return found


@pytest.fixture(params=["simulated", "published"])
def results(request) -> dict[str, list[Score]]:
    if request.param == "simulated":
        return scores("simulated", None)
    return scores("published", request.getfixturevalue("sympgp_data"))


def average(values) -> float:
    values = list(values)
    return sum(values) / len(values)


@pytest.mark.parametrize("name", SYSTEMS)
def test_trajectories_are_predicted(results, name):
    limits = SYSTEMS[name]
    assert average(s.mean for s in results[name]) <= limits.mean
    assert average(s.median for s in results[name]) <= limits.median


@pytest.mark.parametrize("name", ["pendulum_friction", "duffing_friction"])
def test_friction_is_found_with_its_uncertainty(results, name):
    for one in results[name]:
        friction = one.posterior.dissipation()
        error = abs(float(friction.mean) - FRICTION)
        assert error <= 0.004
        assert error <= 2.5 * float(friction.stddev)


def test_bands_are_honest(results):
    covered = {name: average(s.coverage for s in results[name]) for name in SYSTEMS}
    assert min(covered.values()) >= 0.70, covered
    assert 0.80 <= average(covered.values()) <= 0.97, covered


def test_noise_is_found(results):
    for name in SYSTEMS:
        for one in results[name]:
            assert one.posterior.noise_std.tolist() == pytest.approx([0.1, 0.1], rel=0.2)


# measured systems


def measured(folder: Path, name: str) -> Trajectories:
    return Trajectories.from_csv(folder / "measured" / f"{name}.csv", q="q", p="p")


def forecast(data: Trajectories, seen: float, ahead: float, seed: int = 0):
    """Fit the first ``seen`` of the time and forecast the observations of the next ``ahead``."""
    start = float(data.times[0][0])
    train = data.between(start, start + seen)
    later = data.between(start + seen, start + seen + ahead)
    model = SSGP(num_features=100, dissipation=Friction(), seed=seed)
    posterior = fit(model, train, seed=seed, progress=False)
    found, truth = posterior.forecast(later.times[0], num_samples=400, seed=seed), later.states[0]
    error = (found.mean[0] - truth).square().mean(0).sqrt()
    covered = coverage(found, truth, kind="predictive", per_channel=True, include_start=True)
    print(
        f"{seen:g} s seen, {ahead:g} s ahead: RMSE {error.tolist()}, relative to the deviation "
        f"{(error / truth.std(0)).tolist()}, 90% predictive coverage {covered.tolist()}"
    )
    return found, truth


def test_a_measured_pendulum_is_forecast_for_as_long_as_it_was_seen(sympgp_data):
    """Of the angle, over four seeds of the spectral points: one band is a single realisation."""
    covered = []
    for seed in range(4):
        found, truth = forecast(measured(sympgp_data, "pendulum"), 20.0, 20.0, seed)
        error = (found.mean[0] - truth)[:, 0].square().mean().sqrt()
        assert error <= 0.03
        inside = coverage(found, truth, kind="predictive", per_channel=True, include_start=True)
        covered.append(float(inside[0]))
    assert 0.8 <= average(covered) <= 0.98, covered


def test_a_measured_pendulum_is_forecast_to_its_end(sympgp_data):
    found, truth = forecast(measured(sympgp_data, "pendulum"), 40.0, 60.0)
    assert found.times[-1] - found.times[0] > 50.0
    assert (found.mean[0] - truth)[:, 0].square().mean().sqrt() <= 0.15


def test_a_measured_mass_on_springs_is_forecast(sympgp_data):
    data = measured(sympgp_data, "air_track")
    thin = Trajectories(data.times[0][::3], data.states[0][::3])
    found, truth = forecast(thin, 10.0, 10.0)
    error = (found.mean[0] - truth).square().mean(0).sqrt()
    assert ((error / truth.std(0)) <= 0.02).all()

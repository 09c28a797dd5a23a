"""Posteriors, residuals and rollouts of which everything is known, and looks into pictures."""

import math
import warnings
from types import SimpleNamespace

import torch
from torch import Tensor

from sympgp.integrators import RK4, DivergenceWarning
from sympgp.rollouts import Rollouts, solve_rollouts
from sympgp.trajectories import Trajectories

UNITS = {"angle": "rad", "momentum": "kg m²/s", "time": "s"}


class KnownPendulum:
    """Stands in for a posterior: n uncoupled pendulums, less certain away from the data."""

    def __init__(self, num_dof=1, names=None, units=None, missing=(), seed=0, angles=None):
        generator = torch.Generator().manual_seed(seed)
        x0 = torch.rand(3, 2 * num_dof, generator=generator, dtype=torch.float64) + 0.5
        times = torch.linspace(0, 5, 21, dtype=torch.float64)
        states = RK4(0.05).solve(lambda t, x: self.field(x), x0, times)
        for d in missing:
            states[..., d] = math.nan
        self.data = Trajectories(times, states, names=names, units=units)
        self.names, self.units = self.data.names, self.data.units
        self.angles = angles or {}
        self.asked: list[Tensor] = []

    def field(self, x: Tensor) -> Tensor:
        q, p = x.chunk(2, -1)
        return torch.cat([p, -torch.sin(q)], -1)

    def vector_field(self, x: Tensor) -> SimpleNamespace:
        self.asked.append(x)
        return SimpleNamespace(mean=self.field(x), stddev=0.1 * x.abs() + 0.01)

    def hamiltonian(self, x: Tensor) -> SimpleNamespace:
        self.asked.append(x)
        q, p = x.chunk(2, -1)
        mean = (p**2 / 2 - q.cos()).sum(-1)
        return SimpleNamespace(mean=mean, stddev=0.02 + 0.1 * (x**2).sum(-1))


def pendulum(num_dof=1, **settings) -> KnownPendulum:
    if num_dof == 1:
        settings = {"names": ("angle", "momentum"), "units": UNITS} | settings
    return KnownPendulum(num_dof, **settings)


def make_rollouts(posterior: KnownPendulum, num_draws=20, stop=8.0, num_times=33) -> Rollouts:
    dim = 2 * posterior.data.num_dof
    generator = torch.Generator().manual_seed(1)
    start = torch.stack([x[0] for x in posterior.data.states]).nan_to_num(0.5)
    spread = torch.randn(num_draws, *start.shape, generator=generator, dtype=torch.float64)
    times = torch.linspace(0, stop, num_times, dtype=torch.float64)
    x0 = start + 0.05 * spread
    samples, diverged = solve_rollouts(lambda t, x: posterior.field(x), x0, times, RK4(0.1))

    def energies(x):
        q, p = x.chunk(2, -1)
        return (p**2 / 2 - q.cos()).sum(-1)

    noise_std = torch.full((num_draws, dim), 0.3, dtype=torch.float64)
    return Rollouts(samples, times, diverged, energies, noise_std, posterior.names, posterior.units)


class KnownResiduals:
    """Residuals with the autocorrelation about their known mean of zero."""

    def __init__(self, parts, names=("q", "p"), units=None):
        self.standardized = tuple(parts)
        self.times = tuple(torch.arange(len(part), dtype=torch.float64) / 2 for part in parts)
        self.names, self.units = names, units or {"time": "s"}
        self.labels = tuple(map(str, range(len(parts))))

    def autocorrelation(self, max_lag):
        rows = [self._products(lag) for lag in range(max_lag + 1)]
        return torch.stack([row / rows[0] for row in rows])

    def _products(self, lag):
        return sum((x[lag:] * x[: len(x) - lag]).nansum(0) for x in self.standardized)


def white(num_trajectories=3, length=60, dim=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (num_trajectories, length, dim)
    return list(torch.randn(shape, generator=generator, dtype=torch.float64))


def honest(num_trajectories=12, num_times=7, num_draws=30, seed=0, noise=0.5):
    """Rollouts and a truth from the same distribution, some of it unknown."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_draws + 1, num_trajectories, num_times, 2)
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    noise_std = noise + torch.rand(num_draws, 2, generator=generator, dtype=torch.float64)
    diverged = torch.rand(num_draws, num_trajectories, generator=generator) < 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergenceWarning)
        times = torch.arange(num_times, dtype=torch.float64)
        rollouts = Rollouts(values[1:], times, diverged, noise_std=noise_std)
    truth = values[0].clone()
    truth[torch.rand(truth.shape, generator=generator) < 0.2] = math.nan
    return rollouts, truth


def lines(ax) -> dict:
    return {line.get_label(): line for line in ax.get_lines()}


def legend_texts(ax) -> list[str]:
    legend = ax.get_legend() or ax.figure.legends[0]
    return [text.get_text() for text in legend.get_texts()]


def note_of(ax) -> str:
    """The line above the legend, in a figure of its own or in axes of the caller's."""
    if ax.figure.legends:
        return ax.figure.legends[0].get_title().get_text()
    return ax.get_title("left").strip()

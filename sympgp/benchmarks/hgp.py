"""The protocol of Ross and Heinonen (TMLR 2023): forecasts, and new initial states.

Task 1: one noisy trajectory over [0, T], to be continued over [T, 2T]. Task 2: eight noisy
trajectories over [0, T], from which 25 new ones over [0, 3T] are predicted, starting from their
exact states. The variance of the noise is 5% of each coordinate's, trajectory by trajectory. Scores
are in units of the noisy training data's standard deviations.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch

from sympgp.benchmarks.published import Problem, find_file, read_hgp
from sympgp.benchmarks.registry import fit_named
from sympgp.benchmarks.runs import Run, Value, problems
from sympgp.benchmarks.table import Column
from sympgp.integrators import DivergenceWarning
from sympgp.metrics import coverage, crps, nlpd
from sympgp.posterior import Posterior
from sympgp.rollouts import Rollouts
from sympgp.systems import HenonHeiles, Pendulum, SpringPendulum, System
from sympgp.trajectories import Trajectories

NOISE_SHARE = 0.05
"""Variance of the noise over that of the coordinate."""
TRAIN, TEST = 8, 25
"""Trajectories of task 2."""
TEST_SEED = 1000
"""Added to a run's seed, for the initial states of task 2's test trajectories."""
TASKS = (1, 2)


@dataclass(frozen=True)
class Setting:
    """A system with its horizons T and rates of observation and test in both tasks."""

    system: System
    published: str
    rate: float
    horizons: tuple[float, float]
    test_rates: tuple[float, float]


SYSTEMS = {
    "simple-pendulum": Setting(
        Pendulum(mass=1.0, gravity=9.81, half_width=1.0),
        "simplependulum",
        8.0,
        (8.0, 4.0),
        (15.0, 10.0),
    ),
    "spring-pendulum": Setting(SpringPendulum(), "springpendulum", 6.0, (16.0, 6.0), (10.0, 10.0)),
    "henon-heiles": Setting(HenonHeiles(), "henonheiles", 4.0, (40.0, 12.0), (10.0, 10.0)),
}


@dataclass(frozen=True)
class HGPRun(Run):
    """One fit of the protocol.

    Attributes:
        task: 1 or 2.
        system: name in ``SYSTEMS``.
        features: of the model.
        model: name in the registry, with options.
        engine: likewise.
        draws: of the predictions.
        seed: of the data, the features, the engine and the draws.
        source: "simulated" or "published".
    """

    task: int
    system: str
    features: int
    model: str
    engine: str
    draws: int
    seed: int
    source: str

    def describe(self) -> str:
        """Task, system, model and seed."""
        return f"task {self.task}, {self.system}, {self.model}, {self.engine}, seed {self.seed}"

    def problem(self, data: Path | None) -> Problem:
        """The data of this run."""
        if self.source == "published":
            if data is None:
                raise ValueError("data: expected the folder of the published files, got None")
            return read_hgp(published_file(data, self.task, self.system, self.seed))
        return simulate(self.task, SYSTEMS[self.system], self.seed)

    def score(self, data: Path | None) -> dict[str, Value]:
        """Fit, predict and compare."""
        problem = self.problem(data)
        posterior = fit_named(
            self.model, self.engine, problem.train, self.features, damped=False, seed=self.seed
        )
        if self.task == 1:
            found = posterior.forecast(problem.times, num_samples=self.draws, seed=self.seed)
        else:
            found = posterior.rollout(
                problem.test[:, 0], problem.times, num_samples=self.draws, seed=self.seed
            )
        return {
            **_scores(found, problem, include_start=self.task == 1),
            "noise": float((posterior.noise_std / problem.std).mean()),
            **_record(posterior, found),
        }


def simulate(task: int, setting: Setting, seed: int) -> Problem:
    """Data of the protocol by this package's solver."""
    system, horizon = setting.system, setting.horizons[task - 1]
    count = int(setting.rate * horizon) + 1
    seen = torch.linspace(0, horizon, count, dtype=torch.float64)
    x0 = system.sample_initial(1 if task == 1 else TRAIN, seed=seed)
    clean = system.exact(x0, seen)
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    noisy = clean + math.sqrt(NOISE_SHARE) * clean.std(1, keepdim=True, correction=0) * white
    end = (task + 1) * horizon
    times = torch.linspace(0, end, int(setting.test_rates[task - 1] * end), dtype=torch.float64)
    if task == 1:
        test = system.exact(x0, times)
        ahead = times >= horizon
        return Problem.of(Trajectories(seen, noisy), times[ahead], test[:, ahead])
    starts = system.sample_initial(TEST, seed=TEST_SEED + seed)
    return Problem.of(Trajectories(seen, noisy), times, system.exact(starts, times))


def _scores(found: Rollouts, problem: Problem, include_start: bool) -> dict[str, Value]:
    """In standardised units; the likelihood is that of the truth under the predictive mixture."""
    scaled, truth = standardised(found, problem), (problem.test - problem.mean) / problem.std
    squares = (scaled.mean - truth).square().mean((1, 2))
    return {
        "rmse": float(squares.mean().sqrt()),
        "rmse_median": float(squares.sqrt().median()),
        "log_likelihood": -float(nlpd(scaled, truth, kind="predictive", include_start=True)),
        "coverage_50": float(coverage(scaled, truth, level=0.5, include_start=include_start)),
        "coverage_90": float(coverage(scaled, truth, level=0.9, include_start=include_start)),
        "crps": float(crps(scaled, truth, include_start=include_start)),
        "nlpd": float(nlpd(scaled, truth, include_start=include_start)),
    }


def standardised(found: Rollouts, problem: Problem) -> Rollouts:
    """The same draws in units of the training data's standard deviations."""
    noise = found.noise_std
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergenceWarning)  # said once already
        return Rollouts(
            (found.samples - problem.mean) / problem.std,
            found.times,
            found.diverged,
            noise_std=None if noise is None else noise / problem.std,
            noise_dof=found.noise_dof,
        )


def _record(posterior: Posterior, found: Rollouts) -> dict[str, Value]:
    return {
        "fit_seconds": posterior.diagnostics.seconds,
        "diverged": int(found.diverged.sum()),
        "problems": problems(posterior),
    }


def published_file(data: Path, task: int, system: str, seed: int) -> Path:
    """The file of a task, system and seed.

    Raises:
        ValueError: there is none.
    """
    name = f"task{task}_{SYSTEMS[system].published}_seed{seed}.npz"
    return find_file(data, "hgp_protocol", name)


def hgp_runs(
    tasks: Sequence[int] = (1,),
    systems: Sequence[str] = tuple(SYSTEMS),
    seeds: Sequence[int] = (1, 2, 3),
    models: Sequence[str] = ("ssgp",),
    engines: Sequence[str] = ("gauss-newton",),
    features: int | None = None,
    draws: int = 100,
    data: Path | None = None,
) -> list[HGPRun]:
    """Every combination as a run, seeds last.

    Args:
        tasks: 1, 2 or both.
        systems: names in ``SYSTEMS``.
        seeds: of simulated data, or those of the published files.
        models: names in the registry.
        engines: likewise.
        features: of the model; 100 by default.
        draws: of the predictions.
        data: folder of the published files, to read them instead of simulating.

    Raises:
        ValueError: a task or system that is not known; files that are not there.
    """
    for name in systems:
        if name not in SYSTEMS:
            raise ValueError(f"systems: expected some of {', '.join(SYSTEMS)}, got {name!r}")
    found = []
    for task, name, model, engine, seed in product(tasks, systems, models, engines, seeds):
        if task not in TASKS:
            raise ValueError(f"tasks: expected 1 or 2, got {task!r}")
        if data is not None:
            published_file(data, task, name, seed)
        found.append(
            HGPRun(
                task=task,
                system=name,
                features=features or 100,
                model=model,
                engine=engine,
                draws=draws,
                seed=seed,
                source="simulated" if data is None else "published",
            )
        )
    return found


GROUPS = (("system", "task", "features", "model", "engine", "draws", "source"),)
COLUMNS = (
    Column("RMSE", "rmse"),
    Column("median", "rmse_median"),
    Column("log likelihood", "log_likelihood"),
    Column("50% band", "coverage_50"),
    Column("90% band", "coverage_90"),
    Column("CRPS", "crps"),
    Column("NLPD", "nlpd"),
    Column("fit, s", "fit_seconds"),
    Column("diverged", "diverged"),
)

"""The protocol of Tanaka, Iwata and Ueda (NeurIPS 2022): new trajectories of pendula and others.

Noisy trajectories of 10 s are learned from (noise of standard deviation 0.1); 25 trajectories of
15 s are then predicted from their exact initial states, and compared with the truth without noise.
The paper's second task, counterfactual here, learns from a system with friction and predicts it
without.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch

from sympgp.benchmarks.bead import Bead
from sympgp.benchmarks.published import Problem, find_file, read_ssgp
from sympgp.benchmarks.registry import fit_named
from sympgp.benchmarks.runs import Run, Value, problems
from sympgp.benchmarks.table import Column
from sympgp.dissipation import Conservative
from sympgp.metrics import coverage, crps, energy_mse, nlpd, trajectory_mse
from sympgp.posterior import Posterior
from sympgp.rollouts import Rollouts
from sympgp.systems import DoublePendulum, Duffing, Pendulum, System

FRICTION, NOISE, DURATION = 0.05, 0.1, 10.0
TESTS, TEST_DURATION, TEST_RATE = 25, 15.0, 20
TEST_SEED = 1000
"""Added to a run's seed, for the initial states of its test trajectories."""

DAMPED, COUNTERFACTUAL = "-friction", "-counterfactual"
"""Endings of names: systems with friction, and those with friction that is predicted without."""
KINDS: dict[str, type[System]] = {
    "pendulum": Pendulum,
    "duffing": Duffing,
    "double-pendulum": DoublePendulum,
    "bead": Bead,
}
SYSTEMS: dict[str, System] = {
    name + ending: kind(friction=FRICTION if ending else 0.0)
    for name, kind in KINDS.items()
    for ending in ("", DAMPED, COUNTERFACTUAL)
}
OWN = "bead"
"""The one that no paper has."""
DEFAULT_SYSTEMS = tuple(
    name for name in SYSTEMS if name != OWN and not name.endswith(COUNTERFACTUAL)
)
PUBLISHED_SEEDS = (0, 1, 2)
ROUNDING = 1e-12
"""Relative deviation of a coefficient below which it has none."""


@dataclass(frozen=True)
class SSGPRun(Run):
    """One fit of the protocol.

    Attributes:
        system: name in ``SYSTEMS``.
        num_trajectories: for training.
        rate: observations per second.
        features: of the model.
        model: name in the registry, with options.
        engine: likewise.
        draws: of the predictions.
        seed: of the data, the features, the engine and the draws.
        source: "simulated" or "published".
    """

    system: str
    num_trajectories: int
    rate: float
    features: int
    model: str
    engine: str
    draws: int
    seed: int
    source: str

    def describe(self) -> str:
        """System, size of the data, model and seed."""
        return (
            f"{self.system}, {self.num_trajectories} trajectories at {self.rate:g} Hz, "
            f"{self.model}, {self.engine}, seed {self.seed}"
        )

    def problem(self, data: Path | None) -> Problem:
        """The data of this run."""
        if self.source == "published":
            if data is None:
                raise ValueError("data: expected the folder of the published files, got None")
            file = published_file(data, self.system, self.seed)
            problem = read_ssgp(file, self.num_trajectories)
            if not self.system.endswith(COUNTERFACTUAL):
                return problem
            truth = self._tested.exact(problem.test[:, 0], problem.times)
            return replace(problem, test=truth)
        system = SYSTEMS[self.system]
        train = system.simulate(
            self.num_trajectories, self.rate, DURATION, noise_std=NOISE, seed=self.seed
        )
        count = int(TEST_DURATION * TEST_RATE) + 1
        times = torch.linspace(0, TEST_DURATION, count, dtype=torch.float64)
        starts = system.sample_initial(TESTS, seed=TEST_SEED + self.seed)
        return Problem.of(train, times, self._tested.exact(starts, times))

    @property
    def _tested(self) -> System:
        """The system whose trajectories are predicted."""
        if self.system.endswith(COUNTERFACTUAL):
            return SYSTEMS[self.system.removesuffix(COUNTERFACTUAL)]
        return SYSTEMS[self.system]

    def predict(self, problem: Problem) -> tuple[Posterior, Rollouts]:
        """Fit, and start the test trajectories."""
        posterior = fit_named(
            self.model,
            self.engine,
            problem.train,
            self.features,
            damped=SYSTEMS[self.system].friction > 0,
            seed=self.seed,
        )
        predicting = posterior
        if self.system.endswith(COUNTERFACTUAL):
            predicting = posterior.without_dissipation()
        found = predicting.rollout(
            problem.test[:, 0], problem.times, num_samples=self.draws, seed=self.seed
        )
        return posterior, found

    def score(self, data: Path | None) -> dict[str, Value]:
        """Fit, predict and compare."""
        system, problem = SYSTEMS[self.system], self.problem(data)
        posterior, found = self.predict(problem)
        return {
            **_errors(found, problem, system),
            **_bands(found, problem),
            **_friction(posterior, system.friction),
            "noise": float(posterior.noise_std.mean()),
            "fit_seconds": posterior.diagnostics.seconds,
            "diverged": int(found.diverged.sum()),
            "problems": problems(posterior),
        }


def _errors(found: Rollouts, problem: Problem, system: System) -> dict[str, Value]:
    errors = trajectory_mse(found, problem.test, per_trajectory=True)
    energies = energy_mse(found, problem.test, system.hamiltonian, per_trajectory=True)
    return {
        "trajectory_mse": float(errors.mean()),
        "trajectory_mse_median": float(errors.median()),
        "energy_mse": float(energies.mean()),
        "energy_mse_median": float(energies.median()),
    }


def _bands(found: Rollouts, problem: Problem) -> dict[str, Value]:
    return {
        "coverage_50": float(coverage(found, problem.test, level=0.5)),
        "coverage_90": float(coverage(found, problem.test, level=0.9)),
        "crps": float(crps(found, problem.test)),
        "nlpd": float(nlpd(found, problem.test)),
    }


def _friction(posterior: Posterior, truth: float) -> dict[str, Value]:
    """Estimate, squared error and error in posterior standard deviations.

    None without friction, and for models that have no such coefficient.
    """
    names = ("friction", "friction_std", "friction_mse", "friction_z")
    if not truth or isinstance(posterior.dissipation_family, Conservative):
        return dict.fromkeys(names)
    found = posterior.dissipation()
    mean, std = float(found.mean), float(found.stddev)
    # a single network has a deviation of rounding errors
    z = (mean - truth) / std if std > ROUNDING * abs(mean) else math.nan
    return dict(zip(names, (mean, std, (mean - truth) ** 2, z), strict=True))


def published_file(data: Path, system: str, split: int) -> Path:
    """The file of a system and split.

    Raises:
        ValueError: there is none.
    """
    kind = "friction" if SYSTEMS[system].friction else "conservative"
    base = next(name for name in sorted(KINDS, key=len, reverse=True) if system.startswith(name))
    if base == OWN:
        raise ValueError(f"data: nobody has published the system {system}")
    name = base.replace("-", "_")
    return find_file(data, "ssgp_protocol", f"{name}_{kind}_split{split}.npz")


def ssgp_runs(
    systems: Sequence[str] = DEFAULT_SYSTEMS,
    num_trajectories: Sequence[int] = (10,),
    rates: Sequence[float] = (),
    seeds: Sequence[int] = PUBLISHED_SEEDS,
    models: Sequence[str] = ("ssgp",),
    engines: Sequence[str] = ("gauss-newton",),
    features: int | None = None,
    draws: int = 100,
    data: Path | None = None,
) -> list[SSGPRun]:
    """Every combination as a run, seeds last.

    Args:
        systems: names in ``SYSTEMS``.
        num_trajectories: sizes of the training set.
        rates: in Hz; by default the published ones, 5 with one degree of freedom and 10 with two.
        seeds: of simulated data, or the numbers of the published splits.
        models: names in the registry.
        engines: likewise.
        features: of the model; by default 100 with one degree of freedom, 200 with two.
        draws: of the predictions.
        data: folder of the published files, to read them instead of simulating.

    Raises:
        ValueError: a system that is not known; no trajectories or no rate; a combination that was
            not published.
    """
    for name in systems:
        if name not in SYSTEMS:
            raise ValueError(f"systems: expected some of {', '.join(SYSTEMS)}, got {name!r}")
    if min(num_trajectories) < 1:
        raise ValueError(f"num_trajectories: expected at least 1, got {min(num_trajectories)}")
    if min(rates, default=1.0) * DURATION < 1:
        raise ValueError(f"rates: expected at least {1 / DURATION:g} Hz, got {min(rates):g}")
    found = []
    for name, count in product(systems, num_trajectories):
        num_dof = SYSTEMS[name].num_dof
        usual = 5.0 if num_dof == 1 else 10.0
        for rate, model, engine, seed in product(rates or (usual,), models, engines, seeds):
            if data is not None:
                _check_published(data, name, count, rate, usual, seed)
            found.append(
                SSGPRun(
                    system=name,
                    num_trajectories=count,
                    rate=float(rate),
                    features=features or 100 * num_dof,
                    model=model,
                    engine=engine,
                    draws=draws,
                    seed=seed,
                    source="simulated" if data is None else "published",
                )
            )
    return found


def _check_published(
    data: Path, system: str, count: int, rate: float, usual: float, seed: int
) -> None:
    """Refuse what the published files do not hold.

    Raises:
        ValueError: another rate, more trajectories, or no such file.
    """
    if rate != usual:
        raise ValueError(f"rates: {system} was published at {usual:g} Hz, got {rate:g}")
    read_ssgp(published_file(data, system, seed), count)


GROUPS = (
    ("system", "num_trajectories", "rate", "features", "model", "engine", "draws", "source"),
    ("system", "features", "model", "engine", "draws", "source"),
)
"""Settings that make a row of the table, and of the one over all sizes and rates."""
COLUMNS = (
    Column("trajectory MSE", "trajectory_mse"),
    Column("median", "trajectory_mse_median"),
    Column("energy MSE", "energy_mse"),
    Column("50% band", "coverage_50"),
    Column("90% band", "coverage_90"),
    Column("CRPS", "crps"),
    Column("NLPD", "nlpd"),
    Column("friction MSE x 10^3", "friction_mse", scale=1e3),
    Column("friction z, RMS", "friction_z", rms=True),
    Column("fit, s", "fit_seconds"),
    Column("diverged", "diverged"),
)

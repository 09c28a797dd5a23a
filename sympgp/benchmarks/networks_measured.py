"""Forecasts of measured systems: a pendulum, and a mass on springs on an air track.

Of the pendulum 20 s are seen and 20 s forecast, of the air track at 10 Hz 10 s and 10 s. Errors
are in standard deviations of the readings to forecast; bands are predictive, since these readings
are as noisy as those that were seen.

Source: Schmidt and Lipson, *Distilling Free-Form Natural Laws from Experimental Data*, Science 324
(2009), supplementary data; files ``measured/pendulum.csv`` and ``measured/air_track.csv`` with
columns trajectory, time, q, p.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from torch import Tensor

from sympgp.benchmarks.networks_prediction import Prediction
from sympgp.benchmarks.published import find_file
from sympgp.benchmarks.registry import Pair, fit_named
from sympgp.benchmarks.runs import Run, Value, problems
from sympgp.benchmarks.table import Column
from sympgp.metrics import coverage, nlpd
from sympgp.rollouts import Rollouts
from sympgp.trajectories import Trajectories

FOLDER = "measured"
FEATURES = 100


@dataclass(frozen=True)
class Recording:
    """A measured trajectory.

    Attributes:
        file: its name.
        every: rows from one that is used to the next.
        seen: time from the first reading that is fitted to the last.
        ahead: time that is forecast.
    """

    file: str
    every: int
    seen: float
    ahead: float


RECORDINGS = {
    "pendulum": Recording("pendulum.csv", 1, 20.0, 20.0),
    "air-track": Recording("air_track.csv", 3, 10.0, 10.0),
}


@dataclass(frozen=True)
class MeasuredRun(Run):
    """One fit and its forecast.

    Attributes:
        system: name in ``RECORDINGS``.
        model: name in the registry, with options.
        engine: likewise.
        draws: of the forecast.
        seed: of the engine and the draws.
    """

    system: str
    model: str
    engine: str
    draws: int
    seed: int

    def describe(self) -> str:
        """System, model and seed."""
        return f"{self.system}, {self.model}, {self.engine}, seed {self.seed}"

    def split(self, data: Path | None) -> tuple[Trajectories, Trajectories]:
        """What is seen, and what is to be forecast.

        Raises:
            ValueError: no folder of data, or no such file in it.
        """
        if data is None:
            raise ValueError("data: expected the folder of the measured files, got None")
        recording = RECORDINGS[self.system]
        path = find_file(data, FOLDER, recording.file)
        whole = Trajectories.from_csv(path, q=["q"], p=["p"])
        times, states = (x[0][:: recording.every] for x in (whole.times, whole.states))
        end = float(times[0]) + recording.seen
        seen, later = (
            Trajectories(times[part], states[part], names=whole.names, units=whole.units)
            for part in (times <= end, (times > end) & (times <= end + recording.ahead))
        )
        return seen, later

    def predicted(self, data: Path | None) -> Prediction:
        """Fit and forecast."""
        seen, later = self.split(data)
        posterior = fit_named(self.model, self.engine, seen, FEATURES, damped=True, seed=self.seed)
        found = posterior.forecast(later.times[0], num_samples=self.draws, seed=self.seed)
        return Prediction(posterior, found, later.states[0][None], kind="predictive")

    def score(self, data: Path | None) -> dict[str, Value]:
        """Fit, forecast and compare."""
        found = self.predicted(data)
        posterior, rollouts, truth = found.posterior, found.rollouts, found.truth
        errors = (rollouts.mean - truth)[0].square().nanmean(0).sqrt()
        relative = errors / truth[0].std(0)
        return {
            "rmse_q": float(errors[0]),
            "rmse_p": float(errors[1]),
            "relative_q": float(relative[0]),
            "relative_p": float(relative[1]),
            **_bands(rollouts, truth),
            "fit_seconds": posterior.diagnostics.seconds,
            "diverged": float(rollouts.diverged.double().mean()),
            "problems": problems(posterior),
        }


def _bands(rollouts: Rollouts, truth: Tensor) -> dict[str, Value]:
    """Of all readings: the state at the first one is not known exactly."""
    half, most = (
        coverage(rollouts, truth, level, "predictive", include_start=True) for level in (0.5, 0.9)
    )
    density = nlpd(rollouts, truth, "predictive", include_start=True)
    return {"coverage_50": float(half), "coverage_90": float(most), "nlpd": float(density)}


def measured_runs(
    fits: Sequence[Pair],
    systems: Sequence[str] = tuple(RECORDINGS),
    seeds: Sequence[int] = (0, 1, 2),
    draws: int = 100,
    data: Path | None = None,
) -> list[MeasuredRun]:
    """Every combination as a run, seeds last.

    Args:
        fits: models and engines, by their names in the registry.
        systems: names in ``RECORDINGS``.
        seeds: of the engine and the draws.
        draws: of the forecasts.
        data: folder of the measured files.

    Raises:
        ValueError: a system that is not known; files that are not there.
    """
    for name in systems:
        if name not in RECORDINGS:
            raise ValueError(f"systems: expected some of {', '.join(RECORDINGS)}, got {name!r}")
    runs = [
        MeasuredRun(name, model, engine, draws, seed)
        for name, (model, engine), seed in product(systems, fits, seeds)
    ]
    for run in runs:
        run.split(data)
    return runs


GROUPS = (("system", "model", "engine", "draws"),)
COLUMNS = (
    Column("RMSE of q", "rmse_q"),
    Column("of p", "rmse_p"),
    Column("q, in SD", "relative_q"),
    Column("p, in SD", "relative_p"),
    Column("50% band", "coverage_50"),
    Column("90% band", "coverage_90"),
    Column("NLPD", "nlpd"),
    Column("fit, s", "fit_seconds"),
    Column("diverged", "diverged"),
)

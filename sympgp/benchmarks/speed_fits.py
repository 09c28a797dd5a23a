"""Times of whole fits by stage, and of the import."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

from sympgp.benchmarks import hgp, ssgp
from sympgp.benchmarks.registry import make_model
from sympgp.benchmarks.speed_problems import pendulums
from sympgp.benchmarks.speed_process import in_own_process
from sympgp.benchmarks.speed_record import Measurement
from sympgp.benchmarks.speed_session import Case, Session, describe
from sympgp.inference import GaussNewton
from sympgp.inference.base import InferenceEngine
from sympgp.models import HamiltonianModel
from sympgp.trajectories import Trajectories

SHORT, LONG, FORECAST = 3.0, 20.0, 5.0
"""Aimed seconds of a fit with one degree of freedom, with two, and of one trajectory's."""
COMPONENT = "component "
"""Beginning of the stages that refit one Gaussian of the mixture."""
OURS = ("import sympgp", "from sympgp import SSGP, Trajectories, fit")
THEIRS = "import torch, gpytorch"
IMPORTED = "import time; began = time.perf_counter(); {}; print(time.perf_counter() - began)"


class StageClock:
    """Seconds by stage, from an engine's reports: a stage lasts until another one is reported.

    Args:
        now: the clock.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._now, self._stage, self._last = now, "", now()

    def __call__(self, stage: str, objective: float | None) -> None:
        """Report, as an engine does."""
        self.stop()
        self._stage = "components" if stage.startswith(COMPONENT) else stage

    def stop(self) -> None:
        """Give the time since the last report to its stage."""
        now = self._now()
        if self._stage:
            self.seconds[self._stage] += now - self._last
        self._last = now


def timed_fit(
    model: HamiltonianModel, data: Trajectories, engine: InferenceEngine, seed: int = 0
) -> dict[str, float]:
    """Seconds by stage of one fit."""
    clock = StageClock()
    engine.run(*model.in_context(data), seed, clock)
    clock.stop()
    return dict(clock.seconds)


def measure_fits(session: Session) -> None:
    """Fits of both published protocols, whole and by stage."""
    for system, count, rate, features in session.sizes.fits:
        known = ssgp.SYSTEMS[system]
        data = known.simulate(count, rate, ssgp.DURATION, noise_std=ssgp.NOISE, seed=0)
        model = make_model("ssgp", known.num_dof, features, known.friction > 0, 0)
        most = SHORT if known.num_dof == 1 else LONG
        size = f"{count} trajectories at {rate:g} Hz, {features} features"
        _measure_fit(session, system, size, model, data, most)
    for system, features in session.sizes.forecasts:
        problem = hgp.simulate(1, hgp.SYSTEMS[system], 1)
        model = make_model("ssgp", problem.train.num_dof, features, False, 1)
        size = f"1 trajectory, {len(problem.train.times[0])} points, {features} features"
        _measure_fit(session, f"HGP task 1, {system}", size, model, problem.train, FORECAST)


def _measure_fit(
    session: Session,
    name: str,
    size: str,
    model: HamiltonianModel,
    data: Trajectories,
    most: float,
) -> None:
    session.say(f"fit: {name}")
    engine = GaussNewton(**session.sizes.engine)
    found: list[dict[str, float]] = []
    timed = session.time({"fit": lambda: found.append(timed_fit(model, data, engine))}, warm=False)
    session.add(
        Measurement(
            "fits",
            name,
            size,
            timed.seconds["fit"],
            aim=session.aim("seconds", most),
            repeats=timed.repeats,
        )
    )
    _add_stages(session, name, size, found)


def _add_stages(session: Session, name: str, size: str, found: list[dict[str, float]]) -> None:
    """Medians of every stage that any of the fits had."""
    for stage in dict.fromkeys(stage for one in found for stage in one):
        seconds = statistics.median(one.get(stage, 0.0) for one in found)
        session.add(Measurement("stages", f"{name}: {stage}", size, seconds, repeats=len(found)))


def measure_many(session: Session) -> None:
    """One fit of many trajectories, with the memory that it takes."""
    case, options = session.sizes.many, {**session.sizes.engine, "num_components": 1}
    name, size = "many pendulums", f"{describe(case)}, one set of features"
    session.say(f"fit: {name}, {size}")
    memory: float | None = None
    if session.sizes.processes:
        threads = torch.get_num_threads()
        found, memory = in_own_process(fit_many, case, options, threads=threads)
    else:
        found = fit_many(case, options)
    session.add(
        Measurement(
            "fits",
            name,
            size,
            sum(found.values()),
            aim=session.aim("memory_gib", 2.0) if memory else None,
            memory_gib=memory,
            repeats=1,
        )
    )
    _add_stages(session, name, size, [found])


def fit_many(case: Case, options: dict[str, Any]) -> dict[str, float]:
    """Seconds by stage of a fit to pendulums with friction."""
    model = make_model("ssgp", 1, case[2], True, 0)
    return timed_fit(model, pendulums(case[0], case[1]), GaussNewton(**options))


def measure_import(session: Session) -> None:
    """Imports in fresh processes, beside that of what the package stands on.

    ``import sympgp`` loads what is used when it is first used, so that the names that every fit
    needs are imported, too.
    """
    session.say("import in fresh processes")
    for statement in (*OURS, THEIRS):  # the first time reads the files from the disk
        import_seconds(statement)
    found: dict[str, list[float]] = {statement: [] for statement in (*OURS, THEIRS)}
    for _ in range(session.repeats):
        for statement, seconds in found.items():
            seconds.append(import_seconds(statement))
    medians = {statement: statistics.median(seconds) for statement, seconds in found.items()}
    for statement in OURS:
        session.add(
            Measurement(
                "import",
                statement,
                "fresh process",
                medians[statement],
                medians[THEIRS],
                THEIRS,
                session.aim("ratio", 1.5),
                repeats=session.repeats,
            )
        )


def import_seconds(statement: str) -> float:
    """Seconds of an import in a process of its own, without the start of the interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED.format(statement)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)

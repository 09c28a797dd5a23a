"""Networks on the protocol of Tanaka et al., see :mod:`sympgp.benchmarks.ssgp`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from sympgp.benchmarks import ssgp
from sympgp.benchmarks.networks_prediction import Prediction
from sympgp.benchmarks.registry import Pair
from sympgp.benchmarks.ssgp import SSGPRun, ssgp_runs

SYSTEMS = ("pendulum", "pendulum-friction", "duffing", "duffing-friction")
LAGRANGIAN = "lnn"
"""Beginning of the names of models whose states are coordinates and velocities."""
WITH_VELOCITIES = "duffing"
"""Beginning of the names of systems whose momenta are velocities; the pendulum's are half."""


@dataclass(frozen=True)
class ProtocolRun(SSGPRun):
    """One fit of the protocol, with what pictures are drawn of."""

    def predicted(self, data: Path | None) -> Prediction:
        """Fit, and start the test trajectories."""
        problem = self.problem(data)
        posterior, rollouts = self.predict(problem)
        return Prediction(posterior, rollouts, problem.test, self._tested.hamiltonian)


def protocol_runs(
    fits: Sequence[Pair],
    systems: Sequence[str] = SYSTEMS,
    seeds: Sequence[int] = (0, 1, 2),
    draws: int = 100,
    data: Path | None = None,
) -> list[ProtocolRun]:
    """Ten trajectories of each system with each model and engine, seeds last.

    Lagrangian models are left out where momenta are not velocities.

    Args:
        fits: models and engines, by their names in the registry.
        systems: names in ``ssgp.SYSTEMS``.
        seeds: of everything.
        draws: of the predictions.
        data: folder of the published files, to read them instead of simulating.

    Raises:
        ValueError: as :func:`sympgp.benchmarks.ssgp_runs`.
    """
    plain = [
        run
        for name, (model, engine) in product(systems, fits)
        if not model.startswith(LAGRANGIAN) or name.startswith(WITH_VELOCITIES)
        for run in ssgp_runs((name,), (10,), (), seeds, (model,), (engine,), None, draws, data)
    ]
    return [ProtocolRun(**run.settings()) for run in plain]  # type: ignore[arg-type]


GROUPS = (("system", "model", "engine", "num_trajectories", "rate", "draws", "source"),)
COLUMNS = ssgp.COLUMNS

"""Training goes on with edges that cost something."""

from __future__ import annotations

from dataclasses import replace

from sympgp.inference.base import Report
from sympgp.inference.checkpoint import Checkpoint
from sympgp.inference.networks.density import PairDensity, WindowDensity
from sympgp.inference.networks.descent import Descent, Perturbation, Schedule, descend
from sympgp.inference.networks.polish import affordable, polished_rows
from sympgp.inference.networks.trajectories import SLOWER, Trained

NAME = "sparse edges"
"""Of this stage, in reports and in the checkpoint."""
PAIR_STEPS, WINDOW_STEPS, CLOSE, SHARE = 200, 40, 0.2, 0.5
"""Gauss-Newton steps at most, on pairs and on windows, and nats by which one of two has to raise
the density to go on, for the last of an edge fades slowly. Where these steps would be too large,
steps of Adam over those before."""


def sparsified(
    trained: Trained,
    whole: Schedule,
    seed: int,
    perturbed: Perturbation | None,
    checkpoint: Checkpoint,
    report: Report,
) -> Trained:
    """The same networks at the optimum of a density in which edges have their cost.

    They were trained without: as long as the noise is as large as the data no edge is worth its
    cost, and from nothing, where layers multiply each other, there is no way back.

    Args:
        trained: without.
        whole: the schedule so far.
        seed: of the batches.
        perturbed: see :class:`~sympgp.inference.networks.descent.Descent`.
        checkpoint: where ends are kept.
        report: of progress.
    """
    density, begin = trained.density, trained.unknowns
    if not isinstance(density, PairDensity | WindowDensity):
        raise TypeError(f"density: expected pairs or windows, got {type(density).__name__}")
    density = replace(density, penalised=True)
    if perturbed is None and affordable(density):
        most = PAIR_STEPS if begin.start is None else WINDOW_STEPS
        found, ends = polished_rows(density, begin, NAME, most, checkpoint, report, CLOSE)
        steps = trained.steps + ends.steps
        return replace(trained, density=density, unknowns=found, steps=steps, ends=ends)
    count = max(1, round(SHARE * whole.num_steps))
    size = whole.batch_size if begin.start is None else None
    schedule = Schedule(count, SLOWER * whole.learning_rate, size)
    search = descend(Descent(density, begin, schedule, seed, perturbed), NAME, checkpoint, report)
    return replace(
        trained,
        density=density,
        unknowns=search.unknowns(),
        steps=trained.steps + count,
        ends=None,
        rise=search.rise(),
    )

"""What each rank of ``test_distributed.py`` does: ``python ranks.py TASK FOLDER``."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import sympgp as sg
from sympgp.distributed import RankError, Ranks, initialize, leave
from sympgp.inference import prior_start, smoothing, subset
from sympgp.inference.base import InferenceEngine, Report
from sympgp.inference.smoothing import SmoothedPath, smooth
from sympgp.phase_space import CanonicalScaling
from sympgp.shooting.layout import Nodes
from sympgp.trajectories import Trajectories, TrajectoryFile, gathered

MODEL = {"num_dof": 1, "num_features": 12, "dissipation": sg.Friction()}
ENGINE = sg.GaussNewton(num_components=1, hyperparameter_rounds=1)
X = torch.cartesian_prod(torch.linspace(-1.5, 1.5, 5), torch.linspace(-1.0, 1.0, 4)).double()


def pendulum() -> Trajectories:
    """Five trajectories of different lengths, the first as long as the others together."""
    data = sg.systems.Pendulum(friction=0.1).simulate(
        5, rate=4, duration=10, noise_std=0.05, missing=0.1, seed=1
    )
    ends = (41, 13, 17, 9, 21)
    return Trajectories(
        [t[:end] for t, end in zip(data.times, ends, strict=True)],
        [x[:end] for x, end in zip(data.states, ends, strict=True)],
    )


def many() -> Trajectories:
    """So many that the first searches are on some of them, by the limits of ``fits``."""
    return sg.systems.Pendulum(friction=0.1).simulate(
        14, rate=4, duration=5, noise_std=0.05, missing=0.0, seed=2
    )


@dataclasses.dataclass(frozen=True)
class Known(InferenceEngine):
    """An engine that has found its posterior already."""

    posterior: sg.Posterior

    def run(
        self, model: sg.HamiltonianModel, data: Trajectories, seed: int, report: Report
    ) -> sg.Posterior:
        return self.posterior


def steps(posterior: sg.Posterior) -> sg.StochasticVI:
    """A few steps from there, with windows chosen at random."""
    return sg.StochasticVI(
        Known(posterior), num_steps=30, learning_rate=0.02, batch_size=8, window=3.0
    )


def smoothed(ranks: Ranks) -> SmoothedPath:
    """The pendulum's path in pieces, more than there are trajectories."""
    data = pendulum()
    one = torch.ones(2, dtype=torch.float64)
    nodes = Nodes.from_data(data, CanonicalScaling(0.0 * one, one, one[0], 0.0 * one[0], one))
    return smooth(nodes, 2, True, ranks)


def predicted(posterior: sg.Posterior, ranks: Ranks) -> dict[str, torch.Tensor]:
    """What is compared."""
    rolled = posterior.rollout(X[:3], torch.linspace(0, 3, 7), 9, seed=3, ranks=ranks)
    return {**learned(posterior), "samples": rolled.samples, "diverged": rolled.diverged}


def learned(posterior: sg.Posterior) -> dict[str, torch.Tensor]:
    """The field, the noise and the states."""
    field = posterior.vector_field(X)
    return {
        "mean": field.mean,
        "stddev": field.stddev,
        "friction": posterior.dissipation().mean,
        "noise": posterior.noise_std,
        "states": posterior.initial_states.mean,
    }


def fits(ranks: Ranks, folder: Path) -> None:
    """Fits, their files, and rollouts, by as many processes as there are."""
    file = TrajectoryFile(folder / "data.nc")
    model = sg.SSGP(**MODEL)
    found: dict[str, object] = {}
    first = sg.fit(model, file, inference=ENGINE, progress=False)
    second = sg.fit(model, file, inference=steps(first), progress=False)
    limits, subset.ENOUGH, subset.LEAST = (subset.ENOUGH, subset.LEAST), 100, 3
    third = sg.fit(model, many(), inference=ENGINE, progress=False)
    subset.ENOUGH, subset.LEAST = limits
    assert "3 of 14 trajectories" in third.diagnostics.details[0]
    for name, posterior in {"gauss_newton": first, "vi": second, "subset": third}.items():
        found[name] = predicted(posterior, ranks)
        if ranks.first:
            posterior.save(folder / f"{name}-{ranks.count}.pt")
    if ranks.several:
        found["full disk"] = full_disk(file, steps(first), folder)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            sg.fit(model, file, inference=Known(first), progress=False)
        found["copies"] = [(str(each.message), each.filename) for each in caught]
    torch.save(found, folder / f"fits-{ranks.count}-{ranks.rank}.pt")


def full_disk(file: TrajectoryFile, engine: sg.StochasticVI, folder: Path) -> str:
    """What is said where rank 0 cannot write the checkpoint."""
    path = folder / "vi.checkpoint"
    path.with_name(f"{path.name}.part").mkdir(exist_ok=True)
    engine = dataclasses.replace(engine, checkpoint=path)
    try:
        sg.fit(sg.SSGP(**MODEL), file, inference=engine, progress=False)
    except RankError as error:
        return str(error)
    return ""


def from_prior(ranks: Ranks, folder: Path) -> None:
    """Short trainings from the prior on, and what is said where rank 0 cannot write of them."""
    prior_start.MEAN_STEPS, prior_start.STAGE_STEPS = 60, 10
    engine = sg.StochasticVI(None, num_components=1, num_steps=10, learning_rate=0.02)
    bounds: dict[str, list[float]] = {}

    def report(stage: str, value: float | None) -> None:
        bounds.setdefault(stage, []).extend([] if value is None else [value])

    posterior = engine.run_shared(sg.SSGP(**MODEL), many(), 0, report, ranks)
    found: dict[str, object] = {"prior": learned(posterior), "bounds": bounds}
    if ranks.several:
        (folder / "prior.checkpoint.part").mkdir(exist_ok=True)
        engine = dataclasses.replace(engine, checkpoint=folder / "prior.checkpoint")
        try:
            sg.fit(sg.SSGP(**MODEL), many(), inference=engine, progress=False)
        except RankError as error:
            found["full disk"] = str(error)
    torch.save(found, folder / f"prior-{ranks.count}-{ranks.rank}.pt")


def exchange(ranks: Ranks, folder: Path) -> None:
    """Sums, gathers, gradients, shares and errors."""
    own = torch.full((ranks.rank + 1, 2), float(ranks.rank), dtype=torch.float64)
    found: dict[str, object] = {
        "sum": ranks.sum(own[0]),
        "gather": ranks.gather(own),
        "flags": ranks.gather(torch.tensor([ranks.first])),
        "empty": ranks.gather(own[: ranks.rank]),
        "texts": ranks.gather_texts(["a"] * ranks.rank),
        "broadcast": ranks.broadcast(own[0] + 1.0),
        "any": (ranks.any(ranks.first), ranks.any(False)),
        "device": ranks.device,
    }
    leaf = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    (seen,) = ranks.spread(leaf)
    (ranks.total((ranks.rank + 1.0) * seen[ranks.rank] ** 2) + leaf.sum()).backward()
    found["gradient"] = leaf.grad
    data = pendulum()
    part = data[:2] if ranks.first else data[2:]
    again = gathered(part, ranks)
    found["gathered"] = [*again.times, *again.states], again.labels
    found["renumbered"] = gathered(data[:2], ranks).labels
    found["distinct"] = gathered(data[1:2], ranks).labels
    found["smoothed"] = dataclasses.asdict(smoothed(ranks))
    found["errors"] = errors(ranks, folder, data)
    torch.save(found, folder / f"exchange-{ranks.count}-{ranks.rank}.pt")


def everything(ranks: Ranks, folder: Path) -> None:
    """All of it in one start."""
    exchange(ranks, folder)
    fits(ranks, folder)


def errors(ranks: Ranks, folder: Path, data: Trajectories) -> dict[str, str]:
    """Messages of what fails on one rank, or on all."""

    def fails() -> None:
        if not ranks.first:
            raise OSError("no such disk")

    def breaks(*_: Any) -> Any:
        raise torch.linalg.LinAlgError("no such matrix")

    def fits_broken() -> None:
        """Channels are smoothed by ranks in turn; those of the second one break down."""
        with pytest.MonkeyPatch.context() as patch:
            if not ranks.first:
                patch.setattr(smoothing, "_fit_channel", breaks)
            sg.fit(model, data, progress=False)

    model = sg.SSGP(**MODEL)
    broken = TrajectoryFile(folder / "broken.nc")
    engine = sg.GaussNewton(max_iterations=20 + ranks.rank)
    other = data if ranks.first else data[1:]
    tasks = {
        "one": lambda: ranks.agree(fails),
        "all": lambda: sg.fit(model, data[:1], progress=False),
        "other data": lambda: sg.fit(model, other, progress=False),
        "broken": lambda: sg.fit(model, broken, progress=False),
        "other model": lambda: sg.fit(sg.SSGP(1, 10 + ranks.rank), data, progress=False),
        "other engine": lambda: sg.fit(model, data, inference=engine, progress=False),
        "other seed": lambda: sg.fit(model, data, seed=ranks.rank, progress=False),
        "numbers": fits_broken,
    }
    said = {}
    for name, task in tasks.items():
        try:
            task()
        except (RankError, FloatingPointError) as error:
            said[name] = f"{type(error).__name__}: {error}" if name == "numbers" else str(error)
    return said


if __name__ == "__main__":
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    here = initialize("cpu")
    {"everything": everything, "from_prior": from_prior}[sys.argv[1]](here, Path(sys.argv[2]))
    leave()

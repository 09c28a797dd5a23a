"""A file of finished and running trainings, so that an interrupted fit goes on where it was."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch

from sympgp.distributed import Ranks
from sympgp.models import HamiltonianModel
from sympgp.phase_space import CanonicalScaling
from sympgp.trajectories import Trajectories
from sympgp.trajectories.paths import check_writable

FORMAT = "sympgp checkpoint 1"
MOST_SHOWN = 60
"""Longest text of an argument in a message."""

State = dict[str, Any]
"""Tensors, numbers, strings and lists of them, by name."""


def fingerprint(data: Trajectories, *settings: object) -> str:
    """A digest of the data and of settings that print what they are."""
    names = (data.names, data.input_names, data.covariate_names, sorted(data.units.items()))
    lengths = [len(t) for t in data.times]
    digest = hashlib.sha256(repr((settings, names, lengths)).encode())
    known = () if data.covariates is None else (data.covariates,)
    for values in (*data.times, *data.states, *(data.inputs or ()), *known):
        digest.update(values.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def described(value: object, depth: int = 8) -> object:
    """A setting as plain values, which print alike in every process.

    Parts of this package are described by their public attributes, others by their names, and
    tensors by their first few numbers.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return f"{value:.9g}"
    if isinstance(value, torch.dtype):
        return str(value)
    if isinstance(value, torch.Tensor):
        first = [f"{x:.3g}" for x in value.detach().flatten()[:8].tolist()]
        return [str(value.dtype), list(value.shape), first]
    if depth and isinstance(value, Mapping):
        return {str(key): described(part, depth - 1) for key, part in value.items()}
    if depth and isinstance(value, list | tuple):
        return [described(part, depth - 1) for part in value]
    name = getattr(value, "__qualname__", type(value).__qualname__)
    if depth and type(value).__module__.startswith("sympgp.") and hasattr(value, "__dict__"):
        kept = {key: part for key, part in vars(value).items() if not _derived(value, key)}
        return {name: described(kept, depth - 1)}
    return name


def _derived(value: object, name: str) -> bool:
    """Whether an attribute is private or was computed on demand, perhaps on some ranks alone."""
    return name.startswith("_") or isinstance(getattr(type(value), name, None), cached_property)


def check_arguments(ranks: Ranks, arguments: Mapping[str, object]) -> None:
    """Refuse arguments that are others on other ranks.

    What tells them apart is what :func:`described` says.

    Raises:
        RankError: on all ranks, with the argument's name.
    """
    if not ranks.several:
        return
    for name, value in arguments.items():
        text = str(described(value))
        if len(text) > MOST_SHOWN:
            digest = hashlib.sha256(text.encode()).hexdigest()[:12]
            text = f"{type(value).__name__}(...) with digest {digest}"
        ranks.check_same(f"{name}: expected the same on every rank", text)


def energy_mark(model: HamiltonianModel) -> list[float]:
    """Numbers that tell energies apart which print alike: H, its features and their widths.

    Of a field without an energy, the slope and its derivatives by the weights.

    At one state and one set of weights, in plain units and with hyperparameters at their medians.
    """
    one = torch.ones(2 * model.num_dof, dtype=torch.float64)
    plain = CanonicalScaling(0.0 * one, one, one[0], 0.0 * one[0], one)
    energy = model.energy.in_units(plain)
    priors = energy.hyperpriors(one)
    basis = energy.basis({name: prior.median for name, prior in priors.items()})
    w = basis.prior_variance.sqrt()
    z = one.unsqueeze(0)
    widths = [prior.log_stddev for prior in priors.values()]
    if not basis.has_energy:
        features, slope = basis.feature_gradient(z, w), basis.gradient_map(w)(z)
        return [*features.flatten().tolist(), *slope[0].tolist(), *w.tolist(), *widths]
    features = basis.features(z) if basis.linear else basis.features(z, w)
    return [*features[0].tolist(), float(basis.value(z, w)), *w.tolist(), *widths]


class Checkpoint:
    """Trainings by name: the results of finished ones, and the state of the one that runs.

    The file is replaced as a whole, so that it is readable at any time; it holds nothing that
    ``torch.load(weights_only=True)`` would refuse.

    Args:
        path: the file; nothing is kept when None.
        mark: digest of what the trainings belong to.
        writes: whether this process writes the file; of several one does, and all read it.

    Raises:
        ValueError: the file cannot be written by the process that is to, is another one, or of
            another fit.
    """

    def __init__(self, path: str | PathLike[str] | None, mark: str, writes: bool = True) -> None:
        self.path = None if path is None or not writes else fspath(path)
        self.content: State = {"format": FORMAT, "mark": mark, "finished": {}, "running": {}}
        if path is None:
            return
        if writes:
            check_writable(path)
        if not Path(path).is_file():
            return
        found = _read(fspath(path))
        if found["mark"] != mark:
            raise ValueError(
                f"checkpoint: {fspath(path)!r} belongs to a fit of other data or with other "
                "settings; delete it, or name another file"
            )
        self.content = found

    def finished(self, name: str) -> State | None:
        """The result of a training, if it has ended."""
        return self.content["finished"].get(name)

    def running(self, name: str) -> State | None:
        """The state of a training, if it was interrupted."""
        return self.content["running"].get(name)

    def progress(self) -> str:
        """How far the trainings in it are."""
        running = {name: state.get("steps") for name, state in self.content["running"].items()}
        return f"{sorted(self.content['finished'])} {running}"

    def keep(self, name: str, state: State, finished: bool) -> None:
        """Take in a training's state, and write the file."""
        if self.path is None:
            return
        if finished:
            self.content["finished"][name] = state
        self.content["running"] = {} if finished else {name: state}
        scratch = f"{self.path}.part"
        torch.save(self.content, scratch)
        os.replace(scratch, self.path)


def _read(path: str) -> State:
    wrong = f"checkpoint: {path!r} is not a checkpoint written by sympgp"
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # other contents fail in torch.load in many ways
        raise ValueError(wrong) from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(wrong)
    return found

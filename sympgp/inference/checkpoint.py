"""A file of finished and running trainings, so that an interrupted fit goes on where it was."""

from __future__ import annotations

import hashlib
import os
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch

from sympgp.models import HamiltonianModel
from sympgp.phase_space import CanonicalScaling
from sympgp.trajectories import Trajectories
from sympgp.trajectories.paths import check_writable

FORMAT = "sympgp checkpoint 1"

State = dict[str, Any]
"""Tensors, numbers, strings and lists of them, by name."""


def fingerprint(data: Trajectories, *settings: object) -> str:
    """A digest of the data and of settings that print what they are."""
    digest = hashlib.sha256(repr(settings).encode())
    for values in (*data.times, *data.states, *(data.inputs or ())):
        digest.update(values.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


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

    Raises:
        ValueError: the folder does not exist, or the file is another one, or of another fit.
    """

    def __init__(self, path: str | PathLike[str] | None, mark: str) -> None:
        self.path = None if path is None else fspath(path)
        self.content: State = {"format": FORMAT, "mark": mark, "finished": {}, "running": {}}
        if path is None:
            return
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

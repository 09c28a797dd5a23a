"""The files of two published protocols, made with their authors' generators."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.trajectories import Trajectories


@dataclass(frozen=True)
class Problem:
    """Noisy training data and a noise-free truth to predict.

    Attributes:
        train: in raw units.
        times: (T,) of the truth.
        test: (N, T, 2n), raw units.
        mean, std: (2n,) of the noisy training data, for scores in standardised units.
    """

    train: Trajectories
    times: Float[Tensor, " time"]
    test: Float[Tensor, "trajectories time dim"]
    mean: Float[Tensor, " dim"]
    std: Float[Tensor, " dim"]

    @classmethod
    def of(cls, train: Trajectories, times: Tensor, test: Tensor) -> Problem:
        """With the moments of the training data."""
        states = torch.cat(list(train.states))
        return cls(train, times, test, states.mean(0), states.std(0, correction=0))


def find_file(folder: Path, protocol: str, name: str) -> Path:
    """A file of a protocol in the data folder, or in that of the protocol itself.

    Raises:
        ValueError: there is none.
    """
    for candidate in (folder / protocol / name, folder / name):
        if candidate.is_file():
            return candidate
    raise ValueError(f"data: {folder} has no file {protocol}/{name}")


def read_ssgp(path: Path, num_trajectories: int) -> Problem:
    """The protocol of Tanaka et al. (2022): training trajectories first, then those for validation.

    Raises:
        ValueError: more trajectories than there are.
    """
    with np.load(path) as file:
        states = np.concatenate([file["train"], file["validation"]])
        if not 1 <= num_trajectories <= len(states):
            raise ValueError(
                f"num_trajectories: {path.name} has {len(states)}, of which {num_trajectories} "
                "were asked for"
            )
        train = Trajectories(file["times"], states[:num_trajectories])
        times, test = torch.as_tensor(file["test_times"]), torch.as_tensor(file["test"])
    return Problem.of(train, times.double(), test.double())


def read_hgp(path: Path) -> Problem:
    """The protocol of Ross and Heinonen (2023), in raw units, at the times that are scored."""
    with np.load(path) as file:
        mean, std = (torch.as_tensor(file[name]).double() for name in ("y_mean", "y_std"))
        scale = float(file["t_scale"])
        values = torch.as_tensor(file["y_train"]).double() * std + mean
        train = Trajectories(torch.as_tensor(file["t_train"]).double() * scale, values)
        keep = torch.as_tensor(file["test_mask"]).bool()
        times = torch.as_tensor(file["t_test"]).double()[keep] * scale
        test = torch.as_tensor(file["y_test"]).double()[:, keep] * std + mean
    return Problem(train, times, test, mean, std)

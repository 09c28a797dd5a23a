"""Runs that do nothing much, in a module that other processes import quickly."""

import os
import signal
from dataclasses import dataclass

import torch

from sympgp.benchmarks.runs import Run


@dataclass(frozen=True)
class Toy(Run):
    """A run that scores, fails, or takes its process with it."""

    name: str
    seed: int = 0

    def describe(self) -> str:
        return self.name

    def score(self, data):
        if self.name == "fails":
            raise ValueError("no such\nluck")
        if self.name == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"error": 1.5 * self.seed, "threads": torch.get_num_threads()}

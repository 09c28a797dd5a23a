"""What every inference engine offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from sympgp.models import HamiltonianModel
from sympgp.posterior import Posterior
from sympgp.trajectories import Trajectories

Report = Callable[[str, float | None], None]
"""Called with what the engine is doing and the objective, if there is one."""


class InferenceEngine(ABC):
    """A way from a model and data to a posterior; instances hold settings only."""

    @abstractmethod
    def run(
        self, model: HamiltonianModel, data: Trajectories, seed: int, report: Report
    ) -> Posterior:
        """Infer the posterior.

        Args:
            model: priors of the field.
            data: on the device and in the dtype to compute with; checked against the model.
            seed: of every random choice.
            report: to be called as the work goes on.
        """

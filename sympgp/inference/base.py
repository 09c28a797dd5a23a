"""What every inference engine offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from sympgp.distributed import Ranks
from sympgp.models import HamiltonianModel
from sympgp.posterior import Posterior
from sympgp.trajectories import Trajectories

Report = Callable[[str, float | None], None]
"""Called with what the engine is doing and the objective, if there is one."""


class InferenceEngine(ABC):
    """A way from a model and data to a posterior; instances hold settings only.

    Attributes:
        shares: whether several processes share the work, as :meth:`run_shared` says.
    """

    shares = False

    @abstractmethod
    def run(
        self, model: HamiltonianModel, data: Trajectories, seed: int, report: Report
    ) -> Posterior:
        """Infer the posterior.

        Args:
            model: priors of the field.
            data: in float64, on the device to compute on; checked against the model, whose
                ``dtype`` is that to compute the field in.
            seed: of every random choice.
            report: to be called as the work goes on.
        """

    def run_shared(
        self,
        model: HamiltonianModel,
        data: Trajectories,
        seed: int,
        report: Report,
        ranks: Ranks,
    ) -> Posterior:
        """The same on several ranks, each of which calls this with the same arguments.

        An engine that does not share its work does all of it on every rank.

        Args:
            model: priors of the field.
            data: all of them, on every rank; as for :meth:`run`.
            seed: of every random choice.
            report: to be called as the work goes on.
            ranks: the processes.

        Returns:
            The posterior of :meth:`run`, to rounding, on every rank.
        """
        return self.run(model, data, seed, report)

"""The normal equations of theta, with the states of some trajectories eliminated at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.shooting.elimination import Chain
from sympgp.shooting.layout import Windows
from sympgp.shooting.linearization import Linearization
from sympgp.shooting.problem import Estimate, Problem


@dataclass(frozen=True)
class Reduction:
    """What the data say of theta, and from what the states follow, which are as many as the data.

    How the states depend on theta is kept where one pass took all trajectories; otherwise it is
    found again when it is asked for, for some of them at a time.

    Attributes:
        problem: data, windows and field.
        linear: the linearised residuals.
        estimate: about which, and its noise.
        end: (W, D) of the windows' paths.
        damping: of the states' blocks.
        shared: (P, P) Hessian for theta once all states are eliminated (without theta's prior).
        gradient: (P,) its gradient.
        logdet: of the eliminated states.
        kept: the one pass.
    """

    problem: Problem
    linear: Linearization
    estimate: Estimate
    end: Float[Tensor, "windows dim"]
    damping: float
    shared: Float[Tensor, "params params"]
    gradient: Float[Tensor, " params"]
    logdet: Float[Tensor, ""]
    kept: tuple[tuple[slice, Windows, Chain], ...]

    @classmethod
    def of(
        cls,
        problem: Problem,
        linear: Linearization,
        estimate: Estimate,
        end: Float[Tensor, "windows dim"],
        damping: float = 0.0,
    ) -> Reduction:
        """Eliminate the states; sums over all data, those of other ranks too.

        Raises:
            torch.linalg.LinAlgError: entries that are not finite, on any rank.
        """
        params = linear.shared.shape[-1] - 1
        shared = linear.shared.new_zeros(params, params)
        gradient, logdet = shared.new_zeros(params), shared.new_zeros(())
        count, last, failed = 0, None, None
        try:
            for last in problem.chains(linear, estimate, end, damping):
                shared += last[-1].shared
                gradient += last[-1].gradient
                logdet += last[-1].logdet
                count += 1
        except torch.linalg.LinAlgError as error:
            failed = error
        if problem.ranks.any(failed is not None):
            raise torch.linalg.LinAlgError("states cannot be eliminated") from failed
        shared, gradient, logdet = map(problem.ranks.sum, (shared, gradient, logdet))
        kept = (last,) if count == 1 and last is not None else ()
        return cls(problem, linear, estimate, end, damping, shared, gradient, logdet, kept)

    @property
    def normal_equations(self) -> tuple[Tensor, Tensor]:
        """Precision (P, P) of theta and gradient (P,) of the objective."""
        return self.problem.normal_equations(self.linear, self.estimate, self)

    def chains(self) -> Iterator[tuple[slice, Windows, Chain]]:
        """The states of some trajectories at a time, see ``Problem.chains``."""
        if self.kept:
            yield from self.kept
            return
        arguments = (self.linear, self.estimate, self.end, self.damping)
        yield from self.problem.chains(*arguments, totals=False)

    def chain(self) -> Chain:
        """Of all trajectories at once."""
        if self.kept:
            return self.kept[0][-1]
        return self.problem.eliminate(self.linear, self.estimate, self.end, self.damping)

    def moved(self, step: Float[Tensor, " params"]) -> Float[Tensor, "windows dim"]:
        """Steps of the window states that go with a step of theta."""
        if self.kept:
            ((_, windows, chain),) = self.kept
            mean, slope, _ = chain.smooth(windows)
            return mean + (slope @ step)
        arguments = (self.linear, self.estimate, self.end, self.damping)
        found = self.problem.chains(*arguments, step=step)
        return torch.cat([chain.smooth(windows)[0] for _, windows, chain in found])

"""What sampling begins with: the optimum of one component of a posterior, found again exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.inference.search import OSCILLATION, WORSE
from sympgp.models import HamiltonianModel
from sympgp.posterior import Component, Posterior, WindowStates
from sympgp.shooting.density import JointDensity
from sympgp.shooting.layout import Nodes, Windows
from sympgp.shooting.levenberg_marquardt import Solution, levenberg_marquardt
from sympgp.shooting.problem import Estimate, Problem
from sympgp.trajectories import Trajectories

MAX_ITERATIONS, TOLERANCE = 50, 0.001
"""Of the search for the optimum."""
NEGLIGIBLE = 0.03
"""Jumps this small against the noise are taken for none: states that are tied so closely leave a
sampler no room for a step."""


@dataclass(frozen=True)
class WarmStart:
    """A shooting problem at its optimum.

    Attributes:
        component: features, hyperparameters and noise law.
        problem: data, windows and solver step.
        solution: the optimum.
        inflation: (D,) so many observations of a channel count as one.
        spacing: usual length of a window.
    """

    component: Component
    problem: Problem
    solution: Solution
    inflation: Float[Tensor, " dim"]
    spacing: float

    @classmethod
    def of(
        cls, posterior: Posterior, model: HamiltonianModel, data: Trajectories, jumps: bool
    ) -> WarmStart:
        """Search on from the first component.

        Args:
            posterior: of the same model and data.
            model: for the noise.
            data: the data.
            jumps: keep the windows and the jumps between them; else join whole trajectories.
        """
        component, diagnostics = posterior.components[0], posterior.diagnostics
        states = component.window_states
        nodes = Nodes.from_data(data, posterior.scaling, posterior.interpolation)
        noise = model.noise.scaled(posterior.scaling).ignoring(nodes.counts == 0)
        noise = replace(noise, dof=component.noise_dof, free=False)
        start = states.sample(
            component.theta.new_zeros(1, len(component.theta)),
            torch.zeros_like(states.mean).unsqueeze(0),
        )[0]
        least = NEGLIGIBLE * float(component.noise_std[nodes.counts > 0].mean())
        jumps = jumps and states.chain.shape[1] > 1 and states.jump_std > least
        if not jumps:
            start = start[states.chain[:, 0]]
        windows = Windows.of_duration(nodes, states.spacing if jumps else math.inf)
        step = float(diagnostics.solver_step / posterior.scaling.time_scale)
        problem = Problem(nodes, windows, component.field, noise, step)
        inflation = start.new_tensor(diagnostics.inflation)
        estimate = Estimate(
            component.theta,
            start,
            noise.start(component.noise_std),
            states.jump_std if jumps else 0.0,
            inflation / noise.information,
        )
        solution = levenberg_marquardt(
            problem, estimate, max_iterations=MAX_ITERATIONS, tolerance=TOLERANCE
        )
        return cls(
            component, problem, solution, inflation, states.spacing if jumps else OSCILLATION
        )

    @property
    def lost(self) -> bool:
        """Whether the optimum explains the data much worse than the component did."""
        noise = self.solution.estimate.noise_std
        return bool((noise > WORSE * self.component.noise_std).any())

    def density(self) -> JointDensity:
        """The joint density whose optimum this is."""
        problem = self.problem
        defect = self.solution.estimate.defect_std
        return JointDensity(
            problem.nodes,
            problem.windows,
            self.component.field,
            problem.noise,
            defect,
            problem.step,
            inflation=self.inflation,
        )

    def noise_shape(self) -> Float[Tensor, " dim"]:
        """Of the inverse-gamma posterior of the noise variance."""
        counts = self.problem.nodes.counts
        spare = (counts - self.solution.degrees).clamp(min=1.0) / self.inflation
        return self.problem.noise.shape(spare)

    def states(self, theta: Float[Tensor, " params"]) -> WindowStates:
        """Window states given parameters about ``theta``, linearised at the optimum."""
        estimate = self.solution.estimate
        states = WindowStates.about(
            self.problem, estimate.start, self.solution.chain, estimate.defect_std, self.spacing
        )
        delta = theta - estimate.theta
        return replace(
            states,
            mean=states.mean + states.slope @ delta,
            ahead_mean=states.ahead_mean + states.ahead_slope @ delta,
        )


def same_data(one: Trajectories, other: Trajectories) -> bool:
    """Whether both hold the same times, states and inputs."""
    if len(one) != len(other) or (one.inputs is None) != (other.inputs is None):
        return False
    own, others = ([*data.times, *data.states, *(data.inputs or ())] for data in (one, other))
    parts = zip(own, others, strict=True)
    return all(
        a.shape == b.shape and torch.allclose(a.cpu(), b.cpu(), equal_nan=True) for a, b in parts
    )

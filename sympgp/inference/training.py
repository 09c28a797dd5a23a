"""Training one Gaussian component further: its density, its windows, and a check of the bound."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.distributed import ALONE, Ranks
from sympgp.inference.approximation import Approximation
from sympgp.inference.ascent import Ascended, Schedule, ascend
from sympgp.inference.base import Report
from sympgp.inference.checkpoint import Checkpoint
from sympgp.inference.elbo import bound_of_draws
from sympgp.inference.gaussian import as_component
from sympgp.inference.linearised import joined, linearised, node_states, window_means
from sympgp.inference.solver_step import SOLVER_TOLERANCE
from sympgp.integrators import FixedStepIntegrator
from sympgp.noise import ScaledNoise
from sympgp.posterior import Component, GaussianComponent
from sympgp.shooting.density import JointDensity
from sympgp.shooting.layout import Nodes, Windows
from sympgp.shooting.problem import Estimate, Problem

NEGLIGIBLE, LEAST = 0.03, 0.1
"""Jumps this small against the noise are taken for none, since a Gaussian tied by them would have
to be as exactly linear as they are small; and the least jumps of windows that a user asked for."""
CHECK_DRAWS, SURE = 400, 2.0
"""Draws of the bound before and after training, and standard errors that count as lower."""
MOST_HALVINGS = 3
"""How often the solver step is halved."""


@dataclass(frozen=True)
class Ground:
    """What the components of one fit share, in scaled units.

    Attributes:
        nodes: the data.
        noise: law of the noise.
        step: longest solver step.
        integrator: the method; RK4 when None.
        inflation: (D,) autocorrelation time of the residuals.
        ranks: the processes that share the windows.
    """

    nodes: Nodes
    noise: ScaledNoise
    step: float
    integrator: FixedStepIntegrator | None
    inflation: Float[Tensor, " dim"]
    ranks: Ranks = ALONE

    def windows(self, component: Component) -> Windows:
        """The shooting windows of a component."""
        states = component.window_states
        whole = states.chain.shape[1] == 1
        windows = Windows.of_duration(self.nodes, math.inf if whole else states.spacing)
        if windows.num_windows != len(states.mean):
            raise RuntimeError("the component's windows are not those of these data")
        return windows

    def density(self, component: Component) -> JointDensity:
        """The joint density that a component approximates."""
        return JointDensity(
            self.nodes,
            self.windows(component),
            component.field,
            replace(self.noise, dof=component.noise_dof, free=False),
            component.window_states.jump_std,
            self.step,
            self.integrator,
            self.inflation if bool((self.inflation > 1.0).any()) else None,
            self.ranks,
        )

    def on_windows(
        self, component: Component, start: Float[Tensor, "windows dim"], duration: float | None
    ) -> GaussianComponent:
        """The Gaussian of the linear model about a component's mean path.

        Args:
            component: where.
            start: its mean window states.
            duration: of new windows; the component's own when None.
        """
        old, states = self.windows(component), component.window_states
        noise = replace(self.noise, dof=component.noise_dof, free=False)
        problem = Problem(self.nodes, old, component.field, noise, self.step)
        path, jump = node_states(problem, component.theta, start), states.jump_std
        new = old if duration is None else Windows.of_duration(self.nodes, duration)
        length = states.spacing if duration is None else duration
        if duration is not None and not new.joined:
            least = LEAST * float(component.noise_std.mean())
            jump = max(jump * math.sqrt(duration / states.spacing), least)
        estimate = Estimate(
            component.theta,
            path[new.start],
            component.noise_std,
            0.0 if new.joined else jump,
            self.inflation / noise.information,
        )
        problem = replace(problem, windows=new)
        return linearised(problem, estimate, component.hyperparameters, length)

    def gaussian(self, component: Component, window: float | None) -> GaussianComponent:
        """A component as training can begin with it, on windows of this length (scaled)."""
        if not isinstance(component, GaussianComponent):
            start = component.sample(CHECK_DRAWS, torch.Generator().manual_seed(0)).start
            if start is None:
                raise RuntimeError("a component without states cannot be trained")
            component = self.on_windows(component, start.mean(0), None)
        if window is not None:
            return self.on_windows(component, window_means(component), window)
        states = component.window_states
        small = states.jump_std < NEGLIGIBLE * float(component.noise_std.mean())
        if small and states.chain.shape[1] > 1:
            return joined(component, self.nodes)
        return component

    def solver_error(self, component: GaussianComponent, num_draws: int = 16) -> float:
        """RMS difference from half the step over the path's deviation; the largest channel.

        What rank 0 finds, since steps are chosen by it.
        """
        own = torch.tensor(self._solver_error(component, num_draws), dtype=torch.float64)
        return float(self.ranks.broadcast(own.to(self.ranks.device)))

    def _solver_error(self, component: GaussianComponent, num_draws: int) -> float:
        density = self.density(component)
        finer = replace(density, step=0.5 * min(self.step, float(self.nodes.dt.max())))
        q = Approximation.of(component)
        draws = q.sample(num_draws, torch.Generator().manual_seed(0))
        if draws.start is None:
            raise RuntimeError("an approximation without states has no paths")
        seen = self.nodes.mask.any(1)[density.windows.nodes]
        coarse, _, alive = density.paths(draws.theta, draws.start)
        fine, _, fine_alive = finer.paths(draws.theta, draws.start)
        kept = alive & fine_alive
        if int(kept.sum()) < 2:
            return math.inf
        coarse, fine = coarse[kept][:, seen], fine[kept][:, seen]
        error = (coarse - fine).square().mean((0, 1)).sqrt()
        deviation = coarse.var(0).mean(0).sqrt().clamp(min=torch.finfo(coarse.dtype).tiny)
        return float((error / deviation).max())

    def refined(self, component: GaussianComponent) -> Ground:
        """With a shorter solver step where the error of this one matters.

        A path through a whole trajectory needs a shorter step than one through a window.
        """
        ground = self
        for _ in range(MOST_HALVINGS):
            if ground.solver_error(component) <= SOLVER_TOLERANCE:
                break
            # No step is longer than an interval, so halving starts there.
            ground = replace(ground, step=0.5 * min(ground.step, float(self.nodes.dt.max())))
        return ground


def train(
    ground: Ground,
    component: GaussianComponent,
    schedule: Schedule,
    seed: int,
    name: str,
    checkpoint: Checkpoint,
    report: Report,
) -> tuple[GaussianComponent, Ascended, str]:
    """Raise the bound of a component; where it ended lower, the component itself and a remark."""
    density, start = ground.density(component), Approximation.of(component)
    end = ascend(
        start, density, schedule, seed, name, checkpoint, lambda bound: report(name, -bound)
    )
    found = torch.tensor(_fall(start, end.q, density), dtype=torch.float64)
    fall, error = ground.ranks.broadcast(found.to(ground.ranks.device)).tolist()
    if fall > SURE * error:
        return component, end, f"{name}: training lowered the bound by {fall:.1f} nats: undone"
    return as_component(end.q, component), end, ""


def _fall(
    before: Approximation, after: Approximation, density: JointDensity
) -> tuple[float, float]:
    """By how much the bound is lower after training, and the standard error of that."""
    bounds = []
    with torch.no_grad():
        for q in (before, after):
            draws = q.sample(CHECK_DRAWS, torch.Generator().manual_seed(0))
            terms = bound_of_draws(q, density, draws)
            bounds.append(torch.stack(list(terms.values())).sum(0))
    if not bool(bounds[1].isfinite().all()):
        lost = [int((~bound.isfinite()).sum()) for bound in bounds]
        return float(lost[1] - lost[0]), 0.0
    if not bool(bounds[0].isfinite().all()):
        return 0.0, 0.0
    change = bounds[0] - bounds[1]
    return float(change.mean()), float(change.std()) / math.sqrt(len(change))

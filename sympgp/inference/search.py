"""The working state of a Gauss-Newton fit, and the stages that move it along."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.distributed import ALONE, Ranks
from sympgp.energies.base import Energy, Hyperparameters, LogNormal
from sympgp.fields import HamiltonianField
from sympgp.inference.base import Report
from sympgp.inference.discrepancy import (
    EXACT,
    DefectPosterior,
    autocorrelation_time,
    defect_posterior,
)
from sympgp.inference.evidence import (
    FrozenModel,
    HyperPosterior,
    linear_rate,
    optimise_hyperparameters,
)
from sympgp.noise import ScaledNoise
from sympgp.shooting.layout import Nodes, Windows
from sympgp.shooting.levenberg_marquardt import Solution, levenberg_marquardt
from sympgp.shooting.problem import Estimate, Problem
from sympgp.shooting.sensitivities import Drive, freeze

FIRST_WINDOW = 3.0
"""Duration of the first shooting windows, scaled: half an oscillation."""
LAST_WINDOW = 40.0
"""Windows grow to whole trajectories or to this duration: beyond six oscillations joined windows
find the same path in parallel."""
WHOLE_ITERATIONS = 20
"""Steps on whole trajectories: where jumps are needed, only windows with jumps converge."""
OSCILLATION = 2.0 * math.pi
"""Duration of the windows between which the model's discrepancy is measured."""
EVIDENCE_WINDOW, EVIDENCE_STEP, EVIDENCE_ROWS = 12.0, 0.5, 6000
"""Duration of the windows of the hyperparameters' evidence, its solver step, and how many entries
of states enter it."""
CORRELATED = 1.3
"""Autocorrelation time of the residuals from which on one ODE with white noise is out of the
question, so that jumps are certain."""
WORSE = 2.0
"""Longer windows that raise the noise by this factor have ended in a wrong optimum."""
WEAKER = (1.0, 0.1, 0.01)
"""Shares of the start's weights that are tried where no path can be followed with all of them."""


@dataclass
class Search:
    """Where the fit stands; all in scaled units.

    Attributes:
        nodes: the data.
        noise: law of the noise, and what is known of it.
        step: solver step.
        field: features and friction at the present hyperparameters.
        theta: weights and friction.
        states: (N + 1, D) the path at the nodes.
        noise_std: (D,).
        inflation: (D,) autocorrelation time of the residuals.
        windows: the last shooting windows.
        duration: of these windows; infinite when every trajectory is one.
        defect_std: of the jumps between them.
        max_iterations: of one search.
        report: progress.
        iterations: accepted steps so far.
        converged: whether the last searches ended by their tolerance.
        ranks: processes that share the trajectories in :meth:`solve` and what follows from it; all
            of them have the whole path.
    """

    nodes: Nodes
    noise: ScaledNoise
    step: float
    field: HamiltonianField
    theta: Tensor
    states: Tensor
    noise_std: Tensor
    inflation: Tensor
    windows: Windows
    duration: float
    defect_std: float
    max_iterations: int
    report: Report
    iterations: int = 0
    converged: bool = True
    solution: Solution | None = None
    ranks: Ranks = ALONE

    @property
    def sharing(self) -> Ranks:
        """The ranks; this one alone where there are more of them than trajectories."""
        return self.ranks if self.nodes.num_trajectories >= self.ranks.count else ALONE

    @property
    def share(self) -> slice:
        """This rank's trajectories, chosen by their numbers of nodes."""
        return self.sharing.share(torch.tensor(self.nodes.first).diff())

    def own_windows(self) -> tuple[slice, Windows]:
        """Which windows are those of this rank's trajectories, and these on their own."""
        if not self.sharing.several:
            return slice(0, self.windows.num_windows), self.windows
        return self.windows.of_trajectories(self.share)

    def problem(self) -> Problem:
        """The present shooting problem, of this rank's trajectories."""
        _, windows = self.own_windows()
        return Problem(self.nodes, windows, self.field, self.noise, self.step, self.sharing)

    def estimate(self) -> Estimate:
        """The present point of the search, with the states of this rank's windows."""
        start = self.states[self.own_windows()[1].start]
        return Estimate(self.theta, start, self.noise_std, self.defect_std, self.inflation)

    def solve(self, stage: str, tolerance: float, max_iterations: int | None = None) -> Solution:
        """Run Levenberg-Marquardt from here and move to its solution."""
        limit = self.max_iterations if max_iterations is None else max_iterations
        self.report(stage, None)
        self.solution = None  # what it says of the states may be as large as what comes now
        # Machines may round differently what every rank computes for itself.
        self.theta, self.noise_std = map(self.sharing.broadcast, (self.theta, self.noise_std))
        self.states = self.sharing.broadcast(self.states)
        problem = self.problem()
        solution = levenberg_marquardt(
            problem,
            self.estimate(),
            max_iterations=limit,
            tolerance=tolerance,
            on_step=lambda value: self.report(stage, value),
        )
        self.theta = solution.estimate.theta
        self.noise_std = solution.estimate.noise_std
        self.nodes = solution.nodes
        self.take(problem.windows, solution.path)
        if self.sharing.several and self.noise.dof is not None:
            self.nodes = self.nodes.reweighted(self._everyone(self.nodes.weights))
        self.iterations += solution.iterations
        self.solution = solution
        if max_iterations is None:
            self.converged = self.converged and solution.converged
        return solution

    def take(self, windows: Windows, path: Float[Tensor, "own slots dim"]) -> None:
        """Take over the path in this rank's windows; every rank has all of it then."""
        self.states = self.states.clone()
        self.states[windows.nodes.reshape(-1)] = path.flatten(0, 1)
        if self.sharing.several:
            self.states = self._everyone(self.states)

    def _everyone(self, values: Float[Tensor, "nodes dim"]) -> Float[Tensor, "nodes dim"]:
        """Values at all nodes, of which each rank has those of its trajectories."""
        own = slice(self.nodes.first[self.share.start], self.nodes.first[self.share.stop])
        return torch.cat([self.sharing.gather(values[own]), self.sharing.broadcast(values[-1:])])

    def grow_windows(self) -> bool:
        """Lengthen the windows to whole trajectories; False where the data do not allow it."""
        bounds = torch.tensor(self.nodes.first, device=self.nodes.times.device)
        spans = self.nodes.times[bounds[1:] - 1] - self.nodes.times[bounds[:-1]]
        horizon = float(spans.max())
        duration, defect = FIRST_WINDOW, 0.3
        while True:
            before, first = replace(self, solution=None), duration == FIRST_WINDOW
            whole = 1.5 * duration >= min(horizon, LAST_WINDOW)
            self.duration = math.inf if 1.5 * duration >= horizon else duration
            self.windows = Windows.of_duration(self.nodes, self.duration)
            self.defect_std = 0.0 if self.windows.joined else defect
            stage = "following whole trajectories" if whole else "lengthening windows"
            tolerance, most = (0.05, WHOLE_ITERATIONS) if whole else (0.5, 5)
            try:
                if first:
                    self._solve_first(stage, tolerance, most)
                else:
                    self.solve(stage, tolerance, most)
                lost = bool((self.noise_std > WORSE * before.noise_std).any())
            except FloatingPointError:
                if first:
                    raise
                lost = True
            if lost and not first:
                self._go_back(before)
                return False
            if whole:
                return True
            duration, defect = 2.0 * duration, 0.5 * defect

    def _solve_first(self, stage: str, tolerance: float, most: int) -> None:
        """Search from the integral form's weights, or from a share of them.

        Where one smooth field does not have the smoothed path's rates, weights of rough features
        that nearly cancel on it come closest: a field far too fast for paths in it.
        """
        weights, damping = self.theta.tensor_split([self.field.num_weights])
        for share in WEAKER:
            self.theta = torch.cat([share * weights, damping])
            try:
                self.solve(stage, tolerance, most if share == 1.0 else WHOLE_ITERATIONS)
            except FloatingPointError:
                if share == WEAKER[-1]:
                    raise
            else:
                return

    def _go_back(self, before: Search) -> None:
        """Return to where the search stood; the iterations since then still count."""
        self.theta, self.states, self.nodes = before.theta, before.states, before.nodes
        self.noise_std, self.converged = before.noise_std, before.converged
        self.windows, self.duration = before.windows, before.duration
        self.defect_std, self.solution = before.defect_std, before.solution

    def refine_noise(self) -> None:
        """Take the degrees of freedom of Student's t that suit the residuals best."""
        if self.noise.dof is not None:
            residual = self.states - self.nodes.values
            self.noise, self.noise_std = self.noise.refined(residual, self.nodes.mask)

    def measure_discrepancy(self) -> DefectPosterior:
        """Posterior of the jumps between windows of one oscillation, which stay from here on."""
        self.report("measuring model discrepancy", None)
        self.duration = min(self.duration, OSCILLATION)
        self.windows = Windows.of_duration(self.nodes, self.duration)
        white = bool((self._autocorrelation() < CORRELATED).all())
        found = defect_posterior(self.problem(), self.estimate(), EXACT if white else 0.0)
        self.defect_std = found.root_mean_square
        self.solve("fitting", 0.01)
        self.measure_inflation()
        return found

    def measure_inflation(self) -> None:
        """Take the autocorrelation times of the present residuals."""
        self.inflation = self._autocorrelation() / self.noise.information

    def _autocorrelation(self) -> Tensor:
        """Autocorrelation time of each channel's residuals, (D,)."""
        residual = (self.states - self.nodes.values) * self.nodes.weights.sqrt()
        return autocorrelation_time(residual, self.nodes)

    def frozen_model(self, duration: float) -> FrozenModel:
        """The linear model about the present path.

        Of many data, evenly chosen windows stand for all: their evidence is that of fewer data.
        """
        dim = self.states.shape[-1]
        windows = Windows.of_duration(self.nodes, duration).thinned(EVIDENCE_ROWS // dim)
        index = windows.nodes.reshape(-1)
        dt, step = self.nodes.dt[index], max(self.step, EVIDENCE_STEP)
        drive = Drive.over(self.nodes, index)
        field = self.wide_field()
        frozen = freeze(field, self.theta, self.states[index], dt, step, drive).merged()
        slope = linear_rate(field, frozen.stages, self.theta)
        return FrozenModel.about(frozen, slope, self.states[windows.nodes], self.nodes, windows)

    def wide_field(self) -> HamiltonianField:
        """The field in double precision: evidence is of few rows, and its slopes need the digits.

        In single precision hyperparameters end elsewhere, by hundredths of the field's deviation.
        """
        return self.field.to(torch.float64)

    def change_field(self, model: FrozenModel, field: HamiltonianField) -> None:
        """Take other features and the weights that suit them best about the frozen path."""
        precision = self.estimate().precision
        wide, basis = self.wide_field(), field.to(torch.float64).basis
        _, self.theta = model.solve(basis, wide, self.theta, precision, hold=True)
        self.field = field

    def learn_hyperparameters(
        self,
        energy: Energy,
        priors: dict[str, LogNormal],
        start: Hyperparameters,
        curvature: bool,
    ) -> tuple[FrozenModel, HyperPosterior]:
        """Maximise the frozen-path evidence, then move to the new features."""
        self.report("learning lengthscales", None)
        longest = EVIDENCE_WINDOW if self.duration >= OSCILLATION else self.duration
        model, precision = self.frozen_model(longest), self.estimate().precision
        field = self.wide_field()
        found = optimise_hyperparameters(
            lambda basis: model.solve(basis, field, self.theta, precision, hold=True)[0],
            energy,
            priors,
            start,
            curvature=curvature,
            share=float(model.weights.sum() / self.nodes.weights.sum()),
        )
        mean, covariance = map(self.sharing.broadcast, (found.mean, found.covariance))
        found = replace(found, mean=mean, covariance=covariance)
        basis = energy.basis(found.hyperparameters(found.mean))
        self.change_field(model, self.field.with_basis(basis))
        return model, found

"""The model linear about one path, in standardised rows: what a sampler is whitened with.

About a path through the data, observations and jumps between windows are linear in the weights
``w`` of any basis, in deviations ``dz`` of the window states and in the friction's deviation (as
in :mod:`sympgp.inference.evidence`, here with the jumps). Rows are divided by their standard
deviations, so that all residuals are standard normal:

    target = R(basis) w + L s + noise,    s = (dz, drho).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sympgp.cholesky import cholesky
from sympgp.energies.base import Basis
from sympgp.fields import HamiltonianField
from sympgp.inference.evidence import FrozenModel, linear_rate
from sympgp.shooting.layout import Windows
from sympgp.shooting.levenberg_marquardt import Solution
from sympgp.shooting.problem import Problem
from sympgp.shooting.sensitivities import INITIAL_VARIANCE, Drive, chain_sensitivities, freeze


@dataclass(frozen=True)
class Rows:
    """Derivatives along windows, gathered into standardised rows: observations, then jumps.

    Attributes:
        windows: shooting windows.
        scale: (W, L, D) one over the standard deviation of each entry.
        seen: (W, L, D) which entries are observed.
        defect_std: standard deviation of the jumps; not used when there are none.
    """

    windows: Windows
    scale: Float[Tensor, "windows slots dim"]
    seen: Bool[Tensor, "windows slots dim"]
    defect_std: float

    def following(self) -> tuple[Tensor, Tensor]:
        """Windows that have a next one, and the next ones."""
        here, ahead = self.windows.chain[:, :-1], self.windows.chain[:, 1:]
        return here[ahead >= 0], ahead[ahead >= 0]

    def gather(
        self,
        before: Float[Tensor, "windows slots dim cols"],
        jump: Float[Tensor, "jumps dim cols"],
    ) -> Float[Tensor, "rows cols"]:
        """Rows of what happens at the nodes and to the jumps."""
        observed = (before * self.scale.unsqueeze(-1))[self.seen]
        if not len(jump):
            return observed
        return torch.cat([observed, jump.flatten(0, 1) / self.defect_std])

    def of_states(self, transition: Float[Tensor, "windows slots dim dim"]) -> Tensor:
        """Rows (rows, W D) of the deviations of all window states."""
        count, slots, dim = self.scale.shape
        eye = torch.eye(dim, dtype=transition.dtype, device=transition.device)
        state, moved = chain_sensitivities(transition, None, eye.expand(count, dim, dim))
        every = torch.arange(count, device=transition.device)
        wide = transition.new_zeros(count, slots, dim, count, dim)
        wide[every, :, :, every, :] = state
        here, ahead = self.following()
        pairs = torch.arange(len(here), device=transition.device)
        jump = transition.new_zeros(len(here), dim, count, dim)
        jump[pairs, :, here, :] = moved[here]
        jump[pairs, :, ahead, :] -= eye
        return self.gather(wide.flatten(3), jump.flatten(2))


@dataclass(frozen=True)
class LinearModel:
    """Observations, jumps and priors about one solution of a shooting problem.

    Attributes:
        frozen: intervals of the path.
        field: at whose features the path was found.
        theta: (P + K,) its parameters there.
        layout: of the rows.
        lever: (rows, S) of the window states and the friction, ``L``.
        target: (rows,).
        prior_lever, prior_target: (priors, S), (priors,) standardised rows of the priors of ``s``.
    """

    frozen: FrozenModel
    field: HamiltonianField
    theta: Float[Tensor, " params"]
    layout: Rows
    lever: Float[Tensor, "rows local"]
    target: Float[Tensor, " rows"]
    prior_lever: Float[Tensor, "priors local"]
    prior_target: Float[Tensor, " priors"]

    @classmethod
    def about(cls, problem: Problem, field: HamiltonianField, solution: Solution) -> LinearModel:
        """Linearise a solution; Student's t noise is the Gaussian of its weights there."""
        nodes, windows, estimate = solution.nodes, problem.windows, solution.estimate
        theta, start = estimate.theta, estimate.start
        path, end, _ = problem.evaluate(estimate)
        count, slots, dim = path.shape
        dt = nodes.dt[windows.nodes.reshape(-1)]
        drive = Drive.over(nodes, windows.nodes.reshape(-1))
        frozen = freeze(field, theta, path.reshape(-1, dim), dt, problem.step, drive)
        slope = linear_rate(field, frozen.stages, theta)
        model = FrozenModel.about(frozen, slope, path, nodes, windows)
        layout = Rows(
            windows,
            (nodes.weights[windows.nodes] * estimate.precision).sqrt(),
            nodes.mask[windows.nodes],
            estimate.defect_std,
        )
        whole = _response(model, field.basis, field, theta, layout)
        by_weights, by_friction = whole[:, : field.num_weights], whole[:, field.num_weights :]
        transition = frozen.transition.reshape(count, slots, dim, dim)
        lever = torch.cat([layout.of_states(transition), by_friction], 1)
        here, ahead = layout.following()
        # What is left over at the solution, plus what its own weights explain.
        rest = layout.gather(
            (model.values - path).unsqueeze(-1), (start[ahead] - end[here]).unsqueeze(-1)
        )
        target = rest.squeeze(-1) + by_weights @ theta[: field.num_weights]
        return cls(
            model, field, theta, layout, lever, target, *_priors(field, theta, start, windows)
        )

    def rows(self, basis: Basis) -> Float[Tensor, "rows weights"]:
        """``R(basis)``, differentiable in the basis."""
        whole = _response(self.frozen, basis, self.field, self.theta, self.layout)
        return whole[:, : self.field.with_basis(basis).num_weights]

    def log_evidence(self, basis: Basis) -> Float[Tensor, ""]:
        """Of a basis, all unknowns integrated out, up to what does not depend on it."""
        stddev = self.field.with_basis(basis).weight_variance.sqrt()
        rows = torch.cat([self.rows(basis) * stddev, self.lever, self.target.unsqueeze(1)], 1)
        own = torch.cat([self.prior_lever, self.prior_target.unsqueeze(1)], 1)
        gram = rows.mT @ rows
        num = len(stddev)
        eye = torch.eye(num, dtype=gram.dtype, device=gram.device)
        prior = torch.block_diag(eye, own.mT @ own)
        gram = gram + prior
        factor = cholesky(gram[:-1, :-1], "the precision of the weights and states")
        solved = torch.linalg.solve_triangular(factor, gram[:-1, -1:], upper=False)
        return 0.5 * (solved**2).sum() - factor.diagonal().log().sum()


def _response(
    model: FrozenModel,
    basis: Basis,
    field: HamiltonianField,
    theta: Float[Tensor, " params"],
    layout: Rows,
) -> Float[Tensor, "rows params"]:
    """Rows of the weights of a basis, and of the friction with the energy of ``field``."""
    count, slots, dim = model.base.shape
    response = model.response(basis, field, theta).reshape(count, slots, dim, -1)
    transition = model.frozen.transition.reshape(count, slots, dim, dim)
    before, end = chain_sensitivities(transition, response, torch.zeros_like(response[:, 0]))
    here, _ = layout.following()
    return layout.gather(before, end[here])


def _priors(
    field: HamiltonianField,
    theta: Float[Tensor, " params"],
    start: Float[Tensor, "windows dim"],
    windows: Windows,
) -> tuple[Tensor, Tensor]:
    """Rows of the priors of first states and friction, as deviations from the solution."""
    first = torch.zeros_like(start)
    first[windows.chain[:, 0]] = INITIAL_VARIANCE**-0.5
    damping = 1.0 / field.dissipation.prior_stddev
    scale = torch.cat([first.flatten(), damping])
    at = torch.cat([start.flatten(), theta[field.num_weights :]])
    given = scale > 0
    return torch.diag(scale)[given], -(scale * at)[given]

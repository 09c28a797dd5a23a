"""The joint log density of data, parameters, noise and window states, as named terms."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sympgp.compiled import repays
from sympgp.distributed import ALONE, Ranks
from sympgp.fields import HamiltonianField
from sympgp.integrators import FixedStepIntegrator
from sympgp.noise import ScaledNoise, log_density
from sympgp.shooting.adjoint import recorded_paths, solve_paths
from sympgp.shooting.layout import Nodes, Windows
from sympgp.shooting.priors import normal_log_density, prior_terms
from sympgp.shooting.sensitivities import INITIAL_VARIANCE, substeps

Paths = tuple[Tensor, Tensor, Tensor]
"""States at the nodes and ends of all windows, and which draws did not diverge."""


@dataclass(frozen=True)
class JointDensity:
    """``p(y, w, rho, sigma, z)`` for draws of all unknowns, in scaled units.

    Observations are those of the paths that start at the window states ``z`` and follow the field
    of ``theta = (w, rho)``; neighbouring windows are tied by Gaussian jumps. Every term is a
    normalised log density, differentiable once in theta, the noise and the states.

    Attributes:
        nodes: the data.
        windows: shooting windows.
        field: features, friction and their priors at fixed hyperparameters.
        noise: law of the noise, what is known of it, and which channels share it.
        defect_std: standard deviation of the jumps between windows; not used when every trajectory
            is one window.
        step: longest solver step.
        integrator: the method; RK4 when None. Others are differentiated by recording every step.
        inflation: (D,) so many observations of a channel count as one, the autocorrelation time of
            its residuals; one each when None.
        ranks: processes that share the windows in :meth:`terms`, which all of them call alike.
        compiled: whether paths by RK4 are followed with a compiled field.

    Raises:
        ValueError: several windows a trajectory and jumps of no size.
    """

    nodes: Nodes
    windows: Windows
    field: HamiltonianField
    noise: ScaledNoise
    defect_std: float
    step: float
    integrator: FixedStepIntegrator | None = None
    inflation: Float[Tensor, " dim"] | None = None
    ranks: Ranks = ALONE
    compiled: bool = False

    def __post_init__(self) -> None:
        if not self.windows.joined and not self.defect_std > 0:
            raise ValueError(
                "defect_std: expected a positive number for windows that are not joined, "
                f"got {self.defect_std!r}"
            )

    def terms(
        self,
        theta: Float[Tensor, "draws params"],
        noise_std: Float[Tensor, "draws dim"],
        start: Float[Tensor, "draws windows dim"],
        chosen: Int[Tensor, " chosen"] | None = None,
        known: Paths | None = None,
    ) -> dict[str, Float[Tensor, " draws"]]:
        """Log densities by name; their sum is the joint one.

        With ``chosen`` windows, only their data and the jumps at their ends are looked at, and
        count for all: unbiased when every window is equally likely to be chosen.

        - "likelihood": of all observations given the paths; minus infinity where a path diverges.
        - "continuity": of the jumps between windows; only where there are any.
        - "initial_states": each trajectory's first state, ``N(0, INITIAL_VARIANCE)``.
        - "weights", "dissipation", "noise": see :func:`~sympgp.shooting.priors.prior_terms`.

        With ``known``, what :meth:`paths` says of these draws, nothing is followed again.
        """
        found = self._data_terms(theta, noise_std, start, chosen, known)
        found |= prior_terms(self.field, self.noise, theta, noise_std)
        first = start[:, self.windows.chain[:, 0]].flatten(1)
        variance = first.new_tensor(INITIAL_VARIANCE)
        found["initial_states"] = normal_log_density(first, variance)
        return found

    def log_prob(
        self,
        theta: Float[Tensor, "draws params"],
        noise_std: Float[Tensor, "draws dim"],
        start: Float[Tensor, "draws windows dim"],
    ) -> Float[Tensor, " draws"]:
        """Sum of all terms."""
        return torch.stack(list(self.terms(theta, noise_std, start).values())).sum(0)

    def pointwise(
        self,
        theta: Float[Tensor, "draws params"],
        noise_std: Float[Tensor, "draws dim"],
        start: Float[Tensor, "draws windows dim"],
    ) -> Float[Tensor, "draws observations"]:
        """Log density of every observation; order trajectory, time, channel, missing left out."""
        path, _, alive = self.paths(theta, start)
        likelihood = self._likelihood(self.windows.nodes, path, alive, noise_std)
        by_node = likelihood.new_zeros(len(theta), *self.nodes.values.shape)
        by_node[:, self.windows.nodes.flatten()] = likelihood.flatten(1, 2)
        return by_node[:, self.nodes.mask]

    def paths(
        self, theta: Float[Tensor, "draws params"], start: Float[Tensor, "draws windows dim"]
    ) -> tuple[
        Float[Tensor, "draws windows slots dim"],
        Float[Tensor, "draws windows dim"],
        Bool[Tensor, " draws"],
    ]:
        """States at the nodes and ends of all windows, and which draws did not diverge."""
        return self._paths(theta, start, self.windows)

    def for_steps(self, num_steps: int, num_draws: int, num_windows: int) -> JointDensity:
        """The same, with a compiled field where so many steps of training repay it."""
        nodes, windows, field = self.nodes, self.windows, self.field
        sines = field.bind(torch.zeros_like(field.prior_precision())).sines
        most = substeps(nodes.dt[windows.nodes], self.step).amax(0).sum()
        evaluations = 4 * num_steps * int(most)
        total = evaluations * num_draws * num_windows * sines
        return replace(self, compiled=repays(evaluations, total, windows.start.device))

    def following(self) -> tuple[Tensor, Tensor]:
        """Windows that have a next one, and the next ones."""
        return self.windows.following

    def _paths(
        self, theta: Tensor, start: Tensor, windows: Windows
    ) -> tuple[Tensor, Tensor, Tensor]:
        if self.integrator is None:
            return solve_paths(
                self.field, theta, start, self.nodes, windows, self.step, self.compiled
            )
        method = self.integrator
        return recorded_paths(method, self.field, theta, start, self.nodes, windows, self.step)

    def _data_terms(
        self,
        theta: Tensor,
        noise_std: Tensor,
        start: Tensor,
        chosen: Tensor | None,
        known: Paths | None,
    ) -> dict[str, Tensor]:
        """Likelihood and continuity, of some windows for all; each rank follows its share."""
        windows, share = self.windows, 1.0
        here, ahead = self.following()
        if chosen is not None:
            share = len(chosen) / windows.num_windows
        elif self.ranks.several:
            chosen = torch.arange(windows.num_windows, device=here.device)
        theta, noise_std, start = self.ranks.spread(theta, noise_std, start)
        own = start
        if chosen is not None:
            chosen = chosen[self.ranks.part(len(chosen))]
            own = start[:, chosen]
            windows = replace(windows, start=windows.start[chosen], nodes=windows.nodes[chosen])
            follows = torch.full_like(self.windows.start, -1)
            follows[here] = ahead
            here = (follows[chosen] >= 0).nonzero().squeeze(1)
            ahead = follows[chosen[here]]
        if chosen is not None and not len(chosen):  # more ranks than windows
            likelihood, jump = start[:, :0].sum((1, 2)), start[:, :0].flatten(1)
        else:
            if chosen is not None or known is None:
                known = self._paths(theta, own, windows)
            path, end, alive = known
            likelihood = self._likelihood(windows.nodes, path, alive, noise_std).sum((1, 2, 3))
            jump = (end[:, here] - start[:, ahead]).flatten(1)
        found = {"likelihood": self.ranks.total(likelihood) / share}
        if not self.windows.joined:
            tied = normal_log_density(jump, jump.new_tensor(self.defect_std**2))
            found["continuity"] = self.ranks.total(tied) / share
        return found

    def _likelihood(self, index: Tensor, path: Tensor, alive: Tensor, noise_std: Tensor) -> Tensor:
        """Log density of every slot of every window, zero where there is no observation."""
        std = noise_std[:, None, None, :]
        density = log_density(path - self.nodes.values[index], std, self.noise.dof)
        if self.inflation is not None:
            density = density / self.inflation
        seen = self.nodes.mask[index]
        density = density.masked_fill(~seen, 0.0)
        return density.masked_fill(seen & ~alive.view(-1, 1, 1, 1), -math.inf)

"""States of the training trajectories at the starts of their windows, given theta."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sympgp.shooting.elimination import Chain
from sympgp.shooting.problem import Problem


@dataclass(frozen=True)
class WindowStates:
    """Gaussian chains of window states, linear in ``delta = theta - mode`` (scaled units).

    ``z_k | z_{k+1}, delta ~ N(mean_k + slope_k delta + gain_k (z_{k+1} - ahead_k), cov_k)`` with
    ``ahead_k = ahead_mean_k + ahead_slope_k delta``; a trajectory's last window has gain zero.

    Attributes:
        chain: (trajectories, K) windows of each trajectory in time order, padded with -1.
        times: (W,) start of each window.
        last: (trajectories,) time of each trajectory's last observation.
        jump_std: standard deviation of the jumps between neighbouring windows, model discrepancy.
        spacing: usual length of a window; the discrepancy's variance grows by ``jump_std^2`` in it.
    """

    chain: Int[Tensor, "trajectories position"]
    times: Float[Tensor, " windows"]
    last: Float[Tensor, " trajectories"]
    mean: Float[Tensor, "windows dim"]
    slope: Float[Tensor, "windows dim params"]
    gain: Float[Tensor, "windows dim dim"]
    cov: Float[Tensor, "windows dim dim"]
    ahead_mean: Float[Tensor, "windows dim"]
    ahead_slope: Float[Tensor, "windows dim params"]
    jump_std: float
    spacing: float

    @classmethod
    def about(
        cls,
        problem: Problem,
        start: Float[Tensor, "windows dim"],
        chain: Chain,
        jump_std: float,
        spacing: float,
    ) -> WindowStates:
        """From the elimination of a shooting problem's states about ``start``."""
        nodes, windows = problem.nodes, problem.windows
        following = torch.full_like(windows.start, -1)
        here, ahead = problem.following()
        following[here] = ahead
        # Prediction of the next window's state, from deviations to states.
        next_start = start[following.clamp(min=0)]
        return cls(
            chain=windows.chain,
            times=nodes.times[windows.start],
            last=nodes.times[[e - 1 for e in nodes.first[1:]]],
            mean=start + chain.mean.to(start),
            slope=chain.slope.to(start),
            gain=chain.gain.to(start),
            cov=chain.cov.to(start),
            ahead_mean=next_start + chain.ahead_mean.to(start),
            ahead_slope=chain.ahead_slope.to(start),
            jump_std=jump_std,
            spacing=spacing,
        )

    def windows(self, trajectory: int) -> list[int]:
        """Windows of one trajectory in time order."""
        return [k for k in self.chain[trajectory].tolist() if k >= 0]

    @property
    def jump(self) -> tuple[float, float]:
        """``jump_std`` and the time in which it comes up."""
        return self.jump_std, self.spacing

    @property
    def dim(self) -> int:
        """Width D of the states."""
        return self.mean.shape[1]

    def smoothed_start(self, trajectory: int) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (D,), slope (D, P) and covariance (D, D) of a trajectory's first state."""
        windows = self.windows(trajectory)
        last = windows[-1]
        mean, slope, cov = self.mean[last], self.slope[last], self.cov[last]
        for k in reversed(windows[:-1]):
            gain = self.gain[k]
            mean = self.mean[k] + gain @ (mean - self.ahead_mean[k])
            slope = self.slope[k] + gain @ (slope - self.ahead_slope[k])
            cov = self.cov[k] + gain @ cov @ gain.mT
        return mean, slope, cov

    def sample(
        self, delta: Float[Tensor, "draws params"], white: Float[Tensor, "draws windows dim"]
    ) -> Float[Tensor, "draws windows dim"]:
        """Draw all states together, backwards in time along each trajectory.

        Args:
            delta: (S, P) deviations of theta from the mode.
            white: (S, W, D) standard normal numbers.
        """
        states = self.mean + torch.einsum("wdp,sp->swd", self.slope, delta)
        states = states + torch.einsum("wde,swe->swd", _root(self.cov), white)
        ahead = self.ahead_mean + torch.einsum("wdp,sp->swd", self.ahead_slope, delta)
        for position in reversed(range(self.chain.shape[1] - 1)):
            follows = self.chain[:, position + 1] >= 0
            here, after = self.chain[follows, position], self.chain[follows, position + 1]
            off = (states[:, after] - ahead[:, here]).unsqueeze(-1)
            states[:, here] = states[:, here] + (self.gain[here] @ off).squeeze(-1)
        return states


def _root(cov: Float[Tensor, "*batch dim dim"]) -> Tensor:
    """Square roots of small covariances that may be nearly singular."""
    values, vectors = torch.linalg.eigh(cov)
    return vectors * values.clamp(min=0.0).sqrt().unsqueeze(-2)

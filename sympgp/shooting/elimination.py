"""Eliminating the initial states of all windows, block by block along each trajectory.

Per window the objective is quadratic, ``z' H z / 2 + z' (h theta + g)``, and neighbouring windows
are tied by ``z_{k+1} = Phi_k z_k + B_k theta + c_k + N(0, diag(defect^2))``. Given theta this is
a linear-Gaussian chain, so a forward (Kalman) pass eliminates the states exactly, without the
cancellation that ``1 / defect^2`` brings into normal equations, and a backward pass restores them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.shooting.layout import Windows


@dataclass(frozen=True)
class Chain:
    """Conditional distributions of the window states given theta, as deviations.

    ``z_k | z_{k+1}, theta ~ N(mean + slope theta + gain (z_{k+1} - ahead(theta)), cov)`` where
    ``ahead(theta) = ahead_mean + ahead_slope theta``; the gain is zero for a trajectory's last one.

    Attributes:
        shared: (P, P) Hessian for theta once all states are eliminated (without theta's prior).
        gradient: (P,) its gradient.
        mean, slope: (W, D), (W, D, P) of each state given the data up to its window.
        filtered: (W, D, D) covariance of the same.
        gain, cov: (W, D, D) of each state given the next one.
        ahead_mean, ahead_slope: (W, D), (W, D, P) prediction for the next window.
        ahead_cov: (W, D, D) its covariance.
        logdet: log determinants ``sum log |I + V H|`` of the eliminated states.
    """

    shared: Float[Tensor, "params params"]
    gradient: Float[Tensor, " params"]
    mean: Float[Tensor, "windows dim"]
    slope: Float[Tensor, "windows dim params"]
    filtered: Float[Tensor, "windows dim dim"]
    gain: Float[Tensor, "windows dim dim"]
    cov: Float[Tensor, "windows dim dim"]
    ahead_mean: Float[Tensor, "windows dim"]
    ahead_slope: Float[Tensor, "windows dim params"]
    ahead_cov: Float[Tensor, "windows dim dim"]
    logdet: Float[Tensor, ""]

    @classmethod
    def empty(cls, border: Float[Tensor, "windows dim params"]) -> Chain:
        """Zeros of the right shapes; unit covariances where a window has no next one."""
        num, dim, params = border.shape
        state, block = border.new_zeros(num, dim), border.new_zeros(num, dim, dim)
        return cls(
            shared=border.new_zeros(params, params),
            gradient=border.new_zeros(params),
            mean=state,
            slope=torch.zeros_like(border),
            filtered=block,
            gain=block.clone(),
            cov=block.clone(),
            ahead_mean=state.clone(),
            ahead_slope=torch.zeros_like(border),
            ahead_cov=block.clone().diagonal_scatter(torch.ones_like(state), dim1=-2, dim2=-1),
            logdet=border.new_zeros(()),
        )

    def smooth(
        self, windows: Windows
    ) -> tuple[
        Float[Tensor, "windows dim"],
        Float[Tensor, "windows dim params"],
        Float[Tensor, "windows dim dim"],
    ]:
        """Mean, slope in theta and covariance of every state given all data and theta."""
        mean, slope, cov = self.mean.clone(), self.slope.clone(), self.filtered.clone()
        for position in reversed(range(windows.chain.shape[1] - 1)):
            index, following = _pairs(windows, position)
            gain = self.gain[index]
            ahead = mean[following] - self.ahead_mean[index]
            mean[index] += (gain @ ahead.unsqueeze(-1)).squeeze(-1)
            slope[index] += gain @ (slope[following] - self.ahead_slope[index])
            cov[index] += gain @ (cov[following] - self.ahead_cov[index]) @ gain.mT
        return mean, slope, cov


def _pairs(windows: Windows, position: int) -> tuple[Tensor, Tensor]:
    """Windows at this position that have a next one, and those next ones."""
    following = windows.chain[:, position + 1]
    has = following >= 0
    return windows.chain[has, position], following[has]


def eliminate(
    windows: Windows,
    hessian: Float[Tensor, "windows dim dim"],
    border: Float[Tensor, "windows dim params"],
    gradient: Float[Tensor, "windows dim"],
    end: Float[Tensor, "windows dim all"],
    jump: Float[Tensor, "windows dim"],
    defect_variance: Float[Tensor, " dim"],
    prior_mean: Float[Tensor, "trajectories dim"],
    prior_variance: float,
) -> Chain:
    """Run the forward pass.

    Args:
        windows: which windows follow which.
        hessian: H of each window's data.
        border: h, its states against theta.
        gradient: g.
        end: derivative of each window's end state, ``[Phi, B]``.
        jump: ``c``: end of each window minus the present start of the next one.
        defect_variance: ``d^2`` of each channel.
        prior_mean: of each trajectory's first state, as a deviation from the present one.
        prior_variance: of each trajectory's first state.
    """
    _, dim, params = border.shape
    out = Chain.empty(border)
    eye = torch.eye(dim, dtype=border.dtype, device=border.device)
    count = prior_mean.shape[0]
    belief = Belief(
        prior_mean, border.new_zeros(count, dim, params), prior_variance * eye.expand(count, -1, -1)
    )
    for position in range(windows.chain.shape[1]):
        here = windows.chain[:, position]
        index = here[here >= 0]
        belief = belief.update(hessian[index], border[index], gradient[index], out)
        out.mean[index], out.slope[index], out.filtered[index] = belief
        out.cov[index] = belief.cov
        if position + 1 == windows.chain.shape[1]:
            break
        # Trajectories that go on keep their order, so the beliefs line up with the next windows.
        follows = windows.chain[here >= 0, position + 1] >= 0
        keep, before = index[follows], Belief(*(part[follows] for part in belief))
        belief = before.predict(end[keep], jump[keep], defect_variance)
        gain = torch.linalg.solve(belief.cov, end[keep, :, :dim] @ before.cov).mT
        out.gain[keep] = gain
        out.cov[keep] = before.cov - gain @ belief.cov @ gain.mT
        out.ahead_mean[keep], out.ahead_slope[keep], out.ahead_cov[keep] = belief
    out.shared.copy_(0.5 * (out.shared + out.shared.mT))
    return out


class Belief(NamedTuple):
    """Gaussians over one state of several trajectories, with means linear in theta.

    Attributes:
        mean: (B, D).
        slope: (B, D, P), of the mean in theta.
        cov: (B, D, D).
    """

    mean: Tensor
    slope: Tensor
    cov: Tensor

    def update(self, curvature: Tensor, side: Tensor, pull: Tensor, out: Chain) -> Belief:
        """Condition on ``z' H z / 2 + z' (h theta + g)``; what is left of theta is added to out."""
        force = (curvature @ self.mean.unsqueeze(-1)).squeeze(-1) + pull
        lever = curvature @ self.slope + side
        inner = torch.eye(pull.shape[-1], dtype=pull.dtype, device=pull.device)
        inner = inner + self.cov @ curvature
        cov = torch.linalg.solve(inner, self.cov)
        cov = 0.5 * (cov + cov.mT)
        slope = self.slope - cov @ lever
        out.logdet.add_(torch.linalg.slogdet(inner).logabsdet.sum())
        out.shared.addmm_(lever.flatten(0, 1).mT, slope.flatten(0, 1))
        out.shared.addmm_(self.slope.flatten(0, 1).mT, side.flatten(0, 1))
        out.gradient.add_(torch.einsum("wdp,wd->p", slope, force))
        out.gradient.add_(torch.einsum("wdp,wd->p", side, self.mean))
        return Belief(self.mean - (cov @ force.unsqueeze(-1)).squeeze(-1), slope, cov)

    def predict(self, end: Tensor, jump: Tensor, defect_variance: Tensor) -> Belief:
        """``Phi z + B theta + c`` with the jumps' variance added."""
        phi, push = end[..., : jump.shape[-1]], end[..., jump.shape[-1] :]
        return Belief(
            (phi @ self.mean.unsqueeze(-1)).squeeze(-1) + jump,
            phi @ self.slope + push,
            phi @ self.cov @ phi.mT + torch.diag(defect_variance),
        )

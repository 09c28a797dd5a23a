"""Eliminating the initial states of all windows, block by block along each trajectory.

Per window the objective is quadratic, ``z' H z / 2 + z' (h theta + g)``, and neighbouring windows
are tied by ``z_{k+1} = Phi_k z_k + B_k theta + c_k + N(0, diag(defect^2))``. Given theta this is
a linear-Gaussian chain, so a forward (Kalman) pass eliminates the states exactly, without the
cancellation that ``1 / defect^2`` brings into normal equations, and a backward pass restores them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.inference.layout import Windows


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
    num_windows, dim, params = border.shape
    eye = torch.eye(dim, dtype=border.dtype, device=border.device)
    out = {
        "mean": torch.zeros_like(gradient),
        "slope": torch.zeros_like(border),
        "filtered": torch.zeros_like(hessian),
        "gain": torch.zeros_like(hessian),
        "cov": torch.zeros_like(hessian),
        "ahead_mean": torch.zeros_like(gradient),
        "ahead_slope": torch.zeros_like(border),
        "ahead_cov": eye.expand(num_windows, dim, dim).clone(),
    }
    shared, total = border.new_zeros(params, params), border.new_zeros(params)
    logdet = border.new_zeros(())
    mean = prior_mean
    slope = border.new_zeros(prior_mean.shape[0], dim, params)
    cov = prior_variance * eye.expand(prior_mean.shape[0], dim, dim)
    for position in range(windows.chain.shape[1]):
        here = windows.chain[:, position]
        active = here >= 0
        index = here[active]
        mean, slope, cov = mean[active], slope[active], cov[active]
        curvature, side = hessian[index], border[index]
        force = (curvature @ mean.unsqueeze(-1)).squeeze(-1) + gradient[index]
        lever = curvature @ slope + side
        inner = eye + cov @ curvature
        logdet = logdet + torch.linalg.slogdet(inner).logabsdet.sum()
        posterior = torch.linalg.solve(inner, cov)
        posterior = 0.5 * (posterior + posterior.mT)
        new_slope = slope - posterior @ lever
        flat = (-1, params)
        shared.addmm_(lever.reshape(flat).mT, new_slope.reshape(flat))
        shared.addmm_(slope.reshape(flat).mT, side.reshape(flat))
        total += torch.einsum("wdp,wd->p", new_slope, force) + torch.einsum("wdp,wd->p", side, mean)
        mean = mean - (posterior @ force.unsqueeze(-1)).squeeze(-1)
        out["mean"][index], out["slope"][index], out["filtered"][index] = mean, new_slope, posterior
        out["cov"][index] = posterior
        slope, cov = new_slope, posterior
        if position + 1 == windows.chain.shape[1]:
            break
        follows = windows.chain[active, position + 1] >= 0
        keep = index[follows]
        phi, push = end[keep, :, :dim], end[keep, :, dim:]
        before = cov[follows]
        ahead_cov = phi @ before @ phi.mT + torch.diag(defect_variance)
        gain = torch.linalg.solve(ahead_cov, phi @ before).mT
        ahead_mean = (phi @ mean[follows].unsqueeze(-1)).squeeze(-1) + jump[keep]
        ahead_slope = phi @ slope[follows] + push
        out["gain"][keep] = gain
        out["cov"][keep] = before - gain @ ahead_cov @ gain.mT
        out["ahead_mean"][keep], out["ahead_slope"][keep] = ahead_mean, ahead_slope
        out["ahead_cov"][keep] = ahead_cov
        mean, slope, cov = (
            _scatter(new, active.shape[0], windows, position)
            for new in (ahead_mean, ahead_slope, ahead_cov)
        )
    return Chain(0.5 * (shared + shared.mT), total, logdet=logdet, **out)


def _scatter(values: Tensor, count: int, windows: Windows, position: int) -> Tensor:
    """Put values of trajectories that go on back on the axis of all trajectories."""
    full = values.new_zeros(count, *values.shape[1:])
    full[windows.chain[:, position + 1] >= 0] = values
    return full

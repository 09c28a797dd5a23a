"""Eliminating the initial states of all windows, block by block along each trajectory.

Per window the objective is quadratic, ``z' H z / 2 + z' (h theta + g)``, and neighbouring windows
are tied by ``z_{k+1} = Phi_k z_k + B_k theta + c_k + N(0, diag(defect^2))``. Given theta this is
a linear-Gaussian chain, so a forward (Kalman) pass eliminates the states exactly, without the
cancellation that ``1 / defect^2`` brings into normal equations, and a backward pass restores them.

Covariances are carried by their square roots and data by rows ``R z + r theta + s`` with
``H = R' R``: paths that pass close by an unstable equilibrium have sensitivities so large that
their squares times squared states would leave no digit of the prior.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.distributed import Ranks
from sympgp.shooting.gram import add_gram, symmetric
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
        gain, cov: (W, D, D) of each state given the next one.
        ahead_mean, ahead_slope: (W, D), (W, D, P) prediction for the next window.
        ahead_cov: (W, D, D) its covariance.
        logdet: log determinants ``sum log |I + V H|`` of the eliminated states.
    """

    shared: Float[Tensor, "params params"]
    gradient: Float[Tensor, " params"]
    mean: Float[Tensor, "windows dim"]
    slope: Float[Tensor, "windows dim params"]
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
            gain=block.clone(),
            cov=block.clone(),
            ahead_mean=state.clone(),
            ahead_slope=torch.zeros_like(border),
            ahead_cov=block.clone().diagonal_scatter(torch.ones_like(state), dim1=-2, dim2=-1),
            logdet=border.new_zeros(()),
        )

    @classmethod
    def joined(cls, parts: Sequence[Chain]) -> Chain:
        """Of all trajectories, from those of some each, in order."""
        if len(parts) == 1:
            return parts[0]
        sums = ("shared", "gradient", "logdet")
        found = {}
        for one in fields(cls):
            own = [getattr(part, one.name) for part in parts]
            found[one.name] = torch.stack(own).sum(0) if one.name in sums else torch.cat(own)
        return cls(**found)

    def gathered(self, ranks: Ranks) -> Chain:
        """Of the trajectories of all ranks; the sums are those of this one."""
        sums = ("shared", "gradient", "logdet")
        states = [one.name for one in fields(self) if one.name not in sums]
        return replace(self, **{name: ranks.gather(getattr(self, name)) for name in states})

    def smooth(
        self, windows: Windows
    ) -> tuple[
        Float[Tensor, "windows dim"],
        Float[Tensor, "windows dim params"],
        Float[Tensor, "windows dim dim"],
    ]:
        """Mean, slope in theta and covariance of every state given all data and theta."""
        mean, slope, cov = self.mean.clone(), self.slope.clone(), self.cov.clone()
        for position in reversed(range(windows.chain.shape[1] - 1)):
            index, following = _pairs(windows, position)
            gain = self.gain[index]
            ahead = mean[following] - self.ahead_mean[index]
            mean[index] += (gain @ ahead.unsqueeze(-1)).squeeze(-1)
            slope[index] += gain @ (slope[following] - self.ahead_slope[index])
            cov[index] += gain @ cov[following] @ gain.mT
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
    totals: bool = True,
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
        totals: whether what is left of theta is wanted, not only the states.
    """
    _, dim, params = border.shape
    out = Chain.empty(border)
    rows = Rows.of(hessian, border, gradient)
    eye = torch.eye(dim, dtype=border.dtype, device=border.device)
    count = prior_mean.shape[0]
    belief = Belief(
        prior_mean,
        border.new_zeros(count, dim, params),
        prior_variance**0.5 * eye.expand(count, -1, -1),
    )
    for position in range(windows.chain.shape[1]):
        here = windows.chain[:, position]
        index = here[here >= 0]
        belief = belief.update(Rows(*(part[index] for part in rows)), out, totals)
        out.mean[index], out.slope[index] = belief.mean, belief.slope
        out.cov[index] = belief.cov
        if position + 1 == windows.chain.shape[1]:
            break
        # Trajectories that go on keep their order, so the beliefs line up with the next windows.
        follows = windows.chain[here >= 0, position + 1] >= 0
        keep, before = index[follows], Belief(*(part[follows] for part in belief))
        belief = before.predict(end[keep], jump[keep], defect_variance)
        phi = end[keep, :, :dim]
        gain = torch.cholesky_solve(phi @ before.cov, belief.root).mT
        left = torch.cat([(eye - gain @ phi) @ before.root, gain * defect_variance.sqrt()], -1)
        out.gain[keep], out.cov[keep] = gain, left @ left.mT
        out.ahead_mean[keep], out.ahead_slope[keep], out.ahead_cov[keep] = (
            belief.mean,
            belief.slope,
            belief.cov,
        )
    out.shared.copy_(symmetric(out.shared))
    return out


class Rows(NamedTuple):
    """What the data of each window say of its state: ``|R z + r theta + s|^2 / 2``.

    Attributes:
        state: (B, D, D), ``R``.
        params: (B, D, P), ``r``.
        rest: (B, D), ``s``.
    """

    state: Tensor
    params: Tensor
    rest: Tensor

    @classmethod
    def of(cls, hessian: Tensor, border: Tensor, gradient: Tensor) -> Rows:
        """From ``H = R' R``, ``h = R' r`` and ``g = R' s``.

        Directions that nothing but rounding tells apart from unobserved ones have zero rows.
        """
        values, vectors = torch.linalg.eigh(hessian)
        least = hessian.shape[-1] * torch.finfo(hessian.dtype).eps * values[..., -1:]
        seen = values > least
        size = torch.where(seen, values, 0.0).sqrt()
        turned = torch.where(seen, values, 1.0).rsqrt().unsqueeze(-1) * vectors.mT
        turned = turned * seen.unsqueeze(-1)
        return cls(
            size.unsqueeze(-1) * vectors.mT,
            turned @ border,
            (turned @ gradient.unsqueeze(-1)).squeeze(-1),
        )


class Belief(NamedTuple):
    """Gaussians over one state of several trajectories, with means linear in theta.

    Attributes:
        mean: (B, D).
        slope: (B, D, P), of the mean in theta.
        root: (B, D, D), of the covariance.
    """

    mean: Tensor
    slope: Tensor
    root: Tensor

    @property
    def cov(self) -> Tensor:
        """(B, D, D)."""
        return self.root @ self.root.mT

    def update(self, rows: Rows, out: Chain, totals: bool = True) -> Belief:
        """Condition on the data of one window each; what is left of theta is added to out.

        With ``C = R root = U s V'`` the residual of the mean, ``R (mean + slope theta) + r theta
        + s``, has the covariance ``I + C C'``, and the new root is ``root (I + C' C)^(-1/2)``.
        """
        left, size, right = torch.linalg.svd(rows.state @ self.root)
        shrink = (1.0 + size**2).rsqrt().unsqueeze(-1)
        lever = shrink * (left.mT @ (rows.state @ self.slope + rows.params))
        force = (rows.state @ self.mean.unsqueeze(-1)) + rows.rest.unsqueeze(-1)
        force = shrink * (left.mT @ force)
        out.logdet.add_(torch.log1p(size**2).sum())
        if totals:
            add_gram(out.shared, lever.flatten(0, 1))
            add_gram(out.shared, rows.params.flatten(0, 1), -1.0)
            out.gradient.add_(lever.flatten(0, 1).mT @ force.flatten())
            out.gradient.sub_(rows.params.flatten(0, 1).mT @ rows.rest.flatten())
        root = self.root @ (right.mT * shrink.mT)
        gain = root * size.unsqueeze(-2)
        return Belief(self.mean - (gain @ force).squeeze(-1), self.slope - gain @ lever, root)

    def predict(self, end: Tensor, jump: Tensor, defect_variance: Tensor) -> Belief:
        """``Phi z + B theta + c`` with the jumps' variance added."""
        phi, push = end[..., : jump.shape[-1]], end[..., jump.shape[-1] :]
        jumps = torch.diag(defect_variance.sqrt()).expand_as(phi)
        upper = torch.linalg.qr(torch.cat([(phi @ self.root).mT, jumps], -2)).R
        return Belief(
            (phi @ self.mean.unsqueeze(-1)).squeeze(-1) + jump, phi @ self.slope + push, upper.mT
        )

"""The variational family: a full-rank Gaussian over parameters, window states linear in them.

Everything is written relative to a base, the place where training began or was last whitened:
``theta = centre + root u`` with ``u = shift + T e``, and per window

    r_k = gain_k r_{k+1} + chol_k (nu_k + S_k u + G_k spread_{k+1}^-1 r_{k+1} + T_k e_k)

for the deviation ``r_k = z_k - mean_k - slope_k u`` of its first state. With ``shift``, ``nu``,
``S``, ``G`` zero and ``T``, ``T_k`` the identity this is the base itself, so all entries to be
trained are in units of the base's own standard deviations. The axes of ``u`` are turned so that
what the data determine is in few of them: ``T`` differs from the identity, and ``S`` from zero,
in those active ones alone, since in all others the posterior is the prior given the active ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sympgp.inference.axes import along, cholesky, informed
from sympgp.inference.following import Following
from sympgp.inference.truncated import truncated_draws
from sympgp.posterior import GaussianComponent, JointDraws
from sympgp.posterior.component import normal
from sympgp.posterior.inverse_gamma import inverse_gamma_draws, inverse_gamma_log_density


@dataclass(frozen=True)
class Approximation:
    """q(theta, noise, states) of one component, scaled units; see the module for the symbols.

    Friction, the last entry of theta where there is one, is cut to what is not negative. It depends
    on the last entry of ``e`` alone: the last row of the root has no other entry.

    Attributes:
        centre, root: (P,), (P, P) of theta.
        inverse: (P, P) of the root.
        volume: logarithm of the root's determinant.
        mean, slope: (W, D), (W, D, P).
        gain, chol: (W, D, D).
        spread: (W, D, D) Cholesky factor of each state's covariance given theta.
        following: the windows' order.
        active: (A,) axes of ``u`` that the data determine, increasing; friction's among them.
        shift: (P,).
        turn: (A, A), ``T``: strictly upper part, and logarithms on the diagonal.
        state_shift, state_slope, state_gain: ``nu`` (W, D), ``S`` (W, D, A), ``G`` (W, D, D).
        state_turn: (W, D, D), ``T_k``: strictly lower part, and logarithms on the diagonal.
        noise_shape, noise_rate: (D,) inverse-gamma of the noise variance; infinite and the variance
            itself where the noise is known.
        noise_group: (D,) channels with the same number share one level in user units.
        num_damping: whether the last entry of theta is a friction, 0 or 1.
    """

    centre: Float[Tensor, " params"]
    root: Float[Tensor, "params params"]
    inverse: Float[Tensor, "params params"]
    volume: Float[Tensor, ""]
    mean: Float[Tensor, "windows dim"]
    slope: Float[Tensor, "windows dim params"]
    gain: Float[Tensor, "windows dim dim"]
    chol: Float[Tensor, "windows dim dim"]
    spread: Float[Tensor, "windows dim dim"]
    following: Following
    active: Int[Tensor, " active"]
    shift: Float[Tensor, " params"]
    turn: Float[Tensor, "active active"]
    state_shift: Float[Tensor, "windows dim"]
    state_slope: Float[Tensor, "windows dim active"]
    state_gain: Float[Tensor, "windows dim dim"]
    state_turn: Float[Tensor, "windows dim dim"]
    noise_shape: Float[Tensor, " dim"]
    noise_rate: Float[Tensor, " dim"]
    noise_group: Int[Tensor, " dim"]
    num_damping: int

    BASE: ClassVar[tuple[str, ...]] = (
        "centre", "root", "inverse", "mean", "slope", "gain", "chol", "spread", "active",
    )  # fmt: skip
    TRAINED: ClassVar[tuple[str, ...]] = (
        "shift", "turn", "state_shift", "state_slope", "state_gain", "state_turn",
    )  # fmt: skip
    NOISE: ClassVar[tuple[str, ...]] = ("noise_shape", "noise_rate")

    @classmethod
    def about(
        cls,
        theta: tuple[Tensor, Tensor, Tensor],
        states: tuple[Tensor, Tensor, Tensor, Tensor],
        following: Following,
        active: Int[Tensor, " active"],
        noise: tuple[Tensor, Tensor, Tensor],
        num_damping: int,
    ) -> Approximation:
        """A base with nothing trained yet.

        Args:
            theta: centre, root and inverse.
            states: mean, slope, gain and chol.
            following: the windows' order.
            active: axes that the data determine.
            noise: shape, rate and group.
            num_damping: whether there is friction.
        """
        mean, slope, gain, chol = states
        num = len(active)
        return cls(
            *theta,
            volume=-torch.linalg.slogdet(theta[2]).logabsdet,
            mean=mean,
            slope=slope,
            gain=gain,
            chol=chol,
            spread=cholesky(following.accumulated(gain, chol @ chol.mT)),
            following=following,
            active=active,
            shift=torch.zeros_like(theta[0]),
            turn=mean.new_zeros(num, num),
            state_shift=torch.zeros_like(mean),
            state_slope=mean.new_zeros(*mean.shape, num),
            state_gain=torch.zeros_like(gain),
            state_turn=torch.zeros_like(gain),
            noise_shape=noise[0],
            noise_rate=noise[1],
            noise_group=noise[2],
            num_damping=num_damping,
        )

    @classmethod
    def of(cls, component: GaussianComponent) -> Approximation:
        """Exactly the distribution of a component."""
        states, num_damping = component.window_states, int(component.field.dissipation.truncated)
        eye = torch.eye(len(component.theta)).to(component.theta)
        root = torch.linalg.solve_triangular(component.factor.mT, eye, upper=True)
        axes, active = informed(root, component.field.prior_precision(), num_damping)
        root, inverse = root @ axes, axes.mT @ component.factor.mT
        following = Following.of(states.chain, states.mean)
        gain = states.gain * following.follows.unsqueeze(-1)
        own = torch.cat([states.mean.unsqueeze(-1), states.slope], -1)
        ahead = torch.cat([states.ahead_mean.unsqueeze(-1), states.ahead_slope], -1)
        smooth = following.scan(gain, own - gain @ ahead)
        return cls.about(
            (component.theta, root, inverse),
            (smooth[..., 0], smooth[..., 1:] @ root, gain, cholesky(states.cov)),
            following,
            active,
            (component.noise_shape, component.noise_rate, component.noise_group),
            num_damping,
        )

    @property
    def trained(self) -> dict[str, Tensor]:
        """The entries that training moves."""
        return {name: getattr(self, name) for name in self.TRAINED}

    @property
    def noise(self) -> tuple[Tensor, Tensor, Tensor]:
        """Shape, rate and group."""
        return self.noise_shape, self.noise_rate, self.noise_group

    @property
    def noise_std(self) -> Float[Tensor, " dim"]:
        """A typical noise."""
        known = self.noise_shape.isinf()
        return (self.noise_rate / torch.where(known, 1.0, self.noise_shape)).sqrt()

    def having(self, values: Mapping[str, Tensor]) -> Approximation:
        """Copy with other tensors, by the attributes' names."""
        changes: dict[str, Any] = dict(values)
        return replace(self, **changes)

    def rebased(self, base: Mapping[str, Tensor]) -> Approximation:
        """Of another base, on this one's device, with nothing trained."""
        like = self.centre
        moved = {n: t.to(like.device) for n, t in base.items()}
        own = self.having(moved)
        return Approximation.about(
            (own.centre, own.root, own.inverse),
            (own.mean, own.slope, own.gain, own.chol),
            self.following,
            own.active,
            own.noise,
            self.num_damping,
        )

    def detached(self) -> Approximation:
        """The same distribution as a constant."""
        return self.having({name: value.detach() for name, value in self.trained.items()})

    def scale(self) -> Float[Tensor, "active active"]:
        """``T`` in the active axes."""
        return self.turn.triu(1) + torch.diag(self.turn.diagonal().exp())

    def state_scale(self) -> Float[Tensor, "windows dim dim"]:
        """``T_k``."""
        diagonal = self.state_turn.diagonal(dim1=-2, dim2=-1)
        return self.state_turn.tril(-1) + torch.diag_embed(diagonal.exp())

    def state_gains(self) -> Float[Tensor, "windows dim dim"]:
        """``gain_k + chol_k G_k spread_{k+1}^-1``, zero where no window follows."""
        ahead = self.spread[self.following.ahead]
        extra = torch.linalg.solve_triangular(
            ahead, self.chol @ self.state_gain, upper=False, left=False
        )
        return (self.gain + extra) * self.following.follows.unsqueeze(-1)

    def damping_law(self) -> tuple[Tensor, Tensor]:
        """Mode and deviation of the friction before the cut."""
        unit = self.root[-1, -1]
        return self.centre[-1] + unit * self.shift[-1], unit * self.turn[-1, -1].exp()

    def sample(self, num: int, generator: torch.Generator) -> JointDraws:
        """Reparameterised draws in antithetic pairs; the noise carries no gradient."""
        half = (num + 1) // 2
        white = normal((half, len(self.centre)), self.centre, generator)
        local = normal((half, *self.mean.shape), self.mean, generator)
        white = torch.cat([white, -white])[:num]
        local = torch.cat([local, -local])[:num]
        last = None
        if self.num_damping:
            uniform = torch.rand(half, generator=generator, dtype=torch.float64).to(white)
            mode, deviation = self.damping_law()
            last = truncated_draws(mode, deviation, torch.cat([uniform, 1.0 - uniform])[:num])
            white = torch.cat([white[:, :-1], ((last - mode) / deviation).unsqueeze(1)], 1)
        turned = white[:, self.active] @ self.scale().mT
        u = self.shift + white.index_copy(1, self.active, turned)
        theta = self.centre + u @ self.root.mT
        if last is not None:  # not negative, whatever the rounding
            theta = torch.cat([theta[:, :-1], last.unsqueeze(1)], 1)
        noise_std = inverse_gamma_draws(*self.noise, num, generator)
        return JointDraws(theta, noise_std, self._states(u, local))

    def _states(self, u: Tensor, local: Tensor) -> Tensor:
        """Window states of each draw."""
        push = self.state_shift + along(self.state_slope, u[:, self.active])
        push = push + (self.state_scale() @ local.unsqueeze(-1)).squeeze(-1)
        off = self.chol @ push.unsqueeze(-1)
        off = self.following.scan(self.state_gains(), off).squeeze(-1)
        return self.mean + along(self.slope, u) + off

    def log_prob(self, draws: JointDraws) -> Float[Tensor, " draws"]:
        """Log density of theta, the logarithm of the noise (one value a group), and the states."""
        if draws.start is None:
            raise ValueError("draws: expected window states, got None")
        u = (draws.theta - self.centre) @ self.inverse.mT
        white = u - self.shift
        inner = white[:, self.active].mT
        inner = torch.linalg.solve_triangular(self.scale(), inner, upper=True)
        white = white.index_copy(1, self.active, inner.mT)
        value = -0.5 * (white**2).sum(1) - self.turn.diagonal().sum()
        value = value - self.volume
        if self.num_damping:
            mode, deviation = self.damping_law()
            value = value - torch.special.log_ndtr(mode / deviation)
        r = (draws.start - self.mean - along(self.slope, u)).unsqueeze(-1)
        push = r - self.state_gains() @ r[:, self.following.ahead]
        push = torch.linalg.solve_triangular(self.chol, push, upper=False)
        known = self.state_shift + along(self.state_slope, u[:, self.active])
        push = push - known.unsqueeze(-1)
        local = torch.linalg.solve_triangular(self.state_scale(), push, upper=False)
        value = value - 0.5 * (local**2).sum((1, 2, 3))
        value = value - self.state_turn.diagonal(dim1=-2, dim2=-1).sum()
        value = value - self.chol.diagonal(dim1=-2, dim2=-1).log().sum()
        constant = 0.5 * math.log(2.0 * math.pi) * (len(self.centre) + self.mean.numel())
        return value - constant + inverse_gamma_log_density(draws.noise_std, *self.noise)

    def whitened(self) -> Approximation:
        """The same distribution as its own base."""
        scale, gains, active = self.scale(), self.state_gains(), self.active
        push = torch.cat([self.state_shift.unsqueeze(-1), self.state_slope], -1)
        off = self.following.scan(gains, self.chol @ push)
        slope = self.slope.index_add(2, active, off[..., 1:])
        inner = torch.linalg.solve_triangular(scale, self.inverse[active], upper=True)
        return Approximation.about(
            (
                self.centre + self.root @ self.shift,
                self.root.index_copy(1, active, self.root[:, active] @ scale),
                self.inverse.index_copy(0, active, inner),
            ),
            (
                self.mean + off[..., 0] + slope @ self.shift,
                slope.index_copy(2, active, slope[..., active] @ scale),
                gains,
                self.chol @ self.state_scale(),
            ),
            self.following,
            active,
            self.noise,
            self.num_damping,
        )

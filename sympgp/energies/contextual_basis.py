"""Formulas whose parameters differ by trajectory, in scaled units."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sympgp.energies.base import Linearized
from sympgp.energies.contextual import Context
from sympgp.energies.contextual_effects import ParameterEffect
from sympgp.energies.differentiated import WeightedMap, given
from sympgp.energies.nonlinear import NonlinearBasis
from sympgp.energies.physics_basis import PhysicsBasis


class Local(NamedTuple):
    """States one by one, and what the formula's weights are there.

    Attributes:
        z: (N, 1, D).
        w: (N, K).
        number: (...) of the trajectory.
        x: (..., C) its standardised covariates.
    """

    z: Tensor
    w: Tensor
    number: Tensor
    x: Tensor


@dataclass(eq=False)
class ContextualBasis(NonlinearBasis):
    """``H(z, c; w) = H_inner(z; w_1 + e_1(c), ..., w_K + e_K(c))`` at points ``[z | c]``.

    The context c of a trajectory stands behind the state (see :class:`Context`); a state alone is
    one of a typical trajectory. Weights are the K of the formula, then those of each effect. All
    derivatives are by the states alone, and by the weights through those of the formula's own,
    ``d/dw = sum_k d/dw_k dw_k/dw``.

    Attributes:
        inner: the formula.
        effects: what moves its parameters, at most one for each.
        context: of the trajectories.
    """

    inner: PhysicsBasis
    effects: tuple[ParameterEffect, ...]
    context: Context

    reducible = False

    def __post_init__(self) -> None:
        self.num_weights = self.inner.num_weights + sum(e.num_weights for e in self.effects)
        own = [effect.prior_variance for effect in self.effects]
        self.prior_variance = torch.cat([self.inner.prior_variance, *own])
        self.separable = self.inner.separable
        self.names, self.priors = self.inner.names, self.inner.priors

    @property
    def dim(self) -> int:
        """Width D of a state alone."""
        return len(self.inner.scale)

    @property
    def angles(self) -> dict[int, float]:
        """Those of the formula."""
        return self.inner.angles

    def split(self, w: Float[Tensor, "*draws weights"]) -> tuple[Tensor, ...]:
        """Weights of the formula, and of each effect."""
        sizes = [self.inner.num_weights, *(effect.num_weights for effect in self.effects)]
        return w.split(sizes, -1)

    def about(self, w: Float[Tensor, " weights"]) -> ContextualBasis:
        """With networks linear about ``w``."""
        pairs = zip(self.effects, self.split(w)[1:], strict=True)
        return replace(self, effects=tuple(effect.tangent(own) for effect, own in pairs))

    def joined_by(self, context: Context) -> tuple[ContextualBasis, Int[Tensor, " weights"]]:
        """With a deviation for each trajectory that joined, behind that of a new one."""
        least = self.context.count + 1
        more = least + len(context.joined)
        places, begin, effects = [torch.arange(self.inner.num_weights)], self.inner.num_weights, []
        for effect in self.effects:
            own = replace(effect, deviations=more if effect.deviations else 0)
            stays, gone = min(least, effect.deviations), max(0, effect.deviations - least)
            rest = effect.num_weights - effect.deviations
            places.append(begin + torch.arange(stays))
            places.append(torch.full((gone,), -1))
            places.append(begin + own.deviations + torch.arange(rest))
            effects.append(own)
            begin += own.num_weights
        found = ContextualBasis(self.inner, tuple(effects), context)
        return found, torch.cat(places).to(self.prior_variance.device)

    def weights_at(self, w: Tensor, number: Tensor, x: Tensor) -> Float[Tensor, "*batch params"]:
        """Weights of the formula for trajectories, (..., K); of draws (S, P) for numbers (S, B)."""
        own, *rest = self.split(w)
        own = (own.unsqueeze(-2) if w.dim() > 1 else own).expand(*number.shape, -1)
        columns = list(own.unbind(-1))
        for effect, weights in zip(self.effects, rest, strict=True):
            k = effect.parameter
            columns[k] = columns[k] + effect.value(weights, number, x)
        return torch.stack(columns, -1)

    def local(self, z: Float[Tensor, "*batch width"], w: Float[Tensor, "*draws weights"]) -> Local:
        """The formula's own weights, state by state."""
        states, context = z[..., : self.dim], z[..., self.dim :]
        if not context.shape[-1]:
            context = z.new_zeros(*z.shape[:-1], self.context.width)
        shape = z.shape[:-1] if w.dim() == 1 else (len(w), z.shape[:-1].numel() // len(w))
        context = context.reshape(*shape, self.context.width)
        number, x = context[..., 0].round().long(), context[..., 1:]
        own = self.weights_at(w, number, x)
        states = states.reshape(-1, 1, self.dim)
        return Local(states, own.reshape(-1, own.shape[-1]), number, x)

    def value(
        self, z: Float[Tensor, "*batch width"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch"]:
        """``H``, up to a constant for each trajectory."""
        at = self.local(z, w)
        return self.inner.value(at.z, at.w).reshape(z.shape[:-1])

    def features(
        self, z: Float[Tensor, "*batch width"], w: Float[Tensor, "*draws weights"] | None = None
    ) -> Float[Tensor, "*batch weights"]:
        """``dH/dw``."""
        w = given(w)
        at = self.local(z, w)
        own = self.inner.features(at.z, at.w).reshape(*at.number.shape, -1)
        parts = [own]
        for effect, weights in zip(self.effects, self.split(w)[1:], strict=True):
            slope = effect.slope(weights, at.number, at.x)
            parts.append(own[..., effect.parameter, None] * slope)
        return torch.cat(parts, -1).reshape(*z.shape[:-1], -1)

    def _mixed(self, z: Tensor, at: Local) -> Float[Tensor, "*batch dim params"]:
        """``d grad H / dw`` by the formula's own weights."""
        found = self.inner.feature_gradient(at.z, at.w)
        return found.reshape(*at.number.shape, self.dim, -1)

    def feature_gradient(
        self, z: Float[Tensor, "*batch width"], w: Float[Tensor, "*draws weights"] | None = None
    ) -> Float[Tensor, "*batch dim weights"]:
        """``d grad H / dw``."""
        w = given(w)
        at = self.local(z, w)
        own = self._mixed(z, at)
        parts = [own]
        for effect, weights in zip(self.effects, self.split(w)[1:], strict=True):
            slope = effect.slope(weights, at.number, at.x)
            parts.append(own[..., effect.parameter, None] * slope.unsqueeze(-2))
        return torch.cat(parts, -1).reshape(*z.shape[:-1], self.dim, -1)

    def weighted_gradient(
        self,
        z: Float[Tensor, "batch stages width"],
        weights: Float[Tensor, "batch out stages dim"],
        w: Float[Tensor, " weights"] | None = None,
    ) -> Float[Tensor, "batch out weights"]:
        """``sum_s W_s d grad H(z_s) / dw``, contracted before the effects' derivatives."""
        w = given(w)
        at = self.local(z, w)
        own = torch.einsum("bosd,bsdk->bosk", weights, self._mixed(z, at))
        parts = [own.sum(2)]
        for effect, inside in zip(self.effects, self.split(w)[1:], strict=True):
            slope = effect.slope(inside, at.number, at.x)
            parts.append(own[..., effect.parameter] @ slope)
        return torch.cat(parts, -1)

    def remainder(
        self, z: Float[Tensor, "*batch width"], w: Float[Tensor, " weights"]
    ) -> Float[Tensor, "*batch dim"]:
        """``grad H - (d grad H / dw) w``."""
        return self.gradient_map(w)(z) - self.feature_gradient(z, w) @ w

    def gradient_map(self, w: Float[Tensor, "*draws weights"]) -> ContextualGradient:
        """The formula's own, with other weights for every state."""
        return ContextualGradient(self, w, None)

    def hessian(
        self, z: Float[Tensor, "batch width"], w: Float[Tensor, " weights"]
    ) -> Float[Tensor, "batch dim dim"]:
        """Second derivatives by the states."""
        at = self.local(z, w)
        return self.inner.linearized(at.z, at.w).hessian.squeeze(1)

    def linearized(
        self, z: Float[Tensor, "draws batch width"], w: Float[Tensor, "draws weights"]
    ) -> Linearized:
        """Slope and Hessian from the formula, and the chain rule for the weights."""
        at = self.local(z, w)
        known = self.inner.linearized(at.z, at.w)
        shape = (*z.shape[:2], self.dim)

        def pull_back(pull: Tensor) -> Tensor:
            own = torch.einsum("sbd,sbdk->sbk", pull, self._mixed(z, at))
            parts = [own.sum(1)]
            for effect, inside in zip(self.effects, self.split(w)[1:], strict=True):
                slope = effect.slope(inside, at.number, at.x)
                parts.append(torch.einsum("sb,sbp->sp", own[..., effect.parameter], slope))
            return torch.cat(parts, -1)

        return Linearized(
            known.slope.reshape(shape), known.hessian.reshape(*shape, self.dim), pull_back
        )

    def values(
        self, w: Float[Tensor, "*draws weights"], covariates: Any = None
    ) -> dict[str, Tensor]:
        """Parameters of a trajectory without a deviation, by name, each of shape (...).

        Args:
            w: weights.
            covariates: (C,) of the trajectory; those of a typical one, the data's means, when None.
        """
        return self._of(w, 0, self._covariates(w, covariates))

    def _covariates(self, w: Tensor, covariates: Any) -> Float[Tensor, "one covariates"]:
        """Standardised; zero, the data's means, when None."""
        if covariates is None:
            return w.new_zeros(1, self.context.width - 1)
        found = self.context.standardised(covariates)
        if len(found) > 1:
            raise ValueError(f"covariates: expected one trajectory's, got {len(found)} rows")
        return found

    def _of(self, w: Tensor, number: int, x: Float[Tensor, "one covariates"]) -> dict[str, Tensor]:
        """Parameters of one trajectory."""
        rows = w.reshape(-1, self.num_weights)
        where = torch.full((len(rows), 1), number, device=w.device)
        own = self.weights_at(rows, where, x.expand(len(rows), 1, -1))
        return self.inner.values(own.reshape(*w.shape[:-1], -1))

    def by_trajectory(
        self, w: Float[Tensor, "draws weights"], covariates: Any = None
    ) -> dict[str, Tensor]:
        """``"k[label]"`` of each trajectory, and of pooled ones ``"k[new]"`` and ``"k spread"``.

        They are those that joined, or the data's own where none did (``Context.shown``). A new
        trajectory has these covariates (C,), or the data's means. The last is half the width of
        the central 68% of trajectories about the population's median.
        """
        found: dict[str, Tensor] = {}
        labels, rows = self.context.shown()
        every = [self._of(w, int(row[0]), row[1:].unsqueeze(0)) for row in rows]
        x = self._covariates(w, covariates)
        typical = self.weights_at(w, torch.zeros_like(w[:, :1]).long(), x.expand(len(w), 1, -1))
        typical = typical.squeeze(1)
        for effect in self.effects:
            name, prior = self.names[effect.parameter], self.priors[effect.parameter]
            pairs = zip(labels, every, strict=True)
            found |= {f"{name}[{label}]": own[name] for label, own in pairs}
            if not effect.deviations:
                continue
            new = self._of(w, self.context.count + 1, x)
            found[f"{name}[new]"] = new[name]
            middle, tau = typical[..., effect.parameter], effect.variance.sqrt()
            ends = prior.value(middle + tau), prior.value(middle - tau)
            found[f"{name} spread"] = 0.5 * (ends[0] - ends[1]).abs()
        return found


class ContextualGradient(WeightedMap):
    """``[z | c] -> K grad H(z, c)`` of a :class:`ContextualBasis`, draws on a leading axis."""

    def __init__(
        self,
        basis: ContextualBasis,
        w: Float[Tensor, "*draws weights"],
        matrix: Float[Tensor, "*own dim dim"] | None,
    ) -> None:
        super().__init__(w, matrix)
        self.basis = basis

    def slope(self, z: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch dim"]:
        """``grad H`` at (..., D + c) points, or (S, B, D + c) for S draws."""
        at = self.basis.local(z, self.weights)
        slope = self.basis.inner.gradient_map(at.w)(at.z)
        return slope.reshape(*z.shape[:-1], self.basis.dim)

    def like(self, weights: Tensor, matrix: Tensor | None) -> ContextualGradient:
        """The same for other weights and another matrix."""
        return ContextualGradient(self.basis, weights, matrix)

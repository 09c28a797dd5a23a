"""Draws from a posterior as functions, and moments of what they compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies.base import Basis
from sympgp.fields import BoundField, HamiltonianField, TrajectoryField, as_points
from sympgp.phase_space import CanonicalScaling
from sympgp.trajectories import as_tensor

POINTS_AT_ONCE = 4_000_000
"""Numbers of one block of features held at a time (32 MB in float64)."""


@dataclass(frozen=True)
class Marginal:
    """Mean and standard deviation of each entry on its own.

    Attributes:
        mean: of any shape.
        stddev: of the same shape.
    """

    mean: Tensor
    stddev: Tensor

    @property
    def variance(self) -> Tensor:
        """``stddev ** 2``."""
        return self.stddev**2

    def to(self, dtype: torch.dtype) -> Marginal:
        """The same in another type."""
        return Marginal(self.mean.to(dtype), self.stddev.to(dtype))


def mixture_moments(means: Sequence[Tensor], variances: Sequence[Tensor]) -> Marginal:
    """Moments of the equally weighted mixture of distributions with these moments."""
    stacked = torch.stack(list(means))
    mean = stacked.mean(0)
    variance = torch.stack(list(variances)).mean(0) + ((stacked - mean) ** 2).mean(0)
    return Marginal(mean, variance.sqrt())


def scaled_states(scaling: CanonicalScaling, x: Any, name: str = "x") -> Float[Tensor, "batch dim"]:
    """Scaled states (B, 2n) from what a user gave: (B, 2n), or (2n,) for one state.

    Raises:
        ValueError: states of another width.
    """
    states = as_tensor(x, name).to(scaling.center)
    if states.dim() == 1:
        states = states.unsqueeze(0)
    if states.dim() != 2 or states.shape[1] != 2 * scaling.num_dof:
        raise ValueError(
            f"{name}: expected states of shape (number, {2 * scaling.num_dof}), "
            f"got {tuple(states.shape)}"
        )
    return scaling.to_scaled(states)


def with_inputs(
    z: Float[Tensor, "batch dim"], u: Any, num_inputs: int
) -> Float[Tensor, "batch width"]:
    """Points of a field: states, and its inputs beside them; zeros when None.

    Raises:
        ValueError: inputs of another width, or of a field without any.
    """
    if u is None:
        return as_points(z, z.new_zeros(num_inputs)) if num_inputs else z
    if not num_inputs:
        raise ValueError("u: expected None, since this field has no inputs")
    values = as_tensor(u, "u").to(z)
    if values.shape not in ((num_inputs,), (len(z), num_inputs)):
        raise ValueError(
            f"u: expected shape ({len(z)}, {num_inputs}) or ({num_inputs},), "
            f"got {tuple(values.shape)}"
        )
    return as_points(z, values)


def new_context(field: HamiltonianField, covariates: Any) -> Float[Tensor, "paths width"] | None:
    """What the field sees of new trajectories, one row or one for each row of covariates.

    None where it does not differ by trajectory.

    Raises:
        ValueError: covariates that are missing, not asked for, or wrong.
    """
    if field.context is not None:
        return field.context.new(covariates)
    if covariates is not None:
        raise ValueError("covariates: expected None, since no parameter depends on any")
    return None


@dataclass(frozen=True)
class Draws:
    """Draws of one component, in scaled units.

    Attributes:
        field: all draws at once, (S, B, D) to (S, B, D).
        basis: of the energy.
        weights: (S, P).
        theta: (S, P + K).
        noise_std: (S, D).
        start: (S, W, D) states at the starts of the training windows; None without trajectories.
    """

    field: BoundField | TrajectoryField
    basis: Basis
    weights: Float[Tensor, "draws weights"]
    theta: Float[Tensor, "draws params"]
    noise_std: Float[Tensor, "draws dim"]
    start: Float[Tensor, "draws windows dim"] | None = None


class FunctionDraws:
    """Samples of the vector field and its Hamiltonian; each sample is one function of the state.

    Calling it evaluates all samples at states (B, 2n) in user units.

    Example:
        >>> from sympgp.systems import HarmonicOscillator
        >>> from sympgp import SSGP, fit
        >>> data = HarmonicOscillator().simulate(2, rate=5, duration=4, noise_std=0.05)
        >>> draws = fit(SSGP(num_features=10), data, progress=False).sample(3, seed=0)
        >>> x = torch.zeros(5, 2, dtype=torch.float64)
        >>> draws(x).shape, draws.energy(x).shape
        (torch.Size([3, 5, 2]), torch.Size([3, 5]))
    """

    def __init__(
        self,
        parts: Sequence[Draws],
        scaling: CanonicalScaling,
        reference: Float[Tensor, " dim"],
        noise_unit: Float[Tensor, " dim"] | None = None,
        context: Float[Tensor, "paths width"] | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self._dtype = dtype
        self._parts = tuple(parts)
        self._context = context
        self._scaling = scaling
        self._reference = reference
        self._noise_unit = scaling.scale if noise_unit is None else noise_unit

    @property
    def num_samples(self) -> int:
        """Number of functions S."""
        return sum(len(part.theta) for part in self._parts)

    @property
    def parts(self) -> tuple[Draws, ...]:
        """The draws of each component, scaled units."""
        return self._parts

    @property
    def noise_std(self) -> Float[Tensor, "draws dim"]:
        """Observation noise of each draw, user units."""
        scaled = torch.cat([part.noise_std for part in self._parts])
        return (scaled * self._noise_unit).to(self._dtype)

    def to(self, dtype: torch.dtype) -> FunctionDraws:
        """The same functions computed, as far as they may be, in another type, and their values."""
        parts = []
        for part in self._parts:
            family = part.field.family.to(dtype)
            theta = part.theta.to(family.dtype)
            bound, weights = family.bind(theta), family.parts(theta)[0]
            start = None if part.start is None else part.start.to(family.dtype)
            own = part.field
            met = TrajectoryField(bound, own.context) if isinstance(own, TrajectoryField) else bound
            parts.append(Draws(met, family.basis, weights, theta, part.noise_std, start))
        return self._with(parts, self._context, dtype)

    def _with(
        self, parts: Sequence[Draws], context: Tensor | None, dtype: torch.dtype
    ) -> FunctionDraws:
        """The same kind of other draws."""
        return type(self)(
            parts, self._scaling, self._reference, self._noise_unit, context, dtype=dtype
        )

    def within(self, context: Float[Tensor, "paths width"] | None) -> FunctionDraws:
        """The same draws as trajectories of this context meet them; themselves when None."""
        if context is None:
            return self
        parts = []
        for part in self._parts:
            bound = part.field.field if isinstance(part.field, TrajectoryField) else part.field
            parts.append(replace(part, field=TrajectoryField(bound, context)))
        return self._with(parts, context, self._dtype)

    def _new(self, covariates: Any) -> FunctionDraws:
        """As a new trajectory meets them, where trajectories differ."""
        if self._context is not None and covariates is None:
            return self
        return self.within(new_context(self._parts[0].field.family, covariates))

    def __call__(
        self, x: Any, u: Any = None, covariates: Any = None
    ) -> Float[Tensor, "draws batch dim"]:
        """``dx/dt`` of every draw at states x (B, 2n) and inputs u (B, m) or (m,), zero when None.

        Where parameters differ by trajectory it is that of a new one with these covariates (C,).

        Raises:
            ValueError: states or inputs of another width; covariates missing or wrong.
        """
        num_inputs = self._parts[0].field.family.num_inputs
        z = with_inputs(scaled_states(self._scaling, x), u, num_inputs)
        parts = self._new(covariates).parts
        rates = [p.field(0.0, z.to(p.theta).expand(len(p.theta), *z.shape)) for p in parts]
        return (torch.cat(rates) * self._scaling.velocity_scale).to(self._dtype)

    def energy(self, x: Any, covariates: Any = None) -> Float[Tensor, "draws batch"]:
        """``H(x) - H(reference)`` of every draw at the states x (B, 2n), user units.

        Covariates are as for calling the draws.

        Raises:
            TypeError: the field has no energy.
            ValueError: states of another width; covariates missing or wrong.
        """
        z = scaled_states(self._scaling, x)
        return self._new(covariates).energy_along(z.expand(self.num_samples, *z.shape))

    def energy_along(self, z: Float[Tensor, "draws batch dim"]) -> Float[Tensor, "draws batch"]:
        """User energies at scaled states, draw s at the states of slice s.

        Of several trajectories' contexts, those of one stand next to each other.
        """
        values, begin, origin = [], 0, self._reference
        if self._context is not None:
            rows = self._context.repeat_interleave(z.shape[1] // len(self._context), 0)
            z, origin = as_points(z, rows), as_points(origin.expand(len(rows), -1), rows)
        for part in self._parts:
            own = z[begin : begin + len(part.theta)].to(part.theta)
            begin += len(part.theta)
            start = origin.to(part.theta).reshape(1, -1, origin.shape[-1])
            start = start.expand(len(part.theta), -1, -1)
            anchor = part.basis.value(start, part.weights)
            size = max(1, POINTS_AT_ONCE // max(1, part.weights.numel()))
            pieces = [part.basis.value(piece, part.weights) for piece in own.split(size, 1)]
            values.append(torch.cat(pieces, 1) - anchor)
        return (torch.cat(values) * self._scaling.energy_scale).to(self._dtype)

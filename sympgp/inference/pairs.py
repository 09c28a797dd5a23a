"""Pairs (x, dx/dt) in scaled units, and the noise of their derivatives."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sympgp.models import HamiltonianModel
from sympgp.noise import SHAPE, Noise, ScaledNoise
from sympgp.phase_space import CanonicalScaling
from sympgp.trajectories import StateDerivatives

FEW = 10.0
"""Observations' worth of what is known of a level below which it is not trusted."""


@dataclass(frozen=True)
class Pairs:
    """Scaled states and rates ``dz/ds``.

    Attributes:
        z: (N, D) states.
        rates: (N, D), zero where missing.
        observed: (N, D) which rates were measured.
        covariance: (N, D, D) of the rates' errors beside their own noise, known; None without any.
    """

    z: Float[Tensor, "points dim"]
    rates: Float[Tensor, "points dim"]
    observed: Bool[Tensor, "points dim"]
    covariance: Float[Tensor, "points dim dim"] | None = None

    @property
    def values(self) -> Float[Tensor, " observations"]:
        """Measured rates, state by state."""
        return self.rates[self.observed]

    @property
    def channel(self) -> Tensor:
        """Channel of each measured rate."""
        return self.observed.nonzero()[:, 1]

    @property
    def counts(self) -> Float[Tensor, " dim"]:
        """Measured rates of each channel."""
        return self.observed.sum(0).to(self.rates)

    def per_channel(self, values: Float[Tensor, " observations"]) -> Float[Tensor, " dim"]:
        """Sums over the measured rates of each channel."""
        return torch.zeros_like(self.rates[0]).index_add(0, self.channel, values)

    def thinned(self, most: int) -> Pairs:
        """At most so many measured rates, evenly spread over the states in their order."""
        total = int(self.observed.sum())
        if total <= most:
            return self
        number = max(1, len(self.z) * most // total)
        index = torch.linspace(0, len(self.z) - 1, number).round().long().to(self.z.device)
        known = self.covariance
        known = None if known is None else known[index]
        return Pairs(self.z[index], self.rates[index], self.observed[index], known)


@dataclass(frozen=True)
class PreparedPairs:
    """Scaled pairs with what belongs to them.

    Attributes:
        scaling: between scaled and user units.
        pairs: the data.
        noise: law of the rates' noise, scaled.
        state_std: (D,) of the states' noise, scaled; None where they are exact.
    """

    scaling: CanonicalScaling
    pairs: Pairs
    noise: ScaledNoise
    state_std: Float[Tensor, " dim"] | None = None


def prepare_pairs(model: HamiltonianModel, data: StateDerivatives) -> PreparedPairs:
    """Scale states by their spread, and time so that rates are of the states' order.

    Raises:
        ValueError: see ``check_pairs``.
    """
    check_pairs(model, data)
    states, derivatives = data.states, data.derivatives
    center = states.mean(0)
    spread = states.std(0, correction=0)
    rate = derivatives.square().nanmean(0).sqrt() / spread
    time_scale = 1.0 / rate[rate.isfinite()].square().mean().sqrt()
    zero = torch.zeros_like(time_scale)
    scaling = CanonicalScaling.from_spread(center, spread, time_scale, zero)
    observed = data.observed
    rates = torch.where(observed, derivatives / scaling.velocity_scale, 0.0)
    known = data.state_noise
    return PreparedPairs(
        scaling,
        Pairs(scaling.to_scaled(states), rates, observed),
        rate_noise(model.noise, scaling),
        None if known is None or not bool((known > 0).any()) else known / scaling.scale,
    )


def rate_noise(noise: Noise, scaling: CanonicalScaling) -> ScaledNoise:
    """The law of the noise of dx/dt, whose user units are those of rates."""
    return noise.scaled(replace(scaling, scale=scaling.velocity_scale))


def check_pairs(model: HamiltonianModel, data: StateDerivatives) -> None:
    """Refuse pairs that this model cannot be fitted to.

    Raises:
        ValueError: another number of degrees of freedom; inputs; fewer than four pairs; a
            coordinate or all derivatives that never change; noise other than Gaussian; a formula
            that does not work at the states.
    """
    if data.num_dof != model.num_dof:
        raise ValueError(
            f"data: the model has {model.num_dof} degree(s) of freedom, so states of width "
            f"{2 * model.num_dof} are expected; got {data.state_dim}"
        )
    if model.inputs is not None:
        raise ValueError(
            "inputs: pairs of states and derivatives come without inputs; expected a model with "
            "inputs=None, or Trajectories with inputs as data"
        )
    if model.noise.degrees_of_freedom is not None:
        raise ValueError(
            "noise: pairs of states and derivatives are fitted with GaussianNoise, got "
            f"{model.noise!r}"
        )
    if len(data) < 4:
        raise ValueError(f"data: expected at least 4 pairs, got {len(data)}")
    spread = data.states.std(0, correction=0)
    for name, deviation, size in zip(
        data.names, spread.tolist(), data.states.abs().amax(0).tolist(), strict=True
    ):
        if not deviation > 1e-12 * size:
            raise ValueError(f"data: {name} never changes, so it has no scale to be measured by")
    if not float(data.derivatives.nan_to_num().abs().max()) > 0.0:
        raise ValueError("data: all derivatives are zero, so there is nothing to learn from them")
    model.energy.check(data.states)


def check_state_noise(engine: object, takes: bool, data: StateDerivatives) -> None:
    """Refuse noise of the states where an engine takes them as exact.

    Raises:
        ValueError: it does.
    """
    if data.state_noise is not None and not takes:
        raise ValueError(
            f"inference: {type(engine).__name__}() takes states as exact; pairs with state_noise "
            "need DerivativeRegression(), MAP(), DeepEnsemble() or Laplace()"
        )


def untold_noise(data: StateDerivatives, known: Float[Tensor, " dim"]) -> list[str]:
    """What to worry about where states have noise.

    Args:
        data: the pairs.
        known: (2n,) what is known of each level of the rates' noise, in observations.
    """
    if data.state_noise is None:
        return []
    return [
        f"the noise of the derivative of {name} cannot be told from that of the states"
        for name, few in zip(data.names, (known < FEW).tolist(), strict=True)
        if few and bool((data.state_noise > 0).any())
    ]


@dataclass(frozen=True)
class NoiseParameters:
    """Noise levels as free parameters: the logarithm of one level for each group of channels.

    Attributes:
        noise: the law.
    """

    noise: ScaledNoise

    @property
    def leaders(self) -> Int[Tensor, " groups"]:
        """The channel that stands for each group that is to be found."""
        return self.noise.leaders

    def pack(self, std: Float[Tensor, " dim"]) -> Float[Tensor, " groups"]:
        """Logarithms of the leaders' levels."""
        return std[self.leaders].log()

    def unpack(self, log: Float[Tensor, " groups"]) -> Float[Tensor, " dim"]:
        """Standard deviations of all channels, equal in user units within a group."""
        return self.noise.levels(log)

    def log_prior(self, std: Float[Tensor, " dim"]) -> Float[Tensor, ""]:
        """Inverse-gamma log density of the groups' variances, up to a constant.

        Its mode together with the evidence's is the fixed point of ``ScaledNoise.update``.
        """
        variance, rate = (std**2)[self.leaders], self.noise.level_rate()
        return -((SHAPE + 1.0) * variance.log() + rate / variance).sum()

"""Priors of physical parameters as functions of standard normal weights."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch import distributions as dist

from sympgp.energies.base import LogNormal


class Prior(ABC):
    """A parameter ``v = T(w)`` with ``w ~ N(0, 1)`` and ``T`` monotone."""

    @abstractmethod
    def value(self, w: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """``T(w)``."""

    def slope(self, w: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """``dT/dw``."""
        return torch.func.grad(lambda v: self.value(v).sum())(w)


def probability_below(w: Tensor) -> Tensor:
    """``Phi(w)``, with its relative accuracy in the lower tail (``torch.special.ndtr`` loses it).

    Kept above zero.
    """
    return (0.5 * torch.erfc(-w / math.sqrt(2.0))).clamp(min=torch.finfo(w.dtype).tiny)


@dataclass(frozen=True)
class NormalPrior(Prior):
    """``v ~ N(mean, stddev^2)``."""

    mean: float
    stddev: float

    def value(self, w: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """``mean + stddev w``."""
        return self.mean + self.stddev * w

    def slope(self, w: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """``stddev``."""
        return torch.full_like(w, self.stddev)


@dataclass(frozen=True)
class LogNormalPrior(Prior):
    """``log v ~ N(mean, stddev^2)``."""

    mean: float
    stddev: float

    def value(self, w: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """``exp(mean + stddev w)``."""
        return (self.mean + self.stddev * w).exp()

    def slope(self, w: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """``stddev v``."""
        return self.stddev * self.value(w)


@dataclass(frozen=True)
class HalfNormalPrior(Prior):
    """``v = |N(0, scale^2)|``."""

    scale: float

    def value(self, w: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """From the tail that is the smaller one, where probabilities keep their digits."""
        below, above = w.clamp(max=0.0), w.clamp(min=0.0)
        small = math.sqrt(2.0) * torch.erfinv(probability_below(below))
        large = -torch.special.ndtri(0.5 * probability_below(-above))
        return self.scale * torch.where(w < 0.0, small, large)


@dataclass(frozen=True)
class UniformPrior(Prior):
    """``v`` uniform between two bounds."""

    low: float
    high: float

    def value(self, w: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """``low + (high - low) Phi(w)``."""
        return self.low + (self.high - self.low) * probability_below(w)


@dataclass(frozen=True)
class ExponentialPrior(Prior):
    """``v`` exponential with a rate."""

    rate: float

    def value(self, w: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """``-log(1 - Phi(w)) / rate``, exact in both tails."""
        small = -torch.log1p(-probability_below(w.clamp(max=0.0)))
        large = -torch.special.log_ndtr(-w.clamp(min=0.0))
        return torch.where(w < 0.0, small, large) / self.rate


@dataclass(frozen=True)
class LaplacePrior(Prior):
    """``v`` with the density ``exp(-|v - location| / scale) / (2 scale)``."""

    location: float
    scale: float

    def value(self, w: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """``location -+ scale log(2 Phi(-+ w))``, from the smaller tail."""
        # -|w| with a slope of its own at zero, where the search begins.
        tail = torch.special.log_ndtr(torch.where(w < 0.0, w, -w)) + math.log(2.0)
        return self.location + self.scale * torch.where(w < 0.0, tail, -tail)


@dataclass(frozen=True)
class QuantilePrior(Prior):
    """Any distribution of ``torch.distributions`` with a quantile function.

    ``v = F^-1(Phi(w))``, with the probability kept inside (0, 1): beyond about eight standard
    deviations (five in single precision) ``v`` stands still.

    Attributes:
        kind: name of its class.
        names: its parameters.
        values: and their values.
    """

    kind: str
    names: tuple[str, ...]
    values: tuple[float, ...]

    def value(self, w: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """``F^-1(Phi(w))``."""
        settings = {n: w.new_tensor(v) for n, v in zip(self.names, self.values, strict=True)}
        known = getattr(dist, self.kind)(**settings, validate_args=False)
        numbers = torch.finfo(w.dtype)
        half = 0.5 * numbers.eps
        probability = probability_below(w).clamp(half, 1.0 - half)
        return known.icdf(probability)


@dataclass(frozen=True)
class TransformedPrior(Prior):
    """``v`` a monotone function of another prior's value.

    Attributes:
        base: the other prior.
        kinds: classes of ``torch.distributions.transforms``, in the order they are applied.
        values: (location, scale) of affine ones, empty for the others.
    """

    base: Prior
    kinds: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]

    def value(self, w: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """The transforms of the base's value."""
        v = self.base.value(w)
        for kind, settings in zip(self.kinds, self.values, strict=True):
            v = getattr(dist.transforms, kind)(*settings)(v)
        return v


SPECIAL: dict[str, Callable[..., Prior]] = {
    "Normal": NormalPrior,
    "LogNormal": LogNormalPrior,
    "HalfNormal": HalfNormalPrior,
    "Uniform": UniformPrior,
    "Exponential": ExponentialPrior,
    "Laplace": LaplacePrior,
}


def prior_of(name: str, distribution: object) -> Prior:
    """A prior from a univariate distribution of ``torch.distributions``.

    Raises:
        ValueError: something else, or a distribution without a quantile function; names the
            parameter.
    """
    expected = (
        f"parameters: expected a number or a univariate distribution of torch.distributions "
        f"for {name!r}"
    )
    if isinstance(distribution, Prior):
        return distribution
    if isinstance(distribution, LogNormal):  # of this package: by its median
        median = torch.as_tensor(distribution.median)
        if median.dim() or not 0 < float(median) < math.inf:
            raise ValueError(
                f"parameters: expected one positive median of {name!r}, got {distribution!r}"
            )
        return LogNormalPrior(math.log(float(median)), float(distribution.log_stddev))
    if not isinstance(distribution, dist.Distribution):
        raise ValueError(f"{expected}, got {distribution!r}")
    if distribution.batch_shape.numel() != 1 or distribution.event_shape != ():
        shape = tuple(distribution.batch_shape + distribution.event_shape)
        raise ValueError(f"{expected}, got {type(distribution).__name__} of shape {shape}")
    kind = type(distribution).__name__
    if type(distribution) is dist.TransformedDistribution:
        return _transformed(name, distribution)
    if getattr(dist, kind, None) is not type(distribution):
        raise ValueError(f"{expected}, got one of another kind, {kind}")
    names = tuple(n for n in distribution.arg_constraints if n != "logits")
    values = tuple(float(getattr(distribution, n)) for n in names)
    if kind in SPECIAL:
        return SPECIAL[kind](*values)
    prior = QuantilePrior(kind, names, values)
    try:
        prior.value(torch.zeros((), dtype=torch.float64))
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            f"parameters: {kind}, the prior of {name!r}, has no quantile function in "
            "torch.distributions; LogNormal, HalfNormal or Uniform have"
        ) from error
    return prior


def _transformed(name: str, distribution: dist.TransformedDistribution) -> TransformedPrior:
    steps: list[tuple[str, tuple[float, ...]]] = []
    for transform in distribution.transforms:
        kind = type(transform).__name__
        if isinstance(transform, dist.AffineTransform):
            steps.append((kind, (float(transform.loc), float(transform.scale))))
        elif kind in ("ExpTransform", "SigmoidTransform", "TanhTransform", "SoftplusTransform"):
            steps.append((kind, ()))
        else:
            raise ValueError(
                f"parameters: the prior of {name!r} has a {kind}; affine, exponential, sigmoid, "
                "tanh and softplus transforms are known"
            )
    kinds, values = zip(*steps, strict=True) if steps else ((), ())
    return TransformedPrior(prior_of(name, distribution.base_dist), kinds, values)

"""Observation noise: its law, what is known of it, and which channels share one level."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sympgp.phase_space import CanonicalScaling
from sympgp.trajectories import ArrayLike, as_tensor

SHAPE, RATE = 1.0, 1e-6
"""Inverse-gamma prior of each channel's noise variance, in scaled units."""
DEGREES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0, 30.0)
"""Degrees of freedom to choose from."""
START = 3.0
"""Those to begin with."""
SCALE_UPDATES = 30
"""Fixed-point iterations for the scales that go with them."""


@dataclass(frozen=True)
class ScaledNoise:
    """Observation noise in scaled units.

    Attributes:
        known: (D,) standard deviations that are given, NaN where they are to be found.
        group: (D,) channels with the same number share one level in user units.
        unit: (D,) user value per scaled value.
        dof: degrees of freedom of Student's t; None for a Gaussian.
        free: whether these are to be found.
    """

    known: Float[Tensor, " dim"]
    group: Int[Tensor, " dim"]
    unit: Float[Tensor, " dim"]
    dof: float | None = None
    free: bool = False

    @property
    def information(self) -> float:
        """Fisher information of one observation about its mean, over that of a Gaussian."""
        return 1.0 if self.dof is None else (self.dof + 1.0) / (self.dof + 3.0)

    @property
    def scale_information(self) -> float:
        """The same about the logarithm of the scale."""
        return 1.0 if self.dof is None else self.dof / (self.dof + 3.0)

    @cached_property
    def leaders(self) -> Int[Tensor, " groups"]:
        """The channel that stands for each group whose level is to be found."""
        channels = torch.arange(len(self.group), device=self.group.device)
        return (self.known.isnan() & (self.group == channels)).nonzero().squeeze(1)

    def levels(self, log: Float[Tensor, "*draws groups"]) -> Float[Tensor, "*draws dim"]:
        """Standard deviations of all channels from the logarithms of the leaders'."""
        # A tensor of its own: compilers write all rows of an expanded one to one place.
        levels = self.unit.new_ones(*log.shape[:-1], len(self.unit))
        levels = levels.index_copy(-1, self.leaders, log.exp())
        own = levels[..., self.group] * self.unit[self.group] / self.unit
        return torch.where(self.known.isnan(), own, self.known)

    def level_rate(self) -> Float[Tensor, " groups"]:
        """Rate of the inverse-gamma prior of the leaders' variances; its shape is ``SHAPE``."""
        area = self.unit**2
        return (RATE * self.pooled(area) / area)[self.leaders]

    def ignoring(self, unobserved: Bool[Tensor, " dim"]) -> ScaledNoise:
        """The same where some channels are never observed, so that their noise means nothing.

        Their levels count as known, one where none was given, and are tied to no others: whatever
        is asked of them is finite, and changes nothing elsewhere.
        """
        if not bool(unobserved.any()):
            return self
        one = torch.where(self.known.isnan(), 1.0, self.known)
        alone = torch.arange(len(self.group), device=self.group.device)
        # The first of each group that is observed stands for it.
        same = (self.group[:, None] == self.group) & ~unobserved
        group = torch.where(unobserved, alone, same.int().argmax(1))
        return replace(self, known=torch.where(unobserved, one, self.known), group=group)

    def start(self, std: Float[Tensor, " dim"]) -> Float[Tensor, " dim"]:
        """A first guess, replaced where the level is known and shared where it is tied."""
        pooled = self.pooled((std * self.unit).square()).sqrt() / self.unit
        return torch.where(self.known.isnan(), pooled, self.known)

    def pooled(self, values: Float[Tensor, " dim"]) -> Float[Tensor, " dim"]:
        """Means over the channels of each group."""
        return self._total(values) / self._total(torch.ones_like(values))

    def _total(self, values: Tensor) -> Tensor:
        return torch.zeros_like(values).index_add(0, self.group, values)[self.group]

    def update(
        self, squares: Float[Tensor, " dim"], spare: Float[Tensor, " dim"]
    ) -> Float[Tensor, " dim"]:
        """``sigma^2 = (RSS + 2 b) / (spare + 2 a + 2)``, sums over the channels of a group.

        Args:
            squares: weighted residual sums of squares.
            spare: observations less the parameters that they determine.
        """
        area = self.unit**2
        total = self._total(area * squares) + 2 * RATE * self.pooled(area)
        variance = total / (self._total(spare) + 2 * SHAPE + 2) / area
        return torch.where(self.known.isnan(), variance.sqrt(), self.known)

    def shape(self, spare: Float[Tensor, " dim"]) -> Float[Tensor, " dim"]:
        """Shape of the inverse-gamma posterior of the variance; infinite where it is known."""
        shape = SHAPE + 0.5 * self.scale_information * self._total(spare)
        return torch.where(self.known.isnan(), shape, torch.inf)

    def weights(
        self, residual: Float[Tensor, "rows dim"], std: Float[Tensor, " dim"]
    ) -> Float[Tensor, "rows dim"]:
        """Weights ``(v + 1) / (v + r^2)`` of squared residuals that make a Gaussian of Student's t.

        One for Gaussian noise.
        """
        if self.dof is None:
            return torch.ones_like(residual)
        return (self.dof + 1.0) / (self.dof + (residual / std).square())

    def refined(
        self, residual: Float[Tensor, "rows dim"], mask: Bool[Tensor, "rows dim"]
    ) -> tuple[ScaledNoise, Float[Tensor, " dim"]]:
        """The law with the degrees of freedom that suit these residuals best, and the scales.

        Maximum likelihood over a grid of degrees of freedom, common to all channels, each with the
        scales that go with it.
        """
        best, found = -math.inf, (self, residual.new_ones(()))
        for dof in DEGREES if self.free else (self.dof,):
            law = replace(self, dof=dof)
            counts = mask.sum(0).clamp(min=1)
            std = law.start((residual.square() * mask).sum(0).div(counts).sqrt())
            for _ in range(SCALE_UPDATES):
                squares = (law.weights(residual, std) * residual.square() * mask).sum(0)
                std = law.update(squares, mask.sum(0).to(squares))
            score = float((log_density(residual, std, dof) * mask).sum())
            if score > best:
                best, found = score, (law, std)
        return found


@dataclass(frozen=True)
class Noise(ABC):
    """Independent noise on every observation, of one level per channel.

    Args:
        std: its scale in user units where it is known: one number for all channels, or one for
            each with NaN where it is to be found; found from the data when None.
        tied: groups of channels, by their position in a state, that share one level: for two
            degrees of freedom ``((0, 1), (2, 3))`` gives both coordinates one level and both
            momenta another.

    Raises:
        ValueError: a standard deviation that is not positive; a channel in two groups.
    """

    std: ArrayLike = None
    tied: Sequence[Sequence[int]] = ()

    def __post_init__(self) -> None:
        if self.std is not None:
            std = as_tensor(self.std, "std", torch.float64)
            if std.dim() > 1 or bool((std <= 0).any()) or bool(std.isinf().any()):
                raise ValueError(
                    f"std: expected a positive number, or one for each channel, got {self.std!r}"
                )
        members = [channel for group in self.tied for channel in group]
        if len(set(members)) < len(members):
            raise ValueError(f"tied: expected each channel in one group, got {self.tied!r}")

    @property
    @abstractmethod
    def degrees_of_freedom(self) -> float | None:
        """Of Student's t, NaN where they are to be found; None for a Gaussian."""

    def scaled(self, scaling: CanonicalScaling) -> ScaledNoise:
        """The noise in scaled units.

        Raises:
            ValueError: another number of standard deviations than channels, a channel that is
                not there, or a known level within a group.
        """
        unit = scaling.scale
        dim = len(unit)
        known = torch.full_like(unit, torch.nan)
        if self.std is not None:
            std = as_tensor(self.std, "std", unit.dtype, unit.device)
            if std.dim() and len(std) != dim:
                raise ValueError(f"std: expected one number or {dim}, got {len(std)}")
            known = std.expand(dim) / unit
        group = torch.arange(dim, device=unit.device)
        for members in self.tied:
            index = torch.tensor([*members], device=unit.device)
            if bool((index < 0).any()) or bool((index >= dim).any()):
                raise ValueError(f"tied: expected channels from 0 to {dim - 1}, got {members!r}")
            if not bool(known[index].isnan().all()):
                raise ValueError(f"tied: the noise of a channel of {members!r} is given by std")
            group[index] = index[0].clone()
        dof = self.degrees_of_freedom
        free = dof is not None and math.isnan(dof)
        return ScaledNoise(known, group, unit, START if free else dof, free)


@dataclass(frozen=True)
class GaussianNoise(Noise):
    """Gaussian noise, ``y_c ~ N(x_c, std_c^2)``.

    Example:
        >>> GaussianNoise(std=[0.1, float("nan")])  # known for the coordinate only
        GaussianNoise(std=[0.1, nan], tied=())
    """

    @property
    def degrees_of_freedom(self) -> float | None:
        """None."""
        return None


@dataclass(frozen=True)
class StudentTNoise(Noise):
    """Student's t noise, ``y_c = x_c + std_c t`` with ``dof`` degrees of freedom, for outliers.

    An observation k scales off counts ``(dof + 1) / (dof + k^2)`` times as much as a Gaussian
    one. The scale ``std`` is that of the bulk; above 2 degrees of freedom the standard deviation
    is ``std sqrt(dof / (dof - 2))``.

    Args:
        dof: degrees of freedom, at least 1; few of them mean many and far outliers. Found from
            the data when None.

    Raises:
        ValueError: degrees of freedom below 1.

    Source: Lange, Little and Taylor, *Robust statistical modeling using the t distribution*,
    JASA 84 (1989), for the weights and the information.
    """

    dof: float | int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dof is not None and not 1 <= self.dof < math.inf:
            raise ValueError(f"dof: expected a finite number of at least 1, got {self.dof!r}")

    @property
    def degrees_of_freedom(self) -> float | None:
        """``dof``, or NaN."""
        return math.nan if self.dof is None else float(self.dof)


def log_density(
    residual: Float[Tensor, "*shape"], std: Float[Tensor, "*other"], dof: float | None
) -> Tensor:
    """Log density of a residual under noise of scale ``std``."""
    scaled = (residual / std).square()
    if dof is None:
        return -0.5 * (scaled + math.log(2 * math.pi)) - std.log()
    constant = math.lgamma(0.5 * dof + 0.5) - math.lgamma(0.5 * dof) - 0.5 * math.log(math.pi * dof)
    return constant - 0.5 * (dof + 1.0) * torch.log1p(scaled / dof) - std.log()

"""Spectral points of random Fourier features: real ones, and whole numbers for angles.

A periodic coordinate has frequencies ``2 pi k / period`` with whole k, whatever its lengthscale.
Lengthscales enter through the prior variances instead: with ``lambda = 2 pi lengthscale / period``,
the periodic squared exponential is the sum of waves

    exp(-c (1 - cos theta)) = sum_k p(k) cos(k theta),    p(k) = e^-c I_k(c),    c = 1 / lambda^2,

over all whole k, with modified Bessel functions I_k; near zero it is the squared exponential with
the same lengthscale (MacKay, *Introduction to Gaussian processes*, 1998; Solin and Sarkka,
*Explicit link between periodic covariance functions and state space models*, AISTATS 2014).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

FrequencyDraw = Callable[[int, int, int], Tensor]

LARGEST = 16
"""Largest whole number: finer structures than a thirtieth of the period are left out."""
LEAST = 1e-12
"""Least relative prior variance of a feature, so that its inverse stays a number."""


def independent_frequencies(num_features: int, dim: int, seed: int) -> Tensor:
    """Independent standard normal spectral points (M, D) of the squared-exponential kernel."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_features, dim, generator=generator, dtype=torch.float64)


def quasi_random_frequencies(num_features: int, dim: int, seed: int) -> Tensor:
    """Scrambled Sobol points through the normal quantile function, (M, D).

    Their kernel error falls faster than the Monte Carlo rate of independent points.
    """
    sobol = torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed)
    uniform = sobol.draw(num_features, dtype=torch.float64)
    tiny = 0.5 / 2**30
    return math.sqrt(2.0) * torch.erfinv(2.0 * uniform.clamp(tiny, 1.0 - tiny) - 1.0)


def log_wave_weights(ratio: Float[Tensor, " angles"]) -> Float[Tensor, "angles numbers"]:
    """``log p(k)`` for k = 0..LARGEST of the kernels with ``lambda`` = ratio, differentiable.

    By ratios ``I_k / I_{k-1}``, which backward recurrence finds stably (Amos, *Computation of
    modified Bessel functions and their ratios*, Mathematics of Computation 1974).
    """
    c = ratio**-2.0
    last = LARGEST + 24
    quotient = c / (last + 0.5 + torch.sqrt((last + 1.5) ** 2 + c**2))
    logs = []
    for k in range(last, 0, -1):
        quotient = c / (2.0 * k + c * quotient)
        if k <= LARGEST:
            logs.append(quotient.log())
    first = torch.special.i0e(c).log().unsqueeze(-1)
    return torch.cat([first, first + torch.stack(logs[::-1], -1).cumsum(-1)], -1)


@dataclass(frozen=True, eq=False)
class SpectralPoints:
    """Points that one part of a Fourier energy is made of.

    Attributes:
        base: (M, D) draws; columns of angles hold whole numbers, columns of others are to be
            divided by the lengthscales.
        angles: the columns with whole numbers.
        log_chance: (M,) log probabilities with which the whole numbers were drawn, or None where
            there are all of them up to a size, and one of each pair ``k`` and ``-k``.
    """

    base: Float[Tensor, "features dim"]
    angles: tuple[int, ...] = ()
    log_chance: Float[Tensor, " features"] | None = None

    @classmethod
    def of(cls, draws: Float[Tensor, "features dim"], angles: Sequence[int]) -> SpectralPoints:
        """Turn normal draws in the columns of angles into whole numbers.

        The proposal ``1 / (1 + k^2)`` is wide enough for every lengthscale: the weights of the
        points then differ, and those of large numbers are small where the lengthscale is long.
        """
        if not angles:
            return cls(draws)
        numbers = torch.arange(-LARGEST, LARGEST + 1, dtype=draws.dtype, device=draws.device)
        chance = 1.0 / (1.0 + numbers**2)
        chance = chance / chance.sum()
        columns = list(angles)
        uniform = torch.special.ndtr(draws[:, columns])
        drawn = torch.searchsorted(chance.cumsum(0), uniform).clamp(max=len(numbers) - 1)
        base = draws.clone()
        base[:, columns] = numbers[drawn]
        return cls(base, tuple(angles), chance[drawn].log().sum(-1))

    @classmethod
    def lattice(cls, num_features: int, num_angles: int) -> SpectralPoints:
        """The shortest whole vectors, one of each pair ``k`` and ``-k`` and without zero.

        A function of angles alone needs no random points. Of one angle there are at most LARGEST.
        """
        reach = min(LARGEST, max(2, math.ceil((2.0 * num_features) ** (1.0 / num_angles))))
        line = torch.arange(-reach, reach + 1, dtype=torch.float64)
        every = torch.cartesian_prod(*[line] * num_angles).reshape(-1, num_angles)
        # In lexicographic order the second half is minus the first, with zero between them.
        every = every[len(every) // 2 + 1 :]
        order = every.square().sum(-1).argsort(stable=True)
        return cls(every[order[:num_features]], tuple(range(num_angles)))

    def placed(self, offset: int, dim: int) -> SpectralPoints:
        """The same points in the columns from ``offset`` on of ``dim``, zero elsewhere."""
        base = self.base.new_zeros(len(self.base), dim)
        base[:, offset : offset + self.base.shape[1]] = self.base
        return SpectralPoints(base, tuple(offset + i for i in self.angles), self.log_chance)

    def variance(
        self, scale: Float[Tensor, ""], log_weights: Float[Tensor, "angles numbers"] | None
    ) -> Float[Tensor, " features"]:
        """Prior variances of the weights, which add to ``scale^2``; of a lattice, up to constants.

        ``log_weights`` are those of ``log_wave_weights`` for the angles in their order.
        """
        count = len(self.base)
        if log_weights is None or not self.angles:
            return (scale**2 / count).reshape(1).expand(count)
        numbers = self.base[:, list(self.angles)].abs().long().to(log_weights.device)
        log = sum(row[own] for row, own in zip(log_weights, numbers.mT, strict=True))
        if self.log_chance is None:
            share = 2.0 * torch.exp(log)
        else:
            share = torch.softmax(log - self.log_chance.to(log_weights), 0)
        return scale**2 * share.clamp(min=LEAST)

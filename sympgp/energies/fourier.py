"""A Gaussian process prior on H through random Fourier features (Tanaka et al. 2022, eq. 10)."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies.angles import checked_angles
from sympgp.energies.arguments import check_count, is_number
from sympgp.energies.base import Energy, Hyperparameters, LogNormal
from sympgp.energies.fourier_basis import FourierBasis, polynomial_terms
from sympgp.energies.spectral_points import (
    FrequencyDraw,
    SpectralPoints,
    log_wave_weights,
    quasi_random_frequencies,
)
from sympgp.phase_space import CanonicalScaling

MOST_LATTICE_ANGLES = 3
"""Of more angles alone, the shortest whole vectors are too many; some are drawn instead."""


class FourierEnergy(Energy):
    """``H(z) = sum_m a_m cos(omega_m . z) + b_m sin(omega_m . z)`` beside a quadratic polynomial.

    ``omega_m`` are fixed base draws divided by the lengthscales. Of the M spectral points, k lie in
    the half space of the coordinates, k in that of the momenta, and the others anywhere. With
    weights ``N(0, separable_scale^2 / k)`` and ``N(0, signal_scale^2 / (M - 2 k))``, H is a
    Gaussian process ``V(q) + T(p) + U(q, p)`` with the kernel

        separable_scale^2 (k_SE(q, q') + k_SE(p, p')) + signal_scale^2 k_SE(z, z')

    as M grows, where ``k_SE = exp(-|(z - z') / lengthscale|^2 / 2)``: the energies of most systems
    are sums, or nearly so, and the evidence of the data decides between the parts. Linear and
    quadratic features (kinetic energies are quadratic) have weights ``N(0, quadratic_scale^2)``.

    In periodic coordinates H is exactly periodic: their frequencies are ``2 pi k / period`` with
    whole k, and in the kernel their factors are ``exp(-(1 - cos theta) / lambda^2)``, where
    ``theta = 2 pi (q - q') / period`` and ``lambda = 2 pi lengthscale / period``; the polynomial
    leaves them out. Constants, which no motion shows, are left out of V of angles alone.

    Args:
        num_dof: degrees of freedom n.
        num_features: spectral points M; the weights number 2 M. There are at most 16 of a function
            of one angle alone, the waves with 1 to 16 periods.
        quadratic: add the linear and quadratic features.
        separable: share 2 k / M of the spectral points that make up V and T. With 1, there is
            nothing else and no product ``q_i p_j``: H is separable.
        on: "q" or "p" for a function of coordinates or momenta alone, with all its spectral
            points there and scales ``signal_scale`` and ``quadratic_scale``; ``separable`` is not
            used then, and lengthscales are those of the n entries alone.
        periodic: indices of the coordinates that are angles, from 0 to n - 1.
        period: their period in user units, one number or one a periodic coordinate.
        frequencies: how the base draws are made, ``(M, D, seed) -> (M, D)``.
        seed: seed of the base draws.

    Raises:
        ValueError: a count below one; a share outside [0, 1]; an angle that is a momentum or no
            entry of the state, or named twice; a period that is not positive.
        RuntimeError: hyperpriors or basis asked of a periodic energy before ``in_units``.

    Example:
        >>> energy = FourierEnergy(num_dof=1, num_features=8)
        >>> spread = torch.ones(2, dtype=torch.float64)
        >>> priors = energy.hyperpriors(spread)
        >>> basis = energy.basis({name: prior.median for name, prior in priors.items()})
        >>> basis.features(torch.zeros(3, 2, dtype=torch.float64)).shape
        torch.Size([3, 21])

    Sources: Tanaka et al. (2022), eq. 10, for the Fourier features; Duvenaud, Nickisch and
    Rasmussen, *Additive Gaussian processes*, NeurIPS 2011, for sums over groups of inputs.
    """

    def __init__(
        self,
        num_dof: int,
        num_features: int = 100,
        *,
        quadratic: bool = True,
        separable: float | int = 0.5,
        on: str = "state",
        periodic: Sequence[int] = (),
        period: float | int | Sequence[float | int] = 2.0 * math.pi,
        frequencies: FrequencyDraw = quasi_random_frequencies,
        seed: int = 0,
    ) -> None:
        for name, count in (("num_dof", num_dof), ("num_features", num_features)):
            check_count(name, count)
        if not (is_number(separable) and 0 <= separable <= 1):
            raise ValueError(f"separable: expected a share in [0, 1], got {separable!r}")
        if on not in ("state", "q", "p"):
            raise ValueError(f'on: expected "state", "q" or "p", got {on!r}')
        self.num_dof = num_dof
        self.num_features = num_features
        self.quadratic = quadratic
        self.separable = separable
        self.on = on
        self.periodic, self.period = checked_angles(periodic, period, num_dof, on)
        self.frequencies = frequencies
        self.seed = seed
        self.num_half = int(0.5 * separable * num_features) if on == "state" else 0
        self._angular: Tensor | None = None
        self._parts = self._draw()
        self.base_frequencies = torch.cat([points.base for _, points in self._parts])

    def _draw(self) -> list[tuple[str, SpectralPoints]]:
        """The spectral points of each part, and the name of its scale."""
        n, dim, half = self.num_dof, 2 * self.num_dof, self.num_half
        if self.on != "state":
            draws = self.frequencies(self.num_features, n, self.seed)
            offset = 0 if self.on == "q" else n
            return [("signal_scale", self._block(draws).placed(offset, dim))]
        joint = 0 if self.separable == 1 else self.num_features - 2 * half
        parts = []
        if joint:
            draws = self.frequencies(joint, dim, self.seed)
            parts.append(("signal_scale", SpectralPoints.of(draws, self.periodic)))
        # Of an odd number without a joint part, V has the one that is left over.
        most = half if joint else self.num_features - half
        if most:
            draws = self.frequencies(most, dim, self.seed + 1)
            parts.append(("separable_scale", self._block(draws[:, :n]).placed(0, dim)))
        if half:
            momenta = SpectralPoints(draws[:half, n:])
            parts.append(("separable_scale", momenta.placed(n, dim)))
        return parts

    def _block(self, draws: Tensor) -> SpectralPoints:
        """Spectral points of a function of n entries, coordinates where there are angles."""
        if len(self.periodic) == self.num_dof <= MOST_LATTICE_ANGLES:
            return SpectralPoints.lattice(len(draws), self.num_dof)
        return SpectralPoints.of(draws, self.periodic)

    @property
    def _entries(self) -> slice:
        """The entries of the state that H depends on."""
        n = self.num_dof
        return {"state": slice(0, 2 * n), "q": slice(0, n), "p": slice(n, 2 * n)}[self.on]

    @property
    def _active(self) -> tuple[int, ...] | None:
        """The entries that the polynomial part is made of; None where it is all."""
        if self.on == "state" and not self.periodic:
            return None
        entries = range(2 * self.num_dof)[self._entries]
        return tuple(i for i in entries if i not in self.periodic)

    @property
    def is_separable(self) -> bool:
        """Whether ``H = T(p) + V(q)``."""
        return self.on != "state" or self.separable == 1

    def in_units(self, scaling: CanonicalScaling) -> FourierEnergy:
        """With the periods in these units; itself where there are no angles."""
        if not self.periodic:
            return self
        other = copy.copy(self)
        scale = scaling.scale[list(self.periodic)]
        period = torch.tensor(self.period, dtype=scale.dtype, device=scale.device)
        other._angular = 2.0 * math.pi * scale / period
        return other

    def _units(self) -> Tensor:
        """Frequencies of the angles per whole number, in scaled units."""
        if self._angular is None:
            raise RuntimeError("a periodic energy has to be put into scaled units with in_units")
        return self._angular

    @property
    def angles(self) -> dict[int, float]:
        """Periodic coordinates and their periods, user units."""
        return dict(zip(self.periodic, self.period, strict=True))

    def hyperpriors(self, spread: Float[Tensor, " dim"]) -> dict[str, LogNormal]:
        """Lengthscales near two standard deviations of each channel; scales near one.

        An angle's lengthscale is a radian of its period where the data spread further.
        """
        one = torch.ones((), dtype=spread.dtype, device=spread.device)
        length = 2.0 * spread
        if self.periodic:
            columns = list(self.periodic)
            length[columns] = torch.minimum(length[columns], 1.0 / self._units().to(spread))
        priors = {"lengthscale": LogNormal(length[self._entries], 0.5)}
        for name in dict.fromkeys(name for name, _ in self._parts):
            priors[name] = LogNormal(2.0 * one, 1.0)
        if self.quadratic and self._active != ():
            priors["quadratic_scale"] = LogNormal(0.5 * one, 1.0)
        return priors

    def basis(self, hyperparameters: Hyperparameters) -> FourierBasis:
        """Spectral points and prior variances for these hyperparameters."""
        own = hyperparameters["lengthscale"]
        dim, log_weights = 2 * self.num_dof, None
        lengthscale = own
        if self.on != "state":
            lengthscale = torch.ones(dim).to(own)
            lengthscale[self._entries] = own
        frequencies = self.base_frequencies.to(own) / lengthscale
        if self.periodic:
            columns, unit = list(self.periodic), self._units().to(own)
            frequencies[:, columns] = self.base_frequencies.to(own)[:, columns] * unit
            log_weights = log_wave_weights(lengthscale[columns] * unit)
        every = [part.variance(hyperparameters[name], log_weights) for name, part in self._parts]
        variances = [torch.cat(every)] * 2
        active = self._active
        if self.quadratic and active != ():
            products = polynomial_terms(dim, active, self.is_separable).shape[1]
            linear = dim if active is None else len(active)
            quadratic = (hyperparameters["quadratic_scale"] ** 2).reshape(1)
            variances.append(quadratic.expand(linear + products))
        periods = tuple(self.angles.items())
        return FourierBasis(frequencies, torch.cat(variances), active, self.is_separable, periods)

    def redraw(self, seed: int) -> FourierEnergy:
        """The same prior with base frequencies drawn from another seed."""
        other = FourierEnergy(
            self.num_dof,
            self.num_features,
            quadratic=self.quadratic,
            separable=self.separable,
            on=self.on,
            periodic=self.periodic,
            period=self.period,
            frequencies=self.frequencies,
            seed=seed,
        )
        other._angular = self._angular
        return other

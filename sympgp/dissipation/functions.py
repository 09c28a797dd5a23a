"""Functions of the state with normal weights, from which matrices that vary are made."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.dissipation.checks import check_choice, check_integer, check_positive
from sympgp.phase_space import CanonicalScaling

# Prior standard deviation of a network's first weights about their anchors, by the spread of the
# anchors: enough to bend its units, and too little to make one into another, which would leave
# many parameters that do the same and no normal distribution over them.
ABOUT_ANCHORS = 0.15


class StateFunctions(ABC):
    """E functions ``e(z; rho)`` of scaled states, (..., E), with K parameters.

    Attributes:
        offset: (E,) what the functions are in the prior's mean.
    """

    offset: Float[Tensor, " entries"]

    @abstractmethod
    def values(self, z: Float[Tensor, "*batch dim"], rho: Float[Tensor, "*draws params"]) -> Tensor:
        """``e``, (..., E)."""

    @abstractmethod
    def state_jacobian(
        self, z: Float[Tensor, "*batch dim"], rho: Float[Tensor, "*draws params"]
    ) -> Tensor:
        """``de / dz``, (..., E, D)."""

    @abstractmethod
    def pull_back(
        self,
        left: Float[Tensor, "*batch out entries"],
        z: Float[Tensor, "*batch dim"],
        rho: Float[Tensor, "*draws params"],
    ) -> Tensor:
        """``left de / drho``, (..., out, K)."""


@dataclass(frozen=True, eq=False)
class FourierFunctions(StateFunctions):
    """``e_k = offset_k + W_k . phi(z)``, phi a one, then cosines and sines over the root of M.

    Attributes:
        frequencies: (M, D), by scaled units.
        offset: (E,).
    """

    frequencies: Float[Tensor, "features dim"]
    offset: Float[Tensor, " entries"]

    def values(self, z: Float[Tensor, "*batch dim"], rho: Float[Tensor, "*draws params"]) -> Tensor:
        """``e``, linear in the parameters."""
        return self.offset + self._features(z) @ self._weights(rho)

    def state_jacobian(
        self, z: Float[Tensor, "*batch dim"], rho: Float[Tensor, "*draws params"]
    ) -> Tensor:
        """``W_k . dphi / dz``."""
        num = len(self.frequencies)
        angle = z @ self.frequencies.mT
        _, cosine, sine = self._weights(rho).split([1, num, num], -2)
        if rho.dim() > 1:
            cosine, sine = cosine.unsqueeze(-3), sine.unsqueeze(-3)
        turned = angle.cos().unsqueeze(-1) * sine - angle.sin().unsqueeze(-1) * cosine
        return turned.mT @ self.frequencies / math.sqrt(num)

    def pull_back(
        self,
        left: Float[Tensor, "*batch out entries"],
        z: Float[Tensor, "*batch dim"],
        rho: Float[Tensor, "*draws params"],
    ) -> Tensor:
        """Products of ``left`` and the features."""
        return (self._features(z)[..., None, :, None] * left.unsqueeze(-2)).flatten(-2)

    def _features(self, z: Tensor) -> Tensor:
        angle = z @ self.frequencies.mT
        waves = torch.cat([angle.cos(), angle.sin()], -1) / math.sqrt(len(self.frequencies))
        return torch.cat([torch.ones_like(waves[..., :1]), waves], -1)

    def _weights(self, rho: Tensor) -> Tensor:
        return rho.unflatten(-1, (-1, len(self.offset)))


@dataclass(frozen=True, eq=False)
class NetworkFunctions(StateFunctions):
    """``e = offset + W_2 [tanh((anchors + W_1) [z / lengthscale, 1]), 1]``, W_1 and W_2 unknown.

    Attributes:
        lengthscale: (D,), in scaled units.
        anchors: (M, D + 1) first weights of the M hidden units in the prior's mean.
        offset: (E,).
    """

    lengthscale: Float[Tensor, " dim"]
    anchors: Float[Tensor, "hidden inputs"]
    offset: Float[Tensor, " entries"]

    def values(self, z: Float[Tensor, "*batch dim"], rho: Float[Tensor, "*draws params"]) -> Tensor:
        """``e``."""
        first, second = self._weights(rho)
        units = torch.tanh(self._inputs(z) @ first.mT)
        return self.offset + _with_one(units) @ second.mT

    def state_jacobian(
        self, z: Float[Tensor, "*batch dim"], rho: Float[Tensor, "*draws params"]
    ) -> Tensor:
        """Through the hidden units."""
        first, second = self._weights(rho)
        falling = 1.0 - torch.tanh(self._inputs(z) @ first.mT) ** 2
        if rho.dim() > 1:
            first, second = first.unsqueeze(-3), second.unsqueeze(-3)
        through = second[..., :-1] * falling.unsqueeze(-2)
        return through @ first[..., :-1] / self.lengthscale

    def pull_back(
        self,
        left: Float[Tensor, "*batch out entries"],
        z: Float[Tensor, "*batch dim"],
        rho: Float[Tensor, "*draws params"],
    ) -> Tensor:
        """To the first layer's weights, then the second's."""
        first, second = self._weights(rho)
        inputs = self._inputs(z)
        units = torch.tanh(inputs @ first.mT)
        if rho.dim() > 1:
            second = second.unsqueeze(-3)
        hidden = (left @ second[..., :-1]) * (1.0 - units**2).unsqueeze(-2)
        to_first = hidden.unsqueeze(-1) * inputs[..., None, None, :]
        to_second = left.unsqueeze(-1) * _with_one(units)[..., None, None, :]
        return torch.cat([to_first.flatten(-2), to_second.flatten(-2)], -1)

    def _inputs(self, z: Tensor) -> Tensor:
        return _with_one(z / self.lengthscale)

    def _weights(self, rho: Tensor) -> tuple[Tensor, Tensor]:
        num = self.anchors.numel()
        first = self.anchors + rho[..., :num].unflatten(-1, self.anchors.shape)
        return first, rho[..., num:].unflatten(-1, (len(self.offset), len(self.anchors) + 1))


def _with_one(values: Tensor) -> Tensor:
    return torch.cat([values, torch.ones_like(values[..., :1])], -1)


@dataclass(frozen=True)
class FunctionChoice:
    """Which functions of the state to take: checked arguments of the families that use them.

    Attributes:
        features: "fourier" or "network".
        num_features: frequencies, or hidden units.
        lengthscale: by the standard deviation of the data in each channel; of more degrees of
            freedom than one it grows as the distances between states do, with the root.
        periodic: coordinates that are angles.
        period: theirs, in user units.
        seed: of the frequencies, or of the network's first weights.
    """

    features: str
    num_features: int
    lengthscale: float
    periodic: tuple[int, ...]
    period: float
    seed: int

    def __post_init__(self) -> None:
        check_choice("features", self.features, ("fourier", "network"))
        check_integer("num_features", self.num_features, 1)
        check_integer("seed", self.seed, 0)
        check_positive("lengthscale", self.lengthscale)
        check_positive("period", self.period)
        for coordinate in self.periodic:
            check_integer("periodic", coordinate, 0)
        if self.periodic and self.features != "fourier":
            raise ValueError("periodic: a network has no angles; expected features='fourier'")

    def build(
        self,
        scaling: CanonicalScaling,
        offset: Float[Tensor, " entries"],
        stddev: Float[Tensor, " entries"],
    ) -> tuple[StateFunctions, Tensor]:
        """The functions, and prior standard deviations of their parameters.

        Args:
            scaling: of the states.
            offset: prior means of the functions.
            stddev: prior standard deviations: half of the variance is the same at all states.
        """
        half, num = stddev / math.sqrt(2.0), self.num_features
        lengthscale = self.lengthscale * math.sqrt(scaling.num_dof) * scaling.spread
        if self.features == "fourier":
            frequencies = self._frequencies(scaling, lengthscale)
            return FourierFunctions(frequencies, offset), half.repeat(2 * num + 1)
        width = torch.ones_like(scaling.scale[:1].expand(len(lengthscale) + 1))
        width[-1] = 2.0  # units bend anywhere among the data
        anchors = width * self._normal(scaling, len(width))
        second = half.unsqueeze(-1).repeat(1, num + 1)
        second[:, :-1] /= math.sqrt(num)
        prior = torch.cat([(ABOUT_ANCHORS * width).repeat(num), second.flatten()])
        return NetworkFunctions(lengthscale, anchors, offset), prior

    def _normal(self, scaling: CanonicalScaling, width: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        draws = torch.randn(self.num_features, width, generator=generator, dtype=torch.float64)
        return draws.to(scaling.scale)

    def _frequencies(self, scaling: CanonicalScaling, lengthscale: Tensor) -> Tensor:
        num_dof = scaling.num_dof
        if any(coordinate >= num_dof for coordinate in self.periodic):
            raise ValueError(
                f"periodic: expected coordinates below {num_dof}, got {self.periodic!r}"
            )
        draws = self._normal(scaling, 2 * num_dof)
        frequencies = draws / lengthscale
        for coordinate in self.periodic:
            # whole numbers of waves a turn, about one
            by_user = 2.0 * math.pi / self.period * draws[:, coordinate].round()
            frequencies[:, coordinate] = by_user * scaling.scale[coordinate]
        return frequencies

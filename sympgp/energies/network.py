"""Hamiltonian neural networks (Greydanus, Dzamba and Yosinski, NeurIPS 2019) with a prior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies.arguments import check_count, check_one_of, check_widths
from sympgp.energies.base import Hyperparameters, LogNormal
from sympgp.energies.layered import LayeredEnergy
from sympgp.energies.network_basis import NetworkBasis
from sympgp.energies.network_passes import ACTIVATIONS

WEIGHT_SCALE, SIGNAL_SCALE, LOG_STDDEV = 1.0, 3.0, 0.7
"""Medians of the hyperpriors, and how sure they are. In scaled units states and slopes are of
order one: hidden units have to bend within the data, and H differs by a few units across them."""


class NetworkEnergy(LayeredEnergy):
    """``H(z; w)`` a multilayer perceptron with weights ``w``, and smooth in the state.

    Weights into a unit are ``N(0, weight_scale^2 / fan_in)``, biases ``N(0, 1)`` times the same
    scale, and those of the output ``N(0, signal_scale^2 / fan_in)``: as layers widen, H becomes a
    Gaussian process of standard deviation near ``signal_scale`` (Neal 1996).

    In periodic coordinates H is exactly periodic, for these enter as cosine and sine.

    Args:
        num_dof: degrees of freedom n.
        hidden: widths of the hidden layers.
        activation: "tanh", "softplus", "silu" or "sin"; with kinks, as of a rectifier, the field
            would jump.
        periodic: indices of the coordinates that are angles, from 0 to n - 1.
        period: their period in user units, one number or one a periodic coordinate.

    Raises:
        ValueError: a count below one; no layers; an activation that is none of these; angles or
            periods as :class:`~sympgp.energies.FourierEnergy` says.
        RuntimeError: a basis asked of a periodic energy before ``in_units``.

    Example:
        >>> energy = NetworkEnergy(num_dof=1, hidden=(16, 16))
        >>> priors = energy.hyperpriors(torch.ones(2, dtype=torch.float64))
        >>> basis = energy.basis({name: prior.median for name, prior in priors.items()})
        >>> basis.num_weights
        336
    """

    def __init__(
        self,
        num_dof: int,
        hidden: Sequence[int] = (64, 64),
        activation: str = "silu",
        *,
        periodic: Sequence[int] = (),
        period: float | int | Sequence[float | int] = 2.0 * math.pi,
    ) -> None:
        check_count("num_dof", num_dof)
        check_widths("hidden", hidden)
        if not len(hidden):
            raise ValueError("hidden: expected the width of at least one layer, got none")
        check_one_of("activation", activation, ACTIVATIONS)
        super().__init__(num_dof, periodic, period)
        self.hidden, self.activation = tuple(hidden), activation

    def hyperpriors(self, spread: Float[Tensor, " dim"]) -> dict[str, LogNormal]:
        """Scales of the hidden layers' weights and of H."""
        return {
            "weight_scale": LogNormal(spread.new_tensor(WEIGHT_SCALE), LOG_STDDEV),
            "signal_scale": LogNormal(spread.new_tensor(SIGNAL_SCALE), LOG_STDDEV),
        }

    def basis(self, hyperparameters: Hyperparameters) -> NetworkBasis:
        """The network with the prior variances of these scales."""
        hidden = hyperparameters["weight_scale"] ** 2
        output = hyperparameters["signal_scale"] ** 2
        dim, variances = 2 * self.num_dof, []
        widths = (dim + len(self.periodic), *self.hidden)
        for wide, out in pairwise(widths):
            variances += [(hidden / wide).expand(out * wide), hidden.expand(out)]
        variances.append((output / widths[-1]).expand(widths[-1]))
        turns = self.periodic, self.waves(hidden), tuple(self.angles.items())
        return NetworkBasis(dim, self.hidden, self.activation, torch.cat(variances), *turns)

    def redraw(self, seed: int) -> NetworkEnergy:
        """The same: nothing is drawn before training."""
        return self

"""Shortcuts for models whose energies are networks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sympgp.dissipation import Conservative, Dissipation
from sympgp.energies import NetworkEnergy
from sympgp.inputs import Inputs
from sympgp.models.hamiltonian import HamiltonianModel
from sympgp.noise import GaussianNoise, Noise


def HNN(
    num_dof: int = 1,
    hidden: Sequence[int] = (64, 64),
    *,
    activation: str = "silu",
    dissipation: Dissipation | None = None,
    periodic: Sequence[int] = (),
    period: float | Sequence[float] = 2.0 * math.pi,
    inputs: Inputs | None = None,
    noise: Noise | None = None,
) -> HamiltonianModel:
    """A Hamiltonian neural network (Greydanus, Dzamba and Yosinski, NeurIPS 2019) with a prior.

    H is a multilayer perceptron, ``dx/dt = J grad H - d(x, grad H) + G u``; the network engines
    give a posterior over its weights, and with them over H, the field and rollouts.

    Args:
        num_dof: degrees of freedom n; states have 2n entries.
        hidden: widths of the hidden layers.
        activation: "tanh", "softplus", "silu" or "sin".
        dissipation: ``Conservative()`` when not given; ``Friction()`` for damped systems.
        periodic: coordinates (0 to n - 1) that are angles: H is exactly periodic in them.
        period: of the angles, in the units of the data; one for all or one for each.
        inputs: what external inputs do, ``KnownInputs(...)`` or ``LearnedInputs(...)``.
        noise: ``GaussianNoise()`` when not given.

    Raises:
        ValueError: as :class:`~sympgp.energies.NetworkEnergy` says.

    Example:
        >>> HNN(num_dof=2, hidden=(32, 32)).num_dof
        2
    """
    return HamiltonianModel(
        NetworkEnergy(num_dof, hidden, activation, periodic=periodic, period=period),
        Conservative() if dissipation is None else dissipation,
        GaussianNoise() if noise is None else noise,
        inputs,
    )

"""Shortcuts for the relatives of Hamiltonian neural networks that they are compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sympgp.dissipation import Conservative, Dissipation
from sympgp.energies import (
    DissipativeNetworkEnergy,
    Energy,
    FreeEnergy,
    KANEnergy,
    LagrangianEnergy,
    NetworkEnergy,
)
from sympgp.energies.arguments import check_count
from sympgp.energies.lagrangian import FLOOR
from sympgp.inputs import Inputs
from sympgp.models.hamiltonian import HamiltonianModel
from sympgp.noise import GaussianNoise, Noise

VELOCITY_LENGTHSCALE = 3.0
"""Of Lagrangian perceptrons. At one, a mass matrix that varies with the state is a shortcut to
large accelerations, which early training takes and does not leave again."""


def NeuralODE(
    num_dof: int = 1,
    hidden: Sequence[int] = (64, 64),
    *,
    activation: str = "tanh",
    periodic: Sequence[int] = (),
    period: float | Sequence[float] = 2.0 * math.pi,
    inputs: Inputs | None = None,
    noise: Noise | None = None,
) -> HamiltonianModel:
    """A neural ordinary differential equation (Chen et al., NeurIPS 2018) with a prior.

    ``dx/dt`` is a multilayer perceptron of the state, see :class:`~sympgp.energies.FreeEnergy`:
    nothing is known to be conserved or dissipated, and there is no H to ask for.

    Args:
        num_dof: degrees of freedom n; states have 2n entries.
        hidden: widths of the hidden layers.
        activation: "tanh", "softplus", "silu" or "sin".
        periodic: coordinates (0 to n - 1) that are angles: the field is exactly periodic in them.
        period: of the angles, in the units of the data; one for all or one for each.
        inputs: what external inputs do, ``KnownInputs(...)`` or ``LearnedInputs(...)``.
        noise: ``GaussianNoise()`` when not given.

    Raises:
        ValueError: as :class:`~sympgp.energies.NetworkEnergy` says.

    Example:
        >>> NeuralODE(num_dof=2, hidden=(32, 32)).num_dof
        2
    """
    energy = FreeEnergy(num_dof, hidden, activation, periodic=periodic, period=period)
    return HamiltonianModel(
        energy, noise=GaussianNoise() if noise is None else noise, inputs=inputs
    )


def DHNN(
    num_dof: int = 1,
    hidden: Sequence[int] = (64, 64),
    *,
    activation: str = "tanh",
    periodic: Sequence[int] = (),
    period: float | Sequence[float] = 2.0 * math.pi,
    inputs: Inputs | None = None,
    noise: Noise | None = None,
) -> HamiltonianModel:
    """The dissipative Hamiltonian neural network as published (Sosanya and Greydanus 2022).

    ``dx/dt = J grad H + grad D`` with two scalar networks of the same shape. It may gain energy as
    well as lose it, see :class:`~sympgp.energies.DissipativeNetworkEnergy`; ``HNN`` with a
    dissipation of the package can only lose it.

    Args:
        num_dof: degrees of freedom n; states have 2n entries.
        hidden: widths of the hidden layers of each network.
        activation: "tanh", "softplus", "silu" or "sin".
        periodic: coordinates (0 to n - 1) that are angles: H and D are exactly periodic in them.
        period: of the angles, in the units of the data; one for all or one for each.
        inputs: what external inputs do, ``KnownInputs(...)`` or ``LearnedInputs(...)``.
        noise: ``GaussianNoise()`` when not given.

    Raises:
        ValueError: as :class:`~sympgp.energies.NetworkEnergy` says.

    Example:
        >>> DHNN(hidden=(32, 32)).energy.num_dof
        1
    """
    energy, potential = (
        NetworkEnergy(num_dof, hidden, activation, periodic=periodic, period=period)
        for _ in range(2)
    )
    return HamiltonianModel(
        DissipativeNetworkEnergy(energy, potential),
        noise=GaussianNoise() if noise is None else noise,
        inputs=inputs,
    )


def LNN(
    num_dof: int = 1,
    hidden: Sequence[int] | None = None,
    *,
    network: str = "mlp",
    dissipation: Dissipation | None = None,
    activation: str | None = None,
    periodic: Sequence[int] = (),
    period: float | Sequence[float] = 2.0 * math.pi,
    grid: int | None = None,
    order: int | None = None,
    floor: float = FLOOR,
    velocity_lengthscale: float | None = None,
    inputs: Inputs | None = None,
    noise: Noise | None = None,
) -> HamiltonianModel:
    """A Lagrangian neural network (Cranmer et al. 2020) with a prior.

    States are ``(q, v)`` with ``v = dq/dt``, so that no momenta need be known: pairs are
    ``StateDerivatives(states=(q, v), derivatives=(v, dv/dt))``. See
    :class:`~sympgp.energies.LagrangianEnergy` for what energies and momenta then are.

    Args:
        num_dof: degrees of freedom n; states have 2n entries.
        hidden: widths of the hidden layers; (64, 64) of a perceptron and (10,) of a
            Kolmogorov-Arnold network when None.
        network: "mlp", a multilayer perceptron, or "kan", a Kolmogorov-Arnold network.
        dissipation: ``Conservative()``, as published, when not given; ``Friction()`` takes
            ``eta dq/dt`` from dv/dt.
        activation: of a perceptron: "tanh", "softplus" (when None), "silu" or "sin".
        periodic: coordinates (0 to n - 1) that are angles: L is exactly periodic in them.
        period: of the angles, in the units of the data; one for all or one for each.
        grid: intervals of the splines of a Kolmogorov-Arnold network; 10 when None.
        order: of these splines, at least 3, which is taken when None: accelerations come from
            second derivatives.
        floor: where the learned mass matrix is nearly singular, see ``LagrangianEnergy``.
        velocity_lengthscale: of a perceptron, see there; 3 when None.
        inputs: what external inputs do, ``KnownInputs(...)`` or ``LearnedInputs(...)``.
        noise: ``GaussianNoise()`` when not given.

    Raises:
        ValueError: a network that is none of these; splines of too low an order; what only the
            other network has; what the energies say.

    Example:
        >>> LNN(num_dof=2, hidden=(32, 32)).num_dof
        2
    """
    function: Energy
    lengthscale = 1.0
    angles: dict[str, Any] = {"periodic": periodic, "period": period}
    if network == "mlp":
        _check_unused(network, grid=grid, order=order)
        widths = (64, 64) if hidden is None else hidden
        kind = "softplus" if activation is None else activation
        function = NetworkEnergy(num_dof, widths, kind, **angles)
        given = velocity_lengthscale
        lengthscale = VELOCITY_LENGTHSCALE if given is None else given
    elif network == "kan":
        _check_unused(network, activation=activation, velocity_lengthscale=velocity_lengthscale)
        widths = (10,) if hidden is None else hidden
        grid, order = 10 if grid is None else grid, 3 if order is None else order
        check_count("order", order, least=3)
        function = KANEnergy(num_dof, widths, grid, order, **angles)
    else:
        raise ValueError(f'network: expected "mlp" or "kan", got {network!r}')
    return HamiltonianModel(
        LagrangianEnergy(function, floor=floor, velocity_lengthscale=lengthscale),
        Conservative() if dissipation is None else dissipation,
        GaussianNoise() if noise is None else noise,
        inputs,
    )


def _check_unused(network: str, **given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f'{name}: expected None beside network="{network}", which has none, got {value!r}'
            )

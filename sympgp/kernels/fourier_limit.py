"""The covariance that random Fourier features tend to."""

from __future__ import annotations

import math

import torch

from sympgp.energies import Energy, FourierEnergy, Hyperparameters
from sympgp.kernels.energy import EnergyKernel, SumKernel
from sympgp.kernels.quadratic import Quadratic
from sympgp.kernels.stationary import Stationary
from sympgp.phase_space import join, split


def fourier_limit(energy: Energy, hyperparameters: Hyperparameters) -> EnergyKernel:
    """Covariance of ``H = V(q) + T(p) + U(q, p) + quadratic`` as the features' number grows.

        separable_scale^2 (k(q, q') + k(p, p')) + signal_scale^2 k(x, x') + quadratic part

    with the squared exponential k, the lengthscales and scales of :class:`FourierEnergy`; parts
    that the energy does not have are left out.

    Raises:
        ValueError: another kind of energy.
    """
    if not isinstance(energy, FourierEnergy):
        raise ValueError(
            f"energy: a kernel is known for FourierEnergy only, got {type(energy).__name__}"
        )
    if energy.periodic or energy.on != "state" or energy.separable == 1.0:
        raise ValueError(
            "energy: a kernel is known for FourierEnergy of the whole state without angles only; "
            "got one that is periodic, or a function of q or p alone"
        )
    inverse = (1.0 / hyperparameters["lengthscale"]).unsqueeze(0)
    signal = hyperparameters["signal_scale"] ** 2
    parts: list[EnergyKernel] = [Stationary(inverse, signal, math.inf)]
    if energy.num_half:
        q, p = split(inverse)
        own = hyperparameters["separable_scale"] ** 2
        none = torch.zeros_like(q)
        first, second = tuple(range(energy.num_dof)), tuple(range(energy.num_dof, q.numel() * 2))
        parts.append(Stationary(join(q, none), own, math.inf, first))
        parts.append(Stationary(join(none, p), own, math.inf, second))
    if energy.quadratic:
        parts.append(Quadratic(hyperparameters["quadratic_scale"] ** 2))
    return SumKernel(tuple(parts))

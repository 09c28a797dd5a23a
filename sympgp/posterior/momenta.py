"""Momenta of learned Lagrangians."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sympgp.energies import LagrangianBasis, TangentBasis
from sympgp.phase_space import split
from sympgp.posterior.draws import Marginal, mixture_moments, scaled_states
from sympgp.posterior.sampled_component import SampledComponent

if TYPE_CHECKING:
    from sympgp.posterior.field import FieldPosterior
else:
    FieldPosterior = Any

NUM_DRAWS = 200
"""Draws of a component that is no bank of draws itself."""


def momenta(posterior: FieldPosterior, x: Any) -> Marginal:
    """Mean and deviation of ``dL/dv`` over draws, see ``FieldPosterior.momenta``.

    Raises:
        TypeError: the model is no Lagrangian one.
        ValueError: states of another width.
    """
    scaling = posterior.scaling
    z = scaled_states(scaling, x)
    # L = energy_scale L~ and v = scale_v z_v, where energy_scale = scale_q scale_v / time_scale
    unit = split(scaling.scale)[0] / scaling.time_scale
    means, variances = [], []
    for component in posterior.components:
        basis = component.field.basis
        inner = basis.basis if isinstance(basis, TangentBasis) else basis
        if not isinstance(basis, LagrangianBasis | TangentBasis) or not isinstance(
            inner, LagrangianBasis
        ):
            raise TypeError(
                "momenta: expected the posterior of a Lagrangian model such as LNN; of others the "
                "momenta are part of the state"
            )
        num = NUM_DRAWS
        if isinstance(component, SampledComponent):
            num = len(component.draws.theta)
        theta = component.sample(num, torch.Generator().manual_seed(0)).theta
        w, _, _ = component.field.parts(theta)
        drawn = basis.momenta(z.expand(num, *z.shape), w) * unit
        means.append(drawn.mean(0))
        variances.append(drawn.var(0, correction=min(1, num - 1)))
    return mixture_moments(means, variances)

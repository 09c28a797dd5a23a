"""What posteriors of special forms tell beside the field: momenta, functions with names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies import KANBasis, KANFunction, LagrangianBasis, SumBasis, Symbol, TangentBasis
from sympgp.energies.arguments import is_number
from sympgp.energies.base import Basis
from sympgp.phase_space import split
from sympgp.posterior.draws import Marginal, mixture_moments, scaled_states
from sympgp.posterior.parameters import region
from sympgp.posterior.sampled_component import SampledComponent

NUM_DRAWS = 200
"""Draws of a component that is no bank of draws itself."""


class Splines(NamedTuple):
    """A Kolmogorov-Arnold network with the states and weights to look at it.

    Attributes:
        function: the network.
        states: (B, D) scaled, where the data are.
        weights: (S, P) draws, a typical one first.
    """

    function: KANFunction
    states: Float[Tensor, "states dim"]
    weights: Float[Tensor, "draws weights"]


class SpecialForms:
    """What only some models have, see the methods.

    Attributes:
        names: of the coordinates.
    """

    names: Any

    def momenta(self, x: Any) -> Marginal:
        """Posterior of the momenta ``dL/dv`` of a Lagrangian at states ``(q, v)``.

        They are those of the learned Lagrangian, which the motion fixes up to a factor and the
        derivative of a function of q, see :class:`~sympgp.energies.LagrangianEnergy`.

        Args:
            x: (B, 2n) states.

        Returns:
            ``.mean`` and ``.stddev`` of shape (B, n), user units, over draws of the posterior.

        Raises:
            TypeError: the model is no Lagrangian one.
            ValueError: states of another width.
        """
        return momenta(self, x)

    def splines(self) -> Splines:
        """The Kolmogorov-Arnold network of the energy, for ``plots.kan`` and its own methods.

        Raises:
            TypeError: the energy has none.
        """
        return splines(self)

    def symbols(
        self,
        names: Sequence[str] | None = None,
        enough: float = 0.999,
        threshold: float | int = 0.0,
    ) -> list[Symbol]:
        """Simple functions that the edges of a Kolmogorov-Arnold energy look like, scaled units.

        Of a typical draw, where the data are; see :meth:`~sympgp.energies.KANFunction.symbols`.

        Args:
            names: functions to try, simplest first; all when None.
            enough: R^2 at which the simplest function is taken.
            threshold: leave out edges of less importance than this, such as those that a
                ``sparsity`` has made nearly constant; nodes are then numbered without those that
                nothing is left of, see :meth:`~sympgp.energies.KANFunction.pruned`.

        Raises:
            TypeError: the energy has no such network.
            ValueError: a name of no function; a threshold that is no finite number of at least 0
                or leaves no edge.
        """
        if not (is_number(threshold) and threshold >= 0):
            raise ValueError(
                f"threshold: expected a finite number of at least 0, got {threshold!r}"
            )
        function, states, weights = splines(self)
        w = weights[0]
        if threshold:
            function, w = function.pruned(states, w, threshold)
        given = {} if names is None else {"names": tuple(names)}
        return function.symbols(states, w, enough=enough, **given)


def momenta(posterior: Any, x: Any) -> Marginal:
    """Mean and deviation of ``dL/dv`` over draws, see ``SpecialForms.momenta``.

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
    return mixture_moments(means, variances).to(posterior.dtype)


def splines(posterior: Any) -> Splines:
    """See ``SpecialForms.splines``."""
    component = posterior.components[0]
    place = _place(component.field.basis)
    if place is None:
        raise TypeError("splines: expected the posterior of a KANEnergy, alone or in a sum")
    basis, start = place
    theta = component.sample(NUM_DRAWS, torch.Generator().manual_seed(0)).theta
    rows = torch.cat([component.typical().unsqueeze(0), theta])
    weights = component.field.parts(rows)[0]
    if isinstance(component.field.basis, TangentBasis):
        weights = component.field.basis.whole(weights)
    chosen = weights[:, start : start + basis.num_weights]
    return Splines(basis.function, region(posterior), chosen)


def _place(basis: Basis) -> tuple[KANBasis, int] | None:
    """A network of splines in a basis, and where its weights begin."""
    if isinstance(basis, KANBasis):
        return basis, 0
    if isinstance(basis, TangentBasis):
        return _place(basis.basis)
    start = 0
    for part in basis.parts if isinstance(basis, SumBasis) else ():
        found = _place(part)
        if found is not None:
            return found[0], start + found[1]
        start += part.num_weights
    return None

"""Hamiltonians that are Kolmogorov-Arnold networks, with a prior over smooth ones."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies.arguments import check_count, check_positive, check_widths, is_number
from sympgp.energies.base import Hyperparameters, LogNormal
from sympgp.energies.kan_basis import KANBasis
from sympgp.energies.kan_function import KANFunction
from sympgp.energies.layered import LayeredEnergy

WEIGHT_SCALE, SIGNAL_SCALE, LOG_STDDEV = 1.0, 3.0, 0.7
"""Medians of the hyperpriors, and how sure they are, in scaled units: hidden nodes of order one
fill their grids, and H differs by a few units across the data."""

REACH = 3.0
"""Grids of states where there are no data yet, in scaled units."""

MOST_STATES = 100
"""States at most at which the sizes of edges are taken."""

MARGIN = 0.1
"""By how much of the data's range grids go on to either side."""


class KANEnergy(LayeredEnergy):
    """``H(z; w)`` a Kolmogorov-Arnold network: learned functions of one variable, added up.

    Every edge between nodes carries ``phi(x) = w_b silu(x) + sum_k c_k B_k(x)`` with B-splines
    ``B_k`` of a uniform grid, see :class:`KANFunction`. Weights into hidden nodes have variance
    ``weight_scale^2 / fan_in``, those into H ``signal_scale^2 / fan_in``, and splines are smooth a
    priori, whatever their grid. Grids of states span the data, a tenth further on either side;
    beyond them splines go on as straight lines.

    Networks are trained without the cost of edges first, and then go on with it.

    In periodic coordinates H is exactly periodic, for these enter as cosine and sine.

    Args:
        num_dof: degrees of freedom n.
        hidden: nodes of the hidden layers; without any, H is a sum of functions of one entry of
            the state each, and so separable.
        grid: intervals of every grid.
        order: degree of the splines, at least 2; with 3 the field has continuous derivatives.
        smoothness: lengthscale of the splines' prior, in half-widths of a grid.
        sparsity: nats by which an edge lowers the density of a fit for each unit of its size: a
            prior ``exp(-sparsity |phi|)`` beside the others, which makes edges that the data do
            not need nearly constant. ``|phi|`` is the standard deviation of the edge's values at
            the data, in scaled units, in which H differs by a few. Noise of a share r of the
            rates' size in N of them pulls at edges with some ``sqrt(N) / r``; less than this
            takes away what is redundant, more also what fits noise. For engines that train
            networks, but ``Laplace``. None of the entropies of :meth:`KANFunction.penalty`, which
            have no such parabola above them as Gauss-Newton steps need.
        periodic: indices of the coordinates that are angles, from 0 to n - 1.
        period: their period in user units, one number or one a periodic coordinate.

    Raises:
        ValueError: a count below one, an order below 2, a sparsity below 0; angles or periods as
            :class:`~sympgp.energies.FourierEnergy` says.
        RuntimeError: a basis asked of a periodic energy before ``in_units``.

    Source: Liu et al., *KAN: Kolmogorov-Arnold Networks*, 2024, eqs. 2.17-2.20 for sparsity, where
    sizes are mean absolute values.

    Example:
        >>> energy = KANEnergy(num_dof=1, hidden=(5,))
        >>> priors = energy.hyperpriors(torch.ones(2, dtype=torch.float64))
        >>> basis = energy.basis({name: prior.median for name, prior in priors.items()})
        >>> basis.num_weights
        135
    """

    def __init__(
        self,
        num_dof: int,
        hidden: Sequence[int] = (5,),
        grid: int = 5,
        order: int = 3,
        *,
        smoothness: float | int = 1.0,
        sparsity: float | int = 0.0,
        periodic: Sequence[int] = (),
        period: float | int | Sequence[float | int] = 2.0 * math.pi,
    ) -> None:
        for name, count, least in (("num_dof", num_dof, 1), ("grid", grid, 1), ("order", order, 2)):
            check_count(name, count, least)
        check_widths("hidden", hidden)
        check_positive("smoothness", smoothness)
        if not (is_number(sparsity) and sparsity >= 0):
            raise ValueError(f"sparsity: expected a finite number of at least 0, got {sparsity!r}")
        super().__init__(num_dof, periodic, period)
        self.hidden, self.grid, self.order = tuple(hidden), grid, order
        self.smoothness, self.sparsity = float(smoothness), float(sparsity)
        self.sparse = self.sparsity > 0
        self._box: tuple[Tensor, Tensor] | None = None
        self._states: Tensor | None = None

    def prepare(
        self, states: Float[Tensor, "states dim"], nominal: Float[Tensor, " weights"] | None = None
    ) -> KANEnergy:
        """With grids that span these states and a margin."""
        missing = ~states.isfinite()
        lower = states.masked_fill(missing, math.inf).amin(0)
        upper = states.masked_fill(missing, -math.inf).amax(0)
        seen = upper > lower
        margin = torch.where(seen, MARGIN * (upper - lower), 0.0)
        prepared = copy.copy(self)
        prepared._box = (
            torch.where(seen, lower - margin, -REACH),
            torch.where(seen, upper + margin, REACH),
        )
        if self.sparse:
            prepared._states = _reference(states.detach(), *prepared._box)
        return prepared

    def hyperpriors(self, spread: Float[Tensor, " dim"]) -> dict[str, LogNormal]:
        """Scales of hidden nodes and of H."""
        priors = {"signal_scale": LogNormal(spread.new_tensor(SIGNAL_SCALE), LOG_STDDEV)}
        if self.hidden:
            scale = LogNormal(spread.new_tensor(WEIGHT_SCALE), LOG_STDDEV)
            priors = {"weight_scale": scale} | priors
        return priors

    def basis(self, hyperparameters: Hyperparameters) -> KANBasis:
        """The network with the prior variances of these scales."""
        output = hyperparameters["signal_scale"]
        reach = output.detach().new_full((2 * self.num_dof,), REACH)
        lower, upper = (-reach, reach) if self._box is None else self._box
        function = KANFunction.on_box(
            lower.to(reach),
            upper.to(reach),
            self.hidden,
            self.grid,
            self.order,
            self.smoothness,
            self.periodic,
            self.waves(reach) if self.periodic else None,
        )
        first = function.last_layer.start
        hidden = hyperparameters.get("weight_scale", output).square().expand(first)
        last = output.square().expand(function.num_weights - first)
        variance = torch.cat([hidden, last]) * function.unit_variance
        angles = tuple(self.angles.items())
        states = None if self._states is None else self._states.to(variance)
        return KANBasis(function, variance, angles, self.sparsity, states)

    def redraw(self, seed: int) -> KANEnergy:
        """The same: nothing is drawn before training."""
        return self


def _reference(
    states: Float[Tensor, "states dim"], lower: Float[Tensor, " dim"], upper: Float[Tensor, " dim"]
) -> Float[Tensor, "chosen dim"]:
    """Some of the data's states, missing entries anywhere between the bounds."""
    states = states[states.isfinite().any(1)]
    index = torch.linspace(0, len(states) - 1, min(len(states), MOST_STATES)).round().long()
    states = states[index.to(states.device)]
    sobol = torch.quasirandom.SobolEngine(states.shape[1], scramble=True, seed=0)
    places = lower + (upper - lower) * sobol.draw(len(states)).to(states)
    return torch.where(states.isfinite(), states, places)

"""Implicit Runge-Kutta methods of Gauss: coefficient tables and their stepper."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.integrators.base import FixedStepIntegrator, Step, VectorField, combine
from sympgp.integrators.explicit import RungeKuttaTable
from sympgp.integrators.fixed_point import check_iteration, fixed_point

# Gauss methods of one and two stages; here ``stages`` has one full row a stage.
# Hairer, Lubich, Wanner, Geometric Numerical Integration, section II.1.3.
MIDPOINT_RULE = RungeKuttaTable(nodes=(0.5,), stages=((0.5,),), weights=(1.0,))
_OFFSET = math.sqrt(3.0) / 6.0
GAUSS_4 = RungeKuttaTable(
    nodes=(0.5 - _OFFSET, 0.5 + _OFFSET),
    stages=((0.25, 0.25 - _OFFSET), (0.25 + _OFFSET, 0.25)),
    weights=(0.5, 0.5),
)


def implicit_step(
    table: RungeKuttaTable,
    field: VectorField,
    t: Step,
    x: Float[Tensor, "*batch dim"],
    h: Step,
    tolerance: float,
    max_iterations: int,
) -> Float[Tensor, "*batch dim"]:
    """One step of an implicit Runge-Kutta method; NaN where the iteration did not converge.

    The states of all stages, ``X_i = x + h sum_j stages[i][j] f(t + nodes[j] h, X_j)``, are one
    unknown of the iteration, started from ``x + nodes[i] h f(t, x)``.
    """
    first = field(t, x)
    dim, num = x.shape[-1], len(table.nodes)

    def images(stages: Tensor) -> tuple[Tensor, list[Tensor]]:
        points = stages.split(dim, -1)
        rates = [field(t + c * h, y) for c, y in zip(table.nodes, points, strict=True)]
        return _join([combine(x, h, row, rates) for row in table.stages]), rates

    start = _join([combine(x, h, (node,), [first]) for node in table.nodes])
    rates, failed = fixed_point(images, _join([x] * num), start, tolerance, max_iterations)
    return combine(x, h, table.weights, rates).masked_fill(failed, math.nan)


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


@dataclass(frozen=True)
class GaussMethod(FixedStepIntegrator):
    """What the Gauss methods share: symplectic for any energy, and reversible.

    Attributes:
        step: no step is longer than this.
        tolerance: relative residual to reach; at least a few units of round-off are allowed.
        max_iterations: evaluations of the stages after which a member counts as failed.
        table: the method's coefficients.
    """

    tolerance: float = 1e-12
    max_iterations: int = 50

    table: ClassVar[RungeKuttaTable]
    symplectic: ClassVar[bool] = True
    reversible: ClassVar[bool] = True
    needs_separable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_iteration(self.tolerance, self.max_iterations)

    def advance(
        self, field: VectorField, t: Step, x: Float[Tensor, "*batch dim"], h: Step
    ) -> Float[Tensor, "*batch dim"]:
        """States at ``t + h`` from states at ``t``; NaN where the iteration did not converge."""
        return implicit_step(self.table, field, t, x, h, self.tolerance, self.max_iterations)


@dataclass(frozen=True)
class ImplicitMidpoint(GaussMethod):
    """The implicit midpoint rule ``x' = x + h f(t + h/2, (x + x') / 2)``: order 2, symplectic.

    It keeps quadratic invariants exactly and the energy of a conservative system near its start
    for very long times (Hairer, Lubich, Wanner, *Geometric Numerical Integration*, VI.4 and
    IX.8), for any energy, separable or not; it is also its own inverse under ``h -> -h``.

    The midpoint ``m = x + h/2 f(m)`` is found from an explicit half step by a fixed-point
    iteration with Anderson mixing, which no Jacobian is needed for. It ends for every batch
    member separately, at the round-off of its own coordinates: a member with
    ``|residual| <= tolerance * (|x| + |m - x|)`` in every coordinate is left alone. A member that
    does not get near becomes NaN; its remedy is a shorter step (the iteration wants ``h`` times
    the field's Lipschitz constant below about 2). Where gradients are recorded the plain
    iteration is used, whose derivatives converge with it.

    Attributes:
        step: no step is longer than this.
        tolerance: relative residual to reach; at least a few units of round-off are allowed.
        max_iterations: evaluations of the midpoint after which a member counts as failed.

    Example:
        >>> import torch
        >>> def field(t, x):
        ...     return torch.stack([x[..., 1], -x[..., 0]], -1)
        >>> x0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
        >>> x = ImplicitMidpoint(step=0.1).solve(field, x0, [0.0, 50.0])[-1]
        >>> f"{x.square().sum():.9f}"
        '1.000000000'
    """

    table: ClassVar[RungeKuttaTable] = MIDPOINT_RULE
    order: ClassVar[int] = 2


@dataclass(frozen=True)
class GaussLegendre4(GaussMethod):
    """The Gauss method of two stages: implicit, order 4, symplectic.

    As :class:`ImplicitMidpoint`, of which it is the next of the family, it takes any energy and
    also friction and inputs, keeps quadratic invariants exactly and is its own inverse under
    ``h -> -h``. Its two stages are found together by the same iteration, with the same ends, for
    a step of two evaluations an iteration; it converges while ``h`` times the field's Lipschitz
    constant is below about 3.

    Source: Hairer, Lubich, Wanner, *Geometric Numerical Integration*, sections II.1.3 and VI.4.

    Attributes:
        step: no step is longer than this.
        tolerance: relative residual to reach; at least a few units of round-off are allowed.
        max_iterations: evaluations of the stages after which a member counts as failed.

    Example:
        >>> import torch
        >>> def field(t, x):
        ...     return torch.stack([x[..., 1], -x[..., 0]], -1)
        >>> x0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
        >>> x = GaussLegendre4(step=0.1).solve(field, x0, [0.0, 50.0])[-1]
        >>> f"{x.square().sum():.9f}"
        '1.000000000'
    """

    table: ClassVar[RungeKuttaTable] = GAUSS_4
    order: ClassVar[int] = 4
    stage_evaluations: ClassVar[int] = 12

"""Explicit Runge-Kutta methods: coefficient tables and their stepper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from sympgp.integrators.base import FixedStepIntegrator, Step, VectorField, combine


@dataclass(frozen=True)
class RungeKuttaTable:
    """Coefficients of an explicit Runge-Kutta method with s stages.

    Stage i evaluates the field at ``t + nodes[i] h`` and
    ``x + h sum_j stages[i - 1][j] k_j``; the step is ``x + h sum_i weights[i] k_i``.
    """

    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


# Kutta 1901; Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, table II.1.2.
CLASSICAL_RK4 = RungeKuttaTable(
    nodes=(0.0, 0.5, 0.5, 1.0),
    stages=((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
    weights=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
)


def explicit_step(
    table: RungeKuttaTable, field: VectorField, t: Step, x: Float[Tensor, "*batch dim"], h: Step
) -> Float[Tensor, "*batch dim"]:
    """One step of an explicit Runge-Kutta method."""
    rates = [field(t, x)]
    for node, row in zip(table.nodes[1:], table.stages, strict=True):
        rates.append(field(t + node * h, combine(x, h, row, rates)))
    return combine(x, h, table.weights, rates)


@dataclass(frozen=True)
class RK4(FixedStepIntegrator):
    """The classical Runge-Kutta method: explicit, four evaluations a step, order 4.

    Not symplectic: over many periods the energy of a conservative system drifts, which
    :class:`ImplicitMidpoint` avoids.

    Example:
        >>> import math, torch
        >>> def field(t, x):
        ...     return torch.stack([x[..., 1], -x[..., 0]], -1)  # H = (q^2 + p^2) / 2
        >>> x0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
        >>> RK4(step=0.1).solve(field, x0, [0.0, math.pi / 3])[-1].round(decimals=4)
        tensor([ 0.5000, -0.8660], dtype=torch.float64)
    """

    order: ClassVar[int] = 4
    symplectic: ClassVar[bool] = False
    needs_separable: ClassVar[bool] = False

    def advance(
        self, field: VectorField, t: Step, x: Float[Tensor, "*batch dim"], h: Step
    ) -> Float[Tensor, "*batch dim"]:
        """States at ``t + h`` from states at ``t``."""
        return explicit_step(CLASSICAL_RK4, field, t, x, h)

"""Explicit Runge-Kutta methods: coefficient tables and their stepper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.compiled import Compiled, Rate
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


def _step_in_one(
    x: Tensor,
    h: Tensor,
    function: Callable[..., Tensor],
    eager: Callable[..., Tensor],
    *parts: Tensor,
) -> Tensor:
    rates = [function(x, *parts)]
    for row in CLASSICAL_RK4.stages:
        point = x
        for coefficient, rate in zip(row, rates, strict=True):
            point = point + (coefficient * h) * rate if coefficient else point
        rates.append(function(point, *parts))
    for coefficient, rate in zip(CLASSICAL_RK4.weights, rates, strict=True):
        x = x + (coefficient * h) * rate
    return x


def _step_by_stages(
    x: Tensor,
    h: Tensor,
    function: Callable[..., Tensor],
    eager: Callable[..., Tensor],
    *parts: Tensor,
) -> Tensor:
    return explicit_step(CLASSICAL_RK4, lambda t, z: eager(z, *parts), 0.0, x, h)


compiled_step = Compiled(_step_in_one, _step_by_stages)


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
        form: Callable[[], Rate | None] | None = getattr(field, "compiled_rate", None)
        rate = None if form is None else form()
        if rate is not None and x.dim() == 3 and not (isinstance(h, Tensor) or rate.recorded(x)):
            step = torch.full((), h, dtype=x.dtype, device=x.device)
            return compiled_step(x.contiguous(), step, rate.function, rate.eager, *rate.parts)
        return explicit_step(CLASSICAL_RK4, field, t, x, h)

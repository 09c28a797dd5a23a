"""The interface of integrators and what fixed-step ones share."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

VectorField = Callable[[Any, Tensor], Tensor]
"""``(t, x) -> dx/dt``: ``t`` a number or a tensor that broadcasts with ``x[..., :1]``."""

Step = float | Tensor
"""A time or a step: a number, or a tensor that broadcasts with ``x[..., :1]``."""

Times = Float[Tensor, " time"] | Sequence[int | float]
"""Requested times: a tensor or a sequence of numbers."""


@runtime_checkable
class EnergyField(Protocol):
    """A field that knows its energy and structure, as :class:`DiscreteGradient` needs it."""

    def __call__(self, t: Any, z: Tensor, /) -> Tensor:
        """``dz/dt``, which is ``flow(t, z, gradient(z))``."""

    def energy(self, z: Tensor, /) -> Tensor:
        """``H(z)``: (...) for states (..., D)."""

    def gradient(self, z: Tensor, /) -> Tensor:
        """``grad H(z)``: (..., D)."""

    def flow(self, t: Any, z: Tensor, slope: Tensor, /) -> Tensor:
        """``J g - d(z, g) + G(z) u(t)`` with any ``slope`` g in the place of ``grad H(z)``."""


class DivergenceWarning(UserWarning):
    """Some states could not be carried to the end; they are NaN from then on."""


class Integrator(ABC):
    """A numerical method for ``dx/dt = f(t, x)``; instances hold its settings and nothing else.

    Nothing is raised for a batch member that cannot be continued: its state becomes NaN and the
    other members go on. Fields must return rates of the shape of the states they are given.

    Attributes:
        order: the global error falls as ``step ** order``.
        symplectic: whether a step is a symplectic map when the field is ``J grad H``.
        reversible: whether a step of ``-h`` undoes a step of ``h``.
        doubled: whether the method works on two copies of the state; what it promises of its
            steps (symplectic, undone by ``-h``) then holds for the pair, not for what is shown.
        needs_separable: whether the energy has to be ``T(p) + V(q)``.
        conservative_only: whether friction and inputs are refused.
        needs_energy: whether the field has to be an :class:`EnergyField`.
        adaptive: whether the method chooses its own steps.
        stage_evaluations: evaluations of the field that one step takes, about.
    """

    order: ClassVar[int]
    symplectic: ClassVar[bool]
    reversible: ClassVar[bool] = False
    doubled: ClassVar[bool] = False
    needs_separable: ClassVar[bool]
    conservative_only: ClassVar[bool] = False
    needs_energy: ClassVar[bool] = False
    adaptive: ClassVar[bool]
    stage_evaluations: ClassVar[int] = 4

    def check_field(self, field: object) -> None:
        """Refuse a field that the method is not made for.

        A field may say ``separable``, ``conservative`` (no friction, no inputs) and ``canonical``
        (made of ``grad H``) of itself; plain callables that do not are trusted to be what the
        method needs.

        Raises:
            ValueError: the field is one that the method does not take.
        """
        found = []
        canonical = getattr(field, "canonical", True)
        if (self.conservative_only or self.needs_energy) and not canonical:
            raise ValueError(
                f"integrator: {type(self).__name__} is made for J grad H, got a field that is not "
                "made of the gradient of an energy; use RK4, Dopri5, ImplicitMidpoint or "
                "GaussLegendre4"
            )
        if self.needs_separable and not getattr(field, "separable", True):
            found.append("an energy that is no sum T(p) + V(q)")
        if self.conservative_only and not getattr(field, "conservative", True):
            found.append("friction or inputs")
        name = type(self).__name__
        if found:
            energy = "H = T(p) + V(q)" if self.needs_separable else "any energy"
            raise ValueError(
                f"integrator: {name} is made for {energy} without friction or inputs, got a field "
                f"with {' and '.join(found)}; use ImplicitMidpoint, GaussLegendre4, "
                "DiscreteGradient or RK4"
            )
        if self.needs_energy and not isinstance(field, EnergyField):
            raise ValueError(
                f"integrator: {name} needs a field with energy(z), gradient(z) and "
                f"flow(t, z, slope), got {field!r}; use ImplicitMidpoint or GaussLegendre4"
            )

    @abstractmethod
    def with_step(self, step: float) -> Integrator:
        """Copy with another longest step; an adaptive method ignores it and returns itself."""

    def in_time_units(self, unit: float) -> Integrator:
        """Copy for a field whose time is counted in units of ``unit``: settings change with it."""
        return self

    def evaluations(self, times: Times) -> int:
        """How often the field will be evaluated at each state, about; at least, where adaptive."""
        return self.stage_evaluations * (len(times) - 1)

    @abstractmethod
    def advance(
        self, field: VectorField, t: Step, x: Float[Tensor, "*batch dim"], h: Step
    ) -> Float[Tensor, "*batch dim"]:
        """States at ``t + h`` from states at ``t``; ``h`` may be negative."""

    @abstractmethod
    def solve(
        self,
        field: VectorField,
        x0: Float[Tensor, "*batch dim"],
        times: Times,
    ) -> Float[Tensor, "*batch time dim"]:
        """States at all ``times``, the first of which is where ``x0`` is.

        Args:
            field: ``(t, x) -> dx/dt``.
            x0: (..., D).
            times: (T,), increasing, or decreasing to go back in time; regular or not. Their
                values are read on the host, so no gradient flows to them.

        Raises:
            ValueError: times that are not finite or not strictly monotone; a field whose rates
                have another shape than the states, or that the method is not made for; a
                fixed-step method without a step.
        """


@dataclass(frozen=True)
class FixedStepIntegrator(Integrator):
    """A method that splits each interval between requested times into equal steps.

    Attributes:
        step: no step is longer than this (up to the rounding of the times).
    """

    step: float | None = None

    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.step is not None and not (math.isfinite(self.step) and self.step > 0):
            raise ValueError(f"step: expected a positive finite number, got {self.step!r}")

    def with_step(self, step: float) -> FixedStepIntegrator:
        """Copy with another longest step."""
        return dataclasses.replace(self, step=step)

    def in_time_units(self, unit: float) -> FixedStepIntegrator:
        """Copy for a field whose time is counted in units of ``unit``: settings change with it."""
        return self if self.step is None else self.with_step(self.step / unit)

    def evaluations(self, times: Times) -> int:
        """How often the field will be evaluated at each state, about."""
        if self.step is None:
            return super().evaluations(times)
        return self.stage_evaluations * sum(step_counts(*host_times(times), self.step))

    def solve(
        self,
        field: VectorField,
        x0: Float[Tensor, "*batch dim"],
        times: Times,
    ) -> Float[Tensor, "*batch time dim"]:
        """States at all ``times``; see :meth:`Integrator.solve`."""
        if self.step is None:
            name = type(self).__name__
            raise ValueError(
                f"step: {name} needs a step length to solve, got None; "
                f"use {name}(step=...) or with_step(...)"
            )
        grid, rounding = host_times(times)
        return self.carry(field, x0, grid, step_counts(grid, rounding, self.step))

    def carry(
        self,
        field: VectorField,
        x0: Float[Tensor, "*batch dim"],
        grid: Sequence[float],
        counts: Sequence[int],
    ) -> Float[Tensor, "*batch time dim"]:
        """States at the T times of ``grid``, with ``counts[i]`` equal steps in interval i."""
        self.check_field(field)
        memory, states = self._begin(x0), [x0]
        for start, stop, count in zip(grid[:-1], grid[1:], counts, strict=True):
            h = (stop - start) / count
            for i in range(count):
                memory = self._next(field, start + i * h, memory, h)
            states.append(self._shown(memory))
        return torch.stack(states, -2)

    # What a method keeps from step to step is the state, unless it overrides these three.

    def _begin(self, x0: Tensor) -> Any:
        return x0

    def _next(self, field: VectorField, t: float, memory: Any, h: float) -> Any:
        return self.advance(field, t, memory, h)

    def _shown(self, memory: Any) -> Tensor:
        return memory


def step_counts(grid: Sequence[float], rounding: float, step: float) -> list[int]:
    """Equal steps that each interval of the grid is split into: none is longer than ``step``."""
    return [
        max(1, math.ceil((abs(stop - start) - rounding) / step))
        for start, stop in zip(grid[:-1], grid[1:], strict=True)
    ]


def host_times(times: Times) -> tuple[list[float], float]:
    """Times as numbers, checked, and how far rounding may have moved their differences."""
    eps = torch.finfo(times.dtype if isinstance(times, Tensor) else torch.float64).eps
    grid = [float(t) for t in (times.tolist() if isinstance(times, Tensor) else times)]
    if not grid:
        raise ValueError("times: expected at least one time, got none")
    if not all(map(math.isfinite, grid)):
        raise ValueError("times: expected finite values, got NaN or infinity")
    sign = 1.0 if grid[-1] >= grid[0] else -1.0
    for i, (start, stop) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
        if not sign * (stop - start) > 0:
            raise ValueError(
                "times: expected strictly increasing (or decreasing) values, "
                f"got {start} followed by {stop} at positions {i}, {i + 1}"
            )
    return grid, 4 * eps * max(map(abs, grid))


def check_rates(x: Tensor, rates: Tensor) -> Tensor:
    """Return the rates if they have the shape of the states."""
    if rates.shape != x.shape:
        raise ValueError(
            f"field: expected rates of the states' shape {tuple(x.shape)}, got "
            f"{tuple(rates.shape)}; expand x0 to the field's batch of draws"
        )
    return rates


def combine(x: Tensor, h: Step, coefficients: tuple[float, ...], rates: list[Tensor]) -> Tensor:
    """``x + h sum_j coefficients[j] rates[j]``, one operation a term.

    Adding in place is safe under autograd: addition needs none of its operands again.
    """
    check_rates(x, rates[-1])
    total = None
    for coefficient, rate in zip(coefficients, rates, strict=True):
        if coefficient == 0.0:
            continue
        if isinstance(h, Tensor):
            if total is None:
                total = torch.addcmul(x, rate, h, value=coefficient)
            else:
                total.addcmul_(rate, h, value=coefficient)
        elif total is None:
            total = torch.add(x, rate, alpha=coefficient * h)
        else:
            total.add_(rate, alpha=coefficient * h)
    return x if total is None else total

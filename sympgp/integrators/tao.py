"""Explicit symplectic steps for energies that are not separable, on two copies of the state."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.integrators.base import FixedStepIntegrator, Step, VectorField, combine
from sympgp.integrators.splitting import SINGLE, TRIPLE_JUMP, check_pairs
from sympgp.phase_space import join

OMEGA = 5.0
"""Strength of the binding when nothing is said, for times in units of a radian of the motion."""


@dataclass(frozen=True)
class _DoubledSpace(FixedStepIntegrator):
    """What the methods of all orders share; see :class:`Tao`."""

    omega: float | None = None

    coefficients: ClassVar[tuple[float, ...]]

    symplectic: ClassVar[bool] = False
    doubled: ClassVar[bool] = True
    needs_separable: ClassVar[bool] = False
    conservative_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.omega is not None and not (math.isfinite(self.omega) and self.omega >= 0):
            raise ValueError(f"omega: expected a finite number >= 0, got {self.omega!r}")

    def in_time_units(self, unit: float) -> FixedStepIntegrator:
        """Copy for a field whose time is counted in units of ``unit``: settings change with it."""
        omega = None if self.omega is None else self.omega * unit
        steps = self if self.step is None else replace(self, step=self.step / unit)
        return replace(steps, omega=omega)

    def advance(
        self, field: VectorField, t: Step, x: Float[Tensor, "*batch dim"], h: Step
    ) -> Float[Tensor, "*batch dim"]:
        """States at ``t + h`` from states at ``t``: both copies start there, their mean comes back.

        A step taken like this is not symplectic, and many of them are not the path of a solve,
        whose copies go on as they are.
        """
        self.check_field(field)
        check_pairs(x)
        a, b = self.advance_copies(field, t, x, x, h)
        return 0.5 * (a + b)

    def advance_copies(
        self,
        field: VectorField,
        t: Step,
        a: Float[Tensor, "*batch dim"],
        b: Float[Tensor, "*batch dim"],
        h: Step,
    ) -> tuple[Tensor, Tensor]:
        """The symplectic step of the pair ``a = (q, y)``, ``b = (x, p)``, undone by ``-h``."""
        return self._compose(field, t, a, b, h, None)[:2]

    def _compose(
        self, field: VectorField, t: Step, a: Tensor, b: Tensor, h: Step, rate: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The pair after the step, and the rates at its ``a``; ``rate`` are those before it.

        Time goes on in the binding, so that the step stays symmetric in time too.
        """
        rate = field(t, a) if rate is None else rate
        node = 0.0
        for c in self.coefficients:
            b = combine(b, h, (0.5 * c,), [rate])
            a = combine(a, h, (0.5 * c,), [field(t + node * h, b)])
            a, b = self._bind(a, b, c * h)
            node += c
            a = combine(a, h, (0.5 * c,), [field(t + node * h, b)])
            rate = field(t + node * h, a)
            b = combine(b, h, (0.5 * c,), [rate])
        return a, b, rate

    def _bind(self, a: Tensor, b: Tensor, h: Step) -> tuple[Tensor, Tensor]:
        """Rotate the difference ``(q - x, y - p)`` by ``2 omega h``; the sum stays."""
        q, p = (a - b).chunk(2, -1)
        angle = 2.0 * (OMEGA if self.omega is None else self.omega) * h
        sine: Step
        fall: Step
        if isinstance(angle, Tensor):
            sine, fall = torch.sin(angle), 2.0 * torch.sin(0.5 * angle) ** 2
        else:
            sine, fall = math.sin(angle), 2.0 * math.sin(0.5 * angle) ** 2
        half = 0.5 * join(-fall * q - sine * p, sine * q - fall * p)
        return a + half, b - half

    def _begin(self, x0: Tensor) -> Any:
        check_pairs(x0)
        return x0, x0, None

    def _next(self, field: VectorField, t: float, memory: Any, h: float) -> Any:
        a, b, rate = memory
        return self._compose(field, t, a, b, h, rate)

    def _shown(self, memory: Any) -> Tensor:
        return 0.5 * (memory[0] + memory[1])


@dataclass(frozen=True)
class Tao(_DoubledSpace):
    """Tao's method: explicit, order 2, symplectic in a doubled space, for any energy.

    Two copies (q, p) and (x, y) of the state move under

        H(q, y) + H(x, p) + omega/2 (|q - x|^2 + |p - y|^2),

    whose parts have exact flows: each of the first two moves one of the pairs ``(q, y)`` and
    ``(x, p)`` by the rates at the other, the last turns the difference of the copies. A solve
    doubles the state once, carries both copies through and shows their mean. **The map of the
    pair is symplectic, the map from state to mean is not**: ``symplectic`` and ``reversible`` are
    False here, ``doubled`` is True. In practice energies of solves stay near their start while
    the copies stay near each other, which ``omega`` is there for.

    The binding has to be stronger than what drives the copies apart (more than the rates of
    growth of small differences, the highest frequencies of the system for a start), and the error
    grows with it, as ``omega h^2``: ``omega h`` well below one. Three evaluations a step in a
    solve, four in a step alone. Friction and inputs are refused: friction on one copy drives the
    other, and the copies part.

    Source: Tao, *Explicit symplectic approximation of nonseparable Hamiltonians: algorithm and
    long time performance*, Phys. Rev. E 94, 043303, 2016.

    Attributes:
        step: no step is longer than this.
        omega: strength of the binding, per unit of time (q and p in units in which they are of
            one size); 5 per unit of the time in which the field is written when None, which in a
            posterior's rollouts is the data's characteristic time.

    Example:
        >>> import torch
        >>> def field(t, x):  # H = (q^2 + 1) (p^2 + 1) / 2
        ...     q, p = x.unbind(-1)
        ...     return torch.stack([(q**2 + 1) * p, -q * (p**2 + 1)], -1)
        >>> x0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
        >>> q, p = Tao(step=0.01).solve(field, x0, [0.0, 20.0])[-1]
        >>> f"{(q**2 + 1) * (p**2 + 1) / 2:.3f}"
        '1.000'
    """

    order: ClassVar[int] = 2
    coefficients: ClassVar[tuple[float, ...]] = SINGLE


@dataclass(frozen=True)
class Tao4(_DoubledSpace):
    """:class:`Tao`'s method of order 4: three of its steps, forth, back and forth.

    Nine evaluations a step in a solve. The same arguments, promises and refusals.

    Source: Tao 2016, eq. 3; Yoshida, *Construction of higher order symplectic integrators*,
    Phys. Lett. A 150, 1990.

    Attributes:
        step: no step is longer than this.
        omega: strength of the binding, as there.
    """

    order: ClassVar[int] = 4
    coefficients: ClassVar[tuple[float, ...]] = TRIPLE_JUMP

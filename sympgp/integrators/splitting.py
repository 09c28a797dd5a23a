"""Explicit symplectic methods for ``H = T(p) + V(q)``: compositions of kicks and drifts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from sympgp.integrators.base import FixedStepIntegrator, Step, VectorField, check_rates, combine
from sympgp.phase_space import join

_ROOT = 2.0 ** (1.0 / 3.0)

SINGLE = (1.0,)
"""The symmetric step of order 2 itself."""

TRIPLE_JUMP = (1.0 / (2.0 - _ROOT), -_ROOT / (2.0 - _ROOT), 1.0 / (2.0 - _ROOT))
"""Three steps of a symmetric method of order 2 that make one of order 4 (Yoshida 1990)."""


def check_pairs(x: Tensor) -> None:
    """Refuse states that are no coordinates with their momenta."""
    if x.shape[-1] % 2:
        raise ValueError(
            "x: expected all coordinates, then all momenta, an even number of columns; "
            f"got {x.shape[-1]}"
        )


def kick_drift_kick(
    coefficients: tuple[float, ...],
    field: VectorField,
    t: Step,
    x: Float[Tensor, "*batch dim"],
    h: Step,
    force: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Steps of ``coefficients[i] h`` one after the other, each half a kick, a drift, half a kick.

    Kicks that meet are one. Of each evaluation of the field only the half that counts is used.

    Args:
        coefficients: their sum is one.
        field: rates of q that depend on p (and time), rates of p that depend on q (and time).
        t: time of ``x``.
        x: (..., 2n).
        h: step.
        force: (..., n) rates of p at ``x``, if known.

    Returns:
        The new states and their rates of p.
    """

    def rates(node: float, q: Tensor, p: Tensor) -> tuple[Tensor, ...]:
        here = join(q, p)
        return check_rates(here, field(t + node * h, here)).chunk(2, -1)

    q, p = x.chunk(2, -1)
    if force is None:
        force = rates(0.0, q, p)[1]
    node, kick = 0.0, 0.5 * coefficients[0]
    for c, following in zip(coefficients, (*coefficients[1:], 0.0), strict=True):
        p = combine(p, h, (kick,), [force])
        velocity = rates(node + 0.5 * c, q, p)[0]
        q = combine(q, h, (c,), [velocity])
        node += c
        force = rates(node, q, p)[1]
        kick = 0.5 * (c + following)
    return join(q, combine(p, h, (kick,), [force])), force


class _KickDriftKick(FixedStepIntegrator):
    """A composition of kicks and drifts; the last force of a step is the first of the next."""

    coefficients: ClassVar[tuple[float, ...]]

    symplectic: ClassVar[bool] = True
    reversible: ClassVar[bool] = True
    needs_separable: ClassVar[bool] = True
    conservative_only: ClassVar[bool] = True

    def advance(
        self, field: VectorField, t: Step, x: Float[Tensor, "*batch dim"], h: Step
    ) -> Float[Tensor, "*batch dim"]:
        """States at ``t + h`` from states at ``t``."""
        self.check_field(field)
        check_pairs(x)
        return kick_drift_kick(self.coefficients, field, t, x, h)[0]

    def _begin(self, x0: Tensor) -> Any:
        check_pairs(x0)
        return x0, None

    def _next(self, field: VectorField, t: float, memory: Any, h: float) -> Any:
        x, force = memory
        return kick_drift_kick(self.coefficients, field, t, x, h, force)

    def _shown(self, memory: Any) -> Tensor:
        return memory[0]


@dataclass(frozen=True)
class Leapfrog(_KickDriftKick):
    """Leapfrog, or Stoermer-Verlet: explicit, order 2, symplectic, for ``H = T(p) + V(q)``.

        p_half = p - h/2 dV/dq(q),  q' = q + h dT/dp(p_half),  p' = p_half - h/2 dV/dq(q')

    It is its own inverse under ``h -> -h``, and keeps the energy near its start for very long
    times. Two evaluations a step in a solve, three in a step alone. Fields that say of
    themselves that they are not separable, or have friction or inputs, are refused; a plain
    callable is trusted to be separable, and where it is not the method has no order. Steps that
    are too long (``h`` times the highest frequency above 2) are unstable.

    Source: Hairer, Lubich, Wanner, *Geometric numerical integration illustrated by the
    Stoermer-Verlet method*, Acta Numerica 12, 2003.

    Attributes:
        step: no step is longer than this.

    Example:
        >>> import math, torch
        >>> def field(t, x):
        ...     return torch.stack([x[..., 1], -x[..., 0]], -1)  # H = (q^2 + p^2) / 2
        >>> x0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
        >>> Leapfrog(step=0.01).solve(field, x0, [0.0, math.pi / 3])[-1].round(decimals=4)
        tensor([ 0.5000, -0.8660], dtype=torch.float64)
    """

    order: ClassVar[int] = 2
    coefficients: ClassVar[tuple[float, ...]] = SINGLE


@dataclass(frozen=True)
class Yoshida4(_KickDriftKick):
    """Three leapfrog steps forth, back and forth: explicit, order 4, symplectic.

    For ``H = T(p) + V(q)``, with all that is said of :class:`Leapfrog`; six evaluations a step in
    a solve, seven in a step alone. The step back is 1.70 ``h`` long, so that steps have to be
    shorter than leapfrog's for stability.

    Source: Yoshida, *Construction of higher order symplectic integrators*, Phys. Lett. A 150,
    1990.

    Attributes:
        step: no step is longer than this.

    Example:
        >>> import math, torch
        >>> def field(t, x):
        ...     return torch.stack([x[..., 1], -x[..., 0]], -1)  # H = (q^2 + p^2) / 2
        >>> x0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
        >>> Yoshida4(step=0.1).solve(field, x0, [0.0, math.pi / 3])[-1].round(decimals=4)
        tensor([ 0.5000, -0.8660], dtype=torch.float64)
    """

    order: ClassVar[int] = 4
    coefficients: ClassVar[tuple[float, ...]] = TRIPLE_JUMP

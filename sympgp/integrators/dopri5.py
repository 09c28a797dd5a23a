"""The Dormand-Prince method with step control, through torchdiffeq."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sympgp.integrators.base import (
    DivergenceWarning,
    Integrator,
    Step,
    Times,
    VectorField,
    check_rates,
    host_times,
)


@dataclass(frozen=True)
class Dopri5(Integrator):
    """The Dormand-Prince pair of order 5(4) with step control, run by ``torchdiffeq``.

    Steps are shared by the batch and small enough for its worst member. When a solve breaks down
    (the step underflows, a state is not finite, too many steps), the members to blame are found
    by halving the batch in the interval concerned; they become NaN from there on, with a
    :class:`DivergenceWarning` that names them, and the others go on.

    Source: Dormand, Prince, *A family of embedded Runge-Kutta formulae*, J. Comput. Appl. Math.
    6, 1980.

    Attributes:
        rtol: relative error allowed in a step.
        atol: absolute error allowed in a step, in the units of the state.
        max_steps: steps allowed between two requested times.

    Example:
        >>> import math, torch
        >>> def field(t, x):
        ...     return torch.stack([x[..., 1], -x[..., 0]], -1)
        >>> x0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
        >>> Dopri5().solve(field, x0, [0.0, math.pi / 3])[-1].round(decimals=4)
        tensor([ 0.5000, -0.8660], dtype=torch.float64)
    """

    rtol: float = 1e-6
    atol: float = 1e-8
    max_steps: int = 10_000

    order: ClassVar[int] = 5
    symplectic: ClassVar[bool] = False
    needs_separable: ClassVar[bool] = False
    adaptive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("rtol", "atol", "max_steps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected a positive number, got {getattr(self, name)!r}")

    def with_step(self, step: float) -> Dopri5:
        """Return this integrator: it chooses its own steps."""
        return self

    def advance(
        self, field: VectorField, t: Step, x: Float[Tensor, "*batch dim"], h: Step
    ) -> Float[Tensor, "*batch dim"]:
        """States at ``t + h`` from states at ``t``, in as many steps as accuracy needs."""

        def unit_field(s: Tensor, y: Tensor) -> Tensor:
            return h * field(t + s * h, y)

        return self.solve(unit_field, x, [0.0, 1.0]).select(-2, -1)

    def solve(
        self,
        field: VectorField,
        x0: Float[Tensor, "*batch dim"],
        times: Times,
    ) -> Float[Tensor, "*batch time dim"]:
        """States at all ``times``; see :meth:`Integrator.solve`."""
        grid, _ = host_times(times)
        if len(grid) == 1:
            return x0.unsqueeze(-2)
        try:
            return self._odeint(field, x0, grid)
        except AssertionError as error:
            _reraise_unless_breakdown(error)
        return self._solve_by_intervals(field, x0, grid)

    def _odeint(
        self, field: VectorField, x0: Tensor, grid: list[float], active: Tensor | None = None
    ) -> Tensor:
        """Solve with ``torchdiffeq``; members that are not active stay where they are."""
        from torchdiffeq import odeint

        def rate(t: Tensor, x: Tensor) -> Tensor:
            rates = check_rates(x, field(t, x))
            return rates if active is None else torch.where(active, rates, 0.0)

        times = torch.tensor(grid, dtype=torch.float64, device=x0.device)
        options = {"norm": _worst_member_norm, "max_num_steps": self.max_steps}
        tolerances = {"rtol": self.rtol, "atol": self.atol}
        states = odeint(rate, x0, times, method="dopri5", options=options, **tolerances)
        return states.movedim(0, -2)

    def _solve_by_intervals(self, field: VectorField, x0: Tensor, grid: list[float]) -> Tensor:
        """Solve one interval after the other, giving up the members that break down in it."""
        active = x0.isfinite().all(-1, keepdim=True)
        x = torch.where(active, x0, 0.0)
        states, failures = [x0], [(~active, grid[0], grid[0])]
        for start, stop in zip(grid[:-1], grid[1:], strict=True):
            x, failed = self._interval(field, x, start, stop, active)
            active = active & ~failed
            failures.append((failed, start, stop))
            states.append(x.masked_fill(~active, math.nan))
        _warn_breakdown(failures)
        return torch.stack(states, -2)

    def _interval(
        self, field: VectorField, x: Tensor, start: float, stop: float, active: Tensor
    ) -> tuple[Tensor, Tensor]:
        """End states of one interval and which of the active members failed in it."""
        members = active.flatten().nonzero().flatten()
        if len(members) == 0:
            return x, active
        try:
            return self._odeint(field, x, [start, stop], active).select(-2, -1), active & False
        except AssertionError as error:
            _reraise_unless_breakdown(error)
        if len(members) == 1:
            return x, active
        first = torch.zeros_like(active)
        first.view(-1)[members[: len(members) // 2]] = True
        second = active & ~first
        x, failed_first = self._interval(field, x, start, stop, first)
        x, failed_second = self._interval(field, x, start, stop, second)
        return x, failed_first | failed_second


def _worst_member_norm(error: Tensor) -> Tensor:
    """Root mean square over the coordinates, of the batch member with the largest one."""
    return error.square().mean(-1).sqrt().max()


def _reraise_unless_breakdown(error: AssertionError) -> None:
    """Let only the solver's own complaints pass, not a failed check inside a user's field."""
    complaints = ("underflow in dt", "non-finite values in state", "max_num_steps exceeded")
    if not str(error).startswith(complaints):
        raise error


def _warn_breakdown(failures: list[tuple[Bool[Tensor, "*batch 1"], float, float]]) -> None:
    found = [
        f"member {tuple(index[:-1])} between t = {start:g} and t = {stop:g}"
        for failed, start, stop in failures
        for index in failed.nonzero().tolist()
    ]
    if found:
        shown = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
        warnings.warn(
            f"Dopri5 could not continue {len(found)} batch member(s): {shown}; their states are "
            "NaN from there on. The field may be singular or run away there: bound the region "
            "(limit in solve_rollouts), loosen rtol and atol, or raise max_steps",
            DivergenceWarning,
            stacklevel=4,
        )

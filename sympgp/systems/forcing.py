"""External inputs of a simulated system: what ``G u(t)`` adds to its equations of motion."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.trajectories import ArrayLike, Signal, as_signal, as_tensor
from sympgp.trajectories.signals import Interpolation, check_interpolation

ROUNDING = 1e-12
"""Share of a solution's duration by which breaks may differ and still be the same."""

Push = Callable[[float], Tensor]
"""From a time to ``G u(t)`` of each trajectory, (N, 2n)."""


@dataclass(frozen=True)
class Forcing:
    """``G u_i(t)`` on each of several trajectories.

    Attributes:
        signals: u of each trajectory.
        matrix: G.
    """

    signals: tuple[Signal, ...]
    matrix: Float[Tensor, "dim inputs"]

    @classmethod
    def build(
        cls,
        inputs: Any,
        input_matrix: ArrayLike | None,
        interpolation: Interpolation,
        times: Float[Tensor, "count time"],
        num_dof: int,
    ) -> Forcing | None:
        """From what a user gave for trajectories with these times; None without inputs.

        Args:
            inputs: as for :meth:`System.exact`.
            input_matrix: (2n, m), (n, m) for momenta alone, or None for the identity on momenta.
            interpolation: of samples.
            times: of each trajectory.
            num_dof: n.

        Raises:
            ValueError: a matrix of another shape or without inputs; inputs that do not fit.
        """
        if inputs is None:
            if input_matrix is not None:
                raise ValueError("input_matrix: expected None where there are no inputs")
            return None
        check_interpolation(interpolation)
        matrix = _matrix(input_matrix, num_dof)
        each = _each(inputs, len(times))
        signals = [
            as_signal(own, t, matrix.shape[1], interpolation)
            for own, t in zip(each, times, strict=True)
        ]
        return cls(tuple(signals), matrix)

    def observed(self, times: Float[Tensor, "count time"]) -> Float[Tensor, "count time inputs"]:
        """The inputs of each trajectory at its own times."""
        return torch.stack([u(t) for u, t in zip(self.signals, times, strict=True)])

    def pieces(self, start: float, stop: float) -> Iterator[tuple[float, float, Push]]:
        """Intervals in which all inputs are smooth, and what they do there.

        Raises:
            ValueError: inputs that are not known on all of them.
        """
        breaks = torch.cat([u.breaks.cpu().double() for u in self.signals]).unique()
        room = ROUNDING * (stop - start)
        edges = [start]
        edges += [t for t in breaks.tolist() if start + room < t < stop - room]
        edges = [t for t, after in zip(edges, [*edges[1:], stop], strict=True) if after - t > room]
        for begin, end in zip(edges, [*edges[1:], stop], strict=True):
            rates = [_between(u, begin, end) for u in self.signals]
            yield begin, end, partial(self._push, rates)

    def _push(self, rates: list[Callable[[float], Tensor]], t: float) -> Tensor:
        return torch.stack([rate(t) for rate in rates]) @ self.matrix.mT


def _matrix(given: ArrayLike | None, num_dof: int) -> Tensor:
    """G, (2n, m)."""
    eye = torch.eye(num_dof, dtype=torch.float64)
    if given is None:
        return torch.cat([torch.zeros_like(eye), eye])
    matrix = as_tensor(given, "input_matrix", torch.float64, "cpu")
    if matrix.ndim != 2 or len(matrix) not in (num_dof, 2 * num_dof) or not matrix.numel():
        raise ValueError(
            f"input_matrix: expected shape ({2 * num_dof}, m), or ({num_dof}, m) for momenta "
            f"alone, got {tuple(matrix.shape)}"
        )
    if not bool(matrix.isfinite().all()):
        raise ValueError(f"input_matrix: expected finite numbers, got {matrix.tolist()}")
    return matrix if len(matrix) == 2 * num_dof else torch.cat([torch.zeros_like(matrix), matrix])


def _each(inputs: Any, count: int) -> list[Any]:
    """What was given for each of the trajectories, or the same for all."""
    several = None
    if isinstance(inputs, list | tuple) and inputs and all(callable(one) for one in inputs):
        several = list(inputs)
    elif not callable(inputs) and not isinstance(inputs, tuple):
        values = as_tensor(inputs, "inputs", torch.float64, "cpu")
        several = list(values) if values.ndim == 3 else None
    if several is None:
        return [inputs] * count
    if len(several) != count:
        raise ValueError(
            f"inputs: expected those of {count} trajectories, or one for all, got {len(several)}"
        )
    return several


def _between(signal: Signal, begin: float, end: float) -> Callable[[float], Tensor]:
    """The inputs within an interval without breaks; at its end the limit from within."""
    if not len(signal.breaks):
        return signal
    edges = torch.tensor([begin, end], dtype=signal.breaks.dtype)
    first, last = signal.pieces(edges)[0]
    return lambda t: first + (t - begin) / (end - begin) * (last - first)

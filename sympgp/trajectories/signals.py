"""Inputs as functions of time: sampled or given by a function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.trajectories.arrays import ArrayLike, as_tensor

Interpolation: TypeAlias = str
"""Between samples: on the straight line, ``"linear"``, or the last one, ``"held"``."""
INTERPOLATIONS = ("linear", "held")
CHECKED = 100
"""At how many times a function is tried before it is used."""
LAX = 1e-9
"""Share of the range of times that counts as rounding."""


class Signal(ABC):
    """Inputs ``u(t)``: K numbers at every time of a range."""

    @property
    @abstractmethod
    def num_inputs(self) -> int:
        """K."""

    @property
    @abstractmethod
    def breaks(self) -> Float[Tensor, " breaks"]:
        """Times at which the signal is not smooth; integrators had better not step across them."""

    @abstractmethod
    def __call__(self, t: float | Tensor) -> Float[Tensor, "*times inputs"]:
        """``u(t)`` for one time, or for times of any shape.

        Raises:
            ValueError: a time outside the range, or a value that is no finite number.
        """

    def pieces(self, times: Float[Tensor, " times"]) -> Float[Tensor, "intervals 2 inputs"]:
        """``u`` at the beginning of each interval between times, and its limit at the end.

        Exact where each interval lies between two neighbouring breaks.
        """
        values = self(times)
        return torch.stack([values[:-1], values[1:]], 1)


@dataclass(frozen=True)
class InputSignal(Signal):
    """Inputs sampled at times, with straight lines between samples, or held until the next one.

    Args:
        times: tensor (T,), strictly increasing.
        values: tensor (T, K), finite.
        interpolation: ``"linear"`` or ``"held"``.

    Raises:
        ValueError: shapes that do not fit, times that do not increase, values that are not
            finite, another interpolation.

    Example:
        >>> held = InputSignal(torch.tensor([0.0, 1.0]), torch.tensor([[2.0], [4.0]]), "held")
        >>> held(0.9), held(1.0)
        (tensor([2.]), tensor([4.]))
    """

    times: Tensor
    values: Tensor
    interpolation: Interpolation = "linear"

    def __post_init__(self) -> None:
        if self.times.ndim != 1 or self.values.ndim != 2 or len(self.times) != len(self.values):
            raise ValueError(
                "inputs: expected times (T,) and values (T, K), got shapes "
                f"{tuple(self.times.shape)} and {tuple(self.values.shape)}"
            )
        if not len(self.times) or not bool((self.times.diff() > 0).all()):
            raise ValueError("inputs: expected times that increase strictly, at least one")
        check_interpolation(self.interpolation)
        _check_finite(self.values, self.times)

    @property
    def num_inputs(self) -> int:
        """K."""
        return self.values.shape[1]

    @property
    def breaks(self) -> Float[Tensor, " breaks"]:
        """The times of the samples."""
        return self.times

    @property
    def rounding(self) -> float:
        """By how much times may be off."""
        ends = self.times[[0, -1]]
        digits = torch.finfo(self.times.dtype).eps * float(ends.abs().max())
        return max(LAX * float(ends[1] - ends[0]), 8.0 * digits)

    def __call__(self, t: float | Tensor) -> Float[Tensor, "*times inputs"]:
        """``u(t)``; right at a sample a held input has that sample's value."""
        t = torch.as_tensor(t, dtype=self.times.dtype, device=self.times.device)
        self.check_range(t)
        t = t.clamp(self.times[0], self.times[-1])
        if self.interpolation == "held":
            later = torch.searchsorted(self.times, t.contiguous() + self.rounding, right=True)
            return self.values[later - 1]
        if len(self.times) == 1:
            return self.values[0].expand(*t.shape, self.num_inputs)
        later = torch.searchsorted(self.times, t.contiguous()).clamp(1, len(self.times) - 1)
        begin, end = self.times[later - 1], self.times[later]
        share = ((t - begin) / (end - begin)).unsqueeze(-1)
        return (1.0 - share) * self.values[later - 1] + share * self.values[later]

    def pieces(self, times: Float[Tensor, " times"]) -> Float[Tensor, "intervals 2 inputs"]:
        """``u`` at the beginning of each interval and its limit at the end: equal where held."""
        if self.interpolation != "held":
            return super().pieces(times)
        # In the middle of an interval no rounding decides between two samples.
        return self(0.5 * (times[:-1] + times[1:]))[:, None].expand(-1, 2, -1)

    def check_range(self, t: Float[Tensor, "*times"]) -> None:
        """Refuse times at which nothing is known.

        Raises:
            ValueError: a time before the first sample or after the last.
        """
        first, last = float(self.times[0]), float(self.times[-1])
        if not t.numel():
            return
        low, high = float(t.min()), float(t.max())
        if not (first - self.rounding <= low and high <= last + self.rounding):
            wanted = f"{low:g}" if low == high else f"{low:g} to {high:g}"
            raise ValueError(
                f"inputs: they are given from t = {first:g} to {last:g}, but needed at {wanted}"
            )


@dataclass(frozen=True)
class InputFunction(Signal):
    """Inputs given by a function ``t -> (K,)``, a number where K = 1, of any time.

    Args:
        function: called with one time at a time, a float.
        width: K.
        like: a tensor of the type and on the device that the results have.
    """

    function: Callable[[float], ArrayLike]
    width: int
    like: Tensor

    @property
    def num_inputs(self) -> int:
        """K."""
        return self.width

    @property
    def breaks(self) -> Float[Tensor, " breaks"]:
        """None that are known."""
        return self.like.new_zeros(0)

    def __call__(self, t: float | Tensor) -> Float[Tensor, "*times inputs"]:
        """The function's value, checked."""
        times = torch.as_tensor(t, dtype=self.like.dtype, device=self.like.device)
        found = [self._at(one) for one in times.reshape(-1).tolist()]
        return torch.stack(found).reshape(*times.shape, self.num_inputs)

    def _at(self, t: float) -> Tensor:
        value = as_tensor(self.function(t), "inputs", self.like.dtype, self.like.device)
        if value.ndim == 0 and self.num_inputs == 1:
            value = value.reshape(1)
        if value.shape != (self.num_inputs,):
            raise ValueError(
                f"inputs: expected a function of time with values of shape ({self.num_inputs},), "
                f"got {tuple(value.shape)} at t = {t:g}"
            )
        if not bool(value.isfinite().all()):
            raise ValueError(f"inputs: expected finite numbers, got {value.tolist()} at t = {t:g}")
        return value


def as_signal(
    inputs: ArrayLike | Callable[[float], ArrayLike] | None,
    times: Float[Tensor, " times"],
    num_inputs: int,
    interpolation: Interpolation = "linear",
) -> Signal:
    """Inputs of a rollout as a function of time, checked before anything is integrated.

    Args:
        inputs: (T, K), or (T,) where K = 1, sampled at ``times``; or a tuple ``(times, values)``
            of samples of its own, which cover all of ``times``; or a function ``t -> (K,)``; or a
            :class:`Signal`.
        times: (T,) of the rollout, whose type and device the result has.
        num_inputs: K of the field.
        interpolation: between samples.

    Raises:
        ValueError: inputs that are missing, or that the field does not have; another width or
            number of them; NaN or infinite values; samples that do not cover ``times``.

    Example:
        >>> as_signal(([0.0, 10.0], [0.0, 5.0]), torch.tensor([0.0, 2.0]), 1)(2.0)
        tensor([1.])
    """
    if inputs is None:
        raise ValueError(
            f"inputs: the field has {num_inputs} input(s), so their values are needed: an array "
            f"of shape ({len(times)}, {num_inputs}) at the times of the rollout, a tuple "
            "(times, values), or a function of time; got None"
        )
    if num_inputs == 0:
        raise ValueError("inputs: expected None, since this field has no inputs")
    if isinstance(inputs, Signal):
        signal = inputs
        if signal.num_inputs != num_inputs:
            raise ValueError(f"inputs: expected {num_inputs} channel(s), got {signal.num_inputs}")
    elif callable(inputs):
        signal = InputFunction(inputs, num_inputs, times)
    elif isinstance(inputs, tuple) and len(inputs) == 2:
        own = as_tensor(inputs[0], "inputs: times", times.dtype, times.device)
        signal = InputSignal(own, _as_columns(inputs[1], own, num_inputs), interpolation)
    else:
        signal = InputSignal(times, _as_columns(inputs, times, num_inputs), interpolation)
    if isinstance(signal, InputSignal):
        signal.check_range(times)
    else:
        signal(times[:: -(-len(times) // CHECKED)])
    return signal


def _as_columns(values: ArrayLike, times: Tensor, num_inputs: int) -> Tensor:
    """(T, K) from that or, for a single input, (T,)."""
    found = as_tensor(values, "inputs", times.dtype, times.device)
    columns = found.unsqueeze(-1) if found.ndim == 1 and num_inputs == 1 else found
    if columns.shape != (*times.shape, num_inputs):
        raise ValueError(
            f"inputs: expected shape ({', '.join(map(str, (*times.shape, num_inputs)))}), a row "
            f"for each time and a column for each input, got {tuple(found.shape)}"
        )
    return columns


def check_interpolation(interpolation: str) -> None:
    """Refuse what is neither linear nor held.

    Raises:
        ValueError: something else.
    """
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation: expected 'linear' or 'held', got {interpolation!r}")


def _check_finite(values: Tensor, times: Tensor) -> None:
    bad = torch.nonzero(~values.isfinite())
    if len(bad):
        row, column = bad[0].tolist()
        raise ValueError(
            f"inputs: expected finite numbers, got {values[row, column].item()!r} in row {row}, "
            f"column {column} (t = {float(times[row]):g})"
        )

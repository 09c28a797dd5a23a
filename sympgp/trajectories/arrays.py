"""Conversion of what users hand over into floating-point tensors."""

import numbers
import sys
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

ArrayLike: TypeAlias = Any
"""A tensor, a NumPy array, a pandas object, a number, or (nested) sequences of numbers."""

_REFUSED_KINDS = {
    "b": "booleans",
    "c": "complex numbers",
    "U": "strings",
    "S": "bytes",
    "M": "dates",
    "m": "time differences",
}


def as_tensor(
    value: ArrayLike,
    name: str,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return ``value`` as a floating-point tensor, refusing what is not real numbers.

    Tensors keep their floating-point type, device and gradient; everything else becomes
    float64. ``None``, ``pandas.NA`` and masked entries become NaN.

    Args:
        value: What to convert; memory is shared with it where that is possible.
        name: What to call it in an error message.
        dtype: The type of the result, if not the one described above.
        device: The device of the result; that of ``value`` by default.

    Raises:
        ValueError: If ``value`` is ragged or holds booleans, complex numbers, strings or objects.

    Example:
        >>> as_tensor([[1, 2], [3, None]], "states")
        tensor([[1., 2.],
                [3., nan]], dtype=torch.float64)
    """
    if isinstance(value, Tensor):
        tensor = _from_tensor(value, name)
    elif isinstance(value, list | tuple) and any(isinstance(item, Tensor) for item in value):
        tensor = _from_tensors(value, name)
    else:
        tensor = torch.from_numpy(_from_numpy(value, name))
    return tensor.to(dtype=dtype or tensor.dtype, device=device or tensor.device)


def _from_tensor(value: Tensor, name: str) -> Tensor:
    if value.is_floating_point():
        return value
    if value.dtype == torch.bool or value.is_complex():
        kind = "complex numbers" if value.is_complex() else "booleans"
        raise ValueError(f"{name}: expected real numbers, got {kind}")
    return value.to(torch.float64)


def _from_tensors(values: list[Any] | tuple[Any, ...], name: str) -> Tensor:
    parts = [as_tensor(value, f"{name}[{i}]") for i, value in enumerate(values)]
    shapes = {tuple(part.shape) for part in parts}
    if len(shapes) > 1:
        raise ValueError(f"{name}: expected entries of one shape, got {sorted(shapes)}")
    return torch.stack([part.to(parts[0]) for part in parts])


def _from_numpy(value: ArrayLike, name: str) -> np.ndarray:
    if isinstance(value, np.ma.MaskedArray) and value.dtype.kind in "fiu":
        value = np.ma.filled(value.astype(np.float64), np.nan)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: expected numbers in a regular array, got {error}") from error
    if array.dtype.kind == "O":
        return _from_objects(array, name)
    if array.dtype.kind not in "fiu":
        kind = _REFUSED_KINDS.get(array.dtype.kind, f"entries of type {array.dtype}")
        raise ValueError(f"{name}: expected real numbers, got {kind}")
    # One native, contiguous, writable layout, whatever byte order or strides came in.
    return np.require(array, np.float64, ["C", "W"])


def _from_objects(array: np.ndarray, name: str) -> np.ndarray:
    result = np.full(array.size, np.nan)
    for i, item in enumerate(array.flat):
        if is_missing(item):
            continue
        if isinstance(item, bool) or not isinstance(item, numbers.Real):
            raise ValueError(f"{name}: expected real numbers, got {item!r} ({type(item).__name__})")
        result[i] = float(item)
    return result.reshape(array.shape)


def is_missing(item: Any) -> bool:
    """Whether an object stands for a missing number: ``None`` or ``pandas.NA``."""
    # Nobody can hand over pandas.NA without having imported pandas, which is slow to import.
    pandas = sys.modules.get("pandas")
    return item is None or (pandas is not None and item is pandas.NA)


def as_seconds(times: np.ndarray) -> np.ndarray:
    """Return dates as seconds after the earliest one, time differences as seconds; NaN for none.

    Example:
        >>> as_seconds(np.array(["2020-01-01T12:00", "2020-01-01T12:01"], "M8[m]")).tolist()
        [0.0, 60.0]
    """
    if times.dtype.kind == "M":
        known = times[~np.isnat(times)]
        times = times - (known.min() if known.size else np.datetime64(0, "s"))
    return times / np.timedelta64(1, "s")

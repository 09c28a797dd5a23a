"""Validation of trajectories, done once, when a container is built.

The functions here turn the forms in which trajectories may be handed over into one tensor per
trajectory, and refuse what no model could use, naming the trajectory and the place.
"""

import operator
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from sympgp.trajectories.arrays import ArrayLike, as_tensor
from sympgp.trajectories.naming import describe
from sympgp.trajectories.time_axis import ARRAY_ADVICE, Points, diagnose


def split_states(states: ArrayLike, dtype: torch.dtype, name: str = "states") -> list[Tensor]:
    """Return one tensor (T_i, D) per trajectory from (N, T, D), (T, D) or a list of (T_i, D)."""
    parts = _split(states, name, 2, dtype)
    if parts is not None:
        return parts
    whole = as_tensor(states, name, dtype)
    if whole.ndim not in (2, 3) or not len(whole):
        raise ValueError(
            f"{name}: expected shape (N, T, D) or (T, D), or a list of (T_i, D), "
            f"got shape {tuple(whole.shape)}"
        )
    return list(whole.unbind()) if whole.ndim == 3 else [whole]


def split_times(times: ArrayLike, count: int, dtype: torch.dtype) -> list[Tensor]:
    """Return one tensor (T_i,) per trajectory from a shared (T,), (N, T) or a list of (T_i,)."""
    parts = _split(times, "times", 1, dtype)
    if parts is None:
        whole = as_tensor(times, "times", dtype)
        if whole.ndim not in (1, 2):
            raise ValueError(
                "times: expected shape (T,) shared by all trajectories, (N, T), "
                f"or a list of (T_i,), got shape {tuple(whole.shape)}"
            )
        parts = list(whole.unbind()) if whole.ndim == 2 else [whole] * count
    if len(parts) != count:
        raise ValueError(
            f"times: expected those of {count} trajectories as in states, got {len(parts)}"
        )
    return parts


def _split(value: ArrayLike, name: str, ndim: int, dtype: torch.dtype) -> list[Tensor] | None:
    """Convert a list item by item if its items have ``ndim`` dimensions; None if they do not."""
    if not isinstance(value, list | tuple):
        return None
    if not value:
        raise ValueError(f"{name}: expected at least one trajectory, got an empty list")
    if not any(_ndim(item) == ndim for item in value):
        return None
    return [as_tensor(item, f"{name}[{i}]", dtype) for i, item in enumerate(value)]


def _ndim(value: ArrayLike) -> int:
    if isinstance(value, list | tuple):
        return 1 + (_ndim(value[0]) if value else 0)
    return value.ndim if isinstance(value, Tensor) else int(np.ndim(value))


def check_shapes(times: Sequence[Tensor], states: Sequence[Tensor], labels: Sequence[str]) -> None:
    """Refuse trajectories whose shapes do not fit together."""
    for i, (t, x) in enumerate(zip(times, states, strict=True)):
        who = describe(i, labels)
        if t.ndim != 1:
            raise ValueError(f"times of {who}: expected shape (T,), got {tuple(t.shape)}")
        if x.ndim != 2:
            raise ValueError(f"states of {who}: expected shape (T, D), got {tuple(x.shape)}")
        if len(t) != len(x):
            raise ValueError(
                f"{who}: expected one time per state, got {len(t)} times and {len(x)} states"
            )
        if x.shape[1] != states[0].shape[1]:
            raise ValueError(
                f"states of {who}: expected {states[0].shape[1]} columns as in "
                f"{describe(0, labels)}, got {x.shape[1]}"
            )
        if len(t) < 2:
            points = "one point" if len(t) else "no points"
            raise ValueError(f"{who}: expected at least two points, got {points}")
    dim = states[0].shape[1]
    if dim == 0 or dim % 2:
        raise ValueError(
            "states: expected an even number of columns "
            f"(all coordinates, then all momenta), got {dim}"
        )


def check_inputs(inputs: Sequence[Tensor], times: Sequence[Tensor], labels: Sequence[str]) -> None:
    """Refuse inputs that are not finite or whose shapes do not fit the trajectories."""
    if len(inputs) != len(times):
        raise ValueError(
            f"inputs: expected those of {len(times)} trajectories as in states, got {len(inputs)}"
        )
    for i, (t, u) in enumerate(zip(times, inputs, strict=True)):
        if u.ndim != 2 or len(u) != len(t) or u.shape[1] != inputs[0].shape[-1] or not u.shape[1]:
            raise ValueError(
                f"inputs of {describe(i, labels)}: expected shape ({len(t)}, K) with "
                f"one K for all trajectories, got {tuple(u.shape)}"
            )
    _refuse_rows(inputs, lambda u: ~u.isfinite(), "inputs", "a finite number", labels)


def check_covariates(covariates: ArrayLike, dtype: torch.dtype, labels: Sequence[str]) -> Tensor:
    """Return covariates (N, C), refusing those of another number, or that are not finite."""
    values = as_tensor(covariates, "covariates", dtype).detach().clone()
    if values.ndim == 1:
        values = values.unsqueeze(1)
    if values.ndim != 2 or len(values) != len(labels) or not values.shape[1]:
        raise ValueError(
            f"covariates: expected shape ({len(labels)}, C), one row per trajectory, got shape "
            f"{tuple(values.shape)}"
        )
    _refuse_rows(
        list(values.split(1)), lambda c: ~c.isfinite(), "covariates", "a finite number", labels
    )
    return values


def check_values(times: Sequence[Tensor], states: Sequence[Tensor], labels: Sequence[str]) -> None:
    """Refuse times that do not increase, infinite values and trajectories without any value."""
    _refuse_rows(times, lambda t: ~t.isfinite(), "times", "a finite number", labels)
    flat = torch.cat(list(times))
    # The step into the first point of the next trajectory is not a step in time.
    inside = torch.ones(len(flat), dtype=torch.bool, device=flat.device)
    inside[_starts(times)] = False
    late = torch.nonzero((flat.diff() <= 0) & inside[1:])
    if len(late):
        i, row = _locate(times, int(late[0]) + 1)
        _refuse_order(times[i], states[i], row, describe(i, labels))
    _refuse_rows(states, Tensor.isinf, "states", "a finite number, or NaN where missing", labels)
    observed = torch.cat(list(states)).isfinite().any(1)
    for i, seen in enumerate(observed.split([len(x) for x in states])):
        if not seen.any():
            raise ValueError(
                f"states of {describe(i, labels)}: expected at least one observed "
                "value, got only NaN"
            )


def _refuse_order(times: Tensor, states: Tensor, row: int, who: str) -> None:
    """Refuse times that do not increase at a row, and say what they look like."""
    columns = [f"column {column}" for column in range(states.shape[1])]
    points = Points(
        times.detach().cpu().double().numpy(),
        states.detach().cpu().double().numpy(),
        columns,
        lambda entry: f"entry {entry}",
    )
    now, before = times[row].item(), times[row - 1].item()
    problem = "repeats the time before it" if now == before else f"comes after {before!r}"
    found = diagnose(points)
    raise ValueError(
        f"times of {who}: expected strictly increasing times, but entry {row}, {now!r}, {problem}: "
        f"{found.text}; {ARRAY_ADVICE[found.kind]}"
    )


def _refuse_rows(
    parts: Sequence[Tensor],
    is_bad: Callable[[Tensor], Tensor],
    name: str,
    expected: str,
    labels: Sequence[str],
) -> None:
    flat = torch.cat(list(parts))
    bad = torch.nonzero(is_bad(flat))
    if len(bad):
        i, row = _locate(parts, int(bad[0, 0]))
        column = f", column {int(bad[0, 1])}" if flat.ndim == 2 else ""
        raise ValueError(
            f"{name} of {describe(i, labels)}: expected {expected}, got "
            f"{flat[tuple(bad[0])].item()!r} in row {row}{column}"
        )


def _starts(parts: Sequence[Tensor]) -> list[int]:
    return [0, *np.cumsum([len(part) for part in parts])[:-1].tolist()]


def _locate(parts: Sequence[Tensor], flat_row: int) -> tuple[int, int]:
    starts = _starts(parts)
    i = int(np.searchsorted(starts, flat_row, side="right")) - 1
    return i, flat_row - starts[i]


def check_index(index: int | slice | ArrayLike, count: int) -> list[int]:
    """Return the numbers of the trajectories that an index, a slice or a sequence selects."""
    if isinstance(index, slice):
        chosen = list(range(count))[index]
    else:
        chosen = np.atleast_1d(np.asarray(index)).tolist()
    if not chosen or any(isinstance(i, bool) for i in chosen):
        raise ValueError(
            f"index: expected integers or a slice that select at least one of "
            f"{count} trajectories, got {index!r}"
        )
    for i in chosen:
        if not -count <= operator.index(i) < count:
            raise IndexError(f"index: {i} is out of range for {count} trajectories")
    return chosen

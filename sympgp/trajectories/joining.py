"""Parts of trajectories, and several containers as one."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sympgp.trajectories.naming import check_same, describe, make_distinct, merge_units

if TYPE_CHECKING:
    from sympgp.trajectories.container import Trajectories
else:
    Trajectories = Any


def rows_between(
    data: Trajectories, start: float | int, stop: float | int, drop_single: bool
) -> tuple[list[int], list[Tensor]]:
    """Trajectories of which something is left in ``start <= t < stop``, and which rows of each.

    Raises:
        ValueError: as ``Trajectories.between`` says.
    """
    rows = [(t >= start) & (t < stop) for t in data.times]
    chosen = []
    for i, (x, keep) in enumerate(zip(data.states, rows, strict=True)):
        if not x[keep].isfinite().any() or (drop_single and keep.sum() == 1):
            continue
        if keep.sum() == 1:
            raise ValueError(
                f"between: expected two or more points of {describe(i, data.labels)} "
                f"in [{start}, {stop}), or none, got one (drop_single=True leaves it out)"
            )
        chosen.append(i)
    if not chosen:
        raise ValueError(
            f"between: nothing is observed in [{start}, {stop}); the times run "
            f"from {min(t[0].item() for t in data.times)} "
            f"to {max(t[-1].item() for t in data.times)}"
        )
    return chosen, [rows[i] for i in chosen]


def joined(parts: Sequence[Trajectories]) -> dict[str, Any]:
    """Arguments of a container of all the trajectories of several.

    Raises:
        ValueError: as ``Trajectories.concatenate`` says.
    """
    if not parts:
        raise ValueError("concatenate: expected at least one container, got none")
    first = parts[0]
    for kind in ("names", "input_names", "covariate_names"):
        check_same(kind, [getattr(part, kind) for part in parts])
    known = [part.covariates.to(first.device) for part in parts if part.covariates is not None]
    inputs = [u for part in parts for u in part.inputs or ()]
    return {
        "times": [t for part in parts for t in part.times],
        "states": [x for part in parts for x in part.states],
        "inputs": None if first.inputs is None else inputs,
        "names": first.names,
        "units": merge_units([part.units for part in parts]),
        "labels": make_distinct([label for part in parts for label in part.labels]),
        "input_names": first.input_names,
        "covariates": torch.cat(known) if known else None,
        "covariate_names": first.covariate_names,
        "dtype": functools.reduce(torch.promote_types, [part.dtype for part in parts]),
    }

"""Trajectories that several processes hold in parts."""

from __future__ import annotations

import torch
from torch import Tensor

from sympgp.distributed import Ranks
from sympgp.trajectories.container import Trajectories
from sympgp.trajectories.naming import check_labels, make_distinct


def gathered(part: Trajectories, ranks: Ranks) -> Trajectories:
    """The trajectories of all ranks in their order, on every rank.

    They are numbered anew where every part has the numbers that trajectories without labels have;
    else a label that occurs again has a number behind it.

    Args:
        part: those of this rank; columns and units are the same on all.
        ranks: who has the others.

    Raises:
        RankError: columns, units or types differ, on all ranks.
    """
    if not ranks.several:
        return part
    columns = (part.names, part.input_names, part.covariate_names, sorted(part.units.items()))
    expected = "data: expected the same columns, units and types on every rank"
    ranks.check_same(expected, repr((*columns, str(part.dtype))))
    home = part.device

    def everyone(values: Tensor) -> Tensor:
        return ranks.gather(values.to(ranks.device or home)).to(home)

    lengths = everyone(torch.tensor([len(t) for t in part.times])).tolist()
    inputs = None
    if part.inputs is not None:
        inputs = list(everyone(torch.cat(part.inputs)).split(lengths))
    return Trajectories(
        list(everyone(torch.cat(part.times)).split(lengths)),
        list(everyone(torch.cat(part.states)).split(lengths)),
        inputs,
        names=part.names,
        units=part.units,
        labels=_joined(ranks.gather_texts(part.labels)),
        input_names=part.input_names,
        covariates=None if part.covariates is None else everyone(part.covariates),
        covariate_names=part.covariate_names,
        dtype=part.dtype,
    )


def _joined(parts: list[list[str]]) -> list[str] | None:
    """Labels of all; None where they are only numbers, from 0 in each part."""
    if all(tuple(part) == check_labels(None, len(part)) for part in parts):
        return None
    return make_distinct([label for part in parts for label in part])

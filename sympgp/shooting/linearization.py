"""The linearised residuals of all observations, as sums that later steps need no rows for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.fields import FixedField, HamiltonianField
from sympgp.shooting.gram import add_gram, symmetric
from sympgp.shooting.layout import Nodes, Windows
from sympgp.shooting.sensitivities import (
    CACHED_ELEMENTS,
    CHUNK_ELEMENTS,
    Drive,
    chain_sensitivities,
    interval_derivatives,
    substeps,
)


@dataclass(frozen=True)
class Linearization:
    """Gram matrices of the linearised residuals, channel by channel and not yet weighted.

    The rows are ``[dz_0 (D), dtheta (P), residual (1)]`` with residual = prediction - data. All
    sums are in double precision.

    Attributes:
        shared: (D, P + 1, P + 1) sums over all windows of the ``[theta, residual]`` part.
        local: (D, W, D, D + P + 1) the window's start against everything.
        end: (W, D, D + P) derivative of each window's end state.
    """

    shared: Float[Tensor, "dim cols cols"]
    local: Float[Tensor, "dim windows dim all"]
    end: Float[Tensor, "windows dim rest"]


def linearize(
    field: HamiltonianField | FixedField,
    theta: Float[Tensor, " params"],
    path: Float[Tensor, "windows slots dim"],
    nodes: Nodes,
    windows: Windows,
    step: float,
) -> Linearization:
    """Gram matrices of all observations about the nominal path, in blocks of bounded memory.

    A block is some windows by some slots, chosen from the sizes: the path and its sensitivities
    are followed from block to block, and only sums are kept.
    """
    num_windows, num_slots, dim = path.shape
    params = field.num_parameters
    whole = path.new_zeros((dim, params + 1, params + 1), dtype=torch.float64)
    local = whole.new_zeros(dim, num_windows, dim, dim + params + 1)
    end = whole.new_zeros(num_windows, dim, dim + params)
    stages = 4 * max(1, int(substeps(nodes.dt.max(), step)))
    most = CACHED_ELEMENTS if path.device.type == "cpu" else CHUNK_ELEMENTS
    width = (2 * dim + stages) * (_width(field) + 1 + dim)
    rows, slots = _block(most // width, num_windows, num_slots)
    identity = torch.eye(dim, dtype=path.dtype, device=path.device)
    scale = nodes.weights.sqrt()
    for top in range(0, num_windows, rows):
        part = slice(top, min(top + rows, num_windows))
        count = part.stop - part.start
        moved = identity.expand(count, dim, dim)
        current = path.new_zeros(count, dim, params, dtype=field.dtype)
        for left in range(0, num_slots, slots):
            block = windows.nodes[part, left : left + slots]
            z = path[part, left : left + slots]
            index, shape = block.reshape(-1), (*block.shape, dim)
            transition, response = interval_derivatives(
                field, theta, z.reshape(-1, dim), nodes.dt[index], step, Drive.over(nodes, index)
            )
            transition = transition.reshape(*shape, dim)
            state, moved = chain_sensitivities(transition, None, moved)
            # Rows are in the field's type, sums of their products in double precision.
            wide = current.new_empty(*shape, params + 1)
            onward = transition.to(wide)
            current = _chained(onward, response.reshape(*shape, -1), current, wide)
            wide[..., params] = z - nodes.values[block]
            weights = scale[block].unsqueeze(-1).to(wide)
            _add(state.to(wide) * weights, wide.mul_(weights), whole, local[:, part])
        end[part, :, :dim], end[part, :, dim:] = moved, current
    return Linearization(symmetric(whole), local, end)


def _width(field: HamiltonianField | FixedField) -> int:
    """Columns that are held for each stage: derivatives by the parameters, or what they come from.

    With the parameters known, a field that shares work holds nothing of its energy.
    """
    if not isinstance(field, FixedField):
        return field.num_parameters
    family = field.family
    if field.num_parameters or not family.basis.shares:
        return family.num_parameters
    return family.num_parameters - family.basis.num_weights


def _block(room: int, num_windows: int, num_slots: int) -> tuple[int, int]:
    """Windows and slots of a block of about ``room`` intervals: whole windows where they fit."""
    rows = max(1, min(num_windows, room // num_slots))
    return rows, max(1, min(num_slots, room // rows))


def _chained(transition: Tensor, response: Tensor, current: Tensor, out: Tensor) -> Tensor:
    """Write ``S_{i+1} = A_i S_i + B_i`` before each interval (W, L, D, P) to out; the last one."""
    params = response.shape[-1]
    for slot in range(transition.shape[1]):
        out[:, slot, :, :params] = current
        current = torch.baddbmm(response[:, slot], transition[:, slot], current)
    return current


def _add(state: Tensor, wide: Tensor, shared: Tensor, local: Tensor) -> None:
    """Add the Gram matrices of rows, (W, L, D, D) and (W, L, D, P + 1), channel by channel."""
    dim, cols = state.shape[-1], wide.shape[-1]
    for channel in range(dim):
        own, rows = (part[:, :, channel].to(shared.dtype) for part in (state, wide))
        add_gram(shared[channel], rows.reshape(-1, cols))
        local[channel, ..., :dim] += own.mT @ own
        local[channel, ..., dim:] += own.mT @ rows

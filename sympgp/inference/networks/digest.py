"""What the checkpoint of a training belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from sympgp.energies import Basis, initial_weights
from sympgp.trajectories import StateDerivatives, Trajectories


def digest(data: Trajectories | StateDerivatives, settings: Sequence[object], basis: Basis) -> str:
    """What a checkpoint belongs to: data, settings that print what they are, and the energy.

    The energy is known by its slope at one state and one set of weights, and by its prior.
    """
    found = hashlib.sha256(repr(settings).encode())
    parts = [basis.prior_variance]
    if isinstance(data, StateDerivatives):
        parts += [data.states, data.derivatives]
        parts += [] if data.state_noise is None else [data.state_noise]
    else:
        parts += [*data.times, *data.states, *(data.inputs or ())]
        parts += [known for known in (data.covariates, data.context) if known is not None]
    w = initial_weights(basis, 1, torch.Generator().manual_seed(0))
    z = w.new_ones(1, 1, data.state_dim)
    for values in (*parts, basis.gradient_map(w)(z)):
        found.update(values.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()

"""Components of a posterior from what was trained."""

from __future__ import annotations

from dataclasses import replace

import torch

from sympgp.inference.approximation import Approximation
from sympgp.posterior import GaussianComponent


def as_component(q: Approximation, like: GaussianComponent) -> GaussianComponent:
    """A distribution as a component; features and windows are those of ``like``."""
    own = q.detached().whitened()
    slope, ahead = own.slope @ own.inverse, own.following.ahead
    states = replace(
        like.window_states,
        mean=own.mean,
        slope=slope,
        gain=own.gain,
        cov=own.chol @ own.chol.mT,
        ahead_mean=own.mean[ahead],
        ahead_slope=slope[ahead],
    )
    upper = torch.linalg.qr(own.inverse).R
    signs = torch.where(upper.diagonal() < 0, -1.0, 1.0).to(upper)
    return replace(
        like,
        theta=own.centre,
        factor=(signs.unsqueeze(1) * upper).mT.contiguous(),
        noise_std=own.noise_std,
        noise_shape=own.noise_shape,
        noise_rate=own.noise_rate,
        states=states,
        anchors=None,
    )

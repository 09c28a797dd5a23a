"""Passes backwards in time along the windows of all trajectories at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Following:
    """Which window follows which.

    Attributes:
        table: (trajectories, K) windows of each trajectory in time order, any one where there are
            fewer.
        place: (W,) where each window is in the flattened table.
        ahead: (W,) the next window; the window itself where there is none.
        follows: (W, 1) one where there is a next window, zero elsewhere.
    """

    table: Int[Tensor, "trajectories position"]
    place: Int[Tensor, " windows"]
    ahead: Int[Tensor, " windows"]
    follows: Float[Tensor, "windows one"]

    @classmethod
    def of(cls, chain: Int[Tensor, "trajectories position"], like: Tensor) -> Following:
        """From the windows of each trajectory, padded with -1, for tensors like this one."""
        there = chain >= 0
        count = int(there.sum())
        place = torch.zeros(count, dtype=torch.long, device=chain.device)
        place[chain[there]] = there.flatten().nonzero().squeeze(1)
        ahead = torch.arange(count, device=chain.device)
        follows = like.new_zeros(count, 1)
        here, later = chain[:, :-1], chain[:, 1:]
        has = later >= 0
        ahead[here[has]], follows[here[has]] = later[has], 1.0
        return cls(chain.clamp(min=0), place, ahead, follows)

    def scan(
        self,
        gain: Float[Tensor, "windows dim dim"],
        push: Float[Tensor, "*draws windows dim columns"],
    ) -> Float[Tensor, "*draws windows dim columns"]:
        """``r_k = push_k + gain_k r_{k+1}``; gains must be zero where no window follows."""
        length = self.table.shape[1]
        if length == 1:
            return push
        # One look-up for all positions: each one alone costs as much.
        pushes = push[..., self.table, :, :].unbind(-3)
        gains = gain[self.table].unbind(1)
        rows = [pushes[-1]]
        for position in reversed(range(length - 1)):
            rows.append(pushes[position] + gains[position] @ rows[-1])
        return torch.stack(rows[::-1], -3).flatten(-4, -3)[..., self.place, :, :]

    def accumulated(
        self, gain: Float[Tensor, "windows dim dim"], cov: Float[Tensor, "windows dim dim"]
    ) -> Float[Tensor, "windows dim dim"]:
        """``V_k = cov_k + gain_k V_{k+1} gain_k'``."""
        total = cov[self.table[:, -1]]
        rows = [total]
        for position in reversed(range(self.table.shape[1] - 1)):
            here = self.table[:, position]
            total = cov[here] + gain[here] @ total @ gain[here].mT
            rows.append(total)
        return torch.stack(rows[::-1], 1).flatten(0, 1)[self.place]

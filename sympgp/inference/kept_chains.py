"""Chains in a checkpoint file, so that a long run can be resumed."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from sympgp.inference.chains import Chain
from sympgp.inference.checkpoint import Checkpoint
from sympgp.inference.target import Target

WRITTEN_EVERY = 20.0
"""Seconds between two writings."""
CLOSE = 1e-3
"""Difference between centres of the same whitening, which rounding may bring."""
NAME = "chains"


class KeptChains:
    """Chains with the centre of the whitening that they move in.

    Args:
        file: where they are kept.
        target: what they draw from.
    """

    def __init__(self, file: Checkpoint, target: Target) -> None:
        self.file = file
        centre = target.unknowns(torch.zeros(1, target.whitening.size, dtype=torch.float64))
        self.centre = torch.cat([part.detach().cpu().flatten() for part in centre])
        self.written = time.monotonic()

    def load(self) -> list[Chain] | None:
        """What an earlier run left; None where there was none.

        Raises:
            ValueError: its chains moved about another centre.
        """
        known = self.file.running(NAME)
        if known is None:
            return None
        centre = known["centre"]
        if centre.shape != self.centre.shape or not torch.allclose(
            centre, self.centre, rtol=CLOSE, atol=CLOSE
        ):
            raise ValueError(
                f"checkpoint: the chains in {self.file.path!r} began at another posterior, or are "
                "of another model; delete it, or name another file"
            )
        return [Chain(**plain) for plain in known["chains"]]

    def save(self, chains: Sequence[Chain], now: bool) -> None:
        """Write them, if it is time to."""
        if now or time.monotonic() - self.written > WRITTEN_EVERY:
            plain = [chain.plain() for chain in chains]
            self.file.keep(NAME, {"centre": self.centre, "chains": plain}, False)
            self.written = time.monotonic()

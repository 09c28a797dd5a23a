"""What energies of layers have in common: angles, and training from weights that are drawn."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

from sympgp.energies.angles import checked_angles
from sympgp.energies.base import Energy
from sympgp.phase_space import CanonicalScaling

Own = TypeVar("Own", bound="LayeredEnergy")


class LayeredEnergy(Energy):
    """Energies of layers; angles enter the first as cosine and sine, so that H is periodic.

    Args:
        num_dof: degrees of freedom n.
        periodic: indices of the coordinates that are angles, from 0 to n - 1.
        period: their period in user units, one number or one a periodic coordinate.

    Raises:
        ValueError: angles or periods as :class:`~sympgp.energies.FourierEnergy` says.
    """

    def __init__(
        self,
        num_dof: int,
        periodic: Sequence[int],
        period: float | int | Sequence[float | int],
    ) -> None:
        self.num_dof = num_dof
        self.periodic, self.period = checked_angles(periodic, period, num_dof, "state")
        self._waves: Tensor | None = None

    @property
    def angles(self) -> dict[int, float]:
        """Periodic coordinates and their periods in user units."""
        return dict(zip(self.periodic, self.period, strict=True))

    @property
    def has_layers(self) -> bool:
        """True."""
        return True

    def in_units(self: Own, scaling: CanonicalScaling) -> Own:
        """The same energy with its periods in scaled units."""
        scaled = copy.copy(self)
        period = scaling.scale.new_tensor(self.period)
        scaled._waves = 2.0 * math.pi * scaling.scale[list(self.periodic)] / period
        return scaled

    def waves(self, like: Tensor) -> Tensor:
        """``2 pi`` over the scaled periods, in the type and on the device of another tensor.

        Raises:
            RuntimeError: there are angles, and units are not known.
        """
        if self.periodic and self._waves is None:
            raise RuntimeError("a periodic energy has a basis in scaled units only: use in_units")
        return like.new_zeros(0) if self._waves is None else self._waves.to(like)

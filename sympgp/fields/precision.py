"""Fields computed in a narrower floating-point type than that of what asks them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.compiled import Rate
from sympgp.fields.bound import BoundField

if TYPE_CHECKING:
    from sympgp.fields.hamiltonian import HamiltonianField
else:
    HamiltonianField = Any

Part = TypeVar("Part")
Method = TypeVar("Method", bound=Callable[..., Any])


def converted(part: Part, dtype: torch.dtype) -> Part:
    """A part of a field with all its floating-point tensors in another type.

    Args:
        part: a basis, a dissipation, inputs: dataclasses of tensors, numbers and such parts.
        dtype: of the result, differentiable in the tensors of the part.
    """
    found: Any = part
    if isinstance(part, Tensor):
        found = part.to(dtype) if part.is_floating_point() else part
    elif isinstance(part, tuple):
        moved = [converted(item, dtype) for item in part]
        found = tuple(moved) if any(a is not b for a, b in zip(moved, part, strict=True)) else part
    elif is_dataclass(part) and not isinstance(part, type):
        own = {f.name: getattr(part, f.name) for f in fields(part) if f.init}
        parts = {name: converted(value, dtype) for name, value in own.items()}
        if any(parts[name] is not own[name] for name in own):
            found = replace(part, **parts)
    return found


def in_own_dtype(method: Method) -> Method:
    """A field's method that computes in the field's type and answers in that of the points."""

    @wraps(method)
    def call(self: HamiltonianField, points: Tensor, *rest: Any) -> Tensor | None:
        dtype = self.dtype
        moved = (a.to(dtype) if isinstance(a, Tensor) else a for a in rest)
        found: Tensor | None = method(self, points.to(dtype), *moved)
        return None if found is None else found.to(points.dtype)

    return call  # type: ignore[return-value]


class WideField(BoundField):
    """A bound field that is asked, and answers, in a wider type than it computes in."""

    def __init__(self, family: HamiltonianField, theta: Float[Tensor, "*draws params"]) -> None:
        super().__init__(family, theta.to(family.dtype))
        self.theta = theta

    def __call__(self, t: float | Tensor, point: Float[Tensor, "*batch width"]) -> Tensor:
        """Evaluate the field."""
        return super().__call__(t, point.to(self.family.dtype)).to(point.dtype)

    def energy(self, z: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch"]:
        """``H(z)``, up to a constant."""
        return super().energy(z.to(self.family.dtype)).to(z.dtype)

    def gradient(self, z: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch dim"]:
        """``grad H(z)``."""
        return super().gradient(z.to(self.family.dtype)).to(z.dtype)

    def flow(
        self,
        t: float | Tensor,
        point: Float[Tensor, "*batch width"],
        slope: Float[Tensor, "*batch dim"],
    ) -> Float[Tensor, "*batch dim"]:
        """``J g - d(z, g) + G u`` for a slope ``g`` that need not be ``grad H(z)``."""
        dtype = self.family.dtype
        return super().flow(t, point.to(dtype), slope.to(dtype)).to(point.dtype)

    def compiled_rate(self) -> Rate | None:
        """None: its map is one of the narrow type alone."""
        return None

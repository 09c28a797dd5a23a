"""Which edges of a Kolmogorov-Arnold network matter, and networks without the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from sympgp.energies.kan_function import KANFunction
else:
    KANFunction = Any


def deviations(
    traced: Sequence[tuple[Tensor, Tensor]], coefficients: Sequence[Tensor]
) -> list[Tensor]:
    """``phi - mean(phi)`` of every layer's edges, (S, B, in, out)."""
    found = []
    for (_, basis), own in zip(traced, coefficients, strict=True):
        values = torch.einsum("sbic,sioc->sbio", basis, own)
        found.append(values - values.mean(1, keepdim=True))
    return found


def deviation_slopes(
    kan: KANFunction, z: Float[Tensor, "states dim"], w: Float[Tensor, " weights"]
) -> Float[Tensor, "states edges weights"]:
    """Derivatives of ``phi - mean(phi)`` of all edges, there or not, by the weights.

    An edge depends on its own weights, and on those below through its input:

        dphi_io / dw = (B(x_i) of the edge's own) + phi_io'(x_i) dx_i / dw.
    """
    coefficients = kan.coefficients(w.unsqueeze(0))
    traced, _ = kan.traced(z.unsqueeze(0), coefficients)
    columns, found = kan.edge_ends[-1] * kan.per_edge, []
    inputs = z.new_zeros(len(z), kan.widths[0], columns)
    start = 0
    for layer, ((x, _), own) in enumerate(zip(traced, coefficients, strict=True)):
        basis, first = kan.expand(layer, x[0], 1)
        slopes = torch.einsum("bic,ioc->bio", first, own[0])
        rows = (slopes.unsqueeze(-1) * inputs.unsqueeze(2)).flatten(1, 2)
        end = start + rows.shape[1] * kan.per_edge
        each = rows[..., start:end].unflatten(-1, (-1, kan.per_edge)).diagonal(dim1=1, dim2=2)
        each += kan.whitened(basis).repeat_interleave(slopes.shape[2], 1).mT
        inputs, start = rows.unflatten(1, slopes.shape[1:]).sum(1), end
        found.append(rows - rows.mean(0))
    whole = torch.cat(found, 1)
    if kan.edges is None:
        return whole
    return whole.unflatten(-1, (-1, kan.per_edge))[..., kan.edges, :].flatten(-2)


def penalty(kan: KANFunction, z: Tensor, w: Tensor, entropy: float) -> Tensor:
    """See :meth:`KANFunction.penalty`."""
    rows = w if w.dim() > 1 else w.unsqueeze(0)
    coefficients = kan.coefficients(rows)
    traced, _ = kan.traced(z.expand(len(rows), *z.shape), coefficients)
    return cost(deviations(traced, coefficients), entropy).reshape(w.shape[:-1])


def cost(edges: Sequence[Tensor], entropy: float = 1.0) -> Float[Tensor, " draws"]:
    """The penalty of edges with these deviations."""
    total = edges[0].new_zeros(len(edges[0]))
    least = torch.finfo(total.dtype).eps
    for own in edges:
        sizes = own.abs().mean(1).flatten(1)
        whole = sizes.sum(-1)
        shares = sizes / whole.clamp(min=least).unsqueeze(-1)
        total = total + whole - entropy * (shares * shares.clamp(min=least).log()).sum(-1)
    return total


def importances(kan: KANFunction, z: Tensor, w: Tensor) -> list[Tensor]:
    """See :meth:`KANFunction.importances`."""
    coefficients = kan.coefficients(w.detach().unsqueeze(0))
    traced, whole = kan.traced(z.unsqueeze(0), coefficients)
    inputs = [x for x, _ in traced] + [whole.unsqueeze(-1)]
    spread = whole.std().clamp(min=torch.finfo(w.dtype).tiny)
    found = []
    for layer, own in enumerate(deviations(traced, coefficients)):
        sizes = torch.zeros_like(own[0, 0])
        for i, o in torch.nonzero(own.abs().amax((0, 1))).tolist():
            without = inputs[layer + 1].clone()
            without[..., o] -= own[:, :, i, o]
            changed = _onward(kan, layer + 1, without, coefficients).squeeze(-1) - whole
            # what is lost but a constant, which another edge takes over
            sizes[i, o] = (changed - changed.mean()).square().mean().sqrt() / spread
        found.append(sizes)
    return found


def _onward(kan: KANFunction, layer: int, x: Tensor, coefficients: Sequence[Tensor]) -> Tensor:
    """The output for the inputs of a layer."""
    for number in range(layer, len(coefficients)):
        (basis,) = kan.expand(number, x)
        x = torch.einsum("sbic,sioc->sbo", basis, coefficients[number])
    return x


def pruned(kan: KANFunction, z: Tensor, w: Tensor, threshold: float) -> tuple[KANFunction, Tensor]:
    """See :meth:`KANFunction.pruned`."""
    kept = _connected([own >= threshold for own in importances(kan, z, w)])
    if not bool(kept[-1].any()):
        raise ValueError(f"threshold: expected one that leaves edges, got {threshold!r}")
    coefficients = _with_means(kan, z, kan.coefficients(w.unsqueeze(0)), kept)
    alive = [torch.ones_like(kept[0][:, 0]), *(own.any(1) for own in kept[1:])]
    ends = [*alive[1:], torch.ones_like(kept[-1][0])]
    small = [own[below][:, above] for own, below, above in zip(kept, alive, ends, strict=True)]
    edges = torch.nonzero(torch.cat([own.flatten() for own in small])).squeeze(-1)
    nodes = torch.cat(alive)
    found = replace(
        kan,
        widths=(*(int(own.sum()) for own in alive), 1),
        lower=kan.lower[nodes],
        upper=kan.upper[nodes],
        edges=None if all(bool(own.all()) for own in small) else edges,
    )
    parts = zip(coefficients, alive, ends, strict=True)
    return found, found.weights([own[0][below][:, above] for own, below, above in parts])


def _connected(kept: list[Tensor]) -> list[Tensor]:
    """Without edges of hidden nodes that nothing goes into or that lead nowhere."""
    kept = [own.clone() for own in kept]
    for _ in range(len(kept)):
        for before, after in pairwise(kept):
            through = before.any(0) & after.any(1)
            before &= through
            after &= through.unsqueeze(-1)
    return kept


def _with_means(
    kan: KANFunction, z: Tensor, coefficients: list[Tensor], kept: list[Tensor]
) -> list[Tensor]:
    """Edges with the mean values of those that go in the first that stays of each node."""
    traced, _ = kan.traced(z.unsqueeze(0), coefficients)
    found = []
    for (x, basis), own, stays in zip(traced, coefficients, kept, strict=True):
        means = torch.einsum("sbic,sioc->io", basis, own) / x.shape[1]
        moved = torch.where(stays, 0.0, means).sum(0)
        first = stays & (stays.cumsum(0) == 1)
        # The splines add up to one, so a constant is added to each of their coefficients.
        splines = own[..., 1:] + (first * moved).unsqueeze(-1)
        whole = torch.cat([own[..., :1], splines], -1)
        found.append(torch.where(stays.unsqueeze(-1), whole, 0.0))
    return found

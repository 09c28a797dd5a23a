"""What edges of Kolmogorov-Arnold energies cost in a fit, and the parabolas that bound it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies.base import Basis
from sympgp.energies.dissipative_network import DissipativeNetworkBasis
from sympgp.energies.kan_basis import KANBasis
from sympgp.energies.kan_sparsity import deviation_slopes, deviations
from sympgp.energies.lagrangian_basis import LagrangianBasis
from sympgp.energies.sum_basis import SumBasis

ROUND = 1e-3
"""Edges smaller than this, in scaled units, cost as their squares do: slopes exist at zero."""


def sparse_parts(basis: Basis, start: int = 0) -> Iterator[tuple[KANBasis, slice]]:
    """The networks whose edges cost something, and where their weights are."""
    parts: tuple[Basis, ...] = ()
    if isinstance(basis, KANBasis):
        if basis.sparsity:
            yield basis, slice(start, start + basis.num_weights)
    elif isinstance(basis, SumBasis):
        parts = basis.parts
    elif isinstance(basis, LagrangianBasis):
        parts = (basis.function,)
    elif isinstance(basis, DissipativeNetworkBasis):
        parts = (basis.energy, basis.potential)
    for part in parts:
        yield from sparse_parts(part, start)
        start += part.num_weights


def costs(basis: Basis) -> list[float]:
    """The sparsity of each network whose edges cost something."""
    return [kan.sparsity for kan, _ in sparse_parts(basis)]


def edge_penalty(basis: Basis, w: Float[Tensor, "draws weights"]) -> Float[Tensor, " draws"] | None:
    """``sparsity sum_edges |phi|``, in nats; None where edges cost nothing.

    ``|phi|`` is the root mean square of ``phi - mean(phi)`` at the network's reference states,
    rounded at zero: ``sqrt(|phi|^2 + r^2) - r``.
    """
    total: Tensor | None = None
    for kan, own in sparse_parts(basis):
        sizes = (edges(kan, w[:, own]).square().mean(1) + ROUND**2).sqrt() - ROUND
        cost = kan.sparsity * sizes.sum(-1)
        total = cost if total is None else total + cost
    return total


def penalty_rows(
    basis: Basis, w: Float[Tensor, " weights"]
) -> tuple[Float[Tensor, "rows weights"], Float[Tensor, " rows"]] | None:
    """Rows A and a target b with ``|b - A v|^2 / 2`` the penalty's parabola about ``w``.

    A root is below its tangents: with ``c = sqrt(|phi|^2 + r^2)`` at ``w``,

        sqrt(|phi|^2 + r^2) <= (|phi|^2 + r^2) / (2 c) + c / 2,

    a sum of squares of deviations, with equality and the same slope at ``w``. These are made
    linear in the weights, as Gauss-Newton steps do with the data's residuals; so steps minimise a
    majoriser (iteratively reweighted least squares). None where edges cost nothing.

    Source: Hunter and Lange, *A tutorial on MM algorithms*, American Statistician 58 (2004).
    """
    found = []
    for kan, own in sparse_parts(basis):
        at = w[own].detach()
        off = edges(kan, at.unsqueeze(0))[0]
        scale = kan.sparsity / (len(off) * (off.square().mean(0) + ROUND**2).sqrt())
        slopes = deviation_slopes(kan.function, states_of(kan).to(at), at)
        slopes = scale.sqrt().unsqueeze(-1) * slopes
        target = slopes @ at - scale.sqrt() * off
        whole = torch.cat([slopes, target.unsqueeze(-1)], -1)
        # edges out of one node have few weights that they depend on, and those in common
        nodes = [above for below, above in pairwise(kan.function.widths) for _ in range(below)]
        parts = [_reduced(own.flatten(0, 1)) for own in whole.split(nodes, 1)]
        whole = _reduced(torch.cat(parts))
        rows = w.new_zeros(len(whole), len(w))
        rows[:, own] = whole[:, :-1]
        found.append((rows, whole[:, -1]))
    if not found:
        return None
    return torch.cat([rows for rows, _ in found]), torch.cat([target for _, target in found])


def _reduced(whole: Float[Tensor, "rows columns"]) -> Float[Tensor, "fewer columns"]:
    """Rows, targets last, of the same sum of squares up to a constant: as many as weights count."""
    own = whole[:, :-1].any(0).nonzero().squeeze(1)
    if len(whole) <= len(own):
        return whole
    columns = torch.cat([own, own.new_tensor([whole.shape[1] - 1])])
    found = whole.new_zeros(len(own), whole.shape[1])
    found[:, columns] = torch.linalg.qr(whole[:, columns], mode="r")[1][: len(own)]
    return found


def penalty_shapes(basis: Basis) -> list[tuple[int, int]]:
    """Values of edges that a network's rows are made from, and its weights, network by network."""
    found = []
    for kan, _ in sparse_parts(basis):
        widths = kan.function.widths
        count = sum(below * above for below, above in pairwise(widths))
        found.append((len(states_of(kan)) * count, kan.num_weights))
    return found


def states_of(kan: KANBasis) -> Float[Tensor, "states dim"]:
    """The network's reference states.

    Raises:
        RuntimeError: there are none, since its energy was not prepared.
    """
    if kan.states is None:
        raise RuntimeError("a sparse energy has a basis for data only: use prepare")
    return kan.states


def edges(kan: KANBasis, w: Float[Tensor, "draws weights"]) -> Float[Tensor, "draws states edges"]:
    """``phi - mean(phi)`` of all edges, layer by layer, at the network's reference states."""
    function, z = kan.function, states_of(kan)
    coefficients = function.coefficients(w)
    traced, _ = function.traced(z.to(w).expand(len(w), *z.shape), coefficients)
    return torch.cat([own.flatten(2) for own in deviations(traced, coefficients)], 2)

"""The edges of Kolmogorov-Arnold networks: their splines, their weights and the prior of those."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import silu

from sympgp.energies.arguments import check_count, check_positive
from sympgp.energies.kan_angles import Embedding
from sympgp.energies.splines import bsplines, greville, num_splines

SPLINE_START = 0.3
"""Standard deviation of the splines of weights to begin with, by that of the prior."""

NUGGET = 1e-3
"""Share of the spline coefficients' prior variance that they have each for itself."""


@dataclass(frozen=True, eq=False)
class KANEdges:
    """Learned one-dimensional functions between layers of nodes, see ``KANFunction``.

    Weights of an edge are ``(w_b, v)``; edges come layer by layer, in each layer input by input.

    Attributes:
        widths: inputs, D and one more for each angle; hidden nodes; and 1.
        lower: where the grid of each node begins, inputs first, then layer by layer.
        upper: where it ends.
        grid: intervals of every grid.
        order: degree of the splines, at least 2.
        smoothness: lengthscale of the prior, in half-widths of a grid.
        edges: which of all edges there are, in order, the others being zero; all of them when None.
        periodic: the entries of the state that are angles.
        waves: their k, ``2 pi`` over the scaled period.
    """

    widths: tuple[int, ...]
    lower: Float[Tensor, " nodes"]
    upper: Float[Tensor, " nodes"]
    grid: int = 5
    order: int = 3
    smoothness: float = 1.0
    edges: Int[Tensor, " edges"] | None = None
    periodic: tuple[int, ...] = ()
    waves: Float[Tensor, " angles"] | None = None

    def __post_init__(self) -> None:
        for name, least in (("grid", 1), ("order", 2)):
            check_count(name, getattr(self, name), least)
        check_positive("smoothness", self.smoothness)
        if len(self.widths) < 2 or min(self.widths) < 1 or self.widths[-1] != 1:
            raise ValueError(f"widths: expected inputs, hidden nodes and 1, got {self.widths!r}")
        nodes = sum(self.widths[:-1])
        if len(self.lower) != nodes or len(self.upper) != nodes:
            raise ValueError(f"lower, upper: expected {nodes} numbers, one for each node")
        if not bool((self.lower < self.upper).all()):
            raise ValueError("lower, upper: expected grids with lower < upper")

    @property
    def dim(self) -> int:
        """Entries of a state D."""
        return self.widths[0] - len(self.periodic)

    @cached_property
    def embedding(self) -> Embedding:
        """Of states in the first nodes."""
        return Embedding(self.dim, self.periodic, self.waves)

    @property
    def per_edge(self) -> int:
        """Weights of one edge C."""
        return 1 + num_splines(self.grid, self.order)

    @cached_property
    def layer_edges(self) -> tuple[int, ...]:
        """How many of each layer's edges there are."""
        ends = torch.tensor([0, *self.edge_ends])
        if self.edges is None:
            return tuple(ends.diff().tolist())
        inside = torch.searchsorted(self.edges.cpu(), ends)
        return tuple(inside.diff().tolist())

    @cached_property
    def edge_ends(self) -> tuple[int, ...]:
        """Number of edges, there or not, up to the end of each layer."""
        counts = torch.tensor([below * above for below, above in pairwise(self.widths)])
        return tuple(counts.cumsum(0).tolist())

    @property
    def num_weights(self) -> int:
        """P."""
        return self.per_edge * sum(self.layer_edges)

    @cached_property
    def unit_variance(self) -> Float[Tensor, " weights"]:
        """Prior variances at which every node has a variance of about one: one over fan-in."""
        fans = [1.0 / below for below in self.widths[:-1]]
        counts = torch.tensor([self.per_edge * count for count in self.layer_edges])
        return self.lower.new_tensor(fans).repeat_interleave(counts.to(self.lower.device))

    @cached_property
    def root(self) -> Float[Tensor, "splines splines"]:
        """``A``, the symmetric root of the spline coefficients' prior covariance."""
        places = greville(self.grid, self.order, self.lower.to(torch.float64))
        distance = math.sqrt(5.0) * (places[:, None] - places).abs() / self.smoothness
        covariance = (1.0 + distance + distance.square() / 3.0) * (-distance).exp()
        eye = torch.eye(len(places), dtype=places.dtype, device=places.device)
        values, vectors = torch.linalg.eigh((1.0 - NUGGET) * covariance + NUGGET * eye)
        return ((vectors * values.sqrt()) @ vectors.mT).to(self.lower)

    def ranges(self, layer: int) -> tuple[Tensor, Tensor]:
        """Where the grids of a layer's inputs begin and end."""
        first = sum(self.widths[:layer])
        own = slice(first, first + self.widths[layer])
        return self.lower[own], self.upper[own]

    def present(self, layer: int) -> Bool[Tensor, "inputs outputs"]:
        """Which edges of a layer there are."""
        below, above = self.widths[layer : layer + 2]
        every = torch.ones(self.edge_ends[-1], dtype=torch.bool, device=self.lower.device)
        if self.edges is not None:
            every = torch.zeros_like(every)
            every[self.edges] = True
        last = self.edge_ends[layer]
        return every[last - below * above : last].reshape(below, above)

    def expand(self, layer: int, x: Tensor, derivatives: int = 0) -> tuple[Tensor, ...]:
        """Base function and B-splines of a layer's inputs, (..., in, C), and derivatives."""
        lower, upper = (bound.to(x) for bound in self.ranges(layer))
        splines = bsplines(x, lower, upper, self.grid, self.order, derivatives)
        sigmoid = x.sigmoid() if derivatives else x
        bases = [silu(x)]
        if derivatives > 0:
            bases.append(sigmoid * (1.0 + x * (1.0 - sigmoid)))
        if derivatives > 1:
            bases.append(sigmoid * (1.0 - sigmoid) * (2.0 + x * (1.0 - 2.0 * sigmoid)))
        pairs = zip(bases, splines, strict=True)
        return tuple(torch.cat([base.unsqueeze(-1), own], -1) for base, own in pairs)

    def coefficients(self, w: Float[Tensor, "*draws weights"]) -> list[Tensor]:
        """``(w_b, c)`` of all edges, layer by layer (..., in, out, C); zero where there is none."""
        rows = w.reshape(*w.shape[:-1], -1, self.per_edge)
        rows = torch.cat([rows[..., :1], rows[..., 1:] @ self.root.to(w)], -1)
        if self.edges is not None:
            places = torch.full((self.edge_ends[-1],), len(self.edges), device=w.device)
            places[self.edges] = torch.arange(len(self.edges), device=w.device)
            rows = torch.cat([rows, torch.zeros_like(rows[..., :1, :])], -2)[..., places, :]
        layers = rows.split([b * a for b, a in pairwise(self.widths)], -2)
        shapes = zip(layers, pairwise(self.widths), strict=True)
        return [own.reshape(*w.shape[:-1], *shape, self.per_edge) for own, shape in shapes]

    def whitened(self, basis: Float[Tensor, "*batch functions"]) -> Float[Tensor, "*batch own"]:
        """What an edge's own weights multiply, from what its coefficients do."""
        return torch.cat([basis[..., :1], basis[..., 1:] @ self.root.to(basis)], -1)

    def weights(self, coefficients: Sequence[Tensor]) -> Float[Tensor, "*draws weights"]:
        """The weights of which these are the coefficients of the edges that there are."""
        return self._joined(coefficients, torch.linalg.inv(self.root.double()))

    def transposed(self, coefficients: Sequence[Tensor]) -> Float[Tensor, "*draws weights"]:
        """Derivatives by the weights from those by the coefficients."""
        return self._joined(coefficients, self.root)

    def _joined(self, coefficients: Sequence[Tensor], matrix: Tensor) -> Tensor:
        rows = torch.cat([own.flatten(-3, -2) for own in coefficients], -2)
        if self.edges is not None:
            rows = rows[..., self.edges, :]
        rows = torch.cat([rows[..., :1], rows[..., 1:] @ matrix.to(rows)], -1)
        return rows.flatten(-2)

    @property
    def last_layer(self) -> slice:
        """The weights in which the output is linear."""
        return slice(self.num_weights - self.per_edge * self.layer_edges[-1], self.num_weights)

    def initial(self, num: int, generator: torch.Generator) -> Float[Tensor, "num weights"]:
        """Base functions as the unit prior has them, and splines a third of that.

        Args:
            num: rows.
            generator: of the CPU.
        """
        drawn = torch.randn(num, self.num_weights, generator=generator, dtype=torch.float64)
        share = torch.full((self.per_edge,), SPLINE_START, dtype=torch.float64)
        share[0] = 1.0
        share = share.repeat(sum(self.layer_edges))
        return drawn.to(self.lower) * share.to(self.lower) * self.unit_variance.sqrt()

    def dropout(
        self, rate: float, num: int, generator: torch.Generator
    ) -> Float[Tensor, "num weights"]:
        """Factors of the weights that drop hidden nodes: those of edges out of them.

        Args:
            rate: probability that a node is dropped.
            num: rows.
            generator: of the CPU.
        """
        hidden = sum(self.widths[1:-1])
        kept = torch.rand(num, hidden, generator=generator, dtype=torch.float64) >= rate
        inputs = torch.ones(num, self.widths[0], dtype=torch.float64)
        nodes = torch.cat([inputs, kept.to(torch.float64) / (1.0 - rate)], -1)
        fans = torch.cat([torch.full((b,), a) for b, a in pairwise(self.widths)])
        edges = nodes.to(self.lower).repeat_interleave(fans.to(self.lower.device), -1)
        if self.edges is not None:
            edges = edges[:, self.edges]
        return edges.repeat_interleave(self.per_edge, -1)

"""Kolmogorov-Arnold networks as functions of states and weights (Liu et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies import kan_refinement as refinement
from sympgp.energies import kan_sparsity as sparsity
from sympgp.energies.arguments import check_one_of
from sympgp.energies.kan_edges import KANEdges
from sympgp.energies.kan_layers import Pass, grouped
from sympgp.energies.kan_symbols import KINDS, Symbol, match, renamed

HIDDEN_RANGE = 2.0
"""Grids of hidden nodes go from minus this to this: two standard deviations of the prior."""


@dataclass(frozen=True, eq=False)
class KANFunction(KANEdges):
    r"""``H(z; w)`` by layers of learned one-dimensional functions on edges that nodes add up.

    ``x_l+1,o = sum_i phi_l,io(x_l,i)`` from ``x_0 = z`` to the single output, with edges

        phi(x) = b(x) w_b + sum_k c_k B_k(x),   b(x) = x / (1 + exp(-x)),

    ``B_k`` the B-splines of a uniform grid, which go on as straight lines beyond it. The spline's
    coefficients are ``c = A v`` with standardised weights ``v``: for ``v ~ N(0, I)`` they are a
    Gaussian process with Matern-5/2 covariance over the places of their B-splines, its
    lengthscale ``smoothness`` half-widths of the grid. So the prior is one over smooth functions,
    whatever the number of intervals. Weights of an edge are ``(w_b, v)``; edges come layer by
    layer, in each layer input by input. Angles enter as cosines, in their places, and as sines,
    after all other entries of the state: H is periodic in them.

    Attributes:
        widths: inputs, D and one more for each angle; hidden nodes; and 1.
        lower: where the grid of each node begins, inputs first, then layer by layer.
        upper: where it ends.
        grid: intervals of every grid.
        order: degree of the splines, at least 2; with 3 second derivatives are continuous.
        smoothness: lengthscale of the prior.
        edges: which of all edges there are, the others being zero; all of them when None.
        periodic: the entries of the state that are angles.
        waves: their k, ``2 pi`` over the scaled period: they enter as ``cos kz`` and ``sin kz``.

    Source: Liu et al., *KAN: Kolmogorov-Arnold Networks*, 2024, eqs. 2.10-2.12.

    Example:
        >>> one = torch.ones(2, dtype=torch.float64)
        >>> kan = KANFunction.on_box(-one, one, hidden=(5,))
        >>> kan.widths, kan.num_weights
        ((2, 5, 1), 135)
        >>> w = kan.initial(1, torch.Generator().manual_seed(0))[0]
        >>> kan(torch.zeros(7, 2, dtype=torch.float64), w).shape
        torch.Size([7])
    """

    @classmethod
    def on_box(
        cls,
        lower: Float[Tensor, " inputs"],
        upper: Float[Tensor, " inputs"],
        hidden: Sequence[int] = (5,),
        grid: int = 5,
        order: int = 3,
        smoothness: float = 1.0,
        periodic: Sequence[int] = (),
        waves: Float[Tensor, " angles"] | None = None,
    ) -> KANFunction:
        """With grids of the states between these bounds, and usual ones of the other nodes.

        Args:
            lower: (D,) least value of each entry of the state; angles have grids of their own.
            upper: (D,) greatest.
            hidden: nodes of each hidden layer.
            grid: intervals of each grid.
            order: degree of the splines.
            smoothness: lengthscale of the prior in half-widths of a grid.
            periodic: the entries that are angles.
            waves: ``2 pi`` over their periods; ones when None.
        """
        inner, one = lower.new_full((sum(hidden),), HIDDEN_RANGE), lower.new_ones(len(periodic))
        low, high = lower.clone(), upper.clone()
        low[list(periodic)], high[list(periodic)] = -one, one
        low, high = torch.cat([low, -one, -inner]), torch.cat([high, one, inner])
        known = one if waves is None else waves
        turns = tuple(periodic), known if len(periodic) else None
        widths = (len(lower) + len(periodic), *hidden, 1)
        return cls(widths, low, high, grid, order, smoothness, None, *turns)

    def __call__(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch"]:
        """``H(z; w)``; a batch of draws (S, P) takes states (S, ..., D)."""
        x, coefficients = self._aligned(z, w)
        return self.traced(x, coefficients)[1].reshape(z.shape[:-1])

    def traced(
        self, z: Tensor, coefficients: Sequence[Tensor]
    ) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Every layer's inputs (S, B, in) and its functions there (S, B, in, C), and the output.

        Args:
            z: (S, B, D) states.
            coefficients: (S, in, out, C) of every layer.
        """
        x, found = self.embedding(z), []
        for number, own in enumerate(coefficients):
            (basis,) = self.expand(number, x)
            found.append((x, basis))
            x = torch.einsum("sbic,sioc->sbo", basis, own)
        return found, x.squeeze(-1)

    def _aligned(self, z: Tensor, w: Tensor) -> tuple[Tensor, list[Tensor]]:
        """States (S, B, D) and coefficients (S, in, out, C), S being one for shared weights."""
        own = w if w.dim() > 1 else w.unsqueeze(0)
        return grouped(z, len(own)), self.coefficients(own)

    def passed(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"], derivatives: int
    ) -> Pass:
        """All of one pass, for states (S, B, D) with S one where weights are shared."""
        x, coefficients = self._aligned(z, w)
        return Pass(self.expand, self.embedding, coefficients, x, derivatives)

    def gradient(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch dim"]:
        """``dH/dz``."""
        return self.passed(z, w, 1).gradient.reshape(z.shape)

    def hessian(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch dim dim"]:
        """``d2H/dz2``."""
        return self.passed(z, w, 2).hessian().reshape(*z.shape, z.shape[-1])

    def jet(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Value, gradient and second derivatives in one pass."""
        made = self.passed(z, w, 2)
        hessian = made.hessian().reshape(*z.shape, z.shape[-1])
        return made.value.reshape(z.shape[:-1]), made.gradient.reshape(z.shape), hessian

    def features(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"]
    ) -> Float[Tensor, "*batch weights"]:
        """``dH/dw``."""
        found = self.transposed(self.passed(z, w, 1).by_coefficients())
        return found.reshape(*z.shape[:-1], -1)

    def feature_gradient(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"]
    ) -> Float[Tensor, "*batch dim weights"]:
        """``d(dH/dz) / dw``."""
        made = self.passed(z, w, 2)
        return self.transposed(made.mixed(made.eye())).reshape(*z.shape, -1)

    def pulled(
        self,
        z: Float[Tensor, "draws batch dim"],
        directions: Float[Tensor, "draws batch dim several"],
        w: Float[Tensor, "*draws weights"],
    ) -> Float[Tensor, "draws several weights"]:
        """``sum_b v_b . d(dH/dz)(z_b) / dw`` for every draw and direction.

        Shared weights take draws as groups of states.
        """
        rows = w if w.dim() > 1 else w.expand(len(z), -1)
        return self.transposed(self.passed(z, rows, 2).pulled(directions))

    def penalty(
        self,
        z: Float[Tensor, "states dim"],
        w: Float[Tensor, "*draws weights"],
        entropy: float = 1.0,
    ) -> Float[Tensor, "*draws"]:
        """What many and large edges cost: a term for training that makes networks sparse.

            sum_l |Phi_l| + entropy S(Phi_l),   |Phi_l| = sum_io |phi_io|,
            S(Phi_l) = -sum_io (|phi_io| / |Phi_l|) log(|phi_io| / |Phi_l|)

        with ``|phi|`` the mean absolute deviation of an edge from its mean at the states: its
        constant could stand in any other edge.

        Args:
            z: (B, D) states.
            w: (P,) or (S, P).
            entropy: weight of the entropies.

        Source: Liu et al. (2024), eqs. 2.17-2.20, where ``|phi|`` is the mean absolute value.
        """
        return sparsity.penalty(self, z, w, entropy)

    def importances(
        self, z: Float[Tensor, "states dim"], w: Float[Tensor, " weights"]
    ) -> list[Tensor]:
        """How much of H hangs on each edge, layer by layer (in, out).

        The standard deviation of the change of H when the edge is replaced by its mean, as a
        share of the standard deviation of H at the states.
        """
        return sparsity.importances(self, z, w)

    def pruned(
        self, z: Float[Tensor, "states dim"], w: Float[Tensor, " weights"], threshold: float = 0.01
    ) -> tuple[KANFunction, Float[Tensor, " fewer"]]:
        """Without the edges whose importance is below a threshold, and the nodes they leave idle.

        Their mean values go to other edges, so that what dead edges do is nothing.

        Args:
            z: (B, D) states.
            w: (P,).
            threshold: least ``importances``.

        Raises:
            ValueError: no edge would be left.
        """
        return sparsity.pruned(self, z, w, threshold)

    def refined(
        self,
        grid: int,
        w: Float[Tensor, "*draws weights"],
        z: Float[Tensor, "states dim"] | None = None,
        *,
        adapt: bool = False,
    ) -> tuple[KANFunction, Float[Tensor, "*draws others"]]:
        """The same functions on grids with another number of intervals.

        Coefficients are found by least squares at places all along the grids and at the inputs
        that the states give every layer. Where the new number is a multiple of the old one and
        the ranges stay, functions are the same to rounding.

        Args:
            grid: intervals.
            w: (P,) or (S, P).
            z: (B, D) states.
            adapt: put the grids around the inputs that the states give every layer.

        Source: Liu et al. (2024), section 2.4.
        """
        return refinement.refined(self, grid, w, z, adapt)

    def symbols(
        self,
        z: Float[Tensor, "states dim"],
        w: Float[Tensor, " weights"],
        names: Sequence[str] = tuple(KINDS),
        enough: float = 0.999,
    ) -> list[Symbol]:
        """Simple functions ``c f(a x + b) + d`` that the edges look like at the states.

        Args:
            z: (B, D) states.
            w: (P,).
            names: functions to try, simplest first: "x", "x^2", "x^3", "x^4", "exp", "sin",
                "cos", "abs", "sqrt", "log", "1/x" and "tanh".
            enough: R^2 at which the simplest function is taken; where none has it, the one with
                the largest R^2.

        Raises:
            ValueError: a name of no function, or no names.

        Source: Liu et al. (2024), section 2.5.1.
        """
        for name in names:
            check_one_of("names", name, KINDS)
        found = []
        for layer, (x, values) in enumerate(self.edge_values(z, w)):
            for i, o in torch.nonzero(self.present(layer)).tolist():
                fitted = match(x[:, i], values[:, i, o], names, enough)
                found.append(renamed(Symbol(layer, i, o, *fitted)))
        return found

    def edge_values(
        self, z: Float[Tensor, "states dim"], w: Float[Tensor, " weights"]
    ) -> list[tuple[Tensor, Tensor]]:
        """Inputs (B, in) of every layer at the states, and its edges there (B, in, out)."""
        coefficients = self.coefficients(w.detach().unsqueeze(0))
        found, _ = self.traced(z.unsqueeze(0), coefficients)
        return [
            (x[0], torch.einsum("sbic,sioc->bio", basis, own))
            for (x, basis), own in zip(found, coefficients, strict=True)
        ]

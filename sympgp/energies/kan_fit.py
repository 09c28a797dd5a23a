"""Kolmogorov-Arnold networks as plain regressions: Levenberg-Marquardt on growing grids."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies.arguments import check_count
from sympgp.energies.kan_function import KANFunction
from sympgp.energies.kan_sparsity import cost, deviations

RIDGE = 1e-10
"""Precision of the weights' prior, by that of the standardised values."""

FIRST_DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-2, 1e-12, 1e8
"""Of Levenberg and Marquardt, by the mean curvature."""

CLOSE = 1e-8
"""A smaller relative fall of the objective than this, three times in a row, ends a fit."""


@dataclass(frozen=True)
class FittedKAN:
    """A network and the weights that were found.

    Attributes:
        function: the network, on its last grid.
        weights: (P,).
        errors: root mean squared error on the data after every grid.
    """

    function: KANFunction
    weights: Float[Tensor, " weights"]
    errors: tuple[float, ...]

    def __call__(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """What the network says at inputs."""
        return self.function(x, self.weights)


def fit_function(
    kan: KANFunction,
    x: Float[Tensor, "points dim"],
    y: Float[Tensor, " points"],
    *,
    grids: Sequence[int] = (),
    sparsity: float = 0.0,
    start: Float[Tensor, " weights"] | None = None,
    steps: int = 100,
    ridge: float = RIDGE,
    starts: int = 1,
    seed: int = 0,
) -> FittedKAN:
    """Fit ``y = f(x)`` by a network, on its own grid and then on others.

    Least is ``mean((f(x) - y)^2) / var(y) + ridge sum(w^2 / unit_variance) + sparsity penalty``,
    the last as :meth:`KANFunction.penalty` has it. The curvature is that of Gauss and Newton;
    absolute values count in it as the parabolas that touch them.

    Args:
        kan: the network.
        x: (N, D) inputs.
        y: (N,) values.
        grids: numbers of intervals to go on with, each fitted to the inputs of its layer.
        sparsity: weight of the penalty; some 1e-3 to 1e-2 to find which edges matter.
        start: weights to begin with; ``kan.initial`` when None.
        starts: of so many initial weights those whose end on the first grid is the best are kept:
            sparse fits in particular have poor ends too. Not used with ``start``.
        steps: at most so many on each grid.
        ridge: weight of the prior.
        seed: of the weights to begin with.

    Raises:
        ValueError: y that does not vary; x, y or start of other shapes; no starts.

    Source: Liu et al. (2024), sections 2.4 and 2.5, who train with LBFGS.

    Example:
        >>> x = torch.linspace(-1.0, 1.0, 50, dtype=torch.float64).unsqueeze(-1)
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> fitted = fit_function(KANFunction.on_box(-one, one, hidden=()), x, x[:, 0] ** 3)
        >>> fitted.errors[-1] < 1e-4
        True
    """
    check_count("starts", starts)
    _check_shapes(kan, x, y, start)
    spread = y.std()
    if not bool(spread > 0):
        raise ValueError("y: expected values that vary")
    first = _Objective(kan, x, y, spread, sparsity, ridge)
    if start is None:
        rows = spread * kan.initial(starts, torch.Generator().manual_seed(seed)).to(x)
        ends = [descended(first, row, steps) for row in rows]
        w = min(ends, key=lambda end: float(first.value(end)))
    else:
        w = descended(first, start, steps)
    errors = [_error(kan, x, y, w)]
    for grid in grids:
        kan, w = kan.refined(grid, w, x, adapt=True)
        w = descended(_Objective(kan, x, y, spread, sparsity, ridge), w, steps)
        errors.append(_error(kan, x, y, w))
    return FittedKAN(kan, w, tuple(errors))


def _check_shapes(kan: KANFunction, x: Tensor, y: Tensor, start: Tensor | None) -> None:
    if x.dim() != 2 or x.shape[1] != kan.dim:
        raise ValueError(f"x: expected shape (N, {kan.dim}), got {tuple(x.shape)}")
    if y.shape != x.shape[:1]:
        raise ValueError(f"y: expected shape ({len(x)},), one value an input, got {tuple(y.shape)}")
    if start is not None and start.shape != (kan.num_weights,):
        raise ValueError(f"start: expected shape ({kan.num_weights},), got {tuple(start.shape)}")


def _error(kan: KANFunction, x: Tensor, y: Tensor, w: Tensor) -> float:
    return float((kan(x, w) - y).square().mean().sqrt())


class Descent(ABC):
    """What is to be least."""

    @abstractmethod
    def value(self, w: Tensor) -> Tensor:
        """The objective."""

    @abstractmethod
    def derivatives(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Its gradient and a curvature that is not negative."""


@dataclass(frozen=True)
class _Objective(Descent):
    """What is least, its gradient and a curvature that is positive definite."""

    kan: KANFunction
    x: Tensor
    y: Tensor
    spread: Tensor
    sparsity: float
    ridge: float

    def value(self, w: Tensor) -> Tensor:
        """The objective."""
        coefficients = self.kan.coefficients(w.unsqueeze(0))
        traced, output = self.kan.traced(self.x.unsqueeze(0), coefficients)
        misfit = ((output[0] - self.y) / self.spread).square().mean()
        total = misfit + self.ridge * (w.square() / self.kan.unit_variance.to(w)).sum()
        if self.sparsity:
            edges = cost(deviations(traced, coefficients))
            total = total + self.sparsity / self.spread * edges[0]
        return total

    def derivatives(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Its gradient and the curvature."""
        leaf = w.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(self.value(leaf), leaf)
        rows = self.kan.features(self.x, w) / self.spread
        curvature = 2.0 * rows.mT @ rows / len(self.y)
        curvature.diagonal().add_(2.0 * self.ridge / self.kan.unit_variance.to(w))
        return slope, curvature + self._sparse(w) if self.sparsity else curvature

    def _sparse(self, w: Tensor) -> Tensor:
        """``mean(dphi dphi') / |phi|`` for every edge's own weights."""
        kan = self.kan
        coefficients = kan.coefficients(w.unsqueeze(0))
        traced, _ = kan.traced(self.x.unsqueeze(0), coefficients)
        blocks = []
        for layer, own in enumerate(deviations(traced, coefficients)):
            basis = traced[layer][1][0]
            white = kan.whitened(basis - basis.mean(0))
            sizes = own[0].square().mean(0).sqrt().clamp(min=1e-4 * float(self.spread))
            second = torch.einsum("bic,bid->icd", white, white) / len(basis)
            whole = second.unsqueeze(1) / sizes[..., None, None]
            blocks.append(whole[kan.present(layer)])
        return self.sparsity / self.spread * torch.block_diag(*torch.cat(blocks))


def descended(objective: Descent, w: Tensor, steps: int) -> Tensor:
    """Levenberg-Marquardt: a step is taken where the objective falls."""
    value = objective.value(w)
    damping, idle = FIRST_DAMPING, 0
    for _ in range(steps):
        slope, curvature = objective.derivatives(w)
        found = _step(objective.value, w, value, slope, curvature, damping)
        if found is None:
            break
        w, lower, damping = found
        idle = idle + 1 if float(value - lower) <= CLOSE * float(value) else 0
        value = lower
        if idle == 3:
            break
    return w


def _step(
    objective: Callable[[Tensor], Tensor],
    w: Tensor,
    value: Tensor,
    slope: Tensor,
    curvature: Tensor,
    damping: float,
) -> tuple[Tensor, Tensor, float] | None:
    """The next weights, the objective there and the next damping; None where it cannot fall."""
    size = curvature.diagonal().mean()
    eye = torch.eye(len(w), dtype=w.dtype, device=w.device)
    while damping < MOST_DAMPING:
        factor, failed = torch.linalg.cholesky_ex(curvature + damping * size * eye)
        if not int(failed):
            new = w - torch.cholesky_solve(slope.unsqueeze(-1), factor).squeeze(-1)
            lower = objective(new)
            if bool(lower < value):
                return new, lower, max(0.3 * damping, LEAST_DAMPING)
        damping *= 4.0
    return None

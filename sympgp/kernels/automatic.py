"""Covariances of H whose derivatives are found by automatic differentiation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from gpytorch.kernels import Kernel, PeriodicKernel
from jaxtyping import Float
from linear_operator import to_dense
from torch import Tensor

from sympgp.kernels.energy import EnergyKernel, Spectrum

NEAR, FAR = 1e-3, 1e-2
"""Distances at which the smoothness of an unknown kernel is probed."""


class Dense(torch.nn.Module):
    """A GPyTorch kernel as a module whose call gives a dense matrix."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The kernel's own ``forward``, without choosing among the inputs."""
        periodic = [part for part in self.kernel.modules() if isinstance(part, PeriodicKernel)]
        for part in periodic:
            part.covar_dist = _signed_distance
        try:
            return to_dense(self.kernel.forward(x, y))
        finally:
            for part in periodic:
                del part.covar_dist


def _signed_distance(x: Tensor, y: Tensor, **settings: Any) -> Tensor:
    """Differences (..., D, B, C): periodic kernels are even, and the modulus has a kink at zero."""
    return x.mT.unsqueeze(-1) - y.mT.unsqueeze(-2)


@dataclass(frozen=True, eq=False)
class Automatic(EnergyKernel):
    """Any GPyTorch kernel that is smooth enough, pair by pair through autograd.

    Batches of kernels work where the kernel takes batches of states in front of its own.

    Attributes:
        module: the kernel.
        parameters: those that replace the module's own, by name.
        inputs: which coordinates the kernel depends on; all when None.
        factor: (*batch) multiplies the kernel.
    """

    module: Dense
    parameters: Mapping[str, Tensor]
    inputs: Tensor | None
    factor: Float[Tensor, "*batch"]

    def _evaluate(self, x: Tensor, y: Tensor) -> Tensor:
        """Covariance of pairs x, y (P, *batch, 1, D): (P, *batch)."""
        if self.inputs is not None:
            x, y = x[..., self.inputs], y[..., self.inputs]
        # With a second column, kernels do not take short cuts for equal arguments, which would
        # leave one of the two out of the derivatives.
        y = torch.cat([y, y.detach() + 1.0], -2)
        if self.parameters:
            call = torch.func.functional_call
            found = call(self.module, dict(self.parameters), (x, y))
        else:
            found = self.module(x, y)
        return self.factor * found[..., 0, 0]

    def _derivatives(self, x: Tensor, y: Tensor, order: int) -> tuple[Tensor, ...]:
        """Value (P, *batch) and its derivatives: (..., D) by y, (..., D, D) by x and y."""
        causes = (
            x,
            y,
            self.factor,
            *(self.parameters or dict(self.module.named_parameters())).values(),
        )
        graph = torch.is_grad_enabled() and any(cause.requires_grad for cause in causes)
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            y = y if y.requires_grad else y.detach().requires_grad_()
            value = self._evaluate(x, y)
            found = [value]
            if order:
                (slope,) = torch.autograd.grad(value.sum(), y, create_graph=graph or order > 1)
                found.append(slope.squeeze(-2))
            if order > 1:
                found.append(_jacobian(slope.squeeze(-2), x, graph))
        return tuple(found) if graph else tuple(part.detach() for part in found)

    def _all(self, x: Tensor, y: Tensor, order: int) -> Tensor:
        """The derivative of this order for all pairs of rows of x and columns of y."""
        batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2], self.module.kernel.batch_shape)
        rows, columns = x.shape[-2], y.shape[-2]
        shape = (*batch, rows, columns, x.shape[-1])

        def flat(states: Tensor) -> Tensor:
            """Pairs in front of the batch, where GPyTorch's batched parameters do not see them."""
            front = states.expand(shape).movedim((-3, -2), (0, 1))
            return front.reshape(rows * columns, *batch, 1, shape[-1])

        found = self._derivatives(flat(x.unsqueeze(-2)), flat(y.unsqueeze(-3)), order)[order]
        tail = found.shape[1:]
        own = len(tail) - order
        whole = found.reshape(rows, columns, *tail)
        return whole.movedim((0, 1), (own, own + 1))

    def _each(self, x: Tensor, order: int) -> Tensor:
        """The derivative of this order of every state with itself."""
        batch = torch.broadcast_shapes(x.shape[:-2], self.module.kernel.batch_shape)
        pairs = x.expand(*batch, *x.shape[-2:]).movedim(-2, 0).unsqueeze(-2)
        found = self._derivatives(pairs, pairs.clone(), order)[order]
        return found.movedim(0, found.dim() - 1 - order)

    def value(
        self, x: Float[Tensor, "*batch rows dim"], y: Float[Tensor, "*other columns dim"]
    ) -> Float[Tensor, "*both rows columns"]:
        """``k(x, y)``."""
        return self._all(x, y, 0)

    def gradient(
        self, x: Float[Tensor, "*batch rows dim"], y: Float[Tensor, "*other columns dim"]
    ) -> Float[Tensor, "*both rows columns dim"]:
        """``dk/dy``."""
        return self._all(x, y, 1)

    def hessian(
        self, x: Float[Tensor, "*batch rows dim"], y: Float[Tensor, "*other columns dim"]
    ) -> Float[Tensor, "*both rows columns dim dim"]:
        """``d2k / dx dy'``."""
        return self._all(x, y, 2)

    def variance_at(self, x: Float[Tensor, "*batch rows dim"]) -> Float[Tensor, "*both rows"]:
        """``k(x, x)``."""
        return self._each(x, 0)

    def hessian_at(
        self, x: Float[Tensor, "*batch rows dim"]
    ) -> Float[Tensor, "*both rows dim dim"]:
        """``cov(grad H(x), grad H(x))``."""
        return self._each(x, 2)

    def scaled(self, factor: Float[Tensor, "*batch"]) -> Automatic:
        """``factor * k``."""
        return replace(self, factor=factor * self.factor)

    def spectrum(self, dim: int, num_features: int, seed: int) -> Spectrum:
        """Not known.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"base_kernel: no spectral density is known for {self._name}, so its functions cannot "
            "be drawn; RBF and Matern kernels, scaled or summed, can"
        )

    def to(self, like: Tensor) -> Automatic:
        """Detached copy of what replaces the module's parameters; the module stays where it is."""
        parameters = {name: value.detach() for name, value in self.parameters.items()}
        return replace(self, parameters=parameters, factor=self.factor.detach().to(like))

    def plain(self) -> dict[str, Any]:
        """Not possible.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"base_kernel: {self._name} is code and not numbers, so it cannot be saved; RBF and "
            "Matern kernels, scaled or summed, can"
        )

    @property
    def _name(self) -> str:
        return type(self.module.kernel).__name__

    def check(self, dim: int) -> None:
        """Refuse a kernel whose functions have no gradient.

        Raises:
            ValueError: ``cov(grad H, grad H)`` does not exist at coinciding states, or autograd
                does not find it there.
        """
        generator = torch.Generator().manual_seed(0)
        x = 0.3 * torch.randn(1, dim, generator=generator, dtype=torch.float64)
        x = x.to(self.factor.device)
        unit = torch.full_like(x, dim**-0.5)
        with torch.no_grad():
            # The variance of a difference quotient tends to that of the derivative, or grows.
            near, far = (self._quotient(x, step * unit) / step**2 for step in (NEAR, FAR))
            try:
                matrix = self.hessian_at(x)
            except RuntimeError:  # operations without second derivatives
                matrix = torch.full((dim, dim), torch.nan).to(near)
            own = (unit.unsqueeze(-2) @ matrix @ unit.unsqueeze(-1)).reshape(near.shape)
        if not bool((near < 3.0 * far + 1e-9).all()):
            raise ValueError(
                f"base_kernel: {self._name} is not twice differentiable at coinciding states, so "
                "H would have no gradient; use RBFKernel or MaternKernel(nu=2.5)"
            )
        if not torch.allclose(near, own, rtol=0.05, atol=1e-6):
            raise ValueError(
                f"base_kernel: automatic differentiation does not find the derivatives of "
                f"{self._name} at coinciding states; use sums of RBFKernel or MaternKernel(nu=2.5)"
            )

    def _quotient(self, x: Tensor, step: Tensor) -> Tensor:
        """Variance of ``H(x + step) - H(x)``."""
        both = torch.cat([x, x + step], -2)
        k = self.value(both, both)
        return k[..., 0, 0] + k[..., 1, 1] - k[..., 0, 1] - k[..., 1, 0]


def _jacobian(slope: Tensor, x: Tensor, graph: bool) -> Tensor:
    """``d slope_j / d x_i`` of pairs (P, *batch, 1, D), as (..., i, j)."""
    dim, columns = slope.shape[-1], []
    for j in range(dim):
        keep = graph or j + 1 < dim
        total = slope[..., j].sum()
        if not total.requires_grad:
            columns.append(torch.zeros_like(x.squeeze(-2)))
            continue
        (column,) = torch.autograd.grad(
            total, x, create_graph=graph, retain_graph=keep, allow_unused=True
        )
        columns.append((torch.zeros_like(x) if column is None else column).squeeze(-2))
    return torch.stack(columns, -1)

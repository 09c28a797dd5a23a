"""GPyTorch kernels as covariances of H."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from gpytorch.kernels import AdditiveKernel, Kernel, MaternKernel, RBFKernel, ScaleKernel
from torch import Tensor

from sympgp.kernels.automatic import Automatic, Dense
from sympgp.kernels.energy import EnergyKernel, SumKernel
from sympgp.kernels.gpytorch_quadratic import QuadraticKernel
from sympgp.kernels.quadratic import Quadratic
from sympgp.kernels.stationary import Stationary


def energy_kernel(
    base: Kernel, dim: int, parameters: Mapping[str, Tensor] | None = None, check: bool = False
) -> EnergyKernel:
    """The derivatives of a GPyTorch kernel on states of width ``dim``.

    In closed form for RBF, Matern (3/2 and 5/2) and :class:`QuadraticKernel`, scaled and summed,
    with any ``active_dims``; by automatic differentiation for every other one. Gradients flow to
    the kernel's parameters.

    Args:
        base: the kernel.
        dim: width of the states.
        parameters: raw parameters that replace the kernel's own, by name.
        check: refuse kernels under automatic differentiation that are not smooth enough.

    Raises:
        ValueError: a kernel whose functions have no gradient; lengthscales of another number.
    """
    reader = _Reader(base, dim, check)
    if parameters is None:
        return reader()
    renamed = {f"base.{name}": value for name, value in parameters.items()}
    return torch.func.functional_call(reader, renamed, ())


class _Reader(torch.nn.Module):
    """Translates when it is called, so that parameters can be replaced for the call."""

    def __init__(self, base: Kernel, dim: int, check: bool) -> None:
        super().__init__()
        self.base, self.dim, self.check = base, dim, check

    def forward(self) -> EnergyKernel:
        return self._translate(self.base, _chosen(self.base, None))

    def _translate(self, kernel: Kernel, inputs: Tensor | None) -> EnergyKernel:
        """A kernel whose ``forward`` sees these coordinates."""
        kind = type(kernel)
        if kind is ScaleKernel:
            # ScaleKernel calls the inner forward, which then does not choose again.
            return self._translate(kernel.base_kernel, inputs).scaled(kernel.outputscale)
        if kind is AdditiveKernel:
            parts = [self._translate(k, _chosen(k, inputs)) for k in kernel.kernels]
            return SumKernel(tuple(parts))
        if kind is RBFKernel:
            return self._stationary(kernel, inputs, torch.inf)
        if kind is MaternKernel:
            return self._stationary(kernel, inputs, kernel.nu)
        if kind is QuadraticKernel and inputs is None:
            return Quadratic(kernel.variance.squeeze(-1))
        return self._automatic(kernel, inputs)

    def _stationary(self, kernel: Kernel, inputs: Tensor | None, nu: float) -> Stationary:
        if nu < 1.0:
            raise ValueError(
                "base_kernel: MaternKernel(nu=0.5) is not twice differentiable at coinciding "
                "states, so H would have no gradient; use nu=2.5"
            )
        count = self.dim if inputs is None else len(inputs)
        inverse = 1.0 / kernel.lengthscale
        if inverse.shape[-1] not in (1, count):
            raise ValueError(
                f"base_kernel: expected one lengthscale or {count}, got {inverse.shape[-1]}"
            )
        inverse = inverse.expand(*inverse.shape[:-1], count)
        if inputs is not None:
            whole = inverse.new_zeros(*inverse.shape[:-1], self.dim)
            inverse = whole.index_copy(-1, inputs, inverse)
        active = None if inputs is None else tuple(inputs.tolist())
        return Stationary(inverse, torch.ones_like(inverse[..., 0, 0]), nu, active)

    def _automatic(self, kernel: Kernel, inputs: Tensor | None) -> Automatic:
        module = Dense(kernel)
        # Those of the call, which are the module's own again once it is over.
        now = {f"kernel.{name}": value for name, value in kernel.named_parameters()}
        one = torch.ones(kernel.batch_shape, dtype=torch.float64)
        first = next(iter(now.values()), one)
        result = Automatic(module, now, inputs, one.to(first))
        if self.check:
            result.check(self.dim)
        return result


def _chosen(kernel: Kernel, inputs: Tensor | None) -> Tensor | None:
    """Coordinates that a kernel chooses, among those that it is given."""
    active = kernel.active_dims
    if active is None:
        return inputs
    return active if inputs is None else inputs[active]

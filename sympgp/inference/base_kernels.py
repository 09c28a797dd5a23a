"""GPyTorch kernels of H with the package's hyperpriors."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from gpytorch.kernels import Kernel, ScaleKernel
from gpytorch.priors import LogNormalPrior
from jaxtyping import Float
from torch import Tensor

from sympgp.energies import Hyperparameters, LogNormal
from sympgp.inference.exact_gp import KernelFamily
from sympgp.kernels.energy import EnergyKernel
from sympgp.kernels.translation import energy_kernel

LENGTHSCALE, SCALE, OTHER = 0.5, 2.0, 1.0
"""Standard deviations of the logarithms; an output scale is the square of an amplitude."""


@dataclass(frozen=True, eq=False)
class BaseKernelFamily(KernelFamily):
    """A GPyTorch kernel whose parameters are the hyperparameters.

    Attributes:
        base: the kernel, float64.
        dim: width of the states.
    """

    base: Kernel
    dim: int

    @classmethod
    def of(cls, base: Kernel, dim: int) -> BaseKernelFamily:
        """A copy of a user's kernel, with a scale around it if it has none.

        Raises:
            ValueError: a kernel whose functions have no gradient, or with batches.
        """
        own = copy.deepcopy(base).double()
        if len(own.batch_shape):
            raise ValueError(f"base_kernel: expected no batch shape, got {tuple(own.batch_shape)}")
        if not any(name.endswith("raw_outputscale") for name, _ in own.named_parameters()):
            own = ScaleKernel(own).double()
        energy_kernel(own, dim, check=True)
        return cls(own, dim)

    def hyperpriors(self, spread: Float[Tensor, " dim"]) -> dict[str, LogNormal]:
        """Log-normal, by the names that GPyTorch gives the parameters, without "raw"."""
        self.base.to(spread)
        priors = {}
        for name, _, constraint in self.base.named_parameters_and_constraints():
            *path, last = name.split(".")
            module = self.base.get_submodule(".".join(path))
            kind = last.removeprefix("raw_")
            value = getattr(module, kind) if constraint is not None else None
            if value is None:
                raise ValueError(f"base_kernel: expected positive parameters, got {name}")
            prior = dict(module.named_modules()).get(f"{kind}_prior")
            priors[".".join([*path, kind])] = _prior(kind, value.detach(), prior, spread, module)
        return priors

    def kernel(self, hyperparameters: Hyperparameters) -> EnergyKernel:
        """The kernel with these parameters."""
        raw = {}
        for name, _, constraint in self.base.named_parameters_and_constraints():
            *path, last = name.split(".")
            value = hyperparameters[".".join([*path, last.removeprefix("raw_")])]
            raw[name] = constraint.inverse_transform(value)
        return energy_kernel(self.base, self.dim, raw)


def _prior(
    kind: str,
    value: Tensor,
    own: torch.nn.Module | None,
    spread: Float[Tensor, " dim"],
    module: Kernel,
) -> LogNormal:
    """The user's, or the package's for this kind of parameter."""
    if isinstance(own, LogNormalPrior):
        return LogNormal(own.loc.exp().to(value).expand(value.shape), float(own.scale.max()))
    if own is not None:
        raise ValueError(f"base_kernel: expected a LogNormalPrior or none, got {own}")
    if kind == "lengthscale":
        chosen = spread if module.active_dims is None else spread[module.active_dims]
        if value.shape[-1] != len(chosen):
            chosen = chosen.mean().reshape(1)
        return LogNormal((2.0 * chosen).to(value).expand(value.shape), LENGTHSCALE)
    if kind == "outputscale":
        return LogNormal(torch.full_like(value, 4.0), SCALE)
    if kind == "variance":
        return LogNormal(torch.full_like(value, 0.25), SCALE)
    return LogNormal(value.clone(), OTHER)

"""The covariance of linear and quadratic energies as a GPyTorch kernel."""

from __future__ import annotations

from typing import Any

import torch
from gpytorch.constraints import Interval, Positive
from gpytorch.kernels import Kernel
from torch import Tensor

from sympgp.kernels.quadratic import Quadratic


class QuadraticKernel(Kernel):
    """``variance (x . y + (x . y)^2 / 2 - sum_i x_i^2 y_i^2 / 4)``, see :class:`Quadratic`.

    To be added to another kernel: kinetic energies are quadratic.

    Args:
        variance_constraint: of the variance; positive when None.
        **kwargs: as for every GPyTorch kernel.

    Example:
        >>> kernel = QuadraticKernel().double()
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
        >>> (kernel(x).to_dense() / kernel.variance).detach()
        tensor([[1.2500, 0.0000],
                [0.0000, 8.0000]], dtype=torch.float64)
    """

    def __init__(self, variance_constraint: Interval | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        shape = (*self.batch_shape, 1)
        self.register_parameter("raw_variance", torch.nn.Parameter(torch.zeros(shape)))
        self.register_constraint("raw_variance", variance_constraint or Positive())

    @property
    def variance(self) -> Tensor:
        """(*batch, 1), of each coefficient."""
        return self.raw_variance_constraint.transform(self.raw_variance)

    @variance.setter
    def variance(self, value: Tensor | float) -> None:
        values = torch.as_tensor(value, dtype=self.raw_variance.dtype).to(self.raw_variance)
        raw = self.raw_variance_constraint.inverse_transform(values)
        self.initialize(raw_variance=raw.expand(self.raw_variance.shape))

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        """``k(x1, x2)``, or its diagonal for as many x1 as x2."""
        if diag:
            product = (x1 * x2).sum(-1)
            own = (x1 * x2).square().sum(-1)
            return self.variance * (product + 0.5 * product**2 - 0.25 * own)
        return Quadratic(self.variance.squeeze(-1)).value(x1, x2)

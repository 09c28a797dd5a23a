"""Cholesky factors of matrices that rounding may have made indefinite: one policy for all.

A matrix that can be factorised is, as it is. To one that cannot, multiples of the identity are
added, from its rounding errors upwards by factors of ten, until it can, and a warning names the
matrix and says how much was added. Beyond half of the digits of its type nothing of the result
could be trusted: then an error says which matrix it was.
"""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Bool, Float
from torch import Tensor

GROWTH = 10.0
"""From one jitter to the next."""


class JitterWarning(RuntimeWarning):
    """Something was added to a matrix so that it could be factorised."""


class NotPositiveDefiniteError(torch.linalg.LinAlgError):
    """A matrix that should be positive definite is far from it, or not finite."""


def cholesky(
    matrix: Float[Tensor, "*batch size size"], name: str
) -> Float[Tensor, "*batch size size"]:
    """Lower factors ``L`` with ``L L' = matrix + jitter mean(diag(matrix)) I``.

    The jitter is zero where the factorisation succeeds without, and else the first of ``size eps,
    10 size eps, ...``, up to ``sqrt(eps)``, with which it does; each matrix of a batch has its own.
    Differentiable in the matrix, with the jitter taken as constant.

    Args:
        matrix: symmetric; only its lower triangle is read.
        name: what it is, for warnings and errors: "the precision of the weights".

    Warns:
        JitterWarning: something was added, with the name, the amount and what may help.

    Raises:
        NotPositiveDefiniteError: entries that are not finite, or no success with the most jitter;
            a ``torch.linalg.LinAlgError``.

    Example:
        >>> one = torch.eye(2, dtype=torch.float64)
        >>> cholesky(4.0 * one, "an example")
        tensor([[2., 0.],
                [0., 2.]], dtype=torch.float64)
    """
    factor, failed = _attempt(matrix)
    if not bool(failed.any()):
        return factor
    added, jitter = _needed(matrix.detach(), failed, name)
    warnings.warn(
        f"{name} ({_described(matrix)}) is not positive definite to rounding: {jitter:.1e} of its "
        f"mean diagonal entry was added to the diagonal; {_remedy(matrix)}",
        JitterWarning,
        stacklevel=2,
    )
    # Once more: derivatives of what failed would be none.
    return torch.linalg.cholesky_ex(matrix + added)[0]


def _needed(
    matrix: Float[Tensor, "*batch size size"], failed: Bool[Tensor, "*batch"], name: str
) -> tuple[Float[Tensor, "*batch size size"], float]:
    """Multiples of the identity to be added, zero to what did not fail; the largest jitter.

    Raises:
        NotPositiveDefiniteError: as :func:`cholesky`.
    """
    if not bool(matrix.isfinite().all()):
        raise NotPositiveDefiniteError(
            f"{name} ({_described(matrix)}) has entries that are not finite"
        )
    eps, size = torch.finfo(matrix.dtype).eps, matrix.shape[-1]
    most = eps**0.5
    unit = matrix.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=0.0)
    eye = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
    jitter, amount = min(size * eps, most), torch.zeros_like(unit)
    while True:
        # What succeeded before stays as it was.
        amount = torch.where(failed, jitter * unit, amount)
        added = amount[..., None, None] * eye
        failed = failed & _attempt(matrix + added)[1]
        if not bool(failed.any()):
            return added, jitter
        if jitter >= most:
            raise NotPositiveDefiniteError(_message(matrix, name, most))
        jitter = min(GROWTH * jitter, most)


def _attempt(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Factors, and which of them are none; one transfer from a device tells all."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    return factor, (info > 0) | ~factor.detach().diagonal(dim1=-2, dim2=-1).isfinite().all(-1)


def _message(matrix: Tensor, name: str, most: float) -> str:
    values = torch.linalg.eigvalsh(matrix.detach().double())
    return (
        f"{name} ({_described(matrix)}) is not positive definite, even with {most:.1e} of its mean "
        f"diagonal entry added to the diagonal: its eigenvalues go from {float(values.min()):.2e} "
        f"to {float(values.max()):.2e}; {_remedy(matrix)}"
    )


def _described(matrix: Tensor) -> str:
    kind = str(matrix.dtype).removeprefix("torch.")
    return f"{' x '.join(str(size) for size in matrix.shape)}, {kind}"


def _remedy(matrix: Tensor) -> str:
    if matrix.dtype == torch.float64:
        return (
            "fewer features, fewer points that nearly coincide, or noise that is not known to be "
            "tiny may help"
        )
    return "dtype=torch.float64, or fewer features, may help"

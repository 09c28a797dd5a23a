"""What each part of a sum of energies explains, and whether the parts can be told apart."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies.nonlinear import NonlinearBasis
from sympgp.energies.orthogonal import projector
from sympgp.energies.stand_in import physics_parts
from sympgp.energies.sum_basis import SumBasis, formula_of

# A remainder that moves a parameter by less than this share of its standard deviation is no
# rival of it, however correlated.
NO_RIVAL = 0.05
MOST_STEPS = 100


def shares(
    basis: SumBasis, z: Float[Tensor, "states dim"], w: Float[Tensor, "*draws weights"]
) -> dict[str, Float[Tensor, "*draws"]]:
    """The share of the mean-square field over states that each part explains, by its name.

    ``sum_z f_i . f / sum_z |f|^2`` with ``f = J grad H = sum_i f_i`` in scaled units. The shares
    add up to one; one is negative where a part works against the whole.
    """
    states = z if w.dim() == 1 else z.expand(len(w), *z.shape)
    pairs = zip(basis.parts, basis.split(w), strict=True)
    slopes = torch.stack([part.gradient_map(own)(states) for part, own in pairs])
    whole = slopes.sum(0)
    found = (slopes * whole).sum((-2, -1)) / whole.square().sum((-2, -1))
    return dict(zip(basis.names, found, strict=True))


def correlations(
    basis: SumBasis,
    z: Float[Tensor, "states dim"],
    w: Float[Tensor, " weights"],
    covariance: Float[Tensor, "weights weights"],
) -> dict[str, Float[Tensor, ""]]:
    """The correlation of each physics parameter with what the other parts do in its place.

    The other parts' field over the states is projected onto the fields that small changes of the
    parameters make, which gives for each parameter the change that would do the same; its
    correlation with the parameter itself is returned, by the names of ``basis.values``. Near -1,
    only the sum of both is known. Zero where the other parts do not reach the parameter.

    Args:
        basis: physics and other parts.
        z: (N, D) scaled states.
        w: (P,) posterior mean of the weights.
        covariance: (P, P) posterior covariance of the weights.
    """
    names = list(basis.values(w))
    column = torch.arange(basis.num_weights, device=w.device).split(basis.sizes)
    physics = [formula_of(part) is not None for part in basis.parts]
    if not names or all(physics):
        return {name: w.new_zeros(()) for name in names}
    rest = torch.cat([c for c, known in zip(column, physics, strict=True) if not known])
    parts, own = physics_parts(basis)
    own = own.to(w.device)
    onto = projector(parts, w[own], z)
    alias = onto @ basis.feature_gradient(z, w).flatten(0, 1)[:, rest]
    variance = covariance.diagonal()[own]
    rival = torch.einsum("km,mn,kn->k", alias, covariance[rest][:, rest], alias).clamp(min=0.0)
    joint = (alias * covariance[own][:, rest]).sum(-1)
    found = joint / (variance * rival).sqrt().clamp(min=torch.finfo(w.dtype).tiny)
    found = torch.where(rival > NO_RIVAL**2 * variance, found, 0.0).clamp(-1.0, 1.0)
    return dict(zip(names, found, strict=True))


def nearest_weights(
    physics: NonlinearBasis,
    z: Float[Tensor, "states dim"],
    slope: Float[Tensor, "states dim"],
    start: Float[Tensor, " weights"] | None = None,
) -> Float[Tensor, " weights"]:
    """Weights of the formula that is closest to a field over states.

    Minimises ``sum_i |slope_i - grad H(z_i; w)|^2`` by Gauss-Newton steps, halved until the sum
    falls. It is what parameters beside an orthogonal remainder estimate, whatever else acts on
    the system.

    Args:
        physics: the formula, in scaled units.
        z: (N, D) scaled states.
        slope: (N, D) gradients of the whole energy there, in scaled units.
        start: first weights; zero, the medians of the priors, where not given.
    """
    w = z.new_zeros(physics.num_weights) if start is None else start
    basis = SumBasis((physics,), ("physics",))
    left = slope - physics.gradient_map(w)(z)
    for _ in range(MOST_STEPS):
        step = projector(basis, w, z) @ left.flatten()
        size = 1.0
        while size > 1e-6:
            ahead = slope - physics.gradient_map(w + size * step)(z)
            if bool(ahead.square().sum() < left.square().sum()):
                break
            size *= 0.5
        else:
            return w
        w, left = w + size * step, ahead
    return w

"""Draws of a Gaussian brought back to where products of parameters leave the field as it was.

Dissipation multiplies the gradient of H, and is itself no linear function of its parameters. Data
know the field; of parameters that can share it they know what they make together, along a curved
ridge. A Gaussian lies along the ridge's tangent. The field that is linear in its draws is right,
but the field of the draws is not, and dissipation, a sum of squares, is too strong on average.

Here every draw moves, as little as the prior allows, to parameters whose field over the data is
the linear one. Such draws that solve a least squares problem of their own are those of
randomise-then-optimise (Bardsley et al., SIAM J. Sci. Comput. 36, 2014), here with the field of
the linear model in place of perturbed data.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.cholesky import cholesky
from sympgp.dissipation import damped
from sympgp.fields import HamiltonianField, as_points

EXACT = 0.3
"""How closely fields are to agree, by the posterior deviation of the field in every direction;
draws that do already stay as they are."""
LEAST = 0.02
"""Least deviation of a direction, by the root mean square over all: what stays the same along
whole trajectories, such as the loss of energy, is known many times better than rates at one state,
and a small error of it adds up over a rollout."""
STEPS, HALVINGS, ENOUGH = 30, 6, 0.03
"""Most Gauss-Newton steps, most halvings of one, and the step by prior deviations that ends
them."""
AT_ONCE = 3_000_000
"""Numbers of the Jacobians of one block of draws (24 MB in float64)."""
MOST_ROWS = 80
"""Entries of the field over the data that are compared."""


def chosen_states(z: Float[Tensor, "states dim"]) -> Float[Tensor, "some dim"]:
    """So many of the data's states, evenly, that comparing fields there costs little."""
    num = min(len(z), max(1, MOST_ROWS // z.shape[-1]))
    return z[torch.linspace(0, len(z) - 1, num).round().long().to(z.device)]


def on_ridge(
    field: HamiltonianField,
    mode: Float[Tensor, " params"],
    root: Float[Tensor, "params root"],
    theta: Float[Tensor, "draws params"],
    z: Float[Tensor, "states dim"],
) -> Float[Tensor, "draws params"]:
    """Draws of ``N(mode, root root')`` moved to where their field is the linear one.

    Each minimises ``|f(theta') - f(mode) - (df/dtheta)(theta - mode)|^2`` over the states, by 0.3
    deviations of the posterior covariance of the field there, correlations included, plus
    ``|theta' - theta|^2`` by the prior's.

    Args:
        field: its basis, dissipation and inputs; the latter are at rest.
        mode: centre of the Gaussian.
        root: of its covariance.
        theta: the draws.
        z: scaled states where fields are compared, as ``chosen_states`` gives them.
    """
    if field.linear and not field.dissipation.num_parameters:
        return theta
    # A counterfactual has the draws of what was learned.
    field = HamiltonianField(field.basis, damped(field.dissipation), field.driven)
    jacobian = _jacobian(field, z, mode.unsqueeze(0))[0]
    whiten = _whitening(jacobian, root)
    centre = _rates(field, z, mode.unsqueeze(0))
    size = max(1, AT_ONCE // (z.numel() * len(mode)))
    moved = []
    for part in theta.split(size):
        target = centre + (jacobian @ (part - mode).mT).movedim(-1, 0)
        off = ((_rates(field, z, part) - target).flatten(1) @ whiten.mT).square().mean(1)
        far = ~(off < 1.0)
        result = part.clone()
        if bool(far.any()):
            result[far] = _nearest(field, z, part[far], target[far], whiten)
        moved.append(result)
    return torch.cat(moved)


def _whitening(
    jacobian: Float[Tensor, "states dim params"], root: Float[Tensor, "params root"]
) -> Float[Tensor, "rows rows"]:
    """Inverse Cholesky factor of the covariance that differences of fields are judged by."""
    own = (jacobian @ root).flatten(0, 1)
    size = own.square().sum(-1).mean().clamp(min=torch.finfo(own.dtype).tiny)
    eye = torch.eye(len(own)).to(own)
    factor = EXACT * cholesky(
        own @ own.mT + LEAST**2 * size * eye, "the covariance of the field over the data"
    )
    return torch.linalg.solve_triangular(factor, eye, upper=False)


def _nearest(
    field: HamiltonianField, z: Tensor, theta: Tensor, target: Tensor, whiten: Tensor
) -> Float[Tensor, "draws params"]:
    """Gauss-Newton for all draws at once, each with a step length of its own."""
    stddev = field.prior_precision().rsqrt()

    def value(white: Tensor, some: Tensor) -> Tensor:
        misfit = _rates(field, z, theta[some] + stddev * white) - target[some]
        total = (misfit.flatten(1) @ whiten.mT).square().sum(1) + white.square().sum(1)
        return total.nan_to_num(nan=torch.inf)

    white, some = torch.zeros_like(theta), torch.arange(len(theta), device=theta.device)
    for _ in range(STEPS):
        own = white[some]
        now = theta[some] + stddev * own
        misfit = (target[some] - _rates(field, z, now)).flatten(1) @ whiten.mT
        rows = whiten @ (_jacobian(field, z, now) * stddev).flatten(1, 2)
        step, lowest = _ridge_step(rows, misfit, own), value(own, some)
        for _ in range(HALVINGS):
            worse = ~(value(own + step, some) <= lowest)
            if not bool(worse.any()):
                break
            step = torch.where(worse.unsqueeze(-1), 0.5 * step, step)
        else:
            step = torch.where((value(own + step, some) <= lowest).unsqueeze(-1), step, 0.0)
        white[some] = own + step
        some = some[step.norm(dim=1) > ENOUGH]
        if not len(some):
            break
    return theta + stddev * white


def _ridge_step(
    rows: Float[Tensor, "draws rows params"],
    misfit: Float[Tensor, "draws rows"],
    white: Float[Tensor, "draws params"],
) -> Float[Tensor, "draws params"]:
    """Minimiser of ``|rows s - misfit|^2 + |white + s|^2``, in the smaller of the two spaces."""
    wide = rows.shape[1] < rows.shape[2]
    gram = rows @ rows.mT if wide else rows.mT @ rows
    factor = cholesky(
        gram + torch.eye(gram.shape[-1]).to(gram), "the precision of draws of the dissipation"
    )
    if wide:  # white + s = rows' (rows rows' + 1)^-1 (misfit + rows white)
        right = misfit.unsqueeze(-1) + rows @ white.unsqueeze(-1)
        return (rows.mT @ torch.cholesky_solve(right, factor)).squeeze(-1) - white
    right = rows.mT @ misfit.unsqueeze(-1) - white.unsqueeze(-1)
    return torch.cholesky_solve(right, factor).squeeze(-1)


def _rates(
    field: HamiltonianField, z: Tensor, theta: Float[Tensor, "draws params"]
) -> Float[Tensor, "draws states dim"]:
    """``J grad H - d(z, grad H)`` of every draw at the same states."""
    w, _, rho = field.parts(theta)
    states = z.expand(len(theta), *z.shape)
    slope = field.basis.gradient_map(w)(states)
    return slope @ field.symplectic(theta).mT - field.dissipation.force(states, slope, rho)


def _jacobian(
    field: HamiltonianField, z: Tensor, theta: Float[Tensor, "draws params"]
) -> Float[Tensor, "draws states dim params"]:
    """``df/dtheta`` of every draw, inputs at rest."""
    points = as_points(z, z.new_zeros(field.num_inputs) if field.num_inputs else None)
    if not field.basis.linear:
        return torch.stack([field.parameter_jacobian(points, one) for one in theta])
    w, gamma, rho = field.parts(theta)
    states = z.expand(len(theta), *z.shape)
    slope = field.basis.gradient_map(w)(states)
    turn = field.turn(states, slope, rho)
    blocks = [turn @ field.basis.feature_gradient(z)]
    blocks.append(slope.new_zeros(*slope.shape, gamma.shape[-1]))
    blocks.append(-field.dissipation.parameter_jacobian(states, slope, rho))
    return torch.cat([block.expand(*slope.shape, block.shape[-1]) for block in blocks], -1)

"""A posterior of which everything is linear and Gaussian, and its dense reference."""

import math

import torch
from problems import canonical, randn, tensor
from torch import Tensor

from sympgp.dissipation import Conservative, Friction
from sympgp.energies import FourierEnergy
from sympgp.fields import HamiltonianField
from sympgp.posterior import Diagnostics, GaussianComponent, Posterior, WindowStates
from sympgp.shooting.layout import Nodes, Windows
from sympgp.shooting.sensitivities import INITIAL_VARIANCE
from sympgp.trajectories import Trajectories


def linear_posterior(
    num_dof: int = 1,
    jump_std: float = 0.0,
    friction: bool = True,
    dof: float | None = None,
    width: float = 0.03,
) -> Posterior:
    """A posterior over quadratic energies: every draw of the field is linear in the state.

    Its parameters are known to within ``width``; its training states are placeholders.
    """
    scaling, dim = canonical(num_dof), 2 * num_dof
    hyper = {"lengthscale": torch.ones(dim).double(), "signal_scale": tensor(1e-9)}
    hyper["quadratic_scale"] = tensor(1.0)
    family = Friction() if friction else Conservative()
    basis = FourierEnergy(num_dof, 1, separable=0.0).basis(hyper)
    field = HamiltonianField(basis, family.scaled(scaling))
    rows, columns = torch.triu_indices(dim, dim)
    quadratic = 0.1 * randn(len(rows), seed=5) + (rows == columns).double()
    rho = tensor([0.2])[: field.dissipation.num_parameters]
    theta = torch.cat([torch.zeros(2).double(), 0.1 * randn(dim, seed=6), quadratic, rho])
    precision = torch.diag(field.prior_precision())
    precision[2:, 2:] += torch.eye(len(theta) - 2).double() / width**2
    noise = torch.linspace(0.02, 0.05, dim, dtype=torch.float64)
    shape = torch.full_like(noise, 40.0)
    none = torch.zeros(1, dim, dim).double()
    state, slope = none[:, 0], torch.zeros(1, dim, len(theta)).double()
    states = WindowStates(
        chain=torch.zeros(1, 1).long(),
        times=tensor([0.0]),
        last=tensor([1.0]),
        mean=state,
        slope=slope,
        gain=none,
        cov=none,
        ahead_mean=state,
        ahead_slope=slope,
        jump_std=jump_std,
        spacing=1.0,
    )
    component = GaussianComponent(
        field=field,
        theta=theta,
        factor=torch.linalg.cholesky(precision),
        noise_std=noise,
        noise_shape=shape,
        noise_rate=(shape + 1.0) * noise**2,
        noise_group=torch.arange(dim),
        noise_dof=dof,
        hyperparameters=hyper,
        states=states,
    )
    step = 0.05 * float(scaling.time_scale)
    diagnostics = Diagnostics("none", 0.0, 0, True, True, 0.0, 0.0, step, 0.0, (1.0,) * dim)
    times = [float(scaling.time_origin), float(scaling.time_origin + scaling.time_scale)]
    data = Trajectories(times, scaling.to_user(randn(1, 2, dim)))
    return Posterior((component,), scaling, family, data, diagnostics)


def linear_flow(posterior: Posterior, theta: Tensor, times: Tensor) -> Tensor:
    """``exp(s A)`` (T, D + 1, D + 1), ``A (z, 1) = (dz/ds, 0)``, for one draw and scaled times."""
    field, dim = posterior.components[0].field, 2 * posterior.num_dof
    w, rho = field.split(theta)
    matrix = torch.zeros(dim, dim).double()
    rows, columns = torch.triu_indices(dim, dim)
    matrix[rows, columns] = matrix[columns, rows] = w[2 + dim :]
    generator = torch.zeros(dim + 1, dim + 1).double()
    generator[:dim] = field.structure(rho) @ torch.cat([matrix, w[2 : 2 + dim, None]], 1)
    return torch.linalg.matrix_exp(generator * times[:, None, None])


def linear_data(
    posterior: Posterior, times: list[Tensor], seed: int = 0, noise: float = 1.0
) -> Trajectories:
    """Data of the mode of a linear posterior at these times, without jumps, its noise scaled."""
    component, scaling = posterior.components[0], posterior.scaling
    states = []
    for k, t in enumerate(times):
        s = scaling.to_scaled_time(t)
        start = torch.cat([randn(2 * posterior.num_dof, seed=seed + 10 * k), tensor([1.0])])
        path = (linear_flow(posterior, component.theta, s - s[0]) @ start)[:, :-1]
        error = noise * component.noise_std * randn(*path.shape, seed=seed + 10 * k + 1)
        states.append(scaling.to_user(path + error))
    return Trajectories(times, states)


class DenseLinear:
    """Observations ``y = mean + lever u + noise`` of one trajectory under one draw, user units.

    The latent ``u`` are the first observed state, broad, and the jumps between windows, scaled.
    """

    def __init__(
        self, posterior: Posterior, theta: Tensor, noise_std: Tensor, data: Trajectories, index: int
    ) -> None:
        scaling, own = posterior.scaling, posterior.components[0].states
        states = data.states[index]
        dim = states.shape[1]
        seen = ~states.isnan().all(1)
        s = scaling.to_scaled_time(data.times[index][seen])
        leaps = s[:0]
        if own.jump_std:
            nodes = Nodes.from_data(data, scaling)
            windows = Windows.of_duration(nodes, own.spacing)
            chain = windows.chain[index, 1:]
            leaps = nodes.times[windows.start[chain[chain >= 0]]]
        flow = linear_flow(posterior, theta, s - s[0])
        levers = [flow[:, :dim, :dim]]
        for leap in leaps:
            after = linear_flow(posterior, theta, (s - leap).clamp(min=0.0))[:, :dim, :dim]
            levers.append(after * (s >= leap - 1e-9)[:, None, None])
        mask = ~states[seen].isnan()
        self.values = states[seen][mask]
        self.mean = scaling.to_user(flow[:, :dim, dim])[mask]
        self.lever = (scaling.scale[:, None] * torch.cat(levers, 2))[mask]
        prior = [torch.full((dim,), INITIAL_VARIANCE).double()]
        prior += [torch.full((dim,), own.jump_std**2).double() for _ in leaps]
        self.prior = torch.cat(prior)
        self.noise = (scaling.scale * noise_std).expand(mask.shape)[mask] ** 2

    @property
    def covariance(self) -> Tensor:
        return (self.lever * self.prior) @ self.lever.mT + torch.diag(self.noise)

    def log_densities(self) -> Tensor:
        """Of each observation given those before it."""
        root = torch.linalg.cholesky(self.covariance)
        rest = (self.values - self.mean)[:, None]
        white = torch.linalg.solve_triangular(root, rest, upper=False)[:, 0]
        return -0.5 * white**2 - root.diagonal().log() - 0.5 * math.log(2 * math.pi)

    def latent(self) -> tuple[Tensor, Tensor]:
        """Mean and covariance of the latent vector given the data."""
        weighted = self.lever.mT / self.noise
        covariance = torch.linalg.inv(weighted @ self.lever + torch.diag(1.0 / self.prior))
        return covariance @ (weighted @ (self.values - self.mean)), covariance

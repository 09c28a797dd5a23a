"""Small problems that several test files share: fields, ragged data, shooting problems."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jaxtyping
import pytest
import torch
from torch import Tensor

from sympgp.dissipation import Conservative, Friction
from sympgp.energies import FourierEnergy
from sympgp.fields import HamiltonianField
from sympgp.noise import ScaledNoise
from sympgp.phase_space import CanonicalScaling
from sympgp.shooting.layout import Nodes, Windows
from sympgp.shooting.problem import Estimate, Problem
from sympgp.shooting.sensitivities import INITIAL_VARIANCE
from sympgp.trajectories import Trajectories

NAN = math.nan


@contextmanager
def unchecked() -> Iterator[None]:
    """Whole fits without checks of shapes at run time, which would double their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        yield


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tensor(*values) -> Tensor:
    return torch.tensor(*values, dtype=torch.float64)


def canonical(num_dof: int = 1, seed: int = 0) -> CanonicalScaling:
    """A scaling of channels whose spreads differ widely."""
    spread = (0.7 * randn(2 * num_dof, seed=seed)).exp()
    center = randn(2 * num_dof, seed=seed + 1)
    return CanonicalScaling.from_spread(center, spread, tensor(0.37), tensor(-2.0))


def identity_scaling(num_dof: int = 1) -> CanonicalScaling:
    ones = torch.ones(2 * num_dof, dtype=torch.float64)
    return CanonicalScaling(0.0 * ones, ones, tensor(1.0), tensor(0.0), ones)


def hyperparameters(energy: FourierEnergy, seed: int = 0) -> dict[str, Tensor]:
    """Values near the medians of the hyperpriors."""
    priors = energy.hyperpriors(torch.ones(2 * energy.num_dof, dtype=torch.float64))
    return {
        name: prior.median * (0.2 * randn(*prior.median.shape, seed=seed)).exp()
        for name, prior in priors.items()
    }


def random_field(
    num_dof: int = 1, num_features: int = 5, friction: bool = True, seed: int = 0
) -> tuple[HamiltonianField, Tensor]:
    """A field with a bounded energy about the origin, and its parameters."""
    energy = FourierEnergy(num_dof, num_features, seed=seed)
    family = Friction() if friction else Conservative()
    dissipation = family.scaled(canonical(num_dof, seed))
    field = HamiltonianField(energy.basis(hyperparameters(energy, seed)), dissipation)
    weights = 0.1 * randn(field.num_weights, seed=seed)
    # Ones on the diagonal of the quadratic part make the origin a centre.
    rows, columns = torch.triu_indices(2 * num_dof, 2 * num_dof)
    weights[2 * num_features + 2 * num_dof :][rows == columns] += 1.0
    rho = tensor([0.2])[: dissipation.num_parameters]
    return field, torch.cat([weights, rho])


def ragged_data(num_dof: int = 1, seed: int = 0) -> Trajectories:
    """Three trajectories: irregular with a long gap, with missing entries and rows, and short."""
    dim = 2 * num_dof
    generator = torch.Generator().manual_seed(seed)
    irregular = (0.2 + 0.2 * torch.rand(14, generator=generator, dtype=torch.float64)).cumsum(0)
    irregular[9:] += 1.3
    regular = 0.3 * torch.arange(11, dtype=torch.float64) + 2.0
    times = [irregular, regular, regular[:3] - 5.0]
    states = [randn(len(t), dim, seed=seed + k) for k, t in enumerate(times)]
    states[1][2, 0] = states[1][5, -1] = NAN
    states[1][7] = NAN
    states[2][0, -1] = NAN
    return Trajectories(times, states)


def gaussian(dim: int, known: Tensor | None = None) -> ScaledNoise:
    """Gaussian noise of one level a channel, known or to be found."""
    std = torch.full((dim,), NAN, dtype=torch.float64) if known is None else known
    return ScaledNoise(std, torch.arange(dim), torch.ones(dim, dtype=torch.float64))


def shooting(
    num_dof: int = 1, duration: float = 1.1, step: float = 0.17, friction: bool = True
) -> tuple[Problem, Estimate]:
    """Ragged data with missing entries in several windows, about a path that fits them badly."""
    data = ragged_data(num_dof)
    field, theta = random_field(num_dof, friction=friction)
    nodes = Nodes.from_data(data, identity_scaling(num_dof))
    windows = Windows.of_duration(nodes, duration)
    start = 0.8 * randn(windows.num_windows, 2 * num_dof, seed=3)
    noise_std = torch.linspace(0.4, 0.9, 2 * num_dof, dtype=torch.float64)
    inflation = torch.linspace(1.0, 1.7, 2 * num_dof, dtype=torch.float64)
    return Problem(nodes, windows, field, gaussian(2 * num_dof), step), Estimate(
        theta, start, noise_std, 0.3, inflation
    )


def window_nodes(problem: Problem, window: int) -> list[int]:
    """Nodes that a window owns, without the padding."""
    return [i for i in problem.windows.nodes[window].tolist() if i < problem.nodes.first[-1]]


def plain_path(
    field: Callable[[Tensor], Tensor], start: Tensor, problem: Problem, window: int
) -> tuple[Tensor, Tensor]:
    """States of one window at its nodes and at its end, by RK4 written as loops."""
    z, states = start, []
    for node in window_nodes(problem, window):
        states.append(z)
        interval = float(problem.nodes.dt[node])
        count = math.ceil(interval / problem.step - 1e-9)
        for _ in range(count):
            h = interval / count
            k1 = field(z)
            k2 = field(z + h / 2 * k1)
            k3 = field(z + h / 2 * k2)
            k4 = field(z + h * k3)
            z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return torch.stack(states), z


def plain_field(field: HamiltonianField, theta: Tensor) -> Callable[[Tensor], Tensor]:
    """``(J - R) grad H`` by autograd of H, differentiable in everything."""
    w, rho = field.split(theta)
    structure = field.structure(rho)

    def rate(z: Tensor) -> Tensor:
        return structure @ torch.func.grad(lambda x: field.basis.value(x, w))(z)

    return rate


def unknowns(estimate: Estimate) -> Tensor:
    """Parameters first, then all window states."""
    return torch.cat([estimate.theta, estimate.start.reshape(-1)])


def observed(problem: Problem, vector: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Predictions, values and channels of all observed entries, from all unknowns."""
    num = problem.field.num_parameters
    dim = problem.nodes.values.shape[1]
    theta, start = vector[:num], vector[num:].reshape(-1, dim)
    field = plain_field(problem.field, theta)
    predicted, values, channels = [], [], []
    for window in range(problem.windows.num_windows):
        path, _ = plain_path(field, start[window], problem, window)
        index = window_nodes(problem, window)
        mask = problem.nodes.mask[index]
        predicted.append(path[mask])
        values.append(problem.nodes.values[index][mask])
        channels.append(torch.arange(dim).expand(mask.shape)[mask])
    return torch.cat(predicted), torch.cat(values), torch.cat(channels)


def jumps(problem: Problem, vector: Tensor) -> Tensor:
    """End of each window minus the start of the next one, for all pairs."""
    num = problem.field.num_parameters
    start = vector[num:].reshape(problem.windows.num_windows, -1)
    field = plain_field(problem.field, vector[:num])
    here, ahead = problem.following()
    ends = [plain_path(field, start[k], problem, k)[1] for k in here.tolist()]
    return torch.stack(ends) - start[ahead] if ends else start.new_zeros(0, start.shape[1])


def dense_jacobian(problem: Problem, estimate: Estimate) -> Tensor:
    """Derivative of all observed predictions with respect to all unknowns, by autograd."""
    return torch.func.jacrev(lambda v: observed(problem, v)[0])(unknowns(estimate))


def dense_gauss_newton(problem: Problem, estimate: Estimate) -> tuple[Tensor, Tensor]:
    """Gauss-Newton matrix and gradient of the objective over all unknowns."""
    vector = unknowns(estimate)
    jacobian = dense_jacobian(problem, estimate)
    predicted, values, channels = observed(problem, vector)
    weights = estimate.precision[channels]
    Q = jacobian.mT @ (weights[:, None] * jacobian)
    g = jacobian.mT @ (weights * (predicted - values))
    prior = torch.zeros_like(vector)
    prior[: problem.field.num_parameters] = problem.field.prior_precision()
    dim = estimate.start.shape[1]
    for first in problem.windows.chain[:, 0].tolist():
        begin = problem.field.num_parameters + first * dim
        prior[begin : begin + dim] = 1.0 / INITIAL_VARIANCE
    Q, g = Q + torch.diag(prior), g + prior * vector
    rows = torch.func.jacrev(lambda v: jumps(problem, v))(vector).reshape(-1, len(vector))
    if len(rows):
        gap = jumps(problem, vector).reshape(-1)
        Q = Q + rows.mT @ rows / estimate.defect_std**2
        g = g + rows.mT @ gap / estimate.defect_std**2
    return Q, g

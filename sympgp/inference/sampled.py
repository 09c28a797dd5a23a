"""Draws of all unknowns as components of a posterior, and the quantities that are monitored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies import has_layers
from sympgp.fields import HamiltonianField, as_points
from sympgp.inference.chains import Chain
from sympgp.inference.target import Target
from sympgp.inference.warm_start import WarmStart
from sympgp.inference.whitening import Unknowns
from sympgp.posterior import Component, JointDraws, Posterior, SampledComponent
from sympgp.posterior.parameters import named
from sympgp.posterior.sampled_component import typical_row

MOST_DRAWS = 2000
"""Draws that are kept where all share their features, chosen evenly."""
MOST_FIELDS = 100
"""Draws that are kept where each has features of its own: each is a component."""
PLACES = 8
"""States at which the field is monitored."""
BLOCK = 100
"""Draws whose densities are computed at a time."""


def components(
    target: Target,
    warm: WarmStart,
    unknowns: Unknowns,
    chains: Sequence[Chain],
    num: int,
    log_density: Float[Tensor, " draws"],
) -> tuple[Component, ...]:
    """A bank of draws; one bank a draw where each has hyperparameters of its own.

    Args:
        target: what was drawn from.
        warm: what sampling began with.
        unknowns: draws, chain after chain.
        chains: where they come from.
        num: draws of each chain.
        log_density: of each draw.
    """
    moving = target.whitening.hyper is not None
    count, most = len(unknowns.theta), MOST_FIELDS if moving else MOST_DRAWS
    kept = torch.linspace(0, count - 1, min(count, most)).round().long()
    draws = JointDraws(*(part[kept.to(part.device)] for part in unknowns[:3]))
    statistics = {
        "lp": log_density,
        "diverging": torch.tensor([x for chain in chains for x in chain.diverging[:num]]),
        "n_steps": torch.tensor([x for chain in chains for x in chain.num_steps[:num]]),
        "step_size": torch.tensor([chain.step_size for chain in chains]).repeat_interleave(num),
    }
    statistics = {name: values[kept] for name, values in statistics.items()}
    number = torch.arange(len(chains)).repeat_interleave(num)[kept]
    if not moving:
        field, hyper = warm.component.field, warm.component.hyperparameters
        return (_bank(warm, field, hyper, draws, number, statistics),)
    fields = _moving_fields(target, warm, unknowns.log_hyper[kept.to(draws.theta.device)])
    parts = []
    for k, (field, hyper) in enumerate(fields):
        one = {name: values[k : k + 1] for name, values in statistics.items()}
        own = JointDraws(*(part[k : k + 1] for part in draws if part is not None))
        parts.append(_bank(warm, field, hyper, own, number[k : k + 1], one))
    return tuple(parts)


def _bank(
    warm: WarmStart,
    field: HamiltonianField,
    hyper: dict[str, Tensor],
    draws: JointDraws,
    chain: Tensor,
    statistics: dict[str, Tensor],
) -> SampledComponent:
    known, theta = warm.component, draws.theta.mean(0)
    if has_layers(field.basis):  # the mean of several networks' weights is no such network
        z = warm.solution.path.flatten(0, 1)
        z = as_points(z, z.new_zeros(field.num_inputs)) if field.num_inputs else z
        theta = draws.theta[typical_row(field, draws.theta, z)]
    return SampledComponent(
        field=field,
        theta=theta,
        noise_std=draws.noise_std.mean(0),
        noise_group=known.noise_group,
        noise_dof=known.noise_dof,
        hyperparameters=hyper,
        states=warm.states(theta),
        draws=draws,
        chain=chain,
        statistics=statistics,
    )


def _moving_fields(
    target: Target, warm: WarmStart, log_hyper: Float[Tensor, "draws hyper"]
) -> Iterator[tuple[HamiltonianField, dict[str, Tensor]]]:
    """Features and hyperparameters of each draw."""
    whitening = target.whitening
    if whitening.hyper is None or whitening.energy is None:
        raise RuntimeError("hyperparameters are not among the unknowns")
    for log in log_hyper:
        hyper = whitening.hyper.hyperparameters(log)
        yield warm.component.field.with_basis(whitening.energy.basis(hyper)), hyper


def monitored(
    target: Target,
    warm: WarmStart,
    first: Posterior,
    positions: Float[Tensor, "chains draws unknowns"],
    unknowns: Unknowns,
) -> dict[str, Float[Tensor, "chains draws"]]:
    """Quantities that users ask about, by name.

    The density, friction, parameters of formulas, noise, first states, hyperparameters, and the
    field without inputs at states that are spread over the data.
    """
    shape = positions.shape[:2]
    nodes, scaling, names = warm.problem.nodes, first.scaling, first.names
    blocks = positions.flatten(0, 1).split(BLOCK)
    found = {"the log density": torch.cat([target(block) for block in blocks])}
    found.update(_named(warm, unknowns))
    for channel, name in enumerate(names):
        if name not in first.diagnostics.unobserved:
            found[f"the noise of {name}"] = unknowns.noise_std[:, channel]
        for path, window in enumerate(warm.problem.windows.chain[:, 0].tolist()):
            label = first.data.labels[path]
            found[f"the first {name} of trajectory {label}"] = unknowns.start[:, window, channel]
    for column, name in enumerate(_hyper_names(target)):
        found[name] = unknowns.log_hyper[:, column]
    whole = nodes.values[nodes.mask.all(1)]
    if first.diagnostics.unobserved:
        windows = warm.problem.windows.nodes
        whole = warm.solution.path[windows < nodes.first[-1]]
    if len(whole):
        index = torch.linspace(0, len(whole) - 1, min(len(whole), PLACES)).round().long()
        z = whole[index.to(whole.device)]
        rates = _field_at(target, warm, unknowns, z)
        for place, state in enumerate(scaling.to_user(z).tolist()):
            where = ", ".join(f"{value:.3g}" for value in state)
            for channel, name in enumerate(names):
                found[f"d{name}/dt at ({where})"] = rates[:, place, channel]
    return {name: value.cpu().reshape(shape) for name, value in found.items()}


def _named(warm: WarmStart, unknowns: Unknowns) -> dict[str, Tensor]:
    """Coefficients of the dissipation and parameters of formulas, of every draw."""
    field = warm.component.field
    w, _, rho = field.parts(unknowns.theta)
    every = named(field.basis, w)
    if field.dissipation.num_parameters:
        every["friction"] = field.dissipation.coefficients(rho)
    found = {}
    for name, values in every.items():
        columns = values.reshape(len(values), -1)
        for k, column in enumerate(columns.mT):
            found[name if columns.shape[1] == 1 else f"{name} {k + 1}"] = column
    return found


def _hyper_names(target: Target) -> list[str]:
    hyper = target.whitening.hyper
    if hyper is None:
        return []
    return [
        name.replace("_", " ") + (f" {k + 1}" if prior.median.numel() > 1 else "")
        for name, prior in hyper.priors.items()
        for k in range(prior.median.numel())
    ]


def _field_at(
    target: Target, warm: WarmStart, unknowns: Unknowns, z: Float[Tensor, "places dim"]
) -> Float[Tensor, "draws places dim"]:
    theta, field = unknowns.theta, warm.component.field
    if field.num_inputs:
        z = as_points(z, z.new_zeros(field.num_inputs))
    if target.whitening.hyper is None:
        bound = field.bind(theta)
        return bound(0.0, z.expand(len(theta), *z.shape))
    fields = _moving_fields(target, warm, unknowns.log_hyper)
    return torch.stack([own.bind(row)(0.0, z) for (own, _), row in zip(fields, theta, strict=True)])

"""What summaries say of the parts of a field: dissipation, inputs, physics, lengthscales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sympgp.dissipation import LinearDissipation, Rayleigh
from sympgp.energies import FourierBasis, OrthogonalBasis, SumBasis
from sympgp.energies.base import Basis
from sympgp.energies.explained import shares
from sympgp.posterior.component import Component
from sympgp.posterior.parameters import correlations, parameters, region
from sympgp.posterior.sampled_component import SampledComponent

if TYPE_CHECKING:
    from sympgp.posterior.field import FieldPosterior
else:
    FieldPosterior = Any

MOST_SHOWN = 8
"""Rows of a matrix beyond which its diagonal alone is shown."""
APART = 0.9
"""Correlation from which on two things cannot be told apart."""
VAGUE = 0.5
"""Share of the prior's deviation from which on a posterior says little."""
PRIOR_DRAWS = 2000


def number(mean: float, stddev: float) -> str:
    """A value and its deviation."""
    return f"{mean:.4g} +- {stddev:.2g}"


def made_of(components: Sequence[Component]) -> str:
    """How many Gaussians, or draws, a posterior is a mixture of."""
    banks = [len(c.draws.theta) for c in components if isinstance(c, SampledComponent)]
    return f"{sum(banks)} draws" if banks else f"{len(components)} components"


def dissipation_entries(posterior: FieldPosterior) -> dict[str, tuple[tuple[int, ...], str]]:
    """The coefficients that are shown: by name, their index and unit."""
    shape = tuple(posterior.dissipation().mean.shape)
    names, units = posterior.names, posterior.units  # type: ignore[attr-defined]
    num = posterior.num_dof
    q, p = names[:num], names[num:]
    conjugate = p + q
    if isinstance(posterior.dissipation_family, Rayleigh):
        return _drag_entries(posterior.dissipation_family, shape, q, p, units)
    if not shape:
        pairs = [(units.get(b), units.get(a)) for a, b in zip(q, p, strict=True)]
        return {"friction": ((), _ratio(*pairs[0]) if len(set(pairs)) == 1 else "")}
    size = shape[0]
    own, other = names[-size:], conjugate[-size:]
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    for i in range(size):
        for j in range(size):
            unit = _ratio(units.get(own[i]), units.get(other[j]))
            if i == j:
                index = (i,) if len(shape) == 1 else (i, i)
                found[f"friction of {own[i]}"] = (index, unit)
            elif len(shape) == 2 and size <= MOST_SHOWN:
                found[f"friction between {own[i]} and {own[j]}"] = ((i, j), unit)
    return found


def _drag_entries(
    family: Rayleigh,
    shape: tuple[int, ...],
    q: tuple[str, ...],
    p: tuple[str, ...],
    units: dict[str, str],
) -> dict[str, tuple[tuple[int, ...], str]]:
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    time = units.get("time")
    for k, kind in enumerate(family.drag):
        for i in range(shape[1] if len(shape) == 2 else 1):
            length, momentum = units.get(q[i]), units.get(p[i])
            unit = {
                "linear": _ratio(momentum, length),
                "coulomb": _ratio(momentum, time),
                "quadratic": _ratio(momentum and time and f"{momentum} {time}", _square(length)),
            }[kind]
            index, of = ((k, i), f" of {p[i]}") if len(shape) == 2 else ((k,), "")
            found[f"{kind} drag{of}"] = (index, unit)
    return found


def _ratio(over: str | None, under: str | None) -> str:
    """A unit with a space before it; nothing where it is unknown or a number."""
    if not over or not under or over == under:
        return ""
    return f" {_bracketed(over)}/{_bracketed(under)}"


def _bracketed(unit: str) -> str:
    return f"({unit})" if any(sign in unit for sign in " */") else unit


def _square(unit: str | None) -> str | None:
    return unit and f"{_bracketed(unit)}^2"


def dissipation_lines(posterior: FieldPosterior) -> list[str]:
    """Coefficients with their names and units; a symmetric matrix is shown once."""
    if not posterior.components[0].field.dissipation.num_parameters:
        return []
    found = posterior.dissipation()
    lines = []
    for name, (index, unit) in dissipation_entries(posterior).items():
        mean, stddev = float(found.mean[index]), float(found.stddev[index])
        if len(index) == 2 and index[0] > index[1] and name.startswith("friction"):
            mirrored = float(found.mean[index[::-1]])
            if abs(mirrored - mean) <= 1e-9 * max(abs(mean), abs(mirrored)):
                continue
        lines.append(f"  {name}: {number(mean, stddev)}{unit}")
    return lines


def friction_worries(posterior: FieldPosterior) -> list[str]:
    """Coefficients that the data say little about."""
    component = posterior.components[0]
    family = component.field.dissipation
    if not family.num_parameters or family.lossless:
        return []
    if isinstance(family, LinearDissipation):
        _, variance = component.damping_moments()
        if float(variance[-1].sqrt()) > VAGUE * float(family.prior_stddev[-1]):
            return ["friction is poorly identified: its posterior is nearly as wide as its prior"]
        return []
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(
        PRIOR_DRAWS, family.num_parameters, generator=generator, dtype=torch.float64
    ).to(family.prior_stddev)
    # Positive coefficients have heavy tails, in which deviations of draws are mostly chance.
    before = _width(family.coefficients(white * family.prior_stddev))
    parts = [c.field.dissipation.coefficients(c.damping_draws) for c in posterior.components]
    after = _width(torch.cat(parts))
    vague = [
        name
        for name, (index, _) in dissipation_entries(posterior).items()
        if float(after[index]) > VAGUE * float(before[index])
    ]
    if not vague:
        return []
    return [
        f"{', '.join(vague)}: poorly identified, for the posterior is nearly as wide as the prior"
    ]


def _width(draws: Tensor) -> Tensor:
    """Distance of the quartiles of each coefficient."""
    low, high = draws.quantile(torch.tensor([0.25, 0.75]).to(draws), dim=0)
    return high - low


def input_lines(posterior: FieldPosterior) -> list[str]:
    """Learned entries of G at the data's centre."""
    field = posterior.components[0].field
    if field.driven is None or not field.driven.num_parameters:
        return []
    found = posterior.input_matrix(posterior.scaling.center)
    names = posterior.names
    inputs = posterior.data.input_names  # type: ignore[attr-defined]
    lines = []
    for i, name in enumerate(names):
        for k, source in enumerate(inputs or [f"u{k + 1}" for k in range(posterior.num_inputs)]):
            mean, stddev = float(found.mean[0, i, k]), float(found.stddev[0, i, k])
            if stddev > 0.0:
                lines.append(f"  input {source} on d {name} / dt: {number(mean, stddev)} per unit")
    return lines


def physics_lines(posterior: FieldPosterior) -> list[str]:
    """Named parameters, and the share of the field that each part of a sum explains."""
    apart = correlations(posterior)
    nearest = parameters(posterior, nearest=True) if apart else {}
    lines = []
    every = parameters(posterior)
    grouped = by_trajectory(posterior, every)
    for name, found in every.items():
        if any(name in own for own in grouped.values()):
            continue
        if found.mean.dim() == 2:
            rows = range(len(found.mean))
            for i in rows:
                for j in rows[i:] if len(rows) <= MOST_SHOWN else (i,):
                    value = number(float(found.mean[i, j]), float(found.stddev[i, j]))
                    where = "" if len(rows) == 1 else f"[{i + 1}, {j + 1}]"
                    lines.append(f"  {name}{where}: {value}")
            continue
        low, high = (float(end) for end in found.interval(0.95))
        value = number(float(found.mean), float(found.stddev))
        line = f"  {name}: {value} (95% from {low:.4g} to {high:.4g})"
        if name in nearest:
            close = number(float(nearest[name].mean), float(nearest[name].stddev))
            line += f"; of the formula closest to the whole field {close}"
        lines.append(line)
        lines += trajectory_lines(grouped.get(name, []), every)
    return lines + share_lines(posterior)


def by_trajectory(posterior: FieldPosterior, every: dict[str, Any]) -> dict[str, list[str]]:
    """Names of what belongs to each parameter that differs by trajectory."""
    context = posterior.components[0].field.context
    if context is None:
        return {}
    found: dict[str, list[str]] = {}
    for name in every:
        own = [f"{name}[{label}]" for label in context.shown()[0]]
        if all(one in every for one in own):
            found[name] = own + [n for n in (f"{name}[new]", f"{name} spread") if n in every]
    return found


def trajectory_lines(names: list[str], every: dict[str, Any]) -> list[str]:
    """A parameter's values in the trajectories, and how much they differ, in two lines."""
    if not names:
        return []
    own = [name for name in names if name.endswith("]") and not name.endswith("[new]")]
    values = [number(float(every[n].mean), float(every[n].stddev)) for n in own[:MOST_SHOWN]]
    shown = ", ".join(f"{n[n.index('[') + 1 : -1]}: {v}" for n, v in zip(own, values, strict=False))
    more = f", and {len(own) - MOST_SHOWN} more" if len(own) > MOST_SHOWN else ""
    lines = [f"    by trajectory {shown}{more}"]
    spread = next((name for name in names if name.endswith(" spread")), None)
    if spread is not None:
        half = number(float(every[spread].mean), float(every[spread].stddev))
        line = f"    68% of trajectories lie within {half} of the median"
        if names[-2].endswith("[new]"):
            low, high = (float(end) for end in every[names[-2]].interval(0.95))
            line += f"; a new one 95% from {low:.4g} to {high:.4g}"
        lines.append(line)
    return lines


def share_lines(posterior: FieldPosterior) -> list[str]:
    """What each part of a sum with a formula explains of the field's mean square."""
    component = posterior.components[0]
    basis = component.field.basis
    if not isinstance(basis, SumBasis) or not any(n.startswith("physics") for n in basis.names):
        return []
    total: dict[str, float] = {}
    z = region(posterior)
    for own in posterior.components:
        known = own.field.basis
        if isinstance(known, SumBasis):
            w = own.typical()[: known.num_weights]
            for name, share in shares(known, z, w).items():
                total[name] = total.get(name, 0.0) + float(share) / len(posterior.components)
    shown = ", ".join(f"{name} {share:.1%}" for name, share in total.items())
    return [f"  of the field over the data, as mean squares: {shown}"]


def physics_worries(posterior: FieldPosterior) -> list[str]:
    """Parameters that something learned can stand in for."""
    return [
        f"{name} and the learned part of the energy cannot be told apart (correlation "
        f"{found:.2f}): only the formula closest to the whole field is known better"
        for name, found in correlations(posterior).items()
        if abs(found) > APART
    ]


def lengthscale_lines(posterior: FieldPosterior) -> list[str]:
    """Geometric means over the components, of each learned part."""
    component = posterior.components[0]
    names, units = posterior.names, posterior.units  # type: ignore[attr-defined]
    lines = []
    for key in component.hyperparameters:
        part, _, kind = key.rpartition(".")
        if kind != "lengthscale":
            continue
        logs = [c.hyperparameters[key].log() for c in posterior.components]
        entries = _entries(component.field.basis, part, len(logs[0]), len(names))
        scale = posterior.scaling.scale[entries]
        values = torch.stack(logs).mean(0).exp() * scale
        shown = ", ".join(
            f"{name} {float(v):.3g}{' ' + units[name] if units.get(name) else ''}"
            for name, v in zip(names[entries], values, strict=True)
        )
        lines.append(f"  lengthscales of {'H' if not part else f'the {part} part of H'}: {shown}")
    return lines


def _entries(basis: Basis, part: str, size: int, dim: int) -> slice:
    """The entries of the state that a part's lengthscales are of."""
    if size == dim:
        return slice(0, dim)
    if isinstance(basis, SumBasis) and part in basis.names:
        basis = basis.parts[basis.names.index(part)]
    if isinstance(basis, OrthogonalBasis):
        basis = basis.learned
    moved: Tensor | None = basis.frequencies if isinstance(basis, FourierBasis) else None
    on_momenta = moved is not None and not bool(moved[:, : dim // 2].any())
    return slice(dim // 2, dim) if on_momenta else slice(0, dim // 2)

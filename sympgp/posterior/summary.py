"""The summary of a posterior in plain words: what was found and what to worry about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sympgp.posterior import found
from sympgp.posterior.component import GaussianComponent
from sympgp.posterior.identification import identification

if TYPE_CHECKING:
    from sympgp.posterior.posterior import Posterior
else:
    Posterior = Any


CHECKED = 50
"""Draws for the verdict."""
CORRELATED = 1.05
"""Autocorrelation time, in observations, that is worth a word."""


def _unit(posterior: Posterior, name: str) -> str:
    unit = posterior.units.get(name)
    return f" {unit}" if unit else ""


def summarize(posterior: Posterior) -> str:
    """Several lines of text, see ``Posterior.summary``."""
    data, diagnostics = posterior.data, posterior.diagnostics
    lines = [
        f"Posterior of {posterior.num_dof} degree(s) of freedom from {len(data)} trajectories, "
        f"{data.num_observations} observations ({diagnostics.engine}, "
        f"{diagnostics.seconds:.1f} s, {found.made_of(posterior.components)})",
        *_found(posterior),
    ]
    if posterior.conditioned:
        lines.insert(1, "  its states are those of other data than the field was learned from")
    if not posterior.counterfactual:
        lines.append(f"Verdict: {posterior.check(num_samples=CHECKED).verdict}.")
    worries = _worries(posterior)
    lines.append("To worry about:" if worries else "Nothing to worry about was found.")
    lines.extend(f"  - {worry}" for worry in worries)
    return "\n".join(lines)


def _found(posterior: Posterior) -> list[str]:
    lines = []
    noise = posterior.noise()
    for k, name in enumerate(posterior.names):
        if name in posterior.diagnostics.unobserved:
            lines.append(f"  {name} was never observed: it follows from the others")
            continue
        value = found.number(float(noise.mean[k]), float(noise.stddev[k]))
        lines.append(f"  noise of {name}: {value}{_unit(posterior, name)}")
    dof = posterior.components[0].noise_dof
    if dof is not None:
        lines.append(f"  noise is Student's t with {dof:.3g} degrees of freedom")
    lines += found.dissipation_lines(posterior)
    lines += [f"  {sentence}" for sentence in identification(posterior)]
    lines += found.input_lines(posterior)
    lines += found.physics_lines(posterior)
    lines += found.lengthscale_lines(posterior)
    scaling, component = posterior.scaling, posterior.components[0]
    if isinstance(component, GaussianComponent):
        lines.append(
            f"  directions of the field that the data determine: {_determined(component)} "
            f"of {len(component.theta)}"
        )
    jump = sum(c.window_states.jump_std for c in posterior.components) / len(posterior.components)
    time = float(component.window_states.spacing * scaling.time_scale)
    shown = ", ".join(
        f"{name} {jump * float(s):.2g}{_unit(posterior, name)}"
        for name, s in zip(posterior.names, scaling.scale, strict=True)
    )
    lines.append(
        f"  model discrepancy: jumps of {shown} in every {time:.3g}{_unit(posterior, 'time')} "
        f"{_verdict(posterior.diagnostics.jump_gain)}"
    )
    diagnostics = posterior.diagnostics
    lines.append(
        f"  solver step {diagnostics.solver_step:.3g}{_unit(posterior, 'time')}, its error "
        f"{diagnostics.solver_error:.2g} of the fitted paths' posterior deviation"
    )
    lines.extend(f"  {detail}" for detail in diagnostics.details)
    return lines


def _verdict(gain: float) -> str:
    if gain < 3.0:
        return "(consistent with none)"
    return f"(favoured over none by {gain:.1f} nats)"


def _determined(component: GaussianComponent) -> int:
    """Directions whose posterior variance is below half of the prior's."""
    stddev = component.field.prior_precision().rsqrt()
    _, root = component.moments()
    return int((torch.linalg.svdvals(root / stddev.unsqueeze(-1)) ** 2 < 0.5).sum())


def _worries(posterior: Posterior) -> list[str]:
    diagnostics = posterior.diagnostics
    worries = list(diagnostics.notes)
    if posterior.counterfactual:
        worries.append("dissipation was set to zero after the fit: this is a counterfactual")
    if not diagnostics.converged:
        worries.append("a search ended before its tolerance: the optimum may not be the best one")
    if not diagnostics.windows_joined:
        worries.append(
            f"the data could not be followed as single paths; windows of "
            f"{diagnostics.window_time:.3g} time units stayed"
        )
    if diagnostics.jump_gain >= 3.0:
        worries.append(
            "the data do not follow one ODE exactly: forecasts carry random jumps of the size "
            "above; rollouts do so with discrepancy=True"
        )
    if diagnostics.solver_error > 0.1:
        worries.append("the solver's error is not small against the posterior deviation")
    share = posterior.noise_std / (posterior.scaling.spread * posterior.scaling.scale)
    for name, part in zip(posterior.names, share.tolist(), strict=True):
        if part > 0.9:
            worries.append(f"the model explains little of {name}: its noise is {part:.0%} of it")
    for name, factor in zip(posterior.names, diagnostics.inflation, strict=True):
        if factor > CORRELATED:
            worries.append(
                f"residuals of {name} are correlated in time: {factor:.1f} observations were "
                "counted as one"
            )
    worries.extend(found.physics_worries(posterior))
    worries.extend(_friction_worries(posterior))
    return worries


def _friction_worries(posterior: Posterior) -> list[str]:
    component = posterior.components[0]
    damping = component.field.dissipation
    if damping.truncated and not damping.lossless:
        _, variance = component.damping_moments()
        mode, deviation = component.theta[-1], float(variance[-1].sqrt())
        if isinstance(component, GaussianComponent):
            deviation = float(component.damping_direction()[1])
        if float(mode) < -2.0 * deviation:
            return [
                "the data prefer negative friction: energy is gained, which this model cannot do; "
                "an input or another dissipation may be missing"
            ]
    return found.friction_worries(posterior)

"""Saving a posterior learned from derivatives to one file, and reading it back."""

from __future__ import annotations

from dataclasses import asdict
from os import PathLike, fspath
from typing import Any

import torch

from sympgp.fields import HamiltonianField
from sympgp.kernels.energy import from_plain
from sympgp.phase_space import CanonicalScaling
from sympgp.posterior import parts
from sympgp.posterior.component import Component, GaussianComponent, JointDraws
from sympgp.posterior.derivative_posterior import DerivativePosterior
from sympgp.posterior.diagnostics import Diagnostics
from sympgp.posterior.exact import ExactGaussian
from sympgp.posterior.exact_component import ExactComponent
from sympgp.posterior.pathwise import PathwiseBasis
from sympgp.posterior.sampled_component import SampledComponent
from sympgp.posterior.storage import _plain, _to_cpu
from sympgp.trajectories import StateDerivatives
from sympgp.trajectories.paths import check_writable

FORMAT = "sympgp derivative posterior 1"


def save(posterior: DerivativePosterior, path: str | PathLike[str]) -> None:
    """Write the posterior.

    Raises:
        ValueError: a kernel or basis that is code; a file that cannot be written.
    """
    data = posterior.data
    content = {
        "format": FORMAT,
        "components": [_describe(component) for component in posterior.components],
        "scaling": _plain(posterior.scaling),
        "dtype": str(posterior.dtype).removeprefix("torch."),
        "dissipation_family": parts.plain(posterior.dissipation_family, "posterior"),
        "data": {
            "states": data.states,
            "derivatives": data.derivatives,
            "state_noise": data.state_noise,
            "names": list(data.names),
            "units": dict(data.units),
        },
        "diagnostics": asdict(posterior.diagnostics),
        "counterfactual": posterior.counterfactual,
    }
    check_writable(path)
    torch.save(_to_cpu(content), fspath(path))


def _describe(component: Component) -> dict[str, Any]:
    plain = _plain(component)
    del plain["field"], plain["states"]
    basis = component.field.basis
    if isinstance(component, SampledComponent):
        plain["draws"] = component.draws._asdict()
    if isinstance(component, ExactComponent) and isinstance(basis, PathwiseBasis):
        gaussian = _plain(component.gaussian)
        gaussian["kernel"] = component.gaussian.kernel.plain()
        gaussian["dissipation"] = parts.plain(component.gaussian.dissipation, "posterior")
        plain["gaussian"], waves = gaussian, basis.waves
        plain["waves"] = parts.plain(waves, "posterior")
    else:
        plain["waves"] = parts.plain(basis, "posterior")
    plain["dissipation"] = parts.plain(component.field.dissipation, "posterior")
    return plain


def from_content(content: dict[str, Any]) -> DerivativePosterior:
    """The posterior that a file's content describes.

    Raises:
        LookupError, TypeError, ValueError: it describes none.
    """
    diagnostics = dict(content["diagnostics"])
    for name in ("inflation", "notes", "details", "unobserved"):
        diagnostics[name] = tuple(diagnostics[name])
    data = content["data"]
    return DerivativePosterior(
        tuple(_component(dict(plain)) for plain in content["components"]),
        CanonicalScaling(**content["scaling"]),
        parts.rebuilt(content["dissipation_family"]),
        StateDerivatives(**data, dtype=data["states"].dtype),
        Diagnostics(**diagnostics),
        content["counterfactual"],
        dtype=getattr(torch, content.get("dtype", "float64")),
    )


def _component(plain: dict[str, Any]) -> Component:
    waves = parts.rebuilt(plain.pop("waves"))
    dissipation = parts.rebuilt(plain.pop("dissipation"))
    if "gaussian" not in plain:
        field = HamiltonianField(waves, dissipation)
        if "draws" not in plain:
            return GaussianComponent(field=field, states=None, **plain)
        draws = JointDraws(**plain.pop("draws"))
        return SampledComponent(field=field, states=None, draws=draws, **plain)
    known = dict(plain.pop("gaussian"))
    kernel = from_plain(known.pop("kernel"))
    own = parts.rebuilt(known.pop("dissipation"))
    gaussian = ExactGaussian(kernel=kernel, dissipation=own, **known)
    basis = PathwiseBasis(waves, kernel, gaussian.centers)
    return ExactComponent(
        field=HamiltonianField(basis, dissipation), states=None, gaussian=gaussian, **plain
    )

"""Saving a posterior to one file, and reading it back on any device.

The file holds tensors, numbers, strings, lists and dictionaries only, so that
``torch.load(path, weights_only=True)`` reads it without running code.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sympgp.energies.physics_basis import Formula
from sympgp.fields import HamiltonianField
from sympgp.phase_space import CanonicalScaling
from sympgp.posterior import parts
from sympgp.posterior.component import Component, GaussianComponent, JointDraws
from sympgp.posterior.diagnostics import Diagnostics
from sympgp.posterior.posterior import Posterior
from sympgp.posterior.sampled_component import SampledComponent
from sympgp.posterior.states import WindowStates
from sympgp.trajectories import Trajectories
from sympgp.trajectories.paths import check_writable

FORMAT = "sympgp posterior 5"
COMPONENTS: dict[str, type[Component]] = {
    "GaussianComponent": GaussianComponent,
    "SampledComponent": SampledComponent,
}


def _plain(instance: Any) -> dict[str, Any]:
    """A dataclass's own fields, as they are."""
    return {f.name: getattr(instance, f.name) for f in fields(instance)}


def _to_cpu(value: Any) -> Any:
    """Move every tensor of a nested value to the CPU."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: _to_cpu(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_cpu(item) for item in value]
    return value


def save(posterior: Posterior, path: str | PathLike[str]) -> None:
    """Write the posterior.

    Raises:
        ValueError: the folder does not exist or the file cannot be written.
    """
    data = posterior.data
    components = []
    for component in posterior.components:
        plain = _plain(component)
        field = plain.pop("field")
        plain["kind"] = type(component).__name__
        if isinstance(component, SampledComponent):
            plain["draws"] = component.draws._asdict()
        if component.states is not None:
            plain["states"] = _plain(component.states)
        plain["field"] = parts.plain((field.basis, field.dissipation, field.driven), "posterior")
        components.append(plain)
    content = {
        "format": FORMAT,
        "components": components,
        "scaling": _plain(posterior.scaling),
        "dtype": str(posterior.dtype).removeprefix("torch."),
        "dissipation_family": parts.plain(posterior.dissipation_family, "posterior"),
        "data": {
            "times": list(data.times),
            "states": list(data.states),
            "names": list(data.names),
            "units": dict(data.units),
            "labels": list(data.labels),
            "inputs": None if data.inputs is None else list(data.inputs),
            "input_names": list(data.input_names) or None,
            "covariates": data.covariates,
            "covariate_names": list(data.covariate_names) or None,
        },
        "context": data.context,
        "diagnostics": asdict(posterior.diagnostics),
        "counterfactual": posterior.counterfactual,
        "conditioned": posterior.conditioned,
    }
    check_writable(path)
    torch.save(_to_cpu(content), fspath(path))


def load(
    path: str | PathLike[str],
    device: torch.device | str | None = None,
    *,
    formula: Formula | Mapping[str, Formula] | None = None,
) -> Any:
    """Read a posterior that its ``save`` wrote; it predicts the same as before.

    Args:
        path: the file.
        device: where to put its tensors; the CPU when None.
        formula: the function that a ``PhysicsEnergy`` was made with, which files do not hold;
            several by their names. Formulas that are strings are in the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is something else; a function is missing, or is another one.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"path: there is no file {fspath(path)!r}")
    wrong = f"path: {fspath(path)!r} is not a posterior written by sympgp"
    if not zipfile.is_zipfile(path):  # other contents fail in torch.load in many ways
        raise ValueError(wrong)
    try:
        content = torch.load(fspath(path), map_location=device or "cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, LookupError, EOFError) as error:
        raise ValueError(f"{wrong}, or it is damaged") from error
    if not isinstance(content, dict) or not str(content.get("format")).startswith("sympgp "):
        raise ValueError(wrong)
    from sympgp.posterior import derivative_storage  # which uses this module

    read: Callable[[dict[str, Any]], Any] = _from_content
    if content["format"] == derivative_storage.FORMAT:
        read = derivative_storage.from_content
    elif content["format"] != FORMAT:
        raise ValueError(
            f"path: {fspath(path)!r} has the format {content['format']!r}; "
            f"this version reads {FORMAT!r}"
        )
    content = parts.with_functions(content, formula)
    try:
        return read(content)
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{wrong}, or it is damaged") from error


def _from_content(content: dict[str, Any]) -> Posterior:
    components = []
    for plain in content["components"]:
        field = HamiltonianField(*parts.rebuilt(plain.pop("field")))
        if plain["states"] is not None:
            plain["states"] = WindowStates(**plain["states"])
        if "draws" in plain:
            plain["draws"] = JointDraws(**plain["draws"])
        components.append(COMPONENTS[plain.pop("kind")](field=field, **plain))
    diagnostics = dict(content["diagnostics"])
    for name in ("inflation", "notes", "details", "unobserved"):
        diagnostics[name] = tuple(diagnostics[name])
    return Posterior(
        tuple(components),
        CanonicalScaling(**content["scaling"]),
        parts.rebuilt(content["dissipation_family"]),
        Trajectories(**content["data"]).with_context(content["context"]),
        Diagnostics(**diagnostics),
        content["counterfactual"],
        content["conditioned"],
        dtype=getattr(torch, content.get("dtype", "float64")),
    )

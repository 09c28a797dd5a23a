"""Trajectories from the files that commands are given, and the options that say how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sympgp.cli.parameters import as_option

if TYPE_CHECKING:
    from sympgp.distributed import Ranks
    from sympgp.posterior import Posterior
    from sympgp.trajectories import Trajectories
else:
    Posterior = Ranks = Trajectories = Any

SEPARATORS = {"tab": "\t", "blank": r"\s+"}
"""Signs that are hard to type."""

time_option = click.option(
    "--time", default="time", metavar="COLUMN", show_default=True, help="Column of the times."
)
_TEXT_OPTIONS = (
    click.option(
        "--sep",
        metavar="SIGN",
        help='What stands between the cells of a text file: a sign, "tab" or "blank".'
        "  [default: found out]",
    ),
    click.option(
        "--decimal", type=click.Choice((".", ",")), help="Decimal sign.  [default: found out]"
    ),
    click.option(
        "--skiprows", type=click.IntRange(min=0), metavar="COUNT", help="Lines at the top to skip."
    ),
    click.option(
        "--encoding", metavar="NAME", help="Encoding of the text, such as cp1252.  [default: UTF-8]"
    ),
)

TEXT = ("sep", "decimal", "skiprows", "encoding")
"""The names of these options."""


def text_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say how a text file is written."""
    for option in reversed(_TEXT_OPTIONS):
        command = option(command)
    return command


def read(
    path: Path, text: Mapping[str, Any], ranks: Ranks | None = None, **columns: Any
) -> Trajectories:
    """Read a NetCDF file or Zarr store where the name says so, and a table in a text file else.

    Args:
        path: the file.
        text: by name, what ``text_options`` say.
        ranks: processes that call this alike, and read a share each where the file allows it.
        columns: of ``Trajectories.from_file``; None, or none at all, is what the reader assumes.
            Coordinates without momenta are positions only.

    Raises:
        ValueError: the file cannot be read; it is NetCDF, which is not written as text.
    """
    import sympgp as sg
    from sympgp.trajectories.readers import DATASET_SUFFIXES

    given = {name: value for name, value in text.items() if value is not None}
    dataset = path.suffix.lower() in DATASET_SUFFIXES
    if given and dataset:
        kind = "Zarr" if path.suffix.lower() == ".zarr" else "NetCDF"
        raise ValueError(f"--{next(iter(given))}: {path} is {kind}; this is for text files")
    if "sep" in given:
        given["sep"] = SEPARATORS.get(given["sep"], given["sep"])
    given |= {name: value for name, value in columns.items() if value}
    if columns.get("q") and not columns.get("p"):
        given["p"] = None  # positions only
    if ranks is None or not ranks.several:
        return sg.Trajectories.from_file(path, **given)
    if dataset:
        return ranks.agree(lambda: sg.TrajectoryFile(path, **given)).gathered(ranks)
    return ranks.agree(lambda: sg.Trajectories.from_file(path, **given))


def read_alike(
    posterior: Posterior,
    path: Path,
    time: str,
    trajectory: str | None,
    text: Mapping[str, Any],
) -> Trajectories:
    """Read new trajectories of a posterior's system, from columns of the same names.

    Momenta that were never observed are in no file; inputs are in every one, and so are covariates
    that a parameter depends on.

    Raises:
        ValueError: the file cannot be read.
    """
    names, n = posterior.names, posterior.num_dof
    momenta = () if bool(posterior.unobserved[n:].all()) else names[n:]
    context = posterior.components[0].field.context
    columns: dict[str, Any] = {
        "u": posterior.data.input_names,
        "covariates": context and context.names,
    }
    return read(path, text, q=names[:n], p=momenta, time=time, trajectory=trajectory, **columns)


def read_inputs(posterior: Posterior, path: Path | None, time: str) -> Any:
    """Inputs of a prediction from a table of times and of the inputs that the fit had.

    Returns:
        What ``inputs=`` of ``Posterior.rollout`` and ``forecast`` take: times (T,) and values
        (T, m); None without a file.

    Raises:
        ValueError: the field has no inputs; the file cannot be read, or has gaps.
    """
    names = posterior.data.input_names
    if path is None:
        return None
    if not names:
        raise ValueError(f"--inputs: expected no file, since the field has no inputs, got {path}")
    # inputs stand where a table of states has coordinates: the same files can be read
    with as_option("q", "--inputs"), as_option("time", "--inputs-time"):
        table = read(path, {}, q=names, time=time)
    if len(table) > 1:
        raise ValueError(f"--inputs: expected one series of times, {path} has {len(table)}")
    values = table.states[0][:, : len(names)]
    gaps = ~values.isfinite().all(1)
    if bool(gaps.any()):
        raise ValueError(
            f"--inputs: expected a value in every cell, {path} has gaps, the first at t = "
            f"{float(table.times[0][gaps][0]):g}"
        )
    return table.times[0], values

"""``sympgp fit`` and ``sympgp summary``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sympgp.cli.model_options import check_options, make_model, model_options
from sympgp.cli.parameters import (
    DataFile,
    InputFile,
    NoiseLevel,
    OutputFile,
    Unit,
    refuse_same_file,
    threads_option,
)
from sympgp.cli.reading import TEXT, read, text_options, time_option

if TYPE_CHECKING:
    from sympgp.noise import Noise
else:
    Noise = Any

FIT_HELP = """Fit a Hamiltonian system to the trajectories in FILE and save the posterior.

FILE is a CSV file with one row per observation: a first line that names the columns, then the
time, the coordinates and the momenta. Leave a cell empty where nothing was measured. A column
"trajectory" tells several trajectories apart. It may be compressed; separators and decimal commas
are found out. A NetCDF file (.nc) or a Zarr store (.zarr) will do as well.

For one degree of freedom a velocity will do as the momentum. Name several degrees of freedom by
giving --q and --p once for each, in the same order.

What is known of the system helps: what takes energy out (--dissipation), what drives it (--input),
which coordinates are angles (--angle), its mass (--mass), without which positions alone say
nothing of the momenta, or a formula of its energy (--formula).

Started by torchrun, several processes share the work, by trajectories.
"""

FIT_EXAMPLE = """\b
Examples:
  sympgp fit data.csv --q angle --p velocity --friction -o fit.pt
  sympgp fit data.csv --q x --q y --p px --p py --time t --unit t=s -o fit.pt
  sympgp fit data.nc --friction --noise student-t -o fit.pt
  sympgp fit arm.csv --q angle --p momentum --angle angle --input torque --friction -o fit.pt
  sympgp fit camera.csv --q x --q y --mass 0.2 --dissipation rayleigh --drag quadratic -o fit.pt
  sympgp fit data.csv --formula "p**2/2-k*cos(q)" --parameter k=lognormal:9,0.5 -o fit.pt
  sympgp fit data.csv --model hnn --hidden 64,64 --engine ensemble --friction -o fit.pt
  sympgp fit many.csv --formula "p**2/2-k*cos(q)" --parameter k=pooled:lognormal:9,0.5 -o fit.pt
  torchrun --nproc-per-node 2 -m sympgp fit many.nc --friction -o fit.pt
"""

SUMMARY_EXAMPLE = """\b
Example:
  sympgp summary fit.pt
"""


@click.command(help=FIT_HELP, short_help="Fit the trajectories in a file.", epilog=FIT_EXAMPLE)
@click.argument("file", type=DataFile())
@click.option(
    "--q",
    multiple=True,
    metavar="COLUMN",
    help="A coordinate.  [default: q, or all that a NetCDF file names]",
)
@click.option(
    "--p",
    multiple=True,
    metavar="COLUMN",
    help="Its momentum. Leave it out beside --q where positions alone were measured."
    "  [default: p, likewise]",
)
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="COLUMN",
    help="A known input u(t), such as a torque: what it does is learned. May be given several"
    " times.",
)
@click.option(
    "--covariate",
    "covariates",
    multiple=True,
    metavar="COLUMN",
    help="What is known of each trajectory as a whole, such as a length: the same number in all "
    "its rows. May be given several times.",
)
@time_option
@click.option(
    "--trajectory",
    metavar="COLUMN",
    help='Which trajectory a row belongs to.  [default: "trajectory", if there is such a column]',
)
@click.option(
    "--unit",
    "units",
    type=Unit(),
    multiple=True,
    metavar="NAME=UNIT",
    help="Unit of a column, for labels, if the file has none. May be given several times.",
)
@text_options
@model_options
@click.option(
    "--noise",
    type=click.Choice(("gaussian", "student-t")),
    default="gaussian",
    show_default=True,
    help="Law of the noise: student-t expects outliers.",
)
@click.option(
    "--noise-std",
    "levels",
    type=NoiseLevel(),
    multiple=True,
    metavar="[NAME=]NUMBER",
    help="Known standard deviation of the noise of a column, or of all; the scale of student-t."
    "  [default: found from the data]",
)
@click.option(
    "--engine",
    metavar="NAME",
    help="How it is learned, as NAME or NAME:OPTION=VALUE,...: gauss-newton, vi, nuts, and for "
    "networks map, ensemble, meanfield, dropout, laplace or sghmc."
    "  [default: gauss-newton, of networks ensemble]",
)
@click.option(
    "--seed",
    type=int,
    metavar="NUMBER",
    default=0,
    show_default=True,
    help="Seed of every random choice.",
)
@click.option("--device", metavar="NAME", help='Where to compute, such as "cuda".')
@click.option(
    "--dtype",
    type=click.Choice(("float32", "float64")),
    default="float64",
    show_default=True,
    help="Digits of features and predictions; float32 is for large problems on GPUs.",
)
@threads_option
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.option(
    "-o", "--output", type=OutputFile(), required=True, help="Posterior to write, such as fit.pt."
)
def fit(
    file: Path,
    q: tuple[str, ...],
    p: tuple[str, ...],
    time: str,
    trajectory: str | None,
    units: tuple[tuple[str, str], ...],
    inputs: tuple[str, ...],
    covariates: tuple[str, ...],
    noise: str,
    levels: tuple[tuple[str, float], ...],
    engine: str | None,
    seed: int,
    device: str | None,
    dtype: str,
    quiet: bool,
    output: Path,
    **given: Any,
) -> None:
    """Fit a file."""
    import torch

    from sympgp.benchmarks.registry import make_engine
    from sympgp.cli.text import describe_data
    from sympgp.distributed import initialize, leave
    from sympgp.inference import fit as fit_model  # loaded before the first word: some libraries
    # swallow an interrupt while they are imported

    ranks = initialize(device or "cpu")

    def check() -> Any:
        refuse_same_file(file, output)
        _check_device(device)
        check_options(given, inputs, covariates)
        return None if engine is None else make_engine(engine)

    inference = ranks.agree(check)
    columns = {"q": q, "p": p, "time": time, "trajectory": trajectory, "units": dict(units)}
    text = {name: given[name] for name in TEXT}
    data = read(file, text, ranks, u=inputs, covariates=covariates, **columns)
    model = ranks.agree(lambda: make_model(data, given, _noise(noise, levels, data.names), seed))
    if ranks.first:
        click.echo(f"{file}: {describe_data(data)}")
    posterior = fit_model(
        model,
        data,
        inference=inference,
        seed=seed,
        device=device,
        dtype=getattr(torch, dtype),
        progress=not quiet,
    )
    if ranks.first:
        posterior.save(output)
        click.echo(posterior.summary())
        click.echo(f"Wrote {output}")
    leave()


def _noise(kind: str, levels: tuple[tuple[str, float], ...], names: tuple[str, ...]) -> Noise:
    """The law of the noise, with what is known of it.

    Raises:
        ValueError: a level of a column that is not there.
    """
    import sympgp as sg

    std = dict.fromkeys(names, math.nan)
    for name, level in levels:
        if name and name not in std:
            raise ValueError(f"--noise-std: expected one of {', '.join(names)}, got {name!r}")
        std |= {name: level} if name else dict.fromkeys(names, level)
    law = sg.StudentTNoise if kind == "student-t" else sg.GaussianNoise
    return law(std=list(std.values()) if levels else None)


def _check_device(device: str | None) -> None:
    """Refuse a device that is not there before any data are read.

    Raises:
        ValueError: if nothing can be computed on it.
    """
    if device is None:
        return
    import torch

    try:
        torch.zeros(1, device=device)
    # builds of PyTorch without CUDA fail an assertion
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device: cannot compute on {device!r}: {reason}") from error


@click.command(short_help="Print what a posterior found.", epilog=SUMMARY_EXAMPLE)
@click.argument("file", type=InputFile)
def summary(file: Path) -> None:
    """Print what the posterior in FILE found, and what to worry about."""
    import sympgp as sg

    click.echo(sg.load(file).summary())

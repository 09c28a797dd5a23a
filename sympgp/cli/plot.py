"""``sympgp plot``."""

from __future__ import annotations

from pathlib import Path

import click

from sympgp.cli.parameters import (
    PICTURES,
    InputFile,
    OutputFile,
    Vector,
    as_option,
    refuse_same_file,
    threads_option,
)

HELP = """Draw pictures of FILE: a posterior (.pt) or the draws of a forecast or rollout (.nc).

\b
Of a posterior:
  fitted        a trajectory of the data with its bands
  residuals     what the fit leaves over: over time, its distribution, its memory
  phase         phase portrait: the field, its uncertainty, the data
  hamiltonian   mean and standard deviation of the Hamiltonian
  field         mean and standard deviation of the vector field
  energy        energy along a trajectory of the data
  trajectories  several trajectories of the data side by side
  pairs         every pair of coordinates, for two degrees of freedom or more
Of draws:
  bands         states over time with their bands
  energy        energy over time
  trajectories  several trajectories side by side
  pairs         as above
  section       states at which the first coordinate passes zero upwards

Coordinates that are angles to the fit are drawn within one turn.

Without --kind, all that there are of these are drawn, but no section. One picture goes to the
output file itself; several go to files beside it that have their kind in their names, such as
fit-phase.png.
"""

EXAMPLE = """\b
Examples:
  sympgp plot fit.pt
  sympgp plot fit.pt --kind residuals
  sympgp plot fit.pt --kind phase -o portrait.png
  sympgp plot fit.pt --kind phase --covariates 0.8 -o short.png
  sympgp plot ahead.nc --kind bands --band predictive -o ahead.pdf
"""

KINDS = (
    *("fitted", "residuals", "phase", "hamiltonian", "field", "energy", "trajectories", "pairs"),
    *("bands", "section"),
)


@click.command(help=HELP, short_help="Draw pictures of a posterior or of draws.", epilog=EXAMPLE)
@click.argument("file", type=InputFile)
@click.option(
    "--kind",
    "kinds",
    type=click.Choice(KINDS),
    multiple=True,
    help="What to draw. May be given several times.  [default: all but a section]",
)
@click.option(
    "--trajectory",
    metavar="NAME",
    help="Which trajectory to draw over time, in fitted, bands and energy: its name, or its number"
    " from 0."
    "  [default: the first]",
)
@click.option(
    "--dof",
    type=click.IntRange(min=0),
    metavar="NUMBER",
    default=0,
    show_default=True,
    help="Which degree of freedom to draw in phase space.",
)
@click.option(
    "--band",
    type=click.Choice(("latent", "predictive")),
    default="latent",
    show_default=True,
    help="Bands of the state itself, or of what would be measured of it.",
)
@click.option(
    "--covariates",
    type=Vector("numbers separated by commas, such as 0.8"),
    metavar="NUMBERS",
    help="Of pictures in phase space: covariates of the trajectory whose field to draw, where a "
    "parameter depends on them.  [default: the means of the data's]",
)
@threads_option
@click.option(
    "-o",
    "--output",
    type=OutputFile(PICTURES),
    help="Picture to write: .png, .pdf or .svg.  [default: FILE with .png for its ending]",
)
def plot(
    file: Path,
    kinds: tuple[str, ...],
    trajectory: str | None,
    dof: int,
    band: str,
    covariates: tuple[float, ...] | None,
    output: Path | None,
) -> None:
    """Draw pictures."""
    from sympgp.cli import pictures
    from sympgp.posterior.storage import check_writable

    refuse_same_file(file, output)
    source = pictures.read(file)
    possible = pictures.kinds_of(source)
    kinds = kinds or tuple(kind for kind in possible if kind != "section")
    for kind in kinds:
        if kind not in possible:
            raise ValueError(f"--kind: {file} can be drawn as {', '.join(possible)}, not as {kind}")
    index = pictures.position(source, trajectory)
    num_dof = len(source.names) // 2
    if dof >= num_dof:
        raise ValueError(f"--dof: expected a number from 0 to {num_dof - 1}, got {dof}")
    with as_option("covariates", "--covariates"):
        known = pictures.covariates_of(source, covariates)
    paths = _paths(output or file.with_suffix(".png"), kinds)
    for path in paths:
        refuse_same_file(file, path)
        check_writable(path)
    for kind, path in zip(kinds, paths, strict=True):
        pictures.save(pictures.draw(source, kind, index, dof, band, known), path)
        click.echo(f"Wrote {path}")


def _paths(output: Path, kinds: tuple[str, ...]) -> list[Path]:
    """One file for each kind."""
    if len(kinds) == 1:
        return [output]
    return [output.with_name(f"{output.stem}-{kind}{output.suffix}") for kind in kinds]

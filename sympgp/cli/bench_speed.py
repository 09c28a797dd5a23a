"""``sympgp bench speed``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sympgp.benchmarks.speed_session import Session
else:
    Session = Any

PARTS = ("field", "rollouts", "import", "fits", "scaling", "many", "accelerator")
CSV, PICTURE = "speed.csv", "speed.png"
TITLES = {
    "field": "Field",
    "rollouts": "Rollouts",
    "import": "Import",
    "fits": "Fits",
    "stages": "Fits by stage",
    "scaling": "Scaling",
    "slopes": "Slopes on log-log axes",
    "accelerator": "Accelerator",
}

HELP = """Time the field, rollouts, fits and their growth, each beside its floor.

Floors are measured in the same run: a field evaluation beside its bare matrix products, rollouts
beside the evaluations that they need, a Gauss-Newton iteration beside its normal-equation product,
that beside the machine's matrix products. Times are medians; those of long work are over fewer
repeats, see the file. Nothing is judged: the last column holds the aims on two quiet cores.

The folder --out gets speed.csv, a row for every figure, and speed.png with the slopes. Sizes: tiny
takes seconds, standard some minutes; full, with 10,000 trajectories of 100 points, an hour or
more, much of it for the one whole fit of the part many.
"""

EXAMPLE = """\b
Examples:
  sympgp bench speed
  sympgp bench speed --size full --threads 2
  sympgp bench speed --parts field,rollouts --repeats 9
"""


class Parts(click.ParamType):
    """Names of parts, separated by commas."""

    name = "names"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """The names, each once."""
        if isinstance(value, tuple):
            return value
        names = tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
        wrong = [name for name in names if name not in PARTS]
        if wrong or not names:
            self.fail(f"expected some of {', '.join(PARTS)}, got {value!r}", param, ctx)
        return names


def cores() -> int:
    """CPU cores that this process may use."""
    known = getattr(os, "sched_getaffinity", None)
    return len(known(0)) if known else os.cpu_count() or 1


@click.command(help=HELP, short_help="Time everything beside its floor.", epilog=EXAMPLE)
@click.option(
    "--size",
    type=click.Choice(["tiny", "standard", "full"]),
    default="standard",
    show_default=True,
    help="How much is measured.",
)
@click.option(
    "--parts",
    type=Parts(),
    default=",".join(PARTS),
    show_default=True,
    metavar="NAMES",
    help="What is measured, separated by commas.",
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    metavar="COUNT",
    help="That medians are over.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="COUNT",
    help="CPU threads.  [default: the cores that there are]",
)
@click.option(
    "--device",
    metavar="NAME",
    help="To compare with the CPU, such as cuda, or cpu for none.  [default: cuda where there is "
    "one]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default="bench-speed",
    show_default=True,
    metavar="DIR",
    help="Folder to write to.",
)
@click.option("--markdown", is_flag=True, help="Print the tables as Markdown.")
@click.option("--quiet", is_flag=True, help="Do not say what is being measured.")
def speed(
    size: str,
    parts: tuple[str, ...],
    repeats: int,
    threads: int | None,
    device: str | None,
    out: Path,
    markdown: bool,
    quiet: bool,
) -> None:
    """Times, slopes and memory."""
    import torch

    from sympgp.benchmarks.speed import measure_speed
    from sympgp.benchmarks.speed_session import SIZES, Session

    before = torch.get_num_threads()
    torch.set_num_threads(threads or cores())
    try:
        session = Session(SIZES[size], repeats, _accelerator(device))
        if not quiet:
            session.say = lambda text: click.echo(text, err=True)
        out.mkdir(parents=True, exist_ok=True)
        try:
            measure_speed(session, parts)
        finally:  # what there is of it, also after Ctrl-C
            if session.measurements:
                _report(session, out, markdown)
    finally:
        torch.set_num_threads(before)


def _accelerator(name: str | None) -> Any:
    """The device to compare with the CPU; None for none.

    Raises:
        ValueError: a device that cannot be used here.
    """
    import torch

    if name is None:
        return torch.device("cuda") if torch.cuda.is_available() else None
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (AssertionError, RuntimeError) as error:  # what PyTorch raises, by kind of build
        raise ValueError(f"--device: {name!r} cannot be used here: {error}") from error
    return None if device.type == "cpu" else device


def _report(session: Session, out: Path, markdown: bool) -> None:
    """Print the tables and write both files."""
    from sympgp.benchmarks.speed import machine_line, this_machine
    from sympgp.benchmarks.speed_plot import plot_speed
    from sympgp.benchmarks.speed_record import stage_table, table, write_csv
    from sympgp.benchmarks.table import aligned, as_markdown
    from sympgp.cli import pictures

    for part, rows in groupby(_ordered(session.measurements), key=lambda one: one.part):
        cells = (stage_table if part == "stages" else table)(list(rows))
        click.echo(f"{TITLES[part]}\n{as_markdown(cells) if markdown else aligned(cells)}\n")
    for text in session.notes:
        click.echo(text)
    line = machine_line(session)
    click.echo(f"Machine: {line}")
    write_csv(session.measurements, this_machine(), out / CSV)
    pictures.save(plot_speed(session.measurements, line), out / PICTURE)
    click.echo(f"Wrote {out / CSV} and {out / PICTURE}")


def _ordered(measurements: Sequence[Any]) -> list[Any]:
    """Part by part, each in the order in which it was measured."""
    return sorted(measurements, key=lambda one: list(TITLES).index(one.part))

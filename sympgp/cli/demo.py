"""``sympgp demo``."""

from __future__ import annotations

import time
from pathlib import Path

import click

from sympgp.cli.parameters import threads_option

HELP = """Show what sympgp does, in under a minute, and leave the files in a folder.

First a pendulum with friction, simulated: noisy, sparse observations with gaps, and a known truth
to compare with. Then measured data: yearly counts of hare and lynx pelts, of which the last five
years are held back and forecast. Writes pictures (.png), posteriors (.pt) and draws (.nc).
"""

EXAMPLE = """\b
Example:
  sympgp demo --out demo
"""


@click.command(help=HELP, short_help="See what sympgp does, on two examples.", epilog=EXAMPLE)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="demo",
    show_default=True,
    metavar="DIR",
    help="Folder to write to; made if it is not there.",
)
@threads_option
@click.option("--quiet", is_flag=True, help="Show no progress.")
def demo(out: Path, quiet: bool) -> None:
    """Run both examples."""
    began = time.perf_counter()
    _make_folder(out)
    from sympgp.cli import hares, pendulum

    files: list[Path] = []
    for example in (pendulum, hares):
        files += example.run(out, progress=not quiet)
        click.echo()
    click.echo(f"{len(files)} files in {out}:")
    for file in files:
        click.echo(f"  {file.name}")
    click.echo(f"It took {time.perf_counter() - began:.0f} s.")


def _make_folder(path: Path) -> None:
    """Make the folder, and find out whether files can be written there.

    Raises:
        ValueError: they cannot.
    """
    from sympgp.posterior.storage import check_writable

    try:
        path.mkdir(parents=True, exist_ok=True)
        check_writable(path / "pendulum.pt")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).removeprefix("path: ")
        raise ValueError(f"--out: cannot write to the folder {str(path)!r}: {reason}") from error

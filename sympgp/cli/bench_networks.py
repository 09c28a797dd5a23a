"""``sympgp bench networks``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from sympgp.cli.bench_options import RUNNING, check_names, running_options
from sympgp.cli.parameters import Numbers

HELP = """Networks of Hamiltonians and their relatives beside the Gaussian process.

\b
Studies:
  duffing   derivatives of Duffing's oscillator from pairs (x, dx/dt), with and
            without noise and friction, beside published errors; energies of
            rollouts up to t = 30
  protocol  the protocol of "sympgp bench ssgp"
  measured  forecasts of a measured pendulum and air track; needs --data

Each has its own models and engines unless --fit names some: hnn, dhnn, lnn, node, kan, lnn-kan and
ssgp, each with map, ensemble, meanfield, dropout, laplace, sghmc or another engine. --pictures
fits those of the first seed once more and draws phase portraits, bands, the drift of energies and
calibration curves.
"""

EXAMPLE = """\b
Examples:
  sympgp bench networks --seeds 0-2 --jobs 2 --pictures
  sympgp bench networks --study protocol --fit hnn/ensemble --fit ssgp/gauss-newton
  sympgp bench networks --study measured --data data --out measured
"""

STUDIES = ("duffing", "protocol", "measured")


class Fit(click.ParamType):
    """A model and an engine, written ``MODEL/ENGINE``."""

    name = "fit"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """The two names, with their options."""
        if isinstance(value, tuple):
            return value
        model, slash, engine = value.partition("/")
        if not slash:
            self.fail(f"expected MODEL/ENGINE, such as hnn/ensemble, got {value!r}", param, ctx)
        return model.strip(), engine.strip()


@click.command(help=HELP, short_help="Compare networks.", epilog=EXAMPLE)
@click.option(
    "--study",
    type=click.Choice(STUDIES),
    default=STUDIES[0],
    show_default=True,
    help="What is learned, and what is scored.",
)
@click.option(
    "--fit",
    "fits",
    type=Fit(),
    multiple=True,
    metavar="MODEL/ENGINE",
    help="A model and an engine, each with options as of --model and --engine of the other "
    'benchmarks, such as "hnn:width=32/ensemble". May be given several times.'
    "  [default: those of the study]",
)
@click.option("--systems", metavar="NAMES", help="Separated by commas.  [default: all]")
@click.option(
    "--seeds",
    type=Numbers(int),
    default="0-2",
    show_default=True,
    metavar="NUMBERS",
    help="Seeds of data, engines and draws, such as 0-9 or 0,3.",
)
@click.option(
    "--draws",
    type=click.IntRange(min=2),
    default=100,
    show_default=True,
    metavar="COUNT",
    help="Draws of the predictions.",
)
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder of the measured or published files.",
)
@click.option("--pictures", is_flag=True, help="Draw pictures into the folder --out, too.")
@running_options("bench-networks")
def networks(
    study: str,
    fits: tuple[tuple[str, str], ...],
    systems: str | None,
    seeds: tuple[int, ...],
    draws: int,
    data: Path | None,
    pictures: bool,
    markdown: bool,
    **given: Any,
) -> None:
    """The studies of networks."""
    from sympgp.benchmarks import networks as studies
    from sympgp.cli import bench_report

    check_names([model for model, _ in fits], [engine for _, engine in fits])
    names = tuple(part.strip() for part in (systems or "").split(",") if part.strip())
    choice = studies.Choice(tuple(dict.fromkeys(fits)), names, seeds, draws, data)
    chosen = studies.STUDIES[study]
    runs = chosen.runs(choice)
    out: Path = given["out"]
    bench_report.do_and_report(
        f"networks {study}",
        runs,
        partial(_report, study=chosen, markdown=markdown),
        partial(bench_report.brief_scores, columns=chosen.columns),
        data=data,
        **{name: given[name] for name in RUNNING},
    )
    if pictures:
        for name, scene in chosen.scenes(runs).items():
            _draw(studies.predictions(scene, data, partial(click.echo, err=True)), out, name)


def _report(records: Sequence[Any], study: Any, markdown: bool) -> None:
    """The table, and the one beside published figures."""
    from sympgp.benchmarks.table import aligned, as_markdown
    from sympgp.cli import bench_report

    bench_report.report_scores(records, study.groups, study.columns, markdown)
    if study.compared is not None:
        cells = study.compared(records)
        if cells:
            drawn = as_markdown(cells) if markdown else aligned(cells)
            click.echo(f"\nMean squared errors, train / test:\n{drawn}")


def _draw(found: Any, out: Path, name: str) -> None:
    """Every picture that the predictions allow."""
    from sympgp.benchmarks import networks_plots
    from sympgp.cli import pictures

    if not found:
        return
    drawn: dict[str, Callable[..., Any]] = {
        "portraits": networks_plots.portraits,
        "forecasts": networks_plots.forecasts,
    }
    if all(one.hamiltonian is not None for one in found.values()):
        drawn["drift"] = networks_plots.energy_drift
    drawn["calibration"] = networks_plots.calibrations
    for kind, draw in drawn.items():
        path = out / f"{name}-{kind}.png"
        pictures.save(draw(found), path)
        click.echo(f"Wrote {path}")

"""``sympgp bench calibration``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from sympgp.cli.bench_options import divide, engine_option, running_options
from sympgp.cli.parameters import PICTURES, Number, OutputFile

HELP = """Check an engine's posteriors against the prior that they start from.

Hamiltonians, friction, noise and initial states are drawn from a prior, trajectories are simulated
and fitted. If the posterior is right, the rank of the true value among its draws is uniform: of
friction, noise, the field at two points, differences of H, and states ahead of the observations
(Talts et al. 2018). The table has the share of true values in the draws' central intervals and the
p-value of a chi-squared test; --plot draws the histograms.
"""

EXAMPLE = """\b
Examples:
  sympgp bench calibration --simulations 200 --jobs 2 --plot ranks.png
  sympgp bench calibration --engine gauss-newton:num_components=1 --hyper-spread 0.5
"""


@click.command(help=HELP, short_help="Rank true values among draws.", epilog=EXAMPLE)
@click.option(
    "--simulations",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    metavar="COUNT",
    help="Draws from the prior.",
)
@click.option(
    "--num-dof",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="COUNT",
    help="Degrees of freedom.",
)
@click.option(
    "--features",
    type=click.IntRange(min=4),
    default=15,
    show_default=True,
    metavar="COUNT",
    help="Fourier features.",
)
@click.option("--conservative", is_flag=True, help="Without friction.")
@click.option(
    "--num-trajectories",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="COUNT",
    help="Trajectories of each simulation.",
)
@click.option(
    "--rate",
    type=Number(positive=True),
    default=4.0,
    show_default=True,
    help="Observations in a unit of time; most motion goes round in about six units.",
)
@click.option(
    "--duration",
    type=Number(positive=True),
    default=5.0,
    show_default=True,
    help="Time from the first observation to the last.",
)
@click.option(
    "--hyper-spread",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    metavar="NUMBER",
    help="Draw hyperparameters too: standard deviation of their logarithms.",
)
@engine_option
@click.option(
    "--draws",
    type=click.IntRange(min=100),
    default=1000,
    show_default=True,
    metavar="COUNT",
    help="Posterior draws that 99 are taken from.",
)
@click.option(
    "--plot", type=OutputFile(PICTURES), help="Picture of the ranks to write, such as ranks.png."
)
@running_options("bench-calibration")
def calibration(conservative: bool, plot: Path | None, markdown: bool, **given: Any) -> None:
    """Simulation-based calibration."""
    from sympgp.benchmarks import calibration_runs
    from sympgp.cli import bench_report

    choice, how = divide(given)
    bench_report.do_and_report(
        "calibration",
        calibration_runs(friction=not conservative, **choice),
        partial(bench_report.report_ranks, markdown=markdown, plot=plot),
        _brief_calibration,
        **how,
    )


def _brief_calibration(record: Any) -> str:
    return f"fit {record.scores['fit_seconds']:.2f} s"

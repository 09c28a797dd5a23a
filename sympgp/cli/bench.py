"""``sympgp bench``: published protocols and calibration, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from sympgp.cli.bench_calibration import calibration
from sympgp.cli.bench_networks import networks
from sympgp.cli.bench_options import divide, protocol_options, running_options
from sympgp.cli.bench_speed import speed
from sympgp.cli.parameters import Numbers

HELP = """Run published protocols and print their tables: mean and standard error over seeds.

Every run is written to the folder --out as soon as it is done: runs.csv has them all, and
benchmark.json also the versions and the machine. A command that was stopped goes on where it was
when it is given again; runs that failed are in the table and are repeated with --retry.
"""

EXAMPLE = """\b
Examples:
  sympgp bench ssgp
  sympgp bench hgp
  sympgp bench calibration
  sympgp bench networks
  sympgp bench speed
"""

SSGP_HELP = """New trajectories of pendula, Duffing's oscillator and a bead on a wire.

The protocol of Tanaka, Iwata and Ueda (NeurIPS 2022): noisy trajectories of 10 s, noise of
standard deviation 0.1; 25 trajectories of 15 s predicted from their exact initial states.

Systems: pendulum, duffing, double-pendulum and bead, each also with -friction, and with
-counterfactual, where friction is learned and then switched off. The bead is not among the
published ones: its Hamiltonian is not separable.
"""

SSGP_EXAMPLE = """\b
Examples:
  sympgp bench ssgp --seeds 0-9 --jobs 2 --out bench
  sympgp bench ssgp --systems pendulum --num-trajectories 10,20,50 --rate 3,5,10 --out sizes
  sympgp bench ssgp --systems duffing --data published --seeds 0-2 --out published-duffing
"""

HGP_HELP = """Forecasts of pendula and a star in a galaxy from one trajectory.

The protocol of Ross and Heinonen (TMLR 2023). Task 1: one noisy trajectory, to be continued for as
long again. Task 2: eight trajectories, from which 25 new ones are predicted, three times as long.
Scores are in units of the training data's standard deviations: predicting the mean has an RMSE of
about 1.

Systems: simple-pendulum, spring-pendulum, henon-heiles.
"""

HGP_EXAMPLE = """\b
Examples:
  sympgp bench hgp --seeds 1-5 --out bench-hgp
  sympgp bench hgp --task 2 --systems spring-pendulum --data published --out published-spring
"""


@click.group(help=HELP, short_help="Run published protocols.", epilog=EXAMPLE)
def bench() -> None:
    """Gather the benchmarks."""


bench.add_command(calibration)
bench.add_command(networks)
bench.add_command(speed)


@bench.command(help=SSGP_HELP, short_help="Predict new trajectories.", epilog=SSGP_EXAMPLE)
@click.option(
    "--systems",
    metavar="NAMES",
    help="Separated by commas.  [default: those with and without friction, and bead-friction]",
)
@click.option(
    "--num-trajectories",
    type=Numbers(int),
    default="10",
    show_default=True,
    metavar="NUMBERS",
    help="To learn from, such as 10,20,50.",
)
@click.option(
    "--rate",
    "rates",
    type=Numbers(float),
    metavar="NUMBERS",
    help="Observations per second, such as 3,5,10.  [default: 5, double pendulum 10]",
)
@protocol_options("0-2")
@running_options("bench-ssgp")
def ssgp(
    systems: str | None,
    num_trajectories: tuple[int, ...],
    rates: tuple[float, ...] | None,
    data: Path | None,
    markdown: bool,
    **given: Any,
) -> None:
    """The protocol of Tanaka et al."""
    from sympgp.benchmarks import ssgp as protocol

    choice, how = divide(given)
    runs = protocol.ssgp_runs(
        systems=_names(systems) or protocol.DEFAULT_SYSTEMS,
        num_trajectories=num_trajectories,
        rates=rates or (),
        data=data,
        **choice,
    )
    _run_protocol("ssgp", protocol, runs, data, markdown, how)


@bench.command(help=HGP_HELP, short_help="Continue one trajectory.", epilog=HGP_EXAMPLE)
@click.option(
    "--task",
    "tasks",
    type=Numbers(int),
    default="1",
    show_default=True,
    metavar="NUMBERS",
    help="1, 2 or 1,2.",
)
@click.option("--systems", metavar="NAMES", help="Separated by commas.  [default: all]")
@protocol_options("1-3")
@running_options("bench-hgp")
def hgp(
    tasks: tuple[int, ...], systems: str | None, data: Path | None, markdown: bool, **given: Any
) -> None:
    """The protocol of Ross and Heinonen."""
    from sympgp.benchmarks import hgp as protocol

    choice, how = divide(given)
    runs = protocol.hgp_runs(
        tasks=tasks, systems=_names(systems) or tuple(protocol.SYSTEMS), data=data, **choice
    )
    _run_protocol("hgp", protocol, runs, data, markdown, how)


def _run_protocol(
    name: str,
    protocol: Any,
    runs: Sequence[Any],
    data: Path | None,
    markdown: bool,
    how: dict[str, Any],
) -> None:
    from sympgp.cli import bench_report

    columns = protocol.COLUMNS
    bench_report.do_and_report(
        name,
        runs,
        partial(
            bench_report.report_scores, groups=protocol.GROUPS, columns=columns, markdown=markdown
        ),
        partial(bench_report.brief_scores, columns=columns),
        data=data,
        **how,
    )


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in (text or "").split(",") if part.strip()))

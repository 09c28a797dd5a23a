"""``sympgp forecast`` and ``sympgp rollout``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sympgp.cli.parameters import (
    PICTURES,
    DataFile,
    InputFile,
    Number,
    OutputFile,
    Vector,
    as_option,
    find_trajectory,
    refuse_same_file,
    threads_option,
    time_grid,
)
from sympgp.cli.reading import read_alike, read_inputs, text_options, time_option

FORECAST_HELP = """Continue a trajectory that the posterior in FILE was fitted to, or with --data
a new one of the same system: its states are found from its observations, the field stays as it is.

Each draw is one possible system with one possible present state, followed until the given time;
the spread of the draws is the uncertainty. The draws are written to a netCDF file, which xarray
opens.
"""

FORECAST_EXAMPLE = """\b
Examples:
  sympgp forecast fit.pt --until 20 -o ahead.nc
  sympgp forecast fit.pt --trajectory second --until 20 --step 0.05 -o ahead.nc --plot ahead.png
  sympgp forecast fit.pt --data new.csv --until 20 -o ahead.nc
  sympgp forecast fit.pt --until 20 --inputs torque.csv -o ahead.nc
"""

ROLLOUT_HELP = """Start new trajectories of the system in FILE from states known exactly.

A state is written as its numbers separated by commas, all coordinates first, then all momenta,
in the units of the data. The times start at 0. The draws are written to a netCDF file, which
xarray opens.
"""

ROLLOUT_EXAMPLE = """\b
Examples:
  sympgp rollout fit.pt --x0 1.0,0.0 --until 20 --step 0.05 -o new.nc
  sympgp rollout fit.pt --x0 -1.0,0.5 --x0 2,0 --until 20 --without-dissipation -o new.nc
  sympgp rollout fit.pt --x0 1.0,0.0 --until 20 --inputs torque.csv -o new.nc
  sympgp rollout fit.pt --x0 1.0,0.0 --covariates 0.8 --until 20 -o new.nc
  torchrun --nproc-per-node 2 -m sympgp rollout fit.pt --x0 1.0,0.0 --until 20 -o new.nc
"""

until_option = click.option(
    "--until", type=Number(), required=True, help="Time to end at, in the units of the data."
)
step_option = click.option(
    "--step",
    type=Number(positive=True),
    help="Time between the states that are written.  [default: a 200th of the time covered]",
)
samples_option = click.option(
    "--samples",
    type=click.IntRange(min=1),
    metavar="COUNT",
    default=100,
    show_default=True,
    help="Draws.",
)
seed_option = click.option(
    "--seed", type=int, metavar="NUMBER", default=0, show_default=True, help="Seed of the draws."
)
inputs_option = click.option(
    "--inputs",
    type=InputFile,
    metavar="TABLE",
    help="File of the inputs that drive the system, over all times of the prediction: a column of "
    "times, and one for each input, called as in the data of the fit.",
)
inputs_time_option = click.option(
    "--inputs-time",
    default="time",
    metavar="COLUMN",
    show_default=True,
    help="Column of the times in that file.",
)
output_option = click.option(
    "-o", "--output", type=OutputFile(), required=True, help="Draws to write, such as out.nc."
)
plot_option = click.option(
    "--plot", type=OutputFile(PICTURES), help="Picture of the bands to write, such as out.png."
)


@click.command(
    help=FORECAST_HELP, short_help="Continue a fitted trajectory.", epilog=FORECAST_EXAMPLE
)
@click.argument("file", type=InputFile)
@until_option
@step_option
@click.option(
    "--trajectory",
    metavar="NAME",
    help="Which trajectory: its name in the data, or its number from 0.  [default: the first]",
)
@click.option(
    "--data",
    type=DataFile(),
    metavar="DATA",
    help="File with new trajectories, CSV, NetCDF or Zarr, with the same names of the columns.",
)
@time_option
@click.option(
    "--trajectory-column",
    metavar="COLUMN",
    help='Which trajectory a row of DATA belongs to.  [default: "trajectory", if it is there]',
)
@text_options
@inputs_option
@inputs_time_option
@samples_option
@seed_option
@threads_option
@output_option
@plot_option
def forecast(
    file: Path,
    until: float,
    step: float | None,
    trajectory: str | None,
    data: Path | None,
    time: str,
    trajectory_column: str | None,
    inputs: Path | None,
    inputs_time: str,
    samples: int,
    seed: int,
    output: Path,
    plot: Path | None,
    **text: Any,
) -> None:
    """Continue a training trajectory, or a new one."""
    import sympgp as sg
    from sympgp.cli.text import describe_data, describe_rollouts

    refuse_same_file(file, output)
    posterior = sg.load(file)
    shown = posterior.data
    if data is not None:
        shown = read_alike(posterior, data, time, trajectory_column, text)
    signal = read_inputs(posterior, inputs, inputs_time)
    index = find_trajectory(trajectory, shown.labels)
    times = time_grid(float(shown.times[index][-1]), until, step)
    if data is not None:
        posterior = posterior.condition(shown)
        click.echo(f"{data}: {describe_data(shown)}")
    with as_option("inputs", "--inputs"):
        ahead = posterior.forecast(
            times, trajectory=index, num_samples=samples, seed=seed, inputs=signal
        )
    ahead.to_netcdf(output)
    click.echo(describe_rollouts(ahead))
    click.echo(f"Wrote {output}")
    if plot is not None:
        from sympgp.cli import pictures

        pictures.save(pictures.continued(posterior, ahead, index), plot)
        click.echo(f"Wrote {plot}")


@click.command(help=ROLLOUT_HELP, short_help="Start new trajectories.", epilog=ROLLOUT_EXAMPLE)
@click.argument("file", type=InputFile)
@click.option(
    "--x0",
    type=Vector("numbers separated by commas, such as 1.0,0.0"),
    multiple=True,
    required=True,
    metavar="Q,P",
    help="State to start from. May be given several times.",
)
@until_option
@step_option
@inputs_option
@inputs_time_option
@click.option(
    "--covariates",
    type=Vector("numbers separated by commas, such as 0.8"),
    multiple=True,
    metavar="NUMBERS",
    help="Covariates of the new trajectories, where a parameter depends on them: once for all, or "
    "once for each --x0 in the same order.",
)
@samples_option
@seed_option
@threads_option
@click.option(
    "--without-dissipation", is_flag=True, help="Switch the friction off: the same system undamped."
)
@click.option(
    "--discrepancy",
    is_flag=True,
    help="Let states jump at random as much as the data asked for (see the summary).",
)
@output_option
@plot_option
def rollout(
    file: Path,
    x0: tuple[tuple[float, ...], ...],
    until: float,
    step: float | None,
    inputs: Path | None,
    inputs_time: str,
    covariates: tuple[tuple[float, ...], ...],
    samples: int,
    seed: int,
    without_dissipation: bool,
    discrepancy: bool,
    output: Path,
    plot: Path | None,
) -> None:
    """Start new trajectories."""
    import sympgp as sg
    from sympgp.cli.text import describe_rollouts
    from sympgp.distributed import initialize, leave

    ranks = initialize("cpu")

    def prepare() -> tuple[Any, Any, list[float]]:
        refuse_same_file(file, output)
        times = time_grid(0.0, until, step)
        posterior = sg.load(file)
        _check_width(x0, posterior.names)
        if inputs is None and posterior.num_inputs:
            names = ", ".join(posterior.data.input_names)
            raise ValueError(f"--inputs: expected a file, since the system is driven by {names}")
        return posterior, read_inputs(posterior, inputs, inputs_time), times

    posterior, signal, times = ranks.agree(prepare)
    if without_dissipation:
        posterior = posterior.without_dissipation()
    how: dict[str, Any] = {"num_samples": samples, "seed": seed, "discrepancy": discrepancy}
    how["covariates"] = _rows(covariates)
    with as_option("inputs", "--inputs"), as_option("covariates", "--covariates"):
        new = posterior.rollout(x0, times, inputs=signal, ranks=ranks, **how)
    leave()
    if not ranks.first:
        return
    new.to_netcdf(output)
    click.echo(describe_rollouts(new))
    click.echo(f"Wrote {output}")
    if plot is not None:
        from sympgp.cli import pictures

        pictures.save(pictures.draw(new, "bands"), plot)
        click.echo(f"Wrote {plot}")


def _rows(covariates: tuple[tuple[float, ...], ...]) -> Any:
    """Covariates of new trajectories, all of one width; None without any.

    Raises:
        ValueError: rows of several widths.
    """
    if len({len(row) for row in covariates}) > 1:
        raise ValueError("--covariates: expected as many numbers each time")
    return list(covariates) or None


def _check_width(states: tuple[tuple[float, ...], ...], names: tuple[str, ...]) -> None:
    for state in states:
        if len(state) != len(names):
            raise ValueError(
                f"--x0: expected {len(names)} numbers ({', '.join(names)}), "
                f"got {len(state)}: {','.join(f'{number:g}' for number in state)}"
            )

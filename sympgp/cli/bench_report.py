"""How ``sympgp bench`` does runs, and what it prints of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from sympgp.benchmarks import Record, Results, Run, collect_ranks, do_runs
from sympgp.benchmarks.calibration import RANKED
from sympgp.benchmarks.ranks import rank_cells
from sympgp.benchmarks.results import mixed_sources
from sympgp.benchmarks.table import (
    Column,
    aggregate,
    aligned,
    as_markdown,
    common_settings,
    markdown_table,
    plain_table,
)


def do_and_report(
    protocol: str,
    runs: Sequence[Run],
    report: Callable[[Sequence[Record]], None],
    brief: Callable[[Record], str],
    *,
    jobs: int,
    out: Path,
    retry: bool,
    quiet: bool,
    data: Path | None = None,
) -> None:
    """Do what is not done yet, and report all of it, also where it was stopped.

    Args:
        protocol: name of the benchmark.
        runs: that were asked for.
        report: prints what was found.
        brief: one run in a line.
        jobs: processes.
        out: folder of the results.
        retry: whether to repeat runs that failed.
        quiet: whether to say nothing of single runs.
        data: folder of published files.

    Raises:
        ValueError: a folder that cannot be used.
    """
    results = Results(out, protocol, _options())
    left = [run for run in runs if _to_do(results.find(run), retry)]
    if len(left) < len(runs) and not quiet:
        click.echo(f"{len(runs) - len(left)} of {len(runs)} runs are in {out} already", err=True)
    try:
        with closing(do_runs(left, jobs, data)) as records:
            for number, (run, record) in enumerate(records, 1):
                results.add(record)
                if not quiet:
                    line = f"failed: {record.failure}" if record.failure else brief(record)
                    click.echo(f"[{number}/{len(left)}] {run.describe()}: {line}", err=True)
    except KeyboardInterrupt:
        click.echo(f"\nStopped: the same command goes on with what is in {out}.", err=True)
        raise
    finally:
        found = [known for run in runs if (known := results.find(run))]
        if found:
            report(found)
            _report_trouble(found)
            click.echo(f"{len(found)} of {len(runs)} runs in {out}")


def _to_do(record: Record | None, retry: bool) -> bool:
    return record is None or (retry and bool(record.failure))


def _options() -> dict[str, Any]:
    """The options of the present command, for the record."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in click.get_current_context().params.items()
    }


def _report_trouble(records: Sequence[Record]) -> None:
    """Failed runs, fits with something to worry about, results of several states of the package."""
    for record in records:
        if record.failure:
            settings = ", ".join(f"{name} {value}" for name, value in record.settings.items())
            click.echo(f"Failed: {settings}: {record.failure}", err=True)
    noted = sum(bool(record.scores.get("problems")) for record in records)
    if noted:
        click.echo(f"{noted} of {len(records)} fits have something to worry about: see runs.csv.")
    if mixed_sources(records):
        click.echo("Warning: these runs were made by different states of the package.", err=True)


def brief_scores(record: Record, columns: Sequence[Column]) -> str:
    """The scores of one run in a line."""
    return ", ".join(
        f"{column.title} {column.scale * float(value):.3g}"
        for column in columns
        if (value := record.scores.get(column.key)) is not None
    )


def report_scores(
    records: Sequence[Record],
    groups: Sequence[Sequence[str]],
    columns: Sequence[Column],
    markdown: bool,
) -> None:
    """Print the table of a protocol, and those over several of its cells."""
    draw = markdown_table if markdown else plain_table
    cells = aggregate(records, groups[0], columns)
    click.echo(draw(cells, columns))
    for group in groups[1:]:
        pooled = aggregate(records, group, columns)
        if len(pooled) < len(cells):
            left_out = [name.replace("_", " ") for name in groups[0] if name not in group]
            click.echo(f"\nOver every {' and '.join(left_out)}:\n{draw(pooled, columns)}")
    click.echo(f"\nMean and standard error over seeds; {common_settings(cells)}.")


def report_ranks(records: Sequence[Record], markdown: bool, plot: Path | None) -> None:
    """Print a table of ranks for each engine, and draw their histograms."""
    by_engine: dict[str, list[Record]] = {}
    for record in records:
        by_engine.setdefault(str(record.settings["engine"]), []).append(record)
    for engine, own in by_engine.items():
        ranks = collect_ranks(own)
        finished = [record for record in own if not record.failure]
        click.echo(f"{engine}: {len(finished)} simulations, {len(own) - len(finished)} failed")
        if not ranks:
            continue
        cells = rank_cells(ranks)
        click.echo(as_markdown(cells) if markdown else aligned(cells))
        _report_simulations(finished)
        if plot is not None:
            _draw(ranks, plot if len(by_engine) == 1 else _with_engine(plot, engine))


def _report_simulations(records: Sequence[Record]) -> None:
    """What was left out of the simulations, and those whose ranks say little."""
    redrawn = sum(int(record.scores["redrawn"] or 0) for record in records)
    apart = [r.settings["seed"] for r in records if not r.scores["joined"]]
    few = [r.settings["seed"] for r in records if float(r.scores["effective_draws"] or 0) < RANKED]
    click.echo(
        f"{redrawn} of {redrawn + len(records)} draws from the prior left the box and were drawn "
        "anew; posterior draws that leave it are left out too."
    )
    for found, meaning in (
        (apart, "windows that could not be joined"),
        (few, f"fewer than {RANKED} effective draws, far from the prior that was simulated from"),
    ):
        if found:
            shown = ", ".join(map(str, found[:10])) + (", ..." if len(found) > 10 else "")
            click.echo(f"{len(found)} fits have {meaning}: simulations {shown}.")
    click.echo()


def _with_engine(path: Path, engine: str) -> Path:
    """A name for each of several pictures."""
    safe = "".join(letter if letter.isalnum() or letter in "-=" else "_" for letter in engine)
    return path.with_stem(f"{path.stem}-{safe}")


def _draw(ranks: Sequence[Any], path: Path) -> None:
    from sympgp.benchmarks.rank_plot import plot_ranks
    from sympgp.cli import pictures

    pictures.save(plot_ranks(ranks), path)
    click.echo(f"Wrote {path}")

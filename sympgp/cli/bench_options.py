"""The options that the benchmarks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from sympgp.cli.parameters import Numbers


def _options(*options: Callable[..., Any]) -> Callable[..., Any]:
    """Several options as one decorator."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


engine_option = click.option(
    "--engine",
    "engines",
    multiple=True,
    default=("gauss-newton",),
    show_default=True,
    metavar="NAME",
    help="Inference engine, as NAME or NAME:OPTION=VALUE,... such as "
    "gauss-newton:num_components=8. May be given several times.",
)


def protocol_options(seeds: str) -> Callable[..., Any]:
    """The options of a published protocol, with its default seeds."""
    return _options(
        click.option(
            "--seeds",
            type=Numbers(int),
            default=seeds,
            show_default=True,
            metavar="NUMBERS",
            help="Seeds of data, features and draws, such as 0-9 or 0,3.",
        ),
        click.option(
            "--features",
            type=click.IntRange(min=1),
            metavar="COUNT",
            help="Fourier features.  [default: as published]",
        ),
        click.option(
            "--model",
            "models",
            multiple=True,
            default=("ssgp",),
            show_default=True,
            metavar="NAME",
            help="Model, as NAME or NAME:OPTION=VALUE,... May be given several times.",
        ),
        engine_option,
        click.option(
            "--draws",
            type=click.IntRange(min=2),
            default=100,
            show_default=True,
            metavar="COUNT",
            help="Draws of the predictions.",
        ),
        click.option(
            "--data",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            metavar="DIR",
            help="Folder of the published files, to read them instead of simulating.",
        ),
    )


def running_options(out: str) -> Callable[..., Any]:
    """The options of all benchmarks, with the default folder."""
    return _options(
        click.option(
            "--jobs",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            metavar="COUNT",
            help="Processes, each with one thread.",
        ),
        click.option(
            "--out",
            type=click.Path(path_type=Path, file_okay=False),
            default=out,
            show_default=True,
            metavar="DIR",
            help="Folder to write to; what it holds already is not done again.",
        ),
        click.option("--retry", is_flag=True, help="Repeat runs that failed before."),
        click.option("--markdown", is_flag=True, help="Print the table as Markdown."),
        click.option("--quiet", is_flag=True, help="Do not report every run."),
    )


RUNNING = ("jobs", "out", "retry", "quiet")


def divide(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is to be run, and how, once the names of models and engines are known to be right."""
    how = {name: given[name] for name in RUNNING}
    choice = {name: value for name, value in given.items() if name not in how}
    for name in {"models", "engines"} & choice.keys():
        choice[name] = tuple(dict.fromkeys(choice[name]))
    check_names(choice.get("models", ()), choice["engines"])
    return choice, how


def check_names(models: Sequence[str], engines: Sequence[str]) -> None:
    """Refuse models and engines that cannot be made before anything is computed.

    Raises:
        ValueError: names or options that are not known.
    """
    from sympgp.benchmarks.registry import make_engine, make_model

    for name in models:
        make_model(name, 1, 1, False, 0)
    for name in engines:
        make_engine(name)

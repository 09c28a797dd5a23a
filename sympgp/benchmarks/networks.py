"""The studies behind ``sympgp bench networks``: what is fitted, and what is shown of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sympgp.benchmarks import networks_duffing, networks_measured, networks_protocol
from sympgp.benchmarks.networks_prediction import Prediction
from sympgp.benchmarks.registry import Pair
from sympgp.benchmarks.runs import Record, Run
from sympgp.benchmarks.table import Column

TRAINED = "map"
"""Adam with batches of 250 pairs, 187 epochs: fewer than the 3,000 published."""
SMALL = "width=32,depth=3"
"""Three layers of 32 units."""
DUFFING_FITS: tuple[Pair, ...] = (
    ("ssgp", "regression"),
    (f"hnn:{SMALL}", TRAINED),
    (f"dhnn:{SMALL}", TRAINED),
    (f"node:{SMALL}", TRAINED),
    (f"lnn:{SMALL}", TRAINED),
)
KAN_FITS: tuple[Pair, ...] = (("lnn-kan:width=10", TRAINED),)
FITS: tuple[Pair, ...] = (
    ("ssgp", "gauss-newton"),
    ("hnn", "map"),
    ("hnn", "ensemble"),
    ("hnn", "ensemble:randomize=False"),
    ("hnn", "meanfield"),
    ("hnn", "dropout"),
    ("hnn", "laplace"),
    ("hnn", "sghmc"),
    ("dhnn", "ensemble"),
    ("node", "ensemble"),
    ("lnn", "ensemble"),
    ("kan", "ensemble"),
)


@dataclass(frozen=True)
class Choice:
    """What a study is asked for.

    Attributes:
        fits: models and engines by name; those of the study when empty.
        systems: those of the study when empty.
        seeds: of everything.
        draws: of the predictions.
        data: folder of measured or published files.
    """

    fits: Sequence[Pair] = ()
    systems: Sequence[str] = ()
    seeds: Sequence[int] = (0, 1, 2)
    draws: int = 100
    data: Path | None = None


@dataclass(frozen=True)
class Study:
    """A study.

    Attributes:
        runs: from a choice to what is to be run.
        groups: settings that make a row, as in the tables of the protocols.
        columns: what is shown.
        scenes: from runs to those that are drawn side by side, by name of the picture.
        compared: from its records to a table beside published figures; None without any.
    """

    runs: Callable[[Choice], Sequence[Run]]
    groups: Sequence[Sequence[str]]
    columns: Sequence[Column]
    scenes: Callable[[Sequence[Any]], Mapping[str, Sequence[Any]]]
    compared: Callable[[Sequence[Record]], list[list[str]]] | None = None


def _duffing(choice: Choice) -> Sequence[Run]:
    if choice.systems:
        raise ValueError("systems: expected none, as this study is of Duffing's oscillator alone")
    if choice.data is not None:
        raise ValueError("data: expected none, as the data of this study are simulated")
    fits = choice.fits or DUFFING_FITS
    kan = [fit for fit in choice.fits if "kan" in fit[0]] if choice.fits else KAN_FITS
    return networks_duffing.duffing_runs(fits, kan, seeds=choice.seeds, draws=choice.draws)


def _protocol(choice: Choice) -> Sequence[Run]:
    return networks_protocol.protocol_runs(
        choice.fits or FITS,
        choice.systems or networks_protocol.SYSTEMS,
        choice.seeds,
        choice.draws,
        choice.data,
    )


def _measured(choice: Choice) -> Sequence[Run]:
    return networks_measured.measured_runs(
        choice.fits or FITS,
        choice.systems or tuple(networks_measured.RECORDINGS),
        choice.seeds,
        choice.draws,
        choice.data,
    )


def _first_seed(runs: Sequence[Any]) -> list[Any]:
    return [run for run in runs if run.seed == runs[0].seed]


def _undamped(runs: Sequence[Any]) -> dict[str, list[Any]]:
    """Of Duffing's oscillator: without friction, where energies should stay, and with noise."""
    own = [run for run in _first_seed(runs) if run.alpha == networks_duffing.STIFFNESS[0]]
    friction, noise = min(r.friction for r in own), max(r.noise for r in own)
    return {"duffing": [r for r in own if (r.friction, r.noise) == (friction, noise)]}


def _systems(runs: Sequence[Any]) -> dict[str, list[Any]]:
    names = dict.fromkeys(run.system for run in runs)
    return {name: [r for r in _first_seed(runs) if r.system == name] for name in names}


def beside_published(records: Sequence[Record]) -> list[list[str]]:
    """Errors of every model (train / test) beside the published ones, a line a data set.

    Errors of the true field are what noise leaves to the best of models.
    """
    done = [
        r for r in records if not r.failure and r.settings["alpha"] == networks_duffing.STIFFNESS[0]
    ]
    models = list(dict.fromkeys((r.settings["model"], r.settings["engine"]) for r in done))
    heads = [str(model).partition(":")[0] for model, _ in models]
    lines = [["friction", "noise", "seed", "published HNN", "true field", *heads]]
    for (friction, noise), published in networks_duffing.PUBLISHED.items():
        own = [
            r for r in done if (r.settings["friction"], r.settings["noise"]) == (friction, noise)
        ]
        for seed in dict.fromkeys(r.settings["seed"] for r in own):
            found = {
                (r.settings["model"], r.settings["engine"]): r
                for r in own
                if r.settings["seed"] == seed
            }
            best = next(iter(found.values()))
            shown = [_errors(found.get(model), "mse") for model in models]
            what = [f"{friction:g}", f"{noise:g}", f"{seed}", _both(*published)]
            lines.append([*what, _errors(best, "mse_of_truth"), *shown])
    return lines if len(lines) > 1 else []


def _errors(record: Record | None, score: str) -> str:
    if record is None:
        return "-"
    train, test = (record.scores.get(f"{part}_{score}") for part in ("train", "test"))
    return "-" if train is None or test is None else _both(float(train), float(test))


def _both(train: float, test: float) -> str:
    return f"{train:.3g} / {test:.3g}"


def predictions(
    runs: Sequence[Any], data: Path | None, say: Callable[[str], None]
) -> dict[str, Prediction]:
    """Fits to draw, by model and engine; one that fails is reported and left out."""
    found = {}
    for run in runs:
        name = _name(run)
        name = f"{run.model}, {run.engine}" if name in found else name
        try:
            found[name] = run.predicted(data)
        except (ValueError, RuntimeError, ArithmeticError) as error:
            say(f"Not drawn: {run.describe()}: {error}")
    return found


def _name(run: Any) -> str:
    model, engine = (text.partition(":")[0] for text in (run.model, run.engine))
    return f"{model}, {engine}"


STUDIES = {
    "duffing": Study(
        _duffing,
        networks_duffing.GROUPS,
        networks_duffing.COLUMNS,
        _undamped,
        beside_published,
    ),
    "protocol": Study(_protocol, networks_protocol.GROUPS, networks_protocol.COLUMNS, _systems),
    "measured": Study(_measured, networks_measured.GROUPS, networks_measured.COLUMNS, _systems),
}

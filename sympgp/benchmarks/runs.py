"""One run of a benchmark: its settings, its scores, and what became of it."""

from __future__ import annotations

import time
import traceback
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from sympgp.integrators import DivergenceWarning

Value = str | int | float | None
"""Of a setting or a score; None where a score does not apply."""


class Run(ABC):
    """Settings that say everything about one run; a subclass is a frozen dataclass of them.

    Its instances are sent to other processes, so that they hold plain values only.
    """

    @abstractmethod
    def score(self, data: Path | None) -> dict[str, Value]:
        """Do what the settings say.

        Args:
            data: folder of the published files, where the settings ask for them.
        """

    @abstractmethod
    def describe(self) -> str:
        """A few words for the progress report."""

    def settings(self) -> dict[str, Value]:
        """The fields by name."""
        return asdict(self)  # type: ignore[call-overload]


@dataclass(frozen=True)
class Record:
    """What became of a run.

    Attributes:
        settings: of the run, by name.
        scores: by name; empty for a run that failed.
        seconds: wall time of the whole run.
        failure: why it failed; empty where it did not.
        source: fingerprint of the package that made it.
    """

    settings: Mapping[str, Value]
    scores: Mapping[str, Value] = field(default_factory=dict)
    seconds: float = 0.0
    failure: str = ""
    source: str = ""


def execute(run: Run, data: Path | None) -> Record:
    """Do a run; whatever goes wrong in it is part of the record."""
    began = time.perf_counter()
    scores: dict[str, Value] = {}
    failure = ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", DivergenceWarning)  # diverged draws are counted
        try:
            scores = run.score(data)
        except Exception as error:  # a failed run must not end the others
            failure = _explain(error)
    said = {" ".join(str(one.message).split()): None for one in caught}
    if scores and said:
        scores["problems"] = "; ".join(filter(None, [str(scores.get("problems") or ""), *said]))
    return Record(run.settings(), scores, time.perf_counter() - began, failure)


def _explain(error: Exception) -> str:
    """Kind, message and place of an error, in one line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message} ({Path(place.filename).name}:{place.lineno})"


CLEAN = "Verdict: the structure fits: "


@runtime_checkable
class Summarized(Protocol):
    """A posterior that says what it worries about."""

    def summary(self) -> str:
        """Lines of text."""


def problems(posterior: Summarized) -> str:
    """What the summary worries about and what its verdict finds, in one line."""
    found = []
    for line in posterior.summary().splitlines():
        if line.startswith("Verdict: ") and not line.startswith(CLEAN):
            found.append(line.removeprefix("Verdict: ").rstrip("."))
        elif line.startswith("  - "):
            found.append(line.removeprefix("  - "))
    return "; ".join(found)

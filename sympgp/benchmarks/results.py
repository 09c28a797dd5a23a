"""What was measured, kept in files: every run, the settings, the versions and the machine."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from sympgp.benchmarks.runs import Record, Run, Value

RUNS, SUMMARY = "runs.csv", "benchmark.json"
FORMAT = "sympgp benchmark 1"


class Results:
    """The records of one benchmark in a folder, written anew after every run.

    ``runs.csv`` has a row for every run; ``benchmark.json`` has the same together with the
    versions and the machine of every session that added to it.

    Args:
        folder: made if it is not there; what it holds already is kept.
        protocol: name of the benchmark.
        options: what was asked for, for the record.

    Raises:
        ValueError: the folder cannot be written, or holds something else.
    """

    def __init__(
        self, folder: Path, protocol: str, options: Mapping[str, Any] | None = None
    ) -> None:
        self.folder, self.protocol = folder, protocol
        self.records: list[Record] = []
        self.sessions: list[dict[str, Any]] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._load(folder / SUMMARY)
        except OSError as error:
            raise ValueError(
                f"out: cannot use the folder {str(folder)!r}: {error.strerror}"
            ) from error
        self.sessions.append({"began": _now(), "options": dict(options or {}), **environment()})

    def find(self, run: Run) -> Record | None:
        """The record of a run, if it was done before."""
        settings = run.settings()
        return next((r for r in self.records if r.settings == settings), None)

    def add(self, record: Record) -> None:
        """Keep a record in place of an earlier one of the same settings, and write the files."""
        kept = [r for r in self.records if r.settings != record.settings]
        own = Record(record.settings, record.scores, record.seconds, record.failure, fingerprint())
        self.records = [*kept, own]
        self.write()

    def write(self) -> None:
        """Write both files; each is replaced as a whole, so that none is ever half written."""
        rows = [_row(record) for record in self.records]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        # what says why comes last
        last = ("problems", "failure", "source_digest")
        columns.sort(key=lambda name: last.index(name) if name in last else -1)
        target = self.folder / RUNS
        partial = target.with_suffix(".partial")
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(partial, target)
        content = {
            "format": FORMAT,
            "protocol": self.protocol,
            "sessions": self.sessions,
            "runs": [_plain(record) for record in self.records],
        }
        target = self.folder / SUMMARY
        partial = target.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
        os.replace(partial, target)

    def _load(self, path: Path) -> None:
        if not path.exists():
            return
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            known = content["format"], content["protocol"]
            if known != (FORMAT, self.protocol):
                raise ValueError(f"it holds {known[0]}, protocol {known[1]}")
            self.sessions = content["sessions"]
            self.records = [_record(entry) for entry in content["runs"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"out: {path} is not the record of a {self.protocol} benchmark ({error}): "
                "name another folder"
            ) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment() -> dict[str, Any]:
    """Versions and machine."""
    return {
        "sympgp": version("sympgp"),
        "source_digest": fingerprint(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": machine(),
    }


def machine() -> str:
    """Processor, cores and system in a few words."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        pass
    return f"{name}, {os.cpu_count()} cores, {platform.system()}"


@cache
def fingerprint() -> str:
    """Digits that change with any line of the package, so that results of two are told apart."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        if path.relative_to(root).parts[0] not in ("cli", "plots"):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:10]


def _row(record: Record) -> dict[str, Value]:
    return {
        **record.settings,
        "status": "failed" if record.failure else "finished",
        **record.scores,
        "run_seconds": round(record.seconds, 2),
        "failure": record.failure,
        "source_digest": record.source,
    }


def _plain(record: Record) -> dict[str, Any]:
    """For JSON, which has no NaN."""
    return {
        "settings": dict(record.settings),
        "scores": {name: _safe(value) for name, value in record.scores.items()},
        "seconds": record.seconds,
        "failure": record.failure,
        "source": record.source,
    }


NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _safe(value: Value) -> Value:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return next(n for n, v in NOT_FINITE.items() if v == value or (v != v and value != value))


def _record(entry: Mapping[str, Any]) -> Record:
    scores = {
        name: NOT_FINITE.get(value, value) if isinstance(value, str) else value
        for name, value in entry["scores"].items()
    }
    return Record(entry["settings"], scores, entry["seconds"], entry["failure"], entry["source"])


def mixed_sources(records: Sequence[Record]) -> bool:
    """Whether the records were made by different states of the package."""
    return len({record.source for record in records}) > 1

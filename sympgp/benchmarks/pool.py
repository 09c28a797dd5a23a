"""Runs in parallel processes: none is lost, and Ctrl-C ends them all."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import RLock

import torch
from tqdm import tqdm

from sympgp.benchmarks.runs import Record, Run, execute

THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""For the libraries that a worker loads: threads of several processes fight for the cores."""
PATIENCE = 5.0
"""Seconds after which a worker that does not end is killed."""


Done = tuple[Run, Record]


def do_runs(
    runs: Iterable[Run], jobs: int = 1, data: Path | None = None
) -> Generator[Done, None, None]:
    """Do runs, ``jobs`` at a time, and yield each with what became of it as it ends.

    One job runs in this process; several run in spawned ones, with one thread each. A run that
    fails, or whose process is killed, is a record of its failure. Closing the generator, or an
    interrupt, ends the workers.

    Args:
        runs: what to do, in this order.
        jobs: how many at a time.
        data: folder of published files.

    Raises:
        ValueError: fewer than one job.
    """
    if jobs < 1:
        raise ValueError(f"jobs: expected at least 1, got {jobs}")
    return _in_turn(runs, data) if jobs == 1 else _in_processes(deque(runs), jobs, data)


def _in_turn(runs: Iterable[Run], data: Path | None) -> Generator[Done, None, None]:
    for run in runs:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            record = execute(run, data)
        finally:
            torch.set_num_threads(threads)
        yield run, record


class _Worker:
    """A process that does one run after another, and the run it is at."""

    def __init__(self, data: Path | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(other, data), daemon=True)
        self.process.start()
        other.close()  # so that the end of the process closes the pipe
        self.run: Run | None = None

    def send(self, run: Run) -> None:
        self.run = run
        self.connection.send(run)

    def receive(self) -> tuple[Run, Record, bool]:
        """The present run, its record, and whether the worker still lives."""
        run = self.run
        if run is None:
            raise RuntimeError("there is no run to receive")
        try:
            record = self.connection.recv()
            self.run = None
            return run, record, True
        except (EOFError, ConnectionError):
            self.process.join(PATIENCE)
            failure = f"its process ended unexpectedly (exit code {self.process.exitcode})"
            return run, Record(run.settings(), failure=failure), False

    def stop(self) -> None:
        """End the process: at once if it is at work, else when it finds the pipe closed."""
        self.connection.close()
        if self.run is not None:
            self.process.terminate()
        self.process.join(PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _in_processes(waiting: deque[Run], jobs: int, data: Path | None) -> Generator[Done, None, None]:
    workers: list[_Worker] = []
    try:
        while waiting or any(worker.run for worker in workers):
            for worker in workers:
                if waiting and worker.run is None:
                    _hand(worker, waiting)
            while waiting and len(workers) < jobs:
                with _one_thread():
                    workers.append(_Worker(data))
                _hand(workers[-1], waiting)
            busy = {worker.connection: worker for worker in workers if worker.run}
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]
                run, record, alive = worker.receive()
                if not alive:
                    workers.remove(worker)
                    worker.stop()
                yield run, record
    finally:
        for worker in workers:
            worker.stop()


def _hand(worker: _Worker, waiting: deque[Run]) -> None:
    """Give a worker the next run; one that has died meanwhile reports that when it is asked."""
    try:
        worker.send(waiting.popleft())
    except (BrokenPipeError, ConnectionError):
        pass


@contextmanager
def _one_thread() -> Iterator[None]:
    """An environment in which new processes have one thread."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(THREADS)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(connection: Connection, data: Path | None) -> None:
    """What a worker does until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the workers
    tqdm.set_lock(RLock())  # its own one is shared by processes, and left behind by a stopped one
    torch.set_num_threads(1)
    while True:
        try:
            run = connection.recv()
        except (EOFError, ConnectionError):
            return
        connection.send(execute(run, data))

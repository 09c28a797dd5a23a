"""Times of a Gauss-Newton iteration as the data, the features and the system grow."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from sympgp.benchmarks.speed_problems import shooting_problem
from sympgp.benchmarks.speed_process import in_own_process
from sympgp.benchmarks.speed_record import Measurement, series, slope
from sympgp.benchmarks.speed_session import Case, Growth, Session, describe, wait
from sympgp.shooting import linearization, sensitivities
from sympgp.shooting.gram import add_gram
from sympgp.shooting.levenberg_marquardt import levenberg_marquardt

ITERATION, PRODUCT, GEMM = "Gauss-Newton iteration", "normal-equation product", "GEMM of its size"
STAGES = 4
"""Of the one RK4 step of each interval."""
LARGEST = 20_000
"""Rows of each channel whose product is timed; of more, as many times that."""
SQUARE = 1024
"""Rows of the square matrices whose product gives the machine's rate."""


@dataclass(frozen=True)
class CaseTimes:
    """Median seconds of one case.

    Attributes:
        iteration: of a whole Gauss-Newton iteration.
        product: of the Gram matrices of all its linearised residuals.
        gemm: that its multiplications take at the rate of a GEMM of square matrices.
        repeats: of each.
    """

    iteration: float
    product: float
    gemm: float
    repeats: int


def measure_scaling(session: Session) -> None:
    """Every series in turn, then its slopes."""
    for growth in session.sizes.growth:
        budget, repeats = session.sizes.budget, session.repeats
        for case, value in zip(growth.cases(), growth.sizes, strict=True):
            session.say(f"scaling: {describe(case)}")
            memory: float | None = None
            if growth.own and session.sizes.processes:
                found, memory = in_own_process(
                    time_case, case, repeats, budget, threads=torch.get_num_threads()
                )
            else:
                found = time_case(case, repeats, budget)
            aims = growth.own and value == growth.sizes[-1]
            session.add(*rows(session, growth.axis, case, value, found, memory, aims))
        for what in (ITERATION, PRODUCT):
            add_slope(session, growth, what)


def rows(
    session: Session,
    axis: str,
    case: Case,
    value: int,
    found: CaseTimes,
    memory: float | None,
    aims: bool,
) -> list[Measurement]:
    """Iteration, product and memory of one case, with the aims of the largest."""
    done = Measurement(
        "scaling",
        ITERATION,
        describe(case),
        found.iteration,
        found.product,
        PRODUCT,
        session.aim("ratio", 3.0) if aims else None,
        amount=case[0] * case[1],
        unit="observed states",
        axis=axis,
        value=value,
        repeats=found.repeats,
    )
    product = replace(
        done,
        what=PRODUCT,
        seconds=found.product,
        floor=found.gemm,
        floor_of=GEMM,
        aim=session.aim("ratio", 2.0) if aims else None,
    )
    if memory is None:
        return [done, product]
    peak = replace(
        done,
        what="peak memory of the process",
        seconds=None,
        floor=None,
        floor_of="",
        aim=session.aim("memory_gib", 2.0) if aims else None,
        amount=None,
        unit="",
        memory_gib=memory,
        repeats=1,
    )
    return [done, product, peak]


def add_slope(session: Session, growth: Growth, what: str) -> None:
    """The slope of one series of times; of trajectories there is an aim."""
    found = series(session.measurements, growth.axis, what)
    sizes = [one.value or 0.0 for one in found]
    if len(set(sizes)) < 2:
        return
    session.add(
        Measurement(
            "slopes",
            f"{what} against {growth.axis}",
            f"{sizes[0]:,.0f} to {sizes[-1]:,.0f}",
            aim=session.aim("slope", 1.05) if growth.own and what == ITERATION else None,
            slope=slope(sizes, [one.seconds or 0.0 for one in found]),
            axis=growth.axis,
        )
    )


class _Enough(Exception):
    """The budget of one case is used up."""


def time_case(case: Case, repeats: int, budget: float, device: str = "cpu") -> CaseTimes:
    """Median times of one case."""
    iterations = iteration_seconds(case, repeats, budget, device)
    return CaseTimes(
        statistics.median(iterations),
        product_seconds(case, repeats, device),
        gemm_operations(case) / gemm_rate(repeats, device),
        len(iterations),
    )


def iteration_seconds(
    case: Case, repeats: int, budget: float = math.inf, device: str = "cpu"
) -> list[float]:
    """Seconds between the accepted steps of one search: linearising, solving, following paths.

    Args:
        case: the problem.
        repeats: iterations.
        budget: seconds after which there are no more of them, the first one apart.
        device: to compute on.
    """
    problem, estimate = shooting_problem(case, device)
    ended: list[float] = []

    def on_step(objective: float) -> None:
        wait(torch.device(device))
        ended.append(time.perf_counter())
        if len(ended) > 1 and ended[-1] - ended[0] > budget:
            raise _Enough

    try:
        levenberg_marquardt(
            problem, estimate, max_iterations=repeats + 1, tolerance=0.0, on_step=on_step
        )
    except _Enough:
        pass
    return [after - before for before, after in zip(ended[:-1], ended[1:], strict=True)]


def product_seconds(case: Case, repeats: int, device: str = "cpu") -> float:
    """Median seconds of the Gram matrices of as many rows as the case has, block by block.

    Blocks are of the size, and laid out, as a linearisation has them.
    """
    trajectories, points, _, num_dof = case
    dim, columns = 2 * num_dof, num_columns(case)
    whole = trajectories * points
    most = linearization.CACHED_ELEMENTS if device == "cpu" else sensitivities.CHUNK_ELEMENTS
    block = max(1, min(whole, most // ((2 * dim + STAGES) * (columns + dim))))
    rows = torch.randn(block, dim, columns, dtype=torch.float64, device=device)
    total = rows.new_zeros(dim, columns, columns)
    times = max(1, round(min(whole, LARGEST) / block))

    def products() -> None:
        for _ in range(times):
            for channel in range(dim):
                add_gram(total[channel], rows[:, channel])

    return median_seconds(products, repeats, device) * whole / (times * block)


def median_seconds(action: Callable[[], object], repeats: int, device: str) -> float:
    """Of an action that has been done once before."""
    action()
    found = []
    for _ in range(repeats):
        wait(torch.device(device))
        began = time.perf_counter()
        action()
        wait(torch.device(device))
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def num_columns(case: Case) -> int:
    """Parameters of the field, and the residual: the width of the shared Gram matrix."""
    dim = 2 * case[3]
    return 2 * case[2] + dim + dim * (dim + 1) // 2 + 1


def gemm_operations(case: Case) -> float:
    """Multiplications and additions of the product: two an entry, row and channel."""
    return 2.0 * case[0] * case[1] * 2 * case[3] * num_columns(case) ** 2


def gemm_rate(repeats: int, device: str = "cpu") -> float:
    """Operations a second of the product of two square float64 matrices."""
    a, b = torch.randn(2, SQUARE, SQUARE, dtype=torch.float64, device=device).unbind()
    return 2.0 * SQUARE**3 / median_seconds(lambda: a @ b, repeats, device)

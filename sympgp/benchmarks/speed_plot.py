"""The picture of a run: ratios to floors, fits by stage, and growth with its slopes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sympgp.benchmarks.speed_record import (
    Measurement,
    duration,
    fits_and_stages,
    series,
    slope,
)
from sympgp.benchmarks.speed_scaling import GEMM, ITERATION, PRODUCT
from sympgp.plots import style

STAGE_COLOURS = (*style.CYCLE[:-1], "#882255", "#999933", "#BBBBBB", "#332288", "#DDCC77")
AIM: dict[str, Any] = {"color": style.TRUTH, "linewidth": 2.2, "solid_capstyle": "butt"}
FEW_DECADES = 300.0
"""Ratio of an axis' ends up to which numbers between the powers of ten are shown."""
LEAST = 0.4
"""Smaller ratios are drawn here, with their own number beside them."""
MARK = "the aim: at most this"
HIDDEN = "_again"
"""Of a label that is in the legend already."""


def plot_speed(measurements: Sequence[Measurement], note: str = "") -> np.ndarray:
    """Ratios to floors and fits by stage above, one panel a series of growth below.

    Panels without any measurement are left out.

    Args:
        measurements: of one run.
        note: a line above the panels: the machine.

    Returns:
        Axes, (panels,).

    Raises:
        ValueError: nothing that could be drawn.
    """
    import matplotlib.pyplot as plt

    single = [m for m in measurements if m.ratio and not m.axis]
    stages = [m for m in measurements if m.part == "stages"]
    above = [draw for draw, found in ((_ratios, single), (_stages, stages)) if found]
    growing = list(dict.fromkeys(m.axis for m in measurements if m.axis and m.seconds))
    if not above and not growing:
        raise ValueError("measurements: expected some that can be drawn, got none")
    rows = [bar_height(len(single))] * bool(above) + [3.6] * bool(growing)
    figure = plt.figure(figsize=(13.0, sum(rows) + 0.3), layout="constrained")
    grid = figure.add_gridspec(len(rows), 1, height_ratios=rows)
    panels: list[Any] = []
    if above:
        inner = grid[0].subgridspec(1, len(above))
        for number, draw in enumerate(above):
            panels.append(figure.add_subplot(inner[number]))
            draw(panels[-1], measurements)
    if growing:
        inner = grid[-1].subgridspec(1, len(growing))
        for number, axis in enumerate(growing):
            panels.append(figure.add_subplot(inner[number]))
            _growth(panels[-1], measurements, axis, number == 0)
    if note:
        figure.suptitle(note, fontsize="small", x=0.01, ha="left")
    return np.array(panels, dtype=object)


def bar_height(count: int) -> float:
    """Inches of a panel with so many lines of two rows."""
    return max(4.0, 1.3 + 0.33 * count)


def _ratios(panel: Any, measurements: Sequence[Measurement]) -> None:
    """A dot for each time over its floor, and a mark where the aim lies."""
    shown = [m for m in measurements if m.ratio and not m.axis]
    where = np.arange(len(shown))[::-1]
    ratios = [m.ratio or 1.0 for m in shown]
    dots = [max(ratio, LEAST) for ratio in ratios]
    panel.hlines(where, 1.0, dots, color=style.MODEL, linewidth=1.4)
    panel.plot(dots, where, "o", color=style.MODEL, markersize=6, label="measured")
    label = MARK
    for y, one, ratio in zip(where, shown, ratios, strict=True):
        aim = one.aim.most if one.aim and one.aim.quantity == "ratio" else None
        right = max(ratio, aim or 0.0, 1.0)
        panel.annotate(
            f"{ratio:.2g}x",
            (right, y),
            (7, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
        )
        if aim is not None:
            panel.plot([aim, aim], [y - 0.35, y + 0.35], label=label, **AIM)
            label = HIDDEN
    panel.set_xscale("log")
    low, high = min([*dots, 0.8]), max([*dots, 2.0])
    _log_ticks(panel.xaxis, "x")
    panel.set_xlim(low / 1.3, high * (high / low) ** 0.15 * 1.3)
    panel.set_ylim(-0.7, len(shown) - 0.3)
    panel.set_yticks(where, [f"{_name(m)}\nover {m.floor_of}" for m in shown], fontsize="small")
    panel.axvline(1.0, zorder=0, **style.ZERO)
    panel.set_xlabel("time over floor")
    _legend(panel, 2, 1)
    style.tidy(panel)


def _legend(panel: Any, columns: int, rows: int, left: float = 0.0) -> None:
    """Above the panel, whose title makes room for it."""
    panel.legend(
        loc="lower left",
        bbox_to_anchor=(left, 1.0),
        frameon=False,
        fontsize="small",
        columnspacing=1.2,
        ncols=columns,
    ).set_in_layout(False)
    panel.set_title(" ", fontsize="small", pad=6.0 + style.LEGEND_ROW * (rows - 1))


def _log_ticks(axis: Any, unit: str = "") -> None:
    """Plain numbers at one, two and five of each power of ten, or at the powers where many."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_data_interval()
    few = high < FEW_DECADES * low
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}{unit}"))
    axis.set_minor_formatter(NullFormatter())


def _name(one: Measurement) -> str:
    return one.what if one.device == "cpu" else f"{one.what} ({one.device})"


def _stages(panel: Any, measurements: Sequence[Measurement]) -> None:
    """A bar for each fit, in pieces for its stages: shares of the aim, or seconds.

    Beside fits with an aim, others are left out.
    """
    stages = [m for m in measurements if m.part == "stages"]
    names, kinds = fits_and_stages(stages)
    whole = {m.what: m for m in measurements if m.part == "fits"}
    aims = [_aimed_seconds(whole.get(name)) for name in names]
    shares = any(aims)
    names = [name for name, most in zip(names, aims, strict=True) if most or not shares]
    aims = [most for most in aims if most or not shares]
    unit = np.array([most or 1.0 for most in aims]) if shares else np.ones(len(names))
    found = {m.what: m.seconds or 0.0 for m in stages}
    where, ends = np.arange(len(names))[::-1], np.zeros(len(names))
    for number, kind in enumerate(kinds):
        seconds = np.array([found.get(f"{name}: {kind}", 0.0) for name in names])
        colour = STAGE_COLOURS[number % len(STAGE_COLOURS)]
        panel.barh(where, seconds / unit, 0.6, left=ends, color=colour, label=kind)
        ends += seconds / unit
    for y, name, end, most in zip(where, names, ends, aims, strict=True):
        text = duration(whole[name].seconds) if name in whole else ""
        text += f" (aim {duration(most)})" if most else ""
        panel.annotate(
            text,
            (end, y),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
        )
    if shares:
        panel.axvline(1.0, label=MARK, **AIM)
    panel.set_yticks(where, names, fontsize="small")
    panel.set_ylim(-0.7, len(names) - 0.3)
    panel.set_xlim(0.0, 1.4 * max([*ends, 1.0 if shares else 1e-9]))
    panel.set_xlabel("time of a fit over its aim" if shares else "seconds of a fit")
    _legend(panel, 3, -(-(len(kinds) + shares) // 3), left=-0.55)
    style.tidy(panel)


def _aimed_seconds(one: Measurement | None) -> int | float | None:
    return one.aim.most if one and one.aim and one.aim.quantity == "seconds" else None


def _growth(panel: Any, measurements: Sequence[Measurement], axis: str, labelled: bool) -> None:
    """Times of one series with the lines fitted to them."""
    sizes: list[float] = []
    for what, colour in ((ITERATION, style.MODEL), (PRODUCT, style.GREEN)):
        found = series(measurements, axis, what)
        if not found:
            continue
        x = np.array([m.value or 0.0 for m in found])
        y = np.array([m.seconds or 0.0 for m in found])
        sizes = list(x)
        panel.loglog(x, y, "o", color=colour, markersize=4.5, label=what)
        if len(set(sizes)) > 1:
            exponent = slope(sizes, list(y))
            line = np.exp(np.log(y).mean()) * (x / np.exp(np.log(x).mean())) ** exponent
            panel.loglog(x, line, color=colour, linewidth=1.1)
            panel.text(
                0.98,
                0.12 if what == ITERATION else 0.03,
                f"slope {exponent:.2f}",
                transform=panel.transAxes,
                ha="right",
                color=colour,
                fontsize="small",
            )
    gemms = [m for m in series(measurements, axis, PRODUCT) if m.floor]
    if gemms:
        panel.loglog([m.value for m in gemms], [m.floor for m in gemms], label=GEMM, **style.LIMIT)
    panel.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
    panel.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    _log_ticks(panel.yaxis)
    panel.set_xlabel(axis)
    panel.set_title(" ", fontsize="small")
    if labelled:
        panel.set_ylabel("seconds")
        _legend(panel, 3, 1)
    style.tidy(panel)

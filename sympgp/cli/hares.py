"""The second example of ``sympgp demo``: the measured hare and lynx series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from sympgp import SSGP, Posterior, Rollouts, Trajectories, fit, plots
from sympgp.cli import pictures
from sympgp.cli.pendulum import covered
from sympgp.systems import hare_lynx

LAST_SEEN = 1916
"""First year that the fit does not see."""
ANIMALS = ("hare", "lynx")
DRAWS = 400
"""More than usual: few data leave draws that go far apart, and a mean needs many of those."""


def series() -> Trajectories:
    """The counts in logarithms, which have no unit: labels show the counts themselves."""
    data = hare_lynx()
    return Trajectories(
        data.times, data.states, names=data.names, units={"time": "year"}, labels=data.labels
    )


def run(out: Path, progress: bool) -> list[Path]:
    """Fit the first 16 years, forecast the last five, draw; return the files written."""
    data = series()
    seen, held_out = data.between(stop=LAST_SEEN), data.between(LAST_SEEN)
    click.echo("2. Hare and lynx pelts, counted by the Hudson's Bay Company from 1900 to 1920:")
    click.echo(
        f"   a conservative system in q = log hare, p = log lynx, fitted to {seen.num_points} "
        f"years; the last {held_out.num_points} are forecast"
    )
    posterior = fit(SSGP(num_features=100), seen, progress=progress)
    years = posterior.forecast(held_out.times[0], num_samples=DRAWS)
    _report(years, held_out.states[0])
    last = float(seen.times[0][-1])
    times = torch.linspace(last, float(held_out.times[0][-1]), pictures.POINTS, dtype=torch.float64)
    ahead = posterior.forecast(times, num_samples=DRAWS)
    files = [out / name for name in ("hare_lynx.pt", "hare_lynx_forecast.nc")]
    posterior.save(files[0])
    ahead.to_netcdf(files[1])
    return files + _draw(posterior, ahead, data, out)


def _report(years: Rollouts, measured: Tensor) -> None:
    hits = covered(years, measured, "predictive")
    lower, upper = (end[0].exp() for end in years.band(0.9, "predictive"))
    median = years.samples.nanmedian(0).values[0].exp()
    click.echo("   thousand pelts: measured, forecast median and 90% predictive band")
    for i, year in enumerate(years.times.tolist()):
        cells = [
            f"{name} {float(measured[i, d].exp()):4.1f}, {float(median[i, d]):4.1f} "
            f"[{float(lower[i, d]):4.1f}, {float(upper[i, d]):4.1f}]"
            f"{'' if hits[i, d] else ' outside'}"
            for d, name in enumerate(ANIMALS)
        ]
        click.echo(f"   {year:.0f}  {cells[0]:<38}{cells[1]}".rstrip())
    inside, total = int(hits.sum()), hits.numel()
    click.echo(f"   {inside} of {total} held-out values are inside the 90% predictive band")


def _draw(posterior: Posterior, ahead: Rollouts, data: Trajectories, out: Path) -> list[Path]:
    whole = pictures.join(pictures.fitted(posterior, 0, DRAWS), ahead)
    files = [out / f"hare_lynx_{name}.png" for name in ("bands", "phase", "hamiltonian")]
    start = float(posterior.data.times[0][-1])
    axes = plots.bands(whole, data, kind="predictive", forecast_start=start)
    for panel, name in zip(axes, ANIMALS, strict=True):
        _count_axis(panel, name)
    pictures.save(axes, files[0])
    pictures.save(plots.phase_portrait(posterior), files[1])
    pictures.save(plots.hamiltonian(posterior), files[2])
    return files


def _count_axis(panel: Any, name: str) -> None:
    """A second axis with the counts themselves."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, ScalarFormatter

    right = panel.secondary_yaxis("right", functions=(np.exp, _log))
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set_ylabel(f"{name} [thousand pelts]")
    right.yaxis.set_major_locator(FixedLocator([1, 2, 5, 10, 20, 50, 100, 200]))
    right.yaxis.set_minor_locator(NullLocator())
    right.yaxis.set_major_formatter(ScalarFormatter())


def _log(counts: np.ndarray) -> np.ndarray:
    # matplotlib tries 0 too
    return np.log(np.maximum(counts, 1e-9))

"""A measured predator-prey series, Hamiltonian in logarithmic coordinates."""

import csv
from importlib import resources

import torch

from sympgp.trajectories import Trajectories


def hare_lynx() -> Trajectories:
    """Return the Hudson's Bay Company's pelt counts of hare and lynx, yearly from 1900 to 1920.

    One trajectory of 21 points. With counts in thousands of pelts, q = log hare and p = log lynx,
    the Lotka-Volterra equations

        d hare / dt = hare (a - b lynx),    d lynx / dt = lynx (d hare - c)

    are Hamilton's equations of ``H = a p - b exp(p) + c q - d exp(q)``.

    Source: E. P. Odum, *Fundamentals of Ecology* (1953), and the many texts that follow it.

    Example:
        >>> data = hare_lynx()
        >>> [round(count, 1) for count in data.states[0][0].exp().tolist()]
        [30.0, 4.0]
    """
    text = resources.files("sympgp.systems").joinpath("hare_lynx.csv").read_text("utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    times = [float(row["year"]) for row in rows]
    counts = torch.tensor(
        [[float(row["hare"]), float(row["lynx"])] for row in rows], dtype=torch.float64
    )
    names = ("log hare", "log lynx")
    units = {name: "log of thousand pelts" for name in names}
    return Trajectories(
        times, counts.log(), names=names, units={**units, "time": "year"}, labels=["hare-lynx"]
    )

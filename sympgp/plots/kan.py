"""The one-dimensional functions of a Kolmogorov-Arnold network, where they are in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sympgp.energies import KANBasis, KANFunction, Symbol
from sympgp.plots import style
from sympgp.posterior.forms import SpecialForms

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:
    Axes = Any

PLACES = 60
"""Inputs at which a function is drawn."""

DRAWS = 20
"""Of more draws, the first so many say which edges matter."""

PANEL, HEIGHT = 0.72, 0.42
"""Width of a panel, as a share of the distance between panels, and height, of a layer's."""

INCHES = (0.95, 1.9)
"""Width of a panel with its room, and height of a layer, in a new figure."""

FAINTEST = 0.12
"""Opacity of an edge that does not matter."""


class _Curve(NamedTuple):
    """A function, and the band of several draws."""

    x: np.ndarray
    middle: np.ndarray
    band: tuple[np.ndarray, np.ndarray] | None


def kan(
    network: KANFunction | KANBasis | SpecialForms,
    z: Tensor | None = None,
    w: Tensor | None = None,
    ax: Axes | None = None,
    *,
    names: Sequence[str] | None = None,
    output: str = "H",
    symbols: Sequence[Symbol] = (),
    level: float = 0.9,
) -> Axes:
    """The functions on the edges of a network, each in its place between two nodes.

    Inputs are at the bottom and the output at the top. Functions are drawn without their means,
    over the inputs that the states give them, each on a scale of its own; the fainter an edge,
    the less of H hangs on it (:meth:`sympgp.energies.KANFunction.importances`).

    Args:
        network: the posterior of a ``KANEnergy``; or the function, or a basis of it.
        z: (B, D) scaled states; those of the data of a posterior.
        w: (P,) weights, or (S, P) for a band of draws about their median; draws of a posterior.
        ax: axes to draw in; None for a new figure.
        names: of the entries of a state; those of a posterior, or "z1", "z2", .. when not given.
            Angles have their cosine in this place and their sine after all others.
        output: what the network stands for.
        symbols: names to write above the functions, as ``KANFunction.symbols`` finds them.
        level: probability of the band.

    Raises:
        ValueError: another number of names than entries of a state; a function without states
            or weights.
        TypeError: the posterior of another energy.

    Example:
        >>> one = torch.ones(2, dtype=torch.float64)
        >>> network = KANFunction.on_box(-one, one, hidden=(2,))
        >>> w = network.initial(1, torch.Generator().manual_seed(0))[0]
        >>> ax = kan(network, torch.rand(20, 2).double(), w, names=["q", "p"])
        >>> len(ax.child_axes)
        6
    """
    if isinstance(network, SpecialForms):
        known: Sequence[str] = network.names
        network, states, weights = network.splines()
        z, w = states if z is None else z, weights if w is None else w
        names = known if names is None else names
    function = network.function if isinstance(network, KANBasis) else network
    if z is None or w is None:
        raise ValueError("z, w: expected scaled states and weights beside a function, got None")
    labels = _labels(function, names)
    rows = w if w.dim() > 1 else w.unsqueeze(0)
    most = max(max(function.layer_edges), max(function.widths))
    size = (max(3.2, INCHES[0] * most), INCHES[1] * (len(function.widths) - 1) + 0.5)
    panel: Axes = style.panels(ax, 1, 1, size)[0, 0]
    panel.set(xlim=(0, 1), ylim=(-0.12, len(function.widths) - 0.88))
    panel.axis("off")
    importances = _importances(function, z, rows)
    found = {(s.layer, s.source, s.target): s.name for s in symbols}
    for layer, curves in enumerate(_curves(function, z, rows, level)):
        below, above = (_spread(width) for width in function.widths[layer : layer + 2])
        edges = torch.nonzero(function.present(layer)).tolist()
        for place, (i, o) in zip(_spread(len(edges)), edges, strict=True):
            shade = float(importances[layer][i, o].clamp(FAINTEST, 1.0))
            look: dict[str, Any] = {"color": style.DATA, "alpha": shade, "linewidth": 0.8}
            low, high = layer + 0.5 - 0.5 * HEIGHT, layer + 0.5 + 0.5 * HEIGHT
            panel.plot([below[i], place], [layer, low], zorder=0, **look)
            panel.plot([place, above[o]], [high, layer + 1.0], zorder=0, **look)
            room = PANEL / max(len(edges), 4)
            inset = panel.inset_axes(
                (place - 0.5 * room, low, room, HEIGHT), transform=panel.transData
            )
            _draw(inset, curves[i, o], shade, found.get((layer, i, o), ""))
    _nodes(panel, function, labels, output)
    return panel


def _importances(function: KANFunction, z: Tensor, rows: Tensor) -> list[Tensor]:
    """Means over some of the draws: functions have them, mean weights are no function."""
    every = [function.importances(z, row) for row in rows[:DRAWS]]
    return [torch.stack(own).mean(0) for own in zip(*every, strict=True)]


def _labels(function: KANFunction, names: Sequence[str] | None) -> list[str]:
    """Of the first nodes."""
    every = [f"z{i + 1}" for i in range(function.dim)] if names is None else list(names)
    if len(every) != function.dim:
        raise ValueError(f"names: expected {function.dim}, one an entry, got {len(every)}")
    sines = [f"sin {every[i]}" for i in function.periodic]
    return [f"cos {n}" if i in function.periodic else n for i, n in enumerate(every)] + sines


def _spread(count: int) -> list[float]:
    """Places across the picture."""
    return [(k + 0.5) / count for k in range(count)]


def _curves(
    function: KANFunction, z: Tensor, rows: Tensor, level: float
) -> list[dict[tuple[int, int], _Curve]]:
    """Every layer's functions over the inputs of its nodes."""
    coefficients = [own.detach() for own in function.coefficients(rows)]
    traced, _ = function.traced(z.expand(len(rows), *z.shape), coefficients)
    share = torch.linspace(0.0, 1.0, PLACES, dtype=rows.dtype, device=rows.device).unsqueeze(-1)
    tail = 0.5 * (1.0 - level)
    found = []
    for layer, (own, (x, _)) in enumerate(zip(coefficients, traced, strict=True)):
        every = x.flatten(0, 1)
        lower, upper = every.amin(0), every.amax(0)
        places = lower + share * (upper - lower)
        (basis,) = function.expand(layer, places)
        values = torch.einsum("bic,sioc->sbio", basis, own)
        values = values - values.mean(1, keepdim=True)
        middle = style.numbers(values.median(0).values)
        low, high = (style.numbers(values.quantile(q, 0)) for q in (tail, 1.0 - tail))
        grid, several = style.numbers(places), len(rows) > 1
        found.append(
            {
                (i, o): _Curve(
                    grid[:, i],
                    middle[:, i, o],
                    (low[:, i, o], high[:, i, o]) if several else None,
                )
                for i in range(own.shape[1])
                for o in range(own.shape[2])
            }
        )
    return found


def _draw(inset: Axes, curve: _Curve, shade: float, name: str) -> None:
    """One function in its panel."""
    inset.patch.set_alpha(0.9)
    if curve.band is not None:
        inset.fill_between(curve.x, *curve.band, **style.BAND)
    inset.plot(curve.x, curve.middle, alpha=max(shade, 0.3), **style.MEAN)
    inset.set(xticks=[], yticks=[])
    inset.margins(0.08, 0.12)
    for spine in inset.spines.values():
        spine.set(color=style.GUIDE, linewidth=0.6)
    if name:
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8}
        look: dict[str, Any] = {"fontsize": "x-small", "ha": "center", "va": "bottom", "bbox": box}
        inset.text(0.5, 1.03, name, transform=inset.transAxes, **look)


def _nodes(panel: Axes, function: KANFunction, labels: list[str], output: str) -> None:
    """Dots, and words at the inputs and the output."""
    for level, width in enumerate(function.widths):
        panel.plot(
            _spread(width),
            [level] * width,
            linestyle="none",
            marker="o",
            markersize=4.0,
            color=style.DATA,
        )
    for place, text in zip(_spread(len(labels)), labels, strict=True):
        panel.text(place, -0.06, text, ha="center", va="top", fontsize="small")
    panel.text(0.5, len(function.widths) - 0.95, output, ha="center", va="bottom", fontsize="small")

"""The options of ``sympgp fit`` that ask for networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sympgp.energies import Energy
    from sympgp.models import HamiltonianModel
else:
    Energy = HamiltonianModel = Any

MODELS = ("ssgp", "hnn", "dhnn", "lnn", "node", "kan")
HIDDEN = (64, 64)
"""Widths of the hidden layers of networks."""
NODES = (5,)
"""The same of Kolmogorov-Arnold networks, whose edges are functions."""


class Widths(click.ParamType):
    """Widths of layers, separated by commas."""

    name = "widths"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """The widths, from the inputs on."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isdecimal() and int(part) > 0 for part in parts):
            self.fail(f"expected widths of layers such as 64,64, got {value!r}", param, ctx)
        return tuple(int(part) for part in parts)


NETWORK_OPTIONS = (
    click.option(
        "--model",
        type=click.Choice(MODELS),
        default=MODELS[0],
        show_default=True,
        help="What is learned: a Gaussian process of the Hamiltonian (ssgp), or a network of it "
        "(hnn), of it and of a dissipation function (dhnn), of the Lagrangian of coordinates and "
        "velocities (lnn), of the rates without an energy (node), or a Kolmogorov-Arnold network "
        "of the Hamiltonian (kan).",
    ),
    click.option(
        "--hidden",
        type=Widths(),
        metavar="WIDTHS",
        help="Widths of the hidden layers of a network.  [default: 64,64; of kan 5]",
    ),
)


def check_network(given: Mapping[str, Any]) -> None:
    """Refuse options that do not go with a network, or go with networks only.

    Raises:
        ValueError: the option, and what it goes with.
    """
    model = given["model"]
    if model == "ssgp":
        if given["hidden"]:
            raise ValueError("--hidden: expected a network beside it, such as --model hnn")
        return
    for name in ("mass", "formula"):
        if given[name] is not None:
            raise ValueError(f"--{name}: expected --model ssgp beside it, got {model}")
    if model in ("dhnn", "node") and (given["friction"] or given["dissipation"]):
        raise ValueError(
            f"--dissipation: expected none beside --model {model}, which learns it with the rest"
        )


def network_energy(num_dof: int, periods: Mapping[int, float], given: Mapping[str, Any]) -> Energy:
    """The energy of a network, or what stands in its place."""
    import sympgp as sg

    angles: dict[str, Any] = {"periodic": list(periods), "period": list(periods.values())}
    if given["model"] == "kan":
        return sg.KANEnergy(num_dof, given["hidden"] or NODES, **angles)
    kinds: dict[str, Callable[..., HamiltonianModel]] = {
        "hnn": sg.HNN,
        "dhnn": sg.DHNN,
        "lnn": sg.LNN,
        "node": sg.NeuralODE,
    }
    return kinds[given["model"]](num_dof, given["hidden"] or HIDDEN, **angles).energy

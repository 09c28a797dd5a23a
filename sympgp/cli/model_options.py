"""The options of ``sympgp fit`` that say what is assumed of the system, and the model they make."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from sympgp.cli.model_parameters import Angle, ParameterPrior
from sympgp.cli.network_options import NETWORK_OPTIONS, check_network, network_energy
from sympgp.cli.parameters import Vector, as_option

if TYPE_CHECKING:
    from sympgp.dissipation import Dissipation
    from sympgp.energies import Energy
    from sympgp.models import HamiltonianModel
    from sympgp.noise import Noise
    from sympgp.trajectories import Trajectories
else:
    Dissipation = Energy = HamiltonianModel = Noise = Trajectories = Any

DISSIPATIONS = (
    *("none", "friction", "diagonal", "matrix"),
    *("state-dependent", "rayleigh", "gradient"),
)
DRAGS = ("linear", "coulomb", "quadratic")
DEGREES = ("deg", "degree", "degrees", "°")


def angle_option(text: str) -> Callable[..., Any]:
    """``--angle``, with what it does."""
    return click.option(
        "--angle",
        "angles",
        type=Angle(),
        multiple=True,
        metavar="NAME[:PERIOD]",
        help=f"{text} May be given several times."
        "  [default period: 360 where the unit is deg, 2 pi else]",
    )


_MODEL_OPTIONS = (
    *NETWORK_OPTIONS,
    click.option(
        "--friction",
        is_flag=True,
        help="Learn a friction coefficient: the same as --dissipation friction.",
    ),
    click.option(
        "--dissipation",
        type=click.Choice(DISSIPATIONS),
        help="What takes energy out: one coefficient for all momenta (friction), one for each "
        "(diagonal), a full matrix, a matrix that varies with the state, drag as a function of "
        "the velocities (rayleigh), or any field in which energy never grows (gradient)."
        "  [default: none]",
    ),
    click.option(
        "--drag",
        "drags",
        type=click.Choice(DRAGS),
        multiple=True,
        help="A kind of drag that --dissipation rayleigh has. May be given several times."
        "  [default: all]",
    ),
    click.option(
        "--mass",
        type=Vector("positive numbers such as 0.5 or 1,2", positive=True),
        metavar="NUMBERS",
        help="Known mass, or masses of all coordinates separated by commas: H = p'p / (2 mass) + "
        "V(q). Needed where there are positions only.",
    ),
    angle_option("A coordinate that is an angle, wrapped or not: H is exactly periodic in it."),
    click.option(
        "--held",
        is_flag=True,
        help="Inputs stay as they are until the next row, in place of straight lines between.",
    ),
    click.option(
        "--formula",
        metavar="TEXT",
        help='Known physics: H of q and p (q1, q2, .. of several) and of parameters, such as "p**2'
        ' / 2 - k * cos(q)".',
    ),
    click.option(
        "--parameter",
        "parameters",
        type=ParameterPrior(),
        multiple=True,
        metavar="NAME=PRIOR",
        help="A number that is known, or the prior of a parameter of the formula: "
        "lognormal:MEDIAN,SD (SD of the logarithm), normal:MEAN,SD, halfnormal:SCALE or "
        "uniform:LOW,HIGH. Needed for every parameter. With pooled: before the prior, trajectories "
        "have values of their own that are alike; with covariates: it is predicted from each "
        "trajectory's --covariate by a small network.",
    ),
    click.option(
        "--remainder",
        is_flag=True,
        help="Learn what the formula leaves unexplained; the formula explains first.",
    ),
    click.option(
        "--features",
        type=click.IntRange(min=1),
        metavar="COUNT",
        default=100,
        show_default=True,
        help="Fourier features of the Hamiltonian, of its potential energy where the mass is "
        "known, or of the remainder.",
    ),
)


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what is assumed of the system."""
    for option in reversed(_MODEL_OPTIONS):
        command = option(command)
    return command


def check_options(
    given: Mapping[str, Any], inputs: Sequence[str], covariates: Sequence[str] = ()
) -> None:
    """Refuse options that do not go together, before any data are read.

    Raises:
        ValueError: the option, and what it goes with.
    """
    if given["friction"] and given["dissipation"] not in (None, "friction"):
        raise ValueError(
            f"--friction: expected no other --dissipation beside it, got {given['dissipation']}"
        )
    if given["drags"] and given["dissipation"] != "rayleigh":
        raise ValueError("--drag: expected --dissipation rayleigh beside it")
    if given["held"] and not inputs:
        raise ValueError("--held: expected --input beside it")
    check_network(given)
    needed = any(
        getattr(prior, "hidden", None) is not None for _, prior in given["parameters"] or ()
    )
    if needed != bool(covariates):
        options = ("--covariate", "--parameter NAME=covariates:PRIOR")
        option, other = reversed(options) if needed else options
        raise ValueError(f"{option}: expected {other} beside it")
    if given["formula"] is None:
        for name, option in (("parameters", "--parameter"), ("remainder", "--remainder")):
            if given[name]:
                raise ValueError(f"{option}: expected --formula beside it")
    elif given["mass"] is not None:
        raise ValueError("--mass: expected in the formula, where --formula is given")


def make_model(
    data: Trajectories, given: Mapping[str, Any], noise: Noise, seed: int
) -> HamiltonianModel:
    """The model of these data that the options describe.

    Raises:
        ValueError: options that do not fit the data or one another.
    """
    import sympgp as sg

    coordinates = data.names[: data.num_dof]
    angles = find_angles(given["angles"], coordinates, data.units)
    inputs = None
    if data.inputs is not None:
        between = "held" if given["held"] else "linear"
        inputs = sg.LearnedInputs(len(data.input_names), interpolation=between)
    periods = {coordinates.index(name): period for name, period in angles.items()}
    energy = _energy(data.num_dof, periods, given, seed)
    return sg.HamiltonianModel(energy, _dissipation(given), noise, inputs)


def find_angles(
    given: Sequence[tuple[str, float | None]], names: Sequence[str], units: Mapping[str, str]
) -> dict[str, float]:
    """Periods of the angles by name.

    Raises:
        ValueError: an angle that is no coordinate, or named twice.
    """
    found: dict[str, float] = {}
    for name, period in given:
        if name not in names:
            raise ValueError(f"--angle: expected one of {', '.join(names)}, got {name!r}")
        if name in found:
            raise ValueError(f"--angle: {name!r} is named twice")
        turn = 360.0 if units.get(name) in DEGREES else 2.0 * math.pi
        found[name] = turn if period is None else period
    return found


def _energy(
    num_dof: int, periods: Mapping[int, float], given: Mapping[str, Any], seed: int
) -> Energy:
    """Known physics, kinetic energy of a known mass, features; and what goes together."""
    import sympgp as sg

    mass, formula = given["mass"], given["formula"]
    if given["model"] not in (None, "ssgp"):
        return network_energy(num_dof, periods, given)
    on = "state" if mass is None else "q"
    turns: dict[str, Any] = {"periodic": list(periods), "period": list(periods.values())}
    learned = sg.FourierEnergy(num_dof, given["features"], on=on, seed=seed, **turns)
    if formula is not None:
        with as_option("formula", "--formula"), as_option("parameters", "--parameter"):
            physics = sg.PhysicsEnergy(formula, dict(given["parameters"]), num_dof, **turns)
            return sg.SumEnergy((physics, learned)) if given["remainder"] else physics
    if mass is None:
        return learned
    if len(mass) not in (1, num_dof):
        raise ValueError(f"--mass: expected 1 or {num_dof} numbers, got {len(mass)}")
    kinetic = sg.KnownKinetic(mass[0] if len(mass) == 1 else list(mass), num_dof)
    return sg.SeparableEnergy(kinetic, learned, num_dof)


def _dissipation(given: Mapping[str, Any]) -> Dissipation:
    import sympgp as sg

    kind = "friction" if given["friction"] else given["dissipation"] or "none"
    if kind == "rayleigh":
        return sg.Rayleigh(drag=given["drags"] or DRAGS)
    kinds: dict[str, type[Dissipation]] = {
        "none": sg.Conservative,
        "friction": sg.Friction,
        "diagonal": sg.DiagonalFriction,
        "matrix": sg.MatrixFriction,
        "state-dependent": sg.StateDependentFriction,
        "gradient": sg.GradientField,
    }
    return kinds[kind]()

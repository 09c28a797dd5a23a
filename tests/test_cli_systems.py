"""The command line on real systems: dissipation, inputs, angles, positions only, formulas."""

import math
from pathlib import Path
from typing import Any

import jaxtyping
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import sympgp as sg
from sympgp.cli.fit import fit as fit_command
from sympgp.cli.model_options import check_options, find_angles, make_model
from sympgp.cli.program import cli

TORQUE = ("--input", "torque", "--held")
COLUMNS = ("--q", "angle", "--p", "velocity", "--angle", "angle", *TORQUE, "--features", 12)


def in_process(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def driven(seed: int = 0, duration: float = 5.0, count: int = 2) -> sg.Trajectories:
    """A pendulum under a torque that is held between samples, its angle wrapped."""
    system, rate = sg.systems.Pendulum(friction=0.2), 5.0
    times = torch.arange(int(duration * rate) + 1, dtype=torch.float64) / rate
    generator = torch.Generator().manual_seed(seed)
    states, inputs = [], []
    for k in range(count):
        torque = 2.0 * (1.3 * times + k + seed).sin()
        x = system.exact(
            [0.3, -0.5 + k], times, inputs=(times, torque[:, None]), interpolation="held"
        )[0]
        x = x + 0.03 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
        x[:, 0] = sg.trajectories.wrapped(x[:, 0])
        states.append(x)
        inputs.append(torque[:, None])
    names = ("angle", "velocity")
    return sg.Trajectories([times] * count, states, inputs, names, input_names=("torque",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data.csv, new.csv, torque.csv, and arm.pt fitted on the command line."""
    path = tmp_path_factory.mktemp("systems")
    driven().to_csv(path / "data.csv")
    driven(seed=5, duration=2.0, count=1).to_csv(path / "new.csv")
    times = np.arange(0.0, 12.01, 0.25)
    table = np.stack([times, np.cos(times)], 1)
    np.savetxt(path / "torque.csv", table, delimiter=",", header="t,torque", comments="")
    with pytest.MonkeyPatch.context() as patch:
        # checks of shapes, which other tests make, would double the time
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        done = in_process(
            "fit", path / "data.csv", *COLUMNS, "--friction", "--quiet", "-o", path / "arm.pt"
        )
    assert done.exit_code == 0, done.output
    return path


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def test_a_driven_angle_is_fitted_with_what_the_options_say(here: Path):
    posterior = sg.load("arm.pt")
    assert posterior.num_inputs == 1 and posterior.interpolation == "held"
    gain = posterior.input_matrix([[0.0, 0.0]])
    assert abs(float(gain.mean[0, 1, 0]) - 1.0) < 4 * float(gain.stddev[0, 1, 0])
    turns = posterior.hamiltonian([[0.7, 0.2], [0.7 + 2 * math.pi, 0.2]]).mean
    assert float(turns[0]) == pytest.approx(float(turns[1]), abs=1e-9)
    assert posterior.data.input_names == ("torque",)


def test_a_rollout_is_driven_by_the_file(here: Path):
    options = ("--until", 3, "--step", 0.5, "--samples", 8, "--inputs-time", "t", "-o", "new.nc")
    done = in_process("rollout", "arm.pt", "--x0", "0.5,0", "--inputs", "torque.csv", *options)
    assert done.exit_code == 0, done.output
    written = sg.Rollouts.from_netcdf("new.nc")
    times, torque = np.loadtxt("torque.csv", delimiter=",", skiprows=1, unpack=True).copy()
    again = sg.load("arm.pt").rollout([0.5, 0.0], written.times, 8, inputs=(times, torque))
    assert torch.equal(written.samples, again.samples)


@pytest.mark.parametrize(
    ("data", "last"),
    [((), 5.0), pytest.param(("--data", "new.csv"), 2.0, marks=pytest.mark.slow)],
)
def test_forecasts_are_driven_too(here: Path, data: tuple[str, ...], last: float):
    driver = ("--inputs", "torque.csv", "--inputs-time", "t", "--until", 8, "--step", 0.5)
    draws = ("--samples", 8, "-o", "ahead.nc", "--plot", "ahead.png")
    done = in_process("forecast", "arm.pt", *data, *driver, *draws)
    assert done.exit_code == 0, done.output
    assert float(sg.Rollouts.from_netcdf("ahead.nc").times[0]) == last
    assert plt.imread("ahead.png")[..., :3].std() > 0.01


def test_pictures_show_angles_within_one_turn(here: Path):
    done = in_process("plot", "arm.pt", "--kind", "phase", "-o", "phase.png")
    assert done.exit_code == 0, done.output
    assert plt.imread("phase.png")[..., :3].std() > 0.01


FIT = ("fit", "data.csv", *COLUMNS, "-o", "out.pt")
PLAIN = ("fit", "data.csv", "--q", "angle", "--p", "velocity", "-o", "out.pt")
PENDULUM = ("--formula", "p**2/2 - k*cos(q)")
ROLLOUT = ("rollout", "arm.pt", "--x0", "0.5,0", "-o", "out.nc")
DRIVER = ("--inputs", "torque.csv", "--inputs-time", "t")
REFUSED = [
    ((*FIT, "--friction", "--dissipation", "matrix"), "--friction: expected no other"),
    ((*FIT, "--dissipation", "drag"), "'drag' is not one of 'none', 'friction'"),
    ((*FIT, "--drag", "linear"), "--drag: expected --dissipation rayleigh"),
    ((*PLAIN, "--held"), "--held: expected --input beside it"),
    ((*PLAIN, "--input", "force"), "has no column 'force'"),
    ((*FIT, "--angle", "velocity"), "--angle: expected one of angle, got 'velocity'"),
    ((*FIT, "--angle", "angle:360"), "--angle: 'angle' is named twice"),
    ((*PLAIN, "--angle", "angle:0"), "NAME:PERIOD with a positive period"),
    ((*FIT, "--mass", "-1"), "expected positive numbers such as 0.5 or 1,2, got '-1'"),
    ((*FIT, "--mass", "1,2"), "--mass: expected 1 or 1 numbers, got 2"),
    ((*FIT, *PENDULUM, "--mass", 1), "--mass: expected in the formula"),
    ((*FIT, *PENDULUM), "--parameter: no prior or number for k"),
    ((*FIT, *PENDULUM, "--parameter", "k"), "expected NAME=NUMBER or NAME=PRIOR"),
    ((*FIT, *PENDULUM, "--parameter", "k=gauss:1,2"), "expected NAME=NUMBER or NAME=PRIOR"),
    ((*FIT, *PENDULUM, "--parameter", "k=lognormal:-1,2"), "expected NAME=NUMBER or NAME=PRIOR"),
    ((*FIT, "--formula", "p**2 +", "--parameter", "k=1"), "--formula: cannot be read"),
    ((*FIT, "--formula", "p**2/2 - q**2"), "--formula: expected an energy that is periodic"),
    ((*FIT, "--parameter", "k=1"), "--parameter: expected --formula beside it"),
    ((*FIT, "--remainder"), "--remainder: expected --formula beside it"),
    (("fit", "data.csv", "--q", "angle", *TORQUE, "-o", "out.pt"), "known mass"),
    ((*ROLLOUT, "--until", 3), "--inputs: expected a file, since the system is driven by torque"),
    ((*ROLLOUT, *DRIVER, "--until", 20), "--inputs: they are given from t = 0 to 12"),
    ((*ROLLOUT, "--inputs", "torque.csv", "--until", 3), "torque.csv has no column 'time'"),
    ((*ROLLOUT, "--inputs", "new.nc.csv", "--until", 3), "does not exist"),
    ((*ROLLOUT, "--inputs", "data.csv", "--until", 3), "--inputs: expected one series of times"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_does_not_go_together_is_refused_before_the_fit(here: Path, arguments, message: str):
    done = in_process(*arguments)
    assert done.exit_code == 2 and isinstance(done.exception, SystemExit), done.output
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and message in errors[0], done.stderr
    assert not Path("out.pt").exists() and not Path("out.nc").exists()


def test_inputs_for_a_system_without_are_refused(here: Path, tmp_path: Path):
    gaps = tmp_path / "gaps.csv"
    gaps.write_text("time,torque\n0,1\n1,\n4,1\n", encoding="utf-8")
    done = in_process(*ROLLOUT, "--inputs", gaps, "--until", 3)
    assert done.exit_code == 2 and "has gaps, the first at t = 1" in done.stderr


# --- the model that options describe


def options(*arguments: object) -> dict[str, Any]:
    """What the command gets from these options."""
    words = ["data.csv", *map(str, arguments), "-o", "model.pt"]
    return fit_command.make_context("fit", words, resilient_parsing=True).params


def model_of(*arguments: object, data: sg.Trajectories | None = None) -> sg.HamiltonianModel:
    given = options(*arguments)
    given["friction"] = bool(given["friction"])
    return make_model(data or driven(), given, sg.GaussianNoise(), 0)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("none", sg.Conservative),
        ("friction", sg.Friction),
        ("diagonal", sg.DiagonalFriction),
        ("matrix", sg.MatrixFriction),
        ("state-dependent", sg.StateDependentFriction),
        ("rayleigh", sg.Rayleigh),
        ("gradient", sg.GradientField),
    ],
)
def test_every_dissipation_can_be_asked_for(kind: str, expected: type):
    assert type(model_of("--dissipation", kind).dissipation) is expected


def test_drag_is_of_the_kinds_that_are_named():
    rayleigh = ("--dissipation", "rayleigh")
    assert model_of(*rayleigh).dissipation.drag == ("linear", "coulomb", "quadratic")
    assert model_of(*rayleigh, "--drag", "quadratic").dissipation.drag == ("quadratic",)


def test_friction_and_nothing_are_as_they_were():
    assert type(model_of("--friction").dissipation) is sg.Friction
    assert type(model_of().dissipation) is sg.Conservative
    energy = model_of("--features", 7).energy
    assert isinstance(energy, sg.FourierEnergy) and energy.num_features == 7
    assert check_options(options("--dissipation", "friction", "--friction"), ()) is None


def test_a_known_mass_makes_the_energy_separable():
    model = model_of("--mass", 0.5, "--angle", "angle", "--features", 9)
    assert isinstance(model.energy, sg.SeparableEnergy) and model.energy.angles == {0: 2 * math.pi}
    velocity = torch.ones(1, 1, dtype=torch.float64)
    assert float(model.energy.momenta(torch.zeros_like(velocity), velocity)) == 0.5


def test_a_formula_has_its_priors_and_its_remainder():
    known = ("--parameter", "m=0.5", "--parameter", "k=lognormal:3,0.5")
    formula = ("--formula", "p**2/(2*m) - k*cos(q)", *known)
    physics = model_of(*formula).energy
    assert isinstance(physics, sg.PhysicsEnergy) and physics.names == ("k",)
    median = physics.values(torch.zeros(1, dtype=torch.float64))["k"]
    assert float(median) == pytest.approx(3.0) and physics.known_values == (0.5,)
    whole = model_of(*formula, "--remainder", "--angle", "angle").energy
    assert isinstance(whole, sg.SumEnergy) and whole.angles == {0: 2 * math.pi}


@pytest.mark.parametrize("prior", ["normal:1,0.1", "halfnormal:1", "uniform:0,2"])
def test_priors_of_other_kinds(prior: str):
    energy = model_of("--formula", "p**2/2 - k*cos(q)", "--parameter", f"k={prior}").energy
    assert math.isfinite(float(energy.values(torch.zeros(1, dtype=torch.float64))["k"]))


def test_a_formula_knows_its_angles():
    formula = ("--formula", "p**2/2 - cos(pi*q/180)")
    assert model_of(*formula, "--angle", "angle:360").energy.angles == {0: 360.0}
    assert model_of(*formula).energy.angles == {}


def test_the_period_goes_by_the_unit():
    names, units = ("a", "b", "c"), {"a": "deg", "b": "rad"}
    given = [("a", None), ("b", None), ("c", 24.0)]
    assert find_angles(given, names, units) == {"a": 360.0, "b": 2 * math.pi, "c": 24.0}


@pytest.mark.slow
def test_positions_alone_with_a_known_mass(here: Path):
    data = sg.systems.Pendulum().simulate(2, rate=5, duration=6, noise_std=0.03, seed=2)
    frame = data.to_pandas()[["trajectory", "time", "q"]].rename(columns={"q": "angle"})
    frame.to_csv("seen.csv", index=False)
    frame[frame["time"] < 2].to_csv("begin.csv", index=False)
    mass = ("--mass", 0.5, "--features", 12, "--quiet")
    done = in_process("fit", "seen.csv", "--q", "angle", *mass, "-o", "seen.pt")
    assert done.exit_code == 0, done.output
    posterior = sg.load("seen.pt")
    assert posterior.names == ("angle", "p") and posterior.data.states[0][:, 1].isnan().all()
    options = ("--data", "begin.csv", "--until", 5, "--samples", 8, "-o", "seen.nc")
    done = in_process("forecast", "seen.pt", *options)
    assert done.exit_code == 0, done.output
    for kind in ("phase", "hamiltonian"):
        done = in_process("plot", "seen.pt", "--kind", kind, "-o", "seen.png")
        assert done.exit_code == 0, done.output


@pytest.mark.slow
def test_known_physics_with_a_remainder(here: Path):
    data = sg.systems.Pendulum(friction=0.1).simulate(2, rate=5, duration=6, noise_std=0.05)
    data.to_csv("free.csv")
    formula = ("--formula", "p**2/(2*m) - k*cos(q)", "--parameter", "m=0.5", "--remainder")
    prior = ("--parameter", "k=lognormal:1,1", "--friction", "--features", 10, "--quiet")
    done = in_process("fit", "free.csv", *formula, *prior, "-o", "free.pt")
    assert done.exit_code == 0, done.output
    k = sg.load("free.pt").parameters()["k"]
    assert abs(float(k.mean) - 3.0) < 4 * float(k.stddev)

"""Networks on the command line, and by their short names."""

import re
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from click.testing import CliRunner, Result

import sympgp as sg
from sympgp.benchmarks.registry import ENGINES, MODELS, fit_named, make_engine, make_model
from sympgp.cli.fit import fit as fit_command
from sympgp.cli.model_options import make_model as model_from_options
from sympgp.cli.program import cli

KINDS = {
    "ssgp": sg.FourierEnergy,
    "hnn": sg.HNN().energy,
    "dhnn": sg.DHNN().energy,
    "lnn": sg.LNN().energy,
    "node": sg.NeuralODE().energy,
    "kan": sg.KANEnergy,
}


def sympgp(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def data() -> sg.Trajectories:
    return sg.systems.Pendulum(friction=0.1).simulate(2, rate=4, duration=4, noise_std=0.05)


@pytest.fixture
def folder(tmp_path: Path, data: sg.Trajectories, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with data; without checks of shapes, as users run it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    data.to_csv("data.csv")
    return tmp_path


def model_of(data: sg.Trajectories, *arguments: str) -> sg.HamiltonianModel:
    words = ["data.csv", *arguments, "-o", "model.pt"]
    given = fit_command.make_context("fit", words, resilient_parsing=True).params
    given["friction"] = bool(given["friction"])
    return model_from_options(data, given, sg.GaussianNoise(), 0)


@pytest.mark.parametrize("name", KINDS)
def test_every_model_can_be_asked_for(name: str, data: sg.Trajectories):
    kind: Any = KINDS[name]
    expected = kind if isinstance(kind, type) else type(kind)
    assert type(model_of(data, "--model", name).energy) is expected
    assert type(make_model(name, 1, 10, False, 0).energy) is expected


def test_widths_and_angles_reach_the_network(data: sg.Trajectories):
    energy: Any = model_of(data, "--model", "hnn", "--hidden", "7,5", "--angle", "q").energy
    assert energy.hidden == (7, 5) and list(energy.angles) == [0]
    assert model_of(data, "--model", "hnn", "--friction").dissipation == sg.Friction()
    named: Any = make_model("hnn:width=7,depth=3,activation=sin", 2, 10, True, 0)
    assert named.energy.hidden == (7, 7, 7) and named.energy.activation == "sin"
    assert type(named.dissipation) is sg.Friction


def test_friction_is_learned_once():
    """A network that has its own way to lose energy gets no coefficient beside it."""
    for name in MODELS:
        dissipation = make_model(name, 1, 10, True, 0).dissipation
        assert isinstance(dissipation, sg.Conservative) == (name in ("dhnn", "node"))


def test_engines_take_their_options():
    engine = make_engine("ensemble:num_members=3,num_steps=20")
    assert engine == sg.DeepEnsemble(num_members=3, num_steps=20)
    assert set(ENGINES) >= {"map", "ensemble", "meanfield", "dropout", "laplace", "sghmc"}
    with pytest.raises(ValueError, match="engine: 'map:colour=1' cannot be made"):
        make_engine("map:colour=1")


@pytest.mark.parametrize("engine", ["map", "ensemble:num_members=2", "dropout:num_draws=5"])
def test_pairs_are_fitted_by_name(engine: str):
    system = sg.systems.Duffing(alpha=1.0, beta=2.0)
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pairs = sg.StateDerivatives(x, system.vector_field(x))
    short = engine + (":" if ":" not in engine else ",") + "num_steps=20"
    posterior = fit_named("hnn:width=6,depth=1", short, pairs, 10, damped=False, seed=0)
    assert posterior.vector_field(x).mean.shape == (30, 2)


def test_a_network_is_fitted_from_a_file(folder: Path):
    network = ("--model", "hnn", "--hidden", "6", "--engine", "map:num_steps=100", "--friction")
    done = sympgp("fit", "data.csv", *network, "--quiet", "-o", "net.pt")
    assert done.exit_code == 0, done.output
    assert "(MAP, " in done.stdout
    posterior = sg.load("net.pt")
    assert posterior.hamiltonian([[0.5, 0.0]]).mean.isfinite().all()
    ahead = sympgp("forecast", "net.pt", "--until", 6, "--samples", 5, "-o", "ahead.nc")
    assert ahead.exit_code == 0, ahead.output


REFUSED = [
    (("--hidden", "8"), "--hidden: expected a network beside it, such as --model hnn"),
    (("--model", "hnn", "--hidden", "8,x"), "expected widths of layers such as 64,64, got '8,x'"),
    (("--model", "hnn", "--mass", "1"), "--mass: expected --model ssgp beside it, got hnn"),
    (("--model", "node", "--formula", "p**2"), "--formula: expected --model ssgp beside it"),
    (("--model", "dhnn", "--friction"), "--dissipation: expected none beside --model dhnn"),
    (("--model", "tree"), "'tree' is not one of 'ssgp', 'hnn'"),
    (("--engine", "magic"), "engine: expected one of"),
    (("--engine", "map:num_steps=0"), "num_steps: expected a whole number of at least 1"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=lambda value: str(value)[:50])
def test_what_does_not_go_together_is_refused(
    folder: Path, arguments: tuple[str, ...], message: str
):
    done = sympgp("fit", "data.csv", *arguments, "-o", "out.pt")
    assert done.exit_code == 2 and message in re.sub(r"\s+", " ", done.stderr), done.output
    assert not Path("out.pt").exists()

"""The command line: what its commands write and say, and how they fail."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import click
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import sympgp as sg
from sympgp.cli import parameters, pictures
from sympgp.cli.program import cli

COMMANDS = ("demo", "fit", "summary", "forecast", "rollout", "plot", "bench")
COLUMNS = ("--q", "angle", "--p", "velocity", "--features", "15")


def sympgp(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command as its users do, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "sympgp", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def in_process(*arguments: object) -> Result:
    """Run the command here: quicker, and annotations are checked."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def table(num_trajectories: int = 2) -> str:
    """A CSV file: two named trajectories, irregular, with gaps, comments and blank lines."""
    data = sg.systems.Pendulum(friction=0.1).simulate(
        num_trajectories, rate=4, duration=6, noise_std=0.05, missing=0.15, irregular=True, seed=1
    )
    lines = ["# tracked by hand", "trajectory,time,angle,velocity", ""]
    for name, t, x in zip(("first", "second"), data.times, data.states, strict=False):
        for time, (q, p) in zip(t.tolist(), x.tolist(), strict=True):
            cells = [name, f"{time:.5f}", f"{q:.4f}", f"{p:.4f}"]
            lines.append(",".join("" if cell == "nan" else cell for cell in cells))
    return "\n".join([*lines, ""])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli")
    (path / "data.csv").write_text(table(), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def fitted(folder: Path) -> subprocess.CompletedProcess[str]:
    """What the fit of the file said; its posterior is in fit.pt."""
    units = ("--unit", "angle=rad", "--unit", "velocity=rad/s", "--unit", "time=s")
    return sympgp("fit", "data.csv", *COLUMNS, *units, "--friction", "-o", "fit.pt", folder=folder)


@pytest.fixture(scope="module")
def posterior(folder: Path, fitted: subprocess.CompletedProcess[str]) -> Path:
    assert fitted.returncode == 0, fitted.stderr
    return folder / "fit.pt"


@pytest.fixture
def here(folder: Path, posterior: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with data.csv and fit.pt, as the working directory."""
    monkeypatch.chdir(folder)
    return folder


def is_picture(path: Path) -> bool:
    """Whether a PNG can be read, is large enough, and shows more than one colour."""
    image = plt.imread(path)
    return min(image.shape[:2]) > 300 and float(image[..., :3].std()) > 0.01


# --- what the commands do


def test_fit_says_what_it_found_and_saves_it(fitted: subprocess.CompletedProcess[str], folder):
    assert fitted.returncode == 0, fitted.stderr
    assert re.search(r"data\.csv: 2 trajectories, 50 points, \d+ observed values", fitted.stdout)
    assert re.search(r"friction: 0\.\d+ \+- 0\.\d+", fitted.stdout)
    assert "rad/s" in fitted.stdout and "Wrote fit.pt" in fitted.stdout
    assert "objective" in fitted.stderr and "Traceback" not in fitted.stderr
    posterior = sg.load(folder / "fit.pt")
    assert posterior.names == ("angle", "velocity") and posterior.data.labels == ("first", "second")
    assert fitted.stdout.splitlines()[1:-1] == posterior.summary().splitlines()


def test_a_forecast_is_that_of_the_posterior(folder: Path, posterior: Path):
    options = ("--until", 9, "--step", 0.5, "--samples", 20, "--seed", 3)
    files = ("-o", "ahead.nc", "--plot", "ahead.png")
    done = sympgp("forecast", "fit.pt", "--trajectory", "second", *options, *files, folder=folder)
    assert done.returncode == 0, done.stderr
    written = sg.Rollouts.from_netcdf(folder / "ahead.nc")
    loaded = sg.load(posterior)
    assert float(written.times[0]) == float(loaded.data.times[1][-1])
    assert float(written.times[-1]) == 9.0
    again = loaded.forecast(written.times, trajectory=1, num_samples=20, seed=3)
    assert torch.equal(written.samples, again.samples)
    assert written.units == {"angle": "rad", "velocity": "rad/s", "time": "s"}
    assert "20 draws" in done.stdout and "mean and 90% band" in done.stdout
    assert is_picture(folder / "ahead.png")


def test_rollouts_start_at_the_given_states_negative_ones_too(here: Path):
    starts = ("--x0", "-1.0,0.5", "--x0", "1,0")
    done = in_process("rollout", "fit.pt", *starts, "--until", 2, "--step", 0.1, "-o", "new.nc")
    assert done.exit_code == 0, done.output
    written = sg.Rollouts.from_netcdf(here / "new.nc")
    assert written.samples.shape == (100, 2, 21, 2)
    start = torch.tensor([[-1.0, 0.5], [1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(written.mean[:, 0], start)
    np.testing.assert_allclose(written.times, np.arange(21) * 0.1, rtol=1e-12)


def test_without_dissipation_energy_is_kept(here: Path):
    options = ("--x0", "1,0", "--until", 4, "--step", 1, "--samples", 10, "-o", "kept.nc")
    loss = []
    for extra in ([], ["--without-dissipation"]):
        assert in_process("rollout", "fit.pt", *options, *extra).exit_code == 0
        energy = sg.Rollouts.from_netcdf(here / "kept.nc").energy()
        loss.append(float((energy[:, 0, 0] - energy[:, 0, -1]).abs().max()))
    assert loss[1] < 1e-3 * loss[0]


@pytest.mark.slow
def test_every_kind_of_picture_can_be_drawn(here: Path):
    done = in_process("plot", "fit.pt")
    assert done.exit_code == 0, done.output
    kinds = ("fitted", "residuals", "phase", "hamiltonian", "field", "energy", "trajectories")
    assert done.stdout.split() == [f"{w}" for k in kinds for w in ("Wrote", f"fit-{k}.png")]
    assert all(is_picture(here / f"fit-{kind}.png") for kind in kinds)


def test_one_kind_of_picture_goes_to_the_named_file(here: Path):
    done = in_process("plot", "fit.pt", "--kind", "energy", "--trajectory", "second", "-o", "e.svg")
    assert done.exit_code == 0, done.output
    assert (here / "e.svg").read_text(encoding="utf-8").lstrip().startswith("<?xml")


def test_draws_of_a_file_can_be_drawn(here: Path):
    made = in_process("rollout", "fit.pt", "--x0", "1,0", "--until", 3, "-o", "some.nc")
    done = in_process("plot", "some.nc", "--band", "predictive")
    assert (made.exit_code, done.exit_code) == (0, 0), done.output
    assert is_picture(here / "some-bands.png") and is_picture(here / "some-energy.png")


@pytest.mark.slow
def test_netcdf_is_fitted_as_the_same_table_is(here: Path):
    """Names and units come from the file, and noise with outliers from an option."""
    data = sg.Trajectories.from_csv("data.csv", "angle", "velocity", units={"angle": "rad"})
    data.to_netcdf("data.nc")
    options = ("--features", 15, "--noise", "student-t", "--quiet")
    columns = ("--q", "angle", "--p", "velocity", "--unit", "angle=rad")
    first = in_process("fit", "data.nc", *options, "-o", "nc.pt")
    second = in_process("fit", "data.csv", *columns, *options, "-o", "csv.pt")
    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    one, other = sg.load("nc.pt"), sg.load("csv.pt")
    assert one.names == ("angle", "velocity") and one.units == {"angle": "rad"}
    assert torch.equal(one.noise_std, other.noise_std)
    assert "noise is Student's t" in first.stdout
    done = in_process("fit", "data.nc", "--sep", ";", "-o", "out.pt")
    assert done.exit_code == 2 and "--sep: data.nc is NetCDF" in done.stderr


@pytest.mark.slow
def test_dialects_are_found_out_or_said(here: Path):
    frame = sg.Trajectories.from_csv("data.csv", "angle", "velocity").to_pandas()
    frame.to_csv("german.csv", sep=";", decimal=",", index=False)
    frame.to_csv("tabs.txt", sep="\t", decimal=",", index=False)
    columns = ("--q", "angle", "--p", "velocity", "--features", 15, "--quiet")
    content = "Prüfstand\n" + (here / "german.csv").read_text(encoding="utf-8")
    (here / "old.csv").write_text(content, encoding="cp1252")
    runs = {
        "german.csv": (),
        "tabs.txt": ("--sep", "tab", "--decimal", ","),
        "old.csv": ("--encoding", "cp1252", "--skiprows", 1),
    }
    stds = []
    for file, options in runs.items():
        done = in_process("fit", file, *columns, *options, "-o", "dialect.pt")
        assert done.exit_code == 0, done.output
        stds.append(sg.load("dialect.pt").noise_std)
    assert torch.equal(stds[0], stds[1]) and torch.equal(stds[0], stds[2])


@pytest.mark.slow
def test_known_noise_stays_as_it_is(here: Path):
    levels = ("--noise-std", "velocity=0.07")
    done = in_process("fit", "data.csv", *COLUMNS, *levels, "--quiet", "-o", "known.pt")
    assert done.exit_code == 0, done.output
    noise = sg.load("known.pt").noise()
    assert float(noise.mean[1]) == pytest.approx(0.07, rel=1e-9)
    assert float(noise.stddev[1]) == 0.0 < float(noise.stddev[0])
    done = in_process(
        "fit", "data.csv", *COLUMNS, "--noise-std", 0.1, *levels, "--quiet", "-o", "known.pt"
    )
    assert done.exit_code == 0, done.output
    assert sg.load("known.pt").noise_std.tolist() == pytest.approx([0.1, 0.07], rel=1e-9)


def new_table() -> str:
    """Two short recordings, their columns called otherwise, the velocity mostly missing."""
    data = sg.systems.Pendulum(friction=0.1).simulate(2, rate=6, duration=2, noise_std=0.05, seed=8)
    lines = ["t,run,velocity,angle"]
    for name, t, x in zip(("a", "b"), data.times, data.states, strict=True):
        for k, (time, (q, p)) in enumerate(zip(t.tolist(), x.tolist(), strict=True)):
            lines.append(f"{time:.5f},{name},{'' if k % 3 else f'{p:.4f}'},{q:.4f}")
    return "\n".join([*lines, ""])


def test_a_forecast_of_new_data_is_that_of_the_conditioned_posterior(here: Path):
    (here / "new.csv").write_text(new_table(), encoding="utf-8")
    columns = ("--time", "t", "--trajectory-column", "run", "--trajectory", "b")
    options = ("--until", 6, "--step", 0.5, "--samples", 20, "--seed", 3)
    files = ("-o", "later.nc", "--plot", "later.png")
    done = in_process("forecast", "fit.pt", "--data", "new.csv", *columns, *options, *files)
    assert done.exit_code == 0, done.output
    assert "new.csv: 2 trajectories, 26 points" in done.stdout
    new = sg.Trajectories.from_csv("new.csv", "angle", "velocity", "t", "run")
    written = sg.Rollouts.from_netcdf("later.nc")
    assert float(written.times[0]) == float(new.times[1][-1])
    again = sg.load("fit.pt").condition(new)
    expected = again.forecast(written.times, trajectory=1, num_samples=20, seed=3)
    assert torch.equal(written.samples, expected.samples)
    assert written.units == {"angle": "rad", "velocity": "rad/s", "time": "s"}
    assert is_picture(here / "later.png")


def test_new_data_in_other_units_are_refused(here: Path):
    text = new_table().replace("angle", "angle [deg]")
    (here / "degrees.csv").write_text(text, encoding="utf-8")
    columns = ("--time", "t", "--trajectory-column", "run", "--until", 6, "-o", "out.nc")
    done = in_process("forecast", "fit.pt", "--data", "degrees.csv", *columns)
    assert done.exit_code == 2 and not (here / "out.nc").exists()
    assert "angle is in deg, but the field was learned in rad" in done.stderr
    assert done.stdout == ""


@pytest.mark.slow
def test_new_data_of_another_system_are_warned_about(here: Path):
    data = sg.systems.Pendulum(mass=1.0, gravity=40.0).simulate(1, rate=6, duration=4, seed=2)
    frame = data.to_pandas().rename(columns={"q": "angle", "p": "velocity"})
    frame.to_csv("other.csv", index=False)
    options = ("--data", "other.csv", "--until", 6, "-o", "other.nc")
    done = sympgp("forecast", "fit.pt", *options, folder=here)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("Warning: the new data do not follow the learned field")


def test_outliers_have_their_place_in_the_band_of_a_picture():
    """What is joined for a picture keeps the law of the noise."""
    diverged = torch.zeros(50, 1, dtype=torch.bool)
    samples, scale = torch.zeros(50, 1, 3, 2), torch.ones(50, 2)
    parts = [
        sg.Rollouts(samples, torch.arange(3.0) + k, diverged, noise_std=scale, noise_dof=2.0)
        for k in (0, 2)
    ]
    whole = pictures.join(*parts)
    assert whole.noise_dof == 2.0 and len(whole.times) == 5
    assert torch.equal(
        whole.band(0.99, "predictive")[1][:, :3], parts[0].band(0.99, "predictive")[1]
    )


def test_the_summary_is_that_of_the_posterior(here: Path):
    done = in_process("summary", "fit.pt")
    assert done.exit_code == 0 and done.stdout.strip() == sg.load("fit.pt").summary()


@pytest.mark.slow
def test_several_degrees_of_freedom(here: Path):
    """Two uncoupled pendulums side by side."""
    one, two = (
        sg.systems.Pendulum().simulate(2, rate=4, duration=4, noise_std=0.05, seed=s)
        for s in (1, 2)
    )
    both = [torch.cat(x, 1)[:, [0, 2, 1, 3]] for x in zip(one.states, two.states, strict=True)]
    frame = sg.Trajectories(list(one.times), both, names=("x", "y", "px", "py")).to_pandas()
    frame.rename(columns={"time": "t"}).to_csv("two.csv", index=False)
    roles = ("--q", "x", "--q", "y", "--p", "px", "--p", "py", "--time", "t", "--unit", "t=s")
    done = in_process("fit", "two.csv", *roles, "--features", 20, "--quiet", "-o", "two.pt")
    assert done.exit_code == 0, done.output
    loaded = sg.load("two.pt")
    assert loaded.num_dof == 2 and loaded.names == ("x", "y", "px", "py")
    assert loaded.units == {"time": "s"}
    start = ("--x0", "1,1,0,0", "--x0", "1,0.5,0,0")
    assert in_process("rollout", "two.pt", *start, "--until", 9, "-o", "two.nc").exit_code == 0
    for file, kinds in (("two.pt", ("pairs",)), ("two.nc", ("pairs", "trajectories", "section"))):
        chosen = [word for kind in kinds for word in ("--kind", kind)]
        done = in_process("plot", file, *chosen, "-o", "two.png")
        assert done.exit_code == 0, done.output
        names = [f"two-{kind}.png" for kind in kinds] if len(kinds) > 1 else ["two.png"]
        assert all(is_picture(here / name) for name in names)
    assert "section" not in in_process("plot", "two.nc").stdout


@pytest.mark.slow
def test_the_demo_runs_within_a_minute(tmp_path: Path):
    done = sympgp("demo", "--out", "made/demo", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr
    assert re.search(r"friction: true 0\.1, posterior 0\.\d+ \+- 0\.\d+", done.stdout)
    assert re.search(r"\d+ of 10 held-out values are inside the 90% predictive band", done.stdout)
    assert "%" not in done.stdout.replace("90%", "")  # counts, not percentages
    seconds = re.search(r"It took (\d+) s", done.stdout)
    assert seconds and int(seconds[1]) < 60
    files = sorted((tmp_path / "made" / "demo").iterdir())
    listed = re.findall(r"^  (\S+\.(?:pt|nc|png))$", done.stdout, re.MULTILINE)
    assert sorted(listed) == [file.name for file in files]
    assert {file.suffix for file in files} == {".pt", ".nc", ".png"}
    assert all(is_picture(file) for file in files if file.suffix == ".png")
    for file in files:
        if file.suffix == ".pt":
            assert sg.load(file).num_dof == 1
        elif file.suffix == ".nc":
            assert bool(sg.Rollouts.from_netcdf(file).samples.isfinite().any())


# --- how they explain themselves


def test_the_help_lists_every_command_in_the_order_of_use():
    done = in_process("--help")
    assert done.exit_code == 0
    assert tuple(re.findall(r"^  (\w+)  +[A-Z]", done.stdout, re.MULTILINE)) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example_and_describes_its_options(command: str):
    done = in_process(command, "--help")
    assert done.exit_code == 0
    assert f"  sympgp {command} " in done.stdout.split("Example")[1]
    for parameter in cli.commands[command].params:
        assert isinstance(parameter, click.Argument) or parameter.help


def test_the_examples_of_the_help_are_commands():
    """Each one parses; nothing is run."""
    for name, command in cli.commands.items():
        for line in re.findall(rf"^  sympgp {name} (.*)$", command.epilog or "", re.MULTILINE):
            options = {o for p in command.params for o in p.opts}
            used = {word for word in line.split() if re.fullmatch(r"--?[a-z][a-z0-9-]*", word)}
            assert used <= options, line


def test_the_version():
    assert in_process("--version").stdout.strip() == f"sympgp, version {sg.__version__}"


# --- how they fail

FORECAST = ("forecast", "fit.pt", "-o", "out.nc")
ROLLOUT = ("rollout", "fit.pt", "-o", "out.nc")
FIT = ("fit", "data.csv", *COLUMNS)
REFUSED = [
    (("fit", "none.csv", "-o", "out.pt"), "'none.csv' does not exist"),
    (FIT, "Missing option '-o'"),
    ((*FIT, "--features", 0, "-o", "out.pt"), "0 is not in the range x>=1"),
    ((*FIT, "-o", "none/out.pt"), "the folder 'none' does not exist"),
    ((*FIT, "-o", "."), "got the folder '.'"),
    ((*FIT, "-o", "data.csv"), "data.csv is the file that is read"),
    ((*FIT, "--unit", "rad", "-o", "out.pt"), "expected NAME=UNIT, such as angle=rad, got 'rad'"),
    ((*FIT, "--unit", "x=rad", "-o", "out.pt"), "expected units of angle, velocity, time"),
    ((*FIT, "--device", "nowhere", "-o", "out.pt"), "cannot compute on 'nowhere'"),
    ((*FIT, "--q", "x", "-o", "out.pt"), "p: expected one column for each of the 2 of q"),
    (("fit", "data.csv", "--q", "angle", "--p", "speed", "-o", "out.pt"), "only 'trajectory', "),
    ((*FIT, "--sep", "::", "-o", "out.pt"), "sep: expected a single character"),
    ((*FIT, "--noise", "cauchy", "-o", "out.pt"), "'cauchy' is not one of 'gaussian', 'student-t'"),
    ((*FIT, "--noise-std", "x=1", "-o", "out.pt"), "expected one of angle, velocity, got 'x'"),
    ((*FIT, "--noise-std", "angle=-1", "-o", "out.pt"), "NAME=NUMBER such as angle=0.05, got"),
    (("summary", "data.csv"), "'data.csv' is not a posterior written by sympgp"),
    (("plot", "data.csv"), "not a posterior written by sympgp, and no netCDF file"),
    (("plot", "fit.pt", "-o", "out.doc"), "ends in one of .png, .pdf, .svg"),
    (("plot", "fit.pt", "--kind", "bands"), "can be drawn as fitted, residuals, phase, "),
    (("plot", "fit.pt", "--kind", "pairs"), "energy, trajectories, not as pairs"),
    (("plot", "fit.pt", "--kind", "curves"), "is not one of"),
    (("plot", "fit.pt", "--dof", 1), "--dof: expected a number from 0 to 0, got 1"),
    ((*FORECAST, "--until", 3), "--until: expected a time after 5."),
    ((*FORECAST, "--until", "soon"), "expected a finite number, got 'soon'"),
    ((*FORECAST, "--until", 9, "--step", 0), "expected a positive number, got '0'"),
    ((*FORECAST, "--until", 9, "--step", 1e-9), "--step: "),
    ((*FORECAST, "--until", 9, "--trajectory", "third"), "no trajectory 'third', only first, sec"),
    ((*FORECAST, "--until", 9, "--data", "none.csv"), "'none.csv' does not exist"),
    ((*FORECAST, "--until", 9, "--data", "data.csv", "--time", "t"), "has no column 't', only"),
    ((*FORECAST, "--until", 3, "--data", "data.csv"), "--until: expected a time after 5."),
    ((*FORECAST, "--until", 9, "--data", "data.csv", "--trajectory", "x"), "no trajectory 'x'"),
    ((*FORECAST, "--until", 9, "--plot", "none/out.png"), "the folder 'none' does not exist"),
    ((*ROLLOUT, "--until", 9), "Missing option '--x0'"),
    ((*ROLLOUT, "--until", 9, "--x0", "1,2,3"), "expected 2 numbers (angle, velocity), got 3"),
    ((*ROLLOUT, "--until", 9, "--x0", "1,b"), "such as 1.0,0.0, got '1,b'"),
    ((*ROLLOUT, "--until", 9, "--x0", "nan,1"), "such as 1.0,0.0, got 'nan,1'"),
    (("demo", "--out", "data.csv"), "cannot write to the folder 'data.csv'"),
    (("fti",), "No such command 'fti'"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=lambda value: str(value)[:60])
def test_bad_input_gets_one_message_and_nothing_is_written(here: Path, arguments, message: str):
    before = {path: path.stat().st_mtime_ns for path in here.iterdir()}
    done = in_process(*arguments)
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)  # a message, not a traceback
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and message in errors[0]
    assert done.stdout == ""
    assert {path: path.stat().st_mtime_ns for path in here.iterdir()} == before


def edited(old: str, new: str, count: int = 1) -> str:
    text = table()
    assert old in text
    return text.replace(old, new, count)


ROW = table().splitlines()[5]
BAD_FILES = {
    "number": (edited(ROW, "first,0.5,fast,1.0"), "line 6, column 'angle': expected a number"),
    "cells": (edited(ROW, "first,0.5,1.0"), "line 6: expected 4 cells"),
    "infinite": (edited(ROW, "first,0.5,inf,1.0"), "line 6, column 'angle': expected a finite"),
    "no time": (edited(ROW, "first,,1.0,1.0"), "line 6, column 'time': expected a finite number"),
    "repeated": (edited(ROW, f"{ROW}\n{ROW}"), "line 7: expected strictly increasing times"),
    "one point": (table() + "third,0.1,1.0,1.0\n", "at least two points of trajectory 'third'"),
    "empty": ("", "is empty"),
    "binary": ("time,angle\0velocity\n", "is not a CSV file: it holds binary data"),
    "columns": ("time,angle,velocity\n", "has no rows of data"),
}


@pytest.mark.parametrize(("text", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_named_with_the_place(tmp_path: Path, text: str, message: str):
    path = tmp_path / "bad.csv"
    path.write_text(text, encoding="utf-8")
    done = in_process("fit", path, *COLUMNS, "-o", tmp_path / "out.pt")
    assert done.exit_code == 2 and isinstance(done.exception, SystemExit)
    assert message in done.stderr and str(path) in done.stderr
    assert not (tmp_path / "out.pt").exists()


def test_a_process_ends_with_the_message_and_no_traceback(folder: Path):
    done = sympgp("fit", "data.csv", "--q", "x", "--p", "p", "-o", "out.pt", folder=folder)
    assert done.returncode == 2 and done.stdout == ""
    listed = "'trajectory', 'time', 'angle', 'velocity'"
    assert done.stderr == f"Error: q: data.csv has no column 'x', only {listed}\n"


@pytest.mark.parametrize("kind", [torch.linalg.LinAlgError, FloatingPointError, RuntimeError])
def test_a_computation_that_breaks_down_gets_a_message(here: Path, monkeypatch, kind):
    """Other errors are mistakes of the program, and show where they come from."""

    def broken(*_: object, **__: object) -> None:
        raise kind("the matrix is singular")

    monkeypatch.setattr("sympgp.inference.fit", broken)
    done = in_process("fit", "data.csv", *COLUMNS, "-o", "broken.pt")
    assert done.exit_code == 1 and not (here / "broken.pt").exists()
    assert isinstance(done.exception, SystemExit) == (kind is not RuntimeError)
    assert ("(the matrix is singular)" in done.stderr) == (kind is not RuntimeError)
    done = in_process("--traceback", "fit", "data.csv", *COLUMNS, "-o", "broken.pt")
    assert isinstance(done.exception, kind)


def test_a_traceback_can_be_asked_for(here: Path):
    done = in_process("--traceback", "summary", "data.csv")
    assert isinstance(done.exception, ValueError)


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to a single process")
def test_an_interrupt_ends_quietly(folder: Path):
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "sympgp", "fit", "data.csv", *COLUMNS, "-o", "late.pt"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # shells start background jobs with SIGINT ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert "2 trajectories" in process.stdout.readline()  # the fit begins
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted." in stderr, stderr
    assert "Traceback" not in stderr, stderr
    assert not (folder / "late.pt").exists()


def test_a_warning_is_one_plain_line(here: Path):
    options = ("--x0", "1e9,0", "--until", 3, "-o", "lost.nc")
    done = sympgp("rollout", "fit.pt", *options, folder=here)
    assert done.returncode == 0
    assert done.stderr.startswith("Warning: 100 of 100 rollouts diverged")
    assert done.stderr.count("\n") == 1
    assert "every draw diverged" in done.stdout


# --- kinds of values


def test_the_grid_of_times_ends_where_it_is_asked_to():
    np.testing.assert_allclose(parameters.time_grid(0.0, 1.0, 0.25), [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(parameters.time_grid(1.0, 2.0, 0.4), [1, 1.4, 1.8, 2])
    np.testing.assert_allclose(parameters.time_grid(1.0, 2.0, 5.0), [1, 2])
    # ten steps of 0.1, though 0.3 / 0.1 < 3 in floating point
    times = parameters.time_grid(0.1, 0.4, 0.1)
    assert len(times) == 4 and times[-1] == 0.4
    assert len(parameters.time_grid(0.0, 7.0, None)) == 201


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        (None, ("a", "b"), 0),
        ("b", ("a", "b"), 1),
        ("1", ("a", "b"), 1),
        ("2", ("1", "2"), 1),
    ],
)
def test_trajectories_go_by_name_then_by_number(name, labels, expected):
    assert parameters.find_trajectory(name, labels) == expected


@pytest.mark.parametrize(("name", "labels"), [("0", ("1", "2")), ("2", ("a", "b")), ("-1", ("a",))])
def test_a_number_is_no_position_where_trajectories_are_named_by_numbers(name, labels):
    with pytest.raises(ValueError, match="there is no trajectory"):
        parameters.find_trajectory(name, labels)

"""The tutorials: each runs from top to bottom, converts to a notebook, and what it says is so."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jaxtyping
import jupytext
import matplotlib.pyplot as plt
import nbformat
import pytest

FOLDER = Path(__file__).parent.parent / "tutorials"
SCRIPTS = sorted(FOLDER.glob("*.py"))

# What makes each one small enough for a test; names that its cell of parameters sets.
SMALL: dict[str, dict[str, Any]] = {
    "csv_to_forecast": {"NUM_FEATURES": 25, "NUM_DRAWS": 40, "NUM_STARTS": 3},
    "driven_pendulum": {"NUM_FEATURES": 20, "NUM_DRAWS": 40, "NUM_TORQUES": 3},
    "networks": {
        **{"NUM_FEATURES": 20, "HIDDEN": (8, 8), "NUM_STEPS": 150, "NUM_MEMBERS": 3},
        **{"NUM_DRAWS": 20, "NUM_STARTS": 5, "DURATION": 4.0, "LONG": 40.0},
    },
}


def code_cells(script: Path) -> list[Any]:
    return [cell for cell in jupytext.read(script).cells if cell.cell_type == "code"]


def is_parameters(cell: Any) -> bool:
    return "parameters" in cell.metadata.get("tags", ())


def run(script: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Run the cells in order, some parameters changed; return the names that they leave behind."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(code_cells(script)):
        exec(compile(cell.source, f"{script.name}, code cell {number}", "exec"), names)
        if is_parameters(cell):
            assert changes.keys() <= names.keys(), "a parameter that the script does not have"
            names.update(changes)
    return names


def run_small(script: Path, folder: Path) -> dict[str, Any]:
    """Run a script in a folder as its readers do: without checks of shapes, which double the time.

    Every function has been called with them in tests of its own.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        names = run(script, SMALL[script.stem])
    plt.close("all")
    return names


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The names that csv_to_forecast.py leaves behind, and the folder that it wrote to."""
    path = tmp_path_factory.mktemp("tutorial")
    names = run_small(FOLDER / "csv_to_forecast.py", path)
    return SimpleNamespace(**names | {"outputs": path / "csv_to_forecast"})


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The names that driven_pendulum.py leaves behind, and the folder that it wrote to."""
    path = tmp_path_factory.mktemp("driven")
    names = run_small(FOLDER / "driven_pendulum.py", path)
    return SimpleNamespace(**names | {"outputs": path / "driven_pendulum"})


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The names that networks.py leaves behind, and the folder that it wrote to."""
    path = tmp_path_factory.mktemp("networks")
    names = run_small(FOLDER / "networks.py", path)
    return SimpleNamespace(**names | {"outputs": path / "networks"})


def check_pictures(name: str, outputs: Path, count: int) -> None:
    """All of the pictures are spoken of, and none is a blank page."""
    pictures = sorted(outputs.glob("*.png"))
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    prose = [line for line in text.splitlines() if line.startswith("# ")]
    assert len(pictures) == count
    for picture in pictures:
        assert any(f"`{picture.name}`" in line for line in prose)
        assert plt.imread(picture)[..., :3].std() > 0.01


def test_every_tutorial_is_found():
    assert {script.stem for script in SCRIPTS} == SMALL.keys() and SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_it_is_a_notebook(script: Path):
    notebook = jupytext.read(script)
    nbformat.validate(notebook)
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[0] == "markdown" and notebook.cells[0].source.startswith("# ")
    assert kinds.count("code") > 5 and kinds.count("markdown") > 5
    assert sum(map(is_parameters, notebook.cells)) == 1
    back = jupytext.reads(jupytext.writes(notebook, fmt="ipynb"), fmt="ipynb")
    assert [cell.source for cell in back.cells] == [cell.source for cell in notebook.cells]


@pytest.mark.parametrize(
    "fixture",
    ["example", *(pytest.param(name, marks=pytest.mark.slow) for name in ("driven", "networks"))],
)
def test_every_tutorial_runs(fixture: str, request: pytest.FixtureRequest):
    """Each runs once, for the tests below too."""
    assert request.getfixturevalue(fixture).FOLDER in SMALL


# --- what csv_to_forecast.py says of its results


def test_the_pictures_it_speaks_of_are_written(example: SimpleNamespace):
    check_pictures("csv_to_forecast", example.outputs, 9)


def test_the_checks_find_what_is_wrong_and_nothing_else(example: SimpleNamespace):
    plain, robust, wrong = (fit.check() for fit in example.fits.values())
    assert plain.fits and plain.findings
    assert all("outliers" in finding for finding in plain.findings)
    assert robust.fits and not robust.findings
    assert not wrong.fits and "jump" in wrong.verdict


def test_robust_noise_makes_the_friction_more_certain_and_not_wrong(example: SimpleNamespace):
    plain, robust = (example.fits[name].dissipation() for name in ("Gaussian", "Student-t"))
    assert float(robust.stddev) < float(plain.stddev)
    assert abs(float(robust.mean) - example.rig.friction) < 4 * float(robust.stddev)


def test_the_scores_say_what_the_text_reads_from_them(example: SimpleNamespace):
    wide = [example.results.loc[name]["coverage"]["no friction"] for name in ("slow", "fast")]
    assert max(wide) > 0.95 and sum(wide) > 1.2
    for recording in ("slow", "fast"):
        scores = example.results.loc[recording]
        for score in ("crps of angle", "crps of velocity", "nlpd"):
            assert scores[score]["Student-t"] < scores[score]["Gaussian"]
            assert scores[score]["Gaussian"] < scores[score]["no friction"]
        plain, robust = scores["rmse"]["Gaussian"], scores["rmse"]["Student-t"]
        assert abs(plain - robust) < 0.15 * plain
        assert 3 * robust < scores["rmse"]["the mean"]


def test_a_new_recording_is_followed_and_another_pendulum_is_noticed(example: SimpleNamespace):
    assert example.short.states[0][:, 1].isnan().all()
    assert 0.8 < example.coverage_after <= 1.0
    assert [str(warning.message)[:27] for warning in example.caught] == [
        "the new data do not follow "
    ]


# --- what driven_pendulum.py says of its results


@pytest.mark.slow
def test_the_motor_and_the_friction_are_found_and_the_angle_goes_round(driven: SimpleNamespace):
    check_pictures("driven_pendulum", driven.outputs, 6)
    gain, eta = driven.gain_mean, driven.eta
    assert abs(gain - 1 / driven.INERTIA) < 4 * driven.gain_std < 0.1 * gain
    assert abs(float(eta.mean) - driven.FRICTION) < 4 * float(eta.stddev)
    assert abs(float(driven.swing.mean) - 4 * 9.81) < 4 * float(driven.swing.stddev)
    assert max(float(x[:, 0].abs().nan_to_num().max()) for x in driven.data.states) < 3.15
    assert driven.posterior.check().fits
    assert not driven.wrong.check().fits


@pytest.mark.slow
def test_an_unseen_torque_is_followed_and_its_threshold_is_known(driven: SimpleNamespace):
    assert driven.error < 0.2 and driven.inside > 0.8
    assert driven.really == [0.0, 1.0, 1.0]
    assert driven.chance[0] < 0.1 and driven.chance[-1] > 0.9
    energy = driven.energy[driven.last - 1 :]
    assert bool((energy.diff() < 0.05).all()) and energy[-1] < energy[0] - 1.0


# --- what networks.py says of its results


@pytest.mark.slow
def test_bands_differ_as_the_text_says(networks: SimpleNamespace):
    check_pictures("networks", networks.outputs, 5)
    held = networks.results["90% band"]
    assert held["SSGP"] > 0.7 and held["HNN, Laplace"] > 0.7
    assert held["HNN, plain ensemble"] < min(held["SSGP"], held["HNN, Laplace"])
    error = networks.results["trajectory MSE"]
    assert error["SSGP"] < error["HNN, dropout"] and error["HNN, Laplace"] < error["HNN, dropout"]


@pytest.mark.slow
def test_energy_drifts_without_a_hamiltonian_and_functions_can_be_read(networks: SimpleNamespace):
    drift = networks.drift
    assert drift["neural ODE, ensemble"] > 2 * max(drift["SSGP"], drift["HNN, ensemble"])
    assert [symbol.name for symbol in networks.symbols] == ["cos", "x^2"]
    assert min(symbol.r2 for symbol in networks.symbols) > 0.999

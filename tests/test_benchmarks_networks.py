"""The studies of networks: their data, scores known by hand, pictures, and the command line."""

import csv
import math
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jaxtyping
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from matplotlib.axes import Axes
from torch import Tensor

import sympgp as sg
from sympgp.benchmarks import networks, networks_plots
from sympgp.benchmarks import networks_duffing as duffing
from sympgp.benchmarks import networks_measured as measured
from sympgp.benchmarks import networks_protocol as protocol
from sympgp.benchmarks.networks_prediction import Prediction, divergence, found_damping
from sympgp.benchmarks.results import RUNS
from sympgp.benchmarks.runs import Record
from sympgp.cli import bench_networks
from sympgp.cli.program import cli
from sympgp.posterior.draws import Marginal
from sympgp.rollouts import Rollouts
from sympgp.systems import Duffing

SSGP = ("ssgp", "regression:num_components=1")
COMMAND = ("bench", "networks", "--fit", "/".join(SSGP))


def sympgp(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def unchecked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole fits as users run them: checks of shapes would double their time."""
    if "small" in request.fixturenames:
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A study of few pairs."""
    sizes = {"TRAJECTORIES": 8, "TRAINING": 5, "POINTS": 8, "FEATURES": 12}
    sizes |= {"LONG": 3.0, "LONG_POINTS": 31}
    for name, value in sizes.items():
        monkeypatch.setattr(duffing, name, value)
    runs = partial(duffing.duffing_runs, frictions=(0.1,), noises=(0.0, 0.05))
    monkeypatch.setattr(duffing, "duffing_runs", runs)


# --- the study of pairs


def run_of(friction: float = 0.0, noise: float = 0.0, seed: int = 0) -> duffing.DuffingRun:
    return duffing.DuffingRun(friction, noise, *SSGP, draws=5, seed=seed)


def test_the_pairs_are_those_of_the_protocol():
    problem = run_of(0.1, 0.05).problem()
    assert (len(problem.train), len(problem.test)) == (80 * 50, 20 * 50)
    assert duffing.STIFFNESS == (1.0, 2.0) and problem.starts.shape == (20, 2)
    x, dx = problem.clean_test.states, problem.clean_test.derivatives
    expected = torch.stack([x[:, 1], -0.1 * x[:, 1] - x[:, 0] - 2 * x[:, 0] ** 3], 1)
    torch.testing.assert_close(dx, expected)
    assert torch.equal(x[::50], problem.starts)
    for noisy, clean in (
        (problem.train, problem.clean_train),
        (problem.test, problem.clean_test),
    ):
        for seen, true in ((noisy.states, clean.states), (noisy.derivatives, clean.derivatives)):
            off = (seen - true).flatten()
            # a standard error of a standard deviation of 2,000 values is 0.05 / 63
            assert abs(float(off.std()) - 0.05) < 0.004 and abs(float(off.mean())) < 0.005
    assert float(problem.starts.std()) == pytest.approx(1.0, abs=0.3)


def test_the_trajectories_end_at_five():
    problem = run_of().problem()
    path = Duffing(alpha=1.0, beta=2.0).exact(problem.starts[:1], [0.0, 5.0])
    torch.testing.assert_close(problem.clean_test.states[49], path[0, 1])


class Field:
    """A posterior whose mean field is known, and its standard deviation."""

    def __init__(self, mean: Any, stddev: float = 0.5) -> None:
        self.mean, self.stddev = mean, stddev
        self.dissipation_family: Any = sg.Conservative()
        self.dissipation: Any = lambda: Marginal(torch.zeros(()), torch.zeros(()))
        self.data: Any = sg.StateDerivatives([0.0, 0.0], [0.0, 0.0])
        self.names, self.units, self.num_dof = ("q", "p"), {}, 1
        self.angles: dict[str, float] = {}
        self.diagnostics: Any = SimpleNamespace(seconds=1.5)

    def vector_field(self, x: Tensor, *, covariates: Any = None) -> Marginal:
        return Marginal(self.mean(x), torch.full_like(x, self.stddev))

    def hamiltonian(self, x: Tensor, *, covariates: Any = None) -> Marginal:
        raise TypeError("it has none")

    def rollout(self, x0: Tensor, times: Tensor, num_samples: int, seed: int) -> Rollouts:
        paths = Duffing(alpha=1.0, beta=2.0).exact(x0, times).expand(num_samples, -1, -1, -1)
        return Rollouts(paths.clone(), times, torch.zeros(paths.shape[:2], dtype=torch.bool))

    def summary(self) -> str:
        return "Nothing to worry about was found."


def test_the_scores_of_a_field_that_is_off_by_a_known_amount(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(duffing, "LONG", 3.0)
    monkeypatch.setattr(duffing, "TRAJECTORIES", 82)
    run = run_of(0.0, 0.05)
    off = torch.tensor([0.1, -0.3], dtype=torch.float64)
    field = Field(lambda x: run.system.vector_field(x) + off)
    monkeypatch.setattr(duffing, "fit_named", lambda *_, **how: field)
    scores = run.score()
    assert scores["test_clean_velocity"] == pytest.approx(0.01)
    assert scores["test_clean_acceleration"] == pytest.approx(0.09)
    assert scores["train_clean_mse"] == pytest.approx(0.05)
    # on average the square adds to what noise leaves to the true field
    assert scores["train_mse"] == pytest.approx(0.05 + scores["train_mse_of_truth"], abs=0.01)
    problem = run.problem()
    slope = 1 + 6 * problem.clean_train.states[:, 0] ** 2
    left = 0.05**2 * (3 + float((slope**2).mean())) / 2
    assert scores["train_mse_of_truth"] == pytest.approx(left, rel=0.1)
    assert scores["field_coverage_90"] == 1.0
    assert scores["drift_worst"] == pytest.approx(0.0, abs=1e-9) and scores["diverged"] == 0.0
    assert (scores["fit_seconds"], scores["problems"]) == (1.5, "")
    field.stddev = 0.1
    assert run.score()["field_coverage_90"] == 0.5


def test_damping_without_a_coefficient_is_a_divergence():
    system = Duffing(0.3, alpha=1.0, beta=2.0)
    field = Field(system.vector_field)
    states = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(divergence(field, states), torch.full((50,), -0.3).double())
    mean, std = found_damping(field, states)
    assert mean == pytest.approx(0.3) and std is None
    field.dissipation_family = sg.Friction()
    field.dissipation = lambda: Marginal(torch.tensor(0.2), torch.tensor(0.01))
    assert found_damping(field, states) == pytest.approx((0.2, 0.01))


def predicted(samples: Tensor, truth: Tensor, diverged: Tensor | None = None) -> Prediction:
    system = Duffing(alpha=1.0, beta=2.0)
    gone = torch.zeros(samples.shape[:2], dtype=torch.bool) if diverged is None else diverged
    times = torch.arange(samples.shape[2], dtype=samples.dtype)
    posterior = Field(system.vector_field)
    posterior.data = sg.StateDerivatives(truth[:, 0], system.vector_field(truth[:, 0]))
    return Prediction(posterior, Rollouts(samples, times, gone), truth, system.hamiltonian)


@pytest.mark.filterwarnings("ignore:.*rollouts diverged")
def test_the_drift_is_that_of_each_draw_and_diverged_ones_are_counted():
    truth = torch.tensor([[[0.0, 2.0], [0.0, 2.0]], [[0.0, 2.0], [0.0, 2.0]]]).double()
    samples = truth.expand(3, -1, -1, -1).clone()
    samples[0, 0, 1, 1] = 4.0  # H is 8 in place of 2
    samples[1, 1, 1, 1] = -2.0  # the same energy, on the other side
    samples[2, 1, 1] = math.nan
    gone = torch.zeros(3, 2, dtype=torch.bool)
    gone[2, 1] = True
    scores = duffing.energy_drift(predicted(samples, truth, gone))
    assert scores == {"drift": 0.0, "drift_worst": 3.0, "diverged": pytest.approx(1 / 6)}


def test_the_table_beside_published_figures_has_a_line_a_data_set():
    scores = {"train_mse": 0.5, "test_mse": 0.25}
    scores |= {"train_mse_of_truth": 0.1, "test_mse_of_truth": 0.2}
    runs = duffing.duffing_runs([SSGP, ("hnn", "map")], [SSGP], (0.0, 0.1), (0.0,), (0, 7))
    records = [Record(run.settings(), scores) for run in runs if run.seed == 0]
    records += [Record(run.settings(), failure="no") for run in runs if run.seed == 7]
    assert networks.beside_published(records) == [
        ["friction", "noise", "seed", "published HNN", "true field", "ssgp", "hnn"],
        ["0", "0", "0", "0.00059 / 0.00092", "0.1 / 0.2", "0.5 / 0.25", "0.5 / 0.25"],
        ["0.1", "0", "0", "0.0019 / 0.0062", "0.1 / 0.2", "0.5 / 0.25", "0.5 / 0.25"],
    ]
    assert runs[0].alpha == 0.5 and len(runs) == 10


# --- the protocol and measured data


def test_lagrangians_are_fitted_where_momenta_are_velocities():
    fits = (("ssgp", "gauss-newton"), ("lnn", "map"))
    runs = protocol.protocol_runs(fits, seeds=(0, 1))
    assert [run.system for run in runs if run.model == "lnn"] == [
        *["duffing"] * 2,
        *["duffing-friction"] * 2,
    ]
    assert len([run for run in runs if run.model == "ssgp"]) == 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files with the columns and rates of the measured ones."""
    (tmp_path / "measured").mkdir()
    for name, rate in (("pendulum", 6), ("air_track", 30)):
        times = torch.arange(45 * rate, dtype=torch.float64) / rate
        states = torch.stack([times.cos(), -times.sin()], 1)
        sg.Trajectories(times, states).to_csv(tmp_path / "measured" / f"{name}.csv")
    return tmp_path


def test_what_is_forecast_was_not_seen(folder: Path):
    for run in measured.measured_runs((SSGP,), seeds=(0,), data=folder):
        recording = measured.RECORDINGS[run.system]
        seen, later = run.split(folder)
        begin, end = float(seen.times[0][0]), float(seen.times[0][-1])
        assert begin + recording.seen - 0.3 < end <= begin + recording.seen
        assert end < float(later.times[0][0]) and len(later.times[0]) >= 78
        assert float(later.times[0][-1]) <= begin + recording.seen + recording.ahead
        step = float(seen.times[0].diff().median())
        assert step == pytest.approx(1 / 6 if run.system == "pendulum" else 0.1)


def test_measured_data_are_needed():
    with pytest.raises(ValueError, match="data: expected the folder of the measured files"):
        measured.measured_runs((SSGP,))
    with pytest.raises(ValueError, match="systems: expected some of pendulum, air-track, got 'x'"):
        measured.measured_runs((SSGP,), systems=("x",))


def test_the_scores_of_a_forecast_known_by_hand(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (run,) = measured.measured_runs((SSGP,), ("air-track",), (0,), 20, folder)
    _, later = run.split(folder)
    shift = torch.tensor([0.1, -0.2]).double()
    white = torch.randn(20, 1, 1, 2, generator=torch.Generator().manual_seed(0)).double()
    samples = later.states[0] + shift + 1e-3 * (white - white.mean(0))
    found = Rollouts(
        samples,
        later.times[0],
        torch.zeros(20, 1, dtype=torch.bool),
        noise_std=torch.tensor([1.0, 0.01]).double().expand(20, 2),
    )
    posterior = Field(lambda x: x)
    monkeypatch.setattr(measured, "fit_named", lambda *_, **how: posterior)
    monkeypatch.setattr(Field, "forecast", lambda *_, **how: found, raising=False)
    scores = run.score(folder)
    assert scores["rmse_q"] == pytest.approx(0.1) and scores["rmse_p"] == pytest.approx(0.2)
    spread = later.states[0].std(0)
    assert scores["relative_p"] == pytest.approx(0.2 / float(spread[1]))
    assert scores["coverage_90"] == pytest.approx(0.5)


# --- pictures


@pytest.fixture
def drawn() -> Iterator[dict[str, Prediction]]:
    """Three fits: one that knows the truth, one that is unsure of it, one that loses energy."""
    system = Duffing(alpha=1.0, beta=2.0)
    times = torch.arange(12.0, dtype=torch.float64)
    truth = system.exact([[1.0, 0.0], [0.5, 0.5]], times)
    white = torch.randn(9, 2, 1, 2, generator=torch.Generator().manual_seed(0)).double()
    decay = (-0.1 * times).exp()[:, None]
    paths = {
        "exact": truth + 0.0 * white,
        "unsure": truth + 0.3 * white,
        "lossy": truth * decay + 0.01 * white,
    }
    yield {name: predicted(samples, truth) for name, samples in paths.items()}
    plt.close("all")


def test_portraits_are_side_by_side_with_one_scale(drawn: dict[str, Prediction]):
    axes = networks_plots.portraits(drawn, region=((-1.5, 1.5), (-2.0, 2.0)))
    shown = [panel for panel in axes.flat if panel.get_visible()]
    assert [panel.get_title() for panel in shown] == list(drawn)
    assert {panel.get_xlim() for panel in shown} == {(-1.5, 1.5)}
    assert len(axes.flat[0].figure.axes) == len(axes.flat) + 1  # the one scale
    lines = [line.get_label() for line in shown[1].lines]
    assert "draws" in lines and "true path" in lines


def test_the_forecast_shows_medians_and_the_truth(drawn: dict[str, Prediction]):
    axes = networks_plots.forecasts(drawn, trajectory=1, coordinate=1)
    panel = axes.flat[0]
    lines = {line.get_label(): line.get_ydata() for line in panel.lines}
    np.testing.assert_allclose(lines["truth"], drawn["exact"].truth[1, :, 1])
    np.testing.assert_allclose(lines["median"], lines["truth"])
    assert axes.flat[0].get_ylabel() == "p" and axes.flat[0].get_ylim() == axes.flat[2].get_ylim()


def curve(panel: Axes, label: str) -> np.ndarray:
    return next(np.asarray(c.get_ydata()) for c in panel.lines if c.get_label() == label)


def test_energy_that_is_lost_is_seen(drawn: dict[str, Prediction]):
    axes = networks_plots.energy_drift(drawn)
    ends = {panel.get_title(): curve(panel, "median")[-1] for panel in axes.flat}
    assert ends["exact"] == networks_plots.LOWEST
    # both paths lose four fifths of it or more
    assert 0.5 < ends["lossy"] < 1.5 and all(p.get_yscale() == "log" for p in axes.flat)


def test_honest_bands_are_on_the_diagonal(drawn: dict[str, Prediction]):
    panel = networks_plots.calibrations(drawn)
    curves = {line.get_label(): line.get_ydata() for line in panel.lines}
    assert set(curves) == {"ideal", *drawn}
    assert curves["lossy"][-2] < curves["unsure"][-2]


def test_nothing_cannot_be_drawn():
    for draw in (networks_plots.portraits, networks_plots.calibrations):
        with pytest.raises(ValueError, match="found: expected one fit at least, got none"):
            draw({})


# --- the command line


def test_a_small_study_has_its_table_files_and_pictures(small: None, tmp_path: Path):
    arguments = (*COMMAND, "--draws", 4, "--seeds", 0, "--out", tmp_path / "out", "--pictures")
    done = sympgp(*arguments)
    assert done.exit_code == 0, done.output
    with (tmp_path / "out" / RUNS).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and all(row["status"] == "finished" for row in rows)
    assert all(float(row["train_clean_mse"]) < 1.0 for row in rows)
    assert "published HNN" in done.stdout and "0.0019 / 0.0062" in done.stdout
    pictures = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert pictures == [
        f"duffing-{kind}.png" for kind in ("calibration", "drift", "forecasts", "portraits")
    ]
    for name in pictures:
        assert plt.imread(tmp_path / "out" / name)[..., :3].std() > 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fit", "ssgp"), "expected MODEL/ENGINE, such as hnn/ensemble, got 'ssgp'"),
        (("--fit", "magic/map"), "model: expected one of ssgp"),
        (("--fit", "ssgp/magic"), "engine: expected one of"),
        (("--systems", "pendulum"), "systems: expected none, as this study is of Duffing's"),
        (("--study", "measured"), "data: expected the folder of the measured files"),
        (("--study", "protocol", "--systems", "x"), "systems: expected some of pendulum"),
        (("--study", "measured", "--data", "."), "has no file measured/pendulum.csv"),
    ],
)
def test_slips_are_found_first(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    done = sympgp("bench", "networks", *arguments)
    assert done.exit_code == 2 and re.search(message, done.stderr), done.output
    assert not list(tmp_path.iterdir())


def test_the_studies_of_the_command_are_those_there_are():
    assert set(bench_networks.STUDIES) == networks.STUDIES.keys()
    assert all(f"  {name} " in bench_networks.HELP for name in networks.STUDIES)

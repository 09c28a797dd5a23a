"""The benchmarks: protocols, tables, files, parallel runs and the command line."""

import csv
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click
import jaxtyping
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from toy_runs import Toy

from sympgp.benchmarks import (
    ENGINES,
    MODELS,
    Bead,
    Column,
    Record,
    Results,
    aggregate,
    do_runs,
    hgp,
    hgp_runs,
    markdown_table,
    plain_table,
    ssgp,
    ssgp_runs,
)
from sympgp.benchmarks.published import Problem, read_hgp, read_ssgp
from sympgp.benchmarks.registry import make_engine, make_model, parse
from sympgp.benchmarks.results import RUNS, SUMMARY
from sympgp.benchmarks.table import Estimate
from sympgp.cli import bench as bench_command
from sympgp.cli.program import cli
from sympgp.inference import GaussNewton
from sympgp.metrics import coverage, nlpd
from sympgp.rollouts import Rollouts
from sympgp.systems import System
from sympgp.trajectories import Trajectories

SMALL = (
    *("--num-trajectories", "2", "--rate", "3", "--features", "5", "--draws", "5"),
    *("--engine", "gauss-newton:num_components=1,hyperparameter_rounds=1"),
)


def sympgp(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / RUNS).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- the system of our own


@pytest.mark.parametrize("friction", [0.0, 0.1])
def test_the_bead_obeys_its_hamiltonian(friction):
    bead = Bead(friction=friction)
    x = bead.sample_initial(50, seed=1).requires_grad_()
    (slope,) = torch.autograd.grad(bead.hamiltonian(x).sum(), x)
    expected = torch.stack([slope[:, 1], -slope[:, 0] - friction * slope[:, 1]], 1)
    torch.testing.assert_close(bead.vector_field(x.detach()), expected)


def test_the_bead_runs_through_both_dips_and_is_not_separable():
    bead = Bead()
    starts = bead.sample_initial(200, seed=0)
    energy = bead.hamiltonian(starts)
    assert bool(((energy >= 0.8) & (energy <= 2.4)).all())
    path = bead.exact(starts[:2], torch.linspace(0, 10, 101, dtype=torch.float64))
    torch.testing.assert_close(bead.hamiltonian(path), energy[:2, None].expand(-1, 101))
    assert bool((path[..., 0].amin(1) < -1).all()) and bool((path[..., 0].amax(1) > 1).all())
    mixed = torch.func.hessian(bead.hamiltonian)(torch.tensor([1.5, 1.0]).double())[0, 1]
    assert abs(float(mixed)) > 0.1


# --- protocols


@pytest.fixture
def unsolved(monkeypatch):
    """Waves in place of solutions, where only times and shapes matter: no time is lost."""

    def waves(system, x0, start, times, forcing=None):
        rates = 1.0 + torch.arange(x0.shape[-1], dtype=torch.float64)
        return (times[..., None] * rates + x0[:, None]).sin()

    monkeypatch.setattr(System, "_solve", waves)


def test_every_system_of_the_first_protocol_has_its_data(unsolved):
    for run in ssgp_runs(systems=tuple(ssgp.SYSTEMS), num_trajectories=(2,), seeds=(3,)):
        problem, num_dof = run.problem(None), ssgp.SYSTEMS[run.system].num_dof
        assert (run.features, run.rate) == ((100, 5.0) if num_dof == 1 else (200, 10.0))
        assert len(problem.train) == 2 and len(problem.train.times[0]) == 10 * run.rate + 1
        assert problem.test.shape == (25, 301, 2 * num_dof)
        assert float(problem.times[-1]) == 15.0
        damped = run.system.endswith(("friction", "counterfactual"))
        assert ssgp.SYSTEMS[run.system].friction == (0.05 if damped else 0.0)


def test_the_counterfactual_is_learned_with_friction_and_predicted_without():
    run, same = ssgp_runs(
        systems=("duffing-counterfactual", "duffing-friction"), num_trajectories=(2,), seeds=(0,)
    )
    problem, damped = run.problem(None), same.problem(None)
    assert all(map(torch.equal, problem.train.states, damped.train.states))
    energy = ssgp.SYSTEMS["duffing"].hamiltonian(problem.test)
    torch.testing.assert_close(energy, energy[:, :1].expand_as(energy))
    asked = []

    class Known:
        """A posterior of which only the order of the calls matters."""

        def without_dissipation(self):
            asked.append("without")
            return self

        def rollout(self, x0, times, num_samples, seed):
            asked.append("rollout")
            raise InterruptedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssgp, "fit_named", lambda *_, **how: asked.append(how["damped"]) or Known())
        patch.setattr(ssgp.SSGPRun, "problem", lambda *_: problem)
        for one in (run, same):
            with pytest.raises(InterruptedError):
                one.score(None)
    assert asked == [True, "without", "rollout", True, "rollout"]


def test_test_trajectories_are_not_those_of_the_training_data(unsolved):
    (run,) = ssgp_runs(systems=("pendulum",), seeds=(0,))
    problem = run.problem(None)
    seen = torch.stack([x[0] for x in run.problem(None).train.states])
    assert torch.equal(seen, torch.stack([x[0] for x in problem.train.states]))
    assert float(torch.cdist(seen, problem.test[:, 0]).min()) > 1e-3


@pytest.mark.parametrize("task", [1, 2])
def test_the_second_protocol_has_its_noise_and_times(task, unsolved):
    for name, setting in hgp.SYSTEMS.items():
        problem = hgp.simulate(task, setting, seed=2)
        horizon = setting.horizons[task - 1]
        assert len(problem.train) == (1 if task == 1 else 8), name
        assert float(problem.train.times[0][-1]) == horizon
        clean = setting.system.exact(
            setting.system.sample_initial(len(problem.train), seed=2), problem.train.times[0]
        )
        noise = torch.stack(list(problem.train.states)) - clean
        share = noise.var(1) / clean.var(1)
        assert 0.03 < float(share.mean()) < 0.07
        ends = problem.times[[0, -1]].tolist()
        assert ends[1] == pytest.approx((task + 1) * horizon)
        assert ends[0] >= horizon if task == 1 else ends[0] == 0.0
        assert len(problem.test) == (1 if task == 1 else 25)


def test_the_likelihood_is_that_of_the_mixture_in_standardised_units():
    """Against a sum over draws written out, for draws of known noise."""
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(30, 2, 4, 2, generator=generator, dtype=torch.float64)
    mean, std = torch.tensor([1.0, -2.0]).double(), torch.tensor([0.5, 3.0]).double()
    noise = torch.tensor([0.2, 0.9]).double().expand(30, 2)
    found = Rollouts(
        samples * std + mean,
        torch.arange(4.0).double(),
        torch.zeros(30, 2, dtype=torch.bool),
        noise_std=noise,
    )
    truth = torch.randn(2, 4, 2, generator=generator, dtype=torch.float64) * std + mean
    train = Trajectories([0.0, 1.0], torch.zeros(1, 2, 2))
    problem = Problem(train, found.times, truth, mean, std)
    scores = hgp._scores(found, problem, include_start=True)
    scaled, level = ((truth - mean) / std).numpy(), (noise[0] / std).numpy()
    density = np.exp(-0.5 * ((samples.numpy() - scaled) / level) ** 2) / level / 2.5066282746310002
    assert scores["log_likelihood"] == pytest.approx(np.log(density.mean(0)).mean())
    raw = -float(nlpd(found, truth, kind="predictive", include_start=True))
    assert scores["log_likelihood"] == pytest.approx(raw + float(std.log().mean()))
    squares = (samples.numpy().mean(0) - scaled) ** 2
    assert scores["rmse"] == pytest.approx(math.sqrt(squares.mean()))
    assert scores["coverage_90"] == pytest.approx(float(coverage(found, truth, include_start=True)))


def test_published_files_are_read_in_raw_units(tmp_path):
    folder = tmp_path / "hgp_protocol"
    folder.mkdir()
    mean, std = np.array([1.0, 2.0]), np.array([0.5, 4.0])
    raw = np.random.default_rng(0).normal(size=(1, 5, 2))
    np.savez(
        folder / "task1_simplependulum_seed7.npz",
        t_train=np.linspace(0, 1, 5),
        y_train=(raw - mean) / std,
        t_test=np.linspace(0, 2, 6),
        y_test=np.zeros((1, 6, 2)),
        test_mask=np.arange(6) >= 3,
        y_mean=mean,
        y_std=std,
        t_scale=8.0,
    )
    (run,) = hgp_runs(systems=("simple-pendulum",), seeds=(7,), data=tmp_path)
    problem = run.problem(tmp_path)
    np.testing.assert_allclose(problem.train.states[0], raw[0])
    assert problem.train.times[0].tolist() == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert problem.times.tolist() == pytest.approx([9.6, 12.8, 16.0])
    np.testing.assert_allclose(problem.test, np.broadcast_to(mean, (1, 3, 2)))
    assert read_hgp(hgp.published_file(folder, 1, "simple-pendulum", 7)).test.shape == (1, 3, 2)


def test_training_trajectories_come_before_those_for_validation(tmp_path):
    train, validation = np.full((2, 4, 2), 1.0), np.full((3, 4, 2), 2.0)
    train[:, 1], validation[:, 1] = 0.0, 0.0
    path = tmp_path / "duffing_conservative_split0.npz"
    np.savez(
        path,
        times=np.arange(4.0),
        train=train,
        validation=validation,
        test_times=np.arange(3.0),
        test=np.zeros((25, 3, 2)),
    )
    states = read_ssgp(path, 3).train.states
    assert [float(x[0, 0]) for x in states] == [1.0, 1.0, 2.0]
    with pytest.raises(ValueError, match="num_trajectories: .* has 5, of which 6"):
        ssgp_runs(systems=("duffing",), num_trajectories=(6,), seeds=(0,), data=tmp_path)
    with pytest.raises(ValueError, match="rates: duffing was published at 5 Hz, got 3"):
        ssgp_runs(systems=("duffing",), rates=(3.0,), seeds=(0,), data=tmp_path)
    with pytest.raises(ValueError, match="no file ssgp_protocol/duffing_conservative_split1"):
        ssgp_runs(systems=("duffing",), num_trajectories=(2,), seeds=(1,), data=tmp_path)
    with pytest.raises(ValueError, match="nobody has published the system bead"):
        ssgp_runs(systems=("bead",), seeds=(0,), data=tmp_path)


def test_the_published_data_are_found(sympgp_data, unsolved):
    names = [name for name in ssgp.SYSTEMS if not name.startswith(ssgp.OWN)]
    for run in ssgp_runs(systems=names, num_trajectories=(10,), data=sympgp_data):
        assert len(run.problem(sympgp_data).train) == 10
    for run in hgp_runs(tasks=(1, 2), data=sympgp_data):
        problem = run.problem(sympgp_data)
        assert len(problem.test) == (1 if run.task == 1 else 25)
        found = hgp.simulate(run.task, hgp.SYSTEMS[run.system], run.seed)
        assert found.test.shape == problem.test.shape
        # the files were written in single precision
        torch.testing.assert_close(found.times, problem.times, rtol=1e-6, atol=1e-5)
        torch.testing.assert_close(
            found.train.times[0], problem.train.times[0], rtol=1e-6, atol=1e-5
        )


# --- names


def test_names_take_options():
    assert parse("gauss-newton", ENGINES, "engine") == ("gauss-newton", {})
    engine = make_engine("gauss-newton:num_components=3,step=0.5")
    assert engine == GaussNewton(num_components=3, step=0.5)
    energy = make_model("ssgp:quadratic=False,separable=0.0", 2, 8, True, 4).energy
    assert (energy.quadratic, energy.num_half, energy.seed) == (False, 0, 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("magic", "engine: expected one of gauss-newton"),
        ("gauss-newton:num_components", "expected gauss-newton:option=value"),
        ("gauss-newton:colour=1", "'gauss-newton:colour=1' cannot be made"),
        ("gauss-newton:num_components=0", "num_components: expected a whole number"),
    ],
)
def test_other_names_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        make_engine(name)


# --- tables


def records_of(values: dict[int, list[float | None]], failed: int = 0) -> list[Record]:
    made = [
        Record({"system": "a", "size": size, "seed": seed}, {"error": value})
        for size, column in values.items()
        for seed, value in enumerate(column)
    ]
    lost = [Record({"system": "a", "size": 1, "seed": -k}, failure="no") for k in range(failed)]
    return made + lost


def test_means_and_standard_errors_are_those_of_the_books():
    values = [0.3, 0.5, 0.1, 0.7]
    (row,) = aggregate(records_of({1: [*values]}), ("system",), [Column("error", "error", 10.0)])
    estimate = row.estimates["error"]
    assert estimate is not None
    assert estimate.mean == pytest.approx(10 * statistics.mean(values))
    assert estimate.error == pytest.approx(10 * statistics.stdev(values) / 2)
    assert estimate.text() == "4.0 +- 1.3"


def test_root_mean_squares_have_the_error_of_the_delta_method():
    generator = np.random.default_rng(0)
    means = [Estimate.of(generator.normal(size=200).tolist(), rms=True) for _ in range(300)]
    assert statistics.mean(e.mean for e in means) == pytest.approx(1.0, abs=0.02)
    spread = statistics.stdev(e.mean for e in means)
    assert statistics.mean(e.error for e in means) == pytest.approx(spread, rel=0.15)


def test_groups_scores_that_do_not_apply_and_failures_are_told_apart():
    records = records_of({1: [1.0, 3.0], 2: [None, None], 3: [1.0, math.nan]}, failed=2)
    rows = aggregate(records, ("system", "size"), [Column("error", "error")])
    assert [(row.settings["size"], row.finished, row.failed) for row in rows] == [
        (1, 2, 2),
        (2, 2, 0),
        (3, 2, 0),
    ]
    lines = plain_table(rows, [Column("error", "error")]).splitlines()
    assert lines[0].split() == ["system", "size", "error", "runs"]
    assert re.split(r"\s{2,}", lines[2]) == ["a", "1", "2.0 +- 1.0", "2 (2 failed)"]
    assert re.split(r"\s{2,}", lines[3]) == ["a", "2", "-", "2"]
    assert re.split(r"\s{2,}", lines[4]) == ["a", "3", "nan", "2"]
    assert "| a | 1 | 2.0 ± 1.0 | 2 (2 failed) |" in markdown_table(
        rows, [Column("error", "error")]
    )


@pytest.mark.parametrize(
    ("mean", "error", "text"),
    [
        (0.12345, 0.0123, "0.123 +- 0.012"),
        (1234.5, 56.0, "1234 +- 56"),
        (0.5, math.nan, "0.5"),
        (0.25, 0.0, "0.25"),
        (math.nan, math.nan, "nan"),
        (2e-9, 3e-10, "2.00e-09 +- 3e-10"),
    ],
)
def test_numbers_are_shown_with_the_digits_that_mean_something(mean, error, text):
    assert Estimate(mean, error).text() == text


# --- files


def test_results_are_read_back_as_they_were_written(tmp_path):
    results = Results(tmp_path / "new" / "folder", "toy", {"seeds": (0, 1)})
    scores = {"error": math.nan, "size": math.inf, "none": None, "count": 3, "words": "a, b"}
    results.add(Record({"name": "x", "rate": 5.0}, scores, 1.25))
    results.add(Record({"name": "y", "rate": 5.0}, failure="ValueError: no"))
    again = Results(tmp_path / "new" / "folder", "toy")
    assert [record.settings for record in again.records] == [r.settings for r in results.records]
    first, second = again.records
    assert math.isnan(first.scores["error"]) and first.scores["size"] == math.inf
    assert {k: first.scores[k] for k in ("none", "count", "words")} == {
        "none": None,
        "count": 3,
        "words": "a, b",
    }
    assert second.failure == "ValueError: no" and first.source == second.source != ""
    rows = rows_of(tmp_path / "new" / "folder")
    assert [row["status"] for row in rows] == ["finished", "failed"]
    assert rows[0]["error"] == "nan" and rows[0]["none"] == "" and rows[1]["error"] == ""
    content = json.loads((tmp_path / "new" / "folder" / SUMMARY).read_text(encoding="utf-8"))
    session = content["sessions"][0]
    assert session["torch"] == torch.__version__ and session["options"] == {"seeds": [0, 1]}
    assert session["machine"] and session["sympgp"] and session["python"]


def test_a_folder_of_something_else_is_refused(tmp_path):
    results = Results(tmp_path, "toy")
    results.add(Record({"name": "x"}))
    with pytest.raises(ValueError, match="not the record of a ssgp benchmark .*protocol toy"):
        Results(tmp_path, "ssgp")
    (tmp_path / SUMMARY).write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="not the record of a toy benchmark"):
        Results(tmp_path, "toy")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="out: cannot use the folder"):
        Results(tmp_path / "file", "toy")


# --- processes


def test_runs_in_turn_record_failures_and_go_on():
    done = dict(do_runs([Toy("fails"), Toy("works", 2)]))
    failure = done[Toy("fails")].failure
    assert re.fullmatch(r"ValueError: no such luck \(toy_runs\.py:\d+\)", failure)
    assert done[Toy("fails")].scores == {}
    assert done[Toy("works", 2)].scores["error"] == 3.0
    assert done[Toy("works", 2)].settings == {"name": "works", "seed": 2}


@pytest.mark.slow
def test_a_process_that_dies_is_a_failed_run_and_no_other_is_lost():
    runs = [Toy("works", 1), Toy("fails"), Toy("dies")]
    before = dict(os.environ)
    done = dict(do_runs(runs, jobs=2))
    assert set(done) == set(runs) and dict(os.environ) == before
    assert "ended unexpectedly (exit code -9)" in done[Toy("dies")].failure
    assert "no such luck" in done[Toy("fails")].failure
    assert done[Toy("works", 1)].scores == {"error": 1.5, "threads": 1}


def test_no_jobs_are_refused():
    with pytest.raises(ValueError, match="jobs: expected at least 1, got 0"):
        do_runs([], jobs=0)


# --- the command line


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[Path, Result]:
    """A small table of two seeds, and what was printed."""
    folder = tmp_path_factory.mktemp("bench") / "out"
    arguments = ("--systems", "pendulum-friction", "--seeds", "0,1", "--out", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssgp, "TESTS", 3)
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it: quicker
        return folder, sympgp("bench", "ssgp", *SMALL, *arguments)


def test_the_table_is_that_of_the_runs(small):
    folder, printed = small
    assert printed.exit_code == 0, printed.output
    rows = rows_of(folder)
    assert [row["seed"] for row in rows] == ["0", "1"]
    lines = printed.stdout.splitlines()
    head, line = re.split(r"\s{2,}", lines[0]), re.split(r"\s{2,}", lines[2])
    shown = dict(zip(head, line, strict=True))
    assert shown["runs"] == "2" and shown["system"] == "pendulum-friction"
    for title, key, scale in (
        ("trajectory MSE", "trajectory_mse", 1.0),
        ("90% band", "coverage_90", 1.0),
        ("friction MSE x 10^3", "friction_mse", 1e3),
    ):
        values = [scale * float(row[key]) for row in rows]
        mean, error = statistics.mean(values), statistics.stdev(values) / math.sqrt(2)
        assert shown[title] == Estimate(mean, error).text()
    for row in rows:
        off = float(row["friction"]) - 0.05
        assert float(row["friction_mse"]) == pytest.approx(off**2)
        assert float(row["friction_z"]) == pytest.approx(off / float(row["friction_std"]))
    assert "2 of 2 runs in" in printed.stdout and "num trajectories 2, rate 3" in printed.stdout
    assert re.search(r"\[2/2\] pendulum-friction, 2 trajectories at 3 Hz", printed.stderr)


def test_a_repeated_command_does_only_what_is_missing(small, monkeypatch):
    folder, _ = small
    before = rows_of(folder)
    asked = []

    def score(run, data):
        asked.append(run.seed)
        raise ValueError("not now")

    monkeypatch.setattr(ssgp.SSGPRun, "score", score)
    arguments = ("--systems", "pendulum-friction", "--out", folder)
    printed = sympgp("bench", "ssgp", *SMALL, *arguments, "--seeds", "0-2", "--markdown")
    assert printed.exit_code == 0, printed.output
    assert asked == [2] and rows_of(folder)[:2] == before
    assert "2 of 3 runs are in" in printed.stderr and "| 2 (1 failed) |" in printed.stdout
    assert re.search(r"Failed: system pendulum-friction.*seed 2.*not now", printed.stderr)
    again = sympgp("bench", "ssgp", *SMALL, *arguments, "--seeds", "0-2", "--quiet")
    assert asked == [2] and again.exit_code == 0
    sympgp("bench", "ssgp", *SMALL, *arguments, "--seeds", "0-2", "--retry")
    assert asked == [2, 2]


def test_an_interrupt_keeps_what_was_finished(tmp_path, monkeypatch):
    def score(run, data):
        if run.seed:
            raise KeyboardInterrupt
        return {"trajectory_mse": 0.5, "problems": ""}

    monkeypatch.setattr(ssgp.SSGPRun, "score", score)
    arguments = ("--systems", "pendulum", "--seeds", "0-5", "--out", tmp_path)
    printed = sympgp("bench", "ssgp", *arguments)
    assert printed.exit_code == 130 and "Stopped: the same command goes on" in printed.stderr
    assert "1 of 6 runs in" in printed.stdout and len(rows_of(tmp_path)) == 1
    assert "Traceback" not in printed.output


def test_the_second_protocol_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.setattr(hgp, "TEST", 2)
    monkeypatch.setattr(hgp, "TRAIN", 3)
    arguments = ("--systems", "simple-pendulum", "--task", "1,2", "--seeds", "1")
    engine = "gauss-newton:num_components=1,hyperparameter_rounds=1"
    small = ("--features", "6", "--draws", "5", "--engine", engine)
    printed = sympgp("bench", "hgp", *arguments, *small, "--out", tmp_path)
    assert printed.exit_code == 0, printed.output
    rows = rows_of(tmp_path)
    assert [row["task"] for row in rows] == ["1", "2"]
    assert all(0 < float(row["rmse"]) < 1 for row in rows)
    assert "log likelihood" in printed.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ssgp", "--systems", "planet"), "systems: expected some of pendulum, .* got 'planet'"),
        (("ssgp", "--engine", "magic"), "engine: expected one of gauss-newton"),
        (("ssgp", "--model", "ssgp:colour=1"), "model: 'ssgp:colour=1' cannot be made"),
        (("ssgp", "--seeds", "a"), "expected numbers such as 0-9 or 0,3, got 'a'"),
        (("ssgp", "--rate", "0-3"), "expected numbers such as 3,5,10, got '0-3'"),
        (("ssgp", "--num-trajectories", "0"), "num_trajectories: expected at least 1, got 0"),
        (("ssgp", "--rate", "0"), "rates: expected at least 0.1 Hz, got 0"),
        (("hgp", "--task", "3"), "tasks: expected 1 or 2, got 3"),
        (("hgp", "--data", "."), "has no file hgp_protocol/task1_simplependulum_seed1.npz"),
        (("calibration", "--rate", "0.1"), "expected at least four intervals"),
    ],
)
def test_slips_are_found_before_anything_is_computed(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = sympgp("bench", *arguments)
    assert printed.exit_code == 2 and re.search(message, printed.stderr), printed.output
    assert not list(tmp_path.iterdir())


def test_the_help_names_what_there_is():
    words = re.sub(r"\s+", " ", bench_command.SSGP_HELP)
    assert all(name in words for name in (*ssgp.KINDS, ssgp.DAMPED, ssgp.COUNTERFACTUAL))
    assert all(name in bench_command.HGP_HELP for name in hgp.SYSTEMS)
    printed = sympgp("bench", "--help").output
    assert all(name in printed for name in ("ssgp", "hgp", "calibration"))
    assert set(MODELS) >= {"ssgp"} and set(ENGINES) >= {"gauss-newton"}


def test_the_examples_of_the_help_are_commands():
    """Each one parses; nothing is run."""
    for name, command in bench_command.bench.commands.items():
        lines = re.findall(rf"^  sympgp bench {name} (.*)$", command.epilog, re.MULTILINE)
        assert lines and all(
            isinstance(p, click.Argument) or p.help  # type: ignore[attr-defined]
            for p in command.params
        )
        for line in lines:
            options = {o for p in command.params for o in p.opts}
            used = {word for word in line.split() if re.fullmatch(r"--?[a-z][a-z0-9-]*", word)}
            assert used <= options, line


@pytest.mark.slow
def test_ctrl_c_ends_all_processes_and_keeps_the_results(tmp_path):
    command = [sys.executable, "-m", "sympgp", "bench", "ssgp", "--systems", "pendulum", *SMALL]
    command += ["--seeds", "0-500", "--jobs", "2", "--out", str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        for _ in range(3):
            assert process.stderr is not None and "trajectory MSE" in process.stderr.readline()
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "Stopped" in err
    assert "Traceback" not in err and "leaked" not in err
    assert "of 501 runs in" in out and 3 <= len(rows_of(tmp_path)) < 100
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.killpg(process.pid, 0)
            time.sleep(0.1)

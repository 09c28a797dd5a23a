"""The benchmark of speed: what is timed is what it says, the arithmetic, the files, the command."""

import csv
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jaxtyping
import matplotlib.pyplot as plt
import pytest
import torch
from click.testing import CliRunner, Result

import sympgp as sg
from sympgp.benchmarks import (
    speed,
    speed_accelerator,
    speed_field,
    speed_fits,
    speed_problems,
    speed_process,
    speed_scaling,
)
from sympgp.benchmarks.fused import FusedSpeed
from sympgp.benchmarks.speed_plot import plot_speed
from sympgp.benchmarks.speed_record import (
    COLUMNS,
    MACHINE,
    Aim,
    Measurement,
    duration,
    fits_and_stages,
    series,
    slope,
    stage_table,
    table,
    write_csv,
)
from sympgp.benchmarks.speed_session import AXES, SIZES, TINY, Growth, Session
from sympgp.cli import bench_speed
from sympgp.cli.program import cli


def sympgp(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is compiled, and shapes are not checked, which would double the times."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.setenv("SYMPGP_COMPILE", "0")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- arithmetic


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.5])
def test_the_slope_is_that_of_a_power_law(exponent: float):
    sizes = [3, 7, 20, 100]
    assert slope(sizes, [0.3 * n**exponent for n in sizes]) == pytest.approx(exponent, abs=1e-12)


def test_the_slope_is_least_squares_on_log_log_axes():
    sizes, seconds = [1, 2, 4, 8, 16], [1.0, 2.5, 3.0, 9.0, 20.0]
    x = torch.tensor(sizes).log().double()
    y = torch.tensor(seconds, dtype=torch.float64).log()
    design = torch.stack([torch.ones_like(x), x], 1)
    expected = torch.linalg.lstsq(design, y.unsqueeze(1)).solution[1]
    assert slope(sizes, seconds) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(
    ("sizes", "seconds"), [([1, 2], [1.0]), ([2, 2], [1.0, 1.1]), ([1, 2], [0.0, 1.0])]
)
def test_a_slope_needs_two_sizes(sizes: list[float], seconds: list[float]):
    with pytest.raises(ValueError, match="expected"):
        slope(sizes, seconds)


def test_ratio_rate_and_durations():
    one = Measurement("field", "it", seconds=0.5, floor=0.25, amount=10, unit="points")
    assert one.ratio == 2.0 and one.rate == 20.0
    assert Measurement("field", "it", seconds=0.5).ratio is None
    assert [duration(x) for x in (None, 2.0, 0.0123, 4.5e-6)] == ["", "2 s", "12.3 ms", "4.5 us"]
    assert Aim("seconds", 3.0).text() == "seconds <= 3 s"
    assert Aim("memory_gib", 2.0).text() == "memory <= 2 GiB"


def test_actions_take_turns_and_medians_are_theirs(monkeypatch: pytest.MonkeyPatch):
    now, order = [0.0], []
    monkeypatch.setattr(
        "sympgp.benchmarks.speed_session.time", SimpleNamespace(perf_counter=lambda: now[0])
    )

    def action(name: str, lasts: list[float]) -> Callable[[], None]:
        left = iter(lasts)

        def run() -> None:
            order.append(name)
            now[0] += next(left)

        return run

    actions = {"a": action("a", [9.0, 1.0, 5.0, 2.0]), "b": action("b", [9.0, 4.0, 4.0, 7.0])}
    found = Session(TINY, repeats=3).time(actions, warm=True)
    # the budget of one second ends after the first repeat, which is always made
    assert order == ["a", "b", "a", "b"] and found.repeats == 1
    assert found.seconds == {"a": 1.0, "b": 4.0}
    order.clear()
    free = Session(SIZES["full"], repeats=3)
    actions = {"a": action("a", [1.0, 5.0, 2.0]), "b": action("b", [4.0, 4.0, 7.0])}
    found = free.time(actions, warm=False)
    assert order == ["a", "b"] * 3 and found.repeats == 3
    assert found.seconds == {"a": 2.0, "b": 4.0}


def test_a_stage_lasts_until_the_next_one():
    now = [10.0]
    clock = speed_fits.StageClock(lambda: now[0])
    for after, stage, objective in (
        (5.0, "smoothing the data", None),
        (1.0, "fitting", None),
        (2.0, "fitting", 3.4),
        (4.0, "component 1 of 2", None),
        (8.0, "component 2 of 2", 1.0),
    ):
        now[0] += after
        clock(stage, objective)
    now[0] += 16.0
    clock.stop()
    assert dict(clock.seconds) == {"smoothing the data": 1.0, "fitting": 6.0, "components": 24.0}


def test_a_case_has_one_size_of_its_own():
    assert Growth("features", (3, 5, 1, 2), (10, 20)).cases() == [(3, 5, 10, 2), (3, 5, 20, 2)]
    for sizes in SIZES.values():
        assert [growth.axis for growth in sizes.growth] == list(AXES)
        assert all(list(g.sizes) == sorted(set(g.sizes)) for g in sizes.growth)
    largest = SIZES["full"].growth[0]
    assert largest.cases()[-1] == (10_000, 100, 250, 1) and largest.own


# --- what is timed


def test_the_floors_are_the_products_and_waves_of_the_field():
    field = speed_problems.fourier_field(1, 6)
    omega = speed_problems.fourier_basis(field).frequencies
    z = torch.randn(9, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = {name: action() for name, action in speed_field.floors(omega, z).items()}
    torch.testing.assert_close(found[speed_field.GEMMS], z @ omega.mT @ omega)
    # eager torch evaluates the gradient of sum_m -cos(omega_m . z)
    x = z.clone().requires_grad_()
    (expected,) = torch.autograd.grad(-(x @ omega.mT).cos().sum(), x)
    torch.testing.assert_close(found[speed_field.EAGER], expected)


def test_the_start_of_the_problem_is_near_its_solution():
    problem, estimate = speed_problems.shooting_problem((3, 30, 8, 2))
    field, z = problem.field, problem.nodes.values[:5]
    weights = speed_problems.harmonic_weights(field)
    rate = field.bind(weights)(0.0, z)
    torch.testing.assert_close(rate, torch.cat([z[:, 2:], -z[:, :2]], 1))
    path, _, _ = problem.evaluate(estimate)
    off = (path - problem.nodes.values[problem.windows.nodes]).square().mean().sqrt()
    assert float(off) < 6 * speed_problems.NOISE
    counts = ((problem.nodes.dt / problem.step) - 1e-9).ceil()
    assert bool((counts[problem.nodes.dt > 0] == 1).all())


def test_an_iteration_lasts_from_one_accepted_step_to_the_next(monkeypatch: pytest.MonkeyPatch):
    times = iter([0.0, 2.0, 5.0, 9.0, 14.0])
    monkeypatch.setattr(speed_scaling, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    found = speed_scaling.iteration_seconds((2, 6, 4, 1), repeats=4, budget=math.inf)
    assert found == [2.0, 3.0, 4.0, 5.0]
    times = iter([0.0, 2.0, 5.0, 9.0, 14.0])
    assert speed_scaling.iteration_seconds((2, 6, 4, 1), repeats=4, budget=4.0) == [2.0, 3.0]


def test_the_size_of_the_product():
    case = (4, 6, 5, 2)
    problem, estimate = speed_problems.shooting_problem(case)
    assert speed_scaling.num_columns(case) == problem.field.num_parameters + 1
    columns, dim, rows = len(estimate.theta) + 1, 4, 4 * 6
    assert speed_scaling.gemm_operations(case) == 2 * rows * dim * columns**2


def test_peak_memory_and_failures_in_a_process_of_its_own():
    here = speed_process.peak_memory()
    kept = torch.ones(4_000_000, dtype=torch.float64)
    assert speed_process.peak_memory() >= here > 0.01 and float(kept[0]) == 1.0


@pytest.mark.slow
def test_a_process_of_its_own_counts_its_own_memory():
    kept = torch.ones(100_000_000)  # 0.4 GiB that the other process does not have
    case = (2, 6, 4, 1)
    found, memory = speed_process.in_own_process(
        speed_scaling.time_case, case, 1, math.inf, threads=1
    )
    assert found.repeats == 1 and found.iteration > 0
    assert 0.05 < memory < speed_process.peak_memory() and float(kept[0]) == 1.0
    with pytest.raises(RuntimeError, match="gemm_rate: RuntimeError: .*nowhere"):
        speed_process.in_own_process(speed_scaling.gemm_rate, 1, "nowhere", threads=1)


def nothing() -> None:
    """A function for a process of its own."""


def test_memory_is_unknown_where_nothing_counts_it(monkeypatch, tmp_path):
    monkeypatch.setattr(speed_process, "STATUS", tmp_path / "none")
    monkeypatch.setitem(sys.modules, "resource", None)
    assert math.isnan(speed_process.peak_memory())
    received: list[Any] = []
    pipe = SimpleNamespace(send=received.append, close=lambda: None)
    speed_process._serve(pipe, nothing, (), torch.get_num_threads())
    assert received[0][0] is None and math.isnan(received[0][1])


def test_a_field_that_could_not_be_compiled_is_no_compiled_one(monkeypatch):
    """Not even at the second time, when nothing is said."""

    def broken(function, **options):
        raise RuntimeError("no luck")

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(speed_field, "at_hand", lambda kind: True)
    monkeypatch.setattr(speed_field, "asked", lambda: None)
    monkeypatch.setattr(speed_field.compiled_pass, "failed", set())
    monkeypatch.setattr(speed_field.compiled_pass, "_ready", {})
    field = speed_problems.fourier_field(1, 4)
    bound = field.bind(speed_problems.random_weights(field))
    z = torch.zeros(3, 2, dtype=torch.float64)
    assert [speed_field.compiled(bound, z) for _ in range(2)] == [None, None]


# --- files and pictures

SOME = [
    Measurement("field", "field", "9 points", 0.2, 0.1, "GEMMs", Aim("ratio", 1.5), 9, "points"),
    Measurement("fits", "duffing", "5 trajectories", 2.0, aim=Aim("seconds", 3.0)),
    Measurement("stages", "duffing: fitting", "5 trajectories", 1.2),
    Measurement("stages", "duffing: components", "5 trajectories", 0.8),
    *(
        Measurement("scaling", what, "", 0.1 * n * k, 0.05 * n, axis="features", value=n)
        for n in (10, 20)
        for k, what in ((2, speed_scaling.ITERATION), (1, speed_scaling.PRODUCT))
    ),
    Measurement("slopes", "iteration against features", slope=1.0, aim=Aim("slope", 1.05)),
    Measurement("scaling", "memory", memory_gib=0.5, axis="features", value=20.0),
]


def test_the_file_has_a_row_for_every_figure(tmp_path: Path):
    machine = {"threads": 2, "machine": "a, b", "torch": "2", "sympgp": "0"}
    write_csv(SOME, machine, tmp_path / "speed.csv")
    found = rows_of(tmp_path / "speed.csv")
    assert list(found[0]) == [*COLUMNS, *MACHINE] and len(found) == len(SOME)
    first = found[0]
    assert (first["seconds"], first["floor"], first["ratio"], first["aim"], first["rate"]) == (
        *("0.2", "0.1", "2", "ratio <= 1.5x", "45"),
    )
    assert found[-1]["memory_gib"] == "0.5" and found[-1]["seconds"] == ""
    assert {row["machine"] for row in found} == {"a, b"}
    assert [path.name for path in tmp_path.iterdir()] == ["speed.csv"]


def test_tables_leave_out_what_no_row_has():
    assert table(SOME[:1]) == [
        ["what", "size", "time", "floor", "ratio", "floor is", "a second", "aim"],
        ["field", "9 points", "200 ms", "100 ms", "2x", "GEMMs", "45 points", "ratio <= 1.5x"],
    ]
    assert stage_table(SOME[2:4]) == [
        ["fit", "fitting", "components"],
        ["duffing", "1.2 s", "800 ms"],
    ]
    more = [Measurement("stages", f"b: {kind}", "", 1.0) for kind in ("fitting", "x", "components")]
    assert fits_and_stages([*SOME[2:4], *more]) == (
        ["duffing", "b"],
        ["fitting", "x", "components"],
    )
    assert [m.value for m in series(SOME[::-1], "features", speed_scaling.PRODUCT)] == [10, 20]


def test_the_picture_shows_ratios_stages_and_slopes():
    axes = plot_speed(SOME, "some machine")
    assert len(axes) == 3
    ratios, stages, growth = axes
    assert [label.get_text() for label in ratios.get_yticklabels()] == ["field\nover GEMMs"]
    assert [text.get_text() for text in ratios.texts] == ["2x"]
    assert [bar.get_width() for bar in stages.patches] == pytest.approx([0.4, 0.8 / 3])
    assert [text.get_text() for text in stages.texts] == ["2 s (aim 3 s)"]
    assert [text.get_text() for text in growth.texts] == ["slope 1.00"] * 2
    assert growth.get_xlabel() == "features" and growth.get_xscale() == "log"
    assert ratios.figure.get_suptitle() == "some machine"
    assert len(plot_speed(SOME[:1])) == 1 and len(plot_speed(SOME[4:8])) == 1
    plt.close("all")
    with pytest.raises(ValueError, match="measurements: expected some"):
        plot_speed(SOME[1:2])


# --- the whole benchmark, and the command


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imports of small modules in place of large ones, and nothing drawn from large fits."""
    monkeypatch.setattr(speed_fits, "OURS", ("import json",))
    monkeypatch.setattr(speed_fits, "THEIRS", "import csv")


@pytest.mark.slow
@pytest.mark.usefixtures("light")
def test_a_tiny_run_measures_every_part(tmp_path: Path):
    threads = torch.get_num_threads()
    said = sympgp(
        *("bench", "speed", "--size", "tiny", "--repeats", 1, "--threads", 1, "--device", "cpu"),
        *("--out", tmp_path),
    )
    assert said.exit_code == 0, said.output
    found = rows_of(tmp_path / bench_speed.CSV)
    parts = {row["part"] for row in found}
    assert parts == set(bench_speed.TITLES) - {"accelerator"}
    assert "accelerator: left out" in said.stdout and "1 thread, torch" in said.stdout
    assert all(float(row["seconds"]) > 0 for row in found if row["seconds"])
    assert {row["threads"] for row in found} == {"1"} and {row["aim"] for row in found} == {""}
    stages = [row["what"] for row in found if row["part"] == "stages"]
    assert {name.partition(": ")[0] for name in stages} == {
        "pendulum-friction",
        "HGP task 1, simple-pendulum",
        "many pendulums",
    }
    assert any(name.endswith(": smoothing the data") for name in stages)
    fits = {row["what"]: float(row["seconds"]) for row in found if row["part"] == "fits"}
    for name, seconds in fits.items():
        own = [float(row["seconds"]) for row in found if row["what"].startswith(f"{name}: ")]
        assert sum(own) == pytest.approx(seconds, rel=0.05)
    for axis, growth in zip(AXES, TINY.growth, strict=True):
        values = [row for row in found if row["part"] == "scaling" and row["axis"] == axis]
        assert [float(row["value"]) for row in values] == [n for n in growth.sizes for _ in "ab"]
        assert len([r for r in found if r["part"] == "slopes" and r["axis"] == axis]) == 2
    assert (tmp_path / bench_speed.PICTURE).stat().st_size > 10_000
    assert torch.get_num_threads() == threads


def test_an_aim_is_beside_what_it_is_of():
    aims = {name: Session(SIZES[name]).aim("ratio", 1.5) for name in ("tiny", "standard", "full")}
    assert aims == {"tiny": None, "standard": Aim("ratio", 1.5), "full": Aim("ratio", 1.5)}
    session = Session(SIZES["full"])
    times = speed_scaling.CaseTimes(3.0, 1.5, 0.5, 5)
    case = (10_000, 100, 250, 1)
    done, product, peak = speed_scaling.rows(session, AXES[0], case, 10_000, times, 1.5, True)
    assert (done.ratio, product.ratio, peak.memory_gib) == (2.0, 3.0, 1.5)
    texts = [one.aim.text() for one in (done, product, peak) if one.aim]
    assert texts == ["ratio <= 3x", "ratio <= 2x", "memory <= 2 GiB"]
    assert done.rate == pytest.approx(1e6 / 3)


def test_parts_are_those_of_the_benchmark_and_errors_name_them(tmp_path: Path):
    assert bench_speed.PARTS == tuple(speed.PARTS)
    said = sympgp("bench", "speed", "--parts", "field,x", "--out", tmp_path)
    assert said.exit_code == 2 and "expected some of field, rollouts" in said.output
    said = sympgp("bench", "speed", "--device", "nowhere", "--out", tmp_path)
    assert said.exit_code == 2 and "--device: 'nowhere' cannot be used here" in said.output
    with pytest.raises(ValueError, match="parts: expected some of"):
        speed.measure_speed(Session(TINY), ("x",))


def test_an_import_is_timed_in_a_fresh_process():
    assert 0 < speed_fits.import_seconds("import json") < 30
    assert "sympgp" in sys.modules and sg.__version__


def test_what_was_measured_before_an_interrupt_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupt(session: Session) -> None:
        raise KeyboardInterrupt

    def measure(session: Session) -> None:
        session.add(SOME[0])

    monkeypatch.setattr(speed, "PARTS", {"field": measure, "rollouts": interrupt})
    said = sympgp("bench", "speed", "--parts", "field,rollouts", "--out", tmp_path)
    assert said.exit_code == 130 and len(rows_of(tmp_path / bench_speed.CSV)) == 1


# --- accelerators


def test_without_an_accelerator_one_line_says_so():
    session = Session(TINY)
    speed_accelerator.measure_accelerator(session)
    assert session.notes == [speed_accelerator.NONE] and session.measurements == []


def test_an_accelerator_is_compared_with_the_cpu(monkeypatch: pytest.MonkeyPatch):
    made_up = FusedSpeed(sines=1e6, sine_rate=1e7, fused=0.25, eager=5.0, error=0.0)
    monkeypatch.setattr(speed_accelerator.fused, "available", lambda device: True)
    monkeypatch.setattr(speed_accelerator, "fused_speed", lambda *_, **how: made_up)
    session = Session(TINY, repeats=1, accelerator=torch.device("cpu"))
    speed_accelerator.measure_accelerator(session)
    field, limit, steps, iteration = session.measurements
    assert (limit.ratio, steps.ratio) == (2.5, 0.05)
    assert limit.rate == pytest.approx(100 / 0.25) and limit.floor_of == "their sines alone"
    assert field.ratio > 0 and iteration.ratio > 0 and session.notes == []
    monkeypatch.setattr(speed_accelerator.fused, "available", lambda device: False)
    speed_accelerator.measure_accelerator(session)
    assert session.notes == [speed_accelerator.NO_KERNEL] and len(session.measurements) == 6

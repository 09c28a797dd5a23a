"""The examples of README.md: they run as they stand, and what they show is what users see."""

import re
import warnings
from pathlib import Path

import jaxtyping
import matplotlib.pyplot as plt
import pytest
from click.testing import CliRunner

import sympgp as sg
import sympgp.dissipation
import sympgp.integrators
from sympgp.cli.program import cli
from sympgp.comparison import ComparisonWarning

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", README, re.MULTILINE | re.DOTALL)


def labels(text: str) -> list[str]:
    """What the lines of a summary are about, without their numbers."""
    found = [line for line in text.splitlines() if re.match(r"  \w", line)]
    return [re.split(r"[:\d]", line)[0].strip() for line in found]


class Reader:
    """Runs the Python of the README in a folder, example after example, in one namespace."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: dict[str, object] = {}

    def run(self, examples: range) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.path)
            # as readers run it: checks of shapes, which other tests make, would double the time
            patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
            for number in examples:
                block = blocks("python")[number]
                code = compile(block, f"README.md, Python example {number}", "exec")
                exec(code, self.names)
        plt.close("all")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """Someone who has run the examples up to the comparison, which takes as long as these do."""
    reader = Reader(tmp_path_factory.mktemp("readme"))
    reader.run(range(6))
    return reader


@pytest.fixture(scope="module")
def folder(reader: Reader) -> Path:
    """The folder in which the README's Python has been run."""
    return reader.path


@pytest.mark.slow
def test_the_example_of_a_comparison_runs(reader: Reader):
    with warnings.catch_warnings():
        # one observation of some hundred whose density is doubtful is worth a warning, no more
        warnings.simplefilter("ignore", ComparisonWarning)
        reader.run(range(7, 8))
    assert reader.names["table"].index[0] == "friction"


@pytest.mark.slow
def test_a_network_in_its_place(reader: Reader):
    reader.run(range(6, 7))
    friction = reader.names["network"].dissipation()
    assert abs(float(friction.mean) - 0.1) < 4 * float(friction.stddev)
    assert reader.names["ahead"].samples.shape[1:] == (1, 201, 2)


@pytest.mark.slow
def test_a_driven_system_is_found(reader: Reader):
    reader.run(range(8, 9))
    gain = reader.names["arm"].input_matrix([[0.0, 0.0]])
    assert gain.mean.shape == (1, 2, 1) and float(gain.mean[0, 0, 0]) == 0.0
    assert abs(float(gain.mean[0, 1, 0]) - 1.0) < 4 * float(gain.stddev[0, 1, 0]) < 0.2


@pytest.mark.slow
def test_known_physics_and_positions_alone(reader: Reader):
    reader.run(range(9, 12))
    k = reader.names["known"].parameters()["k"]
    assert abs(float(k.mean) - 3.0) < 4 * float(k.stddev)
    assert "physics" in reader.names["known"].summary()
    assert "k[0]" in reader.names["lengths"].parameters()
    assert abs(float(reader.names["watched"].noise_std[0]) - 0.05) < 0.02
    assert reader.names["long"].solver_error is not None


def test_the_tables_of_dissipations_and_integrators_have_all_of_them():
    section = README.split("## Real systems")[1].split("\n## ")[0]
    for module, kind in ((sg.dissipation, "Dissipation"), (sg.integrators, "Integrator")):
        base = getattr(module, kind)
        found = [v for name in sg.__all__ if isinstance(v := getattr(sg, name), type)]
        named = [v.__name__ for v in found if issubclass(v, base)]
        assert named and all(f"{name}(" in section for name in named)
    for row in re.findall(r"^\| (`\w+\(.*)\|$", section, re.MULTILINE):
        methods, orders, symplectic, *_ = (cell.strip() for cell in row.split("|"))
        for name, order in zip(re.findall(r"`(\w+)\(", methods), orders.split(", "), strict=True):
            kind = getattr(sg, name)
            assert kind.order == int(order) and kind.symplectic == (symplectic == "yes")


def test_the_python_examples_run(folder: Path):
    assert len(blocks("python")) == 12
    written = {"data.csv", "new.csv", "fit.pt", "ahead.png"}
    assert {path.name for path in folder.iterdir()} >= written
    friction = sg.load(folder / "fit.pt").dissipation()
    assert abs(float(friction.mean) - 0.1) < 4 * float(friction.stddev)


def test_the_file_shown_is_the_one_written(folder: Path):
    shown = next(block for block in blocks("text") if block.startswith("trajectory,"))
    lines = (folder / "data.csv").read_text(encoding="utf-8").splitlines()
    assert shown.splitlines()[:-1] == lines[:5]


def test_the_summary_shown_has_the_lines_of_a_real_one(folder: Path):
    shown = next(block for block in blocks("text") if block.startswith("Posterior of"))
    assert labels(shown) == labels(sg.load(folder / "fit.pt").summary())
    assert len(labels(shown)) > 5
    verdict = "Verdict: the structure fits: what is left over looks like independent noise."
    assert verdict in shown and verdict in sg.load(folder / "fit.pt").summary()


def test_the_tables_name_what_there_is():
    """Every system, every reader and every writer."""
    named = set(re.findall(r"`(\w+)`", README.split("## Systems to try")[1].split("## ")[0]))
    assert {name for name in sg.systems.__all__ if name[0].isupper()} - {"System"} <= named
    calls = re.findall(r"`(?:Trajectories|data)\.((?:from|to)_\w+)`", README)
    assert len(calls) == 11 and all(hasattr(sg.Trajectories, call) for call in calls)


def test_the_commands_run(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    commands = [line for block in blocks("console") for line in block.splitlines()]
    assert len(commands) == 7
    for command in commands:
        program, *arguments = command.removeprefix("$ ").split()
        if arguments[0] == "fit":
            arguments += ["--features", "20"]  # quicker; the fit above has as many as it says
        done = CliRunner().invoke(cli, arguments)
        assert program == "sympgp" and done.exit_code == 0, f"{command}\n{done.output}"
        for output in re.findall(r"(?:-o|--plot) (\S+)", command):
            assert (folder / output).stat().st_size > 0


def test_links_lead_to_files_and_headings():
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    for link in links:
        if link.startswith("#"):
            assert link[1:] in anchors
        elif not link.startswith("http"):
            assert (Path(__file__).parent.parent / link).exists()

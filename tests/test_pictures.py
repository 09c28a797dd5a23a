"""Every picture looks as it did when somebody last looked at it.

Each is drawn small from synthetic posteriors and compared with the file of its name in
``tests/pictures``. After a change that is meant, write the files anew and look at them:

    SYMPGP_UPDATE_PICTURES=1 pytest tests/test_pictures.py

The comparison holds for the matplotlib that drew the files, which they name themselves; its
version is pinned in constraints.txt. With another one the tests are skipped.
"""

import os
from pathlib import Path

import matplotlib
import matplotlib.ft2font
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from known import KnownResiduals, honest, make_rollouts, pendulum, white
from matplotlib.testing.compare import compare_images
from PIL import Image

from sympgp import plots
from sympgp.plots import style

FOLDER = Path(__file__).parent / "pictures"
UPDATE = os.environ.get("SYMPGP_UPDATE_PICTURES", "") not in ("", "0")

# Root of the mean squared difference of 8-bit colours. Rounding in the numbers drawn makes less
# than 0.1; a line wider by a quarter, or the shade of a band a fifth lighter, 1 to 3.
TOLERANCE = 0.6

# What the files depend on: the minor release of matplotlib and the library that draws its letters.
MADE_WITH = (
    f"matplotlib {'.'.join(matplotlib.__version__.split('.')[:2])}, "
    f"FreeType {matplotlib.ft2font.__freetype_version__}"
)

# matplotlib's defaults whatever the user prefers, with its own fonts.
LOOK = {key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"} | {
    "font.family": "DejaVu Sans",
    "text.hinting": "no_hinting",
    "figure.dpi": 60,
    "savefig.dpi": 60,
}


PENDULUM, TWO = pendulum(), pendulum(2)
ROLLOUTS, MANY = make_rollouts(PENDULUM), make_rollouts(TWO)
SCORED = honest(num_trajectories=20, num_times=12)


def draw_bands():
    truth = ROLLOUTS.samples[3]
    return plots.bands(ROLLOUTS, PENDULUM.data, truth=truth, forecast_start=4.0)


def draw_energy():
    return plots.energy(ROLLOUTS, truth=torch.full((33,), -0.5, dtype=torch.float64))


def draw_phase_portrait():
    return plots.phase_portrait(PENDULUM, rollouts=ROLLOUTS)


def draw_vector_field():
    return plots.vector_field(PENDULUM)


def draw_hamiltonian():
    return plots.hamiltonian(PENDULUM)


def draw_potential():
    return plots.hamiltonian(TWO, coordinates=("q1", "q2"), at={"p1": 0.0, "p2": 0.0})


def draw_residuals():
    return plots.residuals(KnownResiduals(white()))


def draw_calibration():
    return plots.calibration(*SCORED)


def draw_calibration_of_channels():
    return plots.calibration(*SCORED, kind="predictive", per_channel=True)


def draw_small_multiples():
    return plots.small_multiples(MANY, TWO.data, truth=MANY.samples[3])


def draw_pairs():
    return plots.pairs(MANY, TWO.data, truth=MANY.samples[3])


def draw_section():
    rollouts = make_rollouts(TWO, stop=60.0, num_times=601)
    return plots.section(rollouts, truth=rollouts.samples[0])


def draw_given_axes():
    """Several pictures in a figure of the caller's."""
    _, axes = plt.subplots(2, 3, figsize=(10.5, 6), layout="constrained")
    plots.phase_portrait(TWO, ax=axes[0, 0])
    plots.hamiltonian(TWO, ax=axes[0, 1:])
    plots.calibration(*SCORED, axes[1, 0])
    plots.small_multiples(ROLLOUTS, PENDULUM.data, axes[1, 1:], trajectories=[0])
    return axes


PICTURES = {
    "bands": draw_bands,
    "calibration": draw_calibration,
    "calibration-channels": draw_calibration_of_channels,
    "energy": draw_energy,
    "given-axes": draw_given_axes,
    "hamiltonian": draw_hamiltonian,
    "pairs": draw_pairs,
    "phase-portrait": draw_phase_portrait,
    "potential": draw_potential,
    "residuals": draw_residuals,
    "section": draw_section,
    "small-multiples": draw_small_multiples,
    "vector-field": draw_vector_field,
}


def write(name: str, path: Path) -> Path:
    """Draw a picture into a file."""
    plt.close("all")
    with matplotlib.rc_context(LOOK):
        axes = PICTURES[name]()
        figure = np.asarray(axes, dtype=object).flat[0].figure
        figure.savefig(path, metadata={"Software": MADE_WITH})
    plt.close("all")
    return path


def difference(name: str, drawn: Path) -> str | None:
    """What differs from the file of a picture, None where nothing does that one could see."""
    known = FOLDER / f"{name}.png"
    with Image.open(known) as image:
        made_with = image.text["Software"]
    if made_with != MADE_WITH:
        pytest.skip(f"the pictures are drawn by {made_with}, this is {MADE_WITH}")
    return compare_images(str(known), str(drawn), TOLERANCE)


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_look_as_they_did(name, tmp_path):
    if UPDATE:
        FOLDER.mkdir(exist_ok=True)
        write(name, FOLDER / f"{name}.png")
    assert difference(name, write(name, tmp_path / f"{name}.png")) is None


@pytest.mark.parametrize(
    ("name", "what", "look"),
    [
        ("bands", "BAND", style.BAND | {"alpha": 0.2}),
        ("small-multiples", "MEAN", style.MEAN | {"linewidth": 1.4}),
        ("hamiltonian", "UNCERTAINTY_MAP", "Reds"),
        ("residuals", "LIMIT", style.LIMIT | {"linewidth": 1.3}),
        ("section", "TRUE_POINT", style.TRUE_POINT | {"marker": "+"}),
        ("pairs", "CLOUD", style.CLOUD | {"alpha": 0.3}),
        ("calibration", "GUIDE", "#999999"),
    ],
)
def test_a_change_that_can_be_seen_is_noticed(name, what, look, monkeypatch, tmp_path):
    monkeypatch.setattr(style, what, look)
    assert difference(name, write(name, tmp_path / f"{name}.png")) is not None


def test_each_picture_has_its_file_and_all_are_small():
    files = list(FOLDER.iterdir())
    assert {file.stem for file in files} == PICTURES.keys()
    assert sum(file.stat().st_size for file in files) < 1_000_000

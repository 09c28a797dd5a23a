"""Saving a posterior and reading it back; the summary in words."""

import pathlib
from dataclasses import replace

import pytest
import torch
from problems import tensor

import sympgp
from sympgp import SSGP, Friction, GaussNewton, fit
from sympgp.posterior.storage import check_writable
from sympgp.systems import Pendulum

X = tensor([[0.5, 0.2], [-1.0, 1.0]])
TIMES = [0.0, 0.7]


@pytest.fixture(scope="module")
def posterior():
    data = Pendulum(friction=0.1).simulate(2, rate=5, duration=5, noise_std=0.05, missing=0.05)
    model = SSGP(num_features=20, dissipation=Friction(prior_scale=0.7))
    return fit(model, data, inference=GaussNewton(num_components=2), progress=False)


@pytest.fixture(scope="module")
def conservative():
    data = Pendulum().simulate(2, rate=5, duration=5, noise_std=0.05)
    model = SSGP(num_features=20)
    return fit(model, data, inference=GaussNewton(num_components=1), progress=False)


# files


@pytest.mark.parametrize("name", ["posterior", "conservative"])
def test_a_loaded_posterior_predicts_the_same_bit_for_bit(name, request, tmp_path):
    saved = request.getfixturevalue(name)
    saved.save(tmp_path / "fit.pt")
    loaded = sympgp.load(tmp_path / "fit.pt")
    for call in (
        lambda p: p.rollout(X, TIMES, num_samples=5).samples,
        lambda p: p.rollout(X, TIMES, num_samples=5, discrepancy=True).samples,
        lambda p: p.rollout(X, TIMES, num_samples=5).energy(),
        lambda p: p.forecast([5.0, 5.6], trajectory=1, num_samples=5).samples,
        lambda p: p.forecast([5.0, 5.6], num_samples=5).band(kind="predictive")[0],
        lambda p: p.fitted(num_samples=5)[0].samples,
        lambda p: p.vector_field(X).mean,
        lambda p: p.vector_field(X).stddev,
        lambda p: p.vector_field(X, joint=True).variance,
        lambda p: p.hamiltonian(X).stddev,
        lambda p: p.dissipation().mean,
        lambda p: p.noise().stddev,
        lambda p: p.initial_states.stddev,
        lambda p: p.without_dissipation().rollout(X, TIMES, num_samples=3).samples,
    ):
        assert torch.equal(call(saved), call(loaded))
    assert loaded.summary() == saved.summary()
    assert loaded.dissipation_family == saved.dissipation_family
    assert loaded.diagnostics == saved.diagnostics
    data, again = saved.data, loaded.data
    assert (again.names, again.units, again.labels) == (data.names, data.units, data.labels)
    for own, other in zip(data.states, again.states, strict=True):
        assert torch.equal(own.isnan(), other.isnan())
        assert torch.equal(own.nan_to_num(), other.nan_to_num())


def test_the_file_runs_no_code(posterior, tmp_path):
    posterior.save(tmp_path / "fit.pt")
    content = torch.load(tmp_path / "fit.pt", weights_only=True)
    assert content["format"].startswith("sympgp")


def test_saving_overwrites(posterior, conservative, tmp_path):
    posterior.save(str(tmp_path / "fit.pt"))
    conservative.save(str(tmp_path / "fit.pt"))
    assert sympgp.load(str(tmp_path / "fit.pt")).summary() == conservative.summary()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="path: there is no file '.*nothing.pt'"):
        sympgp.load(tmp_path / "nothing.pt")


@pytest.mark.parametrize(
    "content", [b"", b"time,q,p\n0,1,2\n", bytes(range(256)) * 8, b"PK\x03\x04 not a zip file"]
)
def test_files_that_are_something_else_are_refused(tmp_path, content):
    path = tmp_path / "fit.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="path: '.*fit.pt' is not a posterior written by sympgp"):
        sympgp.load(path)


@pytest.mark.parametrize("content", [{"weights": torch.ones(2)}, torch.ones(2), {"format": "x"}])
def test_torch_files_of_something_else_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "fit.pt")
    with pytest.raises(ValueError, match="is not a posterior written by sympgp"):
        sympgp.load(tmp_path / "fit.pt")


class Code:
    """What a malicious file would hold: reading it back runs a function."""

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("code-was-run"),)


def test_code_in_a_file_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": "sympgp posterior 2", "components": [Code()]}, "fit.pt")
    with pytest.raises(ValueError, match="is not a posterior written by sympgp"):
        sympgp.load("fit.pt")
    assert not pathlib.Path("code-was-run").exists()


def test_files_of_another_version_say_so(tmp_path):
    torch.save({"format": "sympgp posterior 99"}, tmp_path / "fit.pt")
    with pytest.raises(ValueError, match="has the format 'sympgp posterior 99'; this version"):
        sympgp.load(tmp_path / "fit.pt")


def test_paths_that_cannot_be_written_are_found_beforehand(posterior, tmp_path):
    for path, message in [
        (tmp_path, "path: expected a file to write, got the folder"),
        (tmp_path / "nowhere" / "fit.pt", "path: the folder '.*nowhere' does not exist"),
        (tmp_path / ("x" * 300), "path: cannot write '.*': File name too long"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_writable(path)
        with pytest.raises(ValueError, match=message):
            posterior.save(path)


def test_checking_a_path_leaves_no_trace(tmp_path):
    check_writable(tmp_path / "fit.pt")
    assert not list(tmp_path.iterdir())
    (tmp_path / "fit.pt").write_bytes(b"before")
    check_writable(tmp_path / "fit.pt")
    assert (tmp_path / "fit.pt").read_bytes() == b"before"


# summary


def test_the_summary_says_what_was_found(posterior):
    text = posterior.summary()
    noise, friction = posterior.noise(), posterior.dissipation()
    for expected in (
        "1 degree(s) of freedom from 2 trajectories",
        f"{posterior.data.num_observations} observations (GaussNewton",
        f"noise of q: {float(noise.mean[0]):.4g} +- {float(noise.stddev[0]):.2g} rad",
        f"friction: {float(friction.mean):.4g} +- {float(friction.stddev):.2g}",
        "lengthscales of H: q",
        "directions of the field that the data determine",
        "solver step",
    ):
        assert expected in text


def test_conservative_summaries_have_no_friction(conservative):
    assert "friction" not in conservative.summary()


WORRIES = {
    "a search ended before its tolerance": {"converged": False},
    "the data could not be followed as single paths; windows of 3.5 time units stayed": {
        "windows_joined": False,
        "window_time": 3.5,
    },
    "the data do not follow one ODE exactly": {"jump_gain": 5.0},
    "the solver's error is not small": {"solver_error": 0.5},
    "residuals of p are correlated in time: 2.5 observations": {"inflation": (1.0, 2.5)},
    "the sensor was upside down": {"notes": ("the sensor was upside down",)},
}


@pytest.mark.parametrize("worry", WORRIES)
def test_worries_are_said(posterior, worry):
    fine = replace(
        posterior.diagnostics,
        converged=True,
        windows_joined=True,
        jump_gain=0.0,
        solver_error=0.01,
        inflation=(1.0, 1.0),
        notes=(),
    )
    calm = replace(posterior, diagnostics=fine)
    assert "Nothing to worry about was found." in calm.summary()
    worried = replace(posterior, diagnostics=replace(fine, **WORRIES[worry])).summary()
    assert worry in worried and "To worry about:" in worried
    assert "Nothing to worry about" not in worried


@pytest.mark.parametrize(
    ("deviations", "widen", "worry"),
    [
        (-3.0, 1.0, "the data prefer negative friction"),
        (1.0, 1e3, "friction is poorly identified"),
    ],
    ids=["negative", "unknown"],
)
def test_doubtful_friction_is_said(posterior, deviations, widen, worry):
    assert worry not in posterior.summary()
    c = posterior.components[0]
    c = replace(c, factor=c.factor / widen)
    theta = c.theta.clone()
    theta[-1] = deviations * c.damping_direction()[1]
    assert worry in replace(posterior, components=(replace(c, theta=theta),)).summary()

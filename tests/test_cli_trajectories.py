"""The command line with parameters that differ by trajectory."""

from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from click.testing import CliRunner, Result
from problems import tensor
from torch.distributions import LogNormal

import sympgp as sg
from sympgp.cli.model_parameters import ParameterPrior
from sympgp.cli.program import cli
from sympgp.systems import Pendulum

PENDULUM = ("--formula", "p**2/2 + k*(1-cos(q))")
DRAWS = ("--samples", 6, "--step", 0.5)


def in_process(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def pendulums(*lengths: float, duration: float = 4.0) -> sg.Trajectories:
    """One trajectory for each length, k = 3 / length."""
    how = {"rate": 2.5, "duration": duration, "noise_std": 0.1}
    systems = [Pendulum(mass=1.0, gravity=3.0 / own) for own in lengths]
    runs = sg.Trajectories.concatenate(
        [s.simulate(1, seed=i, **how) for i, s in enumerate(systems)]
    )
    known = {"covariates": tensor(list(lengths)), "covariate_names": ["length"]}
    return sg.Trajectories(list(runs.times), list(runs.states), units={"length": "m"}, **known)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trajectories")
    pendulums(0.6, 0.9, 1.3, 1.8).to_csv(path / "data.csv")
    pendulums(0.7, 1.6, duration=2.0).to_csv(path / "new.csv")
    energy = sg.PhysicsEnergy(PENDULUM[1], {"k": sg.FromCovariates(LogNormal(0.7, 1.0), hidden=())})
    data = sg.Trajectories.from_csv(path / "data.csv", covariates="length")
    inference = sg.GaussNewton(num_components=1)
    posterior = sg.fit(sg.HamiltonianModel(energy), data, inference=inference, progress=False)
    posterior.save(path / "fit.pt")
    return path


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def test_rollouts_are_of_the_covariates_that_are_given(here: Path):
    start = ("--x0", "1,0", "--x0", "0.5,0.2", "--until", 2, *DRAWS, "-o", "out.nc")
    done = in_process("rollout", "fit.pt", *start, "--covariates", 0.7, "--covariates", 1.5)
    assert done.exit_code == 0, done.output
    written = sg.Rollouts.from_netcdf("out.nc")
    starts, covariates = [[1.0, 0.0], [0.5, 0.2]], [[0.7], [1.5]]
    again = sg.load("fit.pt").rollout(starts, written.times, 6, covariates=covariates)
    assert torch.equal(written.samples, again.samples)


def test_forecasts_of_new_data_read_their_covariates(here: Path):
    ahead = ("--until", 4, *DRAWS, "--trajectory", 1, "-o", "ahead.nc")
    done = in_process("forecast", "fit.pt", "--data", "new.csv", *ahead)
    assert done.exit_code == 0, done.output
    data = sg.Trajectories.from_csv("new.csv", covariates="length")
    written = sg.Rollouts.from_netcdf("ahead.nc")
    again = sg.load("fit.pt").condition(data).forecast(written.times, 1, 6)
    assert torch.equal(written.samples, again.samples)


@pytest.mark.parametrize("given", [(), ("--covariates", 0.7)])
def test_pictures_are_of_the_covariates_or_their_means(here: Path, given):
    done = in_process("plot", "fit.pt", "--kind", "phase", *given, "-o", "phase.png")
    assert done.exit_code == 0, done.output
    assert plt.imread("phase.png")[..., :3].std() > 0.01


FIT = ("fit", "data.csv", *PENDULUM, "-o", "out.pt")
ROLLOUT = ("rollout", "fit.pt", "--x0", "1,0", "--until", 2, "-o", "bad.nc")
FROM = ("--parameter", "k=covariates:lognormal:2,1")
REFUSED = [
    ((*FIT, *FROM), "--parameter NAME=covariates:PRIOR: expected --covariate beside it"),
    ((*FIT, "--parameter", "k=2", "--covariate", "length"), "--covariate: expected --parameter"),
    ((*FIT, *FROM, "--covariate", "size"), "has no column 'size'"),
    ((*FIT, *FROM, "--covariate", "q"), "column 'q'"),
    ((*FIT, "--parameter", "k=mixed:normal:1,1"), "expected NAME=NUMBER or NAME=PRIOR"),
    ((*FIT, "--parameter", "k=pooled:2"), "expected NAME=NUMBER or NAME=PRIOR"),
    (ROLLOUT, "--covariates: a new trajectory needs its length"),
    ((*ROLLOUT, "--covariates", "1,2"), "--covariates: expected 1 a trajectory (length)"),
    ((*ROLLOUT, "--covariates", "1", "--covariates", "2,3"), "--covariates: expected as many"),
    ((*ROLLOUT, "--covariates", "x"), "expected numbers separated by commas, such as 0.8"),
    (("plot", "fit.pt", "--covariates", "1,2"), "--covariates: expected 1 a trajectory (length)"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_does_not_go_together_is_refused(here: Path, arguments, message: str):
    done = in_process(*arguments)
    assert done.exit_code == 2 and isinstance(done.exception, SystemExit), done.output
    assert message in done.stderr, done.stderr
    assert not Path("out.pt").exists() and not Path("bad.nc").exists()


@pytest.mark.parametrize(
    ("how", "kind"), [("pooled", sg.Pooled), ("covariates", sg.FromCovariates)]
)
def test_a_parameter_is_said_to_differ_in_front_of_its_prior(how: str, kind: type):
    name, found = ParameterPrior().convert(f"k={how}:lognormal:2,0.5", None, None)
    assert name == "k" and type(found) is kind
    assert float(found.prior.mean) == pytest.approx(float(2.0 * tensor([0.125]).exp()))


@pytest.mark.slow
def test_both_are_fitted(here: Path):
    pooled = ("--parameter", "k=pooled:lognormal:2,1", "--quiet", "-o", "pooled.pt")
    done = in_process("fit", "data.csv", *PENDULUM, *pooled)
    assert done.exit_code == 0, done.output
    assert "by trajectory 0:" in done.output and "k[new]" in sg.load("pooled.pt").parameters()
    done = in_process("plot", "pooled.pt", "--kind", "phase", "--covariates", 1, "-o", "p.png")
    assert done.exit_code == 2 and "--covariates: expected none" in done.stderr
    known = (*FROM, "--covariate", "length", "--quiet", "-o", "from.pt")
    done = in_process("fit", "data.csv", *PENDULUM, *known)
    assert done.exit_code == 0, done.output
    k = sg.load("from.pt").parameters(covariates=[1.0])["k"]
    assert abs(float(k.mean) - 3.0) < 4 * float(k.stddev) + 0.2

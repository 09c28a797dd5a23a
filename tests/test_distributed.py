"""Several processes on one fit: what they exchange, files read in shares, and the same results."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import click
import h5py
import pytest
import ranks as work
import torch

import sympgp as sg
from sympgp.cli.parameters import OutputFile
from sympgp.distributed import ALONE, RankError, Ranks, initialize
from sympgp.inference.checkpoint import Checkpoint, described, fingerprint
from sympgp.trajectories import Trajectories, TrajectoryFile, gathered

SECONDS = 100


def environment() -> dict[str, str]:
    """That of a rank, with one thread; the processes find the package where this one does."""
    root = str(Path(sg.__file__).parent.parent)
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def launch(task: str, folder: Path, count: int) -> None:
    """Run a task of ``ranks.py`` in so many processes, as ``torchrun`` would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    running = [
        subprocess.Popen(
            [sys.executable, work.__file__, task, str(folder)],
            env={**environment(), **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        said = [process.communicate(timeout=SECONDS)[1] for process in running]
    finally:
        for process in running:
            process.kill()
            process.communicate()
    assert [process.returncode for process in running] == [0] * count, "\n".join(said)


@pytest.fixture(scope="module")
def data() -> Trajectories:
    return work.pendulum()


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory) -> Path:
    """A folder with the data, broken data, and what two ranks made of them."""
    path = tmp_path_factory.mktemp("ranks")
    data.to_netcdf(path / "data.nc")
    broken = data.to_xarray()
    broken["state"][3, 2] = torch.inf
    broken.to_netcdf(path / "broken.nc", engine="h5netcdf")
    launch("everything", path, 2)
    return path


def loaded(folder: Path, kind: str) -> list[dict]:
    return [torch.load(folder / f"{kind}-2-{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture(scope="module")
def alone(folder) -> dict:
    """What one process makes of the same."""
    work.fits(ALONE, folder)
    return torch.load(folder / "fits-1-0.pt")


def test_sums_and_gathers_are_the_same_on_all_ranks(folder):
    for found in loaded(folder, "exchange"):
        assert found["sum"].tolist() == [1.0, 1.0]
        assert found["gather"].tolist() == [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]
        assert found["flags"].tolist() == [True, False]
        assert found["empty"].tolist() == [[1.0, 1.0]]
        assert found["texts"] == [[], ["a"]]
        assert found["broadcast"].tolist() == [1.0, 1.0]
        assert found["any"] == (True, False)


def test_gradients_of_shares_add_up(folder):
    # of x_0^2 + 2 x_1^2 + x_0 + x_1 at (1, 2): each rank has one of the squares
    for found in loaded(folder, "exchange"):
        assert found["gradient"].tolist() == [3.0, 9.0]


def test_trajectories_held_in_parts_are_gathered_whole(folder, data):
    for found in loaded(folder, "exchange"):
        values, labels = found["gathered"]
        assert labels == data.labels
        for value, expected in zip(values, [*data.times, *data.states], strict=True):
            assert torch.equal(value.nan_to_num(9.0), expected.nan_to_num(9.0))
        assert found["renumbered"] == ("0", "1", "2", "3")
        assert found["distinct"] == ("1", "1-2")


def test_an_error_on_one_rank_is_one_on_all_and_names_it(folder):
    first, second = (found["errors"] for found in loaded(folder, "exchange"))
    assert first == second
    assert first["one"] == "rank 1: no such disk"
    assert first["broken"].startswith("rank 1: ") and "got inf" in first["broken"]
    assert "the same trajectories on every rank" in first["other data"]
    assert "at least one trajectory for each of 2 processes, got 1" in first["all"]
    for name, argument in {"model": "model", "engine": "inference", "seed": "seed"}.items():
        assert first[f"other {name}"].startswith(f"{argument}: expected the same on every rank")
    assert first["numbers"].startswith("FloatingPointError: the fit broke down numerically (rank 1")
    one, two = (found["full disk"] for found in loaded(folder, "fits"))
    assert one == two and one.startswith("rank 0: ")


@pytest.mark.parametrize("engine", ["gauss_newton", "vi", "subset"])
def test_two_ranks_find_what_one_does(folder, alone, engine):
    first, second = (found[engine] for found in loaded(folder, "fits"))
    for name, expected in alone[engine].items():
        assert torch.equal(first[name], second[name]), name
        scale = float(expected.double().abs().max())
        error = float((first[name].double() - expected.double()).abs().max())
        assert error <= 1e-8 * scale, name


@pytest.mark.slow
def test_training_from_the_prior_is_shared(tmp_path):
    """Ranks agree exactly, on errors of one of them too.

    Rounding grows in what is trained, a factor of ten at each length of the windows, so that one
    process is compared with at the first ones.
    """
    for count in (1, 2):
        launch("from_prior", tmp_path, count)
    alone = torch.load(tmp_path / "prior-1-0.pt")["bounds"]
    first, second = (torch.load(tmp_path / f"prior-2-{rank}.pt") for rank in range(2))
    assert first["full disk"] == second["full disk"]
    assert first["full disk"].startswith("rank 0: ")
    assert first["bounds"] == second["bounds"]
    for name, value in first["prior"].items():
        assert torch.equal(value, second["prior"][name]), name
    for stage in ("the mean from the prior", "windows of 3", "windows of 6"):
        assert first["bounds"][stage] == pytest.approx(alone[stage], rel=1e-8), stage


def test_training_moved(alone):
    """Else the second engine would say nothing."""
    assert not torch.allclose(alone["vi"]["mean"], alone["gauss_newton"]["mean"], rtol=1e-6)


def test_data_are_smoothed_in_shares(folder):
    """All ranks have the same bits, those of one process but for rounding."""
    expected = vars(work.smoothed(ALONE))
    first, second = (found["smoothed"] for found in loaded(folder, "exchange"))
    for name, value in expected.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("engine", ["gauss_newton", "vi", "subset"])
def test_the_saved_posterior_is_the_same_file(folder, alone, engine):
    """Every tensor in it to rounding, everything else exactly; but for the seconds it took."""
    one, two = (torch.load(folder / f"{engine}-{n}.pt", weights_only=True) for n in (1, 2))
    for content in (one, two):
        content["diagnostics"].pop("seconds")
    assert same(one, two, "")


def same(one: object, two: object, where: str) -> bool:
    """Whether two nested values are, to 1e-7 of each tensor's scale."""
    assert type(one) is type(two), where
    if isinstance(one, dict):
        assert one.keys() == two.keys(), where
        return all(same(one[key], two[key], f"{where}.{key}") for key in one)
    if isinstance(one, list):
        assert len(one) == len(two), where
        pairs = enumerate(zip(one, two, strict=True))
        return all(same(a, b, f"{where}[{k}]") for k, (a, b) in pairs)
    if isinstance(one, float):
        one, two = torch.tensor(one), torch.tensor(two)
    if isinstance(one, torch.Tensor):
        one, two = one.double().nan_to_num(9.0), two.double().nan_to_num(9.0)
        scale = float(one[one.isfinite()].abs().max()) if one.numel() else 1.0
        torch.testing.assert_close(two, one, rtol=0, atol=1e-7 * scale, msg=lambda m: where + m)
    else:
        assert one == two, where
    return True


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_are_a_partition_and_about_equal(count):
    sizes = [40, 3, 5, 5, 8, 1, 9, 30, 2]
    shares = [Ranks(rank, count).share(sizes) for rank in range(count)]
    assert [i for share in shares for i in range(len(sizes))[share]] == list(range(len(sizes)))
    assert all(share.start < share.stop for share in shares)
    largest = max(sum(sizes[share]) for share in shares)
    assert largest <= sum(sizes) / count + max(sizes)
    parts = [Ranks(rank, count).part(5) for rank in range(count)]
    assert [i for part in parts for i in range(5)[part]] == list(range(5))


def test_engines_that_share_nothing_are_named_where_fit_was_called(folder):
    first, second = (found["copies"] for found in loaded(folder, "fits"))
    assert not second
    ((message, where),) = first
    assert "Known does not share its work: each of 2 processes" in message
    assert Path(where).name == "ranks.py"


def test_settings_are_described_alike_and_apart():
    models = [sg.SSGP(**work.MODEL, seed=seed) for seed in (0, 0, 1)]
    one, again, other = (described(model) for model in models)
    assert one == again != other
    assert described(sg.StochasticVI()) != described(sg.StochasticVI(num_steps=999))
    assert described(torch.float32) == "torch.float32"


def test_fingerprints_tell_apart_all_that_is_fitted():
    def mark(**changes) -> str:
        own = {"states": torch.ones(2, 3, 2), "covariates": [1.0, 2.0], **changes}
        return fingerprint(Trajectories([0.0, 1.0, 2.0], **own))

    changes = [{}, {"covariates": [1.0, 3.0]}, {"covariates": None}, {"names": ["x", "p"]}]
    changes += [{"units": {"q": "rad"}}, {"covariate_names": ["mass"]}]
    assert len({mark(**each) for each in changes}) == len(changes)
    assert mark() == mark()


def test_more_ranks_than_trajectories_are_refused():
    with pytest.raises(RankError, match="each of 3 processes, got 2; start fewer"):
        Ranks(0, 3).share([1.0, 1.0])


def test_one_process_exchanges_nothing(data):
    assert initialize() == Ranks.current() == ALONE
    value = torch.ones(3, requires_grad=True)
    for same_one in (ALONE.sum, ALONE.gather, ALONE.broadcast, ALONE.total):
        assert same_one(value) is value
    assert ALONE.spread(value) == (value,)
    assert gathered(data, ALONE) is data
    with pytest.raises(KeyError):  # as it was raised
        ALONE.agree(lambda: {}["missing"])


@pytest.mark.parametrize("kind", ["nc", "zarr"])
def test_a_file_is_read_in_shares(tmp_path, data, kind):
    path = tmp_path / f"data.{kind}"
    if kind == "zarr":
        pytest.importorskip("zarr")
        data.to_zarr(path)
    else:
        data.to_netcdf(path)
    file = TrajectoryFile(path)
    assert len(file) == 5
    pieces = [file.read(slice(0, 2)), file.read(slice(2, 5))]
    for found in (file.read(), file.gathered(), Trajectories.concatenate(pieces)):
        assert found.labels == data.labels and found.units == data.units
        for a, b in zip((*found.times, *found.states), (*data.times, *data.states), strict=True):
            assert torch.equal(a.nan_to_num(9.0), b.nan_to_num(9.0))
    assert Trajectories.from_file(path).labels == data.labels
    with pytest.raises(ValueError, match="chosen: expected some of 5 trajectories"):
        file.read(slice(7, 9))
    with pytest.raises(ValueError, match="trajectory: the dataset has no dimension 'run', only "):
        TrajectoryFile(path, trajectory="run")


def test_trajectories_without_labels_keep_their_numbers(tmp_path, data):
    dataset = data.to_xarray().drop_vars("trajectory")
    dataset.to_netcdf(tmp_path / "data.nc", engine="h5netcdf")
    assert TrajectoryFile(tmp_path / "data.nc").read(slice(2, 4)).labels == ("2", "3")


def test_only_the_share_is_read(tmp_path, data):
    """What is wrong with one trajectory does not matter to who reads another."""
    broken = data.to_xarray()
    broken["state"][3, 2] = torch.inf
    broken.to_netcdf(tmp_path / "data.nc", engine="h5netcdf")
    file = TrajectoryFile(tmp_path / "data.nc")
    assert len(file.read(slice(0, 3))) == 3
    with pytest.raises(ValueError, match=r"data.nc: .*got inf"):
        file.read(slice(3, 5))


def test_damaged_files_are_named(tmp_path, data):
    path, how = tmp_path / "data.nc", {"state": {"fletcher32": True}}
    data.to_xarray().to_netcdf(path, engine="h5netcdf", encoding=how)
    with h5py.File(path) as stored:
        place = stored["state"].id.get_chunk_info(0).byte_offset
    with path.open("r+b") as stored:
        stored.seek(place)
        stored.write(b"damage")
    for read in (TrajectoryFile(path).read, lambda: Trajectories.from_netcdf(path)):
        with pytest.raises(ValueError, match=r"path: cannot read .*data.nc"):
            read()


def test_one_trajectory_without_its_dimension_is_the_first(tmp_path, data):
    data[:1].to_xarray().isel(trajectory=0).to_netcdf(tmp_path / "data.nc", engine="h5netcdf")
    file = TrajectoryFile(tmp_path / "data.nc", trajectory="trajectory")
    assert len(file) == 1 == len(file.read(slice(0, 1)))
    with pytest.raises(ValueError, match="chosen: expected some of 1 trajectories"):
        file.read(slice(1, 2))


def test_only_the_first_process_looks_where_it_will_write(tmp_path, monkeypatch):
    option, missing = OutputFile(), str(tmp_path / "none" / "fit.pt")
    with pytest.raises(click.BadParameter, match="does not exist"):
        option.convert(missing, None, None)
    with pytest.raises(ValueError, match="does not exist"):
        Checkpoint(missing, "mark")
    monkeypatch.setenv("RANK", "1")
    assert option.convert(missing, None, None) == Path(missing)
    assert Checkpoint(missing, "mark", writes=False).path is None


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none.nc"):
        TrajectoryFile(tmp_path / "none.nc")
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*none.zarr"):
        TrajectoryFile(tmp_path / "none.zarr")
    with pytest.raises(ValueError, match="ends in .zarr"):
        work.pendulum().to_zarr(tmp_path / "data.nc")


def torchrun(*arguments: str) -> subprocess.CompletedProcess:
    """``torchrun`` with two processes on this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*command, "--nproc-per-node", "2", "-m", "sympgp", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


@pytest.mark.slow
def test_the_command_line_through_torchrun(tmp_path, data):
    data.to_netcdf(tmp_path / "data.nc")
    output, ahead = str(tmp_path / "fit.pt"), tmp_path / "new.nc"
    options = ["--friction", "--features", "12", "--engine", "gauss-newton:num_components=1"]
    done = torchrun("fit", str(tmp_path / "data.nc"), *options, "-o", output)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Wrote") == 1 and done.stdout.count("5 trajectories") >= 1
    alone = sg.fit(
        sg.SSGP(num_dof=1, num_features=12, dissipation=sg.Friction()),
        data,
        inference=sg.GaussNewton(num_components=1),
        progress=False,
    )
    expected, found = (p.vector_field(work.X).mean for p in (alone, sg.load(output)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8 * float(expected.abs().max()))
    done = torchrun("rollout", output, "--x0", "1.0,0.0", "--until", "4", "-o", str(ahead))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Wrote") == 1 and ahead.is_file()


@pytest.mark.slow
def test_an_error_of_one_rank_ends_the_command_everywhere(tmp_path, data):
    broken = data.to_xarray()
    broken["state"][3, 2] = torch.inf
    broken.to_netcdf(tmp_path / "data.nc", engine="h5netcdf")
    done = torchrun("fit", str(tmp_path / "data.nc"), "-o", str(tmp_path / "fit.pt"))
    assert done.returncode != 0
    assert done.stderr.count("Error: rank 1: ") == 1 and "got inf" in done.stderr
    assert not (tmp_path / "fit.pt").exists()

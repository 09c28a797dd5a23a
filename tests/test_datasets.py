"""xarray and NetCDF: trajectories come back bit by bit, and datasets of others are read."""

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from containers import NAN, arguments, assert_same, ragged
from hypothesis import given, settings

from sympgp.rollouts import Rollouts
from sympgp.trajectories import Trajectories

TIMES = np.array([0.0, 0.5, 2.0])
ANGLES = np.array([[0.0, 1.0, 2.0], [3.0, NAN, 5.0]])
SPEEDS = -ANGLES


def grid(**attributes: str) -> xr.Dataset:
    """Two trajectories with a variable for each coordinate and momentum."""
    dims = ("trajectory", "time")
    return xr.Dataset(
        {"angle": (dims, ANGLES, attributes), "speed": (dims, SPEEDS)},
        {"time": TIMES, "trajectory": ["a", "b"]},
    )


def expected(labels: tuple[str, ...] = ("a", "b"), **arguments) -> Trajectories:
    states = np.stack([ANGLES, SPEEDS], -1)
    arguments = {"names": ["angle", "speed"], **arguments}
    return Trajectories(TIMES, states, labels=labels, **arguments)


# --- there and back


@settings(max_examples=40)
@given(given=arguments())
def test_a_dataset_and_its_file_hold_every_bit(tmp_path_factory, given):
    data = Trajectories(**given)
    assert_same(Trajectories.from_xarray(data.to_xarray()), data)
    path = tmp_path_factory.mktemp("netcdf") / "data.nc"
    data.to_netcdf(path)
    assert_same(Trajectories.from_netcdf(path), data)


def test_shared_times_are_a_dimension_and_units_are_attributes():
    units = {"q": "rad", "time": "s"}
    data = Trajectories(TIMES, np.ones((2, 3, 2)), np.ones((2, 3, 1)), units={**units, "u": "N"})
    dataset = data.to_xarray()
    assert dataset["state"].dims == ("trajectory", "time", "coordinate")
    assert dataset["inputs"].dims == ("trajectory", "time", "input")
    assert dataset["time"].dims == ("time",) and dataset["time"].attrs == {"units": "s"}
    assert dataset["coordinate"].attrs == {"units": ["rad", ""]}
    assert dataset["state"].sel(trajectory="1", coordinate="p").dims == ("time",)


def test_times_of_their_own_are_padded():
    dataset = ragged().to_xarray()
    assert dict(dataset.sizes) == {"trajectory": 3, "sample": 4, "coordinate": 4, "input": 1}
    assert dataset["time"].dims == ("trajectory", "sample")
    assert np.isnan(dataset["time"]).sum("sample").values.tolist() == [1, 2, 0]
    assert np.isnan(dataset["state"].sel(trajectory="b", sample=[2, 3])).all()


def test_names_choose_along_the_axes(tmp_path):
    data = ragged()
    data.to_netcdf(tmp_path / "data.nc")
    chosen = Trajectories.from_netcdf(tmp_path / "data.nc", q="y", p="py", u="force")
    one = [x[:, [1, 3]] for x in data.states]
    units = {"time": "s", "force": "N"}
    again = Trajectories(
        list(data.times),
        one,
        list(data.inputs),
        names=["y", "py"],
        units=units,
        labels=data.labels,
        input_names=["force"],
    )
    assert_same(chosen, again)
    without = Trajectories.from_netcdf(tmp_path / "data.nc", q="y", p=None)
    assert without.names == ("y", "p") and without.inputs is None
    assert without.states[0][:, 1].isnan().all()


def test_a_dataset_opened_with_decoded_times_is_the_same(tmp_path):
    data = Trajectories(TIMES, ANGLES.T, units={"time": "seconds"})
    data.to_netcdf(tmp_path / "data.nc")
    with xr.open_dataset(tmp_path / "data.nc", decode_timedelta=True) as dataset:
        assert dataset["time"].dtype.kind == "m"
        decoded = Trajectories.from_xarray(dataset)
    assert torch.equal(decoded.times[0], data.times[0]) and decoded.units == {"time": "s"}


# --- what others bring


def state(*dims: str, **coords) -> xr.DataArray:
    """The same numbers as one array, its dimensions in a given order."""
    array = xr.DataArray(
        np.stack([ANGLES, SPEEDS], -1),
        {"time": TIMES, **coords},
        dims=("trajectory", "time", "coordinate"),
    )
    return array.transpose(*dims)


NAMED = {"coordinate": ["angle", "speed"], "trajectory": ["a", "b"]}


@pytest.mark.parametrize(
    "dataset",
    [
        state("trajectory", "time", "coordinate", **NAMED),
        state("coordinate", "time", "trajectory", **NAMED),
        xr.Dataset({"position": state("time", "trajectory", "coordinate", **NAMED)}),
        xr.Dataset({"state": state("time", ..., **NAMED), "H": ("time", TIMES)}),
    ],
)
def test_an_array_may_have_its_dimensions_in_any_order(dataset):
    assert_same(Trajectories.from_xarray(dataset), expected())
    positions = Trajectories.from_xarray(dataset, q=["angle"], p=None)
    assert torch.equal(positions.states[0][:, 0], expected().states[0][:, 0])


@pytest.mark.parametrize(
    "dataset", [grid(), grid().transpose(), grid().to_dataframe().to_xarray(), grid().astype("f8")]
)
def test_each_channel_may_be_a_variable(dataset):
    assert_same(Trajectories.from_xarray(dataset, q="angle", p="speed"), expected())
    swapped = Trajectories.from_xarray(dataset, q="speed", p="angle")
    assert torch.equal(swapped.states[0], expected().states[0].flip(1))


def test_one_trajectory_needs_no_dimension():
    one = grid().isel(trajectory=1)  # its label stays as a coordinate
    assert_same(Trajectories.from_xarray(one, q="angle", p="speed"), expected()[1])
    bare = one.drop_vars("trajectory")
    assert Trajectories.from_xarray(bare, q="angle", p="speed").labels == ("0",)
    assert Trajectories.from_xarray(bare["angle"], q="angle", p=None).names == ("angle", "p")
    array = state("coordinate", "time", "trajectory").isel(trajectory=0)
    assert Trajectories.from_xarray(array).names == ("q", "p")


def test_numbers_along_the_coordinate_are_no_names():
    numbered = state("trajectory", "time", "coordinate", coordinate=[0, 1])
    assert Trajectories.from_xarray(numbered).names == ("q", "p")
    assert Trajectories.from_xarray(numbered, p=None).names == ("q1", "q2", "p1", "p2")


def test_default_names_are_variables_where_nothing_else_is_said():
    dataset = grid().rename(angle="q", speed="p")
    assert_same(Trajectories.from_xarray(dataset), expected(names=["q", "p"]))


def test_dimensions_and_units_by_other_names():
    dataset = grid(units="rad").rename(time="t", trajectory="run")
    dataset["t"].attrs["units"] = "ms"
    roles = {"q": "angle", "p": "speed", "time": "t", "trajectory": "run"}
    data = Trajectories.from_xarray(dataset, **roles)
    assert_same(data, expected(units={"angle": "rad", "time": "ms"}))
    data = Trajectories.from_xarray(dataset, **roles, units={"t": "s", "speed": "rad/s"})
    assert data.units == {"angle": "rad", "speed": "rad/s", "time": "s"}


def test_dates_become_seconds_after_the_first():
    start = np.datetime64("2024-02-28T23:59:59", "ns")
    dates = start + (TIMES * 1e9).astype("m8[ns]")
    data = Trajectories.from_xarray(grid().assign_coords(time=dates), q="angle", p="speed")
    assert_same(data, expected(units={"time": "s"}))
    # One clock for all: the second trajectory begins when it began.
    own = np.stack([dates, dates + np.timedelta64(1500, "ms")])
    late = (
        grid()
        .drop_vars("time")
        .rename(time="step")
        .assign_coords(time=(("trajectory", "step"), own))
    )
    data = Trajectories.from_xarray(late, q="angle", p="speed")
    assert [t.tolist() for t in data.times] == [[0.0, 0.5, 2.0], [1.5, 2.0, 3.5]]
    with pytest.raises(ValueError, match="units: expected 's' for times that are dates, got 'ms'"):
        Trajectories.from_xarray(late, q="angle", p="speed", units={"time": "ms"})


def test_inputs_may_be_shared_by_all_trajectories():
    dataset = grid().assign(torque=("time", TIMES))
    data = Trajectories.from_xarray(dataset, q="angle", p="speed", u="torque")
    assert [u.flatten().tolist() for u in data.inputs] == [TIMES.tolist()] * 2


def test_numbers_are_float64_unless_all_are_narrower():
    narrow = grid().astype("f4")
    assert Trajectories.from_xarray(grid(), q="angle", p="speed").dtype == torch.float64
    mixed = narrow.assign(speed=narrow["speed"].astype("f8"))
    assert Trajectories.from_xarray(mixed, q="angle", p="speed").dtype == torch.float64
    for times in (TIMES, TIMES.astype("f4"), [0, 1, 2]):
        data = Trajectories.from_xarray(narrow.assign_coords(time=times), q="angle", p="speed")
        assert (data.dtype, data.times[0].dtype) == (torch.float32, torch.float64)


@pytest.mark.parametrize("engine", ["h5netcdf", "scipy"])  # NetCDF 4 and the classic format
def test_files_of_others_are_read(tmp_path, engine):
    dataset = grid(units="rad")
    dataset["time"].attrs["units"] = "days since 2000-01-01"
    dataset.to_netcdf(tmp_path / "data.nc", engine=engine)
    data = Trajectories.from_file(tmp_path / "data.nc", q="angle", p="speed")
    assert_same(data, expected(units={"angle": "rad", "time": "days"}))


# --- what is refused, and how


def rollouts() -> xr.Dataset:
    return Rollouts(torch.ones(5, 1, 3, 2), torch.arange(3.0), torch.zeros(5, 1) > 0).to_xarray()


ROLES = {"q": "angle", "p": "speed"}
BAD = {
    "no dataset": (ANGLES, {}, "dataset: expected an xarray Dataset or DataArray, got ndarray"),
    "draws": (rollouts(), {}, "dataset: expected observed .* 5 draws .*Rollouts.from_xarray reads"),
    "no names": (grid(), {}, "q: the dataset has no variable 'q', only 'angle', 'speed'$"),
    "a close name": (grid(), {"q": "Angel", "p": None}, r"q: .*did you mean 'angle'\?"),
    "no momentum": (grid(), {"q": "angle"}, "p: the dataset has no variable 'p', only 'angle'"),
    "no such label": (
        state("trajectory", "time", "coordinate", **NAMED),
        {"q": "angle", "p": "spin"},
        "p: the dataset has no variable 'spin' and no 'spin' along 'coordinate', only 'angle'",
    ),
    "no time": (grid(), {**ROLES, "time": "Time"}, r"time: .* no 'Time',.*did you mean 'time'"),
    "no times": (
        grid().drop_vars("time"),
        ROLES,
        "time: the dataset has no coordinate for its dimension 'time', which says the times",
    ),
    "one time": (grid().isel(time=0), ROLES, r"time: expected 'time' with one dimension.*got \(\)"),
    "no trajectory": (
        grid(),
        {**ROLES, "trajectory": "run"},
        "trajectory: the dataset has no dimension 'run', only 'trajectory', 'time'",
    ),
    "labels of points": (
        grid().stack(point=("trajectory", "time")).reset_index("point"),
        ROLES,
        "trajectory: expected 'trajectory' as a dimension.*from_pandas reads dataset.to_dataframe",
    ),
    "another dimension": (
        grid().expand_dims(sensor=2),
        ROLES,
        "expected 'angle' with the dimensions 'trajectory' and 'time' in any order, got .'sensor'",
    ),
    "not along time": (
        grid().assign(speed=("trajectory", [1.0, 2.0])),
        ROLES,
        r"expected 'speed' with the dimensions 'trajectory' and 'time' .*got \('trajectory',\)",
    ),
    "not of every trajectory": (
        grid().assign(speed=("time", TIMES)),
        ROLES,
        r"expected 'speed' with the dimensions 'trajectory' and 'time' .*got \('time',\)",
    ),
    "array without names": (
        xr.DataArray(ANGLES, dims=("a", "b")),
        {},
        r"dataset: expected a DataArray with dimensions 'time', 'coordinate'.*got \('a', 'b'\)",
    ),
    "odd": (
        state("trajectory", "time", "coordinate").isel(coordinate=[0]),
        {},
        "dataset: expected an even number of names along 'coordinate'.*got 1; .*p=None",
    ),
    "several arrays": (
        xr.Dataset({"x": state("trajectory", ...), "y": state("trajectory", ...)}),
        {},
        "dataset: expected one variable with the dimension 'coordinate'.*'state', got x, y",
    ),
    "momenta alone": (state("time", ...), {"p": "speed"}, "q: expected the coordinates of the mom"),
    "a column twice": (grid(), {"q": "angle", "p": "angle"}, "p: column 'angle' is already used"),
    "strings": (grid().assign(angle=grid()["angle"].astype(str)), ROLES, "angle: .*got strings"),
    "infinite": (
        grid().fillna(np.inf),
        ROLES,
        r"states of trajectory 1 \('b'\): .*got inf in row 1",
    ),
    "times repeat": (
        grid().assign_coords(time=[0.0, 1.0, 1.0]),
        ROLES,
        r"times of trajectory 0 \('a'\): .*entry 2, 1.0, repeats .*angle|column 0 is 1.0 and 2.0",
    ),
    "no time of a value": (
        ragged().to_xarray().fillna({"state": 0.0}),
        {},
        "time: expected a time wherever something was measured, got none for step 3 of tr.* 'a'",
    ),
}


@pytest.mark.parametrize(("dataset", "arguments", "message"), BAD.values(), ids=BAD)
def test_a_bad_dataset_is_refused_by_name(dataset, arguments, message):
    with pytest.raises(ValueError, match=message):
        Trajectories.from_xarray(dataset, **arguments)


def test_a_file_that_is_none_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.nc"):
        Trajectories.from_netcdf(tmp_path / "none.nc")
    (tmp_path / "text.nc").write_text("time,q,p\n")
    with pytest.raises(ValueError, match=r"path: expected a NetCDF file, got .*text\.nc"):
        Trajectories.from_netcdf(tmp_path / "text.nc")
    with pytest.raises(ValueError, match="path: expected a NetCDF file"):
        Trajectories.from_netcdf(tmp_path)
    grid().to_netcdf(tmp_path / "grid.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=r"grid\.nc: q: the dataset has no variable 'q'"):
        Trajectories.from_netcdf(tmp_path / "grid.nc")
    with pytest.raises(ValueError, match=r"grid\.nc is not a CSV file.*from_netcdf reads NetCDF"):
        Trajectories.from_csv(tmp_path / "grid.nc")


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match="there is no folder .*none"):
        ragged().to_netcdf(tmp_path / "none" / "data.nc")
    with pytest.raises(ValueError, match="expected a NetCDF file to write, got the folder"):
        ragged().to_netcdf(tmp_path)

"""Observations in time: nodes, split gaps, and half-open windows."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import NAN, identity_scaling, ragged_data, randn, tensor

from sympgp.shooting import layout
from sympgp.shooting.layout import Nodes, Windows
from sympgp.shooting.sensitivities import substeps
from sympgp.trajectories import Trajectories

PIECES = st.tuples(
    st.floats(-5, 5),
    st.lists(st.sampled_from([0.1, 0.25, 0.3, 2.0]), min_size=2, max_size=25),
    st.integers(0, 25),
)
"""First time, intervals, and which entry is missing."""


def nodes_of(pieces) -> tuple[Trajectories, Nodes]:
    times = [tensor([start, *steps]).cumsum(0) for start, steps, _ in pieces]
    states = [randn(len(t), 2, seed=len(t)) for t in times]
    for x, (_, _, hole) in zip(states, pieces, strict=True):
        x[hole % len(x), hole % 2] = NAN
    data = Trajectories(times, states)
    return data, Nodes.from_data(data, identity_scaling())


@given(pieces=st.lists(PIECES, min_size=1, max_size=4), duration=st.floats(0.05, 100.0))
def test_each_observation_is_in_one_window_however_windows_fall(pieces, duration):
    data, nodes = nodes_of(pieces)
    windows = Windows.of_duration(nodes, duration)
    owned = windows.nodes[windows.nodes < nodes.first[-1]]
    assert owned.tolist() == list(range(nodes.first[-1]))
    assert int(nodes.mask[windows.nodes].sum()) == data.num_observations


@given(pieces=st.lists(PIECES, min_size=1, max_size=4), duration=st.floats(0.05, 100.0))
def test_windows_tile_their_trajectory(pieces, duration):
    """Half-open: a window's path ends exactly where and when the next one begins."""
    _, nodes = nodes_of(pieces)
    windows = Windows.of_duration(nodes, duration)
    seen = []
    for trajectory, chain in enumerate(windows.chain.tolist()):
        chain = [k for k in chain if k >= 0]
        seen += chain
        assert windows.start[chain[0]] == nodes.first[trajectory]
        for here, ahead in zip(chain[:-1], chain[1:], strict=True):
            end = nodes.times[windows.start[here]] + nodes.dt[windows.nodes[here]].sum()
            assert float(end) == pytest.approx(float(nodes.times[windows.start[ahead]]), abs=1e-9)
        span = nodes.dt[windows.nodes[chain]].sum()
        last = nodes.times[nodes.first[trajectory + 1] - 1]
        assert float(span) == pytest.approx(float(last - nodes.times[nodes.first[trajectory]]))
    assert seen == list(range(windows.num_windows))
    assert bool((windows.start.diff() > 0).all())
    assert windows.joined == all(row[1:].eq(-1).all() for row in windows.chain)


def test_windows_take_about_equal_shares():
    data = Trajectories(torch.linspace(0, 10, 101), randn(101, 2))
    nodes = Nodes.from_data(data, identity_scaling())
    windows = Windows.of_duration(nodes, 2.5)
    lengths = nodes.dt[windows.nodes].sum(1)
    torch.testing.assert_close(lengths, torch.full((4,), 2.5).double(), atol=0.11, rtol=0)
    assert Windows.of_duration(nodes, math.inf).joined


def test_gaps_are_split_and_nothing_is_invented():
    data = ragged_data()
    nodes = Nodes.from_data(data, identity_scaling())
    rows = [~x.isnan().all(1) for x in data.states]
    intervals = torch.cat([t[r].diff() for t, r in zip(data.times, rows, strict=True)])
    assert nodes.dt.max() <= 1.5 * intervals.quantile(0.9) < intervals.max()
    observed_nodes = nodes.mask.any(1)
    times = torch.cat([t[r] for t, r in zip(data.times, rows, strict=True)])
    states = torch.cat([x[r] for x, r in zip(data.states, rows, strict=True)])
    torch.testing.assert_close(nodes.times[observed_nodes], times)
    assert torch.equal(nodes.values[observed_nodes], states.nan_to_num())
    assert torch.equal(nodes.mask[observed_nodes], ~states.isnan())
    assert nodes.counts.sum() == data.num_observations


def test_gaps_beyond_what_a_quantile_takes_are_split_alike(monkeypatch):
    data = Trajectories([tensor([0.0, 1.0, 2.0, 3.0, 4.0, 40.0])], [randn(6, 2)])
    known = Nodes.from_data(data, identity_scaling())
    monkeypatch.setattr(layout, "MOST_SORTED", 4)
    nodes = Nodes.from_data(data, identity_scaling())
    assert float(nodes.dt.max()) <= 1.5 < float(known.dt.max())


def test_thinned_windows_are_some_of_the_windows():
    nodes = Nodes.from_data(Trajectories(torch.arange(200.0), randn(200, 2)), identity_scaling())
    windows = Windows.of_duration(nodes, 10.0)
    fewer = windows.thinned(60)
    assert fewer.num_windows < windows.num_windows and fewer.nodes.numel() <= 60
    assert set(fewer.start.tolist()) <= set(windows.start.tolist())
    assert fewer.start[0] == windows.start[0] and fewer.start[-1] == windows.start[-1]
    assert windows.thinned(10_000) is windows


@given(dt=st.floats(1e-3, 10.0), step=st.floats(1e-2, 1.0))
def test_substeps_are_the_fewest_that_are_short_enough(dt, step):
    count = int(substeps(tensor([dt]), step))
    assert dt / count <= step * (1 + 1e-8)
    assert count == 1 or dt / (count - 1) > step
    assert int(substeps(tensor([0.0]), step)) == 0

"""The container of states with their derivatives."""

import numpy as np
import pytest
import torch
from problems import NAN, randn, tensor

from sympgp import StateDerivatives


def test_what_is_handed_over_comes_back():
    x, rates = randn(5, 4), randn(5, 4, seed=1)
    rates[2, 1] = NAN
    units = {"a": "m", "time": "s"}
    pairs = StateDerivatives(x, rates, names=("a", "b", "c", "d"), units=units)
    torch.testing.assert_close(pairs.states, x)
    torch.testing.assert_close(pairs.derivatives, rates, equal_nan=True)
    assert (len(pairs), pairs.num_dof, pairs.state_dim, pairs.num_observations) == (5, 2, 4, 19)
    assert (pairs.names, pairs.units) == (("a", "b", "c", "d"), units)
    assert pairs.observed.sum(0).tolist() == [5, 4, 5, 5]
    assert (pairs.dtype, pairs.device) == (torch.float64, torch.device("cpu"))


def test_later_changes_stay_outside():
    x, rates = randn(5, 2), randn(5, 2, seed=1)
    pairs = StateDerivatives(x, rates)
    kept = pairs.states.clone(), pairs.derivatives.clone()
    x.zero_()
    rates.zero_()
    torch.testing.assert_close((pairs.states, pairs.derivatives), kept)


@pytest.mark.parametrize("form", [np.asarray, lambda x: x.tolist(), lambda x: x.float()])
def test_arrays_of_any_kind_are_taken(form):
    x = tensor([[1.0, 2.0], [0.5, -1.0]])
    pairs = StateDerivatives(form(x), form(-x))
    torch.testing.assert_close(pairs.states, x)
    torch.testing.assert_close(pairs.derivatives, -x)


def test_none_and_nan_are_missing_derivatives():
    pairs = StateDerivatives([[1.0, 2.0], [0.5, -1.0]], [[None, 1.0], [NAN, 2.0]])
    assert pairs.observed.tolist() == [[False, True], [False, True]]
    assert repr(pairs) == "StateDerivatives(2 states, 2 observations, names=('q', 'p'))"


def test_one_pair_may_come_without_its_row_axis():
    assert repr(StateDerivatives([1.0, 2.0], [0.5, -1.0])).startswith("StateDerivatives(1 state,")


def test_rows_are_chosen_as_from_an_array():
    pairs = StateDerivatives(randn(6, 2), randn(6, 2, seed=1), units={"q": "m"})
    for index in (slice(1, 4), [4, 0], -1, slice(None, None, 2)):
        chosen = pairs[index]
        torch.testing.assert_close(chosen.states, pairs.states[index].reshape(-1, 2))
        torch.testing.assert_close(chosen.derivatives, pairs.derivatives[index].reshape(-1, 2))
        assert chosen.units == {"q": "m"}
    with pytest.raises(IndexError):
        pairs[6]


def test_another_type_keeps_everything_else():
    pairs = StateDerivatives(randn(3, 2), randn(3, 2, seed=1), names=("a", "b"))
    small = pairs.to(dtype=torch.float32)
    assert (small.dtype, small.names) == (torch.float32, ("a", "b"))
    torch.testing.assert_close(small.derivatives.double(), pairs.derivatives, rtol=1e-6, atol=1e-6)


X, RATES = [[1.0, 2.0], [0.5, -1.0]], [[0.0, 1.0], [1.0, 0.0]]


@pytest.mark.parametrize(
    ("states", "derivatives", "message"),
    [
        (X, RATES[:1], r"derivatives: expected the shape of states, \(2, 2\), got \(1, 2\)"),
        ([[1.0], [2.0]], [[1.0], [2.0]], r"states: expected shape \(N, 2n\).*got \(2, 1\)"),
        ([[[1.0, 2.0]]], RATES, r"states: expected shape \(N, 2n\).*got \(1, 1, 2\)"),
        ([[1.0, NAN], X[1]], RATES, "states: expected finite.*got nan in row 0, column 1"),
        (X, [RATES[0], [torch.inf, 0.0]], "derivatives: .*got inf in row 1, column 0"),
        (X, [[NAN, NAN], [NAN, NAN]], "derivatives: expected at least one observed value"),
        (X, [["a", "b"], ["c", "d"]], "derivatives: expected real numbers, got strings"),
        (torch.zeros(0, 2), torch.zeros(0, 2), r"states: .*got \(0, 2\)"),
    ],
)
def test_what_no_model_could_use_is_refused(states, derivatives, message):
    with pytest.raises(ValueError, match=message):
        StateDerivatives(states, derivatives)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"names": ("q", "q")}, "names: expected distinct"),
        ({"names": ("q",)}, "names: expected 2"),
        ({"units": {"x": "m"}}, "units: expected units of q, p, time"),
    ],
)
def test_names_and_units_must_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        StateDerivatives(X, RATES, **settings)

"""Trajectories that several test files share, random ones among them, and their comparison."""

import math
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sympgp.trajectories import Trajectories

NAN = math.nan


def ragged() -> Trajectories:
    """Three trajectories of 3, 2 and 4 points with inputs, units and labels."""
    generator = torch.Generator().manual_seed(0)
    lengths = (3, 2, 4)
    states = [torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in lengths]
    states[2][1, 3] = NAN
    return Trajectories(
        [torch.arange(n, dtype=torch.float64) + i for i, n in enumerate(lengths)],
        states,
        [torch.ones(n, 1) for n in lengths],
        names=["x", "y", "px", "py"],
        units={"x": "m", "time": "s", "force": "N"},
        labels=["a", "b", "c"],
        input_names=["force"],
    )


def assert_same(one: Trajectories, other: Trajectories) -> None:
    """Equal in every bit, NaN included."""
    assert len(one) == len(other) and (one.inputs is None) == (other.inputs is None)
    parts = [(one.times, other.times), (one.states, other.states)]
    if one.inputs is not None and other.inputs is not None:
        parts.append((one.inputs, other.inputs))
    for a, b in parts:
        for x, y in zip(a, b, strict=True):
            assert x.dtype == y.dtype
            assert torch.equal(x.nan_to_num(1e300), y.nan_to_num(1e300))
    for attribute in ("names", "input_names", "labels", "units"):
        assert getattr(one, attribute) == getattr(other, attribute)


# No control characters and blanks around, which no file of text keeps, and no brackets, which
# stand for units there.
WORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="[]()"),
    min_size=1,
    max_size=6,
)
NARROW = st.floats(-1e3, 1e3, width=32)
WIDE = st.floats(allow_infinity=False)


@st.composite
def arguments(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of any container: ragged or not, gaps, whole rows missing, inputs, units, labels.

    The container itself is for the test to build: PyTorch draws random numbers when it is loaded.
    """
    count, num_dof = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    num_inputs, single = draw(st.integers(0, 2)), draw(st.booleans())
    size = 2 * num_dof + num_inputs
    named = WORDS.filter(lambda name: name not in ("time", "trajectory"))
    names = draw(st.lists(named, min_size=size, max_size=size, unique=True))
    lengths = draw(st.lists(st.integers(2, 4), min_size=count, max_size=count))
    times, states, inputs = [], [], []
    shared = draw(st.booleans())
    for length in [lengths[0]] * count if shared else lengths:
        instants = draw(st.sets(NARROW, min_size=length, max_size=length))
        times.append(times[0] if shared and times else np.array(sorted(instants)))
        values = st.just(NAN) | NARROW if single else WIDE
        x = draw(arrays(float, (length, 2 * num_dof), elements=values))
        x[draw(st.lists(st.booleans(), min_size=length, max_size=length))] = NAN
        x[draw(st.integers(0, length - 1)), 0] = 1.5  # something is seen
        states.append(x)
        inputs.append(draw(arrays(float, (length, num_inputs), elements=NARROW)))
    return {
        "times": times,
        "states": states,
        "inputs": inputs if num_inputs else None,
        "names": names[: 2 * num_dof],
        "units": draw(st.dictionaries(st.sampled_from([*names, "time"]), WORDS, max_size=3)),
        "labels": draw(st.lists(WORDS, min_size=count, max_size=count, unique=True)),
        "input_names": names[2 * num_dof :] if num_inputs else None,
        "dtype": torch.float32 if single else torch.float64,
    }

# SPDX-License-Identifier: MIT
"""What every observer keeps to."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib.observers import OBSERVERS
from quantize.errors import CalibrationError, DataError

every_observer = pytest.mark.parametrize("name", OBSERVERS.names())
BATCHES = [np.random.RandomState(i).randn(4, 3, 5).astype(np.float32) * (i + 1) for i in range(6)]


def seen(name, batches):
    observer = OBSERVERS.get(name)()
    for batch in batches:
        observer.update(batch)
    return observer


def numbers(observer):
    """The state as one flat list of floats."""
    state = observer.state()
    return np.hstack([np.float64(state[key]) for key in sorted(state) if key != "observer"]).tolist()


@every_observer
def test_merging_is_commutative_and_associative(name):
    def merged(*groups):
        total = seen(name, groups[0])
        for group in groups[1:]:
            total.merge(seen(name, group))
        return numbers(total)

    a, b, c = BATCHES[:2], BATCHES[2:4], BATCHES[4:]
    np.testing.assert_allclose(merged(a, b), merged(b, a), rtol=1e-12)
    right = seen(name, b)
    right.merge(seen(name, c))
    left = seen(name, a)
    left.merge(right)
    np.testing.assert_allclose(numbers(left), merged(a, b, c), rtol=1e-12)


@every_observer
def test_state_survives_json(name):
    observer = seen(name, BATCHES)
    again = type(observer).from_state(json.loads(json.dumps(observer.state())))
    assert again.state() == observer.state()
    again.update(BATCHES[0])
    observer.update(BATCHES[0])
    assert again.range() == observer.range()


@every_observer
def test_samples_are_counted(name):
    assert seen(name, BATCHES).samples == 24


@every_observer
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_and_empty_batches_are_refused(name, bad):
    observer = seen(name, BATCHES)
    before = observer.state()
    with pytest.raises(DataError, match="1 of 3 values are NaN or infinite"):
        observer.update(np.float32([[1, bad, 2]]))
    with pytest.raises(DataError, match="empty batch"):
        observer.update(np.zeros((0, 3), np.float32))
    assert observer.state() == before


@every_observer
def test_wrong_partners_and_states_are_refused(name):
    observer = OBSERVERS.get(name)()
    other = OBSERVERS.get(next(n for n in OBSERVERS.names() if n != name))()
    with pytest.raises(CalibrationError, match="cannot be merged"):
        observer.merge(other)
    with pytest.raises(CalibrationError, match="not the state"):
        type(observer).from_state(other.state())
    with pytest.raises(CalibrationError, match="nothing was observed"):
        observer.range()


ORDER_INDEPENDENT = [name for name in OBSERVERS.names() if name != "ema"]  # which is not by definition
IMAGES = np.concatenate(BATCHES) * np.float32(10) ** np.arange(-6, 18).reshape(-1, 1, 1)


def test_only_the_moving_average_depends_on_the_order():
    assert len(ORDER_INDEPENDENT) == len(OBSERVERS.names()) - 1 >= 3


@pytest.mark.parametrize("name", ORDER_INDEPENDENT)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_order_batches_and_shards_leave_no_trace(name, data):
    """Any order of the images, any split into batches and shards: the same state, byte for byte."""
    order = data.draw(st.permutations(range(len(IMAGES))))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(IMAGES) - 1), max_size=8)))
    batches = np.split(IMAGES[list(order)], cuts)
    shards = [[] for _ in range(data.draw(st.integers(1, 4)))]
    for batch in batches:
        shards[data.draw(st.integers(0, len(shards) - 1))].append(batch)
    total = seen(name, shards[0])
    for shard in shards[1:]:
        total.merge(seen(name, shard))
    assert json.dumps(total.state(), sort_keys=True) == json.dumps(seen(name, [IMAGES]).state(), sort_keys=True)


@every_observer
def test_a_damaged_state_is_refused(name):
    state = seen(name, BATCHES).state()
    for key, bad in [("samples", "24"), ("samples", None), ("samples", True), ("low", [1.0])]:
        with pytest.raises(CalibrationError, match=key):
            type(seen(name, BATCHES)).from_state(dict(state, **{key: bad}))
    del state["samples"]
    with pytest.raises(CalibrationError, match="not the state"):
        OBSERVERS.get(name).from_state(state)


@every_observer
def test_values_beyond_float32_are_refused(name):
    with pytest.raises(DataError, match="infinite"), np.errstate(over="ignore"):
        OBSERVERS.get(name)().update(np.array([[1.0, 1e39]]))

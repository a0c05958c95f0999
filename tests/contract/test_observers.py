# SPDX-License-Identifier: MIT
"""What every observer keeps to."""

import json

import numpy as np
import pytest

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
    state = observer.state()
    return [state[key] for key in sorted(state) if key != "observer"]


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

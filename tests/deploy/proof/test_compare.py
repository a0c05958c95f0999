# SPDX-License-Identifier: MIT
"""Counting differences: identical, largest, relative; in parts as in one piece."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.proof.compare import Difference
from quantize.errors import DeployError

CODES = st.lists(st.tuples(st.integers(-127, 127), st.integers(-127, 127)), min_size=1, max_size=40)


@given(CODES, st.integers(0, 40))
def test_parts_equal_the_whole(pairs, cut):
    values, reference = np.array(pairs, np.int32).T
    whole, parts = Difference(), Difference()
    whole.update(values, reference)
    for part in (slice(0, cut), slice(cut, None)):
        parts.update(values[part], reference[part])
    assert parts == whole
    assert whole.identical == sum(a == b for a, b in pairs) and whole.elements == len(pairs)
    assert whole.largest == max(abs(a - b) for a, b in pairs)
    assert whole.exact == (whole.largest == 0) == (whole.share == 1)


def test_reals():
    found = Difference()
    found.update(np.float32([1, 2, -0.0]), np.float32([1, 2.5, 0.0]))
    assert (found.identical, found.largest, found.relative) == (2, 0.5, 0.2)
    found.update(np.float32([10]), np.float32([10]))
    assert found.relative == 0.05 and found.share == 0.75


@pytest.mark.parametrize("value, reference, identical, largest", [
    (np.nan, 1, 0, np.inf), (1, np.nan, 0, np.inf), (np.nan, np.nan, 1, 0), (np.inf, np.inf, 1, 0),
    (np.inf, -np.inf, 0, np.inf), (np.inf, 3, 0, np.inf)])
def test_values_that_are_no_numbers(value, reference, identical, largest):
    found = Difference()
    found.update(np.float32([value]), np.float32([reference]))
    assert (found.identical, found.largest) == (identical, largest)


def test_against_zeros():
    found = Difference()
    found.update(np.zeros(3), np.zeros(3))
    assert found.relative == 0
    found.update(np.ones(3), np.zeros(3))
    assert found.relative == np.inf


def test_nothing_compared_is_exact():
    assert Difference().exact and Difference().share == 1


def test_shapes_that_differ():
    with pytest.raises(DeployError, match=r"\(2,\).*\(1, 2\)"):
        Difference().update(np.zeros(2), np.zeros((1, 2)))

# SPDX-License-Identifier: MIT
import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib.calibrators.base import clipped_share, resampled
from calib.observers import HistogramObserver, MomentsObserver
from calib.observers.histogram import SIDE_BINS, SMALLEST_EXPONENT
from quantize.errors import CalibrationError
from quantize.spec import QuantSpec

VALUES = {
    "signed": np.random.RandomState(0).randn(3, 70000),
    "relu": np.maximum(np.random.RandomState(1).randn(2, 999), 0),
    "negative": -np.random.RandomState(2).rand(2, 999),
    "on the edges": np.arange(-4096, 4097).reshape(1, -1) / 512.0,
    "powers of two": 2.0 ** np.arange(-149, 120).reshape(1, -1) * np.where(np.arange(269) % 2, 1, -1),
    "denormal": np.array([[1e-45, -1e-45, 3e-45, 0.0, -0.0]]),
    "huge": np.array([[3e38, -3e38, -1e-30, -1e-45, 1e-45, 0.0]]),
}
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def seen(observer, *batches):
    for batch in batches:
        observer.update(np.asarray(batch, np.float32))
    return observer


@pytest.mark.parametrize("name", VALUES)
def test_bins_are_what_the_docstring_says(name):
    values = VALUES[name].astype(np.float32).astype(np.float64)
    observer = seen(HistogramObserver(), values)
    largest = np.abs(values).max()
    assert largest < SIDE_BINS * observer.width
    assert observer.exponent == SMALLEST_EXPONENT or largest >= SIDE_BINS / 2 * observer.width
    # in Python's whole numbers: not a rounding anywhere
    width = Fraction(2) ** observer.exponent
    bins = [Fraction(value) // width for value in values.ravel().tolist() if value]
    expected = np.bincount(np.array([int(b) + SIDE_BINS for b in bins], np.int64), minlength=2 * SIDE_BINS)
    np.testing.assert_array_equal(observer.positive(), expected[SIDE_BINS:])
    np.testing.assert_array_equal(observer.negative(), expected[SIDE_BINS - 1::-1])
    assert observer.zeros == np.count_nonzero(values == 0)
    assert observer.total == observer.values == values.size
    assert observer.range() == (values.min(), values.max())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(finite, min_size=1, max_size=5), min_size=1, max_size=6), st.randoms())
def test_any_floats_in_any_order(batches, random):
    """Ranges that grow by any factor, in any order, merged or not: one state."""
    whole = seen(HistogramObserver(), [sum(batches, [])])
    random.shuffle(batches)
    parts = [seen(HistogramObserver(), [batch]) for batch in batches]
    while len(parts) > 1:
        parts.insert(random.randrange(len(parts) - 1), parts.pop())
        parts[0].merge(parts.pop())
    whole.samples = parts[0].samples
    assert json.dumps(parts[0].state()) == json.dumps(whole.state())


def test_dtypes_and_layouts_do_not_matter():
    values = np.random.RandomState(0).randint(-100, 100, (6, 50))
    state = seen(HistogramObserver(), values).state()
    for same in (values.astype(np.float64), values.astype(np.int8), np.asfortranarray(values.astype(np.float32)),
                 np.repeat(values, 2, axis=1)[:, ::2].astype(np.float16)):
        observer = HistogramObserver()
        observer.update(same)
        assert observer.state() == state


def test_per_image_counts_the_same_values_whatever_the_batches():
    images = np.random.RandomState(0).randn(8, 6, 14, 14).astype(np.float32)
    whole = seen(HistogramObserver(per_image=100), images)
    single = seen(HistogramObserver(per_image=100), *images.reshape(8, 1, 6, 14, 14))
    assert whole.state() == single.state()
    # 1176 values: every 13th, as 12 shares divisors with the size
    assert whole.total == 8 * -(-1176 // 13) and whole.values == images.size
    assert whole.range() == (images.min(), images.max())
    assert seen(HistogramObserver(per_image=2000), images).total == images.size
    with pytest.raises(CalibrationError, match="per_image 100 and None"):
        whole.merge(HistogramObserver())
    with pytest.raises(CalibrationError, match="per_image must be"):
        HistogramObserver(per_image=0)
    again = HistogramObserver.from_state(json.loads(json.dumps(whole.state())))
    assert again.state() == whole.state() and again.per_image == 100


@pytest.mark.parametrize("change", [{"counts": [1, -1]}, {"counts": [0.5]}, {"counts": [2 ** 63]}, {"counts": {}},
                                    {"first": SIDE_BINS}, {"first": -SIDE_BINS - 1}, {"exponent": 1000},
                                    {"zeros": -1}, {"per_image": 0}])
def test_damaged_states_are_refused(change):
    state = dict(seen(HistogramObserver(), [[1.0, 2.0]]).state(), **change)
    with pytest.raises(CalibrationError, match="counts|out of range|per_image"):
        HistogramObserver.from_state(state)


def test_resampling_keeps_every_count_and_is_exact_on_common_edges():
    values = np.append(np.random.RandomState(0).rand(100000) * 8, 8.0).astype(np.float32)
    observer = seen(HistogramObserver(), [values])
    expected = np.bincount(np.minimum((values * 256).astype(int), 2047), minlength=2048)
    np.testing.assert_array_equal(resampled(observer.positive(), observer.width, 8.0, 2048), expected)
    for top in (8.0, 7.123):
        values = values[values <= top]
        observer = seen(HistogramObserver(), [values])
        counts = resampled(observer.positive(), observer.width, float(values.max()), 2001)
        assert counts.sum() == observer.total - observer.zeros and counts.min() >= 0
        exact = np.histogram(values, 2001, (0, values.max()))[0]
        assert np.abs(np.cumsum(counts) - np.cumsum(exact)).max() <= observer.positive().max()


def test_clipped_share():
    observer = seen(HistogramObserver(), [np.append(np.arange(-100, 100), [0] * 50)])
    assert clipped_share(observer, QuantSpec(8), 50.5) == pytest.approx(100 / 199, abs=0.01)
    assert clipped_share(observer, QuantSpec(8, signed=False), 50.5) == pytest.approx(49 / 99, abs=0.01)
    assert clipped_share(observer, QuantSpec(8), 100) == 0
    assert clipped_share(seen(HistogramObserver(), [[0.0]]), QuantSpec(8), 0) == 0


@pytest.mark.parametrize("name", VALUES)
def test_moments_are_the_true_sums(name):
    values = VALUES[name].astype(np.float32)[:, :2000]
    observer = seen(MomentsObserver(), values)
    exact = [Fraction(value) for value in values.ravel().tolist()]
    assert observer.count == len(exact)
    assert Fraction(observer.total, 2 ** 149) == sum(exact)
    assert Fraction(observer.magnitude, 2 ** 149) == sum(abs(value) for value in exact)
    assert Fraction(observer.squares, 2 ** 298) == sum(value * value for value in exact)
    assert observer.mean() == float(sum(exact) / len(exact))


def test_moments_of_a_sample():
    values = np.random.RandomState(0).randn(4, 50000).astype(np.float32) + 3
    observer = seen(MomentsObserver(), values)
    wide = values.astype(np.float64)
    assert observer.mean() == pytest.approx(wide.mean(), rel=1e-12)
    assert observer.mean_magnitude() == pytest.approx(np.abs(wide).mean(), rel=1e-12)
    assert observer.mean_square() == pytest.approx((wide ** 2).mean(), rel=1e-12)
    assert observer.std() == pytest.approx(wide.std(), rel=1e-9)
    with pytest.raises(CalibrationError, match="nothing"):
        MomentsObserver().std()

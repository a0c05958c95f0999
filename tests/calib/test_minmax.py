# SPDX-License-Identifier: MIT
import numpy as np
import pytest

from calib.calibrators import MinMax, Naive, Percentile
from calib.observers import EMAObserver, HistogramObserver, MinMaxObserver
from quantize.errors import CalibrationError
from quantize.spec import QuantSpec


@pytest.mark.parametrize("steps", [1, 2, 50])
def test_ema_of_a_constant_reads_the_constant(steps):
    """The predecessor's average started at 0 and read 0.4 after one step of 4, 0.76 after two."""
    observer = EMAObserver()
    for _ in range(steps):
        observer.update(np.full((3, 7), 4, np.float32))
    assert observer.range() == pytest.approx((4, 4), rel=1e-12)


def test_ema_equals_its_definition():
    random = np.random.RandomState(0)
    batches = [random.rand(5, 9).astype(np.float32) for _ in range(7)]
    weights = 0.9 ** np.arange(7)[::-1]
    highs = np.array([batch.max(axis=1).mean(dtype=np.float64) for batch in batches])
    observer = EMAObserver()
    for batch in batches:
        observer.update(batch)
    assert observer.range()[1] == pytest.approx((weights * highs).sum() / weights.sum(), rel=1e-9)


def test_ema_momentum_is_checked():
    for momentum in (1.0, -0.1, 2):
        with pytest.raises(CalibrationError, match="momentum"):
            EMAObserver(momentum)
    with pytest.raises(CalibrationError, match="momentum 0.9 and 0.5"):
        EMAObserver(0.9).merge(EMAObserver(0.5))


def test_min_max_sees_both_ends():
    observer = MinMaxObserver()
    observer.update(np.float32([[-3, 1]]))
    observer.update(np.float32([[0, 2]]))
    assert observer.range() == (-3, 2)
    scale = np.float32
    assert MinMax()(observer, QuantSpec(8)).scale == scale(3) / scale(127)
    assert MinMax()(observer, QuantSpec(8, signed=False)).scale == scale(2) / scale(255)
    params = MinMax()(observer, QuantSpec(8, signed=False, symmetric=False))
    assert params.scale == scale(5) / scale(255) and params.zero_point == 153


def test_naive_uses_its_momentum():
    calibrator = Naive(momentum=0.5)
    observer = calibrator.new_observer()
    for value in (2, 4):
        observer.update(np.full((1, 1), value, np.float32))
    assert calibrator(observer, QuantSpec(8)).scale[0] * 127 == pytest.approx((2 * 0.25 + 4 * 0.5) / 0.75)


def test_a_histogram_serves_min_max_too():
    batch = np.random.RandomState(0).randn(4, 100).astype(np.float32)
    histogram, plain = HistogramObserver(), MinMaxObserver()
    histogram.update(batch)
    plain.update(batch)
    assert MinMax()(histogram, QuantSpec(8)).scale == MinMax()(plain, QuantSpec(8)).scale
    with pytest.raises(CalibrationError, match="needs a histogram observer, got minmax"):
        Percentile()(plain, QuantSpec(8))

# SPDX-License-Identifier: MIT
"""What every calibrator keeps to."""

import numpy as np
import pytest

from calib.calibrators import CALIBRATORS
from calib.observers import OBSERVERS
from quantize.errors import CalibrationError
from quantize.spec import QuantSpec

every_calibrator = pytest.mark.parametrize("name", CALIBRATORS.names())
SPECS = [QuantSpec(8), QuantSpec(4, signed=False), QuantSpec(8, signed=False, symmetric=False)]
every_spec = pytest.mark.parametrize("spec", SPECS, ids=str)


def calibrated(name, batches, spec):
    calibrator = CALIBRATORS.get(name)()
    observer = calibrator.new_observer()
    for batch in batches:
        observer.update(batch)
    return calibrator(observer, spec)


@every_calibrator
@every_spec
def test_the_observer_is_not_changed(name, spec):
    calibrator = CALIBRATORS.get(name)()
    observer = calibrator.new_observer()
    observer.update(np.random.RandomState(0).randn(4, 10).astype(np.float32))
    before = dict(observer.state())
    first, second = calibrator(observer, spec), calibrator(observer, spec)
    assert observer.state() == before
    np.testing.assert_array_equal(first.scale, second.scale)


@every_calibrator
@every_spec
def test_scaled_data_gives_a_scaled_range(name, spec):
    batches = [np.random.RandomState(i).randn(4, 50).astype(np.float32) for i in range(3)]
    one = calibrated(name, batches, spec)
    four = calibrated(name, [4 * batch for batch in batches], spec)
    np.testing.assert_allclose(four.scale, 4 * one.scale, rtol=1e-6)
    np.testing.assert_array_equal(four.zero_point, one.zero_point)


@every_calibrator
@every_spec
@pytest.mark.parametrize("value", [0.0, 4.0, -4.0])
def test_constant_data_gives_a_finite_positive_scale(name, spec, value):
    params = calibrated(name, [np.full((2, 8), value, np.float32)] * 2, spec)
    assert params.scale.shape == (1,) and np.isfinite(params.scale).all() and (params.scale > 0).all()


@every_calibrator
def test_the_wrong_observer_is_refused(name):
    calibrator = CALIBRATORS.get(name)()
    other = next(n for n in OBSERVERS.names() if n != calibrator.observer)
    with pytest.raises(CalibrationError, match=f"needs a {calibrator.observer} observer"):
        calibrator(OBSERVERS.get(other)(), QuantSpec(8))

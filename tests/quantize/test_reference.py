# SPDX-License-Identifier: MIT
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize import reference
from quantize.errors import DataError
from quantize.spec import PerChannel, PerGroup, QParams, QuantSpec


def test_rounding_rules_on_exact_halves():
    halves = np.float32([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    assert reference.round_half_away(halves).tolist() == [-3, -2, -1, 1, 2, 3]
    assert reference.round_half_even(halves).tolist() == [-2, -2, 0, 0, 2, 2]


def test_rounding_just_below_a_half():
    # adding 0.5 and truncating would give 1
    below = np.nextafter(np.float32(0.5), np.float32(0))
    assert reference.round_half_away(np.float32([below, -below])).tolist() == [0, 0]


@given(st.floats(-1000, 1000, width=32), st.floats(1 / 1024, 10, width=32), st.integers(2, 8))
def test_quantize_equals_exact_arithmetic(value, scale, bits):
    """x / s in float32, then exact rounding: half away from zero, by fractions."""
    spec = QuantSpec(bits)
    steps = Fraction(float(np.float32(value) / np.float32(scale)))
    rounded = int(abs(steps) + Fraction(1, 2)) * (1 if steps >= 0 else -1)
    expected = max(spec.qmin, min(spec.qmax, rounded))
    code = reference.quantize(np.float32([value]), QParams.symmetric([scale]), spec)
    assert code.tolist() == [expected]


def test_multiply_and_divide_forms_differ_on_a_half():
    """0.5 / s and 0.5 * (1 / s) fall on different sides of a half for some s: the two forms are told apart."""
    spec = QuantSpec(8)
    differ = 0
    for n in range(1, 127):
        x = np.float32([n + 0.5]) * np.float32(0.013)
        params = QParams.symmetric([0.013])
        divide = reference.quantize(x, params, spec)
        multiply = reference.quantize(x, params, spec, multiplier=np.float32(1) / np.float32([0.013]))
        differ += int(divide != multiply)
    assert 0 < differ < 126


def test_threshold_becomes_the_last_level():
    for spec in (QuantSpec(8), QuantSpec(4, signed=False), QuantSpec(3, grid="mid_rise")):
        x = np.float32([0.3, 1.7, 5.1])
        fq = reference.fake_quantize(x, reference.find_qparams(x, spec), spec)
        assert fq[-1] == pytest.approx(5.1, rel=1e-6)


def test_zero_tensor_gets_scale_one():
    for spec in (QuantSpec(8), QuantSpec(8, signed=False), QuantSpec(8, symmetric=False)):
        params = reference.find_qparams(np.zeros((2, 3), np.float32), spec)
        assert params.scale.tolist() == [1.0]


def test_per_channel_and_group_scales():
    x = np.arange(1, 9, dtype=np.float32).reshape(8, 1)
    channel = reference.find_qparams(x, QuantSpec(8, granularity=PerChannel())).scale.ravel()
    np.testing.assert_array_equal(channel, x.ravel() / np.float32(127))
    group = reference.find_qparams(x, QuantSpec(8, granularity=PerGroup(2))).scale.ravel()
    np.testing.assert_array_equal(group, np.float32([4, 8]) / np.float32(127))


def test_asymmetric_range_represents_zero_exactly():
    spec = QuantSpec(8, signed=False, symmetric=False)
    x = np.float32([-0.7, 0.0, 2.3])
    params = reference.find_qparams(x, spec)
    assert 0 < params.zero_point[0] < 255
    fq = reference.fake_quantize(x, params, spec)
    assert fq[1] == 0 and np.abs(fq - x).max() <= params.scale[0] / 2 * 1.001


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_refused(bad):
    with pytest.raises(DataError, match="NaN or infinity"):
        reference.find_qparams(np.float32([1, bad]), QuantSpec(8))
    with pytest.raises(DataError, match="finite"):
        reference.qparams_from_threshold(np.float32([bad]), QuantSpec(8))


def test_gradient_keeps_the_largest_element():
    """The element that set the scale is inside, although x / s may exceed qmax by one ulp."""
    spec = QuantSpec(8)
    random = np.random.RandomState(0)
    above = 0
    for _ in range(200):
        x = random.randn(50).astype(np.float32)
        params = reference.find_qparams(x, spec)
        above += int((np.abs(x) / params.scale > 127).any())
        assert reference.ste_gradient(x, np.ones_like(x), params, spec).all()
    assert above > 0

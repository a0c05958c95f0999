# SPDX-License-Identifier: MIT
"""Fused multiply-add against exact rational arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.targets.ncnn.fma import fma


def nearest(value: Fraction) -> np.float32:
    """The float32 nearest to an exact value, of two that are as near the even one."""
    guess = np.float32(float(value))
    near = [guess, np.nextafter(guess, np.float32(np.inf)), np.nextafter(guess, np.float32(-np.inf))]
    finite = [x for x in near if np.isfinite(x)]
    return min(finite, key=lambda x: (abs(Fraction(float(x)) - value), int(x.view(np.int32)) & 1))


def exact(x, scale, shift):
    return nearest(Fraction(float(x)) * Fraction(float(scale)) + Fraction(float(shift)))


def patterned(rng, count, low, high):
    """float32 numbers with exponents from 2**low to 2**high and few or many bits, as halves and near misses have."""
    mantissa = rng.randint(0, 2 ** 23, count) & rng.choice([0x7FFFFF, 0x7FF000, 0x7FFFFE, 1, 0x400001], count)
    bits = mantissa | rng.randint(low + 127, high + 127, count) << 23 | rng.randint(0, 2, count) << 31
    return bits.astype(np.uint32).view(np.float32)


@pytest.mark.parametrize("product, addend", [
    ((-7, 3), (-37, 23)), ((-66, -56), (-126, -86)), ((-60, -50), (-126, -110)), ((-126, 0), (-126, 127))])
def test_one_rounding(product, addend):
    """Also where results are subnormal, cancel, or lie half way between two numbers."""
    rng = np.random.RandomState(0)
    count = 4000
    x, scale, shift = patterned(rng, count, *product), patterned(rng, count, *product), patterned(rng, count, *addend)
    got = fma(x.reshape(1, count), scale, shift)[0]
    np.testing.assert_array_equal(got, [exact(*values) for values in zip(x, scale, shift)])


def test_rounding_twice_would_differ():
    """The product is a little less than half of the sum's last place: float64 drops the little."""
    x, scale = np.float32([[1 + 2.0 ** -23]]), np.float32(2.0 ** -24 * (1 - 2.0 ** -23))
    shift = np.float32(1 + 2.0 ** -23)
    twice = np.float32(np.float64(x[0, 0]) * np.float64(scale) + np.float64(shift))
    expected = exact(x[0, 0], scale, shift)
    assert twice != expected
    assert fma(x, scale, shift)[0, 0] == expected


floats = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-2.0 ** 60, max_value=2.0 ** 60)


@given(floats, floats, floats)
def test_any_numbers(x, scale, shift):
    assert fma(np.float32([[x]]), scale, shift)[0, 0] == exact(np.float32(x), np.float32(scale), np.float32(shift))


@given(st.integers(-2 ** 24, 2 ** 24), st.floats(2.0 ** -24, 1, width=32), st.floats(-20, 20, width=32))
def test_sums_of_products(accumulator, scale, bias):
    assert fma(np.float32([[accumulator]]), scale, bias)[0, 0] == exact(accumulator, scale, bias)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 5), (1, 2, 300, 300), (3, 40000)])
def test_channels_and_blocks(shape):
    rng = np.random.RandomState(1)
    x, scale, shift = rng.randn(*shape).astype(np.float32), rng.rand(shape[1]), rng.rand(shape[1])
    wide = (1, -1) + (1,) * (len(shape) - 2)
    scale, shift = scale.astype(np.float32), shift.astype(np.float32)
    product = x.astype(np.float64) * scale.reshape(wide).astype(np.float64) + shift.reshape(wide)
    got = fma(x, scale, shift)
    assert got.dtype == np.float32 and got.shape == shape
    assert (np.abs(got - product) <= 2.0 ** -24 * np.maximum(np.abs(product), 2.0 ** -100) * (1 + 1e-6)).all()
    np.testing.assert_array_equal(fma(x[:, ::2], scale[::2], shift[::2]), got[:, ::2])

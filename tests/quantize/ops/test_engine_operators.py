# SPDX-License-Identifier: MIT
"""The operators of exact simulations, against arithmetic on fractions, element by element."""

from fractions import Fraction

import mxnet as mx
import numpy as np
import pytest

from quantize import ops
from quantize.ops import native

ALMOST_HALF = np.float32(0.49999997)


def nearest_float32(value: Fraction) -> np.float32:
    """`value` rounded once to float32, halves to even."""
    start = np.float32(float(value))
    candidates = [np.nextafter(start, np.float32(-np.inf)), start, np.nextafter(start, np.float32(np.inf))]
    return min(candidates, key=lambda c: (abs(Fraction(float(c)) - value), int(np.float32(c).view(np.int32)) & 1))


def multiply_add_reference(x, factor, term):
    """x * factor + term of scalars, rounded once."""
    return nearest_float32(Fraction(float(x)) * Fraction(float(factor)) + Fraction(float(term)))


def multiply_add(x, factor, term, backend):
    """The operator on scalars, each a channel of its own."""
    x, factor, term = (np.asarray(v, np.float32).reshape(-1) for v in (x, factor, term))
    y = ops.multiply_add(mx.nd, mx.nd.array(x.reshape(1, -1, 1)), mx.nd.array(factor), mx.nd.array(term), using=backend)
    return y.asnumpy().reshape(-1)


def codes_reference(x, multiplier, qmax, run):
    """One element after the other, as the loops of ncnn's x86 kernels do it."""
    y = np.zeros(x.size, np.float32)
    for i, value in enumerate(np.asarray(x, np.float32).reshape(-1)):
        steps = np.float32(value * np.float32(multiplier))
        if not steps < 2.0 ** 31:
            y[i] = -qmax
        elif i % run < run // 4 * 4:
            y[i] = np.clip(np.trunc(np.float32(steps + np.copysign(np.float32(0.5), steps))), -qmax, qmax)
        else:
            size = abs(float(steps))
            y[i] = np.clip(np.copysign(np.floor(size) + (size - np.floor(size) >= 0.5), steps), -qmax, qmax)
    return y.reshape(x.shape)


def test_one_rounding_on_random_sums(backend):
    rng = np.random.RandomState(1)
    x = rng.randint(-2 ** 24, 2 ** 24, 3000).astype(np.float32)
    factor, term = (10.0 ** rng.uniform(-8, 1, (2, 3000)) * rng.choice([-1, 1], (2, 3000))).astype(np.float32)
    y = multiply_add(x, factor, term, backend)
    assert y.tolist() == [multiply_add_reference(*v) for v in zip(x, factor, term)]
    assert (y != x * factor + term).any(), "two roundings would not be told apart"


def test_one_rounding_where_two_meet_half_way(backend):
    """(2^24 + 2) + 1 -+ tiny lies next to the middle of two float32, and float64 rounds it to the very middle."""
    low, tiny = np.float32(2 ** 24 + 2), np.float32(2.0 ** -60)
    x, factor, term = zip(*((s * v, s, t) for v in (low, np.float32(2 ** 24 + 6)) for s in (1, -1)
                            for t in (1, -1, 1 + tiny, 0)))
    cases = list(zip(x, factor, term))
    cases += [(a * np.float32(2 ** 12 + 1), np.float32(2 ** 12 + 1), b) for a in (1, -1) for b in (tiny, -tiny, 0)]
    cases += [(a, 1 + np.float32(2.0 ** -23), b) for a in (3, 5, 2 ** 23 + 1) for b in (tiny, -tiny, 2.0 ** -24, 0)]
    y = multiply_add(*zip(*cases), backend)
    assert y.tolist() == [multiply_add_reference(*np.float32(v)) for v in cases]
    twice = [np.float32(np.float64(np.float32(a)) * np.float32(b) + np.float32(c)) for a, b, c in cases]
    assert y.tolist() != twice, "rounding to float64 first would not be told apart"


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 5), (1, 1, 40000), (3, 2, 1, 7)])
def test_channels_have_their_own_numbers(backend, shape):
    rng = np.random.RandomState(2)
    x = rng.normal(size=shape).astype(np.float32)
    factor, term = rng.normal(size=(2, shape[1])).astype(np.float32)
    y = ops.multiply_add(mx.nd, mx.nd.array(x), mx.nd.array(factor), mx.nd.array(term), using=backend).asnumpy()
    for n, c in np.ndindex(*shape[:2]):
        some = np.atleast_1d(x[n, c]).reshape(-1)[:50]
        assert np.atleast_1d(y[n, c]).reshape(-1)[:50].tolist() == [
            multiply_add_reference(v, factor[c], term[c]) for v in some]


@pytest.mark.parametrize("run", [1, 2, 3, 4, 7, 12, 84])
def test_codes_follow_the_engines_loops(backend, run):
    rng = np.random.RandomState(3)
    x = rng.normal(size=(2, 3, 7, 12)).astype(np.float32) * 60
    x.reshape(-1)[::5] = rng.randint(-200, 200, x.reshape(-1)[::5].shape) / 2 * 4  # exact halves
    x.reshape(-1)[::3] = np.resize(ALMOST_HALF * np.float32([4, -4, 1]), x.reshape(-1)[::3].shape)
    got = ops.integer_codes(mx.nd, mx.nd.array(x), mx.nd.array([0.25]), 127, run, using=backend).asnumpy()
    assert np.array_equal(got, codes_reference(x, 0.25, 127, run))


def test_codes_of_what_is_no_number_or_too_large(backend):
    x = np.float32([np.inf, -np.inf, np.nan, 2.0 ** 31, 2.0 ** 31 - 128, -2.0 ** 40, 1e9, 126.5, -127.4, 0, -0.2, 3e38])
    for run in (1, 3, 12):
        got = ops.integer_codes(mx.nd, mx.nd.array(x), mx.nd.ones(1), 127, run, using=backend).asnumpy()
        assert got.tolist() == [-127, -127, -127, -127, 127, -127, 127, 127, -127, 0, 0, -127]


def test_both_back_ends_agree_inside_a_graph(backend):
    x, multiplier, factor, term = (mx.sym.var(name) for name in ("x", "multiplier", "factor", "term"))
    y = ops.multiply_add(mx.sym, ops.integer_codes(mx.sym, x, multiplier, 31, 12, using=backend), factor, term,
                         using=backend)
    values = dict(x=mx.nd.random.normal(shape=(2, 3, 3, 4)), multiplier=mx.nd.array([9.7]),
                  factor=mx.nd.array([0.1, 0.7, -3]), term=mx.nd.array([1 / 3, 1e-3, 7]))
    found = y.bind(mx.cpu(), values).forward()[0].asnumpy()
    codes = codes_reference(values["x"].asnumpy(), 9.7, 31, 12)
    numbers = list(zip(values["factor"].asnumpy(), values["term"].asnumpy())) * 2
    expected = [[multiply_add_reference(v, *pair) for v in plane] for plane, pair in zip(codes.reshape(6, -1), numbers)]
    assert found.reshape(6, -1).tolist() == expected


@pytest.mark.skipif(bool(native.why_not()), reason=native.why_not() or "present")
@pytest.mark.parametrize("call, message", [
    (lambda: mx.nd.fq_codes(mx.nd.ones(6), mx.nd.ones(1), qmax=127, run=4), "fq_codes: run must divide the 6 elements"),
    (lambda: mx.nd.fq_codes(mx.nd.ones(6), mx.nd.zeros(1), qmax=127, run=6), "fq_codes: multiplier must be positive"),
    (lambda: mx.nd.fq_codes(mx.nd.ones(6), mx.nd.ones(1), run=6), "fq_codes: qmax must be at least 1"),
    (lambda: mx.nd.fq_multiply_add(mx.nd.ones((2, 3)), mx.nd.ones(2), mx.nd.ones(3)),
     r"fq_multiply_add: factor must have the shape \(3\), got \(2\)"),
    (lambda: mx.nd.fq_multiply_add(mx.nd.ones(3), mx.nd.ones(3), mx.nd.ones(3)), "no axis of channels"),
])
def test_wrong_inputs_are_named(call, message):
    with pytest.raises(mx.MXNetError, match=message):
        call().wait_to_read()

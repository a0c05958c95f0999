# SPDX-License-Identifier: MIT
"""Every operator on every back end against the NumPy references: values bit for bit, gradients to 1e-6 relative.

(Fake quantization over all formats is in tests/contract/test_fake_quantizers.py.)
"""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

from calib.observers import EMAObserver
from quantize import ops, reference
from quantize import reference_trained as trained
from quantize.spec import PerChannel, PerGroup, QParams, QuantSpec

SHAPE = (6, 8, 5, 7)
hybridized = pytest.mark.parametrize("hybridize", [False, True])


class Operator(mx.gluon.HybridBlock):
    """One operator as a block: its first input is data, the others are parameters."""

    def __init__(self, function, **parameters):
        super().__init__()
        self.function = function
        for name, value in parameters.items():
            parameter = self.params.get(name, shape=np.shape(value), init=mx.init.Constant(mx.nd.array(value)))
            setattr(self, name, parameter)
        self.initialize()

    def hybrid_forward(self, F, x, **parameters):
        return self.function(F, x, **parameters)


def data(special=(), shape=SHAPE, seed=0):
    random = np.random.RandomState(seed)
    x = (random.randn(*shape) * 2).astype(np.float32)
    special = np.float32(list(special) + [0, -0.0])
    return np.where(random.rand(*shape) < 0.5, random.choice(special, shape), x).astype(np.float32)


def run(block, x, hybridize, dy=None):
    """(value, gradient of x) of a block; gradients of its parameters are left in them."""
    block.hybridize(hybridize)
    x_nd = mx.nd.array(x)
    x_nd.attach_grad()
    with autograd.record():
        y = block(x_nd)
    y.backward(mx.nd.array(np.ones_like(x) if dy is None else dy))
    return y.asnumpy(), x_nd.grad.asnumpy()


def halves(spec, scale):
    return [scale * step for step in (spec.qmin - 1, spec.qmin - 0.5, spec.qmin, -1.5, -0.5, 0.5, 1.5, 2.5, spec.qmax,
                                      spec.qmax + 0.5, spec.qmax + 1, 1e9, -1e9)]


@hybridized
@pytest.mark.parametrize("spec", [
    QuantSpec(8), QuantSpec(3, signed=False), QuantSpec(4, rounding="half_even"),
    QuantSpec(8, granularity=PerChannel()), QuantSpec(4, granularity=PerChannel(1)),
    QuantSpec(2, granularity=PerGroup(2, 1)), QuantSpec(1, grid="mid_rise"),
    QuantSpec(2, granularity=PerChannel(1), grid="mid_rise")], ids=str)
@pytest.mark.parametrize("grad_scale", [None, 0.25])
def test_lsq(spec, grad_scale, hybridize, backend):
    shape = spec.scale_shape(SHAPE)
    step = (2.0 ** -np.arange(2, 2 + np.prod(shape))).astype(np.float32).reshape(shape)
    x, dy = data(halves(spec, 0.25)), data(seed=1)
    block = Operator(lambda F, x, step: ops.lsq(F, x, step, spec, grad_scale, using=backend), step=step)
    y, dx = run(block, x, hybridize, dy)
    expected_dx, expected_dstep = trained.lsq_gradient(x, dy, step, spec, grad_scale)
    np.testing.assert_array_equal(y, trained.lsq(x, step, spec))
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-6)
    np.testing.assert_allclose(block.step.grad().asnumpy(), expected_dstep, rtol=1e-6,
                               atol=1e-6 * np.abs(expected_dstep).max())


@hybridized
@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("levels", [1, 7, 255])
def test_pact(levels, calibrated, hybridize, backend):
    alpha = np.float32([1.5])
    x, dy = data([1.5, 1.4999, 1.6, 0.75, 100, -100, 1.5 / levels / 2]), data(seed=1)
    block = Operator(lambda F, x, alpha: ops.pact(F, x, alpha, levels, calibrated, using=backend), alpha=alpha)
    y, dx = run(block, x, hybridize, dy)
    expected_dx, expected_dalpha = trained.pact_gradient(x, dy, alpha[0], levels, calibrated)
    np.testing.assert_array_equal(y, trained.pact(x, alpha[0], levels))
    np.testing.assert_array_equal(dx, expected_dx)
    np.testing.assert_allclose(block.alpha.grad().asnumpy(), expected_dalpha, rtol=1e-6)


@hybridized
@pytest.mark.parametrize("levels", [0, 1, 3, 15, 255])
def test_dorefa(levels, hybridize, backend):
    w, dy = data(), data(seed=1)
    y, dw = run(Operator(lambda F, x: ops.dorefa(F, x, levels, using=backend)), w, hybridize, dy)
    np.testing.assert_array_equal(y, trained.dorefa(w, levels))
    np.testing.assert_allclose(dw, trained.dorefa_gradient(w, dy), rtol=1e-6, atol=1e-12)
    zeros, _ = run(Operator(lambda F, x: ops.dorefa(F, x, 0, using=backend)), np.zeros((2, 3), np.float32), hybridize)
    assert not zeros.any()


@hybridized
def test_sign(hybridize, backend):
    x, dy = data([1, -1, 1.0001, -1.0001]), data(seed=1)
    y, dx = run(Operator(lambda F, x: ops.sign(F, x, using=backend)), x, hybridize, dy)
    np.testing.assert_array_equal(y, trained.sign(x))
    np.testing.assert_array_equal(dx, trained.sign_gradient(x, dy))


@hybridized
@pytest.mark.parametrize("spec", [QuantSpec(8), QuantSpec(4, granularity=PerChannel(1)),
                                  QuantSpec(8, rounding="half_even"), QuantSpec(3, grid="mid_rise")], ids=str)
def test_multiply_form(spec, hybridize, backend):
    shape = spec.scale_shape(SHAPE)
    scale = np.full(shape, 0.013, np.float32)
    multiplier = np.float32(1) / scale
    x = data([(n + 0.5) * np.float32(0.013) for n in range(-126, 126)])
    block = Operator(lambda F, x, scale, multiplier: ops.fake_quantize(
        F, x, scale, spec, multiplier=multiplier, using=backend), scale=scale, multiplier=multiplier)
    params = QParams.symmetric(scale)
    y, _ = run(block, x, hybridize)
    np.testing.assert_array_equal(y, reference.fake_quantize(x, params, spec, multiplier))
    if spec.grid == "mid_tread":  # the data tells the two forms apart
        assert (reference.quantize(x, params, spec, multiplier) != reference.quantize(x, params, spec)).any()


@pytest.mark.parametrize("spec", [QuantSpec(8), QuantSpec(4, signed=False), QuantSpec(8, False, symmetric=False)],
                         ids=str)
def test_tracking_follows_the_observer(spec, backend):
    state, observer = mx.nd.zeros(3), EMAObserver(0.75)
    for seed in range(4):
        x = np.abs(data(seed=seed)) * (1 + seed) if not spec.signed else data(seed=seed)
        y = ops.tracking_fake_quantize(mx.nd, mx.nd.array(x), state, spec, 0.75, using=backend)
        observer.update(x)
        low, high = observer.range()
        params = reference.qparams_of_range(low, high, spec)
        np.testing.assert_allclose(state.asnumpy(), [observer.low, observer.high, observer.weight], rtol=1e-5)
        expected = reference.fake_quantize(x, params, spec)
        assert np.abs(y.asnumpy() - expected).max() <= params.scale[0] * 1.01
        assert np.mean(np.abs(y.asnumpy() - expected) < 1e-4) > 0.99


def test_odd_sizes_and_short_rows(backend):
    """Tails of vector loops, and parts of one element."""
    for shape in [(1,), (3,), (33,), (70001,), (5, 1), (40000, 2), (2, 3, 1, 1)]:
        x = data(shape=shape)
        axes = [None] + list(range(len(shape)))
        for axis in axes:
            spec = QuantSpec(6) if axis is None else QuantSpec(6, granularity=PerChannel(axis))
            y = ops.online_fake_quantize(mx.nd, mx.nd.array(x), spec, using=backend)
            expected = reference.fake_quantize(x, reference.find_qparams(x, spec), spec)
            np.testing.assert_array_equal(y.asnumpy(), expected)


def test_nan_stays_nan(backend):
    x = mx.nd.array([1, float("nan"), 2])
    y = ops.fake_quantize(mx.nd, x, mx.nd.array([0.1]), QuantSpec(8), using=backend).asnumpy()
    assert np.isnan(y).tolist() == [False, True, False]

# SPDX-License-Identifier: MIT
"""Gradients of the numbers that quantizers train, their starts, and options, against `quantize.reference_trained`."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import nn

from quantize import reference
from quantize import reference_trained as trained
from quantize.convert import convert_model
from quantize.errors import CalibrationError, ConfigError
from quantize.modes import quantizers, set_mode
from quantize.nn import (
    CGPACTFakeQuantize,
    DoReFaActivation,
    LSQActivation,
    LSQFakeQuantize,
    LSQPlusFakeQuantize,
    LSQPlusWeight,
    PACTFakeQuantize,
    SATWeight,
)
from quantize.nn.lsq import LEAST_RATIO
from quantize.ops import native, quantize_gradient
from quantize.spec import PerChannel, PerGroup, QParams, QuantSpec
from quantize.train import set_clamp_only

SHAPE = (6, 4, 5, 3)
hybridized = pytest.mark.parametrize("hybridize", [False, True])


def data(seed=0, offset=0.0):
    return (np.random.RandomState(seed).randn(*SHAPE) + offset).astype(np.float32)


def gradients(block, x, dy, hybridize):
    """(y, dx) of a block; gradients of its parameters are left in them."""
    block.hybridize(hybridize)
    x = mx.nd.array(x)
    x.attach_grad()
    with autograd.record():
        y = block(x)
    y.backward(mx.nd.array(dy))
    return y.asnumpy(), x.grad.asnumpy()


def calibrated(block, scale, using, zero_point=None):
    block.initialize()
    block.backend = using
    block.set_qparams(QParams.symmetric(scale) if zero_point is None else QParams(np.float32(scale), zero_point))
    block.mode = "offline"
    return block


@hybridized
@pytest.mark.parametrize("growth", [0.0, 0.75, -0.5, -3.0, -50.0])
@pytest.mark.parametrize("cls, images, spec", [
    (cls, images, spec) for cls, images in ((LSQFakeQuantize, 1), (LSQActivation, SHAPE[0]))
    for spec in (QuantSpec(4), QuantSpec(2, narrow=False, granularity=PerChannel()),
                 QuantSpec(3, granularity=PerGroup(2, 1)), QuantSpec(4, signed=False))
] + [(LSQFakeQuantize, 1, QuantSpec(1, grid="mid_rise", granularity=PerChannel()))], ids=str)
def test_lsq_trains_its_growth(cls, images, spec, growth, hybridize, backend):
    """The operator's n counts the batch; that of activations is of one image."""
    shape = spec.scale_shape(SHAPE)
    start = np.linspace(0.1, 0.4, int(np.prod(shape))).astype(np.float32).reshape(shape)
    block = calibrated(cls(spec, shape), start, backend)
    block.growth.set_data(mx.nd.full(shape, growth))
    x, dy = data(), data(1)
    y, dx = gradients(block, x, dy, hybridize)
    step = block.get_qparams().scale
    ratio = 1 + growth if growth >= 0 else max(np.exp(growth), LEAST_RATIO)
    np.testing.assert_allclose(step, start * ratio, rtol=1e-6)
    grad_scale = 1 / np.sqrt(x.size / images / np.size(step) * spec.positive_levels)
    expected_dx, dstep = trained.lsq_gradient(x, dy, step, spec, grad_scale)
    slope = 1 if growth >= 0 else np.exp(growth) * (ratio > LEAST_RATIO)
    np.testing.assert_array_equal(y, trained.lsq(x, step, spec))
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-6)
    np.testing.assert_allclose(block.growth.grad().asnumpy(), dstep * slope / start, rtol=1e-5,
                               atol=1e-6 * np.abs(dstep / start).max())


def test_one_step_of_gradient_descent_moves_the_step_as_lsq_does(backend):
    spec, rate = QuantSpec(4), 1e-3
    block = calibrated(LSQFakeQuantize(spec), [0.3], backend)
    x, dy = data(), data(1)
    dstep = trained.lsq_gradient(x, dy, np.float32([0.3]), spec)[1]
    trainer = mx.gluon.Trainer(block.collect_params(), "sgd", {"learning_rate": rate, "wd": 0.5}, kvstore=None)
    gradients(block, x, dy, False)
    trainer.step(1)
    moved = block.get_qparams().scale - np.float32(0.3)
    np.testing.assert_allclose(moved, -rate * dstep, rtol=0.01)


def test_a_step_stays_positive_whatever_the_optimizer_does(backend):
    block = calibrated(LSQFakeQuantize(QuantSpec(4)), [0.3], backend)
    for growth in (-1e30, -100, -1, 0, 100):
        block.growth.set_data(mx.nd.array([growth]))
        step = block.get_qparams().scale
        assert step > 0 and np.isfinite(block(mx.nd.array(data())).asnumpy()).all()


def test_starts():
    x = data() * 0.1
    for spec in (QuantSpec(4), QuantSpec(2, granularity=PerChannel())):
        block = LSQFakeQuantize(spec, spec.scale_shape(SHAPE))
        block.start(x)
        axes = (1, 2, 3) if spec.granularity == PerChannel() else (0, 1, 2, 3)
        expected = 2 * np.abs(x).mean(axis=axes) / np.sqrt(spec.qmax)
        np.testing.assert_allclose(block.get_qparams().scale.ravel(), expected.ravel(), rtol=1e-6)
        plus = LSQPlusWeight(spec, spec.scale_shape(SHAPE))
        plus.start(x)
        mean, std = x.mean(axis=axes), x.std(axis=axes)
        expected = np.maximum(np.abs(mean - 3 * std), np.abs(mean + 3 * std)) / 2 ** (spec.bits - 1)
        np.testing.assert_allclose(plus.get_qparams().scale.ravel(), expected.ravel(), rtol=1e-5)


def test_one_bit_starts_with_the_step_of_least_error():
    """Levels of +-mean|x|, as XNOR-Net (arXiv:1603.05279, section 3.1) has them."""
    x, spec = data() * 0.1, QuantSpec(1, grid="mid_rise")
    step = trained.lsq_start(x, spec)
    np.testing.assert_allclose(step / 2, np.abs(x).mean(), rtol=1e-6)
    errors = [np.square(trained.lsq(x, step * factor, spec) - x).sum() for factor in (0.9, 1, 1.1)]
    assert min(errors) == errors[1]


def test_the_gradient_towards_a_one_bit_step_is_that_of_its_levels():
    """By hand: levels +-s / 2, inside |x| <= s the slope is y / s - x / s, outside y / s."""
    spec, x, ones = QuantSpec(1, grid="mid_rise"), np.float32([-3, -0.5, 0, 0.25, 2, 3]), np.ones(6, np.float32)
    np.testing.assert_array_equal(trained.lsq(x, np.float32([2]), spec), [-1, -1, 1, 1, 1, 1])
    dx, dstep = trained.lsq_gradient(x, ones, np.float32([2]), spec, 1.0)
    np.testing.assert_array_equal(dx, [0, 1, 1, 1, 1, 0])
    assert dstep == -0.5 + (-0.5 + 0.25) + 0.5 + (0.5 - 0.125) + (0.5 - 1) + 0.5
    np.testing.assert_allclose(trained.lsq_gradient(x, ones, np.float32([2]), spec)[1], dstep / np.sqrt(6), rtol=1e-6)


def test_a_dead_channel_starts_with_the_largest_step_of_the_others():
    x = data()
    x[2] = 0
    steps = trained.lsq_start(x, QuantSpec(4, granularity=PerChannel())).ravel()
    assert steps[2] == steps.max() and (steps > 0).all()
    assert trained.lsq_start(np.zeros(SHAPE), QuantSpec(4)) == [1]


@hybridized
@pytest.mark.parametrize("spec", [QuantSpec(4, signed=False, symmetric=False), QuantSpec(3, symmetric=False),
                                  QuantSpec(4, symmetric=False, rounding="half_even", granularity=PerChannel(1))],
                         ids=str)
def test_lsq_plus_trains_step_and_offset(spec, hybridize, backend):
    shape = spec.scale_shape(SHAPE)
    start = np.linspace(0.15, 0.25, int(np.prod(shape))).astype(np.float32).reshape(shape)
    block = calibrated(LSQPlusFakeQuantize(spec, shape), start, backend, np.full(shape, spec.qmin + 2, np.int32))
    block.growth.set_data(mx.nd.full(shape, 0.25))
    block.offset.set_data(mx.nd.full(shape, -1.7))
    x, dy = data(offset=1), data(1)
    y, dx = gradients(block, x, dy, hybridize)
    qparams = block.get_qparams()
    np.testing.assert_array_equal(y, reference.fake_quantize(x, qparams, spec))
    offset = start * np.float32(-1.7)
    np.testing.assert_array_equal(y, trained.lsq_plus(x, qparams.scale, offset, spec))
    expected_dx, dstep, doffset = trained.lsq_plus_gradient(x, dy, qparams.scale, offset, spec)
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-6)
    for name, expected in (("growth", dstep / start), ("offset", doffset / start)):
        expected = expected * np.sqrt(SHAPE[0])
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(getattr(block, name).grad().asnumpy(), expected, rtol=1e-5,
                                   atol=1e-5 * np.abs(expected).max())


def test_lsq_plus_learns_its_range():
    """From 0 to 1.5 at first, of values from -1 to 3."""
    x = mx.nd.random.uniform(-1, 3, shape=(1000,))
    block = calibrated(LSQPlusFakeQuantize(QuantSpec(4, signed=False)), [0.1], "auto", np.array([0], np.int32))
    trainer = mx.gluon.Trainer(block.collect_params(), "adam", {"learning_rate": 0.1}, kvstore=None)
    losses = []
    for _ in range(150):
        with autograd.record():
            loss = ((block(x) - x) ** 2).mean()
        loss.backward()
        trainer.step(1)
        losses.append(loss.asscalar())
    found = block.get_qparams()
    low, high = found.scale * (0 - found.zero_point), found.scale * (15 - found.zero_point)
    assert losses[-1] < 0.05 * losses[0] and abs(low + 1) < 0.3 and abs(high - 3) < 0.3


@hybridized
@pytest.mark.parametrize("cls", [PACTFakeQuantize, CGPACTFakeQuantize, DoReFaActivation])
@pytest.mark.parametrize("levels", [1, 15, 255])
def test_pact_trains_alpha(cls, levels, hybridize, backend):
    block = cls(QuantSpec(8, signed=False, levels=levels), alpha=1.25)
    block.initialize()
    block.backend = backend
    x, dy = data(), data(1)
    y, dx = gradients(block, x, dy, hybridize)
    expected_dx, dalpha = trained.pact_gradient(x, dy, 1.25, levels, cls is CGPACTFakeQuantize)
    np.testing.assert_array_equal(y, trained.pact(x, 1.25, levels))
    np.testing.assert_array_equal(dx, expected_dx)
    if cls is DoReFaActivation:
        assert block.trained == () and block.alpha.grad_req == "null"
    else:
        np.testing.assert_allclose(block.alpha.grad().asnumpy(), dalpha, rtol=1e-5)


def test_starts_of_clips():
    made = [cls(QuantSpec(4, signed=False)) for cls in (PACTFakeQuantize, CGPACTFakeQuantize, DoReFaActivation)]
    for block in made:
        block.initialize()
    assert [float(block.threshold) for block in made] == [8.0, 8.0, 1.0]


@hybridized
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_sat_scales_weights(bits, hybridize, backend):
    spec = QuantSpec(bits, grid="mid_rise")
    block = SATWeight(spec, scaling=True, fan_out=24)
    block.initialize()
    block.backend = backend
    w, dy = data(), data(1)
    y, dw = gradients(block, w, dy, hybridize)
    q = trained.dorefa(w, 2 ** bits - 1)
    factor = trained.sat_factor(q, 24)
    np.testing.assert_allclose(y, q * factor, rtol=1e-6)
    np.testing.assert_allclose(dw, trained.dorefa_gradient(w, dy) * factor, rtol=1e-5)
    np.testing.assert_allclose(y.var(), 1 / 24, rtol=1e-5)
    fixed = block.fix(mx.nd.array(w)).asnumpy()
    np.testing.assert_allclose(block.get_qparams().scale, 2 / (2 ** bits - 1) * factor, rtol=1e-6)
    np.testing.assert_allclose(fixed, reference.fake_quantize(fixed, block.get_qparams(), spec), atol=1e-6)
    block._clear_cached_op()
    block.clamp_only = True
    clamped, dw = gradients(block, w, dy, hybridize)
    factor = trained.sat_factor(trained.dorefa(w, 0), 24)
    np.testing.assert_allclose(clamped, trained.dorefa(w, 0) * factor, rtol=1e-6)
    np.testing.assert_allclose(dw, trained.dorefa_gradient(w, dy) * factor, rtol=1e-5)
    with pytest.raises(CalibrationError, match="only clamped"):
        block.fix(mx.nd.array(w))


def test_equal_weights_keep_their_scale():
    block = SATWeight(QuantSpec(4, grid="mid_rise"), scaling=True, fan_out=9)
    block.initialize()
    assert (block(mx.nd.ones((2, 3))).asnumpy() == 1).all()


def test_scaling_is_for_layers_without_batchnorm(small_net, images):
    """N2D2's ApplyScaling: on for fully-connected layers, off for convolutions followed by BatchNorm."""
    net = convert_model(small_net, config_list=[{"weight": "int4", "input": "auto4", "method": "sat"}])
    assert [layer.weight_quantizer.scaling for layer in (net[0], net[3], net[6])] == [False, False, True]
    assert net[6].weight_quantizer.fan_out == 5 and net[3].weight_quantizer.fan_out == 8 * 9
    before = net(images).asnumpy()
    set_clamp_only(net)
    assert np.abs(net(images).asnumpy() - before).max() > 0
    set_clamp_only(net, False)
    np.testing.assert_array_equal(net(images).asnumpy(), before)


def test_clamping_a_network_without_sat_is_an_error(small_net):
    with pytest.raises(ConfigError, match="no weights are quantized with method 'sat'"):
        set_clamp_only(convert_model(small_net))


@hybridized
@pytest.mark.parametrize("bits", [1, 2, 6, 8])
def test_gradients_are_rounded(bits, hybridize):
    if native.why_not():
        pytest.skip(native.why_not())
    class Passes(nn.HybridBlock):
        def hybrid_forward(self, F, x, noise):
            return F.fq_gradient(x * 1, noise, levels=2 ** bits - 1)
    block = Passes()
    block.hybridize(hybridize)
    x, dy = mx.nd.array(data()), data(1)
    dy[3] = 0
    noise = np.random.RandomState(2).uniform(-0.5, 0.5, SHAPE).astype(np.float32)
    x.attach_grad()
    with autograd.record():
        y = block(x, mx.nd.array(noise))
    y.backward(mx.nd.array(dy))
    np.testing.assert_array_equal(y.asnumpy(), x.asnumpy())
    expected = trained.dorefa_quantized_gradient(dy, noise, bits)
    np.testing.assert_allclose(x.grad.asnumpy(), expected, rtol=1e-6, atol=1e-7)
    for image in range(6):
        assert len(np.unique(np.round(x.grad.asnumpy()[image], 5))) <= 2 ** bits


@hybridized
def test_rounded_gradients_are_right_on_average(hybridize):
    if native.why_not():
        pytest.skip(native.why_not())

    class Passes(nn.HybridBlock):
        def hybrid_forward(self, F, x):
            return quantize_gradient(F, x * 1, 2)
    block = Passes()
    block.hybridize(hybridize)
    x, dy, total = mx.nd.array(data()), data(1), 0
    x.attach_grad()
    for _ in range(400):
        with autograd.record():
            y = block(x)
        y.backward(mx.nd.array(dy))
        total = total + x.grad.asnumpy()
    assert np.abs(total / 400 - dy).max() < 0.4 and len(np.unique(x.grad.asnumpy()[0])) <= 4


def test_gradient_bits_are_an_option_of_a_layer(small_net, images):
    if native.why_not():
        pytest.skip(native.why_not())
    net = convert_model(small_net, config_list=[
        {"op_names": ["3"], "weight": "int4", "method": "dorefa", "options": {"gradient_bits": 1}}])
    assert [net[i].gradient_bits for i in (0, 3, 6)] == [None, 1, None]
    with autograd.record():
        loss = net(images).sum()
    loss.backward()
    assert np.isfinite(net[0].weight.grad().asnumpy()).all() and np.abs(net[0].weight.grad().asnumpy()).max() > 0


def test_every_quantizer_is_found_under_its_path(small_net):
    net = convert_model(small_net, config_list=[{"weight": "int4/channel", "input": "auto4", "method": "lsq"}])
    found = dict(quantizers(net))
    assert isinstance(found["0.weight_quantizer"], LSQFakeQuantize) and found["0.weight_quantizer"].mode == "offline"
    with pytest.raises(CalibrationError, match="0.input_quantizer"):
        set_mode(net, "offline")

# SPDX-License-Identifier: MIT
"""Quantization.MXNet's `update_ema`: which batches count, and in which modes."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import nn

from quantize.convert import convert_model
from quantize.errors import ConfigError
from quantize.modes import quantizers


def scaled(images, factor):
    return images * factor


def first(net):
    return next(quantizer for _, quantizer in quantizers(net, "activation"))


def expected(batches, momentum=0.9):
    """Threshold of a symmetric signed grid from batches of images, by hand."""
    low = high = weight = 0.0
    for images in batches:
        flat = images.asnumpy().reshape(len(images), -1)
        low = momentum * low + (1 - momentum) * np.minimum(flat.min(axis=1), 0).mean()
        high = momentum * high + (1 - momentum) * np.maximum(flat.max(axis=1), 0).mean()
        weight = momentum * weight + (1 - momentum)
    return max(-low, high) / weight


def converted(net, hybridize):
    convert_model(net)
    if hybridize:
        net.hybridize()
    return net


@pytest.mark.parametrize("hybridize", [False, True])
@pytest.mark.parametrize("prepare", [
    lambda net: None,
    lambda net: net.quantize_input(enable=True, online=True),
    lambda net: net.quantize_input(enable=False),
    lambda net: net.disable_quantize(),
], ids=["converted", "online", "float inputs", "disabled"])
def test_every_batch_counts_from_the_first_on(small_net, images, prepare, hybridize):
    net = converted(small_net, hybridize)
    prepare(net)
    batches = [scaled(images, factor) for factor in (1, 3, 2)]
    for number, batch in enumerate(batches, 1):
        net(batch)
        net.update_ema()
        assert first(net).threshold == pytest.approx(expected(batches[:number]), rel=1e-5)


def test_the_calibration_loop_of_the_predecessor(small_net, images):
    """quantize_input(enable=False), forward, update_ema; then offline: all inputs have their float ranges."""
    net = converted(small_net, hybridize=False)
    net.disable_quantize()
    seen = []
    small_net[3].register_forward_pre_hook(lambda block, inputs: seen.append(inputs[0]))
    net(images)
    net.enable_quantize()
    for _ in range(3):
        net.quantize_input(enable=False)
        net(images)
        net.update_ema()
    net.quantize_input(enable=True, online=False)
    plain = expected([scaled(seen[0], 1)])
    layer = net[3].input_quantizer
    assert layer.mode == "offline" and layer.threshold == pytest.approx(plain, rel=0.02)


def test_stored_ranges_follow_while_they_are_used(small_net, images):
    net = converted(small_net, hybridize=True)
    net(images)
    net.update_ema()
    net.disable_quantize()
    net.enable_quantize()
    assert first(net).mode == "offline"
    before = net(images).asnumpy()
    net(scaled(images, 5))
    net.update_ema()
    assert first(net).mode == "offline"
    assert first(net).threshold == pytest.approx(expected([images, scaled(images, 5)]), rel=1e-5)
    assert np.abs(net(images).asnumpy() - before).max() > 0


def test_the_second_look_leaves_batch_norm_and_the_weights_alone(small_net, images):
    net = converted(small_net, hybridize=False)
    with autograd.record():
        net(images).sum().backward()
    mx.nd.waitall()
    before = {name: p.data().asnumpy() for name, p in net.collect_params().items() if "running" in name}
    gradient = net[3].weight.grad().asnumpy()
    net.update_ema()
    assert before
    for name, values in before.items():
        np.testing.assert_array_equal(net.collect_params()[name].data().asnumpy(), values)
    np.testing.assert_array_equal(net[3].weight.grad().asnumpy(), gradient)


def test_trained_clips_are_left_alone(small_net, images):
    net = convert_model(small_net, config_list=[{"input_method": "pact", "input": "auto4"}, {
        "op_names": ["0"], "input_method": "lsq", "input": "int4"}])
    net.enable_quantize()
    before = {name: p.data().asnumpy() for name, p in net.collect_params().items() if p.grad_req != "null"}
    net(images)
    net.update_ema()
    for name, values in before.items():
        np.testing.assert_array_equal(net.collect_params()[name].data().asnumpy(), values)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("hybridize", [False, True])
def test_momentum_is_an_argument(small_net, images, momentum, hybridize):
    net = converted(small_net, hybridize)
    batches = [scaled(images, factor) for factor in (1, 4, 2)]
    for batch in batches:
        net(batch)
        net.update_ema(momentum)
    assert first(net).threshold == pytest.approx(expected(batches, momentum), rel=1e-5)


@pytest.mark.parametrize("momentum", [1, -0.1, "0.9", True, float("nan")])
def test_what_is_no_momentum(small_net, images, momentum):
    net = converted(small_net, hybridize=False)
    net(images)
    with pytest.raises(ConfigError, match="momentum must be a number from 0 to below 1"):
        net.update_ema(momentum=momentum)


def test_without_a_batch_nothing_happens():
    net = nn.HybridSequential()
    net.add(nn.Dense(2, in_units=3))
    net.initialize()
    convert_model(net)
    net.update_ema()
    assert not first(net).calibrated

# SPDX-License-Identifier: MIT
"""Faults of Quantization.MXNet that must not come back (the ones held by other tests are named there).

BN folded with a fixed eps, ignoring the gamma rule, pairs found by name: `convert/test_passes.py`, `test_graph.py`.
A second conversion, the returned net: `convert/test_convert.py`. EMA that starts at 0: `calib/test_minmax.py`.
"""

import logging

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import nn

from quantize.convert import convert_model


def test_signed_dense_inputs_keep_their_negative_half():
    net = nn.HybridSequential()
    net.add(nn.Dense(1, in_units=2, use_bias=False, weight_initializer="ones"))
    net.initialize()
    convert_model(net)
    assert net(mx.nd.array([[-3.0, 0.0]])).asscalar() == pytest.approx(-3, rel=1e-6)


@pytest.mark.parametrize("layer, width", [("conv", 8), ("dense", 8)])
def test_inputs_that_can_be_negative_are_never_unsigned_by_default(layer, width):
    net = nn.HybridSequential()
    net.add(nn.Conv2D(2, 1, in_channels=3) if layer == "conv" else nn.Dense(2, in_units=3))
    net.initialize()
    convert_model(net)
    assert net[0].input_quantizer.spec.signed


def test_forced_unsigned_on_a_signed_input_is_obeyed_and_warned_about(caplog):
    net = nn.HybridSequential()
    net.add(nn.Dense(2, in_units=3), nn.Activation("relu"), nn.Dense(2, in_units=2))
    net.initialize()
    with caplog.at_level(logging.WARNING):
        convert_model(net, config_list=[{"input": "uint8"}])
    assert not net[0].input_quantizer.spec.signed
    assert [r.getMessage().split(":")[0] for r in caplog.records] == ["0"]  # the layer behind the ReLU is fine


def test_two_groups_with_eight_channels():
    """The predecessor reshaped along the wrong axis and failed for 1 < groups < channels."""
    net = nn.HybridSequential()
    net.add(nn.Conv2D(8, 1, groups=2, in_channels=8, use_bias=False))
    net.initialize()
    weight = np.ones((8, 4, 1, 1), np.float32)
    weight[4:] = 100
    weight[5, 0] = 0.3
    net[0].weight.set_data(mx.nd.array(weight))
    convert_model(net, config_list=[{"weight": "int8/group", "input": "float"}])
    y = net(mx.nd.ones((1, 8, 1, 1))).asnumpy().ravel()
    np.testing.assert_allclose(y, [4, 4, 4, 4, 400, 300, 400, 400], rtol=1e-5)


def test_the_gradient_is_masked_outside_the_range():
    net = nn.HybridSequential()
    net.add(nn.Dense(1, in_units=2, use_bias=False, weight_initializer="ones"))
    net.initialize()
    convert_model(net, config_list=[{"input": "uint8"}])
    x = mx.nd.array([[-1.0, 2.0]])
    x.attach_grad()
    with autograd.record():
        y = net(x)
    y.backward()
    assert x.grad.asnumpy().tolist() == [[0.0, 1.0]]


def test_no_host_synchronisation_in_forward():
    """The converted network is one symbol: nothing in it asks for a value."""
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3, in_channels=3), nn.Dense(2, in_units=144))
    net.initialize()
    convert_model(net)
    assert "round" in net(mx.sym.var("data")).tojson()


def test_fix_params_fixes_dense_too():
    net = nn.HybridSequential()
    net.add(nn.Dense(3, in_units=50))
    net.initialize(mx.init.Normal(1))
    convert_model(net, config_list=[{"weight": "int2/layer"}])
    net.fix_params()
    assert len(np.unique(net[0].weight.data().asnumpy())) <= 3

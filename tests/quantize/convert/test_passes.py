# SPDX-License-Identifier: MIT
import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from quantize.convert import (
    bypass_bn,
    convert_model,
    convert_to_relu6,
    gen_conv2d_converter,
    mean_global_pooling,
    merge_bn,
)
from quantize.errors import ConversionError
from quantize.nn import BypassBatchNorm, ReLU6


def forget_gamma(net):
    """A gamma that `scale=False` must ignore; MXNet's forward overwrites it with 1, a file just loaded has not."""
    net[4].gamma.set_data(net[4].gamma.data() * 0 + 3)


def test_merging_computes_the_same(small_net, images):
    """eps 1e-3 with variances from 0.001, and scale=False with a gamma other than 1: both rules are the layer's own."""
    expected = small_net(images).asnumpy()
    forget_gamma(small_net)
    assert merge_bn(small_net) == [("0", "1"), ("3", "4")]
    np.testing.assert_allclose(small_net(images).asnumpy(), expected, rtol=1e-4, atol=1e-5)
    assert isinstance(small_net[1], BypassBatchNorm) and small_net[0].bias is not None


@pytest.mark.parametrize("mistake", ["eps", "gamma"])
def test_a_wrong_eps_or_gamma_would_be_seen(small_net, images, mistake):
    """The test above is sharp: folding with the predecessor's eps of 1e-10, or with gamma, misses its tolerance."""
    expected = small_net(images).asnumpy()
    forget_gamma(small_net)
    wrong = {"eps": lambda: small_net[1]._kwargs.update(eps=1e-10),
             "gamma": lambda: small_net[4]._kwargs.update(fix_gamma=False)}
    wrong[mistake]()
    merge_bn(small_net)
    assert np.abs(small_net(images).asnumpy() - expected).max() > 1e-2


@pytest.mark.parametrize("layer, shape", [
    (nn.Dense(6, in_units=5, flatten=True), (3, 5)),
    (nn.Conv2DTranspose(6, 3, in_channels=4, strides=2), (2, 4, 5, 5)),
    (nn.Conv2D(6, 3, in_channels=6, groups=6), (2, 6, 5, 5)),
])
def test_every_kind_of_layer_merges(layer, shape):
    net = nn.HybridSequential()
    net.add(layer, nn.BatchNorm(in_channels=6))
    net.initialize(mx.init.Normal(1))
    net[1].running_mean.set_data(mx.nd.random.normal(shape=(6,)))
    net[1].running_var.set_data(mx.nd.random.uniform(0.1, 2, shape=(6,)))
    x = mx.nd.random.normal(shape=shape)
    expected = net(x).asnumpy()
    assert len(merge_bn(net)) == 1
    np.testing.assert_allclose(net(x).asnumpy(), expected, rtol=1e-4, atol=1e-5)


def test_grouped_transposed_convolutions_are_refused():
    net = nn.HybridSequential()
    net.add(nn.Conv2DTranspose(4, 3, in_channels=4, groups=2), nn.BatchNorm(in_channels=4))
    net.initialize()
    with pytest.raises(ConversionError, match="grouped transposed"):
        merge_bn(net)


def test_merge_works_hybridized_exports_and_converts(small_net, images):
    small_net.hybridize()
    expected = small_net(images).asnumpy()
    merge_bn(small_net)
    np.testing.assert_allclose(small_net(images).asnumpy(), expected, rtol=1e-4, atol=1e-5)
    convert_model(small_net, config_list=[{"weight": "int16/channel", "input": "auto16"}])
    np.testing.assert_allclose(small_net(images).asnumpy(), expected, rtol=2e-2, atol=2e-3)


def test_merging_after_conversion_is_refused(small_net):
    convert_model(small_net)
    with pytest.raises(ConversionError, match="before converting"):
        merge_bn(small_net)


def test_excluded_blocks_keep_their_norm(small_net):
    assert merge_bn(small_net, exclude=[small_net[0]]) == [("3", "4")]
    assert type(small_net[1]) is nn.BatchNorm


def test_bypass_keeps_parameters_and_is_identity(small_net, images):
    names = set(small_net.collect_params())
    convert_model(small_net, convert_fn={nn.Conv2D: gen_conv2d_converter(),
                                         nn.BatchNorm: bypass_bn})
    assert names <= set(small_net.collect_params())
    x = mx.nd.random.normal(shape=(2, 8, 3, 3))
    np.testing.assert_array_equal(small_net[1](x).asnumpy(), x.asnumpy())


def test_relu6(small_net, images, caplog):
    convert_to_relu6(small_net, exclude=[small_net[5]])
    assert isinstance(small_net[2], ReLU6) and type(small_net[5]) is nn.Activation
    x = mx.nd.array([[-1, 3, 7]])
    np.testing.assert_array_equal(small_net[2](x).asnumpy(), [[0, 3, 6]])
    assert "1 ReLUs stay" in caplog.text


def test_global_pooling_becomes_a_mean():
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3, in_channels=3), nn.GlobalAvgPool2D(), nn.Flatten())
    net.initialize()
    x = mx.nd.random.normal(shape=(2, 3, 8, 8))
    expected = net(x).asnumpy()
    assert mean_global_pooling(net) == 1 and mean_global_pooling(net) == 0
    np.testing.assert_allclose(net(x).asnumpy(), expected, rtol=1e-5, atol=1e-6)


def test_slow_pooling_is_reported(caplog):
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3, in_channels=3), nn.GlobalAvgPool2D())
    net.initialize()
    with caplog.at_level("INFO"):
        convert_model(net)
    assert "mean_global_pooling" in caplog.text

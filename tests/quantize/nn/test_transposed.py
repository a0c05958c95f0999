# SPDX-License-Identifier: MIT
"""Transposed convolutions with quantized weights: sums and gradients against scattering element by element."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon
from mxnet.gluon import nn

from deploy import engine, ir
from deploy.arithmetic import real
from deploy.lower import lower
from quantize.convert import convert_model, fake_bn
from quantize.modes import set_mode
from quantize.train import start_training
from tests.deploy.engine.plain import deconvolution

CASES = {
    "plain": dict(kernel_size=3), "strides": dict(kernel_size=(3, 4), strides=(2, 3)),
    "pads": dict(kernel_size=4, strides=2, padding=1), "more": dict(kernel_size=3, strides=2, output_padding=1),
    "dilation": dict(kernel_size=3, dilation=2, padding=(1, 0)),
    "groups": dict(kernel_size=2, strides=2, groups=2), "far pads": dict(kernel_size=1, padding=1),
    "far and more": dict(kernel_size=(1, 2), padding=(2, 1), strides=3, output_padding=(2, 1)),
    "no bias": dict(kernel_size=3, strides=2, use_bias=False), "depthwise": dict(kernel_size=4, strides=2, groups=4),
}
SHAPE = (4, 5, 6)


def network(case, weight="int4/channel", method="ste", convert=True, **more):
    mx.random.seed(2)
    net = nn.HybridSequential(prefix="net_")
    with net.name_scope():
        net.add(nn.Conv2DTranspose(4, in_channels=4, **CASES[case]))
    net.initialize(mx.init.Uniform(0.7))
    net(mx.nd.zeros((1, *SHAPE)))
    if convert:
        rule = {"op_types": ["Conv2DTranspose"], "weight": weight, "method": method, "input": "uint8", **more}
        net = convert_model(net, config_list=[rule], example_input=mx.nd.zeros((1, *SHAPE)))
    return net


def images(count=3):
    return np.random.RandomState(4).rand(count, *SHAPE).astype(np.float32)


def node_of(case):
    options = {"strides": 1, "padding": 0, "dilation": 1, "output_padding": 0, "groups": 1, **CASES[case]}
    pair = {name: value if isinstance(value, tuple) else (value, value) for name, value in options.items()}
    return ir.Deconvolution("d", ("x",), ("y",), stride=pair["strides"], dilation=pair["dilation"],
                            pads=pair["padding"] * 2, output_pads=pair["output_padding"], groups=options["groups"])


def plain(case, x, weight, bias):
    found = np.stack([deconvolution(image, weight, node_of(case)) for image in x])
    return found if bias is None else found + bias.reshape(1, -1, 1, 1)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("hybrid", [False, True])
def test_sums_and_gradients(case, hybrid):
    net = network(case)
    layer, x = net[0], mx.nd.array(images())
    if hybrid:
        net.hybridize()
    x.attach_grad()
    with autograd.record():
        y = net(x)
    dy = np.random.RandomState(1).randn(*y.shape)
    y.backward(mx.nd.array(dy))
    rounded_x = layer.input_quantizer(x).asnumpy()
    rounded_w = layer.rounded(mx.nd, layer.weight.data()).asnumpy()
    bias = None if layer.bias is None else layer.bias.data().asnumpy()
    want = plain(case, rounded_x, rounded_w, bias)
    np.testing.assert_allclose(y.asnumpy(), want, rtol=0, atol=1e-5)
    # the sums are linear in the weight: their change along one element is its gradient
    for index in [(0, 0, 0, 0), (3, rounded_w.shape[1] - 1, -1, -1), (1, 0, 0, -1)]:
        one = np.zeros_like(rounded_w)
        one[index] = 1
        np.testing.assert_allclose(layer.weight.grad().asnumpy()[index], (plain(case, rounded_x, one, None) * dy).sum(),
                                   rtol=1e-4, atol=1e-4)
    at = np.zeros_like(rounded_x)
    at[1, 2, 3, 4] = 1
    np.testing.assert_allclose(x.grad.asnumpy()[1, 2, 3, 4], (plain(case, at, rounded_w, None) * dy).sum(), rtol=1e-4,
                               atol=1e-4)


@pytest.mark.parametrize("method, weight", [("ste", "int8/layer"), ("lsq", "int4/channel"), ("sat", "int4/layer"),
                                            ("dorefa", "int2/layer"), ("bnn", "int1/layer")])
def test_it_learns(method, weight):
    more = {"input_method": "ste"}
    net = network("pads", weight, method, **more)
    rng = np.random.RandomState(0)
    x, want = mx.nd.array(images(8)), mx.nd.array(rng.rand(8, 4, 10, 12))
    start_training(net, x)
    net.hybridize()
    trainer = gluon.Trainer(net.collect_params(), "adam", {"learning_rate": 0.02})
    losses = []
    for _ in range(25):
        with autograd.record():
            loss = ((net(x) - want) ** 2).mean()
        loss.backward()
        trainer.step(1)
        losses.append(loss.asscalar())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method, weight", [("ste", "int8/channel"), ("ste", "int4/layer"), ("sat", "int4/layer"),
                                            ("lsq", "int5/channel"), ("ste", "int4/group")])
def test_the_integer_core(case, method, weight):
    """Codes of the input, whole sums, and real outputs, against element by element scattering of whole numbers."""
    net, x = network(case, weight, method, input_method="ste"), images()
    if method == "lsq":
            start_training(net, mx.nd.array(x))
    quantizer = net[0].input_quantizer
    quantizer.set_qparams(quantizer.qparams_of(mx.nd.array(x)))
    set_mode(net, "offline", "activation")
    model = lower(net, SHAPE)
    kinds = [type(node) for node in model.nodes]
    assert set(kinds) <= {ir.Spread, ir.Crop, ir.Convolution} and kinds[-1] is ir.Convolution and ir.quantized(model)
    found = engine.run(model, x, codes=True, keep=engine.ALL)
    node, grid = ir.quantized(model)[0], ir.quantized(model)[0].quantization.input
    codes = np.clip(np.rint(x / np.float32(grid.scale)), 0, 255)
    rounded_w = net[0].rounded(mx.nd, net[0].weight.data()).asnumpy()
    bias = None if net[0].bias is None else net[0].bias.data().asnumpy()
    want = plain(case, codes * np.float64(grid.scale), rounded_w, bias)
    np.testing.assert_allclose(found.outputs[0], want, rtol=0, atol=2e-6 * np.abs(want).max() + 1e-6)
    # whole sums: what is left of a sum that is divided by its step
    steps = np.float64(grid.scale) * node.quantization.weight_scale.reshape(1, -1, 1, 1)
    sums = (want - (0 if bias is None else bias.reshape(1, -1, 1, 1))) / steps
    assert np.abs(sums - np.rint(sums)).max() < 0.05 and np.abs(sums).max() > 100
    assert real(codes, grid).max() <= 1.01


@pytest.mark.parametrize("statistics", ["batch", "corrected", "running"])
def test_a_folded_norm_behind_it_learns(statistics):
    mx.random.seed(2)
    net = nn.HybridSequential(prefix="net_")
    net.add(nn.Conv2DTranspose(4, 4, strides=2, padding=1, in_channels=4), nn.BatchNorm(in_channels=4))
    net.initialize(mx.init.Uniform(0.7))
    net = convert_model(net, example_input=mx.nd.zeros((1, *SHAPE)))
    fake_bn(net, statistics=statistics)
    net.hybridize()
    with autograd.record():
        loss = (net(mx.nd.array(images())) ** 3).sum()
    loss.backward()
    assert np.abs(net[0].weight.grad().asnumpy()).max() > 0

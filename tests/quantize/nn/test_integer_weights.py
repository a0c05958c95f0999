# SPDX-License-Identifier: MIT
"""Whole numbers as weights: the same outputs and gradients as fake quantization, and really whole numbers."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import nn

from quantize import load_quantized, save_quantized
from quantize.convert import convert_model, fake_bn
from quantize.errors import ConfigError
from quantize.modes import fix_params, quantized_layers, quantizers
from quantize.train import set_clamp_only, start_training

LAYERS = {
    "conv": (lambda: nn.Conv2D(6, 3, padding=1, groups=2, activation="relu"), (4, 7, 5)),
    "conv1d": (lambda: nn.Conv1D(6, 3), (4, 9)),
    "dense": (lambda: nn.Dense(5, activation="tanh"), (4, 3, 2)),
    "dense rows": (lambda: nn.Dense(5, flatten=False), (3, 4)),
    "transposed": (lambda: nn.Conv2DTranspose(6, 3, strides=2, padding=1, output_padding=1), (4, 5, 4)),
    "transposed groups": (lambda: nn.Conv2DTranspose(6, (3, 2), strides=(1, 2), groups=2, in_channels=4), (4, 5, 4)),
}
METHODS = [("ste", "int4/layer"), ("ste", "int8/channel"), ("ste", "int3/group"), ("lsq", "int4/channel"),
           ("lsq", "int3/layer/full"), ("lsq", "int1/channel"), ("lsq+", "int4/layer"), ("dorefa", "int3/layer"),
           ("sat", "int4/layer"), ("sat", "int(15)/layer"), ("sat", "int1/layer"), ("bnn", "int1/layer")]


def made(layer, weight_method, weight, integer, bits="uint8", **options):
    make, shape = LAYERS[layer]
    mx.random.seed(3)
    net = nn.HybridSequential(prefix="net_")
    with net.name_scope():
        net.add(make())
    net.initialize(mx.init.Uniform(0.8))
    net(mx.nd.zeros((1, *shape)))
    if layer == "conv":  # no sum is 0 but for rounding, where a ReLU's gradient jumps
        net[0].bias.set_data(mx.nd.array([0.137, -0.071, 0.053, 0.0613, -0.0317, 0.091]))
    rule = {"op_types": ["Conv2D", "Conv1D", "Dense", "Conv2DTranspose"], "weight": weight,
            "weight_method": weight_method, "input": bits, "options": {"integer_weights": integer, **options}}
    net = convert_model(net, config_list=[rule], example_input=mx.nd.zeros((1, *shape)))
    x = mx.nd.array(np.random.RandomState(5).rand(3, *shape))
    start_training(net, x)
    return net, x


def trained_step(net, x):
    """Output and every gradient."""
    x.attach_grad()
    with autograd.record():
        y = net(x)
        loss = (y * mx.nd.array(np.random.RandomState(6).randn(*y.shape))).sum()
    loss.backward()
    grads = {name: parameter.grad().asnumpy() for name, parameter in net.collect_params().items()
             if parameter.grad_req != "null"}
    return y.asnumpy(), {**grads, "x": x.grad.asnumpy()}


def watch(net):
    """The weights that products are made with, from now on."""
    seen = []
    for _, layer in quantized_layers(net):
        def product(F, x, weight, bias, own=layer.product):
            seen.append(weight)
            return own(F, x, weight, bias)
        object.__setattr__(layer, "product", product)
    return seen


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("method, weight", METHODS, ids=str)
def test_outputs_and_gradients_are_those_of_fake_quantization(layer, method, weight):
    options = {"scaling": True} if method == "sat" and weight == "int4/layer" else {}
    net, x = made(layer, method, weight, True, **options)
    assert len([p for p in net.collect_params().values() if p.grad_req != "null"]) >= 2
    want_y, want = trained_step(*made(layer, method, weight, False, **options))
    seen = watch(net)
    for hybrid in (False, True):
        if hybrid:
            net.hybridize()
        y, grads = trained_step(net, x)
        np.testing.assert_allclose(y, want_y, rtol=0, atol=3e-6 * np.abs(want_y).max())
        assert set(grads) == set(want) and np.abs(want["x"]).max() > 0
        for name, grad in grads.items():
            np.testing.assert_allclose(grad, want[name], rtol=0, atol=1e-5 * max(np.abs(want[name]).max(), 1e-3),
                                       err_msg=name)
    codes = seen[0].asnumpy()
    np.testing.assert_array_equal(codes, np.rint(codes))
    spec = net[0].weight_quantizer.spec
    low, high = (spec.qmin, spec.qmax) if spec.grid == "mid_tread" else (2 * spec.qmin + 1, 2 * spec.qmax + 1)
    assert low <= codes.min() < 0 < codes.max() <= high
    assert spec.grid == "mid_tread" or (codes % 2 != 0).all()


def test_the_first_stage_has_no_whole_numbers_yet():
    net, x = made("conv", "sat", "int4/layer", True)
    set_clamp_only(net, True)
    seen = watch(net)
    first = net(x).asnumpy()
    assert seen == []
    other, _ = made("conv", "sat", "int4/layer", False)
    set_clamp_only(other, True)
    np.testing.assert_array_equal(first, other(x).asnumpy())


@pytest.mark.parametrize("method, weight", [("ste", "int4/channel"), ("sat", "int4/layer"), ("lsq", "int4/layer")])
def test_fixed_weights_stay_whole(method, weight):
    net, x = made("conv", method, weight, True)
    before = net(x).asnumpy()
    fix_params(net)
    seen = watch(net)
    np.testing.assert_allclose(net(x).asnumpy(), before, rtol=0, atol=3e-6 * np.abs(before).max())
    codes = seen[0].asnumpy()
    np.testing.assert_array_equal(codes, np.rint(codes))


def test_modes_without_rounding_are_float():
    net, x = made("conv", "ste", "int4/layer", True)
    seen = watch(net)
    for _, quantizer in quantizers(net):
        quantizer.mode = "float"
    net(x)
    assert seen == []
    net[0].weight_quantizer.mode = "ema"
    with pytest.raises(ConfigError, match="have no moving range; take online"):
        net(x)


def test_what_cannot_be_whole_numbers_is_refused():
    with pytest.raises(ConfigError, match="the weight stays float"):
        made("conv", "ste", "float", True)
    with pytest.raises(ConfigError, match="option 'integer_weights' is true: .*; got 1"):
        made("conv", "ste", "int4/layer", 1)
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3, in_channels=2), nn.BatchNorm(in_channels=4))
    net.initialize()
    net = convert_model(net, config_list=[{"op_types": ["Conv2D"], "options": {"integer_weights": True}}])
    with pytest.raises(ConfigError, match="with a folded BatchNorm are no whole numbers"):
        fake_bn(net)
    plain = nn.HybridSequential()
    plain.add(nn.Conv2D(4, 3, in_channels=2))
    plain.initialize()
    with pytest.raises(ConfigError, match="in the Winograd domain are no whole numbers"):
        convert_model(plain, config_list=[
            {"op_types": ["Conv2D"], "options": {"integer_weights": True}, "winograd": "F23"}])


def test_a_checkpoint_keeps_them(tmp_path):
    net, x = made("conv", "sat", "int4/layer", True)
    want = net(x).asnumpy()
    save_quantized(net, tmp_path / "a.qnet")
    again = load_quantized(tmp_path / "a.qnet")
    assert [layer.integer_weights for _, layer in quantized_layers(again)] == [True]
    np.testing.assert_array_equal(again(x).asnumpy(), want)

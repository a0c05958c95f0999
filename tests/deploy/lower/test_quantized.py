# SPDX-License-Identifier: MIT
"""Quantized layers: the integers are those of MXNet's simulation, and the engine computes what it does."""

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from deploy import engine
from deploy.arithmetic import Arithmetic
from deploy.ir import Grid, quantized
from deploy.lower import lower
from deploy.target import find
from quantize.convert import convert_model, merge_bn
from quantize.convert.fake_bn import fake_bn
from quantize.errors import DeployError
from quantize.modes import disable_quantize, fix_params, quantize_input, quantizers, set_mode
from quantize.reference import find_qparams
from quantize.spec import QParams
from quantize.tree import walk

SHAPE = (3, 8, 8)


def calibrated(net, images, weight="int8/channel", input="auto8", output="float", **options):
    """The converted network with the ranges of the images."""
    formats = {"weight": weight, "input": input, "output": output}
    net = convert_model(net, config_list=[dict(formats, op_types=["Conv2D", "Dense"])], **options)
    set_mode(net, "float")
    set_mode(net, "ema", "activation")
    net(images)
    net.update_ema()
    set_mode(net, "online", "weight")
    quantize_input(net, online=False)
    return net


def fixed_weights(net):
    """Structural path -> (fake-quantized weight of the simulation, scale) as `fix_params` has them."""
    fix_params(net)
    return {path: (block.weight.data().asnumpy(), block.weight_quantizer.scale.data().asnumpy())
            for path, block in walk(net) if getattr(block, "weight_quantizer", None) is not None}


@pytest.mark.parametrize("weight", ["int8/layer", "int8/group", "int8/channel", "int4/channel", "int2/layer"])
@pytest.mark.parametrize("merged", [True, False])
def test_codes_times_scale_are_the_simulated_weights(weight, merged, small_net, images):
    if merged:
        merge_bn(small_net)
    net = calibrated(small_net, images, weight)
    model = lower(net, SHAPE)
    assert [node.name for node in quantized(model)] == ["0", "3", "6"]
    want = fixed_weights(net)
    factors = {"0": factor(net[1]), "3": factor(net[4])} if not merged else {}
    for node in quantized(model):
        codes, scale = node.quantization.weight_q, node.quantization.weight_scale
        assert codes.dtype == np.int8 and scale.dtype == np.float32 and scale.shape == codes.shape[:1]
        assert np.abs(codes).max() == node.quantization.weight_qmax == 2 ** (int(weight[3]) - 1) - 1
        got = codes * scale.reshape((-1,) + (1,) * (codes.ndim - 1))
        if node.name in factors:  # the codes are those of the weight in front of the BatchNorm
            shape = (-1, 1, 1, 1)
            np.testing.assert_allclose(got, want[node.name][0] * factors[node.name].reshape(shape), rtol=1e-6)
        else:
            np.testing.assert_array_equal(got, want[node.name][0])


def factor(norm):
    gamma = norm.gamma.data().asnumpy() if norm._kwargs["fix_gamma"] is False else 1.0
    return gamma / np.sqrt(norm.running_var.data().asnumpy() + norm._kwargs["eps"])


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("weight", ["int8/channel", "int4/layer"])
@pytest.mark.parametrize("input", ["auto8", "int6", "auto8/affine"])
def test_the_engine_computes_what_the_simulation_does(merged, weight, input, small_net, images):
    if merged:
        merge_bn(small_net)
    net = calibrated(small_net, images, weight, input)
    want = net(images).asnumpy()
    got = engine.run(lower(net, SHAPE), images.asnumpy()).outputs[0]
    # one value that rounding takes to the next step would differ by more than the tolerance
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_frozen_and_stored_scales(small_net, images):
    net = calibrated(small_net, images)
    before = lower(net, SHAPE)
    fix_params(net)
    same(lower(net, SHAPE), before)
    net.hybridize()
    net(images)
    same(lower(net, SHAPE), before)
    disable_quantize(net)  # gives the float weights back
    for _, quantizer in quantizers(net, "weight"):
        quantizer.set_qparams(QParams.symmetric(quantizer.get_qparams().scale * np.float32(0.5)))
    set_mode(net, "offline")
    model = lower(net, SHAPE)
    for node, old in zip(quantized(model), quantized(before)):
        np.testing.assert_array_equal(node.quantization.weight_scale, old.quantization.weight_scale * np.float32(0.5))
        assert (np.abs(node.quantization.weight_q) >= np.abs(old.quantization.weight_q)).all()


def same(model, other):
    for node, old in zip(model.nodes, other.nodes):
        np.testing.assert_array_equal(node.weight, old.weight)
        np.testing.assert_array_equal(node.quantization.weight_q, old.quantization.weight_q)
        np.testing.assert_array_equal(node.quantization.weight_scale, old.quantization.weight_scale)


def test_float_on_demand_and_for_layers_that_are_switched_off(small_net, images, agrees):
    agrees(small_net, SHAPE)
    want = small_net(images).asnumpy()
    net = calibrated(small_net, images)
    fix_params(net)
    model = lower(net, SHAPE, quantized=False)
    assert quantized(model) == []
    got = engine.run(model, images.asnumpy()).outputs[0]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
    layer = dict(walk(net))["3"]
    layer.input_quantizer.mode = layer.weight_quantizer.mode = "float"
    assert [node.name for node in quantized(lower(net, SHAPE))] == ["0", "6"]
    disable_quantize(net)
    assert quantized(lower(net, SHAPE)) == []


def test_lowering_changes_nothing(small_net, images):
    net = calibrated(small_net, images)
    net.hybridize()
    want, modes = net(images).asnumpy(), [quantizer.mode for _, quantizer in quantizers(net)]
    lower(net, SHAPE)
    assert [quantizer.mode for _, quantizer in quantizers(net)] == modes
    assert not any(quantizer.frozen for _, quantizer in quantizers(net))
    np.testing.assert_array_equal(net(images).asnumpy(), want)


def test_inputs_have_the_calibrated_grid(small_net, images):
    net = calibrated(small_net, images)
    grids = {node.name: node.quantization.input for node in quantized(lower(net, SHAPE))}
    scales = {path: block.input_quantizer.scale.data().asscalar() for path, block in walk(net)
              if hasattr(block, "input_quantizer")}
    assert grids == {"0": Grid(scales["0"], 0, -127, 127), "3": Grid(scales["3"], 0, 0, 255),
                     "6": Grid(scales["6"], 0, 0, 255)}


def test_the_target_rounds_the_weights(small_net, images):
    class Down(Arithmetic):
        def quantize_weight(self, weight, scale, qmax):
            return np.floor(weight / scale.reshape((-1,) + (1,) * (weight.ndim - 1))).clip(-qmax, qmax).astype(np.int8)
    merge_bn(small_net)
    net = calibrated(small_net, images)
    for node, plain in zip(quantized(lower(net, SHAPE, arithmetic=Down())), quantized(lower(net, SHAPE))):
        assert (node.quantization.weight_q <= plain.quantization.weight_q).all()
        assert (node.quantization.weight_q < plain.quantization.weight_q).any()


def test_dead_channels(small_net, images):
    small_net[0].weight.data()[2] = 0
    small_net[1].gamma.data()[3] = 0
    net = calibrated(small_net, images)
    quantization = quantized(lower(net, SHAPE))[0].quantization
    assert (quantization.weight_scale[3] == 1) and (quantization.weight_scale > 0).all()
    assert not quantization.weight_q[2].any() and not quantization.weight_q[3].any()


@pytest.mark.parametrize("size", [1e-36, 1e-40])
def test_a_channel_of_subnormal_weights_counts_as_zero(size, small_net, images):
    weight = small_net[0].weight.data().asnumpy()
    weight[1] = size
    small_net[0].weight.set_data(mx.nd.array(weight))
    quantization = next(iter(quantized(lower(calibrated(small_net, images), SHAPE)))).quantization
    assert not quantization.weight_q[1].any() and quantization.weight_scale[1] == 1
    assert quantization.weight_q[0].any() and quantization.weight_scale[0] < 1


def test_an_input_that_is_subnormal_counts_as_zero(small_net, images):
    node = next(iter(quantized(lower(calibrated(small_net, images * 1e-40), SHAPE))))
    assert node.quantization.input.scale == 1 and np.isfinite(np.float32(1) / node.quantization.weight_scale).all()


def refused(net, *texts):
    with pytest.raises(DeployError) as error:
        lower(net, SHAPE)
    for text in texts:
        assert text in str(error.value)


def test_every_layer_without_a_range_is_named(small_net, images):
    net = convert_model(small_net)
    refused(net, "no calibrated range; calibrate the network", "(0, 3, 6)")
    calibrated_one = dict(walk(net))["3"].input_quantizer
    calibrated_one.set_qparams(QParams.symmetric(np.float32([0.1])))
    refused(net, "(0, 6)")
    assert quantized(lower(net, SHAPE, quantized=False)) == []


@pytest.mark.parametrize("config, text", [
    ({"op_types": ["Conv2D"], "input": "float"}, "only its weight is quantized; integer layers need input and"),
    ({"op_types": ["Conv2D"], "weight": "float"}, "only its input is quantized"),
    ({"op_names": ["0"], "weight": "int12/layer"}, "hold 128 at most, on both sides of a zero point 0 (0)"),
    ({"op_names": ["0"], "weight": "int9/layer/full"}, "codes from -256 to 255"),
    ({"op_names": ["0"], "weight": "int9/layer", "weight_method": "sat"}, "hold 255 at most")])
def test_formats_that_integer_layers_cannot_hold(config, text, small_net, images):
    net = convert_model(small_net, config_list=[config])
    for _, quantizer in quantizers(net, "activation"):
        quantizer.set_qparams(QParams.symmetric(np.float32([0.1])))
    refused(net, text)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_lowest_code_of_a_weight(bits, small_net, images):
    """N2D2's LSQ has it: 255 steps are -128 to 127."""
    net = convert_model(small_net, config_list=[{"op_types": ["Conv2D", "Dense"], "weight": f"int{bits}/layer/full",
                                                 "weight_method": "lsq", "input": "int8"}])
    for _, quantizer in quantizers(net, "activation"):
        quantizer.set_qparams(QParams.symmetric(np.float32([0.1])))
    layer = dict(walk(net))["0"]
    weight = layer.weight.data().asnumpy()
    layer.weight_quantizer.set_qparams(QParams.symmetric(np.float32([-weight.min() / 2 ** (bits - 1)])))
    set_mode(net, "offline")
    found = quantized(lower(net, SHAPE))[0].quantization
    lowest = -2 ** (bits - 1)
    assert found.weight_q.min() == lowest and found.weight_q.max() <= -lowest - 1 and found.weight_qmax == -lowest
    step = layer.weight_quantizer.get_qparams().scale  # that of `found` has taken up the BatchNorm
    np.testing.assert_allclose(found.weight_q * step.ravel()[0], layer.rounded(mx.nd, layer.weight.data()).asnumpy(),
                               rtol=1e-6)


def test_transposed_convolutions_are_no_integer_layers_where_engines_have_none(chain):
    net = convert_model(chain(SHAPE, nn.Conv2DTranspose(4, 3), nn.Activation("relu")))
    for name in ("ncnn", "onnx"):
        with pytest.raises(DeployError, match="transposed convolutions have no integer form"):
            lower(net, SHAPE, arithmetic=find(name).arithmetic)
    disable_quantize(net)
    assert quantized(lower(net, SHAPE)) == []


def test_a_layer_called_twice_is_quantized_twice(called_twice, images):
    net = calibrated(called_twice(SHAPE), images)
    one, two = quantized(lower(net, SHAPE))
    np.testing.assert_array_equal(one.quantization.weight_q, two.quantization.weight_q)
    assert (one.name, two.name, one.path, two.path) == ("0", "0_1", "0", "0")


@pytest.mark.parametrize("statistics", ["batch", "corrected", "running"])
def test_a_folded_norm_keeps_the_codes_of_the_folded_weight(statistics, small_net, images):
    net = calibrated(small_net, images)
    fake_bn(net, statistics=statistics)
    net[1].gamma.data()[2] = -0.7
    want = net(images).asnumpy()
    model = lower(net, SHAPE)
    assert [type(node).__name__ for node in model.nodes] == ["Convolution", "Convolution", "InnerProduct"]
    layer = dict(walk(net))["0"]
    weight = layer.effective_weight().asnumpy()
    scale = find_qparams(weight, layer.weight_quantizer.spec).scale.ravel()
    quantization = model.nodes[0].quantization
    np.testing.assert_array_equal(quantization.weight_scale, scale)
    np.testing.assert_array_equal(quantization.weight_q, Arithmetic().quantize_weight(weight, scale, 127))
    got = engine.run(model, images.asnumpy()).outputs[0]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
    fix_params(net)
    same(lower(net, SHAPE), model)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-36, 1e-40, 1e-44])
def test_a_channel_of_vanishing_weights_counts_as_zeros(small_net, images, size):
    weight = small_net[3].weight.data()
    weight[1] = size
    small_net[3].weight.set_data(weight)
    net = calibrated(small_net, images)
    want = net(images).asnumpy()
    node = quantized(lower(net, SHAPE))[1]
    assert node.quantization.weight_scale.min() > 1e-36
    assert size == 1e-30 or not node.quantization.weight_q[1].any()
    got = engine.run(lower(net, SHAPE), images.asnumpy()).outputs[0]
    np.testing.assert_allclose(got, want, rtol=0, atol=0.02 * np.abs(want).max())

# SPDX-License-Identifier: MIT
"""Quantized outputs: what they are rounded to becomes the next layer's grid, or a node of its own."""

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from deploy import engine
from deploy.ir import Grid, Rounding, quantized
from deploy.lower import lower
from quantize.convert import convert_model, gen_act_converter, gen_conv2d_converter
from quantize.errors import DeployError
from quantize.modes import quantizers, set_mode
from quantize.spec import QParams

SHAPE = (3, 8, 8)
BYTES = Grid(float(np.float32(1 / 255)), 0, 0, 255)


def trained(net, method, bits, weight=None, types=("Activation",)):
    """Weights and the outputs of activations quantized by a method, as its paper has it; inputs float."""
    rules = [{"op_types": ["Conv2D", "Dense"], "weight": weight or f"int{bits}/layer", "weight_method": method,
              "input": "float"},
             {"op_types": list(types), "output": f"uint{bits}", "output_method": method}]
    net = convert_model(net, config_list=rules)
    set_mode(net, "offline", "activation")
    for number, (_, quantizer) in enumerate(quantizers(net, "activation")):
        quantizer.set_qparams(QParams.symmetric(np.float32([(1 + number) / quantizer.spec.qmax])))
    return net


def byte_images(count):
    return np.random.RandomState(3).randint(0, 256, (count,) + SHAPE).astype(np.float32) / np.float32(255)


def agrees(net, model):
    images = byte_images(40)
    want, got = net(mx.nd.array(images)).asnumpy(), engine.run(model, images).outputs[0]
    # a value next to the middle between two codes may fall to either side in float32: not in more than a few images
    close = np.abs(got - want).reshape(len(images), -1).max(axis=1) <= 1e-5 * np.abs(want).max()
    assert close.mean() > 0.9 and want.std() > 0


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("method", ["sat", "dorefa", "pact", "cgpact"])
def test_networks_of_the_methods_papers_are_integers(method, bits, small_net):
    net = trained(small_net, method, bits)
    model = lower(net, SHAPE, input_grid=BYTES)
    layers = quantized(model)
    assert [node.name for node in layers] == ["0", "3", "6"] and layers[0].quantization.input == BYTES
    assert not any(isinstance(node, Rounding) for node in model.nodes)
    steps = [float(np.float32(np.float32((1 + i) / (2 ** bits - 1)) * np.float32(2 ** bits - 1))
                   / np.float32(2 ** bits - 1)) for i in range(2)]
    assert [node.quantization.input for node in layers[1:]] == [Grid(step, 0, 0, 2 ** bits - 1) for step in steps]
    for node in layers:
        codes = node.quantization.weight_q
        # BatchNorm's negative factors turn signs, dead channels are zeros; else there is no level at zero
        assert node.quantization.weight_qmax == 2 ** bits - 1 >= np.abs(codes.astype(int)).max()
        assert codes.dtype == (np.int16 if bits == 8 else np.int8) and (np.abs(codes[codes != 0]) % 2 == 1).all()
    agrees(net, model)


def test_without_a_grid_in_front_weights_alone_make_no_integers(small_net):
    net = trained(small_net, "sat", 4)
    with pytest.raises(DeployError, match=r"only its weight is quantized; integer layers need input and weight \(0\)"):
        lower(net, SHAPE)


def sequence(*blocks):
    net = nn.HybridSequential(prefix="net_")
    with net.name_scope():
        net.add(*blocks)
    mx.random.seed(5)
    net.initialize(mx.init.Xavier(magnitude=3))
    net(mx.nd.zeros((1,) + SHAPE))
    return net


@pytest.mark.parametrize("between, moves", [
    (lambda: (nn.MaxPool2D(2), nn.Flatten()), True), (lambda: (nn.GlobalAvgPool2D(),), False),
    (lambda: (nn.AvgPool2D(2),), False), (lambda: (nn.Dropout(0.5), nn.MaxPool2D(3, 2, 1)), True)])
def test_rounding_stays_where_other_numbers_are_made_of_it(between, moves):
    net = sequence(nn.Conv2D(4, 3), nn.Activation("relu"), *between(), nn.Dense(5))
    rules = [{"op_types": ["Activation"], "output": "uint4"}, {"op_names": ["0"], "input": "uint8"},
             {"op_types": ["Dense"], "input": "float" if moves else "uint8"}]
    net = convert_model(net, config_list=rules)
    for _, quantizer in quantizers(net, "activation"):
        quantizer.set_qparams(QParams.symmetric(np.float32([1 / quantizer.spec.qmax])))
    set_mode(net, "offline", "activation")
    model = lower(net, SHAPE)
    assert sum(isinstance(node, Rounding) for node in model.nodes) == (not moves)
    assert [node.quantization.input.qmax for node in quantized(model)] == [255, 15 if moves else 255]
    agrees(net, model)


def test_outputs_of_layers(small_net):
    rules = [{"op_types": ["Conv2D"], "weight": "int8/channel", "input": "uint8", "output": "int4"}]
    net = convert_model(small_net, config_list=rules)
    for _, quantizer in quantizers(net, "activation"):
        quantizer.set_qparams(QParams.symmetric(np.float32([1 / quantizer.spec.qmax])))
    set_mode(net, "offline", "activation")
    model = lower(net, SHAPE)
    roundings = [node for node in model.nodes if isinstance(node, Rounding)]
    # between a layer and its BatchNorm: it is rounded, and no factor may pass
    assert len(roundings) == 2 and {(node.grid.qmin, node.grid.qmax) for node in roundings} == {(-7, 7)}
    agrees(net, model)


def test_converters_by_function(small_net):
    net = convert_model(small_net, convert_fn={nn.Activation: gen_act_converter(4), nn.Conv2D: gen_conv2d_converter()})
    with pytest.raises(DeployError, match="no calibrated range"):
        lower(net, SHAPE)

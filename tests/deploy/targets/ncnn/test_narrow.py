# SPDX-License-Identifier: MIT
"""Grids with fewer codes than ncnn has, and weights without a level at zero: simulated, lowered and run alike."""

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from calib.calibrators import named_calibrator
from calib.collect import calibrate, observe
from deploy import engine, ir
from deploy.lower import lower
from deploy.targets.ncnn import NcnnTarget
from deploy.targets.ncnn.simulate import side
from quantize.convert import convert_model
from quantize.errors import ConfigError
from quantize.modes import fix_params, quantize_input
from quantize.train import start_training

TYPES = ["Conv2D", "Dense"]
TARGET = NcnnTarget()


def network():
    mx.random.seed(5)
    net = nn.HybridSequential(prefix="")
    net.add(nn.Conv2D(8, 3, padding=1), nn.BatchNorm(), nn.Activation("relu"), nn.Conv2D(8, 3, groups=8),
            nn.Conv2D(6, 1, activation="relu"), nn.MaxPool2D(2, 2), nn.Dense(5))
    net.initialize(mx.init.Xavier(magnitude=3))
    net(images())
    net[1].gamma.set_data(mx.nd.array([1, -1, 0.5, 2, 1, 1, 1, 0.1]))
    net[1].running_mean.set_data(mx.nd.arange(8) / 8)
    return net


def images(count=6):
    return mx.nd.array(np.random.RandomState(1).normal(size=(count, 3, 9, 9)))


def trained(method, weight, given):
    net = convert_model(network(), target=TARGET, config_list=[
        {"op_types": TYPES, "weight": weight, "input": given, "method": method}])
    calibrator = named_calibrator("mse")
    calibrate(net, observe(net, [images(32)], calibrator), calibrator)
    quantize_input(net, enable=True, online=False)
    start_training(net, images(), "offline")
    for parameter in net.collect_params().values():
        if parameter.name.endswith(("growth", "alpha")):  # as training would move them
            parameter.set_data(parameter.data() * 0.9 - 0.05)
    return net


@pytest.mark.parametrize("method, weight, given", [
    ("ste", "int2/channel", "auto2"), ("ste", "int8/channel", "int7"), ("ste", "int1/channel", "auto4"),
    ("lsq", "int2/channel/full", "auto2"), ("lsq", "int4/channel", "auto4"), ("lsq", "int4/channel", "uint4"),
    ("lsq", "int(5)/channel", "auto(5)"), ("lsq", "int1/channel", "auto2"), ("pact", "int4", "auto4"),
    ("cgpact", "int7", "auto7"), ("dorefa", "int3", "auto3"), ("sat", "int4", "auto4"), ("sat", "int1", "auto2")])
def test_the_codes_are_those_of_the_simulation(method, weight, given, tmp_path):
    ncnn = pytest.importorskip("ncnn")
    assert ncnn
    net, x = trained(method, weight, given), images(8)
    want = net(x).asnumpy()
    model = lower(net, (3, 9, 9), arithmetic=TARGET.arithmetic)
    assert {node.quantization.input.qmax for node in ir.quantized(model)} == {127}
    run = engine.run(model, x.asnumpy(), arithmetic=TARGET.arithmetic_here(), codes=True)
    np.testing.assert_allclose(run.outputs[0], want, rtol=0, atol=1e-5 * np.abs(want).max())
    simulated = side(net, model)(x.asnumpy())
    for name, codes in simulated.codes.items():
        np.testing.assert_array_equal(codes, run.codes[name].reshape(codes.shape), err_msg=name)
    TARGET.write(model, tmp_path)
    np.testing.assert_array_equal(TARGET.run(tmp_path, x.asnumpy())[0].reshape(want.shape), run.outputs[0])


def test_fixed_weights_are_lowered_to_the_same_codes():
    net = trained("dorefa", "int4", "auto4")
    model = lower(net, (3, 9, 9), arithmetic=TARGET.arithmetic)
    fix_params(net)
    again = lower(net, (3, 9, 9), arithmetic=TARGET.arithmetic)
    for one, other in zip(ir.quantized(model), ir.quantized(again)):
        np.testing.assert_array_equal(one.quantization.weight_q, other.quantization.weight_q)
        np.testing.assert_array_equal(one.quantization.weight_scale, other.quantization.weight_scale)


def test_a_clip_stands_in_front_of_narrow_layers_only():
    net = convert_model(network(), target=TARGET, config_list=[{"op_names": ["4"], "input": "auto4"}])
    calibrator = named_calibrator("mse")
    calibrate(net, observe(net, [images(32)], calibrator), calibrator)
    quantize_input(net, enable=True, online=False)
    model = lower(net, (3, 9, 9), arithmetic=TARGET.arithmetic)
    clips = [node for node in model.nodes if isinstance(node, ir.Activation) and node.function.kind == "clip"]
    assert [node.path for node in clips] == ["4"]
    step = net[4].input_quantizer.get_qparams().scale[0]
    spec = net[4].input_quantizer.spec
    assert clips[0].function.parameters == (spec.qmin * step, spec.qmax * step)
    plain = lower(net, (3, 9, 9), quantized=False)
    assert not any(isinstance(node, ir.Activation) and node.function.kind == "clip" for node in plain.nodes)


def test_all_that_cannot_be_held_is_said_before_training():
    with pytest.raises(ConfigError) as error:
        convert_model(network(), target=TARGET, config_list=[
            {"op_names": ["0"], "method": "lsq+"}, {"op_names": ["4"], "weight": "int8/layer", "weight_method": "sat"},
            {"op_names": ["6"], "input": "uint8"}])
    for words in ("0: input int8 asymmetric", "4: weight int8 mid-rise", "6: input uint8"):
        assert words in str(error.value)

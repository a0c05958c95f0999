# SPDX-License-Identifier: MIT
"""Outputs of layers and of ReLU6 are quantized where a rule says so."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon
from mxnet.gluon import nn

from calib.calibrators import MinMax
from calib.collect import calibrate, observe
from quantize import reference
from quantize.convert import convert_model, convert_to_relu6, fake_bn, merge_fake_bn
from quantize.modes import quantizers, set_mode
from quantize.nn import QReLU6
from quantize.spec import QuantSpec

OUTPUTS = [{"op_types": ["Conv2D", "Dense"], "weight": "float", "input": "float", "output": "auto4"}]


@pytest.mark.parametrize("hybridize", [False, True])
def test_the_output_of_a_layer_is_rounded(small_net, images, hybridize):
    float_layer = small_net[0](images).asnumpy()
    convert_model(small_net, config_list=OUTPUTS)
    small_net.hybridize(hybridize)
    small_net(images)
    spec = QuantSpec(4)
    expected = reference.fake_quantize(float_layer, reference.find_qparams(float_layer, spec), spec)
    np.testing.assert_allclose(small_net[0](images).asnumpy(), expected, rtol=1e-5, atol=1e-5)
    assert "int4" in str(small_net.plan) and "output=int4" in repr(small_net[0])
    assert [path for path, _ in quantizers(small_net)] == ["0.output_quantizer", "3.output_quantizer",
                                                            "6.output_quantizer"]


def test_input_and_output_stand_in_the_plan(small_net):
    convert_model(small_net, config_list=[{"op_names": ["3"], "output": "int6", "output_method": "lsq"}])
    row = next(line for line in str(small_net.plan).splitlines() if line.startswith("3 "))
    assert "uint8 -> int6 lsq" in row
    assert small_net[3].output_quantizer.method == "lsq"


def test_auto_is_unsigned_behind_the_layers_own_relu(images):
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3, activation="relu"), nn.Conv2D(4, 3), nn.Dense(3, activation="tanh"))
    net.initialize()
    net(images)
    convert_model(net, config_list=[{"op_types": ["Conv2D", "Dense"], "output": "auto8"}])
    assert [net[i].output_quantizer.spec.signed for i in range(3)] == [False, True, True]
    assert net(images).shape == (4, 3)


def test_an_activation_inside_a_layer_is_replaced_too(images):
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3, activation="relu"), nn.Dense(3))
    net.initialize()
    net(images)
    convert_model(net, config_list=[{"output": "auto8"}])
    assert [path for path, _ in quantizers(net)] == [
        "0.input_quantizer", "0.weight_quantizer", "0.output_quantizer", "0.act.output_quantizer",
        "1.input_quantizer", "1.weight_quantizer", "1.output_quantizer"]


def test_an_output_is_calibrated_trained_and_exported(small_net, images, tmp_path):
    convert_model(small_net, config_list=[{"op_types": ["Conv2D", "Dense"], "weight": "int4/channel", "input": "auto4",
                                           "output": "auto4", "method": "lsq"}])
    fake_bn(small_net)
    minmax = MinMax()
    calibrate(small_net, observe(small_net, [images], minmax), minmax)
    set_mode(small_net, "offline")
    small_net.hybridize()
    trainer = gluon.Trainer(small_net.collect_params(), "sgd", {"learning_rate": 0.01})
    with autograd.record():
        loss = (small_net(images) ** 2).mean()
    loss.backward()
    trainer.step(1)
    assert all(np.abs(quantizer.growth.data().asnumpy()).max() > 0 for path, quantizer in quantizers(small_net)
               if path.endswith("output_quantizer"))
    folded = small_net(images).asnumpy()
    merge_fake_bn(small_net)
    np.testing.assert_allclose(small_net(images).asnumpy(), folded, rtol=1e-4, atol=0.05 * np.abs(folded).max())
    small_net(images)
    small_net.export(str(tmp_path / "net"))
    imported = gluon.SymbolBlock.imports(str(tmp_path / "net-symbol.json"), ["data"], str(tmp_path / "net-0000.params"))
    np.testing.assert_allclose(imported(images).asnumpy(), small_net(images).asnumpy(), rtol=1e-5, atol=1e-5)


def test_relu6_is_quantized_as_a_type_of_its_own(small_net, images):
    convert_to_relu6(small_net)
    convert_model(small_net, config_list=[{"op_types": ["ReLU6"], "output": "auto4"}])
    assert isinstance(small_net[2], QReLU6) and repr(small_net[2]) == "QReLU6(relu, output=uint4/layer online)"
    x = mx.nd.array([-3, 0, 2.2, 5.9, 8, 100])
    np.testing.assert_allclose(small_net[2](x).asnumpy(), np.float32([0, 0, 2.4, 6, 6, 6]), rtol=1e-6)
    small_net.hybridize()
    assert small_net(images).shape == (4, 5)

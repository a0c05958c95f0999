# SPDX-License-Identifier: MIT
"""Methods in rules: which quantizers a network gets, and what is refused."""

import json
import logging

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon
from mxnet.gluon import nn

from quantize import nn as qnn
from quantize.convert import convert_model, gen_conv2d_converter
from quantize.errors import ConfigError
from quantize.nn import METHODS, SkippableReLU
from quantize.train import start_training


def classes(net):
    return [(type(net[i].weight_quantizer).__name__, type(net[i].input_quantizer).__name__) for i in (0, 3, 6)]


@pytest.mark.parametrize("method, weight, signed, unsigned", [
    ("ste", "UniformFakeQuantize", "UniformFakeQuantize", "UniformFakeQuantize"),
    ("lsq", "LSQFakeQuantize", "LSQActivation", "LSQActivation"),
    ("lsq+", "LSQPlusWeight", "LSQPlusFakeQuantize", "LSQPlusFakeQuantize"),
    ("pact", "DoReFaWeight", "LSQActivation", "PACTFakeQuantize"),
    ("cgpact", "DoReFaWeight", "LSQActivation", "CGPACTFakeQuantize"),
    ("dorefa", "DoReFaWeight", "UniformFakeQuantize", "DoReFaActivation"),
    ("sat", "SATWeight", "LSQActivation", "CGPACTFakeQuantize"),
])
def test_a_method_by_name(small_net, images, method, weight, signed, unsigned):
    """The network's input can be negative: methods that clip at zero get their signed counterpart there."""
    net = convert_model(small_net, config_list=[{"weight": "int4", "input": "auto4", "method": method}])
    assert classes(net) == [(weight, signed), (weight, unsigned), (weight, unsigned)]
    assert np.isfinite(net(images).asnumpy()).all()
    assert {entry.weight_method for entry in net.plan.entries} == {method}
    text = str(net.plan).splitlines()[1]
    if method in ("pact", "cgpact", "sat"):
        assert f"int4 mid-rise/layer {method}" in text and f"{method} clips below zero: lsq" in text


@pytest.mark.parametrize("method", METHODS.names())
def test_an_exported_network_computes_the_same(small_net, images, method, tmp_path):
    bits = "1" if method == "bnn" else "4"
    config = [{"weight": "int" + bits, "input": "auto" + bits, "method": method}]
    if method == "bnn":
        config.append({"input": "float"})
    net = convert_model(small_net, config_list=config)
    start_training(net, images, "online")
    net.hybridize()
    expected = net(images).asnumpy()
    net.export(str(tmp_path / "net"))
    again = gluon.SymbolBlock.imports(str(tmp_path / "net-symbol.json"), ["data"], str(tmp_path / "net-0000.params"))
    np.testing.assert_allclose(again(images).asnumpy(), expected, rtol=1e-5, atol=1e-5)


def test_operands_may_have_methods_of_their_own(small_net):
    net = convert_model(small_net, config_list=[
        {"weight": "int4/channel", "weight_method": "lsq"},
        {"op_names": ["3"], "input_method": "pact", "options": {"alpha": 6.0}},
        {"op_types": ["Dense"], "method": "ste"}])
    assert classes(net) == [("LSQFakeQuantize", "UniformFakeQuantize"), ("LSQFakeQuantize", "PACTFakeQuantize"),
                            ("UniformFakeQuantize", "UniformFakeQuantize")]
    assert net[3].input_quantizer.threshold == 6


def test_options_are_merged_one_by_one(small_net):
    net = convert_model(small_net, config_list=[
        {"weight": "int4", "input": "auto4", "method": "sat", "options": {"alpha": 6.0, "scaling": False}},
        {"op_names": ["6"], "options": {"alpha": 3.0}}])
    assert [net[i].input_quantizer.threshold for i in (3, 6)] == [6, 3]
    assert not net[6].weight_quantizer.scaling


def test_converters_of_the_table_keep_their_methods(small_net):
    net = convert_model(small_net, convert_fn={nn.Conv2D: gen_conv2d_converter(weight_width=4)},
                        config_list=[{"weight_method": "dorefa"}])
    assert type(net[0].weight_quantizer) is qnn.DoReFaWeight and type(net[6]) is nn.Dense


@pytest.mark.parametrize("rule, message", [
    ({"method": "lqs"}, r"0 \(config entry 0\): unknown quantization method 'lqs'; known: bnn, .*did you mean 'lsq'"),
    ({"weight": "int4/channel", "method": "dorefa"}, r"0 \(config entry 0\): dorefa: .* write 'int4/layer'"),
    ({"weight": "int4/affine", "method": "lsq"}, "lsq: a trained step needs a symmetric grid"),
    ({"weight": "int1", "input": "int1", "method": "lsq"}, "lsq: activations need a level at zero, .*write 'uint1'"),
    ({"weight": "int2", "method": "bnn"}, "bnn: values are -1 and \\+1: write 'int1'"),
    ({"weight": "int1", "input": "auto1", "method": "bnn"}, "3 .*bnn: .*after a ReLU"),
    ({"weight": "int4", "input": "int4", "method": "pact"}, "write 'uint4', got int4/layer; or input_method 'lsq'"),
    ({"options": {"alfa": 1}}, "unknown option 'alfa'; known: alpha, .*scaling, .*; did you mean 'alpha'"),
    ({"options": {"alpha": 0}}, "'alpha' is .* a positive number; got 0"),
    ({"options": {"scaling": 1}}, "true or false; got 1"),
    ({"options": {"gradient_bits": 9}}, "1 to 8; got 9"),
])
def test_what_cannot_be_done_names_layer_and_rule(small_net, rule, message):
    with pytest.raises(ConfigError, match=message):
        convert_model(small_net, config_list=[rule])


@pytest.mark.parametrize("method, name", [("pact", "uint4"), ("cgpact", "auto4"), ("dorefa", "auto4"), ("bnn", "int1")])
def test_an_activation_is_replaced_by_its_quantizer(small_net, images, method, name):
    net = convert_model(small_net, convert_fn={}, config_list=[
        {"op_types": ["Activation"], "output": name, "output_method": method}])
    act = net[2]
    x = images * 3
    expected = act.output_quantizer(x).asnumpy()
    np.testing.assert_array_equal(act(x).asnumpy(), expected)
    assert "Activation" not in {node["op"] for node in json.loads(act(mx.sym.var("x")).tojson())["nodes"]}
    if method == "bnn":
        assert set(expected.ravel()) == {-1, 1}
    act.output_quantizer.mode = "float"
    np.testing.assert_array_equal(act(x).asnumpy(), np.maximum(x.asnumpy(), 0))


def test_pact_takes_the_place_of_the_relu_in_training(small_net, images):
    """Where only PACT reads a ReLU, it steps aside; not while the ranges are being observed, or in float."""
    net = convert_model(small_net, config_list=[{"weight": "int4", "input": "auto4", "method": "pact"}])
    start_training(net, images)
    relu = net[2]
    assert isinstance(relu, SkippableReLU)
    np.testing.assert_array_equal(relu(images).asnumpy(), images.asnumpy())
    for mode in ("float", "observe", "online"):
        net[3].input_quantizer.mode = mode
        np.testing.assert_array_equal(relu(images).asnumpy(), np.maximum(images.asnumpy(), 0))


def test_layers_that_read_one_tensor_by_different_methods_do_not_share(images):
    class Two(nn.HybridSequential):
        def hybrid_forward(self, F, x):
            x = F.relu(x)
            return self[0](x) + self[1](x) + self[2](x)
    net = Two()
    net.add(*[nn.Conv2D(4, 1, in_channels=3) for _ in range(3)])
    net.initialize()
    convert_model(net, config_list=[{"weight": "int4", "input": "auto4"}, {"op_names": ["0"], "input_method": "pact"}])
    first, second, third = (net[i].input_quantizer for i in range(3))
    assert first is not second and second is third


def test_names_are_known():
    assert METHODS.names() == ["bnn", "cgpact", "dorefa", "lsq", "lsq+", "pact", "sat", "ste"]


def test_a_level_count_is_a_format(small_net, caplog):
    with caplog.at_level(logging.WARNING):
        net = convert_model(small_net, config_list=[{"weight": "int(15)", "input": "uint(15)", "method": "sat"}])
    assert net[3].weight_quantizer.levels == net[3].input_quantizer.spec.qmax == 15
    assert "its input can be negative" in caplog.text

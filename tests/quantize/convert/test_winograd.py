# SPDX-License-Identifier: MIT
"""Which layers get the Winograd domain, what the Plan says, and what is refused."""

import mxnet as mx
import pytest
from mxnet.gluon import nn

from quantize.convert import convert_model, fake_bn, gen_conv2d_converter, gen_dense_converter
from quantize.errors import ConfigError
from quantize.modes import quantizers
from quantize.nn import QConv2D, WinogradConv2D
from quantize.winograd import WinogradSpec


@pytest.fixture
def net():
    """3x3, 1x1, stride 2, dilation 2, depthwise 3x3 and Dense."""
    mx.random.seed(1)
    net = nn.HybridSequential()
    net.add(nn.Conv2D(8, 3, padding=1), nn.BatchNorm(), nn.Activation("relu"), nn.Conv2D(8, 1),
            nn.Conv2D(8, 3, strides=2), nn.Conv2D(8, 3, dilation=2, padding=2), nn.Conv2D(8, 3, groups=8), nn.Dense(4))
    net.initialize(mx.init.Xavier())
    net(mx.nd.zeros((1, 3, 12, 12)))
    return net


def notes(net):
    return {entry.path: (entry.winograd, entry.reason.partition("no Winograd: ")[2]) for entry in net.plan.entries}


def test_only_fitting_layers_take_it_and_the_plan_says_so(net):
    net = convert_model(net, config_list=[{"winograd": "F43/position"}])
    spec = WinogradSpec("F43", "position")
    assert notes(net) == {"0": (spec, ""), "3": (None, "kernel 1x1"), "4": (None, "stride 2x2"),
                          "5": (None, "dilation 2x2"), "6": (spec, ""), "7": (None, "no convolution")}
    assert "int8 F43/position  " in str(net.plan) and "no Winograd: stride 2x2" in str(net.plan)
    shapes = {path: quantizer.scale.shape for path, quantizer in quantizers(net, "weight")}
    assert shapes["0.weight_quantizer"] == (8 * 36, 1) and shapes["3.weight_quantizer"] == (1,)


@pytest.mark.parametrize("granularity, rows", [("layer", (1,)), ("channel", (8, 1)), ("position", (8 * 16, 1))])
def test_granularity_replaces_that_of_the_weight(net, granularity, rows):
    net = convert_model(net, config_list=[{"op_names": ["0"], "weight": "int4/group",
                                           "winograd": "F23/" + granularity}])
    assert net[0].weight_quantizer.scale.shape == rows
    assert net[0].weight_quantizer.spec.bits == 4


def test_later_rules_win(net):
    net = convert_model(net, config_list=[{"op_types": ["Conv2D"], "winograd": "F63/inputs"},
                                          {"op_names": ["6"], "winograd": "none"}])
    assert type(net[0]) is WinogradConv2D and type(net[6]) is QConv2D
    assert notes(net)["6"] == (None, "")


def test_the_predecessors_name(net):
    convert_fn = {nn.Conv2D: gen_conv2d_converter(quant_type="channel", wino_quantize="F23/layer"),
                  nn.Dense: gen_dense_converter()}
    net = convert_model(net, convert_fn=convert_fn)
    assert notes(net)["0"][0] == WinogradSpec("F23", "layer") and notes(net)["7"] == (None, "")
    with pytest.raises(ConfigError, match="wino_quantize: 'F2': Winograd variant must be one of F23, F43, F63"):
        gen_conv2d_converter(wino_quantize="F2")


@pytest.mark.parametrize("rules, message", [
    ([{"op_types": ["Dense"], "winograd": "F43"}],
     r"entry 0: winograd F43/channel for 1 layers, none of which can take it.*3x3, stride 1.*\(7: no convolution\)"),
    ([{"op_names": ["3", "4"], "winograd": "F43"}], r"none of which can take it.*\(3: kernel 1x1\)"),
    ([{"winograd": "F43"}, {"op_names": ["0", "6"], "exclude": True}], "reaches no layer: those that could take it"),
    ([{"winograd": "F43"}, {"op_names": ["0", "6"], "weight": "float"}], "reaches no layer"),
    ([{"winograd": "F43", "weight": "int9"}], r"0 \(.*\): 9-bit weights, but in the Winograd domain they have 2 to 8"),
    ([{"winograd": "F43", "weight": "int1"}], "1-bit weights"),
    ([{"winograd": "F43/inputs", "input": "float"}], "rounds input tiles, but the input is float"),
    ([{"winograd": "F43", "weight_method": "dorefa"}], "weight method 'dorefa' cannot be used in the Winograd domain; "
                                                       "use one of ste, lsq, lsq"),
    ([{"winograd": "F34"}], "config entry 0, key 'winograd': 'F34': Winograd variant must be one of"),
    ([{"winograd": 4}], "config entry 0, key 'winograd': 4 is no Winograd format"),
])
def test_bad_input(net, rules, message):
    with pytest.raises(ConfigError, match=message):
        convert_model(net, config_list=rules)


def test_batchnorm_is_folded_into_weights_alone(net):
    convert_model(net, config_list=[{"op_names": ["0"], "winograd": "F43"}])
    assert fake_bn(net) == [("0", "1")]
    x = mx.nd.random.normal(shape=(2, 3, 12, 12))
    eager = net(x).asnumpy()
    net.hybridize()
    assert abs(net(x).asnumpy() - eager).max() < 1e-4 * abs(eager).max()


def test_batchnorm_stays_where_tiles_are_rounded(net):
    convert_model(net, config_list=[{"op_names": ["0"], "winograd": "F43/inputs"}])
    with pytest.raises(ConfigError, match="no BatchNorm to fold"):
        fake_bn(net)

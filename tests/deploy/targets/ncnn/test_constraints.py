# SPDX-License-Identifier: MIT
"""ncnn's rules for float networks, and what they refuse in a plan."""

import mxnet as mx
import pytest
from mxnet.gluon import nn

from deploy.targets.ncnn import NcnnTarget, constraints
from quantize.convert import convert_model
from quantize.errors import ConfigError


@pytest.fixture
def net():
    """3x3, depthwise, grouped, 1x1, transposed and dense layers."""
    net = nn.HybridSequential(prefix="")
    net.add(nn.Conv2D(16, 3), nn.Conv2D(16, 3, groups=16), nn.Conv2D(16, 3, groups=2), nn.Conv2D(8, 1),
            nn.Conv2DTranspose(4, 2), nn.Dense(5))
    net.initialize()
    net(mx.nd.zeros((1, 3, 12, 12)))
    return net


def formats(net):
    """Path -> (weight, input) of the quantized layers."""
    return {entry.path: (str(entry.weight), str(entry.input)) for entry in net.plan.entries if entry.quantized}


def test_the_default_rules(net):
    assert formats(convert_model(net, target="ncnn")) == {path: ("int8/channel", "int8/layer") for path in "0135"}


def test_winograd_gets_31_levels(net):
    found = formats(convert_model(net, target=NcnnTarget(winograd=True)))
    assert found == dict({path: ("int8/channel", "int8/layer") for path in "135"}, **{
        "0": ("int6/channel", "int8/layer")})
    assert net[0].weight_quantizer.spec.qmax == constraints.WINOGRAD_QMAX
    assert net[0].weight_quantizer.spec.qmin == -constraints.WINOGRAD_QMAX


def test_the_users_rules_come_later(net):
    found = formats(convert_model(net, target="ncnn", config_list=[
        {"op_names": ["3"], "weight": "int4/channel"}, {"op_names": ["0"], "exclude": True},
        {"op_names": ["5"], "weight": "int8/layer"}]))
    assert found == {"1": ("int8/channel", "int8/layer"), "3": ("int4/channel", "int8/layer"),
                     "5": ("int8/layer", "int8/layer")}


def test_groups_are_quantized_for_those_who_insist_and_warned_about(net, caplog):
    found = formats(convert_model(net, target="ncnn", config_list=[{"op_names": ["2"], "exclude": False}]))
    assert found["2"] == ("int8/group(2)", "int8/layer")
    assert "2: ncnn computes garbage for some int8 group convolutions" in caplog.text


@pytest.mark.parametrize("rule, says", [
    ({"op_names": ["0"], "input": "auto8"}, None),
    ({"op_names": ["3"], "input": "int7"}, None),
    ({"op_names": ["3"], "input": "uint7"}, None),
    ({"op_names": ["3"], "weight": "int1/channel"}, None),
    ({"op_names": ["3"], "weight": "int7/layer", "weight_method": "dorefa"}, None),
    ({"op_names": ["3"], "weight": "int8/layer", "weight_method": "dorefa"}, "3: weight int8 mid-rise/layer, but ncnn"),
    ({"op_names": ["3"], "input": "int8/affine"}, "3: input int8 asymmetric, but ncnn takes int8"),
    ({"op_names": ["3"], "input": "int8/full"}, "3: input int8/full, but ncnn takes int8"),
    ({"op_names": ["0"], "winograd": "F43"}, "0: its weight is rounded in the Winograd domain"),
    ({"op_names": ["3"], "input": "uint8"}, "3: input uint8, but ncnn takes int8"),
    ({"op_names": ["3"], "input": "float"}, "3: input float, but ncnn computes in integers with both"),
    ({"op_names": ["3"], "weight": "float"}, "3: weight float, but ncnn computes in integers with both"),
    ({"op_names": ["3"], "weight": "int9/channel"}, "3: weight int9/channel, but ncnn stores signed codes from -127"),
    ({"op_names": ["4"], "exclude": False}, "4: ncnn has no int8 transposed convolution"),
    ({"op_names": ["2"], "exclude": False, "weight": "int8/channel"}, "2: weight int8/channel, but ncnn has one weight "
     "scale for each group"),
])
def test_rules_that_ncnn_cannot_follow(net, rule, says):
    if says is None:  # an input that can be negative is signed anyway; fewer codes are held by a clip
        convert_model(net, target="ncnn", config_list=[rule])
        return
    with pytest.raises(ConfigError) as error:
        convert_model(net, target="ncnn", config_list=[rule])
    text = str(error.value)
    assert text.startswith("target 'ncnn' cannot follow the rules of 1 layers: ") and says in text


def test_all_rules_are_refused_at_once(net):
    with pytest.raises(ConfigError) as error:
        convert_model(net, target=NcnnTarget(winograd=True), config_list=[
            {"op_names": ["0", "3"], "weight": "int8/channel"}, {"op_names": ["5"], "input": "uint8"},
            {"op_names": ["1"], "weight": "int12/channel"}])
    text = str(error.value)
    assert "\n" not in text and "rules of 3 layers" in text
    for words in ("0: weight int8/channel, but Winograd convolutions have at most 31 levels", "5: input uint8",
                  "1: weight int12/channel"):
        assert words in text
    assert "3: " not in text
    assert not any(hasattr(block, "quantizers") for block in net), "a refused network stays float"


def test_an_activation_whose_output_is_quantized():
    net = nn.HybridSequential(prefix="")
    net.add(nn.Conv2D(4, 3, in_channels=3), nn.Activation("relu"))
    net.initialize()
    with pytest.raises(ConfigError, match="1: output uint8, but ncnn takes int8 .*or fewer of its codes"):
        convert_model(net, target="ncnn", config_list=[{"op_types": ["Activation"], "output": "auto8"}])
    convert_model(net, target="ncnn", config_list=[{"op_types": ["Activation"], "output": "uint7"}])


@pytest.mark.parametrize("weight, stride, dilation, groups, depthwise, grouped, winograd", [
    ((8, 3, 3, 3), (1, 1), (1, 1), 1, False, False, True),
    ((8, 3, 3, 3), (2, 1), (1, 1), 1, False, False, False),
    ((8, 3, 3, 3), (1, 1), (2, 2), 1, False, False, False),
    ((8, 3, 1, 3), (1, 1), (1, 1), 1, False, False, False),
    ((8, 1, 3, 3), (1, 1), (1, 1), 8, True, False, False),
    ((16, 1, 3, 3), (1, 1), (1, 1), 8, False, True, False),
    ((8, 4, 3, 3), (1, 1), (1, 1), 2, False, True, False),
])
def test_geometry(weight, stride, dilation, groups, depthwise, grouped, winograd):
    geometry = constraints.Geometry(weight, stride, dilation, groups)
    assert (geometry.depthwise, geometry.grouped, geometry.winograd) == (depthwise, grouped, winograd)

# SPDX-License-Identifier: MIT
"""Rules that select convolutions by the shape of their kernels."""

import mxnet as mx
import pytest
from gluoncv.model_zoo import get_model
from mxnet.gluon import nn

from quantize.config import rules_from_config
from quantize.convert import convert_model
from quantize.errors import ConfigError
from quantize.storage.values import decoded, encoded


def convolutions():
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3, in_channels=3), nn.Conv2D(4, 1, in_channels=4), nn.Conv2D(4, (1, 3), in_channels=4),
            nn.Conv2D(4, (3, 1), in_channels=4), nn.Dense(2, in_units=4))
    net.initialize()
    return net


def bits(net):
    return [entry.weight and entry.weight.bits for entry in net.plan.entries]


@pytest.mark.parametrize(("rules", "expected"), [
    ([{"kernel": [1, 1], "weight": "int4"}], [8, 4, 8, 8, 8]),
    ([{"kernel": [1, 3], "weight": "int4"}], [8, 8, 4, 8, 8]),
    ([{"kernel": (3, 1), "weight": "int4"}], [8, 8, 8, 4, 8]),
    ([{"kernel": [1, 1], "weight": "int4"}, {"op_names": ["1"], "weight": "int5"}], [8, 5, 8, 8, 8]),
    ([{"kernel": [3, 3], "op_names": ["*"], "exclude": True}], [None, 8, 8, 8, 8]),
])
def test_the_kernels_that_are_meant(rules, expected):
    assert bits(convert_model(convolutions(), config_list=rules)) == expected


@pytest.mark.parametrize(("rule", "message"), [
    ({"kernel": [5, 5], "weight": "int4"}, r"kernel \[5, 5\]; kernels of the network: \[1, 1\], \[1, 3\], \[3, 1\], "),
    ({"kernel": [1], "weight": "int4"}, r"has the kernel \[1\]"),
    ({"kernel": [1, 1], "op_types": ["Dense"], "weight": "int4"}, "no layer that the rule names has the kernel"),
    ({"kernel": 3}, r"'kernel' must be a list of one to three sides, such as \[3, 3\], got '3'"),
    ({"kernel": []}, "'kernel' must be"), ({"kernel": [3, 0]}, "'kernel' must be"), ({"kernel": None}, "'kernel' must"),
    ({"kernel": [True, 1]}, "'kernel' must be"), ({"kernel": [1, 1, 1, 1]}, "'kernel' must be"),
    ({"kernal": [1, 1]}, "did you mean 'kernel'"),
])
def test_what_no_kernel_fits(rule, message):
    with pytest.raises(ConfigError, match=message):
        convert_model(convolutions(), config_list=[rule])


def test_rules_are_stored_with_their_kernels():
    rules = tuple(rules_from_config([{"kernel": [1, 1], "weight": "int4"}]))
    assert decoded(encoded(rules)) == rules
    stated = encoded(rules)[0]
    del stated["kernel"]  # as releases before wrote it
    assert decoded(stated).kernel == ()


@pytest.mark.parametrize(("pointwise", "others", "activations"), [
    (8, 8, 8), (4, 4, 4), (4, 4, 3), (2, 2, 8), (4, 4, 2), (3, 3, 3), (1, 4, 3), (1, 4, 2), (1, 1, 8)])
def test_one_rule_each_for_mobilenet(pointwise, others, activations):
    """N2D2's table of MobileNet: bits of 1x1 kernels, of 3x3 kernels and of activations."""
    net = get_model("mobilenet0.25", pretrained=False)
    net.initialize()
    net = convert_model(net, config_list=[
        {"kernel": [1, 1], "weight": f"int{pointwise}"}, {"kernel": [3, 3], "weight": f"int{others}"},
        {"input": f"auto{activations}"}, {"op_types": ["Conv2D", "Dense"], "method": "sat"},
        {"op_names": ["features.0", "output"], "weight": "int8", "input": "auto8"}],
        example_input=mx.nd.zeros((1, 3, 32, 32)))
    entries = net.plan.entries
    assert len(entries) == 28 and bits(net) == [8] + [others, pointwise] * 13 + [8]
    assert [entry.input.bits for entry in entries] == [8] + [activations] * 26 + [8]

# SPDX-License-Identifier: MIT
import dataclasses

import numpy as np
import pytest

from deploy import ir
from deploy.targets.ncnn.scales import MAX_NAME, multipliers, table_scales
from deploy.targets.ncnn.table import NcnnScales, format_ncnn_table, parse_ncnn_table
from quantize.errors import DeployError


def layer(name, weight_shape, steps, groups=1, step=0.5, kind=ir.Convolution):
    """A quantized layer with the given steps."""
    options = {} if kind is ir.InnerProduct else {"groups": groups}
    weight = np.ones(weight_shape, np.float32)
    return kind(name, ("data",), (name,), "features." + name, weight=weight, quantization=ir.Quantization(
        ir.Grid(step), np.ones(weight_shape, np.int8), np.array(steps, np.float32)), **options)


def network(*nodes):
    return ir.Model(("data",), (nodes[-1].outputs[0],), nodes, {})


def test_one_multiplier_for_each_output_or_group():
    found = table_scales(network(
        layer("conv", (2, 3, 3, 3), [0.5, 0.3]), layer("dw", (2, 1, 3, 3), [0.25, 0.2], groups=2, step=0.1),
        layer("groups", (4, 1, 3, 3), [0.25, 0.25, 0.2, 0.2], groups=2),
        layer("fc", (3, 5), [1, 2, 4], kind=ir.InnerProduct)))
    one = np.float32(1)
    wanted = {"conv": ([2, one / np.float32(0.3)], 2), "dw": ([4, one / np.float32(0.2)], one / np.float32(0.1)),
              "groups": ([4, one / np.float32(0.2)], 2), "fc": ([1, 0.5, 0.25], 2)}
    assert list(found) == list(wanted)
    for name, (weight, blob) in wanted.items():
        np.testing.assert_array_equal(found[name][0], np.array(weight, np.float32))
        assert found[name][1] == blob and found[name][1].dtype == found[name][0].dtype == np.float32


def test_layers_that_stay_float_are_left_out():
    fc = layer("fc", (3, 5), [1, 2, 4], kind=ir.InnerProduct)
    plain = dataclasses.replace(fc, name="plain", quantization=None)
    assert list(table_scales(network(plain, fc))) == ["fc"]


def test_a_table_holds_them_bit_for_bit():
    steps = np.exp(np.random.RandomState(3).uniform(-12, 12, 500)).astype(np.float32)
    found = table_scales(network(layer("conv", (500, 1, 1, 1), steps, step=0.1)))
    text = format_ncnn_table({name: NcnnScales(tuple(map(float, weight)), float(blob))
                              for name, (weight, blob) in found.items()})
    back = parse_ncnn_table(text)["conv"]
    np.testing.assert_array_equal(np.array(back.weight, np.float32), found["conv"][0])
    assert np.float32(back.input) == found["conv"][1]


def test_everything_that_a_table_cannot_say_comes_at_once():
    with pytest.raises(DeployError) as caught:
        table_scales(network(
            layer("a_param_0", (1, 1, 1, 1), [1]), layer("n" * (MAX_NAME + 1), (1, 1, 1, 1), [1]),
            layer("g", (4, 1, 3, 3), [1, 2, 3, 3], groups=2), layer("zero", (1, 1, 1, 1), [np.inf]),
            layer("low", (1, 1, 1, 1), [1], step=1e-45), layer("good", (1, 1, 1, 1), [1])))
    lines = str(caught.value).split("\n")
    assert len(lines) == 6 and "good" not in str(caught.value)
    for line, says in zip(lines[1:], ("'_param_'", f"at most {MAX_NAME} bytes", "channels of a group", "finite",
                                      "finite")):
        assert line.startswith("features.") and says in line


def test_channels_of_a_group_that_differ_have_no_multiplier():
    with pytest.raises(DeployError, match="features.g: the channels of a group"):
        multipliers(layer("g", (4, 1, 3, 3), [1, 2, 3, 3], groups=2))

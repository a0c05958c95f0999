# SPDX-License-Identifier: MIT
"""Quantized layers: exact against int64 loops, on both sides of float32's 24 bits, and refused beyond int32."""

import dataclasses

import numpy as np
import pytest

from deploy import ir
from deploy.arithmetic import Arithmetic
from deploy.engine import integer, run
from quantize.errors import DeployError
from tests.deploy.engine import plain
from tests.deploy.engine.test_float_operations import CONVOLUTIONS
from tests.deploy.ir.models import floats, model_of, quantization

SIGNED = ir.Grid(0.03125)
ASYMMETRIC = ir.Grid(0.03125, 100, 0, 255)
WIDE = ir.Grid(2.0 ** -13, 0, -32767, 32767)


@pytest.fixture
def rng():
    return np.random.RandomState(6)


class Watched(Arithmetic):
    """Remembers the sums of each layer."""

    def __init__(self):
        self.sums = {}

    def dequantize(self, accumulator, node):
        self.sums[node.name] = np.array(accumulator)
        return super().dequantize(accumulator, node)


def check(node, x):
    """Codes, sums and output are those of the definitions; returns the sums."""
    watched = Watched()
    result = run(model_of([node], x=x.shape[1:]), x, arithmetic=watched, codes=True)
    grid, quantization = node.quantization.input, node.quantization
    codes = watched.quantize(x, grid)
    np.testing.assert_array_equal(result.codes[node.name], codes)
    assert grid.qmin <= codes.min() and codes.max() <= grid.qmax
    values = codes.astype(np.int64) - grid.zero_point
    if isinstance(node, ir.Convolution):
        filler = int(watched.quantize(np.float32([node.pad_value]), grid)[0]) - grid.zero_point
        sums = np.stack([plain.convolution(image, quantization.weight_q, node, filler, np.int64) for image in values])
    else:
        sums = np.einsum("ni,oi->no", values.reshape(len(x), -1), quantization.weight_q.astype(np.int64))
    np.testing.assert_array_equal(watched.sums[node.name], sums)
    assert result.largest[node.name] == np.abs(sums).max()
    scale = (np.float32(grid.scale) * quantization.weight_scale).reshape((1, -1) + (1,) * (sums.ndim - 2))
    y = sums.astype(np.float32) * scale
    if node.bias is not None:
        y = y + node.bias.reshape(scale.shape)
    np.testing.assert_array_equal(result.outputs[0], y)
    return watched.sums[node.name]


@pytest.mark.parametrize("grid", [SIGNED, ASYMMETRIC, WIDE], ids=["signed", "asymmetric", "wide"])
@pytest.mark.parametrize("channels, outputs, kernel, options", CONVOLUTIONS)
def test_convolutions(channels, outputs, kernel, options, grid, rng):
    weight = np.zeros((outputs, channels // options.get("groups", 1)) + kernel, np.float32)
    node = ir.Convolution("c", ("x",), ("y",), weight=weight, bias=floats(rng, outputs),
                          quantization=quantization(rng, weight, grid), **options)
    check(node, 2 * floats(rng, 2, channels, 9, 10))


@pytest.mark.parametrize("grid", [SIGNED, ASYMMETRIC, WIDE], ids=["signed", "asymmetric", "wide"])
def test_inner_products(grid, rng):
    weight = np.zeros((5, 24), np.float32)
    node = ir.InnerProduct("f", ("x",), ("y",), weight=weight, quantization=quantization(rng, weight, grid))
    check(node, 2 * floats(rng, 3, 4, 3, 2))


def extreme(count, grid=SIGNED, last=127):
    """An inner product whose products are all the largest there are, but for the last weight."""
    weight = np.zeros((1, count), np.float32)
    codes = np.full((1, count), 127, np.int8)
    codes[0, -1] = last
    return ir.InnerProduct("f", ("x",), ("y",), "output.0", weight=weight,
                           quantization=ir.Quantization(grid, codes, np.float32([1])))


def test_sums_are_exact_where_float32_ends():
    edge = 2 ** 24 // 127 // 127  # products of 127 * 127 up to 2**24
    below, above = extreme(edge), extreme(edge + 1, last=125)
    assert integer.exact_dtype(below) is np.float32 and integer.exact_dtype(above) is np.float64
    for node in (below, above):
        sums = check(node, np.full((1, node.weight.shape[1]), 9, np.float32))
        assert sums.dtype == integer.exact_dtype(node)
    assert sums[0, 0] > 2 ** 24 and sums[0, 0] % 2 == 1  # float32 holds no such number


def test_an_overflow_of_int32_names_the_layer():
    fits, overflows = extreme(516, WIDE, last=67), extreme(517, WIDE)
    x = np.full((1, 517), 9, np.float32)
    assert check(fits, x[:, :516]).max() <= 2 ** 31 - 1
    with pytest.raises(DeployError, match="output.0: a sum of products reaches 2151.*int32 ends at 2147483647"):
        run(model_of([overflows], x=(517,)), x)
    check(overflows, x * np.float32(0.5) - 4)  # the same layer, on inputs that fit


def test_the_bound_is_reached_and_never_passed(rng):
    weight = np.zeros((6, 4, 3, 3), np.float32)
    for grid in (SIGNED, ASYMMETRIC):
        node = ir.Convolution("c", ("x",), ("y",), weight=weight, quantization=quantization(rng, weight, grid))
        worst = np.where(node.quantization.weight_q > 0, grid.qmax, grid.qmin) - grid.zero_point
        if grid is ASYMMETRIC:  # the larger side wins everywhere
            worst = np.full(weight.shape, 155)
        reachable = np.abs((worst * node.quantization.weight_q.astype(int)).reshape(6, -1).sum(axis=1)).max()
        assert reachable <= integer.bound(node)
        assert (reachable == integer.bound(node)) == (grid is SIGNED)


def test_padding_is_the_code_of_its_value(rng):
    weight = np.zeros((2, 1, 3, 3), np.float32)
    node = ir.Convolution("c", ("x",), ("y",), weight=weight, pads=(1, 1, 1, 1), pad_value=0.5,
                          quantization=quantization(rng, weight, ASYMMETRIC))
    check(node, floats(rng, 1, 1, 4, 4))
    x = np.zeros((1, 1, 4, 4), np.float32)
    at_zero = run(model_of([dataclasses.replace(node, pad_value=0.0)], x=(1, 4, 4)), x).outputs[0]
    assert (at_zero == 0).all()  # the padding's code is the zero point


def test_values_that_are_no_numbers_are_refused(rng):
    weight = np.zeros((2, 3), np.float32)
    node = ir.InnerProduct("f", ("x",), ("y",), weight=weight, quantization=quantization(rng, weight))
    with pytest.raises(DeployError, match="not numbers"):
        run(model_of([node], x=(3,)), np.float32([[1, np.nan, 2]]))

# SPDX-License-Identifier: MIT
"""The order in which ONNX Runtime adds without optimizations: single operators, bit for bit."""

import numpy as np
import pytest

from deploy import engine, ir
from deploy.targets.onnx import writer
from deploy.targets.onnx.floats import FloatSums, block_length, dequantized, products
from deploy.targets.onnx.runner import Options, Runner

pytest.importorskip("onnxruntime")


def floats(*shape, seed=0):
    return np.random.RandomState(seed).uniform(-1, 1, shape).astype(np.float32)


def conv(shape, groups=1, bias=True, **options):
    return ir.Convolution("x", ("data",), ("x",), weight=floats(*shape), groups=groups,
                          bias=floats(shape[0], seed=1) if bias else None, **options)


@pytest.mark.parametrize("node, shape", [
    (conv((24, 3, 3, 3), stride=(2, 2)), (3, 33, 33)),
    (conv((16, 160, 1, 1)), (160, 28, 28)),
    (conv((40, 64, 3, 3), pads=(1, 1, 1, 1)), (64, 14, 14)),
    (conv((64, 128, 3, 3), pads=(1, 1, 1, 1)), (128, 7, 7)),
    (conv((96, 128, 3, 3), pads=(1, 1, 1, 1), bias=False), (128, 4, 4)),
    (conv((16, 8, 3, 3), groups=4, pads=(1, 0, 1, 2)), (32, 11, 10)),
    (conv((32, 1, 3, 3), groups=32, stride=(2, 2), pads=(1, 1, 1, 1)), (32, 15, 15)),
    (conv((8, 1, 5, 5), groups=8, pads=(2, 2, 2, 2)), (8, 9, 9)),
    (ir.InnerProduct("x", ("data",), ("x",), weight=floats(10, 200), bias=floats(10)), (200,)),
    (ir.Pooling("x", ("data",), ("x",), kind="avg", global_=True), (16, 7, 7)),
    (ir.Pooling("x", ("data",), ("x",), kind="avg", global_=True), (16, 1, 3)),
    (ir.Pooling("x", ("data",), ("x",), kind="avg", kernel=(3, 3), pads=(1, 1, 1, 1)), (8, 14, 14)),
    (ir.Pooling("x", ("data",), ("x",), kind="avg", kernel=(2, 2), stride=(2, 2)), (8, 14, 14)),
], ids=lambda value: type(value).__name__ if isinstance(value, ir.Node) else "x".join(map(str, value)))
def test_bit_for_bit(node, shape):
    outputs = engine.run(ir.Model(("data",), ("x",), (node,), {"data": shape, "x": _shape(node, shape)}),
                         floats(3, *shape, seed=2), arithmetic=FloatSums()).outputs[0]
    model = ir.Model(("data",), ("x",), (node,), {"data": shape, "x": outputs.shape[1:]})
    found = Runner("x", Options(optimized=False), writer.render(model)).run(floats(3, *shape, seed=2), ["x"])["x"]
    assert np.array_equal(found, outputs)


@pytest.mark.parametrize("outputs, inputs", [(300, 520), (1000, 512), (20, 300), (10, 1100)])
def test_a_fully_connected_layer_whose_weight_is_dequantized(outputs, inputs):
    """A weight that is an initializer is packed, and added up in other blocks; one behind DequantizeLinear is not."""
    grid = ir.Grid(0.015625, 100, 0, 255)
    codes = np.random.RandomState(4).randint(-127, 128, (outputs, inputs)).astype(np.int8)
    scale = np.random.RandomState(5).uniform(0.001, 0.02, outputs).astype(np.float32)
    node = ir.InnerProduct("x", ("r",), ("x",), weight=codes * scale[:, None], bias=floats(outputs),
                           quantization=ir.Quantization(grid, codes, scale))
    model = ir.Model(("data",), ("x",), (ir.Rounding("r", ("data",), ("r",), grid=grid), node),
                     {"data": (inputs,), "r": (inputs,), "x": (outputs,)})
    data = floats(3, inputs, seed=2)
    foreseen = engine.run(dequantized(model), data, arithmetic=FloatSums()).outputs[0]
    found = Runner("x", Options(optimized=False), writer.render(model)).run(data, ["x"])["x"]
    assert np.array_equal(found, foreseen)


def _shape(node, shape):
    from deploy.ir.shapes import RULES
    return RULES[type(node)](node, [shape])[0]


def test_blocks_grow_where_there_are_few_columns():
    assert [block_length(columns, 2304) for columns in (4000, 100, 64, 49, 20, 9)] == [128, 128, 256, 256, 512, 1024]
    assert block_length(49, 32) == 128


def test_products_are_rounded_after_every_addition():
    """2^24 + 1 + 1 in float32 is 2^24; in another block the ones meet first."""
    weight, values = np.ones((1, 3), np.float32), np.float32([[2 ** 24], [1], [1]])
    assert products(weight, values, 3)[0, 0] == 2 ** 24
    assert products(weight, values, 1)[0, 0] == 2 ** 24
    assert products(weight[:, ::-1], values[::-1], 2)[0, 0] == 2 ** 24 + 2

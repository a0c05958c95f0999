# SPDX-License-Identifier: MIT
"""Layers that round no input: they read the bytes of an image, or 16 bits of fixed point."""

import dataclasses
import itertools
import json

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from deploy import engine, ir
from deploy.lower import lower
from deploy.target import find
from deploy.targets.c.grids import _layer_bound, with_settled_inputs
from deploy.targets.c.images import image_bound, image_grid, prepared_bytes
from quantize.convert import convert_model
from quantize.modes import set_mode

SHAPE = (1, 12, 12)


def stating(model, scale=1 / 255, mean=(0.0,), std=(1.0,)):
    steps = {"scale": scale, "mean": list(mean), "std": list(std)}
    return dataclasses.replace(model, metadata={"preprocessing": json.dumps(steps)})


def empty(channels=1):
    shape = (channels, 4, 4)
    nodes = (ir.Reshape("r", ("data",), ("r",), shape=(channels * 16,)),)
    return ir.Model(("data",), ("r",), nodes, {"data": shape, "r": (channels * 16,)})


@pytest.mark.parametrize("scale, mean, std, grid", [
    (1 / 255, (0.0,), (1.0,), (1 / 255, 0)), (1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (1.0, 0)),
    (1.0, (128.0,), (64.0,), (1 / 64, 128)), (1 / 255, (0.2,), (0.5,), (2 / 255, 51)),
    (1 / 255, (0.5,), (0.5,), None), (1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), None),
    (1.0, (300.0,), (1.0,), None)])
def test_bytes_are_codes_where_they_lie_on_a_grid(scale, mean, std, grid):
    model = stating(empty(len(mean)), scale, mean, std)
    found = image_grid(model)
    values = prepared_bytes(model)
    assert image_bound(model) == np.abs(values).max()
    if grid is None:
        assert found is None
        return
    assert (found.scale, found.zero_point, found.qmin, found.qmax) == (pytest.approx(grid[0]), grid[1], 0, 255)
    got = (np.arange(256) - found.zero_point) * found.scale
    np.testing.assert_allclose(got, values[0], rtol=0, atol=1e-4 * found.scale + 1e-6 * np.abs(values).max())


def test_nothing_is_known_without_a_statement():
    assert image_grid(empty()) is None and prepared_bytes(empty()) is None and image_bound(empty()) == 1


@pytest.mark.parametrize("grid", [ir.Grid(0.5, 0, 0, 15), ir.Grid(0.25, 3, -8, 7), ir.Grid(0.125, -5, -8, 7)])
def test_no_sum_is_beyond_the_bound_and_one_reaches_it(grid):
    rng = np.random.RandomState(3)
    codes = rng.randint(-7, 8, (3, 5)).astype(np.int8)
    node = ir.InnerProduct("d", ("x",), ("y",), weight=codes.astype(np.float32), bias=np.float32([1, -2, 0.5]),
                           quantization=ir.Quantization(grid, codes, np.float32([0.5, 0.25, 1])))
    ends = [(code - grid.zero_point) * grid.scale for code in (grid.qmin, grid.qmax)]
    ends += [0.0]
    found = max(abs((codes[o] * x).sum() * node.quantization.weight_scale[o] + node.bias[o])
                for o in range(3) for x in map(np.array, itertools.product(ends, repeat=5)))
    assert _layer_bound(node, 99.0) == pytest.approx(found)


@pytest.fixture(scope="module")
def net():
    """As the printed LeNet: nothing rounds the image, nor what the last layer reads."""
    mx.random.seed(3)
    net = nn.HybridSequential(prefix="net_")
    with net.name_scope():
        net.add(nn.Conv2D(4, 5), nn.Activation("relu"), nn.Dense(12), nn.Dense(5))
    net.initialize(mx.init.Xavier(magnitude=3))
    net(mx.nd.zeros((1, *SHAPE)))
    net = convert_model(net, config_list=[
        {"op_types": ["Conv2D", "Dense"], "weight": "int4/layer", "weight_method": "sat", "input": "float"},
        {"op_types": ["Activation"], "output": "uint4", "output_method": "sat"}])
    set_mode(net, "offline", "activation")
    return net


@pytest.mark.parametrize("mean, std, first", [((0.0,), (1.0,), (0, 255)), ((0.1307,), (0.3081,), (1 - 2 ** 15,) * 2)])
def test_such_a_network_is_c_source(net, mean, std, first, tmp_path):
    target = find("c")
    model = target.settled(stating(lower(net, SHAPE, arithmetic=target.arithmetic), mean=mean, std=std), None)
    assert target.check(model) == []
    grids = [node.quantization.input for node in ir.quantized(model)]
    assert (grids[0].qmin, grids[2].qmin) == (first[0], 1 - 2 ** 15) and grids[1].qmax == 15
    target.write(model, tmp_path)
    pixels = np.random.RandomState(0).randint(0, 256, (40, *SHAPE))
    images = prepared_bytes(model)[0][pixels]
    got = target.run(tmp_path, images)[0]
    np.testing.assert_array_equal(got, engine.run(model, images, arithmetic=target.arithmetic).outputs[0])
    want = net(mx.nd.array(images)).asnumpy()
    assert (np.abs(got - want).max(axis=1) <= 0.02 * np.abs(want).max()).mean() > 0.9


def test_images_make_sixteen_bits_finer(net):
    model = stating(lower(net, SHAPE, arithmetic=find("c").arithmetic))
    by_weights, seen = with_settled_inputs(model), {node.inputs[0]: 0.01 for node in ir.quantized(model)}
    by_images = with_settled_inputs(model, seen)
    steps = [ir.quantized(each)[2].quantization.input.scale for each in (by_weights, by_images)]
    assert steps[1] < steps[0] / 8 and steps[1] * (2 ** 15 - 1) >= 0.02 and steps[1] * 2 ** 14 < 0.02 * 1.0001
    assert ir.quantized(by_images)[0].quantization.input == ir.quantized(by_weights)[0].quantization.input

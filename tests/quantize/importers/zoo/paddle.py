# SPDX-License-Identifier: MIT
"""Networks as Paddle2ONNX writes them: Constant nodes for weights, Shape-Slice-Concat, HardSigmoid gates, Identity."""

import numpy as np
from onnx import helper

from tests.quantize.importers.zoo.builder import Builder


def _weights_as_nodes(model):
    """Every initializer becomes a Constant node in front, and the output an Identity."""
    nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in model.graph.initializer]
    del model.graph.initializer[:]
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes + rest)
    name = model.graph.output[0].name
    model.graph.node.append(helper.make_node("Identity", [name], ["fetch_0"], name="Identity.last"))
    model.graph.output[0].name = "fetch_0"
    return model


def pp_lcnet():
    """Cui et al., arXiv:2109.15099: HardSwish by its parts, squeeze-and-excitation by 1x1 convolutions."""
    b = Builder(11, [-1, 3, 32, 32], "x")
    b.shape = ["N", 3, 32, 32]

    def hard_swish(x):
        six, three = b.put(np.float32([6])), b.put(np.float32([3]))
        gate = b.add("Clip", b.add("Add", x, three), b.put(np.float32(0)), b.put(np.float32(6)))
        return b.add("Div", b.add("Mul", x, gate), six)
    x = hard_swish(b.norm(b.conv("x", 3, 8, 3, bias=False, strides=[2, 2], dilations=[1, 1]), 8, epsilon=1e-5))
    x = hard_swish(b.norm(b.conv(x, 8, 8, 3, bias=False, groups=8), 8))
    gate = b.add("GlobalAveragePool", x)
    gate = b.add("Relu", b.add("Add", b.conv(gate, 8, 4, 1, bias=False), b.put(b.array(1, 4, 1, 1))))
    gate = b.add("HardSigmoid", b.conv(gate, 4, 8, 1), alpha=1 / 6, beta=0.5)
    x = b.add("Mul", x, gate)
    x = hard_swish(b.norm(b.conv(x, 8, 12, 1, bias=False), 12))
    x = b.add("GlobalAveragePool", x)
    shape = b.add("Slice", b.add("Shape", x), b.ints(0), b.ints(1), b.ints(0))
    x = b.add("Reshape", x, b.add("Concat", shape, b.ints(-1), axis=0))
    x = b.matmul(x, 12, 10)
    return _weights_as_nodes(b.model(b.add("Softmax", x, axis=-1)))


def pool_and_scale():
    """pool2d in ceil mode, scale with a bias, a flatten with start and stop axis, dropout that scales up."""
    b = Builder(13, ["N", 3, 33, 33], "image")
    x = b.add("Add", b.add("Mul", "image", b.put(np.float32(0.5))), b.put(np.float32(0.1)))
    x = b.add("Relu", b.norm(b.conv(x, 3, 8, 3, bias=False), 8))
    x = b.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[0] * 4, ceil_mode=1)
    x = b.add("LeakyRelu", b.conv(x, 8, 8, 3), alpha=0.1)
    x = b.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2], pads=[0] * 4)
    x = b.add("Reshape", x, b.ints(0, 512))
    return _weights_as_nodes(b.model(b.matmul(x, 512, 10)))


NETWORKS = [pp_lcnet, pool_and_scale]

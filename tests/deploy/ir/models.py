# SPDX-License-Identifier: MIT
"""Models that tests of the representation and of the engine share."""

import numpy as np

from deploy import ir
from deploy.ir.shapes import RULES


def model_of(nodes, **inputs):
    """A model of these nodes; shapes follow from those of the inputs, outputs are what nobody reads."""
    shapes = dict(inputs)
    for node in nodes:
        shapes.update(zip(node.outputs, RULES[type(node)](node, [shapes[name] for name in node.inputs])))
    read = {name for node in nodes for name in node.inputs}
    outputs = tuple(name for node in nodes for name in node.outputs if name not in read)
    return ir.Model(tuple(inputs), outputs, tuple(nodes), shapes, {"name": "test"})


def floats(rng, *shape):
    return rng.randn(*shape).astype(np.float32)


def quantization(rng, weight, grid=None, qmax=127):
    """Random codes and scales for a weight."""
    return ir.Quantization(grid or ir.Grid(float(np.float32(0.031))),
                           rng.randint(-qmax, qmax + 1, weight.shape).astype(np.int8),
                           rng.uniform(0.001, 0.02, len(weight)).astype(np.float32), qmax)


def every_node(seed=0):
    """A model with every type of node, on images of 6x9x8."""
    rng = np.random.RandomState(seed)
    weight, depthwise = floats(rng, 8, 6, 3, 3), floats(rng, 8, 1, 3, 3)
    dense = floats(rng, 5, 8)
    nodes = [
        ir.Convolution("conv", ("data",), ("conv",), "features.0", weight=weight, bias=floats(rng, 8), stride=(2, 1),
                       pads=(1, 0, 1, 2), quantization=quantization(rng, weight), activation=ir.Function("relu")),
        ir.Convolution("depthwise", ("conv",), ("depthwise",), weight=depthwise, groups=8, pads=(1, 1, 1, 1),
                       quantization=quantization(rng, depthwise, ir.Grid(0.125, 3, 0, 255), 31)),
        ir.Deconvolution("deconv", ("depthwise",), ("deconv",), weight=floats(rng, 8, 3, 2, 2), bias=floats(rng, 6),
                         groups=2, stride=(2, 2), output_pads=(1, 0)),
        ir.Slice("slice", ("deconv",), ("slice_0", "slice_1"), axis=0, sizes=(2, 4)),
        ir.Spread("spread", ("slice_0",), ("spread",), steps=(2, 1)),
        ir.Resize("resize", ("spread",), ("resize",), size=(5, 8), mode="bilinear"),
        ir.Padding("padding", ("resize",), ("padding",), pads=(0, 0, 0, 0), channels=(1, 1), mode="reflect"),
        ir.Crop("crop", ("slice_1",), ("crop",), begin=(0, 1, 2), end=(4, 6, 10)),
        ir.PReLU("prelu", ("crop",), ("prelu",), slope=floats(rng, 4)),
        ir.Concat("concat", ("padding", "prelu"), ("concat",), axis=0),
        ir.BatchNorm("norm", ("concat",), ("norm",), gamma=floats(rng, 8), beta=floats(rng, 8), mean=floats(rng, 8),
                     variance=rng.uniform(0.1, 2, 8).astype(np.float32)),
        ir.Affine("affine", ("norm",), ("affine",), scale=floats(rng, 8), shift=floats(rng, 8)),
        ir.Activation("swish", ("affine",), ("swish",), function=ir.Function("hard_swish", (1 / 6, 0.5))),
        ir.Elementwise("add", ("swish", "affine"), ("add",), op="add"),
        ir.Constant("constant", ("data",), ("constant",), value=floats(rng, 8, 1, 8)),
        ir.Elementwise("max", ("add", "constant"), ("max",), op="max"),
        ir.Pooling("pool", ("max",), ("pool",), kernel=(3, 3), stride=(2, 2), pads=(1, 1, 1, 1), ceil=True),
        ir.Permute("permute", ("pool",), ("permute",), order=(0, 2, 1)),
        ir.Reduce("reduce", ("permute",), ("reduce",), axes=(1, 2)),
        ir.Rounding("rounding", ("reduce",), ("rounding",), grid=ir.Grid(0.25, 3, 0, 255)),
        ir.Reshape("reshape", ("rounding",), ("reshape",), shape=(2, 4)),
        ir.ScalarOp("scalar", ("reshape",), ("scalar",), op="mul", scalar=0.3),
        ir.InnerProduct("dense", ("scalar",), ("dense",), weight=dense, quantization=quantization(rng, dense)),
        ir.Softmax("softmax", ("dense",), ("softmax",), axis=0),
    ]
    return model_of(nodes, data=(6, 9, 8))

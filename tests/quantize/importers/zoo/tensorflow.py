# SPDX-License-Identifier: MIT
"""Networks as tf2onnx writes them: (N, H, W, C) input, Transposes, SAME padding, Min and Max for ReLU6, Squeeze."""

import numpy as np

from tests.quantize.importers.zoo.builder import Builder

FIRST, LAST = [0, 3, 1, 2], [0, 2, 3, 1]


def efficientnet_lite4_11():
    """Tan & Le, arXiv:1905.11946: one Transpose in front, Clip with bounds as inputs, Squeeze and MatMul at the end."""
    b = Builder(11, [1, 64, 64, 3], "images:0")
    zero, six = b.put(np.float32(0)), b.put(np.float32(6))

    def clip(x):
        return b.add("Clip", x, zero, six)
    x = b.add("Transpose", "images:0", perm=FIRST)
    x, inside = clip(b.conv(x, 3, 8, 3, strides=[2, 2], auto_pad="SAME_UPPER", dilations=[1, 1])), 8
    for expand, width, stride in ((1, 8, 1), (4, 12, 2), (4, 12, 1)):
        middle, y = inside * expand, x
        if expand > 1:
            y = clip(b.conv(y, inside, middle, 1, auto_pad="VALID"))
        y = clip(b.conv(y, middle, middle, 3, groups=middle, strides=[stride] * 2, auto_pad="SAME_UPPER"))
        y = b.conv(y, middle, width, 1, auto_pad="VALID")
        x, inside = b.add("Add", x, y) if (inside, stride) == (width, 1) else y, width
    x = clip(b.conv(x, inside, 24, 1, auto_pad="VALID"))
    x = b.add("AveragePool", x, kernel_shape=[16, 16], strides=[1, 1], auto_pad="VALID")
    x = b.matmul(b.add("Squeeze", x, axes=[2, 3]), 24, 10)
    return b.model(b.add("Softmax", x, axis=1))


def keras_mobilenet():
    """Howard et al., arXiv:1704.04861, unoptimized: a Transpose around every layer, Pad of (N, H, W, C)."""
    b = Builder(13, ["unk__1", 32, 32, 3], "input_1")
    six, x = b.put(np.float32(6)), "input_1"
    x = b.add("Sub", b.add("Mul", x, b.put(np.float32(2))), b.put(np.float32([0.1, 0.2, 0.3])))

    def layer(x, make):
        return b.add("Transpose", make(b.add("Transpose", x, perm=FIRST)), perm=LAST)

    def relu6(x):
        return b.add("Min", b.add("Relu", x), six)
    x = b.add("Pad", x, b.ints(0, 0, 0, 0, 0, 1, 1, 0), b.put(np.float32(0)))
    x = relu6(layer(x, lambda y: b.norm(b.conv(y, 3, 8, 3, bias=False, strides=[2, 2], auto_pad="VALID"), 8,
                                        epsilon=1e-3)))
    for inside, width in ((8, 12), (12, 16)):
        x = relu6(layer(x, lambda y, c=inside: b.norm(b.conv(y, c, c, 3, bias=False, groups=c, auto_pad="SAME_UPPER"),
                                                      c, epsilon=1e-3)))
        x = relu6(layer(x, lambda y, c=inside, w=width: b.norm(b.conv(y, c, w, 1, bias=False, auto_pad="VALID"), w)))
    x = b.add("ReduceMean", x, axes=[1, 2], keepdims=1)
    x = b.add("Reshape", x, b.ints(-1, 1, 1, 16))
    x = layer(x, lambda y: b.conv(y, 16, 10, 1, auto_pad="SAME_UPPER"))
    return b.model(b.add("Softmax", b.add("Reshape", x, b.ints(-1, 10))))


def flattened():
    """Flatten of (N, H, W, C): a Transpose back in front of the Reshape, and the shape from the tensor itself."""
    b = Builder(13, ["N", 12, 12, 1], "x")
    x = b.add("Relu", b.conv(b.add("Transpose", "x", perm=FIRST), 1, 6, 3, strides=[1, 1], pads=[0] * 4))
    x = b.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = b.add("Transpose", x, perm=LAST)
    size = b.add("Slice", b.add("Cast", b.add("Shape", x), to=7), b.ints(0), b.ints(1), b.ints(0))
    x = b.add("Reshape", x, b.add("Concat", size, b.ints(150), axis=0))
    return b.model(b.matmul(x, 150, 10))


NETWORKS = [efficientnet_lite4_11, keras_mobilenet, flattened]

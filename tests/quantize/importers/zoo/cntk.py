# SPDX-License-Identifier: MIT
"""Networks of the ONNX model zoo that came from CNTK: mnist-8 and emotion-ferplus-8.

Weights of fully connected layers lie behind a Reshape, convolutions have no bias but an Add of (C, 1, 1), padding is
auto_pad=SAME_UPPER, and the batch of 1 is part of every Reshape.
"""

import numpy as np

from tests.quantize.importers.zoo.builder import Builder


def _convolution(b, x, inside, outside, kernel):
    x = b.conv(x, inside, outside, kernel, bias=False, auto_pad="SAME_UPPER", dilations=[1, 1])
    return b.add("Relu", b.add("Add", x, b.put(b.array(outside, 1, 1, scale=0.2))))


def _pool(b, x, size):
    return b.add("MaxPool", x, kernel_shape=[size] * 2, strides=[size] * 2, auto_pad="NOTSET", pads=[0] * 4)


def _dense(b, x, shape, units):
    """MatMul by a weight that is stored with the image's own axes."""
    inside = shape[0] * shape[1] * shape[2]
    weight = b.put(b.array(*shape, units, scale=(3 / inside) ** 0.5))
    weight = b.add("Reshape", weight, b.ints(inside, units))
    return b.add("Add", b.add("MatMul", x, weight), b.put(b.array(1, units, scale=0.2)))


def mnist_8():
    b = Builder(8, [1, 1, 28, 28], "Input3")
    x = _pool(b, _convolution(b, "Input3", 1, 8, 5), 2)
    x = _pool(b, _convolution(b, x, 8, 16, 5), 3)
    x = b.add("Reshape", x, b.ints(1, 256))
    return b.model(_dense(b, x, (16, 4, 4), 10), ir_version=3, listed=True)


def emotion_ferplus_8():
    """Barsoum et al., arXiv:1608.01041."""
    b = Builder(8, [1, 1, 32, 32], "Input3")
    x = b.add("Div", b.add("Sub", "Input3", b.put(np.float32(127.5))), b.put(np.float32(255)))
    inside = 1
    for width, count in ((8, 2), (12, 2), (16, 3)):
        for _ in range(count):
            x, inside = _convolution(b, x, inside, width, 3), width
        x = b.add("Dropout", _pool(b, x, 2), ratio=0.25)
    x = b.add("Reshape", x, b.ints(1, 256))
    x = b.add("Dropout", b.add("Relu", _dense(b, x, (16, 4, 4), 24)), ratio=0.5)
    return b.model(b.add("Add", b.add("MatMul", x, b.put(b.array(24, 8, scale=0.3))), b.put(b.array(1, 8))),
                   ir_version=3, listed=True)


NETWORKS = [mnist_8, emotion_ferplus_8]

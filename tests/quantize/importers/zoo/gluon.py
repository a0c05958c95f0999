# SPDX-License-Identifier: MIT
"""Networks of the ONNX model zoo that came from MXNet's exporter: resnet v1 and v2, vgg, squeezenet1.1, mobilenet.

resnet18-v2-7 begins with a BatchNormalization of the image whose scale is one (`fix_gamma`), the heads are Flatten and
Gemm, and Gluon's layers give every node the name of a block.
"""

from tests.quantize.importers.zoo.builder import Builder


def _norm(b, x, channels):
    return b.norm(x, channels, epsilon=9.999999747378752e-06, momentum=0.8999999761581421, spatial=1)


def _start(size=64):
    return Builder(7, ["N", 3, size, size])


def resnet18_v1_7():
    b = _start()
    x = b.add("Relu", _norm(b, b.conv("data", 3, 8, 7, bias=False, strides=[2, 2], dilations=[1, 1]), 8))
    x, inside = b.add("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2]), 8
    for width, stride in ((8, 1), (16, 2)):
        y = b.add("Relu", _norm(b, b.conv(x, inside, width, bias=False, strides=[stride] * 2), width))
        y = _norm(b, b.conv(y, width, width, bias=False), width)
        if stride > 1:
            x = _norm(b, b.conv(x, inside, width, 1, bias=False, strides=[2, 2], pads=[0] * 4), width)
        x, inside = b.add("Relu", b.add("Add", y, x)), width
    x = b.add("Flatten", b.add("GlobalAveragePool", x))
    return b.model(b.gemm(x, 16, 10, alpha=1.0, beta=1.0), ir_version=3, listed=True)


def resnet18_v2_7():
    b = _start()
    x = _norm(b, "data", 3)
    x = b.add("Relu", _norm(b, b.conv(x, 3, 8, 7, bias=False, strides=[2, 2]), 8))
    x, inside = b.add("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2]), 8
    for width, stride in ((8, 1), (16, 2)):
        active = b.add("Relu", _norm(b, x, inside))
        y = b.conv(active, inside, width, bias=False, strides=[stride] * 2)
        y = b.conv(b.add("Relu", _norm(b, y, width)), width, width, bias=False)
        if stride > 1:
            x = b.conv(active, inside, width, 1, bias=False, strides=[2, 2], pads=[0] * 4)
        x, inside = b.add("Add", y, x), width
    x = b.add("GlobalAveragePool", b.add("Relu", _norm(b, x, inside)))
    return b.model(b.gemm(b.add("Flatten", b.add("Reshape", x, b.ints(0, 0, 1, 1))), 16, 10), ir_version=3, listed=True)


def vgg16_bn_7():
    b, x, inside = _start(32), "data", 3
    for width, count in ((4, 2), (8, 2), (12, 3)):
        for _ in range(count):
            x, inside = b.add("Relu", _norm(b, b.conv(x, inside, width), width)), width
        x = b.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], pads=[0] * 4)
    x, inside = b.add("Flatten", x), 12 * 16
    for width in (24, 24):
        x, inside = b.add("Dropout", b.add("Relu", b.gemm(x, inside, width)), ratio=0.5), width
    return b.model(b.gemm(b.add("Flatten", x), 24, 10), ir_version=3, listed=True)


def squeezenet1_1_7():
    b = _start()
    x, inside = b.add("Relu", b.conv("data", 3, 8, 3, strides=[2, 2], pads=[0] * 4)), 8
    x = b.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[0] * 4)
    for squeeze, expand in ((2, 4), (4, 8)):
        s = b.add("Relu", b.conv(x, inside, squeeze, 1))
        x = b.add("Concat", b.add("Relu", b.conv(s, squeeze, expand, 1)), b.add("Relu", b.conv(s, squeeze, expand, 3)),
                  axis=1)
        inside = 2 * expand
    x = b.add("Relu", b.conv(b.add("Dropout", x, ratio=0.5), inside, 10, 1))
    x = b.add("AveragePool", x, kernel_shape=[13, 13], strides=[13, 13], pads=[0] * 4)
    return b.model(b.add("Reshape", x, b.ints(0, -1)), ir_version=3, listed=True)


def mobilenetv2_1_0():
    """The 1x1 convolution at the end is the classifier; ReLU6 is a Clip."""
    b = _start()
    x = b.add("Clip", _norm(b, b.conv("data", 3, 8, bias=False, strides=[2, 2]), 8), min=0.0, max=6.0)
    for inside, width, stride in ((8, 12, 2), (12, 12, 1)):
        y = b.add("Clip", _norm(b, b.conv(x, inside, 4 * inside, 1, bias=False), 4 * inside), min=0.0, max=6.0)
        y = _norm(b, b.conv(y, 4 * inside, 4 * inside, bias=False, groups=4 * inside, strides=[stride] * 2), 4 * inside)
        y = _norm(b, b.conv(b.add("Clip", y, min=0.0, max=6.0), 4 * inside, width, 1, bias=False), width)
        x = b.add("Add", y, x) if stride == 1 else y
    x = b.conv(b.add("GlobalAveragePool", x), 12, 10, 1, bias=False)
    return b.model(b.add("Flatten", x), ir_version=3, listed=True)


NETWORKS = [resnet18_v1_7, resnet18_v2_7, vgg16_bn_7, squeezenet1_1_7, mobilenetv2_1_0]

# SPDX-License-Identifier: MIT
"""Networks of the ONNX model zoo that came from Caffe2: initializers listed as inputs, a batch of 1 in every Reshape.

bvlc_alexnet, bvlc_reference_caffenet, bvlc_googlenet, inception_v1, inception_v2, zfnet512, vgg19, squeezenet,
shufflenet v1, densenet121 and resnet50: operators and attributes as in the zoo's files, widths reduced.
"""

from tests.quantize.importers.zoo.builder import Builder


def _start(opset, size, name="data_0"):
    return Builder(opset, [1, 3, size, size], name)


def _relu_conv(b, x, inside, outside, kernel=3, **attrs):
    return b.add("Relu", b.conv(x, inside, outside, kernel, **attrs))


def _pool(b, x, kernel=3, stride=2, pads=(0, 0, 0, 0), op="MaxPool"):
    return b.add(op, x, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=list(pads))


def _classifier(b, x, inside, widths, dropout=True):
    """Reshape to one image, and fully connected layers."""
    x = b.add("Reshape", x, b.ints(1, inside))
    for index, width in enumerate(widths):
        x = b.gemm(x, inside, width)
        if index < len(widths) - 1:
            x = b.add("Relu", x)
            if dropout:
                x, _ = b.add("Dropout", x, outputs=2, ratio=0.5)
        inside = width
    return b.model(b.add("Softmax", x, axis=1), ir_version=3, listed=True)


def _lrn(b, x):
    return b.add("LRN", x, size=5, alpha=9.999999747378752e-05, beta=0.75, bias=1.0)


def _alexnet_features(b, norm_first):
    """Two grouped stages with LRN; AlexNet normalises before it pools, CaffeNet after."""
    x = _relu_conv(b, "data_0", 3, 8, 11, strides=[4, 4], pads=[0, 0, 0, 0])
    x = _pool(b, _lrn(b, x)) if norm_first else _lrn(b, _pool(b, x))
    x = _relu_conv(b, x, 8, 16, 5, groups=2)
    x = _pool(b, _lrn(b, x)) if norm_first else _lrn(b, _pool(b, x))
    x = _relu_conv(b, x, 16, 16)
    x = _relu_conv(b, x, 16, 16, groups=2)
    return _pool(b, _relu_conv(b, x, 16, 12, groups=2))


def alexnet():
    b = _start(9, 99)
    return _classifier(b, _alexnet_features(b, True), 12 * 4, (24, 24, 10))


def caffenet():
    b = _start(9, 99)
    return _classifier(b, _alexnet_features(b, False), 12 * 4, (24, 24, 10))


def zfnet512():
    b = _start(9, 96, "gpu_0/data_0")
    x = _relu_conv(b, "gpu_0/data_0", 3, 8, 7, strides=[2, 2], pads=[1, 1, 1, 1])
    x = _pool(b, b.add("LRN", x, size=3, alpha=5e-5, beta=0.75, bias=2.0), pads=(0, 0, 1, 1))
    x = _relu_conv(b, x, 8, 16, 5, strides=[2, 2], pads=[0, 0, 0, 0])
    x = _pool(b, b.add("LRN", x, size=3, alpha=5e-5, beta=0.75, bias=2.0), pads=(0, 0, 1, 1))
    x = _relu_conv(b, x, 16, 16)
    return _classifier(b, _pool(b, x), 16 * 4, (24, 10))


def vgg19():
    b, x, inside = _start(7, 32), "data_0", 3
    for width, count in ((4, 2), (8, 2), (12, 4)):
        for _ in range(count):
            x, inside = _relu_conv(b, x, inside, width), width
        x = _pool(b, x, 2)
    return _classifier(b, x, 12 * 16, (24, 24, 10))


def _inception(b, x, inside, widths, conv):
    """Four branches of GoogLeNet (Szegedy et al., arXiv:1409.4842)."""
    one, three_in, three, five_in, five, pooled = widths
    branches = [conv(b, x, inside, one, 1), conv(b, conv(b, x, inside, three_in, 1), three_in, three, 3),
                conv(b, conv(b, x, inside, five_in, 1), five_in, five, 5),
                conv(b, _pool(b, x, 3, 1, (1, 1, 1, 1)), inside, pooled, 1)]
    return b.add("Concat", *branches, axis=1), one + three + five + pooled


def _googlenet(size, opset, pads):
    b = _start(opset, size)
    x = _relu_conv(b, "data_0", 3, 8, 7, strides=[2, 2])
    x = _lrn(b, _pool(b, x, pads=pads))
    x = _relu_conv(b, _relu_conv(b, x, 8, 8, 1), 8, 12)
    x, inside = _pool(b, _lrn(b, x), pads=pads), 12
    for _ in range(2):
        x, inside = _inception(b, x, inside, (4, 4, 8, 2, 4, 4), _relu_conv)
    x = _pool(b, x, pads=pads)
    x, inside = _inception(b, x, inside, (4, 4, 8, 2, 4, 4), _relu_conv)
    x = b.add("AveragePool", x, kernel_shape=[4, 4], strides=[1, 1], pads=[0] * 4)
    x, _ = b.add("Dropout", x, outputs=2, ratio=0.4)
    return _classifier(b, x, inside, (10,))


def googlenet():
    return _googlenet(64, 9, (0, 0, 1, 1))


def inception_v1():
    return _googlenet(64, 8, (0, 0, 1, 1))


def _scaled_norm(b, x, channels):
    """Caffe's BatchNorm and Scale: a norm without gamma and beta, then Mul and Add of vectors unsqueezed."""
    x = b.norm(x, channels, epsilon=9.999999747378752e-06, momentum=0.8999999761581421)
    gamma = b.add("Unsqueeze", b.put(abs(b.array(channels)) + 0.5), axes=[1, 2])
    beta = b.add("Unsqueeze", b.put(b.array(channels, scale=0.2)), axes=[1, 2])
    return b.add("Add", b.add("Mul", x, gamma), beta)


def _norm_conv(b, x, inside, outside, kernel=3, **attrs):
    return b.add("Relu", _scaled_norm(b, b.conv(x, inside, outside, kernel, **attrs), outside))


def inception_v2():
    b = _start(9, 64)
    x = _pool(b, _norm_conv(b, "data_0", 3, 8, 7, strides=[2, 2]), pads=(0, 0, 1, 1))
    x, inside = _norm_conv(b, x, 8, 12), 12
    x, inside = _inception(b, x, inside, (4, 4, 8, 2, 4, 4), _norm_conv)
    parts = [_norm_conv(b, _norm_conv(b, x, inside, 4, 1), 4, 8, strides=[2, 2]), _pool(b, x, pads=(0, 0, 1, 1))]
    x, inside = b.add("Concat", *parts, axis=1), inside + 8
    x = b.add("AveragePool", x, kernel_shape=[8, 8], strides=[1, 1])
    return _classifier(b, x, inside, (10,))


def densenet121():
    """Huang et al., arXiv:1608.06993: norm, Mul, Add, ReLU, convolution; a 1x1 convolution as classifier."""
    b = _start(9, 64)
    x, inside = _norm_conv(b, "data_0", 3, 8, 7, bias=False, strides=[2, 2]), 8
    x = _pool(b, x, pads=(1, 1, 1, 1))
    for _ in range(2):
        for _ in range(3):
            y = b.conv(b.add("Relu", _scaled_norm(b, x, inside)), inside, 8, 1, bias=False)
            y = b.conv(b.add("Relu", _scaled_norm(b, y, 8)), 8, 4, 3, bias=False)
            x, inside = b.add("Concat", x, y, axis=1), inside + 4
        x = b.conv(b.add("Relu", _scaled_norm(b, x, inside)), inside, inside // 2, 1, bias=False)
        x, inside = b.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), inside // 2
    x = b.add("GlobalAveragePool", b.add("Relu", _scaled_norm(b, x, inside)))
    return b.model(b.conv(x, inside, 10, 1), ir_version=3, listed=True)


def squeezenet():
    """Iandola et al., arXiv:1602.07360; the softmax works on (1, classes, 1, 1)."""
    b = _start(9, 65)
    x, inside = _pool(b, _relu_conv(b, "data_0", 3, 8, 3, strides=[2, 2], pads=[0] * 4)), 8
    for squeeze, expand in ((2, 4), (2, 4), (4, 8)):
        s = _relu_conv(b, x, inside, squeeze, 1)
        x = b.add("Concat", _relu_conv(b, s, squeeze, expand, 1), _relu_conv(b, s, squeeze, expand, 3), axis=1)
        inside = 2 * expand
    x = _pool(b, x, pads=(0, 0, 1, 1))
    x, _ = b.add("Dropout", x, outputs=2, ratio=0.5)
    x = b.add("GlobalAveragePool", _relu_conv(b, x, inside, 10, 1))
    return b.model(b.add("Softmax", x, axis=1), ir_version=3, listed=True)


def _shuffle(b, x, channels, size, groups):
    x = b.add("Reshape", x, b.ints(1, groups, channels // groups, size, size))
    x = b.add("Transpose", x, perm=[0, 2, 1, 3, 4])
    return b.add("Reshape", x, b.ints(1, channels, size, size))


def shufflenet_v1():
    """Zhang et al., arXiv:1707.01083: grouped 1x1 convolutions with the batch traced into the shuffles."""
    b, groups, eps = _start(9, 64, "gpu_0/data_0"), 3, dict(epsilon=9.999999747378752e-06)
    x = b.add("Relu", b.norm(b.conv("gpu_0/data_0", 3, 12, 3, bias=False, strides=[2, 2]), 12, **eps))
    x, inside, size = _pool(b, x, pads=(1, 1, 1, 1)), 12, 16
    for stride, width in ((2, 24), (1, 24)):
        branch = width - inside if stride == 2 else width
        middle = 12
        y = b.add("Relu", b.norm(b.conv(x, inside, middle, 1, bias=False, groups=groups), middle, **eps))
        y = _shuffle(b, y, middle, size, groups)
        y = b.norm(b.conv(y, middle, middle, 3, bias=False, groups=middle, strides=[stride] * 2), middle, **eps)
        y = b.norm(b.conv(y, middle, branch, 1, bias=False, groups=groups), branch, **eps)
        if stride == 2:
            shortcut = b.add("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
            x, size = b.add("Relu", b.add("Concat", shortcut, y, axis=1)), size // 2
        else:
            x = b.add("Relu", b.add("Sum", y, x))
        inside = width
    x = b.add("AveragePool", x, kernel_shape=[8, 8], strides=[1, 1])
    return _classifier(b, x, inside, (10,))


def resnet50():
    """He et al., arXiv:1512.03385, as Caffe2 has it: Sum joins the branches."""
    b, eps = _start(8, 64, "gpu_0/data_0"), dict(epsilon=9.999999747378752e-06, momentum=0.8999999761581421)
    x = b.add("Relu", b.norm(b.conv("gpu_0/data_0", 3, 8, 7, bias=False, strides=[2, 2]), 8, **eps))
    x, inside = _pool(b, x, pads=(1, 1, 1, 1)), 8
    for width, stride in ((16, 1), (16, 1), (24, 2)):
        y = b.add("Relu", b.norm(b.conv(x, inside, 4, 1, bias=False), 4, **eps))
        y = b.add("Relu", b.norm(b.conv(y, 4, 4, 3, bias=False, strides=[stride] * 2), 4, **eps))
        y = b.norm(b.conv(y, 4, width, 1, bias=False), width, **eps)
        if (inside, stride) != (width, 1):
            x = b.norm(b.conv(x, inside, width, 1, bias=False, strides=[stride] * 2, pads=[0] * 4), width, **eps)
        x, inside = b.add("Relu", b.add("Sum", y, x)), width
    x = b.add("AveragePool", x, kernel_shape=[8, 8], strides=[1, 1])
    return _classifier(b, x, inside, (10,))


NETWORKS = [alexnet, caffenet, zfnet512, vgg19, googlenet, inception_v1, inception_v2, densenet121, squeezenet,
            shufflenet_v1, resnet50]

# SPDX-License-Identifier: MIT
"""Networks as PyTorch's exporter writes them: shape chains for a dynamic batch, Constant nodes, Clip for ReLU6.

mobilenetv2-7 and shufflenet-v2-10 are the zoo's; the others are forms that timm's and torchvision's exports have.
"""

import numpy as np
from onnx import helper, numpy_helper

from tests.quantize.importers.zoo.builder import Builder


def _constant(b, value):
    return b.add("Constant", value=numpy_helper.from_array(np.asarray(value)))


def _view_batch(b, x, *rest):
    """x.view(x.size(0), *rest)."""
    size = b.add("Gather", b.add("Shape", x), _constant(b, np.int64(0)), axis=0)
    parts = [b.add("Unsqueeze", size, axes=[0])]
    parts += [b.add("Unsqueeze", _constant(b, np.int64(length)), axes=[0]) for length in rest]
    return b.add("Reshape", x, b.add("Concat", *parts, axis=0))


def _relu6(b, x):
    return b.add("Clip", x, min=0.0, max=6.0)


def mobilenetv2_7():
    """Sandler et al., arXiv:1801.04381; the head is Shape-Gather-Unsqueeze-Concat-Reshape."""
    b = Builder(10, ["batch_size", 3, 64, 64], "input")
    x = _relu6(b, b.norm(b.conv("input", 3, 8, 3, bias=False, strides=[2, 2], dilations=[1, 1]), 8, epsilon=1e-5))
    inside = 8
    for expand, width, stride in ((1, 8, 1), (4, 12, 2), (4, 12, 1), (4, 16, 2)):
        middle, y = inside * expand, x
        if expand > 1:
            y = _relu6(b, b.norm(b.conv(y, inside, middle, 1, bias=False), middle, epsilon=1e-5))
        y = _relu6(b, b.norm(b.conv(y, middle, middle, 3, bias=False, groups=middle, strides=[stride] * 2), middle))
        y = b.norm(b.conv(y, middle, width, 1, bias=False), width, epsilon=1e-5)
        x, inside = b.add("Add", x, y) if (inside, stride) == (width, 1) else y, width
    x = _relu6(b, b.norm(b.conv(x, inside, 32, 1, bias=False), 32))
    return b.model(b.gemm(_view_batch(b, b.add("GlobalAveragePool", x), -1), 32, 10, alpha=1.0, beta=1.0))


def shufflenet_v2_10():
    """Ma et al., arXiv:1807.11164: chunk, channel shuffle and mean, with every size asked for at run time."""
    b = Builder(10, ["N", 3, 64, 64], "input")
    x = b.add("Relu", b.norm(b.conv("input", 3, 8, 3, bias=False, strides=[2, 2]), 8))
    x = b.add("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2])
    inside, size = 8, 16
    for width, stride in ((16, 2), (16, 1), (24, 2)):
        half = width // 2
        if stride == 1:
            left, right = b.add("Split", x, outputs=2, axis=1, split=[half, half])
            inside = half
        else:
            left = b.norm(b.conv(x, inside, inside, 3, bias=False, groups=inside, strides=[2, 2]), inside)
            left = b.add("Relu", b.norm(b.conv(left, inside, half, 1, bias=False), half))
            right, size = x, size // 2
        right = b.add("Relu", b.norm(b.conv(right, inside, half, 1, bias=False), half))
        right = b.norm(b.conv(right, half, half, 3, bias=False, groups=half, strides=[stride] * 2), half)
        right = b.add("Relu", b.norm(b.conv(right, half, half, 1, bias=False), half))
        x = b.add("Concat", left, right, axis=1)
        x = _view_batch(b, x, 2, half, size, size)
        x = b.add("Transpose", x, perm=[0, 2, 1, 3, 4])
        x, inside = _view_batch(b, x, -1, size, size), width
    x = b.add("Relu", b.norm(b.conv(x, inside, 32, 1, bias=False), 32))
    return b.model(b.gemm(b.add("ReduceMean", x, axes=[2, 3], keepdims=0), 32, 10))


def resnet_traced():
    """A torchvision ResNet without dynamic axes: BatchNorms folded away, Flatten and Gemm."""
    b = Builder(13, [1, 3, 64, 64], "input.1")
    x = b.add("Relu", b.conv("input.1", 3, 8, 7, strides=[2, 2], dilations=[1, 1]))
    x, inside = b.add("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2], ceil_mode=0), 8
    for width, stride in ((8, 1), (16, 2)):
        y = b.conv(b.add("Relu", b.conv(x, inside, width, 3, strides=[stride] * 2)), width, width, 3)
        x = x if stride == 1 else b.conv(x, inside, width, 1, strides=[2, 2], pads=[0] * 4)
        x, inside = b.add("Relu", b.add("Add", y, x)), width
    x = b.add("Flatten", b.add("GlobalAveragePool", x), axis=1)
    return b.model(b.gemm(x, 16, 10))


def squeeze_and_excitation():
    """SE blocks by view and expand_as, SiLU as Sigmoid and Mul, GELU by Erf, a head of LayerNorm's pieces."""
    b = Builder(14, ["N", 3, 32, 32], "x")
    x = b.conv("x", 3, 8, 3, strides=[2, 2])
    x = b.add("Mul", x, b.add("Sigmoid", x))
    gate = b.add("Flatten", b.add("GlobalAveragePool", x))
    gate = b.add("Relu", b.gemm(gate, 8, 4))
    gate = b.add("Sigmoid", b.gemm(gate, 4, 8))
    gate = b.add("Reshape", gate, b.ints(-1, 8, 1, 1))
    gate = b.add("Expand", gate, b.add("Shape", x))
    x = b.add("Mul", x, gate)
    x = b.conv(x, 8, 12, 3)
    erf = b.add("Erf", b.add("Div", x, _constant(b, np.float32(2 ** 0.5))))
    x = b.add("Mul", b.add("Mul", x, b.add("Add", erf, _constant(b, np.float32(1)))), _constant(b, np.float32(0.5)))
    x = b.add("ReduceMean", x, axes=[-1, -2], keepdims=0)
    return b.model(b.matmul(x, 12, 10))


def same_padding():
    """timm's *_tf networks traced: Pad in front of strided convolutions and pools, -inf in front of the maximum."""
    b = Builder(14, ["N", 3, 33, 33], "x")
    x = b.add("Pad", "x", b.ints(0, 0, 0, 0, 0, 0, 1, 1), b.put(np.float32(0)), mode="constant")
    x = b.add("Relu", b.norm(b.conv(x, 3, 8, 3, bias=False, strides=[2, 2], pads=[0] * 4), 8, epsilon=1e-3))
    x = b.add("Pad", x, b.ints(0, 0, 0, 0, 0, 0, 1, 1), b.put(np.float32(-np.inf)), mode="constant")
    x = b.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[0] * 4)
    x = b.add("HardSwish", b.conv(x, 8, 12, 3, auto_pad="NOTSET"))
    return b.model(b.gemm(b.add("Flatten", b.add("GlobalAveragePool", x)), 12, 10))


def dynamo():
    """What the newer exporter writes: functions of its own, opset 18, names of aten's operators."""
    b = Builder(18, ["s0", 3, 32, 32], "x")
    x = b.conv("x", 3, 8, 3, strides=[2, 2])
    b.nodes.append(helper.make_node("aten_relu", [x], ["relu_out"], domain="pkg.onnxscript.torch_lib", name="n1"))
    x = b.add("ReduceMean", "relu_out", b.ints(-1, -2), keepdims=1)
    x = b.add("Reshape", x, b.add("Concat", b.add("Shape", "x", start=0, end=1), b.ints(-1), axis=0), allowzero=0)
    model = b.model(b.gemm(x, 8, 10, alpha=1.0, beta=1.0))
    model.functions.append(helper.make_function(
        "pkg.onnxscript.torch_lib", "aten_relu", ["self"], ["result"],
        [helper.make_node("Relu", ["self"], ["result"])], [helper.make_opsetid("", 18)]))
    model.opset_import.append(helper.make_opsetid("pkg.onnxscript.torch_lib", 1))
    return model


def local_response_norm():
    """torch.nn.LocalResponseNorm: a mean of squares over neighbouring channels, as a pooling of a volume."""
    b = Builder(17, ["N", 3, 32, 32], "x")
    x = b.add("Relu", b.conv("x", 3, 8, 3, strides=[2, 2]))
    squares = b.add("Unsqueeze", b.add("Mul", x, x), b.ints(1))
    squares = b.add("Pad", squares, b.ints(0, 0, 2, 0, 0, 0, 0, 1, 0, 0), mode="constant")
    mean = b.add("AveragePool", squares, kernel_shape=[4, 1, 1], strides=[1, 1, 1], pads=[0] * 6, ceil_mode=0,
                 count_include_pad=1)
    scaled = b.add("Mul", b.add("Squeeze", mean, b.ints(1)), b.put(np.float32(1e-2)))
    root = b.add("Pow", b.add("Add", scaled, b.put(np.float32(1))), b.put(np.float32(0.75)))
    x = b.conv(b.add("Div", x, root), 8, 12, 3)
    return b.model(b.gemm(b.add("Flatten", b.add("GlobalAveragePool", x)), 12, 10))


def normalized():
    """full_like, expand_as in front of a division (functional.normalize), clamping per channel, BGR inside."""
    b = Builder(13, ["N", 3, 32, 32], "x")
    x = b.add("Slice", "x", b.ints(-1), b.ints(-2 ** 63), b.ints(1), b.ints(-1))
    x = b.conv(x, 3, 8, 3, strides=[2, 2])
    x = b.add("Max", x, b.put(b.array(8, 1, 1, scale=0.3)))
    ones = b.add("ConstantOfShape", b.add("Shape", x), value=numpy_helper.from_array(np.float32([1])))
    x = b.add("Add", x, ones)
    x = b.gemm(b.add("Flatten", b.add("GlobalAveragePool", x)), 8, 10)
    length = b.add("Clip", b.add("ReduceL2", x, axes=[1], keepdims=1), b.put(np.float32(1e-12)))
    return b.model(b.add("Div", x, b.add("Expand", length, b.add("Shape", x))))


NETWORKS = [mobilenetv2_7, shufflenet_v2_10, resnet_traced, squeeze_and_excitation, same_padding, dynamo,
            local_response_norm, normalized]

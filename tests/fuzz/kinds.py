# SPDX-License-Identifier: MIT
"""Kinds of layers for random networks: function(maker, blob) -> blob, or None where the blob does not suit."""

from math import prod

import numpy as np

from tests.fuzz.recipe import Constant, Step


def _divisors(number):
    return [k for k in range(1, number + 1) if number % k == 0]


def _pads(maker, most):
    """(top, left, bottom, right): none, the same everywhere, or each its own."""
    if maker.chance(0.4):
        return [0] * 4
    if maker.chance(0.5):
        return [maker.between(0, min(most))] * 4
    return [maker.between(0, most[axis % 2]) for axis in range(4)]


def _sizes(maker, blob):
    """Kernel, stride, dilation and pads of windows that fit; None where none do."""
    height, width = maker.shapes[blob][1:]
    square = maker.chance(0.7)
    kernel = [maker.between(1, 4) for _ in range(2)]
    stride = [maker.one_of(1, 1, 1, 2, 3) for _ in range(2)]
    gaps = [maker.one_of(1, 1, 1, 2, 3, maker.between(1, 18)) for _ in range(2)]
    if square:
        kernel, stride, gaps = kernel[:1] * 2, stride[:1] * 2, gaps[:1] * 2
    reach = [gap * (length - 1) for gap, length in zip(gaps, kernel)]
    pads = _pads(maker, reach)
    size = [(length + pads[axis] + pads[axis + 2] - reach[axis] - 1) // stride[axis] + 1
            for axis, length in enumerate((height, width))]
    return None if min(size) < 1 else (kernel, stride, gaps, pads, size)


def convolution(maker, blob):
    windows = _sizes(maker, blob)
    if windows is None:
        return None
    kernel, stride, gaps, pads, size = windows
    channels = maker.shapes[blob][0]
    groups = maker.one_of(1, 1, 1, channels, maker.one_of(*_divisors(channels)))
    outputs = groups * maker.between(1, max(1, 24 // groups)) if maker.chance(0.7) else channels
    spread = 1.7 / np.sqrt(prod(kernel) * channels / groups)
    inputs = [blob, maker.constant(outputs, channels // groups, *kernel, low=-spread, high=spread)]
    if maker.chance(0.7):
        inputs.append(maker.constant(outputs, low=-0.5, high=0.5))
    return maker.add("Conv", inputs, (outputs, *size), kernel_shape=kernel, strides=stride, dilations=gaps, pads=pads,
                     group=groups)


def norm_behind(maker, blob):
    """A convolution with its BatchNorm and activation, as networks are made of."""
    made = convolution(maker, blob)
    if made is None:
        return None
    return activation(maker, batch_norm(maker, made)) if maker.chance(0.7) else activation(maker, made)


def deconvolution(maker, blob):
    channels, height, width = maker.shapes[blob]
    groups = maker.one_of(1, 1, channels, maker.one_of(*_divisors(channels)))
    kernel, stride = [maker.between(1, 4) for _ in range(2)], [maker.between(1, 3) for _ in range(2)]
    gaps = [maker.one_of(1, 1, 2) for _ in range(2)]
    extra = [maker.between(0, step - 1) for step in stride] if maker.chance(0.3) else [0, 0]
    pads = _pads(maker, [gap * (length - 1) for gap, length in zip(gaps, kernel)])
    outputs = maker.between(1, 8)
    size = [(length - 1) * stride[axis] + gaps[axis] * (kernel[axis] - 1) + 1 + extra[axis] - pads[axis]
            - pads[axis + 2] for axis, length in enumerate((height, width))]
    spread = 1.7 / np.sqrt(prod(kernel) * channels / groups)
    inputs = [blob, maker.constant(channels, outputs, *kernel, low=-spread, high=spread)]
    if maker.chance(0.6):
        inputs.append(maker.constant(outputs * groups, low=-0.5, high=0.5))
    return maker.add("ConvTranspose", inputs, (outputs * groups, *size), kernel_shape=kernel, strides=stride,
                     dilations=gaps, pads=pads, output_padding=extra, group=groups)


def pooling(maker, blob):
    channels, height, width = maker.shapes[blob]
    kernel = [maker.between(1, 4) for _ in range(2)]
    stride = [maker.between(1, 3) for _ in range(2)]
    pads = _pads(maker, [length - 1 for length in kernel])
    ceil = maker.chance(0.3)
    size = []
    for axis, length in enumerate((height, width)):
        room = length + pads[axis] + pads[axis + 2] - kernel[axis]
        if room < 0:
            return None
        count = (-(-room // stride[axis]) if ceil else room // stride[axis]) + 1
        if (count - 1) * stride[axis] >= length + pads[axis]:
            return None  # engines disagree about windows that begin behind the map
        size.append(count)
    if maker.chance(0.5):
        return maker.add("MaxPool", (blob,), (channels, *size), kernel_shape=kernel, strides=stride, pads=pads,
                         ceil_mode=int(ceil))
    if ceil:
        return None  # releases of ONNX Runtime disagree about what such an average divides by
    return maker.add("AveragePool", (blob,), (channels, *size), kernel_shape=kernel, strides=stride, pads=pads,
                     count_include_pad=maker.between(0, 1))


def global_pooling(maker, blob):
    channels = maker.shapes[blob][0]
    return maker.add(maker.one_of("GlobalAveragePool", "GlobalAveragePool", "GlobalMaxPool"), (blob,),
                     (channels, 1, 1))


def gate(maker, blob):
    """Squeeze and excitation: the blob times a number for each channel."""
    channels = maker.shapes[blob][0]
    pooled = maker.add("GlobalAveragePool", (blob,), (channels, 1, 1))
    weight = maker.constant(channels, channels, 1, 1, low=-1 / channels, high=1 / channels)
    squeezed = maker.add("Conv", (pooled, weight), (channels, 1, 1), kernel_shape=[1, 1])
    kind = maker.one_of("Sigmoid", "HardSigmoid")
    return maker.add("Mul", (blob, maker.add(kind, (squeezed,), (channels, 1, 1))), maker.shapes[blob])


def activation(maker, blob):
    shape = maker.shapes[blob]
    kind = maker.one_of("Relu", "Relu", "Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish",
                        "Softplus", "Elu", "Selu", "Exp", "Abs", "Sqrt", "Square", "Swish", "Pow", "Relu6", "Neg",
                        "Reciprocal", "Log", "Erf", "Sin", "Cos", "Floor", "Ceil", "Softsign")
    if kind in ("Floor", "Ceil") and blob != "x":
        return None  # these make one of a last bit, in which engines may differ
    if kind == "LeakyRelu":
        return maker.add(kind, (blob,), shape, alpha=maker.one_of(0.01, 0.1, 0.25))
    if kind == "Elu":
        return maker.add(kind, (blob,), shape, alpha=maker.one_of(1.0, 0.5))
    if kind == "Clip":
        low = maker.rng.uniform(-1, 0.5)
        return maker.add("Clip", (blob, maker.number(np.float32(low)), maker.number(np.float32(low + 1))), shape)
    if kind == "Relu6":
        return maker.add("Clip", (blob, maker.number(0), maker.number(6)), shape)
    if kind == "HardSwish":
        inner = maker.add("HardSigmoid", (blob,), shape, alpha=1 / 6, beta=0.5)
        return maker.add("Mul", (blob, inner), shape)
    if kind == "Swish":
        return maker.add("Mul", (blob, maker.add("Sigmoid", (blob,), shape)), shape)
    if kind == "Square":
        bounded = maker.tame(blob)
        return maker.add("Mul", (bounded, bounded), shape)
    if kind in ("Sqrt", "Pow", "Reciprocal", "Log"):
        positive = maker.add("Add", (maker.add("Abs", (blob,), shape), maker.number(0.5)), shape)
        exponent = (maker.constant(shape[0], *(1,) * (len(shape) - 1), low=0.5, high=1.5)
                    if maker.chance(0.3) else maker.number(maker.one_of(0.5, 0.75, 1.5)))
        operands = (positive, exponent) if kind == "Pow" else (positive,)
        return maker.add(kind, operands, shape)
    return maker.add(kind, (maker.tame(blob) if kind in ("Exp", "Sin", "Cos") else blob,), shape)


def prelu(maker, blob):
    shape = maker.shapes[blob]
    slope = (shape[0],) + (1,) * (len(shape) - 1)
    return maker.add("PRelu", (blob, maker.constant(*slope, low=0.1, high=0.4)), shape)


def batch_norm(maker, blob):
    count = maker.shapes[blob][0]
    gamma, beta, mean = maker.constant(count, low=0.5, high=1.5), maker.constant(count), maker.constant(count)
    return maker.add("BatchNormalization", (blob, gamma, beta, mean, maker.constant(count, low=0.2, high=2.0)),
                     maker.shapes[blob], epsilon=maker.one_of(1e-5, 1e-3))


def with_constant(maker, blob):
    """A constant that broadcasts from the right, with the batch axis or without, on either side."""
    shape = maker.shapes[blob]
    count = maker.between(0, len(shape))
    operand = tuple(size if maker.chance(0.6) else 1 for size in shape[len(shape) - count:])
    if maker.chance(0.4):
        operand = (1,) * (len(shape) + 1 - len(operand)) + operand
    op = maker.one_of("Add", "Sub", "Mul", "Div")
    constant = maker.constant(*operand, low=0.3, high=1.5)
    if maker.chance(0.3) and op != "Div":
        return maker.add(op, (constant, blob), shape)
    return maker.add(op, (blob, constant), shape)


def limits(maker, blob):
    if maker.chance(0.3):
        shape = maker.shapes[blob]
        operand = tuple(size if maker.chance(0.6) else 1 for size in shape)
        operands = (blob, maker.constant(*operand, low=-0.5, high=0.5))
        return maker.add(maker.one_of("Max", "Min"), operands if maker.chance(0.5) else operands[::-1], shape)
    return maker.add(maker.one_of("Max", "Min"), (blob, maker.number(maker.one_of(0.0, 0.25, -0.5))),
                     maker.shapes[blob])


def of_blobs(maker, blob):
    """The blob and another one that fits: of the same shape, or with axes of length 1 on either side."""
    shape = maker.shapes[blob]
    others = [name for name, other in maker.shapes.items() if len(other) == len(shape) and all(
        a == b or 1 in (a, b) for a, b in zip(shape, other))]
    other = maker.one_of(*others)
    result = tuple(max(pair) for pair in zip(shape, maker.shapes[other]))
    op = maker.one_of("Add", "Add", "Sub", "Mul", "Max", "Min", "Div", "Sum")
    if op == "Div":
        other = maker.add("Add", (maker.add("Abs", (other,), maker.shapes[other]), maker.number(1)),
                          maker.shapes[other])
    if op == "Mul":
        return maker.add(op, (maker.tame(blob), maker.tame(other)), result)
    if op == "Sum":
        return maker.add(op, (blob, other, blob), result)
    return maker.add(op, (blob, other) if maker.chance(0.5) or op == "Div" else (other, blob), result)


def concat(maker, blob):
    shape = maker.shapes[blob]
    axis = maker.between(0, len(shape) - 1)
    rest = shape[:axis] + shape[axis + 1:]
    others = [name for name, other in maker.shapes.items() if len(other) == len(shape)
              and other[:axis] + other[axis + 1:] == rest]
    parts = [blob] + [maker.one_of(*others) for _ in range(maker.between(1, 2))]
    total = sum(maker.shapes[name][axis] for name in parts)
    return maker.add("Concat", parts, shape[:axis] + (total,) + shape[axis + 1:], axis=axis + 1)


def split(maker, blob):
    """Cut in two or three; the parts are joined again in another order, or one goes on."""
    shape = maker.shapes[blob]
    axis = maker.between(0, len(shape) - 1)
    if shape[axis] < 3:
        return None
    first = maker.between(1, shape[axis] - 2)
    if maker.chance(0.3) and shape[axis] % 2 == 0:  # equal parts, all of them read
        first = shape[axis] // 2
    sizes = [first, shape[axis] - first] if maker.chance(0.5) else [first, 1, shape[axis] - first - 1]
    number = len(maker.steps)
    parts = [f"b{number}_{k}" for k in range(len(sizes))]
    maker.steps.append(Step("Split", (blob, maker.whole(*sizes)), tuple(parts), {"axis": axis + 1}))
    for part, size in zip(parts, sizes):
        maker.shapes[part] = shape[:axis] + (size,) + shape[axis + 1:]
    if maker.chance(0.5):
        return maker.add("Concat", parts[::-1], shape, axis=axis + 1)
    op, part = ("Relu", maker.one_of(*parts)) if sizes[0] == sizes[-1] else ("Neg", parts[0])
    return maker.add(op, (part,), maker.shapes[part])


def crop(maker, blob):
    shape = maker.shapes[blob]
    begin = [maker.between(0, size // 3) for size in shape]
    end = [maker.between(low + 1, size) for low, size in zip(begin, shape)]
    axes = range(1, len(shape) + 1)
    return maker.add("Slice", (blob, maker.whole(*begin), maker.whole(*end), maker.whole(*axes)),
                     [high - low for low, high in zip(begin, end)])


def steps(maker, blob):
    """Every second row or column."""
    channels, height, width = maker.shapes[blob]
    down, right = maker.between(1, 2), maker.between(1, 3)
    return maker.add("Slice", (blob, maker.whole(0, 0), maker.whole(height, width), maker.whole(2, 3),
                               maker.whole(down, right)), (channels, -(-height // down), -(-width // right)))


def reshape(maker, blob):
    count = prod(maker.shapes[blob])
    first = maker.one_of(*_divisors(count))
    second = maker.one_of(*_divisors(count // first))
    shape = maker.one_of((first, second, count // first // second), (first, second, count // first // second),
                         (first, count // first), (count,))
    return maker.add("Reshape", (blob, maker.whole(-1 if maker.chance(0.3) else 0, *shape)), shape)


def permute(maker, blob):
    shape = maker.shapes[blob]
    order = [int(axis) for axis in maker.rng.permutation(len(shape))]
    return maker.add("Transpose", (blob,), [shape[axis] for axis in order], perm=[0] + [axis + 1 for axis in order])


def shuffle(maker, blob):
    channels, height, width = maker.shapes[blob]
    groups = maker.one_of(*_divisors(channels))
    split_up = (groups, channels // groups, height, width)
    wide = maker.add("Reshape", (blob, maker.whole(0, *split_up)), split_up)
    turned = maker.add("Transpose", (wide,), (split_up[1], groups, height, width), perm=[0, 2, 1, 3, 4])
    return maker.add("Reshape", (turned, maker.whole(0, channels, height, width)), (channels, height, width))


def padding(maker, blob):
    channels, height, width = maker.shapes[blob]
    mode = maker.one_of("constant", "constant", "edge", "reflect")
    most = [height - 1, width - 1] if mode == "reflect" else [3, 3]
    top, left, bottom, right = (min(3, pad) for pad in _pads(maker, most))
    inputs = [blob, maker.whole(0, 0, top, left, 0, 0, bottom, right)]
    if mode == "constant" and maker.chance(0.4):
        inputs.append(maker.number(0.25))
    return maker.add("Pad", inputs, (channels, height + top + bottom, width + left + right), mode=mode)


def resize(maker, blob):
    channels, height, width = maker.shapes[blob]
    down, right = maker.between(1, 3), maker.between(1, 3)
    scales = Constant((4,), values=(1.0, 1.0, float(down), float(right)))
    if maker.chance(0.5):
        attrs = dict(mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    else:
        attrs = dict(mode="linear", coordinate_transformation_mode=maker.one_of("half_pixel", "align_corners"))
    return maker.add("Resize", (blob, "", scales), (channels, height * down, width * right), **attrs)


def reduce(maker, blob):
    shape = maker.shapes[blob]
    axes = sorted({maker.between(0, len(shape) - 1) for _ in range(maker.between(1, 2))})
    keep = maker.chance(0.6) or len(axes) == len(shape)
    left = [1 if axis in axes else size for axis, size in enumerate(shape) if keep or axis not in axes]
    op, counted = maker.one_of("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum"), [axis + 1 for axis in axes]
    if op == "ReduceSum":
        return maker.add(op, (blob, maker.whole(*counted)), left, keepdims=int(keep))
    return maker.add(op, (blob,), left, axes=counted, keepdims=int(keep))


def softmax(maker, blob):
    shape = maker.shapes[blob]
    return maker.add("Softmax", (blob,), shape, axis=maker.between(1, len(shape)))


def dense(maker, blob):
    count, outputs = prod(maker.shapes[blob]), maker.between(1, 20)
    flat = maker.add("Flatten", (blob,), (count,)) if len(maker.shapes[blob]) > 1 else blob
    spread = 1.7 / np.sqrt(count)
    inputs = [flat, maker.constant(outputs, count, low=-spread, high=spread)]
    if maker.chance(0.7):
        inputs.append(maker.constant(outputs, low=-0.5, high=0.5))
    return maker.add("Gemm", inputs, (outputs,), transB=1)


def normalization(maker, blob):
    channels = maker.shapes[blob][0]
    if maker.chance(0.5):
        return maker.add("LRN", (blob,), maker.shapes[blob], size=maker.one_of(3, 5), alpha=0.1, beta=0.75, bias=1.0)
    return maker.add("InstanceNormalization", (blob, maker.constant(channels, low=0.5, high=1.5),
                                               maker.constant(channels)), maker.shapes[blob], epsilon=0.1)


ANY = [activation, activation, with_constant, limits, of_blobs, concat, split, crop, reshape, permute, softmax, dense]
BY_RANK = {
    1: ANY + [dense, dense, with_constant, batch_norm],
    2: ANY + [reduce, reshape],
    3: ANY + [reduce, of_blobs, with_constant, concat] + [convolution] * 7 + [norm_behind] * 7 + [
        deconvolution, deconvolution, pooling, pooling, pooling, global_pooling, gate, prelu, batch_norm, batch_norm,
        steps, shuffle, padding, padding, resize, normalization],
}

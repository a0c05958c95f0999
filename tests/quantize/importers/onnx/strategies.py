# SPDX-License-Identifier: MIT
"""Random nodes of every operator that the importer knows: attributes, shapes, operator sets as the standard has them.

``STRATEGIES[operator]`` is (the first operator set with the form drawn here, function(draw, opset) -> Case).
"""

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from tests.quantize.importers.onnx.judge import arr, ints, node

sizes = st.integers(1, 7)


class Case(NamedTuple):
    """Nodes between x and y; x itself."""

    nodes: list
    x: np.ndarray
    constants: dict = {}
    kind: int = TensorProto.FLOAT
    tolerance: float = 1e-5


def images(draw, channels=sizes, low=1, high=9, scale=2.0):
    """1 to 3 images of random size and values on both sides of 0."""
    size = st.integers(low, high)
    shape = (draw(st.integers(1, 3)), draw(channels), draw(size), draw(size))
    return arr(*shape, seed=draw(st.integers(0, 99))) * np.float32(scale)


def wide_images(draw):
    return images(draw, low=3)


def tensor(draw, rank=(1, 4), scale=2.0):
    shape = draw(st.lists(sizes, min_size=rank[0], max_size=rank[1]))
    return arr(*shape, seed=draw(st.integers(0, 99))) * np.float32(scale)


def pair(draw, low, high):
    return [draw(st.integers(low, high)), draw(st.integers(low, high))]


def optional(draw, **attrs):
    """Some of the attributes."""
    return {key: value for key, value in attrs.items() if draw(st.booleans())}


# ---- layers


def windows(draw, kernel, dilated=True):
    """Strides, pads and dilations as a file may state them."""
    attrs = optional(draw, strides=pair(draw, 1, 3))
    if dilated:
        attrs.update(optional(draw, dilations=pair(draw, 1, 2)))
    way = draw(st.sampled_from(["none", "pads", "pads", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if way == "pads":
        attrs["pads"] = [draw(st.integers(0, kernel[axis % 2] - 1)) for axis in range(4)]
    elif way != "none":
        attrs["auto_pad"] = way
        if way != "VALID":
            attrs.pop("dilations", None)  # ONNX Runtime refuses both at once
    return attrs


def conv(draw, opset):
    groups, kernel = draw(st.integers(1, 3)), pair(draw, 1, 4)
    inside, outside = draw(st.integers(1, 2)), draw(st.integers(1, 3)) * groups
    x = images(draw, st.just(inside * groups), 7, 12)
    constants = dict(w=arr(outside, inside, *kernel, seed=1))
    if draw(st.booleans()):
        constants["b"] = arr(outside, seed=2)
    attrs = dict(windows(draw, kernel), **optional(draw, kernel_shape=kernel))
    return Case([node("Conv", "x " + " ".join(constants), group=groups, **attrs)], x, constants)


def conv_transpose(draw, opset):
    groups, kernel = draw(st.integers(1, 2)), pair(draw, 1, 4)
    inside, outside = draw(st.integers(1, 2)) * groups, draw(st.integers(1, 2))
    x = images(draw, st.just(inside), 4, 6)
    constants = dict(w=arr(inside, outside, *kernel, seed=1))
    if draw(st.booleans()):
        constants["b"] = arr(outside * groups, seed=2)
    strides = pair(draw, 1, 3)
    attrs = dict(strides=strides)
    way = draw(st.sampled_from(["none", "pads", "VALID", "SAME_UPPER", "SAME_LOWER", "output_shape"]))
    if way == "pads":
        attrs["pads"] = [draw(st.integers(0, kernel[axis % 2] - 1)) for axis in range(4)]
    if way in ("none", "pads"):
        attrs["output_padding"] = [draw(st.integers(0, step - 1)) for step in strides]
        attrs.update(optional(draw, dilations=pair(draw, 1, 2)))
    elif way == "output_shape":
        attrs["output_shape"] = [size * step for size, step in zip(x.shape[2:], strides)]
    else:
        attrs["auto_pad"] = way
    return Case([node("ConvTranspose", "x " + " ".join(constants), group=groups, **attrs)], x, constants)


def batch_norm(draw, opset):
    x = images(draw)
    channels = x.shape[1]
    constants = dict(g=arr(channels), b=arr(channels, seed=1), m=arr(channels, seed=2),
                     v=arr(channels, seed=3) ** 2 + np.float32(0.01))
    return Case([node("BatchNormalization", "x g b m v", **optional(draw, epsilon=1e-3, momentum=0.8))], x, constants)


def gemm(draw, opset):
    inside, units = draw(sizes), draw(sizes)
    transposed = draw(st.booleans())
    constants = dict(w=arr(units, inside) if transposed else arr(inside, units))
    images = draw(sizes)
    bias = draw(st.sampled_from([None, (units,), (1, units), (1,), (), (images, 1), (images, units)]))
    if bias is not None:
        constants["c"] = arr(*bias, seed=1) if bias else np.float32(0.3)
    attrs = dict(optional(draw, alpha=0.5, beta=2.0), transB=int(transposed))
    x = arr(images, inside, seed=2)
    way = draw(st.sampled_from(["layer", "layer", "turned", "left", "both"]))
    if way == "turned" and bias not in ((images, 1), (images, units)):
        return Case([node("Transpose", "x", "t"), node("Gemm", " ".join(["t", *constants]), transA=1, **attrs)], x,
                    constants)
    if way == "left":  # the images are the second operand, and the columns of what comes out
        kept = dict(w=constants["w"])
        return Case([node("Gemm", "w x", transA=int(not transposed), **dict(attrs, transB=1))], x, kept)
    if way == "both":
        return Case([node("Gemm", "x x", "r", transB=1), node("Gemm", "r x r" if images == inside else "r x")], x)
    return Case([node("Gemm", "x " + " ".join(constants), **attrs)], x, constants)


def matmul(draw, opset):
    x = tensor(draw, (2, 4))
    way = draw(st.sampled_from(["right", "left", "bias", "vector", "stacked", "both"]))
    if way == "vector":
        return Case([node("MatMul", "x w")], x, dict(w=arr(x.shape[-1])))
    if way == "stacked":
        return Case([node("MatMul", "x w")], x, dict(w=arr(*x.shape[1:-2], x.shape[-1], draw(sizes))))
    if way == "both":
        turned = list(range(x.ndim - 2)) + [x.ndim - 1, x.ndim - 2]
        return Case([node("Transpose", "x", "t", perm=turned), node("MatMul", "x t")], x)
    if way == "left":
        return Case([node("MatMul", "w x")], x, dict(w=arr(draw(sizes), x.shape[-2])))
    units = draw(sizes)
    constants = dict(w=arr(x.shape[-1], units))
    if way == "right":
        return Case([node("MatMul", "x w")], x, constants)
    return Case([node("MatMul", "x w", "m"), node("Add", draw(st.sampled_from(["m b", "b m"])))], x,
                dict(constants, b=arr(units, seed=1)))


def volumes(draw):
    """A mean over neighbouring channels, as PyTorch writes LocalResponseNorm."""
    x, reach = arr(draw(st.integers(1, 3)), 1, draw(st.integers(4, 7)), 3, 2), draw(st.integers(1, 4))
    pads = [0, 0, reach // 2, 0, 0, 0, 0, (reach - 1) // 2, 0, 0]
    return Case([node("Pad", "x p", "q"), node("AveragePool", "q", kernel_shape=[reach, 1, 1], **optional(
        draw, strides=[1, 1, 1], count_include_pad=1, pads=[0] * 6))], x, dict(p=ints(*pads)))


def sequences(draw, op):
    """A pooling of (N, C, W)."""
    kernel = draw(st.integers(1, 4))
    attrs = dict(kernel_shape=[kernel], **optional(draw, strides=[draw(st.integers(1, 3))], pads=[
        draw(st.integers(0, kernel - 1)), draw(st.integers(0, kernel - 1))]))
    return Case([node(op, **attrs)], arr(draw(st.integers(1, 3)), draw(sizes), draw(st.integers(4, 9))) - np.float32(2))


def global_pooling(op):
    def make(draw, opset):
        return Case([node(op)], images(draw) if draw(st.booleans()) else tensor(draw, (3, 3)))
    return make


def pooling(op):
    def make(draw, opset):
        if draw(st.integers(0, 3)) == 0:
            return volumes(draw) if op == "AveragePool" and opset >= 11 and draw(st.booleans()) else sequences(draw, op)
        kernel = pair(draw, 1, 4)
        attrs = dict(windows(draw, kernel, dilated=False), kernel_shape=kernel)
        if op == "AveragePool":
            attrs.update(optional(draw, count_include_pad=1))
            if attrs.get("auto_pad", "").startswith("SAME"):
                attrs.pop("count_include_pad", None)  # ONNX Runtime's versions differ
        # all negative, so that a zero from the padding would win the maximum
        return Case([node(op, **attrs)], images(draw, low=4, high=9) - np.float32(2.5))
    return make


def lp_pool(draw, opset):
    kernel = pair(draw, 1, 3)
    attrs = dict(kernel_shape=kernel, strides=pair(draw, 1, 2), p=draw(st.integers(1, 3)))
    return Case([node("LpPool", **attrs)], images(draw, low=4), tolerance=1e-4)


def plain(op, draw_x=images, tolerance=1e-5, change=lambda x: x, **attrs):
    """An operator of one tensor with some of its attributes."""
    def make(draw, opset):
        return Case([node(op, **optional(draw, **attrs))], change(draw_x(draw)).astype("float32"), {},
                    tolerance=tolerance)
    return make


def dropout(draw, opset):
    if opset < 12:
        return Case([node("Dropout", **optional(draw, ratio=0.3))], images(draw))
    return Case([node("Dropout", "x r")], images(draw), dict(r=np.float32(0.3)))


# ---- elements


def binary(op, positive=False, tolerance=1e-5):
    """Two tensors, or one and a constant of a shape that NumPy's rules join with it."""
    def make(draw, opset):
        x = tensor(draw)
        if positive:
            x = np.abs(x) + np.float32(0.5)
        way = draw(st.sampled_from(["constant", "constant", "self", "gate"]))
        if way == "self":
            return Case([node("Abs", "x", "r"), node(op, "x r" if not positive else "x x")], x, tolerance=tolerance)
        if way == "gate" and x.ndim > 1:
            return Case([node(*_maximum(opset, x.ndim - 1)[0], **_maximum(opset, x.ndim - 1)[1]), node(op, "x r")], x,
                        dict(axes=ints(x.ndim - 1)) if opset >= 18 else {}, tolerance=tolerance)
        shape = [size if draw(st.booleans()) else 1 for size in x.shape][draw(st.integers(0, x.ndim)):]
        constant = np.asarray(arr(*shape, seed=3) if shape else np.float32(draw(st.sampled_from([-1.5, 0.7, 2]))))
        constant = constant + np.float32(0.01)
        if positive:
            constant = np.abs(constant) + np.float32(0.5)
        return Case([node(op, draw(st.sampled_from(["x c", "c x"])))], x, dict(c=constant.astype("float32")),
                    tolerance=tolerance)
    return make


def _maximum(opset, axis):
    if opset < 18:
        return ("ReduceMax", "x", "r"), dict(axes=[axis])
    return ("ReduceMax", "x axes", "r"), {}


def compared(op):
    def make(draw, opset):
        case = binary(op)(draw, opset)
        last = case.nodes[-1]
        last.output[0] = "flag"
        return case._replace(nodes=[*case.nodes, node("Cast", "flag", "y", to=1)])
    return make


def logical(op):
    def make(draw, opset):
        x = tensor(draw)
        nodes = [node("Greater", "x zero", "p"), node("Less", "x one", "q"), node(op, "p q", "flag"),
                 node("Cast", "flag", to=1)]
        return Case(nodes, x, dict(zero=np.float32(-0.2), one=np.float32(0.4)))
    return make


def negated(draw, opset):
    return Case([node("Greater", "x zero", "p"), node("Not", "p", "flag"), node("Cast", "flag", to=1)], tensor(draw),
                dict(zero=np.float32(0.1)))


def several(op):
    def make(draw, opset):
        x = tensor(draw, (2, 4))
        count = draw(st.integers(1, 4))
        nodes, names, constants = [node("Neg", "x", "n")], ["x", "n", "x", "n"][:count], {}
        if draw(st.booleans()):
            shape = [size if draw(st.booleans()) else 1 for size in x.shape][draw(st.integers(0, x.ndim)):]
            constants["c"] = np.asarray(arr(*shape, seed=4) if shape else np.float32(0.4), "float32")
            names.append("c")
        return Case([*nodes, node(op, " ".join(names))], x, constants)
    return make


def clip(draw, opset):
    low, high = draw(st.sampled_from([None, -0.5, 0.0, -np.inf])), draw(st.sampled_from([None, 0.25, 6.0, np.inf]))
    if opset < 11:
        return Case([node("Clip", **{key: value for key, value in (("min", low), ("max", high)) if value is not None
                                     and np.isfinite(value)})], images(draw))
    names = ["x", "_" if low is None else "lo", "_" if high is None else "hi"]
    return Case([node("Clip", " ".join(names))], images(draw), {
        key: np.float32(value) for key, value in (("lo", low), ("hi", high)) if value is not None})


def where(draw, opset):
    x = tensor(draw)
    shape = [size if draw(st.booleans()) else 1 for size in x.shape][draw(st.integers(0, x.ndim)):]
    constants = dict(t=np.float32(0.1), c=np.asarray(arr(*shape, seed=5) if shape else np.float32(-np.inf), "float32"))
    return Case([node("Greater", "x t", "p"), node("Where", draw(st.sampled_from(["p x c", "p c x"])))], x, constants)


def power(draw, opset):
    exponent = draw(st.sampled_from([2.0, 0.5, -1.0, 3.0, 1.0, -0.5, 1.7]))
    x = np.abs(images(draw)) + np.float32(0.1)
    if draw(st.booleans()):
        return Case([node("Pow", "x e")], x, dict(e=np.float32(exponent)), tolerance=2e-5)
    return Case([node("Pow", "b x")], x, dict(b=np.abs(arr(x.shape[1], 1, 1)) + np.float32(0.2)), tolerance=2e-5)


def prelu(draw, opset):
    x = images(draw)
    shape = draw(st.sampled_from([(1,), (x.shape[1], 1, 1), x.shape[1:], (x.shape[3],), (1, *x.shape[2:])]))
    return Case([node("PRelu", "x s")], x, dict(s=arr(*shape, seed=1)))


def cast(draw, opset):
    kind = draw(st.sampled_from([TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL, TensorProto.FLOAT]))
    return Case([node("Cast", "x", "i", to=kind), node("Cast", "i", to=1)], images(draw, scale=9.0))


def codes(draw, opset):
    """QuantizeLinear and DequantizeLinear, as files of quantization tools have them around every layer."""
    x, axis = images(draw), None
    kind = draw(st.sampled_from(["int8", "uint8"]))
    zero = 0 if kind == "int8" else 128
    scale = np.float32(0.0625)
    if opset >= 13 and draw(st.booleans()):
        axis = draw(st.sampled_from([0, 1, -3]))
        count = x.shape[axis]
        scale, zero = np.float32(2.0) ** -np.arange(3, 3 + count, dtype="float32"), np.full(count, zero)
        axis = axis if count == x.shape[axis] else 1
    attrs = {} if axis is None else dict(axis=axis)
    constants = dict(s=scale, z=np.asarray(zero, kind))
    if axis == 0 or (axis is not None and axis % 4 == 0):
        attrs, constants = {}, dict(s=np.float32(0.125), z=np.asarray(0, kind))
    return Case([node("QuantizeLinear", "x s z", "q", **attrs), node("DequantizeLinear", "q s z", **attrs)], x,
                constants)


# ---- normalisation


def instance_norm(draw, opset):
    x = images(draw, low=2)
    return Case([node("InstanceNormalization", "x g b", **optional(draw, epsilon=1e-3))], x,
                dict(g=arr(x.shape[1]), b=arr(x.shape[1], seed=1)), tolerance=1e-4)


def group_norm(draw, opset):
    groups = draw(st.integers(1, 3))
    x = images(draw, st.just(groups * draw(st.integers(1, 3))), low=3)
    count = groups if opset < 21 else x.shape[1]
    return Case([node("GroupNormalization", "x g b", num_groups=groups, **optional(draw, epsilon=1e-3))], x,
                dict(g=arr(count), b=arr(count, seed=1)), tolerance=1e-4)


def layer_norm(draw, opset):
    x = images(draw, low=3)
    axis = draw(st.integers(1, 3))
    shape = x.shape[axis:]
    names = "x g b" if draw(st.booleans()) else "x g"
    return Case([node("LayerNormalization", names, axis=draw(st.sampled_from([axis, axis - 4])))], x,
                dict(g=arr(*shape), b=arr(*shape, seed=1)), tolerance=1e-4)


# ---- axes


def axes_of(draw, rank, least=1):
    axes = draw(st.lists(st.integers(0, rank - 1), min_size=least, max_size=rank, unique=True))
    return [axis - rank if draw(st.booleans()) else axis for axis in axes]


def reduction(op, since_input, positive=False):
    """Axes as attribute or as input, kept or not."""
    def make(draw, opset):
        x = tensor(draw, (2, 4))
        x = np.abs(x) + np.float32(0.3) if positive else x
        axes = axes_of(draw, x.ndim)
        if opset < 11:
            axes = [axis % x.ndim for axis in axes]
        keep = draw(st.integers(0, 1)) if len(axes) < x.ndim else 1
        if opset >= since_input:
            return Case([node(op, "x a", keepdims=keep)], x, dict(a=ints(*axes)), tolerance=2e-5)
        return Case([node(op, axes=axes, keepdims=keep)], x, tolerance=2e-5)
    return make


def softmax(op):
    def make(draw, opset):
        x = tensor(draw, (2, 4), 5.0)
        axis = draw(st.integers(-x.ndim if opset >= 11 else 0, x.ndim - 1))
        return Case([node(op, **optional(draw, axis=axis))], x)
    return make


def arg(op):
    def make(draw, opset):
        x = tensor(draw, (2, 4))
        axis = draw(st.integers(1, x.ndim - 1)) - (x.ndim if opset >= 11 and draw(st.booleans()) else 0)
        attrs = optional(draw, keepdims=0)
        if opset >= 12:
            x = np.round(x * 2)  # so that there are equal ones
            attrs.update(optional(draw, select_last_index=1))
        return Case([node(op, "x", "i", axis=axis, **attrs), node("Cast", "i", to=1)], x)
    return make


def top_k(draw, opset):
    x = np.random.RandomState(draw(st.integers(0, 9))).permutation(60).reshape(3, 4, 5).astype("float32")
    axis = draw(st.integers(0, 2))
    count = draw(st.integers(1, x.shape[axis]))
    attrs = optional(draw, largest=0) if opset >= 11 else {}
    if opset < 10:
        return Case([node("TopK", "x", "y i", axis=axis, k=count)], x)
    return Case([node("TopK", "x k", "y i", axis=axis, **attrs)], x, dict(k=ints(count)))


# ---- shapes


def reshape(draw, opset):
    n, c, h, w = draw(st.integers(1, 3)), draw(st.integers(1, 3)) * 2, draw(sizes), draw(sizes)
    target = draw(st.sampled_from([
        [0, -1], [0, 2, c // 2, h, w], [0, 0, -1], [-1, c * h * w], [0, c, h * w], [0, -1, h, w], [0, 0, h, w],
        [-1, w], [-1], [0, 1, c, h, w], [n, c, -1]]))
    return Case([node("Reshape", "x s", **(optional(draw, allowzero=0) if opset >= 14 else {}))], arr(n, c, h, w),
                dict(s=ints(*target)))


def flatten(draw, opset):
    x = tensor(draw, (2, 4))
    return Case([node("Flatten", axis=draw(st.integers(-x.ndim if opset >= 11 else 0, x.ndim)))], x)


def transpose(draw, opset):
    x = tensor(draw, (2, 4))
    return Case([node("Transpose", **optional(draw, perm=draw(st.permutations(list(range(x.ndim))))))], x)


def squeeze(draw, opset):
    x = arr(2, 1, 3, 1)
    axes = draw(st.sampled_from([None, [1], [3], [1, 3], [-1], [-1, 1]]))
    if opset < 11 and axes:
        axes = [axis % 4 for axis in axes]
    if axes is None:
        return Case([node("Squeeze")], x)
    return Case([node("Squeeze", "x a")], x, dict(a=ints(*axes))) if opset >= 13 else Case(
        [node("Squeeze", axes=axes)], x)


def unsqueeze(draw, opset):
    x = tensor(draw, (1, 3))
    axes = draw(st.sampled_from([[1], [x.ndim], [1, 2], [0], [0, 2]] + ([[-1], [-1, 1], [-2]] if opset >= 11 else [])))
    return Case([node("Unsqueeze", "x a")], x, dict(a=ints(*axes))) if opset >= 13 else Case(
        [node("Unsqueeze", axes=axes)], x)


def constant_of_shape(draw, opset):
    x = tensor(draw, (2, 4))
    last = node(draw(st.sampled_from(["Add", "Mul", "Max"])), draw(st.sampled_from(["x c", "c x"])))
    value = optional(draw, value=numpy_helper.from_array(np.float32([0.7])))
    return Case([node("Shape", "x", "s"), node("ConstantOfShape", "s", "c", **value), last], x)


def expand(draw, opset):
    way = draw(st.sampled_from(["sizes", "sizes", "like", "constant"]))
    if way != "sizes":  # as expand_as and full_like of PyTorch
        x = tensor(draw, (3, 4))
        source = node("GlobalMaxPool", "x", "e") if way == "like" else node("Relu", "x", "r")
        shape = [size if draw(st.booleans()) else 1 for size in x.shape][draw(st.integers(1, x.ndim)):]
        return Case([source, node("Shape", "x", "s"), node("Expand", "e s" if way == "like" else "k s", "f"),
                     node("Sub", "x f")], x, {} if way == "like" else dict(k=np.asarray(
                         arr(*shape) if shape else 0.3, "float32")))
    x = arr(2, draw(sizes), 1, draw(sizes))
    n, c, _, w = x.shape
    target = draw(st.sampled_from([[1, c, 5, w], [n, c, 4, 1], [3, 1], [1], [n, 1, 1, w], [1, 1, c, 1, w]][:5]))
    return Case([node("Expand", "x s")], x, dict(s=ints(*target)))


def tile(draw, opset):
    x = tensor(draw, (2, 4))
    return Case([node("Tile", "x r")], x, dict(r=ints(1, *(draw(st.integers(1, 3)) for _ in x.shape[1:]))))


def depth_to_space(draw, opset):
    size = draw(st.integers(1, 3))
    x = images(draw, st.just(size * size * draw(st.integers(1, 2))), high=4)
    return Case([node("DepthToSpace", blocksize=size, **(optional(draw, mode="CRD") if opset >= 11 else {}))], x)


def space_to_depth(draw, opset):
    size = draw(st.integers(1, 3))
    x = arr(draw(st.integers(1, 2)), draw(st.integers(1, 3)), size * draw(st.integers(1, 3)), size * 2)
    return Case([node("SpaceToDepth", blocksize=size)], x)


# ---- cutting


def concat(draw, opset):
    x = tensor(draw, (2, 4))
    axis = draw(st.integers(1, x.ndim - 1))
    constants = {}
    names = ["x", "r", "x"][:draw(st.integers(1, 3))]
    if draw(st.booleans()) and x.shape[0] == 1:
        constants["c"] = arr(*x.shape, seed=3)
        names.append("c")
    return Case([node("Relu", "x", "r"), node("Concat", " ".join(names), axis=draw(st.sampled_from(
        [axis, axis - x.ndim] if opset >= 11 else [axis])))], x, constants)


def split(draw, opset):
    parts = draw(st.lists(st.integers(1, 3), min_size=2, max_size=3))
    equal = draw(st.booleans())
    parts = [parts[0]] * len(parts) if equal else parts
    x = arr(2, sum(parts), 3)
    outputs = ["y", "y2", "y3"][:len(parts)]
    join = node("Concat", " ".join(outputs[::-1]), "joined", axis=1)
    axis = draw(st.sampled_from([1, -2])) if opset >= 11 else 1
    constants, attrs, names = {}, dict(axis=axis), "x"
    if not equal or draw(st.booleans()):
        if opset >= 13:
            constants["s"], names = ints(*parts), "x s"
        else:
            attrs["split"] = parts
    elif opset >= 18:
        attrs["num_outputs"] = len(parts)
    first = node("Split", names, " ".join(outputs), **attrs)
    for proto in (first, join):
        for field in (proto.input, proto.output):
            for index, name in enumerate(field):
                field[index] = {"y": "y1", "joined": "y"}.get(name, name)
    return Case([first, join], x, constants)


def slice_(draw, opset):
    x = tensor(draw, (2, 4))
    axes = [axis for axis in range(1, x.ndim) if draw(st.booleans())] or [x.ndim - 1]
    starts, ends, steps = [], [], []
    for axis in axes:
        size = x.shape[axis]
        step = draw(st.sampled_from([1, 1, 2, 3] + ([-1, -2] if opset >= 10 else [])))
        begin = draw(st.integers(0, size - 1))
        end = draw(st.integers(begin + 1, size))
        first, last = (begin, end) if step > 0 else (end - 1, begin - 1)
        last = {size: draw(st.sampled_from([size, 2 ** 31 - 1, 2 ** 63 - 1, 1000])), -1: -2 ** 63}.get(last, last)
        starts.append(first - size if draw(st.booleans()) else first)
        ends.append(last)
        steps.append(step)
    if opset < 10:
        return Case([node("Slice", axes=axes, starts=starts, ends=[min(end, 2 ** 31 - 1) for end in ends])],
                    x) if steps == [1] * len(steps) else Case(
            [node("Slice", axes=axes, starts=starts, ends=[min(end, 2 ** 31 - 1) for end in ends])], x)
    negative = [axis - x.ndim if draw(st.booleans()) else axis for axis in axes]
    return Case([node("Slice", "x b e a s")], x, dict(b=ints(*starts), e=ints(*ends), a=ints(*negative),
                                                     s=ints(*steps)))


def gather(draw, opset):
    x = tensor(draw, (2, 4))
    axis = draw(st.integers(1, x.ndim - 1))
    size = x.shape[axis]
    low = -size if opset >= 11 else 0
    place = st.integers(low, size - 1)
    places = draw(st.one_of(place, st.lists(place, min_size=1, max_size=4),
                            st.just([[0, size - 1]]), st.just(list(range(size)) * 8)))
    return Case([node("Gather", "x i", axis=axis)], x, dict(i=np.array(places, "int64")))


def pad(draw, opset):
    x = images(draw, low=3)
    mode = draw(st.sampled_from(["constant", "constant", "edge", "reflect"] + (["wrap"] if opset >= 19 else [])))
    room = [(0, 0)] + [(-1 if size > 2 else 0, min(size - 1, 2)) for size in x.shape[1:]]
    low = [draw(st.integers(*ends)) for ends in room]
    high = [draw(st.integers(*ends)) for ends in room]
    if mode != "constant":
        low, high = [max(size, 0) for size in low], [max(size, 0) for size in high]
        if mode == "reflect":
            low[1] = high[1] = 0
    value = draw(st.sampled_from([0.0, 1.5, -np.inf])) if mode == "constant" else 0.0
    if opset < 11:
        return Case([node("Pad", mode=mode, pads=low + high, value=float(value if np.isfinite(value) else 2))], x)
    return Case([node("Pad", "x p v", mode=mode)], x, dict(p=ints(*low, *high), v=np.float32(value)))


def resize(draw, opset):
    x = images(draw, low=2, high=6)
    if opset < 10:
        scale = [1.0, 1.0, float(draw(st.integers(1, 3))), float(draw(st.integers(1, 3)))]
        mode = draw(st.sampled_from(["nearest", "linear"]))
        if opset < 9:
            return Case([node("Upsample", scales=scale, mode=mode)], x)
        return Case([node("Upsample", "x s", mode=mode)], x, dict(s=np.float32(scale)))
    scale = [1.0, 1.0] + [draw(st.sampled_from([1.0, 2.0, 3.0, 1.5, 0.5])) for _ in range(2)]
    if opset < 11:
        scale = [max(round(size), 1.0) for size in scale]
        return Case([node("Resize", "x s", mode=draw(st.sampled_from(["nearest", "linear"])))], x,
                    dict(s=np.float32(scale)))
    mode = draw(st.sampled_from(["nearest", "linear"]))
    attrs = dict(mode=mode, coordinate_transformation_mode=draw(st.sampled_from(
        ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"] + (
            ["half_pixel_symmetric"] if opset >= 19 else []))))
    if mode == "nearest":
        attrs["nearest_mode"] = draw(st.sampled_from(["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]))
    if draw(st.booleans()):
        sizes_ = list(x.shape[:2]) + [draw(st.integers(1, 12)), draw(st.integers(1, 12))]
        return Case([node("Resize", "x _ _ z" if opset >= 13 else "x r e z", **attrs)], x, dict(
            z=ints(*sizes_), **({} if opset >= 13 else dict(r=np.zeros(0, "float32"), e=np.zeros(0, "float32")))))
    return Case([node("Resize", "x _ s" if opset >= 13 else "x r s", **attrs)], x, dict(
        s=np.float32(scale), **({} if opset >= 13 else dict(r=np.zeros(0, "float32")))))


def upsample(draw, opset):
    return resize(draw, min(opset, 9))


def whole_numbers(draw, opset):
    x = np.random.RandomState(0).randint(0, 255, (2, 3, 4, 4)).astype("uint8")
    return Case([node("Cast", to=1)], x, {}, TensorProto.UINT8)


def positive(x):
    return np.abs(x) + np.float32(0.05)


def small(x):
    return x * np.float32(0.45)


STRATEGIES = {
    "Conv": (7, conv), "ConvTranspose": (7, conv_transpose), "BatchNormalization": (7, batch_norm), "Gemm": (11, gemm),
    "MatMul": (7, matmul), "MaxPool": (8, pooling("MaxPool")), "AveragePool": (7, pooling("AveragePool")),
    "LpPool": (7, lp_pool), "GlobalAveragePool": (7, global_pooling("GlobalAveragePool")),
    "GlobalMaxPool": (7, global_pooling("GlobalMaxPool")), "Dropout": (7, dropout),
    "Relu": (7, plain("Relu")), "Sigmoid": (7, plain("Sigmoid")), "Tanh": (7, plain("Tanh")),
    "Softplus": (7, plain("Softplus")), "Softsign": (7, plain("Softsign")),
    "LeakyRelu": (7, plain("LeakyRelu", alpha=-0.3)), "Elu": (7, plain("Elu", alpha=0.7)),
    "Celu": (12, plain("Celu", alpha=0.6)),
    "Selu": (7, plain("Selu", alpha=1.2, gamma=0.9)), "Gelu": (20, plain("Gelu", approximate="tanh")),
    "Mish": (18, plain("Mish")), "HardSigmoid": (7, plain("HardSigmoid", alpha=0.3, beta=0.4)),
    "HardSwish": (14, plain("HardSwish")), "ThresholdedRelu": (10, plain("ThresholdedRelu", alpha=0.4)),
    "Round": (11, plain("Round", change=lambda x: np.round(x * 6) / 2)), "Cast": (7, cast),
    "Identity": (7, plain("Identity")), "Sqrt": (7, plain("Sqrt", change=positive)),
    "Exp": (7, plain("Exp")), "Log": (7, plain("Log", change=positive)), "Abs": (7, plain("Abs")),
    "Neg": (7, plain("Neg")), "Reciprocal": (7, plain("Reciprocal", change=positive)), "Floor": (7, plain("Floor")),
    "Ceil": (7, plain("Ceil")), "Sign": (9, plain("Sign")), "Erf": (9, plain("Erf")), "Not": (9, negated),
    "Sin": (7, plain("Sin")), "Cos": (7, plain("Cos")), "Tan": (7, plain("Tan", change=small)),
    "Asin": (7, plain("Asin", change=small)), "Acos": (7, plain("Acos", change=small)), "Atan": (7, plain("Atan")),
    "Sinh": (9, plain("Sinh")), "Cosh": (9, plain("Cosh")), "Asinh": (9, plain("Asinh")),
    "Acosh": (9, plain("Acosh", change=lambda x: np.abs(x) + 1.5)), "Atanh": (9, plain("Atanh", change=small)),
    "Add": (7, binary("Add")), "Sub": (7, binary("Sub")), "Mul": (7, binary("Mul")),
    "Div": (7, binary("Div", positive=True)), "Pow": (12, power), "Sum": (8, several("Sum")),
    "Mean": (8, several("Mean")), "Max": (8, several("Max")), "Min": (8, several("Min")), "Clip": (7, clip),
    "Where": (9, where), "PRelu": (9, prelu), "Equal": (11, compared("Equal")), "Greater": (9, compared("Greater")),
    "GreaterOrEqual": (12, compared("GreaterOrEqual")), "Less": (9, compared("Less")),
    "LessOrEqual": (12, compared("LessOrEqual")), "And": (9, logical("And")), "Or": (9, logical("Or")),
    "Xor": (9, logical("Xor")), "QuantizeLinear": (10, codes), "DequantizeLinear": (10, codes),
    "LRN": (7, plain("LRN", size=3, alpha=0.3, beta=0.6, bias=1.5)), "InstanceNormalization": (7, instance_norm),
    "GroupNormalization": (18, group_norm), "LayerNormalization": (17, layer_norm),
    "MeanVarianceNormalization": (9, plain("MeanVarianceNormalization", wide_images, 1e-4, axes=[2, 3])),
    "LpNormalization": (7, plain("LpNormalization", axis=1, p=1)),
    "Softmax": (7, softmax("Softmax")), "LogSoftmax": (7, softmax("LogSoftmax")), "ArgMax": (7, arg("ArgMax")),
    "ArgMin": (7, arg("ArgMin")), "TopK": (7, top_k), "Reshape": (7, reshape), "Flatten": (9, flatten),
    "Transpose": (7, transpose), "Squeeze": (7, squeeze), "Unsqueeze": (7, unsqueeze), "Expand": (8, expand),
    "ConstantOfShape": (9, constant_of_shape),
    "Tile": (7, tile), "DepthToSpace": (7, depth_to_space), "SpaceToDepth": (7, space_to_depth),
    "Concat": (7, concat), "Split": (7, split), "Slice": (7, slice_), "Gather": (7, gather), "Pad": (7, pad),
    "Resize": (10, resize), "Upsample": (7, upsample),
    "ReduceSum": (7, reduction("ReduceSum", 13)), "ReduceMean": (7, reduction("ReduceMean", 18)),
    "ReduceMax": (7, reduction("ReduceMax", 18)), "ReduceMin": (7, reduction("ReduceMin", 18)),
    "ReduceProd": (7, reduction("ReduceProd", 18)), "ReduceL1": (7, reduction("ReduceL1", 18)),
    "ReduceL2": (7, reduction("ReduceL2", 18)), "ReduceSumSquare": (7, reduction("ReduceSumSquare", 18)),
    "ReduceLogSum": (7, reduction("ReduceLogSum", 18, positive=True)),
    "ReduceLogSumExp": (7, reduction("ReduceLogSumExp", 18)),
}
# LRN needs its size
STRATEGIES["LRN"] = (7, lambda draw, opset: Case(
    [node("LRN", size=draw(st.integers(1, 6)), **optional(draw, alpha=0.3, beta=0.6, bias=1.5))], images(draw)))

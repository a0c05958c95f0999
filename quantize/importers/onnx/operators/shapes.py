# SPDX-License-Identifier: MIT
"""ONNX operators that move, cut, repeat or reduce elements."""

import numpy as np
from mxnet.gluon import nn

from quantize.importers.graph_block import LayerSpec, Step
from quantize.importers.onnx.reshapes import codes, reshaped
from quantize.importers.onnx.sizes import is_open
from quantize.importers.refused import Refused

_FAR = 2 ** 31 - 2  # ONNX writes "to the end" as INT32_MAX, INT64_MAX or their negatives


def _list(node, index, key):
    """Integers given as input `index` or, in older operator sets, as attribute `key`; None when absent."""
    value = node.constant(index)
    if value is None:
        value = node.take(key)
    return None if value is None else [int(number) for number in np.atleast_1d(value)]


def _positive(node, axis: int) -> int:
    return node.axis(axis)


def _flatten_from(axis: int) -> list:
    """Stages that make a matrix of (all before `axis`, the rest)."""
    if axis == 0:
        return [("reshape", dict(shape=(1, -1)))]
    return [("reshape", dict(shape=(-3, -2)))] * (axis - 1) + [("Flatten", {})]


def _flatten(node) -> list:
    axis = _positive(node, node.take("axis", 1))
    return node.chain(LayerSpec(nn.Flatten)) if axis == 1 else node.chain(*_flatten_from(axis))


def _reshape(node) -> list:
    target = node.known(1)
    target = node.take("shape") if target is None else target
    if target is None:
        raise Refused("no shape")
    copy = not node.only("allowzero", 0, 1)
    if not copy and any(not is_open(length) and length == 0 for length in target):
        raise Refused("allowzero=1 with a 0 in the shape")
    target = list(np.asarray(target, object))
    if node.sizes() is None:
        if any(map(is_open, target)):
            raise Refused("the shape of its input is unknown; declare the shape of the graph's input")
        return node.chain(("reshape", dict(shape=tuple(map(int, target)))))
    return to_shape(node, reshaped(node.sizes(), target, not copy, node.graph.fixed))


def to_shape(node, after) -> list:
    """A reshape of the first input to a known shape: nothing, a Flatten layer, or an operator."""
    before = node.sizes()
    if tuple(after) == tuple(before):
        return node.alias()
    if len(after) == 2 and len(before) > 1 and before[0] == after[0]:
        return node.chain(LayerSpec(nn.Flatten))
    if not after:
        raise Refused("makes a tensor without axes, which MXNet does not have")
    return node.chain(("reshape", dict(shape=codes(before, after))))


def _pad(node) -> list:
    node.only("mode", "constant")
    pads, value = _list(node, 1, "pads"), node.constant(2)
    value = node.take("value", 0.0) if value is None else float(value)
    axes = _list(node, 3, "")
    half, begin, end = len(pads) // 2, [0] * 4, [0] * 4
    # Without axes the pads are for all dimensions, so their number is the rank.
    rank = (len(node.shape() or ()) or 4) if axes else half
    if rank != 4:
        raise Refused(f"pads={pads} (supported: 4 dimensions)")
    for axis, before, after in zip(axes or range(4), pads, pads[half:]):
        begin[_positive(node, axis)], end[_positive(node, axis)] = before, after
    return _pad_image(node, begin, end, value)


def _pad_image(node, begin, end, value) -> list:
    if begin[0] or end[0] or min(begin + end) < 0:
        raise Refused(f"pads={begin + end} (supported: none in the batch, none negative)")
    width = [number for pair in zip(begin[1:], end[1:]) for number in pair]
    attrs = dict(mode="constant", constant_value=value)
    if begin[1] == end[1] == 0:
        return node.chain(("pad", dict(attrs, pad_width=(0, 0, 0, 0) + tuple(width[2:]))))
    # F.pad leaves the first two axes alone, so channels are padded as the depth of a volume.
    return node.chain(("expand_dims", dict(axis=1)), ("pad", dict(attrs, pad_width=(0, 0, 0, 0) + tuple(width))),
                      ("squeeze", dict(axis=1)))


def _inside(bound: int, size: int, open_below: bool):
    """None for a bound beyond the axis, which ONNX clamps and MXNet does not always."""
    beyond = bound < -size if open_below else bound >= size
    return None if beyond else bound


def _slice(node) -> list:
    starts, ends, axes = _list(node, 1, "starts"), _list(node, 2, "ends"), _list(node, 3, "axes")
    steps = _list(node, 4, "") or [1] * len(starts)
    axes = [_positive(node, axis) for axis in (axes or range(len(starts)))]
    rank = max(axes) + 1
    begin, end, step = [None] * rank, [None] * rank, [1] * rank
    shape = node.shape() or [None] * rank
    for axis, first, last, stride in zip(axes, starts, ends, steps):
        if stride == 0:
            raise Refused("a step of 0")
        size = shape[axis] or _FAR
        begin[axis] = _inside(first, size, open_below=stride > 0)
        end[axis] = _inside(last, size, open_below=stride < 0)
        step[axis] = stride
    return node.chain(("slice", dict(begin=tuple(begin), end=tuple(end), step=tuple(step))))


def _softmax(node) -> list:
    axis = node.take("axis", -1 if node.opset >= 13 else 1)
    shape = node.shape()
    if node.opset >= 13 or (shape is not None and _positive(node, axis) == len(shape) - 1):
        return node.chain(("softmax", dict(axis=axis)))
    # Before opset 13 everything from `axis` on is normalised together.
    flat = node.part("flat") + ":out"
    steps = node.chain(*(_flatten_from(_positive(node, axis)) + [("softmax", dict(axis=1))]), output=flat)
    return steps + [Step(node.part("reshape"), (flat, node.value()), (node.outputs[0],), "reshape_like")]


def _transpose(node) -> list:
    perm = node.take("perm")
    return node.chain(("transpose", dict(axes=tuple(perm)) if perm else {}))


def _reduce_mean(node) -> list:
    axes, keep = _list(node, 1, "axes"), node.only("keepdims", 1, 0)
    node.only("noop_with_empty_axes", 0)
    if not axes:
        raise Refused("no axes")
    return node.chain(("mean", dict(axis=tuple(axes), keepdims=bool(keep))))


def _squeeze(node) -> list:
    axes = _list(node, 1, "axes")
    if not axes:
        raise Refused("no axes")
    return node.chain(("squeeze", dict(axis=tuple(axes))))


#: (coordinate mode, rounding) that mean plain repetition when the scale is an integer.
_REPEATING = {("asymmetric", "floor"), ("tf_half_pixel_for_nn", "floor")} | {
    (mode, rounding) for mode in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric")
    for rounding in ("round_prefer_floor", "round_prefer_ceil")}


def _resize(node) -> list:
    node.only("mode", "nearest")
    for key in ("cubic_coeff_a", "extrapolation_value", "exclude_outside"):
        node.take(key)
    if node.op == "Resize" and node.opset >= 11:
        rule = (node.take("coordinate_transformation_mode", "half_pixel"),
                node.take("nearest_mode", "round_prefer_floor"))
        if rule not in _REPEATING:
            raise Refused("coordinate_transformation_mode={}, nearest_mode={}".format(*rule))
        node.only("antialias", 0)
        scales = _scales(node, node.constant(2), node.constant(3))
    else:
        scales = node.take("scales")
        scales = node.constant(1) if scales is None else scales
    scales = [float(scale) for scale in (() if scales is None else scales)]
    if len(scales) != 4 or scales[:2] != [1, 1] or any(scale < 1 or scale % 1 for scale in scales):
        raise Refused(f"scales={scales} (supported: [1, 1, integer, integer])")
    return _repeat(node, int(scales[2]), int(scales[3]))


def _scales(node, scales, sizes):
    """The scales, from the wanted sizes if those were given instead."""
    if scales is not None and scales.size:
        return scales
    shape = node.shape()
    if sizes is None or shape is None or len(sizes) != len(shape) or None in shape[1:]:
        raise Refused("sizes on an input of open size")
    return [1.0] + [size / known for size, known in zip(sizes[1:], shape[1:])]


def _repeat(node, high: int, wide: int) -> list:
    if high == wide:
        return node.chain(("UpSampling", dict(scale=high, sample_type="nearest")))
    return node.chain(("repeat", dict(repeats=high, axis=2)), ("repeat", dict(repeats=wide, axis=3)))


OPERATORS = {
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Pad": _pad,
    "Slice": _slice,
    "Softmax": _softmax,
    "Transpose": _transpose,
    "ReduceMean": _reduce_mean,
    "Squeeze": _squeeze,
    "Resize": _resize,
    "Upsample": _resize,
}

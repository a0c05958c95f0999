# SPDX-License-Identifier: MIT
"""What nodes make of shapes: node type -> function(node, shapes of its inputs) -> shapes of its outputs.

Shapes are tuples without the batch axis. Whatever does not fit is a DeployError that says what, without the node's
name. The fields of the node must have the types that its class declares.
"""

from math import prod
from typing import Callable, Dict, Sequence, Tuple

import numpy as np

from deploy.ir import model as nodes
from deploy.ir.broadcast import broadcast
from quantize.errors import DeployError

RULES: Dict[type, Callable] = {}


def rule(*types: type) -> Callable[[Callable], Callable]:
    """Decorator that enters a rule for these node types."""
    def store(function):
        RULES.update({node_type: function for node_type in types})
        return function
    return store


def output_size(size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int] = (1, 1),
                ceil: bool = False) -> Tuple[int, int]:
    """(height, width) of the windows over planes of a padded `size`; `ceil` adds a last, partial window."""
    def along(axis):
        room = size[axis] - dilation[axis] * (kernel[axis] - 1) - 1
        return (-(-room // stride[axis]) if ceil else room // stride[axis]) + 1
    return along(0), along(1)


def padded_size(shape: Tuple[int, ...], pads: Tuple[int, int, int, int]) -> Tuple[int, int]:
    """(height, width) of (..., height, width) after padding by (top, left, bottom, right)."""
    top, left, bottom, right = pads
    return shape[-2] + top + bottom, shape[-1] + left + right


def demand(holds: object, text: str) -> None:
    """Raise DeployError with the text unless the condition holds."""
    if not holds:
        raise DeployError(text)


def _planes(shape):
    demand(len(shape) == 3, f"its input has the shape {shape}, but it needs (channels, height, width)")
    return shape


def _axis(axis, shape):
    demand(0 <= axis < len(shape), f"axis {axis} of a blob with the shape {shape}")


def _vector(name, values, length):
    demand(values is None or values.shape == (length,),
           f"{name} has the shape {np.shape(values)}, but needs ({length},)")


def _windows(node, kernel):
    demand(min(kernel) > 0 and min(node.stride) > 0, f"kernel {kernel} or stride {node.stride} is not positive")
    demand(min(node.pads) >= 0, f"pads {node.pads} are negative")


@rule(nodes.Convolution)
def _convolution(node, shapes):
    channels = _planes(shapes[0])[0]
    demand(node.weight.ndim == 4, f"its weight has the shape {node.weight.shape}, but needs 4 axes")
    outputs, inputs = node.weight.shape[:2]
    demand(node.groups > 0 and outputs % node.groups == 0 and inputs * node.groups == channels and outputs,
           f"a weight of shape {node.weight.shape} with {node.groups} groups does not fit {channels} channels")
    _vector("bias", node.bias, outputs)
    _windows(node, node.weight.shape[2:])
    demand(min(node.dilation) > 0, f"dilation {node.dilation} is not positive")
    size = output_size(padded_size(shapes[0], node.pads), node.weight.shape[2:], node.stride, node.dilation)
    demand(min(size) > 0, f"its kernel is larger than its padded input {shapes[0]}")
    return ((outputs,) + size,)


@rule(nodes.Deconvolution)
def _deconvolution(node, shapes):
    channels, height, width = _planes(shapes[0])
    demand(node.weight.ndim == 4, f"its weight has the shape {node.weight.shape}, but needs 4 axes")
    inputs, outputs = node.weight.shape[:2]
    demand(node.groups > 0 and inputs == channels and inputs % node.groups == 0 and outputs,
           f"a weight of shape {node.weight.shape} with {node.groups} groups does not fit {channels} channels")
    _vector("bias", node.bias, outputs * node.groups)
    _windows(node, node.weight.shape[2:])
    demand(min(node.dilation) > 0, f"dilation {node.dilation} is not positive")
    demand(min(node.output_pads) >= 0, f"output pads {node.output_pads} are negative")
    top, left, bottom, right = node.pads
    size = tuple((length - 1) * step + gap * (taps - 1) + 1 + extra - cut for length, step, gap, taps, extra, cut in
                 zip((height, width), node.stride, node.dilation, node.weight.shape[2:], node.output_pads,
                     (top + bottom, left + right)))
    demand(min(size) > 0, f"its pads {node.pads} leave nothing of its output")
    return ((outputs * node.groups,) + size,)


@rule(nodes.InnerProduct)
def _inner_product(node, shapes):
    demand(node.weight.ndim == 2 and node.weight.shape[1] == prod(shapes[0]) and len(node.weight),
           f"a weight of shape {node.weight.shape} does not fit {prod(shapes[0])} inputs")
    _vector("bias", node.bias, len(node.weight))
    return ((len(node.weight),),)


@rule(nodes.Pooling)
def _pooling(node, shapes):
    channels, height, width = _planes(shapes[0])
    demand(node.kind in ("max", "avg"), f"unknown kind of pooling {node.kind!r}; known: max, avg")
    if node.global_:
        return ((channels, 1, 1),)
    _windows(node, node.kernel)
    top, left, bottom, right = node.pads
    demand(max(top, bottom) < node.kernel[0] and max(left, right) < node.kernel[1],
           f"pads {node.pads} are not smaller than the kernel {node.kernel}")
    size = output_size(padded_size(shapes[0], node.pads), node.kernel, node.stride, ceil=node.ceil)
    demand(min(size) > 0, f"its kernel {node.kernel} is larger than its padded input {shapes[0]}")
    demand((size[0] - 1) * node.stride[0] < height + top and (size[1] - 1) * node.stride[1] < width + left,
           f"its last windows lie outside the input {shapes[0]}")
    return ((channels,) + size,)


@rule(nodes.Activation, nodes.Rounding)
def _same(node, shapes):
    return shapes


@rule(nodes.ScalarOp)
def _scalar(node, shapes):
    known = ("add", "sub", "mul", "div", "rsub", "rdiv", "max", "min", "pow")
    demand(node.op in known, f"unknown operation {node.op!r}; known: {', '.join(known)}")
    return shapes


@rule(nodes.PReLU)
def _prelu(node, shapes):
    demand(node.slope.shape in ((1,), shapes[0][:1]),
           f"slopes of shape {node.slope.shape} for {shapes[0][:1]} channels")
    return shapes


@rule(nodes.BatchNorm)
def _batch_norm(node, shapes):
    for name in ("gamma", "beta", "mean", "variance"):
        _vector(name, getattr(node, name), shapes[0][0])
    demand((node.variance + np.float32(node.epsilon) > 0).all(), "variance + epsilon is not positive in every channel")
    return shapes


@rule(nodes.Affine)
def _affine(node, shapes):
    _vector("scale", node.scale, shapes[0][0])
    _vector("shift", node.shift, shapes[0][0])
    return shapes


@rule(nodes.Constant)
def _constant(node, shapes):
    demand(node.value.ndim and node.value.size, f"a constant of shape {node.value.shape}, but a blob has axes")
    return (node.value.shape,)


@rule(nodes.Elementwise)
def _elementwise(node, shapes):
    known = ("add", "sub", "mul", "div", "max", "min", "pow")
    demand(node.op in known, f"unknown operation {node.op!r}; known: {', '.join(known)}")
    several = len(shapes) > 2 and node.op not in ("sub", "div", "pow")
    demand(len(shapes) == 2 or several, f"{node.op} of {len(shapes)} blobs")
    return (broadcast(*shapes),)


@rule(nodes.Concat)
def _concat(node, shapes):
    _axis(node.axis, shapes[0])
    rest = {shape[:node.axis] + shape[node.axis + 1:] for shape in shapes}
    demand(len(rest) == 1 and len({len(shape) for shape in shapes}) == 1,
           f"blobs of the shapes {shapes} cannot be joined along axis {node.axis}")
    return (_with(shapes[0], node.axis, sum(shape[node.axis] for shape in shapes)),)


@rule(nodes.Slice)
def _slice(node, shapes):
    _axis(node.axis, shapes[0])
    demand(len(node.sizes) == len(node.outputs) and min(node.sizes) > 0 and sum(node.sizes) == shapes[0][node.axis],
           f"a blob of the shape {shapes[0]} cannot be cut into {node.sizes} along axis {node.axis} for "
           f"{len(node.outputs)} outputs")
    return tuple(_with(shapes[0], node.axis, size) for size in node.sizes)


def _with(shape, axis, size):
    return shape[:axis] + (size,) + shape[axis + 1:]


@rule(nodes.Crop)
def _crop(node, shapes):
    demand(len(node.begin) == len(node.end) == len(shapes[0]) and all(
        0 <= begin < end <= size for begin, end, size in zip(node.begin, node.end, shapes[0])),
        f"a blob of the shape {shapes[0]} has no part from {node.begin} to {node.end}")
    return (tuple(end - begin for begin, end in zip(node.begin, node.end)),)


@rule(nodes.Reshape)
def _reshape(node, shapes):
    demand(node.shape and min(node.shape) > 0 and prod(node.shape) == prod(shapes[0]),
           f"a blob of the shape {shapes[0]} cannot take the shape {node.shape}")
    return (node.shape,)


@rule(nodes.Permute)
def _permute(node, shapes):
    demand(sorted(node.order) == list(range(len(shapes[0]))), f"{node.order} is no order of the {len(shapes[0])} axes")
    return (tuple(shapes[0][axis] for axis in node.order),)


@rule(nodes.Padding)
def _padding(node, shapes):
    known = ("constant", "edge", "reflect")
    demand(node.mode in known, f"unknown mode {node.mode!r}; known: {', '.join(known)}")
    top, left, bottom, right = node.pads
    pairs = (node.channels, (top, bottom), (left, right))
    demand(min(map(min, pairs)) >= 0, f"pads {node.pads} or {node.channels} are negative")
    demand(node.mode != "reflect" or all(max(pair) < size for pair, size in zip(pairs, _planes(shapes[0]))),
           f"pads {node.pads} and {node.channels} reflect more than the input {shapes[0]}")
    return (tuple(before + size + after for (before, after), size in zip(pairs, _planes(shapes[0]))),)


@rule(nodes.Spread)
def _spread(node, shapes):
    demand(min(node.steps) > 0, f"steps {node.steps} are not positive")
    channels, height, width = _planes(shapes[0])
    return ((channels, (height - 1) * node.steps[0] + 1, (width - 1) * node.steps[1] + 1),)


@rule(nodes.Resize)
def _resize(node, shapes):
    demand(node.mode in ("nearest", "bilinear"), f"unknown mode {node.mode!r}; known: nearest, bilinear")
    demand(min(node.size) > 0, f"size {node.size} is not positive")
    return (_planes(shapes[0])[:1] + node.size,)


@rule(nodes.Reduce)
def _reduce(node, shapes):
    known = ("mean", "sum", "max", "min")
    demand(node.op in known, f"unknown operation {node.op!r}; known: {', '.join(known)}")
    demand(node.axes and len(set(node.axes)) == len(node.axes), f"axes {node.axes} are none or repeated")
    for axis in node.axes:
        _axis(axis, shapes[0])
    kept = [(1 if i in node.axes else size) for i, size in enumerate(shapes[0]) if node.keepdims or i not in node.axes]
    demand(kept, "no axis is left; keep the dimensions")
    return (tuple(kept),)


@rule(nodes.Softmax)
def _softmax(node, shapes):
    _axis(node.axis, shapes[0])
    return shapes

# SPDX-License-Identifier: MIT
"""ONNX operators that give tensors another shape or order, without cutting or adding to them."""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np
import onnx
from mxnet.gluon import nn

from quantize.importers.graph_block import LayerSpec, Step
from quantize.importers.onnx.graph import Node, Stage
from quantize.importers.onnx.reshapes import BATCH, codes, reshaped, shown
from quantize.importers.onnx.shape_rules import expanded
from quantize.importers.onnx.sizes import Length, OpenSize, is_open
from quantize.importers.refused import Refused


def integers(node: Node, index: int, key: str) -> list[int] | None:
    """Integers given as input `index` or, in older operator sets, as attribute `key`; None when absent."""
    value: Any = node.constant(index)
    if value is None:
        value = node.take(key)
    return None if value is None else [int(number) for number in np.atleast_1d(value)]


def flatten_from(axis: int) -> list[Stage]:
    """Stages that make a matrix of (all before `axis`, the rest)."""
    if axis == 0:
        return [("reshape", dict(shape=(1, -1)))]
    return [("reshape", dict(shape=(-3, -2)))] * (axis - 1) + [("Flatten", {})]


def _flatten(node) -> list:
    axis = node.take("axis", 1)
    axis = axis + node.rank() if axis < 0 else axis
    if axis == 1:
        return node.chain(LayerSpec(nn.Flatten))
    if node.sizes() is not None and axis == node.rank():
        return node.chain(("reshape", dict(shape=(-1, 1))))
    return node.chain(*flatten_from(axis))


def _reshape(node) -> list:
    target = node.known(1)
    target = node.take("shape") if target is None else target
    if target is None:
        raise Refused("no shape")
    copy = not node.only("allowzero", 0, 1)
    target = list(np.asarray(target, object))
    if not copy and any(not is_open(length) and length == 0 for length in target):
        raise Refused("allowzero=1 with a 0 in the shape")
    if node.sizes() is None:
        if any(map(is_open, target)):
            raise Refused("the shape of its input is unknown; declare the shape of the graph's input")
        return node.chain(("reshape", dict(shape=tuple(map(int, target)))))
    return to_shape(node, reshaped(node.sizes(), target, not copy, node.graph.fixed))


def to_shape(node: Node, after: Sequence[Length]) -> list[Step]:
    """A reshape of the first input to a known shape: nothing, a Flatten layer, or an operator."""
    before = node.sizes()
    if tuple(after) == tuple(before):
        return node.alias()
    if len(after) == 2 and len(before) > 1 and before[0] == after[0]:
        return node.chain(LayerSpec(nn.Flatten))
    if not after:
        raise Refused("makes a tensor without axes, which MXNet does not have")
    return node.chain(("reshape", dict(shape=codes(before, after))))


def _transpose(node) -> list:
    perm = node.take("perm")
    if perm is not None and (sorted(perm) != list(range(len(perm))) or (
            node.sizes() is not None and len(perm) != node.rank())):
        raise Refused(f"perm={list(perm)} is no order of the axes of its input")
    if perm is not None and list(perm) == sorted(perm):
        return node.alias()
    return node.chain(("transpose", dict(axes=tuple(perm)) if perm else {}))


def _squeeze(node) -> list:
    axes = integers(node, 1, "axes")
    if axes is None or not axes:
        if node.sizes() is None:
            raise Refused("no axes, of an input of unknown shape")
        if any(is_open(length) for length in node.sizes()[1:]):
            raise Refused(f"no axes, of an input of open sizes {shown(node.sizes())}")
        # the batch stays, even if it is 1 by chance; one that the file fixes to 1 is taken off, as the file says
        gone = {1, BATCH} if node.graph.fixed == 1 else {1}
        axes = [axis for axis, length in enumerate(node.sizes()) if length in gone]
        if not axes:
            return node.alias()
    axes = sorted({node.axis(axis) for axis in axes})
    if 0 in axes and node.sizes() is not None and is_open(node.sizes()[0]):
        if len(axes) == node.rank():
            raise Refused("makes a tensor without axes, which MXNet does not have")
        # the images of a batch that was traced as 1 follow one another along the next axis
        rest = [("squeeze", dict(axis=tuple(axis for axis in axes if axis)))] if len(axes) > 1 else []
        if len(axes) + 1 > node.rank():
            raise Refused("makes a tensor without axes, which MXNet does not have")
        return node.chain(*rest, ("reshape", dict(shape=(-3, -2))))
    if node.sizes() is not None and len(axes) == node.rank():
        raise Refused("makes a tensor without axes, which MXNet does not have")
    return node.chain(("squeeze", dict(axis=tuple(axes))))


def _unsqueeze(node) -> list:
    axes = integers(node, 1, "axes")
    if not axes:
        raise Refused("no axes")
    rank = len(axes) + (node.rank() if min(axes) < 0 else 0)
    axes = sorted(axis % rank if axis < 0 else axis for axis in axes)
    return node.chain(*(("expand_dims", dict(axis=axis)) for axis in axes))


def like(node: Node, lengths: Sequence[Length]) -> str | None:
    """A tensor of these lengths that is there already."""
    shapes = node.graph.facts.shapes
    return next((node.graph.resolve(name, node.name) for name, shape in shapes.items()
                 if shape is not None and tuple(shape) == tuple(lengths) and node.graph.is_defined(name)), None)


def _zeros(node, lengths) -> Step:
    """Zeros of a shape some of whose lengths are open."""
    tensor = like(node, lengths)
    if tensor is None:
        raise Refused(f"of the shape {shown(lengths)}, which leaves sizes open")
    return node.helper("zeros_like", tensor)


def _constant_of_shape(node) -> list:
    """A number for each place; where all sizes are known, it was evaluated before."""
    value = node.take("value")
    zeros = _zeros(node, list(node.known(0)))
    number = 0.0 if value is None else float(onnx.numpy_helper.to_array(value).reshape(-1)[0])
    return [zeros, node.joined("_plus_scalar", zeros.outputs[0], scalar=number)]


def _expand(node) -> list:
    target = node.known(1)
    if node.sizes() is None:
        raise Refused("of an input of unknown shape")
    if any(map(is_open, target)) and len(target) >= node.rank():
        tensor = like(node, list(target))
        if tensor is not None and node.is_constant(0):
            zeros, array = node.helper("zeros_like", tensor), node.constant(0)
            stored = node.stored(f"{node.inputs[0]}_of_{node.name}", array.reshape(
                (1,) * (len(target) - array.ndim) + array.shape))
            return [zeros, node.joined("broadcast_add", zeros.outputs[0], stored)]
        if tensor is not None and len(target) == node.rank():
            return [node.joined("broadcast_like", node.value(), tensor)]
    try:
        after: tuple[Any, ...] = expanded(node.sizes(), list(target), node.graph.fixed)
    except OpenSize as error:
        raise Refused(f"shape={shown(target)} of an input of open sizes {shown(node.sizes())}") from error
    before = (1,) * (len(after) - node.rank()) + tuple(node.sizes())
    if any(not is_open(old) and old != 1 and old != new for old, new in zip(before, after)):
        raise Refused(f"shape={shown(target)} of an input of shape {shown(node.sizes())}")
    if any(is_open(new) and new != old for old, new in zip(before, after)):
        raise Refused(f"shape={shown(target)} leaves sizes open")
    stages: list[Stage] = [("expand_dims", dict(axis=0))] * (len(after) - node.rank())
    if before != after:
        # 0 keeps a length of the input
        stages.append(("broadcast_to", dict(shape=tuple(0 if new == old else int(new)
                                                        for old, new in zip(before, after)))))
    return node.chain(*stages) if stages else node.alias()


def _tile(node) -> list:
    repeats = integers(node, 1, "repeats")
    if node.opset < 6 or not repeats or min(repeats) < 1:
        raise Refused(f"repeats={repeats} (supported: at least 1)")
    # axis by axis: MXNet cannot repeat four at once
    stages = [("tile", dict(reps=(1,) * axis + (count,) + (1,) * (len(repeats) - 1 - axis)))
              for axis, count in enumerate(repeats) if count > 1]
    return node.chain(*stages) if stages else node.alias()


def _depth_to_space(node) -> list:
    """Channels become blocks of pixels; MXNet's operator has the blocks in front (DCR), CRD has the channels there."""
    size = _block(node)
    mode = node.only("mode", "DCR", "CRD")
    channels = (node.shape() or (None, None))[1]
    if channels is not None and channels % size ** 2:
        raise Refused(f"blocksize={size} for {channels} channels")
    stage = ("depth_to_space", dict(block_size=size))
    if mode == "DCR":
        return node.chain(stage)
    return node.chain(("reshape", dict(shape=(0, -4, -1, size * size, -2))), ("transpose", dict(axes=(0, 2, 1, 3, 4))),
                      ("reshape", dict(shape=(0, -3, -2))), stage)


def _space_to_depth(node) -> list:
    size = _block(node)
    if any(length is not None and length % size for length in (node.shape() or ())[2:]):
        raise Refused(f"blocksize={size} of an input of shape {node.shape()}")
    return node.chain(("space_to_depth", dict(block_size=size)))


def _block(node) -> int:
    size = node.take("blocksize")
    if size is None or size < 1:
        raise Refused(f"blocksize={size} (supported: at least 1)")
    return size




OPERATORS = {
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Expand": _expand,
    "ConstantOfShape": _constant_of_shape,
    "Tile": _tile,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}

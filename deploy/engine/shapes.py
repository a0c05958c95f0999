# SPDX-License-Identifier: MIT
"""Operations that move elements: joining, cutting, reordering, padding, resizing."""

import numpy as np

from deploy.engine.operations import operation
from deploy.ir import Concat, Crop, Padding, Permute, Reshape, Resize, Slice, Spread


@operation(Concat)
def _concat(node, inputs, arithmetic):
    return np.concatenate(inputs, axis=node.axis + 1)


@operation(Slice)
def _slice(node, inputs, arithmetic):
    return tuple(np.split(inputs[0], np.cumsum(node.sizes)[:-1], axis=node.axis + 1))


@operation(Crop)
def _crop(node, inputs, arithmetic):
    return inputs[0][(slice(None),) + tuple(slice(*ends) for ends in zip(node.begin, node.end))]


@operation(Reshape)
def _reshape(node, inputs, arithmetic):
    return inputs[0].reshape(inputs[0].shape[:1] + tuple(node.shape))


@operation(Permute)
def _permute(node, inputs, arithmetic):
    return inputs[0].transpose([0] + [axis + 1 for axis in node.order])


@operation(Padding)
def _padding(node, inputs, arithmetic):
    top, left, bottom, right = node.pads
    widths = ((0, 0), node.channels, (top, bottom), (left, right))
    if node.mode == "constant":
        return np.pad(inputs[0], widths, constant_values=np.float32(node.value))
    return np.pad(inputs[0], widths, mode=node.mode)


@operation(Spread)
def _spread(node, inputs, arithmetic):
    x, (rows, columns) = inputs[0], node.steps
    y = np.zeros(x.shape[:2] + ((x.shape[2] - 1) * rows + 1, (x.shape[3] - 1) * columns + 1), x.dtype)
    y[:, :, ::rows, ::columns] = x
    return y


@operation(Resize)
def _resize(node, inputs, arithmetic):
    x = inputs[0]
    for axis, size in zip((2, 3), node.size):
        if node.mode == "nearest":
            x = np.take(x, np.arange(size) * x.shape[axis] // size, axis=axis)
        else:
            x = _interpolate(x, axis, size, node.align_corners)
    return x


def _interpolate(x, axis, size, align_corners):
    """Linear interpolation along an axis; without `align_corners` positions are those of pixel centres."""
    old = x.shape[axis]
    if align_corners:
        position = np.arange(size) * ((old - 1) / max(size - 1, 1))
    else:
        position = np.clip((np.arange(size) + 0.5) * (old / size) - 0.5, 0, old - 1)
    low = np.minimum(np.floor(position).astype(int), old - 1)
    high = np.minimum(low + 1, old - 1)
    weight = (position - low).astype(np.float32).reshape((-1,) + (1,) * (x.ndim - 1 - axis))
    return np.take(x, low, axis=axis) * (1 - weight) + np.take(x, high, axis=axis) * weight

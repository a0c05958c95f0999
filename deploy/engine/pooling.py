# SPDX-License-Identifier: MIT
"""Pooling, as MXNet defines it: padding never wins a maximum, and an average counts what `count_padding` says."""

from typing import Any, Tuple

import numpy as np

from deploy.engine import windows
from deploy.engine.operations import operation
from deploy.ir import Pooling
from deploy.ir.shapes import output_size, padded_size

# not minus infinity: a window that lies in the padding alone must stay a number, as in MXNet
LOWEST = np.finfo(np.float32).min


def cover(x: np.ndarray, pads: Tuple[int, int, int, int], node: Pooling, fill: Any) -> np.ndarray:
    """`x` padded with `fill`, also by the rows and columns that only the last windows of `ceil` pooling reach."""
    size = padded_size(x.shape, pads)
    out = output_size(size, node.kernel, node.stride, ceil=node.ceil)
    reach = [(count - 1) * step + length for count, step, length in zip(out, node.stride, node.kernel)]
    top, left, bottom, right = pads
    return windows.pad(x, (top, left, bottom + max(reach[0] - size[0], 0), right + max(reach[1] - size[1], 0)), fill)


def window_areas(node: Pooling, shape: Tuple[int, ...]) -> np.ndarray:
    """Number of elements that each average divides by, (1, 1, oh, ow) float32, for inputs (..., h, w).

    With `count_padding` the padding counts, but never the extra reach of `ceil`.
    """
    counted = np.ones((1, 1) + tuple(shape[-2:]), np.float32)
    pads = node.pads
    if node.count_padding:
        counted, pads = windows.pad(counted, pads, 1), (0, 0, 0, 0)
    views = windows.taps(cover(counted, pads, node, 0), node.kernel, node.stride)
    return np.asarray(sum(view for _, _, view in views))


def window_sums(x: np.ndarray, node: Pooling) -> np.ndarray:
    """Sums of windows (n, c, oh, ow), element by element in the order of the window."""
    return _combine(np.add, cover(x, node.pads, node, 0), node)


def _combine(function, x, node):
    views = windows.taps(x, node.kernel, node.stride)
    # the first element of each window starts the sum, so that no zero is added that an engine would not add
    y = next(views)[2].copy()
    for _, _, view in views:
        function(y, view, out=y)
    return y


@operation(Pooling)
def _pooling(node, inputs, arithmetic):
    x = inputs[0]
    if node.global_:
        return (np.max if node.kind == "max" else np.mean)(x, axis=(2, 3), keepdims=True)
    if node.kind == "max":
        return _combine(np.maximum, cover(x, node.pads, node, LOWEST), node)
    # borders divide by what they hold, so the areas are a map and not a number
    return window_sums(x, node) / window_areas(node, x.shape)

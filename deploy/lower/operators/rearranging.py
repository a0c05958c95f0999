# SPDX-License-Identifier: MIT
"""Operators that pick or spread elements: engines have convolutions for what they have no layer for.

A matrix of zeros and ones moves each value unchanged: the products are the value itself and zeros.
"""

from typing import Callable, Dict, Sequence, Tuple

import numpy as np

from deploy.ir import Concat, Convolution, Crop, Deconvolution, Permute
from deploy.lower.call import Call, Unsupported
from deploy.lower.operators.elementwise import stretched

FEW = 32  # places that are cut out one by one


def _image(call: Call):
    if len(call.in_shape()) != 3:
        raise Unsupported(f"operator {call.op} on a tensor of shape {call.in_shape()} (supported: images)")
    return call.in_shape()


def _space_to_depth(call: Call) -> str:
    """Output channel (row * size + column) * channels + c holds one pixel of each block."""
    size, channels = call.attrs["block_size"], _image(call)[0]
    weight = np.zeros((size, size, channels, channels, size, size), np.float32)
    for row in range(size):
        for column in range(size):
            weight[row, column, :, :, row, column] = np.eye(channels)
    return call.emit(Convolution, call.blob(), weight=weight.reshape(-1, channels, size, size), stride=(size, size))


def _depth_to_space(call: Call) -> str:
    """The opposite of space_to_depth."""
    size = call.attrs["block_size"]
    channels = _image(call)[0] // size ** 2
    weight = np.zeros((size, size, channels, channels, size, size), np.float32)
    for row in range(size):
        for column in range(size):
            weight[row, column, :, :, row, column] = np.eye(channels)
    return call.emit(Deconvolution, call.blob(), weight=weight.reshape(-1, channels, size, size), stride=(size, size))


def _take(call: Call) -> str:
    """Elements at constant places of one axis."""
    axis, places = call.axis(call.get("axis", 0)), call.constant(1).astype(int)
    if places.ndim != 1:
        raise Unsupported(f"takes places of shape {places.shape} (supported: one axis)")
    return taken(call, call.blob(), _image(call), axis, np.clip(places, 0, call.in_shape()[axis] - 1).tolist())


def taken(call: Call, blob: str, shape: Tuple[int, ...], axis: int, places: Sequence[int], part: str = "") -> str:
    """Elements at some places of one axis: a few are cut out and joined, many are moved by a 1x1 convolution."""
    after = shape[:axis] + (len(places),) + shape[axis + 1:]
    prefix = part and part + "_"
    if len(places) <= FEW:
        one = shape[:axis] + (1,) + shape[axis + 1:]
        begin = [tuple(place if number == axis else 0 for number in range(len(shape))) for place in map(int, places)]
        parts = [call.emit(Crop, blob, one, f"{prefix}place_{number}", begin=low,
                           end=tuple(first + size for first, size in zip(low, one)))
                 for number, low in enumerate(begin)]
        return call.emit(Concat, parts, after, part, axis=axis) if len(parts) > 1 else parts[0]
    if len(shape) != 3:
        raise Unsupported(f"takes {len(places)} places of a tensor of shape {shape} (supported: of images)")
    matrix = np.zeros((len(places), shape[axis], 1, 1), np.float32)
    matrix[np.arange(len(places)), places] = 1
    if axis == 0:
        return call.emit(Convolution, blob, after, part, weight=matrix)
    order = (1, 0, 2) if axis == 1 else (2, 1, 0)  # its own opposite
    moved = tuple(shape[i] for i in order)
    blob = call.emit(Permute, blob, moved, prefix + "front", order=order)
    blob = call.emit(Convolution, blob, (len(places), *moved[1:]), prefix + "taken", weight=matrix)
    return call.emit(Permute, blob, after, part, order=order)


def _broadcast_to(call: Call) -> str:
    """Axes of length 1 grow."""
    before, after = call.in_shape(), call.shape
    if len(before) != len(after):
        raise Unsupported(f"spreads a tensor of shape {before} to {after} (supported: as many axes)")
    return stretched(call, call.blob(), before, after)


def _crop_like(call: Call) -> str:
    """The middle of an image, in the size of another; MXNet's old operator Crop."""
    if not call.get("center_crop", False):
        raise Unsupported("Crop without center_crop")
    begin = tuple((old - new) // 2 for old, new in zip(_image(call), call.shape))
    end = tuple(low + size for low, size in zip(begin, call.shape))
    return call.emit(Crop, call.blob(), begin=begin, end=end) if call.shape != call.in_shape() else call.blob()


OPERATORS: Dict[str, Callable[[Call], str]] = {
    "space_to_depth": _space_to_depth,
    "depth_to_space": _depth_to_space,
    "take": _take,
    "broadcast_to": _broadcast_to,
    "broadcast_like": _broadcast_to,
    "Crop": _crop_like,
}

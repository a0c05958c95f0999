# SPDX-License-Identifier: MIT
"""Pooling and resizing of planes."""

from typing import Optional, Tuple

import numpy as np

from deploy.ir import Convolution, Deconvolution, Permute, Pooling, Reshape, Resize
from deploy.lower.call import Call
from deploy.lower.draft import Unsupported


def _planes(call: Call):
    """(channels, height, width) of the input."""
    if len(call.in_shape()) != 3:
        raise Unsupported(f"operator {call.op} on a tensor of shape {call.in_shape()} (supported: images)")
    return call.in_shape()


def global_pooling(call: Call, kind: str, blob: str, shape: Optional[Tuple[int, ...]] = None, part: str = "") -> str:
    """The maximum or mean of each plane."""
    return call.emit(Pooling, blob, shape, part, kind=kind, global_=True)


def _mean_of_channels(call: Call) -> str:
    """A mean over neighbours along the first of three axes: a 1x1 convolution, of what is one image's channels."""
    before, kernel = call.in_shape(), call.attrs["kernel"]
    if before[0] != 1 or kernel[1:] != (1, 1) or set(call.get("stride", (1,))) != {1} or any(call.get("pad", (0,))) \
            or call.get("pool_type") != "avg":
        raise Unsupported(f"a pooling of a tensor of shape {before} (supported: images)")
    reach, count = kernel[0], call.shape[1]
    matrix = np.zeros((count, before[1], 1, 1), np.float32)
    for row in range(count):
        matrix[row, row:row + reach] = 1 / reach
    blob = call.emit(Reshape, call.blob(), before[1:], "image", shape=before[1:])
    blob = call.emit(Convolution, blob, (count, *before[2:]), "mean", weight=matrix)
    return call.emit(Reshape, blob, shape=call.shape)


def _pooling(call: Call) -> str:
    if len(call.get("kernel", ())) == 3:
        return _mean_of_channels(call)
    _planes(call)
    kind = call.only("pool_type", "max", "avg")
    call.only("layout", "NCHW")
    if call.get("global_pool", False):
        return global_pooling(call, kind, call.blob())
    kernel, stride = call.attrs["kernel"], call.get("stride", (1, 1))
    top, left = call.get("pad", (0, 0))
    convention = call.only("pooling_convention", "valid", "full")
    if (kernel, stride, top, left) == ((1, 1), (1, 1), 0, 0):
        return call.blob()
    return call.emit(Pooling, call.blob(), kind=kind, kernel=kernel, stride=stride, pads=(top, left, top, left),
                     ceil=convention == "full", count_padding=kind == "avg" and call.get("count_include_pad", True))


def _adaptive(call: Call) -> str:
    """Window i of n covers [floor(i * size / n), ceil((i + 1) * size / n))."""
    channels, height, width = _planes(call)
    size = call.shape[1:]
    if size == (1, 1):
        return global_pooling(call, "avg", call.blob())
    if height % size[0] == 0 and width % size[1] == 0:
        window = (height // size[0], width // size[1])
        return call.emit(Pooling, call.blob(), kind="avg", kernel=window, stride=window)
    # windows of different lengths: one matrix for the rows, one for the columns, each where the channels usually are
    blob = call.emit(Permute, call.blob(), (height, channels, width), "rows_first", order=(1, 0, 2))
    blob = _mean_rows(call, blob, (height, channels, width), size[0], "rows")
    shape = (width, channels, size[0])
    blob = call.emit(Permute, blob, shape, "columns_first", order=(2, 1, 0))
    blob = _mean_rows(call, blob, shape, size[1], "columns")
    return call.emit(Permute, blob, order=(1, 2, 0))


def _mean_rows(call, blob, shape, count, part):
    matrix = np.zeros((count, shape[0], 1, 1), np.float32)
    for i in range(count):
        begin, end = i * shape[0] // count, -(-(i + 1) * shape[0] // count)
        matrix[i, begin:end] = 1 / (end - begin)
    return call.emit(Convolution, blob, (count,) + shape[1:], part, weight=matrix)


def resize(call: Call, blob: str, mode: str, align_corners: bool = False) -> str:
    """`blob` in the size of the operator's output."""
    if _planes(call) == call.shape:
        return blob
    return call.emit(Resize, blob, size=call.shape[1:], mode=mode, align_corners=align_corners)


def _upsampling(call: Call) -> str:
    channels = _planes(call)[0]
    if call.only("sample_type", "nearest", "bilinear") == "nearest":
        if call.count != 1:
            raise Unsupported(f"UpSampling of {call.count} tensors at once")
        return resize(call, call.blob(), "nearest")
    scale, weight = call.attrs["scale"], call.constant(1)
    pad = scale // 2
    return call.emit(Deconvolution, call.blob(), weight=weight, stride=(scale, scale), pads=(pad,) * 4, groups=channels)


def _bilinear(call: Call) -> str:
    align_corners = bool(call.get("align_corners", True))
    if not align_corners:
        call.only("mode", "size")
    return resize(call, call.blob(), "bilinear", align_corners)


OPERATORS = {
    "Pooling": _pooling,
    "UpSampling": _upsampling,
    "_contrib_AdaptiveAvgPooling2D": _adaptive,
    "_contrib_BilinearResize2D": _bilinear,
}

# SPDX-License-Identifier: MIT
"""Sliding windows over planes: padding, and the views that convolution and pooling loop over."""

from typing import Any, Iterator, Sequence, Tuple

import numpy as np

from deploy.ir.shapes import output_size, padded_size


def pad(x: np.ndarray, pads: Tuple[int, int, int, int], value: Any = 0) -> np.ndarray:
    """`x` (n, c, h, w) with (top, left, bottom, right) rows and columns of `value`; `x` itself where there are none."""
    if not any(pads):
        return x
    top, left, bottom, right = pads
    y = np.full(x.shape[:2] + padded_size(x.shape, pads), value, x.dtype)
    y[:, :, top:top + x.shape[2], left:left + x.shape[3]] = x
    return y


def taps(x: np.ndarray, kernel: Sequence[int], stride: Tuple[int, int],
         dilation: Tuple[int, int] = (1, 1)) -> Iterator[Tuple[int, int, np.ndarray]]:
    """For each kernel element, row by row: (i, j, view (n, c, oh, ow) of the padded `x` that it meets)."""
    height, width = output_size(x.shape[2:], kernel, stride, dilation)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            top, left = i * dilation[0], j * dilation[1]
            yield i, j, x[:, :, top:top + (height - 1) * stride[0] + 1:stride[0],
                          left:left + (width - 1) * stride[1] + 1:stride[1]]


def columns(x: np.ndarray, kernel: Sequence[int], stride: Tuple[int, int],
            dilation: Tuple[int, int] = (1, 1)) -> np.ndarray:
    """Windows as columns of a matrix: (n, c * kh * kw, oh * ow) of the padded `x` (n, c, h, w)."""
    n, channels = x.shape[:2]
    # most multiplications of modern networks are 1x1: no copy is needed for them
    if tuple(kernel) == tuple(stride) == (1, 1):
        return x.reshape(n, channels, -1)
    height, width = output_size(x.shape[2:], kernel, stride, dilation)
    y = np.empty((n, channels) + tuple(kernel) + (height, width), x.dtype)
    for i, j, view in taps(x, kernel, stride, dilation):
        y[:, :, i, j] = view
    return y.reshape(n, -1, height * width)

# SPDX-License-Identifier: MIT
"""Slow references, written from the definitions with loops over output elements; images one at a time."""

import numpy as np


def padded(x, pads, value):
    top, left, bottom, right = pads
    return np.pad(x, ((0, 0), (top, bottom), (left, right)), constant_values=value)


def convolution(x, weight, node, value=0, dtype=np.float64):
    """Sums of products (outputs, oh, ow) of one image (c, h, w), in float64 or int64."""
    x, weight = padded(x.astype(dtype), node.pads, value), weight.astype(dtype)
    outputs, inputs, kh, kw = weight.shape
    (sh, sw), (dh, dw) = node.stride, node.dilation
    height, width = (x.shape[1] - dh * (kh - 1) - 1) // sh + 1, (x.shape[2] - dw * (kw - 1) - 1) // sw + 1
    y = np.zeros((outputs, height, width), dtype)
    for o in range(outputs):
        first = o // (outputs // node.groups) * inputs
        for i in range(height):
            for j in range(width):
                window = x[first:first + inputs, i * sh:i * sh + dh * kh:dh, j * sw:j * sw + dw * kw:dw]
                y[o, i, j] = (window[:, :kh, :kw] * weight[o]).sum()
    return y


def deconvolution(x, weight, node):
    """The adjoint of a convolution, scattered element by element: (outputs, oh, ow) of one image, float64."""
    channels, height, width = x.shape
    outputs, (kh, kw) = weight.shape[1], weight.shape[2:]
    (sh, sw), (dh, dw), (ph, pw) = node.stride, node.dilation, node.output_pads
    top, left, bottom, right = node.pads
    y = np.zeros((outputs * node.groups, (height - 1) * sh + dh * (kh - 1) + 1 + ph,
                  (width - 1) * sw + dw * (kw - 1) + 1 + pw))
    for c in range(channels):
        first = c // (channels // node.groups) * outputs
        for i in range(height):
            for j in range(width):
                for a in range(kh):
                    for b in range(kw):
                        y[first:first + outputs, i * sh + a * dh, j * sw + b * dw] += x[c, i, j] * weight[c, :, a, b]
    return y[:, top:y.shape[1] - bottom, left:y.shape[2] - right]


def pooling(x, node):
    """Of one image (c, h, w), float64; the window is cut off at the edges of what it may see."""
    (kh, kw), (sh, sw), (top, left, bottom, right) = node.kernel, node.stride, node.pads
    channels, height, width = x.shape
    up = np.ceil if node.ceil else np.floor
    rows = int(up((height + top + bottom - kh) / sh)) + 1
    columns = int(up((width + left + right - kw) / sw)) + 1
    y = np.zeros((channels, rows, columns))
    for i in range(rows):
        for j in range(columns):
            a, b = i * sh - top, j * sw - left
            window = x[:, max(a, 0):a + kh, max(b, 0):b + kw].astype(np.float64)
            if node.kind == "max":
                y[:, i, j] = window.max(axis=(1, 2))
            else:
                counted = window.shape[1] * window.shape[2]
                if node.count_padding:
                    counted = (min(a + kh, height + bottom) - a) * (min(b + kw, width + right) - b)
                y[:, i, j] = window.sum(axis=(1, 2)) / counted
    return y

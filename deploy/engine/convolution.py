# SPDX-License-Identifier: MIT
"""Layers with weights: sums of products, in float32 or exactly in integers."""

import numpy as np

from deploy.arithmetic import per_channel
from deploy.engine import windows
from deploy.engine.activation import activate
from deploy.engine.operations import operation
from deploy.ir import Convolution, Deconvolution, InnerProduct
from deploy.ir.shapes import output_size

BLOCK = 1 << 15  # elements of a depthwise convolution that are worked on at a time


def convolve(x: np.ndarray, weight: np.ndarray, node: Convolution) -> np.ndarray:
    """Sums of products (n, outputs, oh, ow) of padded `x` (n, c, h, w) with `weight`, in their common dtype."""
    if node.depthwise:
        return _depthwise(x, weight, node)
    n, outputs = x.shape[0], weight.shape[0]
    kernel = weight.shape[2:]
    # one matrix product for all windows: BLAS is what makes NumPy fast enough to judge whole networks
    columns = windows.columns(x, kernel, node.stride, node.dilation)
    if node.groups > 1:
        columns = columns.reshape(n, node.groups, -1, columns.shape[-1])
        weight = weight.reshape(node.groups, outputs // node.groups, -1)
    else:
        weight = weight.reshape(outputs, -1)
    size = output_size(x.shape[2:], kernel, node.stride, node.dilation)
    return np.matmul(weight, columns).reshape((n, outputs) + size)


def _depthwise(x, weight, node):
    """Plane by plane, a few at a time: sums and products stay in the cache."""
    n, channels = x.shape[:2]
    kernel = weight.shape[2:]
    planes, factors = x.reshape((n * channels, 1) + x.shape[2:]), np.tile(weight[:, 0], (n, 1, 1))[:, :, :, None, None]
    size = output_size(x.shape[2:], kernel, node.stride, node.dilation)
    total = np.zeros((n * channels, 1) + size, x.dtype)
    step = max(1, BLOCK // (size[0] * size[1]))
    for start in range(0, len(planes), step):
        block = slice(start, start + step)
        # one buffer for all taps: fresh memory for each would cost more in page faults than the products
        product = np.empty_like(total[block])
        for i, j, view in windows.taps(planes[block], kernel, node.stride, node.dilation):
            total[block] += np.multiply(view, factors[block, i, j, None], out=product)
    return total.reshape((n, channels) + size)


def matrix_product(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(n, outputs) of `x` (n, inputs), image by image, so that a result does not depend on the batch it is in."""
    # a product of the whole batch would add in another order for another batch size
    return np.matmul(weight, x.reshape(x.shape + (1,)))[:, :, 0]


def _finish(y, node, arithmetic):
    if node.bias is not None:
        y = y + per_channel(node.bias, y.ndim)
    return activate(y, node.activation, arithmetic, node)


@operation(Convolution)
def _convolution(node, inputs, arithmetic):
    x = windows.pad(inputs[0], node.pads, np.float32(node.pad_value))
    return _finish(convolve(x, node.weight, node), node, arithmetic)


@operation(InnerProduct)
def _inner_product(node, inputs, arithmetic):
    x = inputs[0]
    return _finish(matrix_product(x.reshape(len(x), -1), node.weight), node, arithmetic)


@operation(Deconvolution)
def _deconvolution(node, inputs, arithmetic):
    """Each input element adds its multiple of the kernel to the output; then the pads are cut off."""
    x = inputs[0]
    n, channels, height, width = x.shape
    outputs, kernel = node.weight.shape[1], node.weight.shape[2:]
    weight = node.weight.reshape(node.groups, channels // node.groups, -1).transpose(0, 2, 1)
    products = np.matmul(weight, x.reshape(n, node.groups, channels // node.groups, -1))
    products = products.reshape((n, node.groups * outputs) + kernel + (height, width))
    top, left, bottom, right = node.pads
    full = [(size - 1) * step + gap * (length - 1) + 1 + extra for size, step, gap, length, extra
            in zip((height, width), node.stride, node.dilation, kernel, node.output_pads)]
    y = np.zeros((n, node.groups * outputs, full[0], full[1]), np.float32)
    # the taps of the output are the places that one input element reaches: the convolution's views, written to
    for i, j, view in windows.taps(y, kernel, node.stride, node.dilation):
        view[:, :, :height, :width] += products[:, :, i, j]
    return _finish(y[:, :, top:full[0] - bottom, left:full[1] - right], node, arithmetic)

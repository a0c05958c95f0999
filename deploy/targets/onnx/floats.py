# SPDX-License-Identifier: MIT
"""What ONNX Runtime computes of a file without its optimizations: float32 all the way, in its order of additions.

A convolution there multiplies dequantized numbers, and float32 rounds each sum on the way: where the exact result lies
next to the middle between two codes, the code may be the other one. That order is known (MLAS on x86 with FMA, one
thread; measured, onnxruntime 1.31.1), so that every code can be foreseen:

* matrix products: blocks of 128 to 1024 products, one fused multiply-add after the other in each; blocks are added
* one output channel in a group (depthwise): four products rounded one by one and added in order, then to the sum
* averages over planes: four running sums, combined crosswise; over windows: columns first, then across
"""

from dataclasses import replace
from typing import Any, Tuple, cast

import numpy as np

from deploy.arithmetic import per_channel
from deploy.engine import windows
from deploy.engine.activation import activate
from deploy.engine.operations import OPERATIONS
from deploy.engine.pooling import cover, window_areas
from deploy.ir import Convolution, InnerProduct, Model, Pooling, integers
from deploy.ir.shapes import output_size
from deploy.targets.onnx.arithmetic import OrtArithmetic, bias_codes, sum_scale

STRIDE_N, STRIDE_K, NARROWEST = 128, 128, 16
TILE = 1 << 15  # elements that are worked on at a time, so that they stay in the cache


def dequantized(model: Model) -> Model:
    """The model with what its layers multiply in float32: the real values of codes of weights and biases."""
    return replace(model, nodes=tuple(_in_float(node) if integers(node) else node for node in model.nodes))


def _in_float(node: Any) -> Any:
    quantization = node.quantization
    shape = (-1,) + (1,) * (node.weight.ndim - 1)
    weight = quantization.weight_q.astype(np.float32) * quantization.weight_scale.reshape(shape)
    bias = None if node.bias is None else bias_codes(node).astype(np.float32) * sum_scale(node)
    return replace(node, quantization=None, weight=weight, bias=bias)


def block_length(columns: int, products: int) -> int:
    """How many products of a matrix product with so many columns are added before they join the sum."""
    narrow, length = STRIDE_N, STRIDE_K
    while columns < products and narrow > NARROWEST and narrow // 2 >= columns:
        narrow, length = narrow // 2, length * 2
    return length


def products(weight: np.ndarray, values: np.ndarray, length: int) -> np.ndarray:
    """(rows, columns) float32 of (rows, k) times (k, columns), in blocks of `length`, each with fused multiply-adds.

    Rounded to 53 bits before it is rounded to 24, a sum is now and then, one time in 2^29, not the one rounded at once.
    """
    result = np.empty((len(weight), values.shape[1]), np.float32)
    step = max(1, TILE // len(weight))
    wide = weight.astype(np.float64)
    for first in range(0, values.shape[1], step):
        part = values[:, first:first + step].astype(np.float64)
        result[:, first:first + step] = _tile(wide, part, length)
    return result


def _tile(weight, values, length):
    total: Any = None
    product = np.empty((len(weight), values.shape[1]))
    for start in range(0, len(values), length):
        sums = np.zeros(product.shape, np.float32)
        for index in range(start, min(start + length, len(values))):
            np.multiply(weight[:, index, None], values[index], out=product)
            product += sums
            sums[...] = product
        total = sums if total is None else total + sums
    return total


def _single_rows(weight: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(groups, columns) of (groups, k) and (groups, k, columns): four products at a time, without fusing."""
    found = [weight[:, index, None] * values[:, index] for index in range(weight.shape[1])]
    whole = len(found) // 4 * 4
    total = None
    for index in range(0, whole, 4):
        four = ((found[index] + found[index + 1]) + found[index + 2]) + found[index + 3]
        total = four if total is None else total + four
    for product in found[whole:]:
        total = product if total is None else total + product
    return cast(np.ndarray, total)


def _convolution(node, inputs, arithmetic):
    x = windows.pad(inputs[0], node.pads, np.float32(node.pad_value))
    kernel = node.weight.shape[2:]
    size = output_size(x.shape[2:], kernel, node.stride, node.dilation)
    weight = node.weight.reshape(node.groups, len(node.weight) // node.groups, -1)
    found = np.empty((len(x), node.groups) + weight.shape[1:2] + (size[0] * size[1],), np.float32)
    for image, result in zip(x, found):
        columns = windows.columns(image[None], kernel, node.stride, node.dilation)[0]
        columns = columns.reshape(node.groups, -1, columns.shape[-1])
        if weight.shape[1] == 1:
            result[:, 0] = _single_rows(weight[:, 0], columns)
            continue
        for group in range(node.groups):
            result[group] = products(weight[group], columns[group],
                                     block_length(columns.shape[2], columns.shape[1]))
    y = found.reshape((len(x), len(node.weight)) + size)
    y = y if node.bias is None else y + per_channel(node.bias, 4)
    return activate(y, node.activation, arithmetic, node)


def _inner_product(node, inputs, arithmetic):
    x = inputs[0].reshape(len(inputs[0]), -1)
    length = block_length(len(node.weight), x.shape[1])
    y = np.zeros((len(x), len(node.weight)), np.float32) if node.bias is None else np.tile(node.bias, (len(x), 1))
    for start in range(0, x.shape[1], length):  # the bias comes first
        part = slice(start, start + length)
        y = y + products(np.ascontiguousarray(node.weight[:, part]), np.ascontiguousarray(x[:, part].T), length).T
    return activate(y, node.activation, arithmetic, node)


def _in_order(parts) -> np.ndarray:
    total = None
    for part in parts:
        total = part if total is None else total + part
    return cast(np.ndarray, total)


def plane_sums(x: np.ndarray) -> np.ndarray:
    """Sums (n, c) of planes (n, c, h, w): four running sums, combined crosswise, then the rest one by one."""
    flat = x.reshape(x.shape[:2] + (-1,))
    whole = flat.shape[2] // 4 * 4
    rest = [flat[:, :, index] for index in range(whole, flat.shape[2])]
    if not whole:
        return _in_order(rest)
    lanes = _in_order(flat[:, :, start:start + 4] for start in range(0, whole, 4))
    return _in_order([(lanes[..., 0] + lanes[..., 2]) + (lanes[..., 1] + lanes[..., 3]), *rest])


def _pooling(node, inputs, arithmetic):
    x = inputs[0]
    if node.kind != "avg":
        return OPERATIONS[Pooling](node, inputs, arithmetic)
    if node.global_:
        return (plane_sums(x) / np.float32(x.shape[2] * x.shape[3])).reshape(x.shape[:2] + (1, 1))
    taps = {(i, j): view for i, j, view in windows.taps(cover(x, node.pads, node, 0), node.kernel, node.stride)}
    rows, columns = node.kernel
    sums = _in_order(_in_order(taps[i, j] for i in range(rows)) for j in range(columns))
    return sums / window_areas(node, x.shape)


class FloatSums(OrtArithmetic):
    """For models that are `dequantized`; see the module."""

    name = "onnxruntime, float sums"

    def bound(self, model: Model) -> "OrtArithmetic":
        """The same for every model."""
        return self

    operations = {Convolution: _convolution, InnerProduct: _inner_product, Pooling: _pooling}


__all__: Tuple[str, ...] = ("FloatSums", "block_length", "dequantized", "plane_sums", "products")

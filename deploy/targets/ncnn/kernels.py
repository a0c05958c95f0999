# SPDX-License-Identifier: MIT
"""Where ncnn's x86 kernels (packing layout off) round otherwise than the textbook: float operations, and codes.

**Float operations** whose last bits differ from NumPy's. Adding and multiplying blobs, maxima, ReLU, clip, PReLU and
averages that leave the padding out are the same in both. Not reproduced: sigmoid, tanh, swish, exp and softmax
(polynomials of ncnn's own), division by a blob (an approximate reciprocal, made better), convolutions in float.

**Codes** differ by which elements of a blob are rounded by SIMD instructions, and which one by one, for one number
only: the float32 below 0.5 (0.49999997) becomes 1 in SIMD, since adding 0.5 rounds it up to 1, and 0 in C's round. A
kernel goes over one channel's plane at a time (over a vector as a whole): the last one to three elements that fill no
group of four are rounded one by one, and so is everything that a depthwise convolution rounds itself. Measured, wheel
1.0.20261020.
"""

from typing import Dict

import numpy as np

from deploy.engine import operations
from deploy.engine.elementwise import BINARY
from deploy.engine.pooling import window_areas, window_sums
from deploy.ir import (
    Affine,
    BatchNorm,
    Convolution,
    InnerProduct,
    Model,
    Pooling,
    Reshape,
    ScalarOp,
    consumers,
    producers,
    quantized,
)
from deploy.targets.ncnn.fma import fma

PACKED = 8  # channels of a depthwise convolution that may hand on codes are a multiple of it; see `network`


def _batch_norm(node, inputs, arithmetic):
    deviation = np.sqrt(node.variance + np.float32(node.epsilon))
    shift = node.beta - node.gamma * node.mean / deviation
    return fma(inputs[0], node.gamma / deviation, shift)


def _affine(node, inputs, arithmetic):
    if node.shift is None:
        return operations.OPERATIONS[Affine](node, inputs, arithmetic)
    return fma(inputs[0], node.scale, node.shift)


def _scalar(node, inputs, arithmetic):
    number = np.float32(node.scalar)
    if node.op == "div":
        return inputs[0] * (np.float32(1) / number)  # as the writer writes it
    return BINARY[node.op](inputs[0], number)


def _pooling(node, inputs, arithmetic):
    """Averages over a number of elements that the compiler knows to be fixed are multiplied by its reciprocal.

    The writer asks for counted padding only where there is padding, and without `ceil`.
    """
    x = inputs[0]
    if node.kind == "avg" and node.global_:
        return _plane_sums(x) * (np.float32(1) / np.float32(x.shape[2] * x.shape[3]))
    if node.kind == "avg" and node.count_padding and any(node.pads) and not node.ceil:
        return window_sums(x, node) * (np.float32(1) / window_areas(node, x.shape))
    return operations.OPERATIONS[Pooling](node, inputs, arithmetic)


def _plane_sums(x):
    """Sums (n, c, 1, 1) of planes in the order of the compiled loop: four running sums, then the rest one by one."""
    flat = x.reshape(x.shape[:2] + (-1,))
    whole = flat.shape[2] // 4 * 4
    lanes = np.zeros(x.shape[:2] + (4,), np.float32)
    for start in range(0, whole, 4):
        lanes += flat[:, :, start:start + 4]
    total = (lanes[:, :, 0] + lanes[:, :, 2]) + (lanes[:, :, 1] + lanes[:, :, 3])
    for i in range(whole, flat.shape[2]):
        total = total + flat[:, :, i]
    return total.reshape(total.shape + (1, 1))


def _hard_sigmoid(x, alpha, beta):
    return np.clip(fma(x, alpha, beta), np.float32(0), np.float32(1))


def _hard_swish(x, alpha, beta):
    return x * _hard_sigmoid(x, alpha, beta)


OPERATIONS = {BatchNorm: _batch_norm, Affine: _affine, ScalarOp: _scalar, Pooling: _pooling}
FUNCTIONS = {"hard_sigmoid": _hard_sigmoid, "hard_swish": _hard_swish}


# ---- codes


def runs(model: Model) -> Dict[str, int]:
    """Node that computes in integers -> elements of its input that are rounded in one run; 1: one by one."""
    readers, writers = consumers(model), producers(model)
    return {node.name: _run(model, node.inputs[0], writers.get(node.inputs[0]), readers[node.inputs[0]])
            for node in quantized(model)}


def _run(model, blob, writer, readers):
    shape = model.shapes[blob]
    if _integer(writer) and writer.depthwise and writer.groups % PACKED == 0 and all(
            _integer(reader) for reader in readers):
        return 1
    flat = isinstance(writer, Pooling) and writer.global_ and all(
        reader is None or isinstance(reader, (InnerProduct, Reshape)) for reader in readers)
    return int(np.prod(shape if flat else shape[1:] or shape))


def _integer(node) -> bool:
    """Whether a node can hand on, and take, codes: a quantized convolution."""
    return isinstance(node, Convolution) and node.quantization is not None

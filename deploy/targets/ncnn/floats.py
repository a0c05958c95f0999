# SPDX-License-Identifier: MIT
"""Float operations whose last bits differ in ncnn's x86 engine (packing layout off) from NumPy's.

Adding and multiplying blobs, maxima, ReLU, clip, PReLU and averages that leave the padding out are the same in both.
Not reproduced: sigmoid, tanh, swish, exp and softmax (polynomials of ncnn's own), division by a blob (an approximate
reciprocal, made better), convolutions in float.
"""

import numpy as np

from deploy.engine import operations
from deploy.engine.elementwise import BINARY
from deploy.engine.pooling import window_areas, window_sums
from deploy.ir import Affine, BatchNorm, Pooling, ScalarOp
from deploy.targets.ncnn.fma import fma


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
        return inputs[0] * (np.float32(1) / number)
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

# SPDX-License-Identifier: MIT
"""Operations on single elements: per channel affine maps, sums and products of blobs, numbers."""

from functools import reduce
from typing import Callable, Dict, List, Sequence

import numpy as np

from deploy.arithmetic import per_channel, real
from deploy.engine.operations import operation
from deploy.ir import Affine, BatchNorm, Constant, Elementwise, Rounding, ScalarOp
from deploy.ir.broadcast import aligned

BINARY: Dict[str, Callable] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "pow": np.power,
    "rsub": lambda x, y: y - x,
    "rdiv": lambda x, y: y / x,
}


@operation(BatchNorm)
def _batch_norm(node, inputs, arithmetic):
    x = inputs[0]
    # in float32 throughout: a float64 intermediate would round otherwise than any engine
    factor = node.gamma / np.sqrt(node.variance + np.float32(node.epsilon))
    return (x - per_channel(node.mean, x.ndim)) * per_channel(factor, x.ndim) + per_channel(node.beta, x.ndim)


@operation(Affine)
def _affine(node, inputs, arithmetic):
    x = inputs[0]
    y = x * per_channel(node.scale, x.ndim)
    return y if node.shift is None else y + per_channel(node.shift, x.ndim)


@operation(Constant)
def _constant(node, inputs, arithmetic):
    return np.broadcast_to(node.value, inputs[0].shape[:1] + node.value.shape)


def align(blobs: Sequence[np.ndarray]) -> List[np.ndarray]:
    """The blobs with axes of length 1 after the batch axis, so that they broadcast as without it."""
    rank = max(blob.ndim for blob in blobs) - 1
    return [blob.reshape(blob.shape[:1] + aligned(blob.shape[1:], rank)) for blob in blobs]


@operation(Elementwise)
def _elementwise(node, inputs, arithmetic):
    return reduce(BINARY[node.op], align(inputs))


@operation(ScalarOp)
def _scalar(node, inputs, arithmetic):
    return BINARY[node.op](inputs[0], np.float32(node.scalar))


@operation(Rounding)
def _rounding(node, inputs, arithmetic):
    return real(arithmetic.quantize(inputs[0], node.grid), node.grid)

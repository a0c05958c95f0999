# SPDX-License-Identifier: MIT
"""Quantized layers: exact integer sums of products, computed by BLAS on floats that hold them."""

from typing import Any, Tuple

import numpy as np

from deploy.arithmetic import Arithmetic
from deploy.engine import windows
from deploy.engine.convolution import convolve, matrix_product
from deploy.ir import Convolution, QuantizedNode
from quantize.errors import DeployError

INT32_MAX = 2 ** 31 - 1


def layer(node: QuantizedNode, x: np.ndarray, arithmetic: Arithmetic) -> Tuple[np.ndarray, np.ndarray]:
    """Codes of the input, and the integer sums of a quantized layer.

    Parameters
    ----------
    node : Convolution or InnerProduct
    x : array of float32, (n, ...)

    Returns
    -------
    codes : array of int32, shape of x
        With the zero point.
    sums : array of float32 or float64, (n, outputs, ...)
        Whole numbers, sum (code - zero_point) * weight_q.
    """
    grid = node.quantization.input
    codes = arithmetic.quantize(x, grid)
    dtype: Any = exact_dtype(node)
    # floats that hold whole numbers: BLAS knows no integers, and nothing is rounded below 2**24 or 2**53
    values = codes.astype(dtype)
    if grid.zero_point:
        values -= dtype(grid.zero_point)
    weight = node.quantization.weight_q.astype(dtype)
    if not isinstance(node, Convolution):
        return codes, matrix_product(values.reshape(len(values), -1), weight)
    # engines pad the codes, so that the border is rounded like everything else
    filler = arithmetic.quantize(np.array([node.pad_value], np.float32), grid)[0] - grid.zero_point
    return codes, convolve(windows.pad(values, node.pads, dtype(filler)), weight, node)


def bound(node: QuantizedNode) -> int:
    """No sum of the layer can be larger in magnitude, whatever its input."""
    grid = node.quantization.input
    largest = max(abs(grid.qmin - grid.zero_point), abs(grid.qmax - grid.zero_point))
    weight = np.abs(node.quantization.weight_q.astype(np.int64))
    return int(weight.reshape(len(weight), -1).sum(axis=1).max(initial=0)) * largest


def exact_dtype(node: QuantizedNode) -> type:
    """float32 where every partial sum fits into its 24 bits, else float64 (53 bits)."""
    limit = bound(node)
    if limit >= 2 ** 53:
        raise DeployError(f"{node.path or node.name}: its sums can reach {limit:.2g}, more than can be computed "
                          "exactly")
    # a bound for all inputs and not a look at this one: the type, and so the speed, is the layer's
    return np.float32 if limit <= 2 ** 24 else np.float64


def largest(sums: np.ndarray, node: QuantizedNode) -> int:
    """Largest magnitude among the sums; DeployError where int32 would overflow."""
    value = int(max(sums.max(initial=0), -sums.min(initial=0)))
    if value > INT32_MAX:
        raise DeployError(f"{node.path or node.name}: a sum of products reaches {value}, but int32 ends at "
                          f"{INT32_MAX}. Use fewer bits for its weights or its input")
    return value

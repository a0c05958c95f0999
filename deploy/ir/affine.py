# SPDX-License-Identifier: MIT
"""Nodes that compute g * x + h with numbers of their own."""

from typing import Any, Tuple

import numpy as np

from deploy.ir.model import Affine, ScalarOp

# op -> (factor, shift) of a number on the right; on the left for rsub
NUMBERS = {"add": lambda c: (1.0, c), "sub": lambda c: (1.0, -c), "rsub": lambda c: (-1.0, c),
           "mul": lambda c: (c, 0.0), "div": lambda c: (1 / c, 0.0)}


def factor_and_shift(node: Any) -> Tuple[Any, Any]:
    """g and h of g * x + h, float64, for each channel or for all."""
    if isinstance(node, ScalarOp):
        return NUMBERS[node.op](np.float64(node.scalar))
    if isinstance(node, Affine):
        factor = node.scale.astype(np.float64)
        return factor, np.zeros_like(factor) if node.shift is None else node.shift.astype(np.float64)
    gamma, beta, mean, variance = (array.astype(np.float64) for array in (
        node.gamma, node.beta, node.mean, node.variance))
    factor = gamma / np.sqrt(variance + node.epsilon)
    return factor, beta - mean * factor

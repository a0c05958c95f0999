# SPDX-License-Identifier: MIT
"""Nodes that compute g * x + h with numbers of their own."""

from typing import Any, Callable, Collection, List, Optional, Sequence, Tuple

import numpy as np

from deploy.ir.model import Affine, Node, ScalarOp

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


def steps_before(blob: str, inputs: Collection[str], writer: Callable[[str], Optional[Node]],
                 alone: Callable[[str], bool]) -> List[Any]:
    """What computes a blob from one of the network's inputs, in order; nothing where more than g * x + h does.

    Parameters
    ----------
    writer : function
        The node that writes a blob.
    alone : function
        Whether a blob has one reader, and is no output.
    """
    steps: List[Any] = []
    while blob not in inputs:
        step = writer(blob)
        if step is None or not _is_step(step) or not alone(blob):
            return []
        steps.insert(0, step)
        blob = step.inputs[0]
    return steps


def _is_step(node: Node) -> bool:
    if isinstance(node, ScalarOp):
        return node.op in NUMBERS and not (node.op == "div" and node.scalar == 0)
    return isinstance(node, Affine)  # a BatchNorm was trained as a layer, and is shown as one


def composed(steps: Sequence[Any], channels: int) -> Tuple[np.ndarray, np.ndarray]:
    """g and h, float64, of steps behind each other, for each channel."""
    factor, shift = np.ones(channels), np.zeros(channels)
    for step in steps:
        times, plus = factor_and_shift(step)
        factor, shift = factor * times, shift * times + plus
    return factor, shift

# SPDX-License-Identifier: MIT
"""Operations that sum or compare along axes."""

from typing import Callable, Dict

import numpy as np

from deploy.engine.operations import operation
from deploy.ir import Reduce, Softmax

REDUCTIONS: Dict[str, Callable] = {"mean": np.mean, "sum": np.sum, "max": np.max, "min": np.min}


@operation(Reduce)
def _reduce(node, inputs, arithmetic):
    axes = tuple(axis + 1 for axis in node.axes)
    return REDUCTIONS[node.op](inputs[0], axis=axes, keepdims=node.keepdims)


@operation(Softmax)
def _softmax(node, inputs, arithmetic):
    axis = node.axis + 1
    e = np.exp(inputs[0] - inputs[0].max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)

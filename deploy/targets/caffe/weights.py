# SPDX-License-Identifier: MIT
"""Weights that ncnn2int8 turns into the codes that were simulated."""

import numpy as np

from deploy.ir import QuantizedNode
from deploy.targets.ncnn.arithmetic import NcnnArithmetic, multiplier

LIMIT = 127  # ncnn2int8's, whatever the table was made with


def that_becomes_codes(node: QuantizedNode) -> np.ndarray:
    """The float weight of a quantized layer, with those elements replaced that ncnn2int8 would code otherwise.

    ncnn2int8 computes round(weight * multiplier) and limits it to 127. Codes come out differently where a narrower
    grid clips (31 levels), or a method does not round the weight itself (DoReFa, SAT). There the code's real value
    is written, which every rounding turns back into the code.
    """
    quantization = node.quantization
    steps = quantization.weight_scale
    coded = NcnnArithmetic().quantize_weight(node.weight, steps, LIMIT)
    shape = (-1,) + (1,) * (node.weight.ndim - 1)
    real = quantization.weight_q.astype(np.float32) / multiplier(steps).reshape(shape)
    return np.where(coded == quantization.weight_q, node.weight, real)

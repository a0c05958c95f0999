# SPDX-License-Identifier: MIT
"""Which elements of a blob ncnn's x86 kernels round by SIMD instructions, and which one by one.

The two differ for one number only: the float32 below 0.5 (0.49999997) becomes 1 in SIMD, since adding 0.5 rounds it up
to 1, and 0 in C's round. A kernel goes over one channel's plane at a time (over a vector as a whole): the last one to
three elements that fill no group of four are rounded one by one, and so is everything that a depthwise convolution
rounds itself. Measured, wheel 1.0.20261020, packing off.
"""

from typing import Dict

import numpy as np

from deploy.ir import Convolution, InnerProduct, Model, Pooling, Reshape, consumers, producers, quantized


def runs(model: Model) -> Dict[str, int]:
    """Node that computes in integers -> elements of its input that are rounded in one run; 1: one by one."""
    readers, writers = consumers(model), producers(model)
    return {node.name: _run(model, node.inputs[0], writers.get(node.inputs[0]), readers[node.inputs[0]])
            for node in quantized(model)}


def _run(model, blob, writer, readers):
    shape = model.shapes[blob]
    if _integer(writer) and writer.depthwise and all(_integer(reader) for reader in readers):
        return 1
    flat = isinstance(writer, Pooling) and writer.global_ and all(
        reader is None or isinstance(reader, (InnerProduct, Reshape)) for reader in readers)
    return int(np.prod(shape if flat else shape[1:] or shape))


def _integer(node) -> bool:
    """Whether a node can hand on, and take, codes: a quantized convolution."""
    return isinstance(node, Convolution) and node.quantization is not None

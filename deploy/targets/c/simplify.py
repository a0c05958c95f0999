# SPDX-License-Identifier: MIT
"""Nodes that say the same as others: numbers on the right of an operation, blobs cut into several."""

from dataclasses import replace
from typing import Iterator, List, Optional

import numpy as np

from deploy.ir import Activation, Affine, Crop, Deconvolution, Function, Model, Node, ScalarOp, Slice
from deploy.ir.transposed import convolved

LARGEST = float(np.finfo(np.float32).max)
FACTORS = {"add": lambda s: (1.0, s), "sub": lambda s: (1.0, -s), "rsub": lambda s: (-1.0, s),
           "mul": lambda s: (s, 0.0), "div": lambda s: (1 / s, 0.0)}
ENDS = {"min": lambda s: (-LARGEST, s), "max": lambda s: (s, LARGEST)}


def simplified(model: Model) -> Model:
    """The model with an `Affine` or a clip for each number that an operation has, a `Crop` for each part of a Slice.

    Transposed convolutions that compute in float are `Spread` and `Convolution`, as those in integers are.
    """
    nodes: List[Node] = []
    shapes = dict(model.shapes)
    for node in model.nodes:
        if isinstance(node, Slice):
            nodes += _parts(node, model)
        elif isinstance(node, Deconvolution):
            found, between = convolved(node, model)
            nodes += found
            shapes.update(between)
        else:
            nodes.append(_of_number(node, model) or node if isinstance(node, ScalarOp) else node)
    return replace(model, nodes=tuple(nodes), shapes=shapes)


def _of_number(node: ScalarOp, model: Model) -> Optional[Node]:
    common = (node.name, node.inputs, node.outputs, node.path)
    scalar = float(np.float32(node.scalar))
    if node.op in ENDS:
        return Activation(*common, function=Function("clip", ENDS[node.op](scalar)))
    if node.op not in FACTORS or node.op == "div" and scalar == 0:
        return None
    channels = model.shapes[node.inputs[0]][0]
    factor, shift = FACTORS[node.op](scalar)
    return Affine(*common, scale=np.full(channels, factor, np.float32), shift=np.full(channels, shift, np.float32))


def _parts(node: Slice, model: Model) -> Iterator[Node]:
    shape = model.shapes[node.inputs[0]]
    start = 0
    for number, (blob, size) in enumerate(zip(node.outputs, node.sizes)):
        begin, end = [0] * len(shape), list(shape)
        begin[node.axis], end[node.axis] = start, start + size
        start += size
        yield Crop(f"{node.name}:{number}", node.inputs, (blob,), node.path, begin=tuple(begin), end=tuple(end))

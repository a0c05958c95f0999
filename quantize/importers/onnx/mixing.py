# SPDX-License-Identifier: MIT
"""Files traced with a fixed batch whose networks compute one image's values from another's once the batch is opened.

A file for one image may take its first axis off, turn it around or take a softmax along it: for one image that is what
it says. The importer opens the batch, and then such an operator would mix images without a word. Where shapes make that
possible, the network is run on random images, in batches as the file fixes them and in one of two of those.
"""

from __future__ import annotations

import mxnet as mx
import numpy as np
import onnx

from quantize.errors import QuantizeError
from quantize.importers.graph_block import GraphBlock
from quantize.importers.onnx.evaluate import attribute
from quantize.importers.onnx.graph import Graph
from quantize.importers.onnx.reshapes import BATCH
from quantize.importers.onnx.sizes import is_open

FAULTS = (QuantizeError, mx.MXNetError, ValueError)
TOLERANCE = 1e-3  # of the largest value: float sums in another order are far below it, other images far above
#: Operators whose outputs keep the input's axes, of which the batch may be one that they work along, and their axis.
ALONG = {"Softmax": -1, "LogSoftmax": -1, "LpNormalization": -1, "LayerNormalization": -1}


def may_mix(graph: Graph, proto: onnx.NodeProto) -> bool:
    """Whether shapes and attributes allow that a node computes one image's values from another's."""
    if graph.fixed is None or graph.others or not proto.input:
        return False
    before = graph.facts.shape(proto.input[0])
    if before is None or not _of_batch(before):
        return False
    after = [graph.facts.shape(name) for name in proto.output if name in graph.uses]
    if any(shape is None or tuple(shape[:1]) != (BATCH,) for shape in after):
        return True
    beside = [graph.facts.shape(name) for name in proto.input[1:] if name]
    if any(shape is not None and len(shape) != len(before) and _of_batch(shape) for shape in beside):
        return True  # aligned from the right, the batch meets another axis
    return _along_batch(graph, proto, len(before))


def _along_batch(graph, proto, rank) -> bool:
    if proto.op_type == "MeanVarianceNormalization":
        return 0 in attribute(proto, "axes", [0, 2, 3])
    if proto.op_type == "Slice":
        axes = graph.facts.value(proto.input[3]) if len(proto.input) > 3 else attribute(proto, "axes")
        return axes is None or not {0, -rank}.isdisjoint(np.ravel(axes).tolist())
    return proto.op_type in ALONG and attribute(proto, "axis", ALONG[proto.op_type]) in (0, -rank)


def _of_batch(shape) -> bool:
    return any(is_open(length) and BATCH.symbols[0] in length.symbols for length in shape)


def mixes(net: GraphBlock, graph: Graph) -> bool:
    """Whether two batches of random images at once give other outputs than each by itself."""
    shape = [length for length in net.input_shape or () if length]
    if not net.input_shape or len(shape) < len(net.input_shape):
        return False
    low, high = (-1, 1) if graph.input_kind == onnx.TensorProto.FLOAT else (0, 127)
    images = np.random.RandomState(0).uniform(low, high, (2 * shape[0], *shape[1:]))
    try:
        apart = [_outputs(net, part) for part in np.split(images, 2)]
    except FAULTS:
        return False  # it says what is wrong with its own batch when that comes
    try:
        together = _outputs(net, images)
    except FAULTS:
        return True
    return not all(_same(one, np.concatenate(parts) if parts[0].ndim else parts[0])
                   for one, parts in zip(together, map(list, zip(*apart))))


def _outputs(net, images):
    found = net(mx.nd.array(images.astype("float32")))
    return [out.asnumpy() for out in (found if isinstance(found, (list, tuple)) else [found])]


def _same(have, want) -> bool:
    if have.shape != want.shape:
        return False
    finite = np.abs(want[np.isfinite(want)])
    return np.allclose(have, want, rtol=0, atol=TOLERANCE * finite.max(initial=1e-30), equal_nan=True)

# SPDX-License-Identifier: MIT
"""Files that are quantized already: grids of QuantizeLinear and DequantizeLinear, read before the graph is.

A layer whose input and weight both come out of DequantizeLinear reads, from here on, the tensor that was quantized: it
is the layer that rounds. Where something else reads what was dequantized (an addition, an average), a place is kept in
the graph. What is neither stays the operators that the file holds.
"""

from __future__ import annotations

from typing import Any, Iterable, Mapping, NamedTuple, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

LAYERS = ("Conv", "Gemm", "MatMul")
#: What a tensor is called behind the ReLU that its grid stands for.
POSITIVE = "_positive"
NON_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax")
#: Smallest and largest code of the types that layers can have.
CODES = {"int8": (-128, 127), "uint8": (0, 255)}


class StoredGrid(NamedTuple):
    """Scales (float32) and zero points (int64), one or one for each index of an axis, and the codes of the type."""

    scale: np.ndarray
    zero_point: np.ndarray
    low: int
    high: int


class StoredLayer(NamedTuple):
    """Grids of a layer's input and weight; `smallest` is the smallest code in the weight, without its zero point."""

    input: StoredGrid
    weight: StoredGrid
    smallest: int


class Quantized:
    """What a file says of grids; `nodes` is the graph without what layers round by themselves.

    Attributes
    ----------
    layers : dict
        First output of a node -> StoredLayer.
    places : dict
        Tensor -> StoredGrid, of those that other nodes read.
    nodes : list of onnx.NodeProto
    """

    def __init__(self, nodes: Iterable[onnx.NodeProto], constants: Mapping[str, np.ndarray],
                 outputs: Sequence[str], keep: bool) -> None:
        self.layers: dict[str, StoredLayer] = {}
        self.places: dict[str, StoredGrid] = {}
        self._constants = dict(constants, **_constants(nodes))
        self._writers = {name: node for node in nodes for name in node.output}
        self._outputs = set(outputs)
        self.nodes = self._without_pairs(list(nodes)) if keep else list(nodes)

    def _without_pairs(self, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        pairs = {node.output[0]: grid for node in nodes for grid in [self._pair(node)] if grid is not None}
        sources = {name: self._writers[self._writers[name].input[0]].input[0] for name in pairs}
        cut = {sources[name] for name, grid in pairs.items() if self._cuts(sources[name], grid)}
        sources = {name: source + POSITIVE if source in cut else source for name, source in sources.items()}
        found = []
        for node in nodes:
            if node.op_type == "QuantizeLinear" and node.input[0] in cut:
                cut.remove(node.input[0])
                found.append(helper.make_node("Relu", [node.input[0]], [node.input[0] + POSITIVE]))
            if node.op_type in LAYERS and node.input[0] in pairs:
                weight = self._weight(node)
                if weight is not None:
                    self.layers[node.output[0]] = StoredLayer(pairs[node.input[0]], *weight)
                    changed = onnx.NodeProto()
                    changed.CopyFrom(node)
                    changed.input[0] = sources[node.input[0]]
                    node = changed
            found.append(node)
        read = {name for node in found for name in node.input} | self._outputs
        kept = {name: grid for name, grid in pairs.items() if name in read}
        self.places.update(kept)
        return [_place(node, sources) if node.output[0] in kept else node for node in found
                if not (node.output and node.output[0] in pairs and node.output[0] not in kept)]

    def _cuts(self, source: str, grid: StoredGrid) -> bool:
        """Whether rounding a tensor cuts off what is below zero: quantizers leave out a ReLU there, and float needs it.

        Where nothing is below zero a ReLU changes nothing.
        """
        writer = self._writers.get(source)
        return writer is not None and int(grid.zero_point[0]) == grid.low and writer.op_type not in NON_NEGATIVE

    def _pair(self, node: onnx.NodeProto) -> StoredGrid | None:
        """The grid of a DequantizeLinear right behind a QuantizeLinear with the same numbers; None for other nodes."""
        if node.op_type != "DequantizeLinear" or not node.output:
            return None
        before = self._writers.get(node.input[0])
        if before is None or before.op_type != "QuantizeLinear" or before.input[0] in self._constants:
            return None
        grid, other = self._grid(node), self._grid(before)
        if grid is None or other is None or grid.scale.size != 1:
            return None
        same = (grid.low, grid.high) == (other.low, other.high) and np.array_equal(grid.scale, other.scale) and (
            np.array_equal(grid.zero_point, other.zero_point))
        return grid if same else None

    def _grid(self, node: onnx.NodeProto) -> StoredGrid | None:
        """The numbers of a QuantizeLinear or DequantizeLinear; None where they are no constants, or of other types."""
        scale = self._constants.get(node.input[1])
        zero = self._constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1, np.uint8)
        if scale is None or zero is None or zero.dtype.name not in CODES or not (scale > 0).all():
            return None
        low, high = CODES[zero.dtype.name]
        return StoredGrid(np.atleast_1d(scale).astype(np.float32), np.atleast_1d(zero).astype(np.int64), low, high)

    def _weight(self, node: onnx.NodeProto) -> tuple[StoredGrid, int] | None:
        """The grid of a layer's weight, one scale for each output or for all, and its smallest code; or None."""
        behind = self._writers.get(node.input[1])
        if behind is None or behind.op_type != "DequantizeLinear":
            return None
        grid, codes = self._grid(behind), self._constants.get(behind.input[0])
        if grid is None or codes is None or codes.dtype.name not in CODES:
            return None
        attributes = {entry.name: helper.get_attribute_value(entry) for entry in behind.attribute}
        outputs = 0 if node.op_type == "Conv" or _attribute(node, "transB") else codes.ndim - 1
        if grid.scale.size > 1 and attributes.get("axis", 1) % codes.ndim != outputs:
            return None
        zero = grid.zero_point.reshape([-1 if axis == outputs and grid.scale.size > 1 else 1
                                        for axis in range(codes.ndim)])
        return grid, int((codes.astype(np.int64) - zero).min(initial=0))


def _attribute(node: onnx.NodeProto, key: str) -> Any:
    return next((helper.get_attribute_value(entry) for entry in node.attribute if entry.name == key), None)


def _constants(nodes: Iterable[onnx.NodeProto]) -> dict[str, np.ndarray]:
    """Values of Constant nodes that hold tensors."""
    return {node.output[0]: numpy_helper.to_array(entry.t) for node in nodes if node.op_type == "Constant"
            for entry in node.attribute if entry.name == "value" and entry.type == onnx.AttributeProto.TENSOR}


def _place(node: onnx.NodeProto, sources: Mapping[str, str]) -> onnx.NodeProto:
    """The node in the place of a DequantizeLinear."""
    name = node.output[0]
    return helper.make_node("Identity", [sources[name]], [name], name=node.name or name)

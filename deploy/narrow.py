# SPDX-License-Identifier: MIT
"""Clips that stand for the ends of a grid with fewer codes than the engine rounds to (`Arithmetic.held`).

What is rounded to the layer's grid in front of such a clip has the same codes behind it: it cuts off codes.
"""

from dataclasses import replace
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np

from deploy.arithmetic import Arithmetic
from deploy.fusing import limits, moves
from deploy.ir import Activation, Function, Grid, Model, Node, Rounding, activation, consumers, integers

Ends = Mapping[str, Tuple[float, ...]]


def whole_bytes(model: Model, arithmetic: Arithmetic) -> Model:
    """The model whose roundings have all codes of the engine; what others lack is cut off in front of them."""
    nodes: List[Node] = []
    shapes = dict(model.shapes)
    for node in model.nodes:
        if isinstance(node, Rounding):
            grid, clip = arithmetic.held(node.grid)
            if clip is not None:
                cut = node.name + ".clip"
                shapes[cut] = shapes[node.inputs[0]]
                nodes.append(Activation(cut, node.inputs, (cut,), node.path, function=Function("clip", clip)))
                node = replace(node, inputs=(cut,), grid=grid)
        nodes.append(node)
    return replace(model, nodes=tuple(nodes), shapes=shapes)


def narrow_clips(model: Model, given: Mapping[str, Grid]) -> Ends:
    """Node -> its ends, of all clips that cut off codes of what is behind: of a given grid, or of all readers'."""
    readers = consumers(model)

    def behind(blob: str) -> List[Optional[Grid]]:
        return [given[blob]] if blob in given else [_grid(reader) for reader in readers[blob]]
    return {node.name: node.function.parameters for node in model.nodes
            if isinstance(node, Activation) and node.function.kind == "clip"
            and all(_is_cut(grid, node.function.parameters) for grid in behind(node.outputs[0]))}


def without_wider_clips(model: Model, ends: Ends) -> Model:
    """The model whose clips from zero are ReLUs where narrow ones behind them cut off as much or more."""
    readers = consumers(model)

    def largest(node: Node) -> float:
        """The largest value that a node puts out which counts for anything."""
        return max((through(reader) for blob in node.outputs for reader in readers[blob]), default=np.inf)

    def through(reader: Optional[Node]) -> float:
        if reader is not None and reader.name in ends:
            return ends[reader.name][1]
        return largest(reader) if reader is not None and moves(reader) else np.inf

    def simpler(node: Node) -> Node:
        function = activation(node)
        if (node.name in ends or function is None or function.kind != "clip" or function.parameters[0] != 0
                or largest(node) > function.parameters[1]):
            return node
        changed: Dict[str, Any] = {"function" if isinstance(node, Activation) else "activation": Function("relu")}
        return replace(node, **changed)
    return replace(model, nodes=tuple(map(simpler, model.nodes)))


def _grid(reader: Optional[Node]) -> Optional[Grid]:
    quantization: Any = None if reader is None else integers(reader)
    return None if quantization is None else quantization.input


def _is_cut(grid: Optional[Grid], ends: Tuple[float, ...]) -> bool:
    """Whether both ends are values of the grid, and not its own."""
    if grid is None:
        return False
    values, scale, (low, high) = np.asarray(ends, np.float32), np.float32(grid.scale), limits(grid)
    inside = low <= values[0] and values[1] <= high and (low < values[0] or values[1] < high)
    return bool(inside and (np.rint(values / scale) * scale == values).all())

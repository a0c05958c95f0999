# SPDX-License-Identifier: MIT
"""Clips that lowering puts in front of layers whose grid has fewer codes than the engine's integers."""

from dataclasses import replace
from typing import Mapping, Optional, Union

from deploy.ir.model import Activation, Function, Grid, Model, Node, QuantizedNode, producers, quantized

OPEN = Function("clip", (float("-inf"), float("inf")))


def own_clip(writers: Mapping[str, Node], node: Union[Node, QuantizedNode]) -> Optional[Activation]:
    """The clip in front of a layer that belongs to its grid, None where there is none; `writers` are the producers."""
    writer = writers.get(node.inputs[0])
    if isinstance(writer, Activation) and writer.function.kind == "clip" and node.path and writer.path == node.path:
        return writer
    return None


def reached(writers: Mapping[str, Node], node: QuantizedNode) -> Grid:
    """The grid of a layer's input, with the codes alone that its clip lets through."""
    grid, clip = node.quantization.input, own_clip(writers, node)
    if clip is None:
        return grid
    low, high = (round(value / grid.scale) + grid.zero_point for value in clip.function.parameters[:2])
    return replace(grid, qmin=max(grid.qmin, low), qmax=min(grid.qmax, high))


def without_clips(model: Model) -> Model:
    """The same network with those clips open: what is cut off is part of what quantizing costs."""
    writers = producers(model)
    own = {id(own_clip(writers, node)) for node in quantized(model)}
    return replace(model, nodes=tuple(replace(node, function=OPEN) if isinstance(node, Activation) and id(node) in own
                                      else node for node in model.nodes))

# SPDX-License-Identifier: MIT
"""Every blob as whole numbers: on the grid of the integer layers that read it, else in fixed point.

Fixed point is a grid like others, with a power of two for its step: as fine as 23 bits allow for the largest value that
the weights make possible, so that nothing overflows whatever the image, and float32 holds every value.
"""

from dataclasses import dataclass, replace
from typing import Dict, List, Mapping, Optional, Set, cast

import numpy as np

from deploy.arithmetic import UNSETTLED, real
from deploy.ir import (
    Activation,
    Affine,
    BatchNorm,
    Convolution,
    Crop,
    Elementwise,
    Function,
    Grid,
    InnerProduct,
    Model,
    Node,
    Padding,
    Permute,
    Pooling,
    PReLU,
    Reshape,
    Resize,
    Rounding,
    Spread,
    activation,
    consumers,
    integers,
    producers,
)
from deploy.ir.affine import factor_and_shift
from deploy.targets.c.images import image_bound, image_grid
from deploy.targets.c.simplify import simplified

FIXED_BITS = 23
MOVING = (Reshape, Permute, Crop, Padding, Spread)
COMMUTING = ("relu", "clip")  # rounding before these gives the codes that rounding behind them does


def fixed_point(bound: float) -> Grid:
    """The grid that holds all values up to `bound` in magnitude."""
    exponent = FIXED_BITS - int(np.ceil(np.log2(max(bound, 2.0 ** -40)))) if bound > 0 else FIXED_BITS
    exponent = min(max(exponent, -60), 60)
    return Grid(float(np.float32(2.0 ** -exponent)), 0, -(1 << FIXED_BITS), 1 << FIXED_BITS)


def hands_on(node: Optional[Node]) -> bool:
    """Whether the codes of a node's output are some of its input's."""
    return (isinstance(node, MOVING) or isinstance(node, Pooling) and node.kind == "max"
            or isinstance(node, Resize) and node.mode == "nearest"
            or isinstance(node, Activation) and node.function.kind in COMMUTING)


def with_settled_inputs(model: Model, seen: Optional[Mapping[str, float]] = None) -> Model:
    """The model with a step of 16-bit fixed point for every input whose grid is `UNSETTLED`: as fine as can be.

    What reads the image reads its bytes, where they lie on a grid (`deploy.targets.c.images`).

    Parameters
    ----------
    seen : mapping, optional
        Blob -> largest magnitude on some images. Twice as much is left room for, where that is less than the weights
        make possible; what is beyond is clipped.
    """
    found: Dict[str, float] = dict.fromkeys(model.inputs, image_bound(model))
    bytes_grid = image_grid(model)
    images = set(model.inputs)
    nodes: List[Node] = []
    for node in model.nodes:
        quantization = integers(node)
        if quantization is not None and quantization.input == UNSETTLED:
            blob = node.inputs[0]
            grid = bytes_grid if blob in images else None
            grid = grid or _sixteen_bits(min(found[blob], 2 * (seen or {}).get(blob, np.inf)))
            node = replace(cast(Convolution, node), quantization=replace(quantization, input=grid))
        nodes.append(node)
        if hands_on(node) and node.inputs[0] in images and not isinstance(node, Activation):
            images.update(node.outputs)
        bound = _reach(node.grid) if isinstance(node, Rounding) else _bound(node, found)
        found.update(dict.fromkeys(node.outputs, bound))
    return replace(model, nodes=tuple(nodes))


def _sixteen_bits(bound: float) -> Grid:
    return replace(UNSETTLED, scale=float(2.0 ** np.ceil(np.log2(max(bound, 2.0 ** -40) / UNSETTLED.qmax))))


# ---- roundings in front of integer layers


def settled(model: Model) -> Model:
    """The model with a `Rounding` for everything that integer layers read, as far up as the codes stay the same."""
    model = simplified(model)
    writers, readers = producers(model), consumers(model)
    wanted: Dict[str, List[Grid]] = {}
    for node in model.nodes:
        quantization = integers(node)
        if quantization is not None:
            blob = node.inputs[0]
            if not _on_grid(writers, blob, quantization.input):
                wanted.setdefault(_highest(writers, readers, blob), []).append(quantization.input)
    return _with_roundings(model, {blob: list(dict.fromkeys(grids)) for blob, grids in wanted.items()})


def _on_grid(writers: Dict[str, Node], blob: str, grid: Grid) -> bool:
    writer = writers.get(blob)
    if isinstance(writer, Rounding):
        return writer.grid == grid
    return writer is not None and hands_on(writer) and _on_grid(writers, writer.inputs[0], grid)


def _highest(writers: Dict[str, Node], readers: Dict[str, List[Optional[Node]]], blob: str) -> str:
    """The blob to round so that `blob` is: before what hands codes on, while nobody else reads it."""
    writer = writers.get(blob)
    while writer is not None and hands_on(writer) and len(readers[blob]) == 1 and len(
            readers[writer.inputs[0]]) == 1:
        blob = writer.inputs[0]
        writer = writers.get(blob)
    return blob


def _with_roundings(model: Model, wanted: Dict[str, List[Grid]]) -> Model:
    nodes: List[Node] = []
    shapes, names = dict(model.shapes), {node.name for node in model.nodes} | set(model.shapes)
    renamed: Dict[str, Dict[Grid, str]] = {}

    def add(blob: str) -> None:
        for number, grid in enumerate(wanted.get(blob, ())):
            name = f"{blob}_codes" + (f"_{number}" if number else "")
            while name in names:
                name += "_"
            names.add(name)
            shapes[name] = shapes[blob]
            renamed.setdefault(blob, {})[grid] = name
            nodes.append(Rounding(name, (blob,), (name,), grid=grid))

    for blob in model.inputs:
        add(blob)
    alone = {blob for blob, readers in consumers(model).items() if len(readers) == 1}
    for node in model.nodes:
        nodes.append(_reading(node, renamed, alone))
        for blob in node.outputs:
            add(blob)
    return replace(model, nodes=tuple(nodes), shapes=shapes)


def _reading(node: Node, renamed: Dict[str, Dict[Grid, str]], alone: Set[str]) -> Node:
    """A node that reads what was rounded for it, or, where it reads a blob alone, for those behind it."""
    quantization, blob = integers(node), node.inputs[0] if node.inputs else ""
    found = renamed.get(blob, {})
    if quantization is not None and quantization.input in found:
        return replace(node, inputs=(found[quantization.input],))
    return replace(node, inputs=tuple(found.values())) if hands_on(node) and found and blob in alone else node


# ---- the grid of every blob


@dataclass(frozen=True)
class Grids:
    """The grid of every blob of a settled model but for its inputs, and the largest value that each can have."""

    of: Dict[str, Grid]
    bounds: Dict[str, float]


def grids(model: Model) -> Grids:
    """See `Grids`."""
    readers, found = consumers(model), Grids({}, dict.fromkeys(model.inputs, 1.0))
    for node in model.nodes:
        for blob in node.outputs:
            found.of[blob], found.bounds[blob] = _output(node, found, readers[blob])
    return found


def _output(node: Node, found: Grids, readers: List[Optional[Node]]):
    if isinstance(node, Rounding):
        return node.grid, _reach(node.grid)
    if hands_on(node) and node.inputs[0] in found.of:
        return found.of[node.inputs[0]], found.bounds[node.inputs[0]]
    bound = _bound(node, found.bounds)
    rounded = {reader.grid for reader in readers if isinstance(reader, Rounding)}
    function = activation(node)
    if len(rounded) == 1 and all(isinstance(reader, Rounding) for reader in readers) and (
            function is None or function.kind in COMMUTING):
        grid = rounded.pop()
        return grid, _reach(grid)
    return fixed_point(bound), bound


def _reach(grid: Grid) -> float:
    return float(np.abs(real(np.array([grid.qmin, grid.qmax]), grid)).max())


def _bound(node: Node, bounds: Dict[str, float]) -> float:
    """The largest magnitude that an output can have."""
    sources = [bounds[blob] for blob in node.inputs]
    if isinstance(node, (Convolution, InnerProduct)):
        found = _layer_bound(node, sources[0])
    elif isinstance(node, (Affine, BatchNorm)):
        factor, shift = factor_and_shift(node)
        found = float((np.abs(factor) * sources[0] + np.abs(shift)).max())
    elif isinstance(node, Elementwise) and node.op in ("add", "sub"):
        found = sum(sources)
    elif isinstance(node, PReLU):
        found = sources[0] * max(1.0, float(np.abs(node.slope).max()))
    else:
        found = max(sources)
    return _activated(activation(node), found)


def _layer_bound(node, source: float) -> float:
    """The largest sum of an output: positive weights with largest codes, negative ones with least, or the other way."""
    quantization = node.quantization
    low, high = -source, source
    weight = node.weight.astype(np.float64)
    if quantization is not None:
        grid = quantization.input
        low, high = (float(end) for end in real(np.array([grid.qmin, grid.qmax]), grid))
        weight = quantization.weight_q.astype(np.float64) * quantization.weight_scale.astype(np.float64).reshape(
            (-1,) + (1,) * (weight.ndim - 1))
    # pads are zeros, whatever the grid
    low, high = min(low, 0.0), max(high, 0.0)
    parts = weight.reshape(len(weight), -1)
    above, below = np.maximum(parts, 0).sum(axis=1), np.minimum(parts, 0).sum(axis=1)
    bias = 0.0 if node.bias is None else node.bias.astype(np.float64)
    most, least = above * high + below * low + bias, above * low + below * high + bias
    return float(np.maximum(np.abs(most), np.abs(least)).max())


def _activated(function: Optional[Function], bound: float) -> float:
    if function is not None and function.kind == "clip":
        low, high = function.parameters
        return max(abs(min(max(value, low), high)) for value in (-bound, bound))
    return bound * max(1.0, abs(function.parameters[0])) if function is not None and function.kind == "leaky_relu" \
        else bound

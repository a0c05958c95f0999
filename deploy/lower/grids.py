# SPDX-License-Identifier: MIT
"""Grids that blobs lie on already: what is behind a rounding, and when the rounding itself can go."""

from dataclasses import replace
from typing import Any, Optional

from deploy.fusing import moves
from deploy.ir import (
    Activation,
    Concat,
    Convolution,
    Grid,
    InnerProduct,
    Padding,
    Resize,
    Rounding,
    Spread,
    integers,
)
from deploy.lower.draft import Draft


def grid_of(draft: Draft, blob: str, input_grid: Optional[Grid] = None) -> Optional[Grid]:
    """The grid on which every element of a blob lies, None where there is none.

    Parameters
    ----------
    input_grid : Grid, optional
        Of the model's input.
    """
    writer = draft.writer(blob)
    if writer is None:
        return input_grid
    if isinstance(writer, Rounding):
        return writer.grid
    if not _hands_on(writer):
        return None
    grids = {grid_of(draft, source, input_grid) for source in writer.inputs}
    return grids.pop() if len(grids) == 1 else None


def drop_roundings(draft: Draft) -> None:
    """Remove roundings whose readers all round to the same codes again: rounding and moving can change places."""
    for node in draft.nodes(Rounding):
        if _rounded_again(draft, node.outputs[0], node.grid):
            draft.bypass(node)


def _hands_on(node: Any) -> bool:
    """Whether a node's outputs are some of its inputs' elements, or 0."""
    return (moves(node) or isinstance(node, (Concat, Spread))
            or isinstance(node, Activation) and node.function.kind == "relu"
            or isinstance(node, Padding) and (node.mode != "constant" or node.value == 0)
            or isinstance(node, Resize) and node.mode == "nearest")


def _rounded_again(draft: Draft, blob: str, grid: Grid) -> bool:
    """Whether everybody who reads the blob rounds it to the grid, perhaps behind nodes that hand elements on."""
    if blob in draft.outputs:
        return False
    return all(_rounds(draft, reader, grid) for reader in draft.readers(blob))


def _rounds(draft: Draft, reader: Any, grid: Grid) -> bool:
    if isinstance(reader, (Convolution, InnerProduct)):
        quantization = integers(reader)
        return quantization is not None and _within(quantization.input, grid)
    if isinstance(reader, Activation) and reader.function.kind == "clip":
        # what cuts off all that the grid does not have leaves a reader with more codes the same ones
        low, high = reader.function.parameters
        wide = replace(grid, qmin=-(1 << 15), qmax=1 << 15)
        inside = grid.scale * (grid.qmin - grid.zero_point) <= low and high <= grid.scale * (
            grid.qmax - grid.zero_point) * (1 + 1e-6)
        return inside and _rounded_again(draft, reader.outputs[0], wide)
    # joined blobs are asked for one by one
    return _hands_on(reader) and all(_rounded_again(draft, output, grid) for output in reader.outputs)


def _within(inner: Grid, outer: Grid) -> bool:
    """Whether a grid has the same steps and no codes that the other lacks."""
    return (inner.scale, inner.zero_point) == (outer.scale, outer.zero_point) and (
        outer.qmin <= inner.qmin and inner.qmax <= outer.qmax)

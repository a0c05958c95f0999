# SPDX-License-Identifier: MIT
"""Roundings of blobs between layers, and the model without them."""

from dataclasses import replace
from typing import Dict, Tuple

from deploy.ir.model import Grid, Model, Rounding


def without_roundings(model: Model) -> Model:
    """The model whose nodes read what its roundings read; the same object where there are none."""
    source = {blob: node.inputs[0] for node in model.nodes if isinstance(node, Rounding) for blob in node.outputs}
    if not source:
        return model
    for blob in source:  # a blob that is rounded twice comes from where the first rounding reads
        while source[blob] in source:
            source[blob] = source[source[blob]]

    def unrounded(blobs: Tuple[str, ...]) -> Tuple[str, ...]:
        return tuple(source.get(blob, blob) for blob in blobs)
    nodes = tuple(replace(node, inputs=unrounded(node.inputs)) for node in model.nodes
                  if not isinstance(node, Rounding))
    shapes = {blob: shape for blob, shape in model.shapes.items() if blob not in source}
    return replace(model, nodes=nodes, outputs=unrounded(model.outputs), shapes=shapes)


def grids_between(model: Model) -> Dict[str, Grid]:
    """Blob -> the grid of the rounding that reads it."""
    return {node.inputs[0]: node.grid for node in model.nodes if isinstance(node, Rounding)}

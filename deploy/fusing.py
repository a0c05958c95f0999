# SPDX-License-Identifier: MIT
"""Which nodes hand on integers, and on which grids: what an engine makes one integer operator of.

A node whose inputs were rounded, and whose output is rounded and read by nobody before, becomes one. ReLU and clips in
between vanish where the grid ends where they do.
"""

from dataclasses import dataclass
from typing import Dict, Optional, Tuple

import numpy as np

from deploy.ir import (
    Activation,
    Crop,
    Function,
    Grid,
    Model,
    Node,
    Permute,
    Pooling,
    Reshape,
    Rounding,
    Slice,
    activation,
    consumers,
)

MOVING = (Reshape, Permute, Crop, Slice)


def limits(grid: Grid) -> Tuple[np.float32, np.float32]:
    """Smallest and largest real value on a grid."""
    low, high = (np.float32(code - grid.zero_point) * np.float32(grid.scale) for code in (grid.qmin, grid.qmax))
    return low, high


def moves(node: Node) -> bool:
    """Whether a node hands on values of its input as they are, which a maximum does, too."""
    return isinstance(node, MOVING) or isinstance(node, Pooling) and node.kind == "max"


def implied(function: Optional[Function], grid: Grid) -> bool:
    """Whether rounding to the grid cuts off what the function does, so that it can be left out (None: always)."""
    if function is None:
        return True
    low, high = limits(grid)
    if function.kind == "relu":
        return bool(low >= 0)
    return function.kind == "clip" and bool(low >= function.parameters[0] and high <= function.parameters[1])


@dataclass(frozen=True)
class Ending:
    """What rounds a node's output: the node `Rounding`, and the Activation before it that vanishes (or None)."""

    rounding: Rounding
    dropped: Optional[Activation] = None


def rounded_blobs(model: Model) -> Dict[str, Grid]:
    """Blob -> its grid, of all that are written by a `Rounding`."""
    return {node.outputs[0]: node.grid for node in model.nodes if isinstance(node, Rounding)}


def endings(model: Model) -> Dict[str, Ending]:
    """Node -> how its output is rounded, where nobody reads it before."""
    readers = consumers(model)
    found: Dict[str, Ending] = {}
    for node in model.nodes:
        if isinstance(node, (Rounding, Activation)) or len(node.outputs) != 1:
            continue
        reader = _only(readers, node)
        dropped = reader if isinstance(reader, Activation) else None
        if dropped is not None:
            reader = _only(readers, dropped)
        functions = activation(node), None if dropped is None else dropped.function
        if isinstance(reader, Rounding) and all(implied(function, reader.grid) for function in functions):
            found[node.name] = Ending(reader, dropped)
    return found


def _only(readers, node: Node) -> Optional[Node]:
    found = readers[node.outputs[0]]
    return found[0] if len(found) == 1 else None

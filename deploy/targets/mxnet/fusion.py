# SPDX-License-Identifier: MIT
"""What MXNet makes one integer operator of: a convolution with the addition and the ReLU behind it.

oneDNN adds to a convolution's output what lies there before: the other operand of an addition, of the output's own
type. So an addition moves into a convolution that only it reads, where the other operand has codes of that type; both
kinds of codes have one: uint8 behind a ReLU, int8 elsewhere.
"""

from dataclasses import dataclass, replace
from typing import Dict, List, Optional, Set

from deploy.fusing import implied, limits, rounded_blobs
from deploy.ir import (
    Activation,
    Concat,
    Convolution,
    Elementwise,
    Function,
    Grid,
    Model,
    Node,
    Pooling,
    Rounding,
    consumers,
    integers,
)
from deploy.targets.mxnet.scales import signed


@dataclass(frozen=True)
class Fused:
    """How the output of a convolution, or of an addition, becomes codes.

    Attributes
    ----------
    rounding : Rounding
    add : Elementwise or None
        The addition that a convolution does as well.
    other : str
        The blob of codes that it adds.
    dropped : Activation or None
        The ReLU or clip that the ends of the grid are.
    wide : bool
        An addition of int8 that becomes uint8, by way of int32.
    rectified : bool
        A ReLU in front of a grid of int8, which is computed of the codes: MXNet's own would put out uint8.
    """

    rounding: Rounding
    add: Optional[Elementwise] = None
    other: str = ""
    dropped: Optional[Activation] = None
    wide: bool = False
    rectified: bool = False


class Fusion:
    """What is fused in a settled model.

    Attributes
    ----------
    grids : dict
        Blob that a `Rounding` writes -> its grid.
    of : dict
        Convolution, or addition of its own -> `Fused`.
    handed : set of str
        Poolings and concatenations of codes, which put out codes on the grid that they read.
    coded : dict
        Blob that an integer operator puts out -> its grid.
    """

    def __init__(self, model: Model) -> None:
        self.grids: Dict[str, Grid] = rounded_blobs(model)
        self._readers, self._outputs = consumers(model), model.outputs
        self.of: Dict[str, Fused] = {}
        self.handed: Set[str] = {node.name for node in model.nodes if self._hands_on(node)}
        for node in model.nodes:
            found = None
            if isinstance(node, Convolution) and integers(node) is not None:
                found = self._end(node, node.outputs[0])
            elif isinstance(node, Elementwise) and node.name not in self.added():
                found = self._sum_of_codes(node)
            if found is not None:
                self.of[node.name] = found
        self.coded = dict(self.grids)
        for node in model.nodes:
            if node.name in self.handed:
                self.coded[node.outputs[0]] = self.grids[node.inputs[0]]
            elif node.name in self.of:
                fused = self.of[node.name]
                self.coded.update((member.outputs[0], fused.rounding.grid)
                                  for member in (node, fused.add, fused.dropped) if member is not None)

    def added(self) -> Dict[str, str]:
        """Addition -> the convolution that does it."""
        return {fused.add.name: name for name, fused in self.of.items() if fused.add is not None}

    def done(self) -> Dict[str, str]:
        """Nodes that vanish: additions, activations and roundings -> the node that does them."""
        return {node.name: name for name, fused in self.of.items()
                for node in (fused.rounding, fused.add, fused.dropped) if node is not None}

    def _hands_on(self, node: Node) -> bool:
        if not isinstance(node, Concat) and not (isinstance(node, Pooling) and (
                node.kind == "max" or not node.global_ and not node.ceil)):
            return False
        grids = {self.grids.get(blob) for blob in node.inputs}
        grids |= {reader.grid for reader in self._readers[node.outputs[0]] if isinstance(reader, Rounding)}
        rounded = any(isinstance(reader, Rounding) for reader in self._readers[node.outputs[0]])
        return rounded and len(grids) == 1 and None not in grids

    def _end(self, node: Convolution, blob: str) -> Optional[Fused]:
        """Rounded at once, behind a ReLU, or behind an addition."""
        reader = self._only(blob)
        if isinstance(reader, Elementwise) and reader.op == "add" and len(reader.inputs) == 2:
            other = reader.inputs[1 - reader.inputs.index(blob)]
            end = self._rounded(reader, reader.outputs[0])
            if end is None or node.activation is not None or other not in self.grids or signed(
                    self.grids[other]) != signed(end.rounding.grid):
                return None
            return replace(end, add=reader, other=other)
        return self._rounded(node, blob)

    def _sum_of_codes(self, node: Elementwise) -> Optional[Fused]:
        grids = [self.grids.get(blob) for blob in node.inputs]
        end = self._rounded(node, node.outputs[0])
        kinds = {None if grid is None else signed(grid) for grid in grids}
        if node.op != "add" or len(grids) != 2 or end is None or len(kinds) > 1 or None in kinds:
            return None
        kind, wanted = kinds.pop(), signed(end.rounding.grid)
        if kind == wanted:
            return end
        return replace(end, wide=True) if kind else None  # MXNet adds uint8 to uint8 alone

    def _rounded(self, node: Node, blob: str) -> Optional[Fused]:
        reader = self._only(blob)
        dropped = reader if isinstance(reader, Activation) else None
        if dropped is not None:
            reader = self._only(dropped.outputs[0])
        if not isinstance(reader, Rounding):
            return None
        functions = getattr(node, "activation", None), None if dropped is None else dropped.function
        left = [function for function in functions if not implied(function, reader.grid)]
        if left and not all(_rectifies(function, reader.grid) for function in left):
            return None
        return Fused(reader, dropped=dropped, rectified=bool(left))

    def _only(self, blob: str) -> Optional[Node]:
        """The only node that reads a blob; beside it the model may put it out, where the node rounds it."""
        found: List[Node] = [node for node in self._readers[blob] if node is not None]
        alone = len(found) == 1 and (isinstance(found[0], Rounding) or blob not in self._outputs)
        return found[0] if alone else None


def _rectifies(function: Optional[Function], grid: Grid) -> bool:
    """Whether a function does to what is rounded to a grid of int8 what a ReLU does to its codes."""
    if function is None or not signed(grid):
        return False
    return function.kind == "relu" or (function.kind == "clip" and function.parameters[0] == 0
                                       and function.parameters[1] >= float(limits(grid)[1]))

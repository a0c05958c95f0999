# SPDX-License-Identifier: MIT
"""Operator by operator from the traced graph to a draft, collecting everything that cannot be lowered."""

from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple, Type

from mxnet.gluon import Block, nn

from deploy import ir
from deploy.arithmetic import UNSETTLED, Arithmetic
from deploy.lower.call import Call, Value
from deploy.lower.draft import Draft, Unsupported
from deploy.lower.grids import grid_of
from deploy.lower.operators import OPERATORS
from deploy.lower.trace import Naming, Traced
from deploy.target import Problem
from quantize.convert.graph import Node
from quantize.escape import safe_name
from quantize.nn.fake_quantize import GRID


class Builder:
    """Writes a draft.

    Parameters
    ----------
    traced : Traced
    naming : Naming
    layers : dict
        Structural path -> quantized layer, for those to compute in integers.
    arithmetic : Arithmetic
    input_name : str
        With numbers behind it, from 0, where there are several.
    input_grid : Grid, optional
        On which the network's input lies.

    Attributes
    ----------
    draft : Draft
    problems : list of Problem
    lost : set of str
        Blobs that could not be made, and those computed from them.
    """

    def __init__(self, traced: Traced, naming: Naming, layers: Mapping[str, Block], arithmetic: Arithmetic,
                 input_name: str, input_grid: Optional[ir.Grid] = None):
        self.traced, self.naming, self.layers, self.arithmetic = traced, naming, layers, arithmetic
        count = len(traced.inputs)
        names = [safe_name(input_name + (str(number) if count > 1 else "")) for number in range(count)]
        self.draft = Draft({name: traced.shapes[index, 0][1:] for name, index in zip(names, traced.inputs)})
        self.input_grid = input_grid
        outputs = [layer.output_quantizer for layer in layers.values() if layer.output_quantizer is not None]
        # name of the operator that marks the place -> what rounds there
        self.marks = {item.prefix + GRID: item for item in outputs if item.mode != "float"}
        self.problems: List[Problem] = []
        self.lost: Set[str] = set()
        self.values: Dict[Tuple[int, int], Value] = {(index, 0): name for name, index in zip(names, traced.inputs)}
        self.values.update(traced.constants)

    def build(self) -> Draft:
        """Lower every operator that depends on the input; what fails is in `problems`."""
        for node in self.traced.nodes:
            if self.traced.depends[node.index] and node.op != "null":
                self._lower(node)
        for number, head in enumerate(self.traced.heads):
            if not isinstance(self.values.get(head), str):
                self.problems.append(Problem(f"output {number}", "does not depend on the network's input"))
        if not self.problems:
            self.draft.outputs = tuple(str(self.values[head]) for head in self.traced.heads)
        return self.draft

    def front(self) -> Draft:
        """What `build` has made of the operators that depend on none that failed; what others would read is an output.

        Without outputs where the first operator has failed.
        """
        wanted = list(self.traced.heads)
        for node in self.traced.nodes:
            first = self.values.get((node.index, 0))
            if isinstance(first, str) and first in self.lost:
                wanted += node.sources
        blobs = [blob for blob in map(self.values.get, wanted) if isinstance(blob, str) and blob not in self.lost]
        self.draft.outputs = tuple(blob for blob in dict.fromkeys(blobs) if self.draft.writer(blob) is not None)
        self.draft.drop_unread()
        return self.draft

    def _lower(self, node):
        shapes = self._output_shapes(node)
        operands = [self.values.get(source) for source in node.sources]
        call = Call(self, node, operands, [shape[1:] for shape in shapes])
        try:
            # traced with one image: an output without that axis mixes images, and no engine runs it image by image
            if shapes[0][:1] != (1,):
                raise Unsupported("its output has no batch axis of its own")
            if node.op not in OPERATORS:
                raise Unsupported(f"operator {node.op} is not supported")
            result = OPERATORS[node.op](call)
            outputs = (result,) if isinstance(result, str) else result
            found = [self.draft.shapes[blob] for blob in outputs]
            # the shapes of the trace are MXNet's own: a handler that computes others has misread an option
            if found != call.shapes[:len(found)]:
                raise Unsupported(f"operator {node.op} with these options: outputs of shape {call.shapes} would get "
                                  f"{found}")
        except Unsupported as reason:
            self.problems.append(Problem(call.path or call.name, str(reason)))
            outputs = self._stand_ins(call)
            self.lost.update(outputs)
        if any(isinstance(operand, str) and operand in self.lost for operand in operands):
            self.lost.update(outputs)
        self.values.update(((node.index, number), blob) for number, blob in enumerate(outputs))

    def _stand_ins(self, call):
        """Blobs in the place of those that could not be made, so that later problems are found as well."""
        names = [self.unique(f"{call.name}:{number}") for number in range(len(call.shapes))]
        for name, shape in zip(names, call.shapes):
            self.draft.declare(name, shape)
        return names

    def _output_shapes(self, node):
        shapes, number = [], 0
        while (node.index, number) in self.traced.shapes:
            shapes.append(self.traced.shapes[node.index, number])
            number += 1
        return shapes

    # ---- what calls ask for

    def name(self, node: Node) -> Tuple[str, str]:
        """(unique name, structural path) of an operator's node."""
        name, path = self.naming.of(node)
        return self.unique(name), path

    def unique(self, wanted: str) -> str:
        """`wanted` as a name that every format can hold, with a number behind it where a node or blob has it already.

        All names of nodes and blobs come from here: a file from somebody else may name a layer as it likes.
        """
        name = base = safe_name(wanted)
        number = 0
        while self.draft.has(name):
            number += 1
            name = f"{base}_{number}"
        return name

    def source_shape(self, node: Node, index: int) -> Tuple[int, ...]:
        """Shape of an operand with its batch axis."""
        return self.traced.shapes[node.sources[index]]

    def grid_of(self, blob: str) -> Optional[ir.Grid]:
        """The grid on which all elements of a blob lie, or None."""
        found = grid_of(self.draft, blob, self.input_grid)
        return UNSETTLED if found is None and self.arithmetic.takes_reals else found

    def quantized_layer(self, node: Node) -> Optional[Block]:
        """The quantized layer that an operator belongs to, or None."""
        owner = self.naming.layer(node)
        return None if owner is None else self.layers.get(owner[0])

    def write(self, call: Call, kind: Type[ir.Node], inputs: Tuple[str, ...], shapes: Sequence[Tuple[int, ...]],
              part: str, fields: Mapping[str, Any]) -> Tuple[str, ...]:
        """Append a node; returns its blobs."""
        name = self.unique(call.name + ("." + part if part else ""))
        outputs = (name,) if len(shapes) == 1 else tuple(
            self.unique(f"{name}_{number}") for number in range(len(shapes)))
        self.draft.add(kind(name=name, inputs=inputs, outputs=outputs, path=call.path, **fields), shapes)
        if kind is ir.BatchNorm and call.is_layer(nn.BatchNorm):
            self.draft.norm_layers.add(name)
        return outputs

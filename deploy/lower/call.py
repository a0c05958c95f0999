# SPDX-License-Identifier: MIT
"""What the handler of an operator sees: one operator's options, operands and shapes, and a way to write nodes."""

import ast
from dataclasses import replace
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple, Union, cast

import numpy as np

from deploy.ir import Activation, Function, Grid, Quantization
from deploy.lower.draft import Unsupported
from deploy.lower.weights import grid_of_quantizer, quantization_of
from quantize.convert.graph import Node

Value = Union[str, np.ndarray]  # a blob, or a constant with its batch axis


def literal(text: str) -> Any:
    """MXNet writes options as text: numbers, tuples, True and None as in Python, anything else as it is."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


class Call:
    """One operator of the graph.

    Attributes
    ----------
    op, name, path : str
        Operator; name of the node to write; structural path of the layer.
    attrs : dict
        Options that are set.
    shapes, shape : shapes of the outputs, and of the first, without the batch axis.
    """

    def __init__(self, builder: Any, node: Node, values: Sequence[Optional[Value]],
                 shapes: List[Tuple[int, ...]]):
        self.op = node.op
        self.attrs: Dict[str, Any] = {key: literal(text) for key, text in node.attrs.items()}
        self.name, self.path = builder.name(node)
        self.shapes = shapes
        self._builder, self._node, self._values = builder, node, values

    @property
    def shape(self) -> Tuple[int, ...]:
        """Shape of the (first) output without the batch axis."""
        return self.shapes[0]

    @property
    def count(self) -> int:
        """How many operands there are."""
        return len(self._values)

    def get(self, key: str, default: Any = None) -> Any:
        """An option; the default also where MXNet writes None or an empty tuple."""
        value = self.attrs.get(key)
        return default if value is None or value == () else value

    def only(self, key: str, *allowed: Any) -> Any:
        """An option that may only be one of `allowed`, the first by default."""
        value = self.get(key, allowed[0])
        if value not in allowed:
            raise Unsupported(f"{key}={value} (supported: {', '.join(str(each) for each in allowed)})")
        return value

    def is_constant(self, index: int) -> bool:
        """Whether an operand is the same for every input of the network."""
        return isinstance(self._values[index], np.ndarray)

    def blob(self, index: int = 0) -> str:
        """An operand that depends on the input."""
        if self.is_constant(index):
            raise Unsupported(f"operand {index} is a constant")
        if self._values[index] is None:
            raise Unsupported(f"operand {index} is a side output (a mean, a mask) of another operator")
        return cast(str, self._values[index])

    def blobs(self) -> List[str]:
        """All operands, which all depend on the input."""
        return [self.blob(index) for index in range(self.count)]

    def constant(self, index: int) -> np.ndarray:
        """An operand that is the same for every input; float32, as MXNet has it (with a batch axis, if any)."""
        if not self.is_constant(index):
            raise Unsupported(f"operand {index} depends on the network's input")
        return cast(np.ndarray, self._values[index])

    def in_shape(self, index: int = 0) -> Tuple[int, ...]:
        """Shape of an operand without the batch axis."""
        return self._builder.source_shape(self._node, index)[1:]

    def axis(self, value: int, index: int = 0) -> int:
        """An axis counted with the batch axis, maybe from the end -> counted without; never the batch axis itself."""
        axis = value % (len(self.in_shape(index)) + 1) - 1
        if axis < 0:
            raise Unsupported("works along the batch axis")
        return axis

    def emit(self, kind: type, inputs: Union[str, Iterable[str]], shape: Optional[Tuple[int, ...]] = None, /,
             part: str = "", **fields: Any) -> str:
        """Write a node with one output, by default of the operator's output shape; returns its blob.

        `part` tells the nodes of an operator that needs several apart; the last one has none.
        """
        inputs = (inputs,) if isinstance(inputs, str) else tuple(inputs)
        return self._builder.write(self, kind, inputs, [self.shape if shape is None else shape], part, fields)[0]

    def emit_many(self, kind: type, blob: str, shapes: Optional[Sequence[Tuple[int, ...]]] = None, /,
                  part: str = "", **fields: Any) -> Tuple[str, ...]:
        """Write a node with as many outputs as the operator has."""
        return self._builder.write(self, kind, (blob,), self.shapes if shapes is None else shapes, part, fields)

    def is_layer(self, kind: type) -> bool:
        """Whether the operator computes with the parameters of a layer of some type."""
        owner = self._builder.naming.layer(self._node)
        return owner is not None and isinstance(owner[1], kind)

    def output_grid(self) -> Optional[Grid]:
        """The grid that an output is rounded to where this operator stands, None for an operator like others."""
        quantizer = self._builder.marks.get(self._node.name)
        return None if quantizer is None else grid_of_quantizer(quantizer, self._builder.arithmetic)

    @property
    def is_quantized(self) -> bool:
        """Whether the operator's layer is to compute in integers."""
        return self._builder.quantized_layer(self._node) is not None

    @property
    def spreads(self) -> bool:
        """See `Arithmetic.spreads`."""
        return self._builder.arithmetic.spreads

    def quantized(self, weight: np.ndarray) -> Tuple[str, Optional[Quantization]]:
        """(Blob that the operator's layer reads, how it computes in integers; None where it stays float).

        Where the engine has more codes than the layer's grid, what the grid cuts off is cut off in front of the layer.
        """
        layer, arithmetic = self._builder.quantized_layer(self._node), self._builder.arithmetic
        if layer is None:
            return self.blob(), None
        quantization = quantization_of(layer, weight, arithmetic, self._builder.grid_of(self.blob()))
        if quantization is None:
            return self.blob(), None
        grid, clip = arithmetic.held(quantization.input)
        if clip is None:
            return self.blob(), quantization
        blob = self.emit(Activation, self.blob(), self.in_shape(), part="clip", function=Function("clip", clip))
        return blob, replace(quantization, input=grid)

# SPDX-License-Identifier: MIT
"""An ONNX graph as the operator functions see it: `Graph` and the `Node` views of what computes from images."""

from __future__ import annotations

from typing import Any, Dict, Sequence, Tuple

import numpy as np
import onnx
from onnx import TensorProto

from quantize.errors import ModelFileError
from quantize.files import PathLike
from quantize.importers.graph_block import LayerSpec, Names, Step
from quantize.importers.onnx import file
from quantize.importers.onnx.channels_last import (
    TO_CHANNELS_FIRST,
    TO_CHANNELS_LAST,
    Mover,
    permutation,
    wants_channels_last,
)
from quantize.importers.onnx.facts import Facts, Shape
from quantize.importers.onnx.qoperators import Expansion
from quantize.importers.onnx.quantized import Quantized
from quantize.importers.onnx.reshapes import BATCH
from quantize.importers.onnx.sizes import Size, known
from quantize.importers.refused import Refused

# Operators that read images alone: their input has four axes also where the file says nothing.
_OF_IMAGES = {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LRN",
              "BatchNormalization", "Upsample"}

#: An operator and its attributes.
Stage = Tuple[str, Dict[str, Any]]


class Graph:
    """An ONNX graph with its inputs, those that are not initializers.

    Parameters
    ----------
    path : str
        The file; every error names it.
    channels_first : bool
        Take (N, C, H, W) images also where the file wants (N, H, W, C).
    keep_grids : bool
        What layers of a file that is quantized round is noted in `grids`, and not computed by operators.

    Attributes
    ----------
    layout : str
        "NHWC" where the graph's input is (N, H, W, C), else "NCHW".
    facts : Facts
        What is known before anything runs; `facts.nodes` compute from images.
    input, input_shape, input_kind : str, tuple or None, int
        Name, declared shape (None for open lengths) and element type of the graph's input.
    fixed : int or None
        The batch size that the file fixes.
    used_constants : dict of str to numpy.ndarray
        Those that functional operators read at run time.
    grids : dict
        Child of the block -> what `quantized` says of it.
    fused : set of str
        Outputs whose nodes became part of an earlier node's layer.
    quantized : Quantized
        What a file that is quantized already says of its grids.
    uses : dict of str to list of onnx.NodeProto or None
        Who reads each tensor; None stands for the graph's output.
    """

    def __init__(self, path: PathLike, channels_first: bool = False, keep_grids: bool = False):
        self.path = str(path)
        self.model, self.opset = file.load(self.path)
        graph = self.model.graph
        constants = file.initializers(self.path, graph)
        first, *self.others = self._find_inputs(constants)
        self.input, self.input_shape, self.input_kind = first
        lengths = self._lengths(*first[:2])
        self._beside = {name: (kind, self._lengths(name, shape)) for name, shape, kind in self.others}
        self.fixed = self.input_shape[0] if self.input_shape and lengths[0] == BATCH else None
        self.outputs = [output.name for output in graph.output]
        expansion = Expansion(graph.node, constants)
        constants.update(expansion.constants)
        self.quantized = Quantized(expansion.nodes, constants, self.outputs, keep_grids)
        self.facts = Facts(constants, self.quantized.nodes,
                           {self.input: (self.input_kind, lengths), **self._beside}, self.opset, self.fixed)
        # which of several inputs are images, nobody says: they stay as they are
        self._move_transposes(lengths, channels_first and not self.others)
        self.used_constants: dict[str, np.ndarray] = {}
        self.names = Names()
        self.grids: dict[str, Any] = {}
        self.fused: set[str] = set()
        self._drop_unread()
        self._aliases = {name: name for name in (self.input, *self._beside)}

    def _find_inputs(self, constants):
        """(Name, declared shape, element type) of each."""
        inputs = [value for value in self.model.graph.input if value.name not in constants]
        if not inputs:
            raise ModelFileError(f"{self.path}: the graph has no input")
        found = []
        for value in inputs:
            kind = value.type.tensor_type
            if kind.elem_type not in (TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32,
                                      TensorProto.INT64):
                raise ModelFileError(f"{self.path}: input {value.name!r} must hold numbers (float, uint8, int8, int32 "
                                     "or int64)")
            found.append((value.name, _declared(kind), kind.elem_type))
        return found

    def _lengths(self, name, shape):
        """An input's shape with its open lengths named; axis 0 is the batch, except of a lone colour image."""
        if shape is None:
            readers = {node.op_type for node in self.model.graph.node if name in node.input}
            shape = (None,) * 4 if readers & _OF_IMAGES else None
        if not shape:
            return None
        lengths = [Size(1, (f"{name}[{axis}]",)) if length is None else length for axis, length in enumerate(shape)]
        if not (len(shape) == 3 and shape[0] in (1, 3, 4)):
            lengths[0] = BATCH
        return tuple(lengths)

    def _move_transposes(self, lengths, channels_first) -> None:
        """Let Transposes meet and vanish; the images' own too, where (N, C, H, W) is wanted."""
        last = wants_channels_last(self.facts, self.input, self.input_shape)
        self.layout = "NHWC" if last and not channels_first else "NCHW"
        turned = last and channels_first
        if not turned and all(permutation(proto, self.facts) is None for proto in self.facts.nodes):
            return
        mover = Mover(self.facts, self.outputs)
        if turned:
            source = self.input + "_channels_first"
            mover.pending[self.input] = source, TO_CHANNELS_LAST
            self.input = source
            self.input_shape, lengths = (tuple(shape[axis] for axis in TO_CHANNELS_FIRST)
                                         for shape in (self.input_shape, lengths))
        mover.run()
        self.facts = Facts(mover.constants, mover.nodes, {self.input: (self.input_kind, lengths), **self._beside},
                           self.opset, self.fixed, self.facts.sizes)

    def _drop_unread(self) -> None:
        """Leave out what contributes to no output, and note who reads what is left."""
        self.uses: dict[str, list] = {name: [None] for name in self.outputs}
        live = []
        for proto in reversed(self.facts.nodes):
            # one that makes nothing at all is wrong, not unread: its check says so
            if not proto.output or any(name in self.uses for name in proto.output):
                live.append(proto)
                for name in [name for name in proto.input if name]:
                    self.uses.setdefault(name, []).append(proto)
        self.nodes = live[::-1]

    def rename_input(self, name: str, value: str) -> None:
        """From now on an input of the graph is what the step that made `value` gives."""
        self._aliases[name] = value

    def define(self, tensor: str, value: str | None = None) -> None:
        """Declare that `tensor` now exists, being another name of `value` if one is given; the first call counts."""
        self._aliases.setdefault(tensor, tensor if value is None else value)

    def is_defined(self, tensor: str) -> bool:
        """Whether a tensor exists."""
        return tensor in self._aliases

    def resolve(self, tensor: str, reader: str) -> str:
        """The tensor behind an alias; ModelFileError when nothing produces it."""
        if tensor not in self._aliases:
            if self.facts.value(tensor) is not None:
                raise ModelFileError(f"{self.path}: {reader} {tensor!r} does not depend on the graph's input")
            raise ModelFileError(f"{self.path}: node {reader!r} reads tensor {tensor!r}, which is neither an "
                                 "initializer nor made by an earlier node")
        return self._aliases[tensor]


class Node:
    """One ONNX node as the operator functions see it; every attribute must be taken, or the node is refused."""

    def __init__(self, graph: Graph, proto: onnx.NodeProto):
        self.graph = graph
        self._proto = proto
        self.op = proto.op_type
        self.domain = proto.domain
        self.label = proto.name or ", ".join(proto.output)
        self.opset = graph.opset
        self.name = graph.names.unique(self.label, proto.op_type)
        self.inputs = list(proto.input)
        self.outputs = list(proto.output)
        self.attributes = {entry.name: entry for entry in proto.attribute}
        self.same = ""  # which SAME of auto_pad it wants

    def check(self) -> None:
        """Refuse a node whose inputs, outputs or attributes are not those that ONNX gives the operator."""
        if not onnx.defs.has(self.op):
            return  # newer than the installed library; its function checks what it needs
        context = onnx.checker.C.CheckerContext()
        context.ir_version, context.opset_imports = min(self.graph.model.ir_version, onnx.IR_VERSION), {"": self.opset}
        try:
            onnx.checker.check_node(self._proto, context)
        except onnx.checker.ValidationError as error:
            raise Refused(file.first_line(error)) from error

    def take(self, key: str, default: Any = None) -> Any:
        """An attribute's value (bytes as str); it counts as understood from now on."""
        if key not in self.attributes:
            return default
        value = onnx.helper.get_attribute_value(self.attributes.pop(key))
        return value.decode(errors="replace") if isinstance(value, bytes) else value

    def take_again(self, key: str, default: Any = None) -> Any:
        """An attribute's value; it is still to be taken."""
        value = self.attributes.get(key)
        return default if value is None else onnx.helper.get_attribute_value(value)

    def put(self, key: str, value: Any) -> None:
        """Give the node another value of an attribute."""
        self.attributes[key] = onnx.helper.make_attribute(key, value)

    def only(self, key: str, *allowed: Any) -> Any:
        """An attribute that may have the `allowed` values only; the first is the default."""
        value = self.take(key, allowed[0])
        if value not in allowed:
            raise Refused(f"{key}={value!r} (supported: {', '.join(map(repr, allowed))})")
        return value

    def numbers(self, key: str, length: int, default: Sequence[Any]) -> tuple:
        """A list attribute of the given length."""
        value = tuple(self.take(key, default))
        if len(value) != length:
            raise Refused(f"{key}={list(value)} (supported: {length} numbers)")
        return value

    def has(self, index: int) -> bool:
        """Whether the optional input `index` is given."""
        return index < len(self.inputs) and bool(self.inputs[index])

    def known(self, index: int) -> np.ndarray | None:
        """The array of input `index`, in which sizes may be open; None when that input is absent."""
        if not self.has(index):
            return None
        value = self.graph.facts.value(self.inputs[index])
        if value is None:
            self.graph.resolve(self.inputs[index], self.name)
            raise Refused(f"input {index} ({self.inputs[index]!r}) must be a constant")
        return value

    def constant(self, index: int) -> np.ndarray | None:
        """The constant value of input `index`; None when that input is absent."""
        value = self.known(index)
        if value is not None and self.inputs[index] not in self.graph.facts.constants:
            raise Refused(f"input {index} ({self.inputs[index]!r}) depends on a size that the file leaves open")
        return value

    def weight(self, index: int) -> np.ndarray | None:
        """A constant that must be finite; None when that input is absent."""
        value = self.constant(index)
        if value is not None and value.dtype.kind == "f" and not np.isfinite(value).all():
            raise ModelFileError(f"{self.graph.path}: tensor {self.inputs[index]!r} holds NaN or infinity (node "
                                 f"{self.label!r})")
        return value

    def is_constant(self, index: int) -> bool:
        """Whether input `index` is known before anything runs."""
        return self.inputs[index] in self.graph.facts.constants

    def value(self, index: int = 0) -> str:
        """The tensor of input `index` at run time; a constant becomes a Constant parameter of the block."""
        if not self.has(index):
            raise Refused(f"input {index} is missing")
        tensor = self.inputs[index]
        if self.is_constant(index):
            return self.stored(tensor, self.graph.facts.constants[tensor])
        if tensor in self.graph.facts.sizes:
            raise Refused(f"input {index} ({tensor!r}) depends on a size that the file leaves open")
        return self.graph.resolve(tensor, self.name)

    def stored(self, name: str, array: np.ndarray, source: str = "") -> str:
        """The name under which the block keeps an array, made of the tensor `source`; NaN is refused."""
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise ModelFileError(f"{self.graph.path}: tensor {(source or name)!r} holds NaN (node {self.label!r})")
        self.graph.used_constants[name] = array
        return name

    def sizes(self, index: int = 0) -> Any:
        """The shape of an input with its open lengths as Sizes, or None."""
        return self.graph.facts.shape(self.inputs[index]) if self.has(index) else None

    def shape(self, index: int = 0) -> tuple[int | None, ...] | None:
        """The shape of an input with None for open lengths, or None."""
        return known(self.sizes(index))

    def kind(self, index: int = 0) -> int:
        """The ONNX element type of an input."""
        value = self.graph.facts.value(self.inputs[index])
        return self.graph.facts.kinds.get(self.inputs[index], TensorProto.FLOAT) if value is None else (
            onnx.helper.np_dtype_to_tensor_dtype(value.dtype))

    def output_sizes(self, index: int = 0) -> Shape:
        """The shape of an output, or None."""
        return self.graph.facts.shape(self.outputs[index])

    def rank(self, index: int = 0) -> int:
        """The number of axes of an input."""
        if self.sizes(index) is None:
            raise Refused("the number of axes of its input is unknown; declare the shape of the graph's input")
        return len(self.sizes(index))

    def axis(self, value: int, index: int = 0) -> int:
        """An axis counted from the front; a negative one needs the input's rank."""
        if self.sizes(index) is None and value >= 0:
            return value
        if not -self.rank(index) <= value < self.rank(index):
            raise Refused(f"axis {value} of a tensor of {self.rank(index)} axes")
        return value % self.rank(index)

    def check_size(self, axis: int, size: int) -> None:
        """Refuse an input whose static size along `axis` is not the one that the weights need."""
        shape = self.shape()
        if shape is not None and len(shape) > max(axis, 0) and shape[axis] not in (None, size):
            raise Refused(f"the weights need {size} values along axis {axis}, the input is {shape}")

    def chain(self, *stages: LayerSpec | Stage, start: str | None = None, output: str | None = None) -> list[Step]:
        """Steps that apply `stages` one after the other: (operator, attributes) pairs, or a LayerSpec."""
        value, steps = start or self.value(), []
        for index, stage in enumerate(stages):
            last = index == len(stages) - 1
            name = self.name if isinstance(stage, LayerSpec) or len(stages) == 1 else self.part(stage[0])
            result = (output or self.outputs[0]) if last else name + ":out"
            if isinstance(stage, LayerSpec):
                steps.append(Step(name, (value,), (result,), layer=stage))
            else:
                steps.append(Step(name, (value,), (result,), stage[0], stage[1]))
            value = result
        return steps

    def alias(self, value: str | None = None) -> list[Step]:
        """No step at all: the output is another name of `value`, by default of the first input."""
        self.graph.define(self.outputs[0], self.value() if value is None else value)
        return []

    def part(self, what: str) -> str:
        """A unique name for a helper step of this node."""
        return self.graph.names.unique(f"{self.name}_{what.lower()}")

    def helper(self, op: str, *inputs: str, **attrs: Any) -> Step:
        """A helper step with an output of its own: read it as ``step.outputs[0]``."""
        name = self.part(op.strip("_"))
        return Step(name, inputs, (name + ":out",), op, attrs)

    def joined(self, op: str, *inputs: str, **attrs: Any) -> Step:
        """The last step: `op` of several tensors."""
        return Step(self.name, inputs, (self.outputs[0],), op, attrs)


def _declared(kind):
    if not kind.HasField("shape"):
        return None
    return tuple(dim.dim_value or None for dim in kind.shape.dim)

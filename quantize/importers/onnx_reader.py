# SPDX-License-Identifier: MIT
"""Reads an ONNX file into a `Graph` of `Node` views: attributes, constants and static shapes, checked on demand."""

import json
from typing import Dict, List

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper, shape_inference

from quantize.errors import ModelFileError
from quantize.importers.graph_block import LayerSpec, Names, Step


class Refused(Exception):
    """A node that cannot be imported; the text says why."""


class Graph:
    """An ONNX graph with exactly one input that is not an initializer.

    Parameters
    ----------
    path : str
        The file; every error names it.

    Attributes
    ----------
    constants : dict of str to numpy.ndarray
        Initializers, and later the values of Constant nodes.
    used_constants : dict of str to numpy.ndarray
        Those that functional operators read at run time.
    fused : set of str
        Outputs whose nodes became part of an earlier node's layer.
    uses : dict of str to list of onnx.NodeProto or None
        Who reads each tensor; None stands for the graph's output.
    """

    def __init__(self, path: str):
        self.path = str(path)
        self.model = _load(self.path)
        self.opset = next((entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")), 0)
        if not self.opset or not self.model.graph.node:
            raise ModelFileError(f"{self.path}: not an ONNX model (no operator set or no nodes)")
        self.constants = {proto.name: self.read_array(proto) for proto in self.model.graph.initializer}
        self.used_constants: Dict[str, np.ndarray] = {}
        self.names = Names()
        self.fused = set()
        self.uses: Dict[str, list] = {}
        for proto in self.model.graph.node:
            for name in proto.input:
                self.uses.setdefault(name, []).append(proto)
        for output in self.model.graph.output:
            self.uses.setdefault(output.name, []).append(None)
        self.input, self.input_shape = self._find_input()
        self._aliases = {self.input: self.input}
        self._shapes = None

    def read_array(self, proto) -> np.ndarray:
        """The values of a TensorProto."""
        try:
            return numpy_helper.to_array(proto)
        except (ValueError, TypeError, OSError) as error:
            raise ModelFileError(f"{self.path}: tensor {proto.name!r} cannot be read: {_first_line(error)}") from error

    def _find_input(self):
        inputs = [value for value in self.model.graph.input if value.name not in self.constants]
        if len(inputs) != 1:
            raise ModelFileError("{}: needs exactly one graph input, has {}: {}".format(
                self.path, len(inputs), ", ".join(value.name for value in inputs) or "none"))
        kind = inputs[0].type.tensor_type
        if kind.elem_type != onnx.TensorProto.FLOAT:
            raise ModelFileError(f"{self.path}: input {inputs[0].name!r} must be float32")
        return inputs[0].name, _shape(kind)

    def define(self, tensor: str, value=None) -> None:
        """Declare that `tensor` now exists, being another name of `value` if one is given; the first call counts."""
        self._aliases.setdefault(tensor, tensor if value is None else value)

    def resolve(self, tensor: str, reader: str) -> str:
        """The tensor behind an alias; ModelFileError when nothing produces it."""
        if tensor not in self._aliases:
            raise ModelFileError(f"{self.path}: node {reader!r} reads tensor {tensor!r}, which is neither an "
                                 "initializer nor "
                                 "made by an earlier node")
        return self._aliases[tensor]

    def shape(self, tensor: str):
        """The static shape (None for symbolic dimensions) as ONNX infers it, or None."""
        if self._shapes is None:
            try:
                graph = shape_inference.infer_shapes(self.model).graph
            except Exception as error:  # onnx raises its own InferenceError, RuntimeError or ValueError here
                raise ModelFileError(f"{self.path}: {_first_line(error)}") from error
            values = list(graph.value_info) + list(graph.input) + list(graph.output)
            self._shapes = {value.name: _shape(value.type.tensor_type) for value in values}
        return self._shapes.get(tensor)

    def check_finite(self) -> None:
        """ModelFileError for NaN or infinity in any float constant."""
        for name, array in self.constants.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ModelFileError(f"{self.path}: tensor {name!r} holds NaN or infinity")

    def preprocessing(self):
        """The JSON of the metadata key 'preprocessing', or None."""
        text = {entry.key: entry.value for entry in self.model.metadata_props}.get("preprocessing")
        try:
            return None if text is None else json.loads(text)
        except ValueError as error:
            raise ModelFileError(f"{self.path}: metadata 'preprocessing' is not JSON: {error}") from error


class Node:
    """One ONNX node as the operator functions see it; every attribute must be taken, or the node is refused."""

    def __init__(self, graph: Graph, proto):
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

    def check(self) -> None:
        """Refuse a node whose inputs, outputs or attributes are not those that ONNX gives the operator."""
        context = onnx.checker.C.CheckerContext()
        context.ir_version, context.opset_imports = self.graph.model.ir_version, {"": self.opset}
        try:
            onnx.checker.check_node(self._proto, context)
        except onnx.checker.ValidationError as error:
            raise Refused(_first_line(error)) from error

    def take(self, key: str, default=None):
        """An attribute's value (bytes as str); it counts as understood from now on."""
        if key not in self.attributes:
            return default
        value = onnx.helper.get_attribute_value(self.attributes.pop(key))
        return value.decode() if isinstance(value, bytes) else value

    def only(self, key: str, *allowed):
        """An attribute that may have the `allowed` values only; the first is the default."""
        value = self.take(key, allowed[0])
        if value not in allowed:
            raise Refused("{}={!r} (supported: {})".format(key, value, ", ".join(repr(a) for a in allowed)))
        return value

    def numbers(self, key: str, length: int, default) -> tuple:
        """A list attribute of the given length."""
        value = tuple(self.take(key, default))
        if len(value) != length:
            raise Refused(f"{key}={list(value)} (supported: {length} numbers)")
        return value

    def has(self, index: int) -> bool:
        """Whether the optional input `index` is given."""
        return index < len(self.inputs) and bool(self.inputs[index])

    def constant(self, index: int):
        """The constant value of input `index`; None when that input is absent."""
        if not self.has(index):
            return None
        if self.inputs[index] not in self.graph.constants:
            self.graph.resolve(self.inputs[index], self.name)
            raise Refused(f"input {index} ({self.inputs[index]!r}) must be a constant")
        return self.graph.constants[self.inputs[index]]

    def is_constant(self, index: int) -> bool:
        """Whether input `index` is known before anything runs."""
        return self.inputs[index] in self.graph.constants

    def value(self, index: int = 0) -> str:
        """The tensor of input `index` at run time; a constant becomes a Constant parameter of the block."""
        if not self.has(index):
            raise Refused(f"input {index} is missing")
        tensor = self.inputs[index]
        if self.is_constant(index):
            self.graph.used_constants[tensor] = self.graph.constants[tensor]
            return tensor
        return self.graph.resolve(tensor, self.name)

    def shape(self, index: int = 0):
        """The static shape of an input, or None."""
        return self.graph.shape(self.inputs[index])

    def check_size(self, axis: int, size: int) -> None:
        """Refuse an input whose static size along `axis` is not the one that the weights need."""
        shape = self.shape()
        if shape is not None and len(shape) > max(axis, 0) and shape[axis] not in (None, size):
            raise Refused(f"the weights need {size} values along axis {axis}, the input is {shape}")

    def chain(self, *stages, start=None, output=None) -> List[Step]:
        """Steps that apply `stages` one after the other: (operator, attributes) pairs, or a LayerSpec."""
        value, steps = start or self.value(), []
        for index, stage in enumerate(stages):
            is_layer, last = isinstance(stage, LayerSpec), index == len(stages) - 1
            name = self.name if is_layer or len(stages) == 1 else self.part(stage[0])
            result = (output or self.outputs[0]) if last else name + ":out"
            if is_layer:
                steps.append(Step(name, (value,), (result,), layer=stage))
            else:
                steps.append(Step(name, (value,), (result,), stage[0], stage[1]))
            value = result
        return steps

    def part(self, what: str) -> str:
        """A unique name for a helper step of this node."""
        return self.graph.names.unique(f"{self.name}_{what.lower()}")

    def joined(self, op: str, *inputs: str) -> Step:
        """The last step: `op` of several tensors."""
        return Step(self.name, inputs, (self.outputs[0],), op)


def _load(path: str):
    try:
        return onnx.load(path)
    except FileNotFoundError as error:
        raise ModelFileError(f"{path}: no such file (or its external weights): {error}") from error
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelFileError(f"{path}: not a readable ONNX file (truncated?): {_first_line(error)}") from error


def _shape(kind):
    if not kind.HasField("shape"):
        return None
    return tuple(dim.dim_value or None for dim in kind.shape.dim)


def _first_line(error) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

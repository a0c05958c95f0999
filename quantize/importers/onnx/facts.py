# SPDX-License-Identifier: MIT
"""What can be known of a graph before anything runs: constants, sizes, shapes and types; and the nodes that are left.

Nodes that depend on constants or shapes alone are evaluated here (the Shape-Gather-Concat chains that exporters write
for an open batch, weights behind a Transpose or DequantizeLinear); the operator functions see only their results.
"""

from __future__ import annotations

from typing import Any, Iterable, Mapping, Optional, Tuple

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from quantize.importers.onnx import evaluate
from quantize.importers.onnx.reshapes import BATCH
from quantize.importers.onnx.shape_rules import RULES
from quantize.importers.onnx.sizes import Length, OpenSize, Size, array_of, is_open, whole
from quantize.importers.refused import Refused

# onnx's own shape inference divides by these without a look, which ends the process.
_DIVISORS = ("strides", "dilations", "kernel_shape", "group", "blocksize", "num_groups", "num_outputs", "split")
# Which input is the kernel: onnx takes its axes for those of the image without a look, and reads behind its memory.
_KERNELS = {"Conv": 1, "ConvTranspose": 1, "ConvInteger": 1, "DeformConv": 1, "QLinearConv": 3}
# What onnx's inference ends the process over, whatever they are given; none of them is imported.
_DEADLY = ("Einsum", "OneHot", "MaxUnpool")
_ENDS = ("starts", "ends")  # may be as large as int64 is: as far as there is something
# Numbers that no attribute of a CNN has: it counts up to them, or adds to them until they wrap.
_LARGEST_INT, _LARGEST_SIZE = 2 ** 20, 2 ** 31
# ONNX writes sizes and axes as int64; longer constants say nothing about shapes.
_SHORT = 64

Shape = Optional[Tuple[Length, ...]]


class Facts:
    """A graph after everything that needs no image was evaluated.

    Parameters
    ----------
    constants : dict of str to numpy.ndarray
        The initializers; what is evaluated is added to a copy.
    nodes : sequence of onnx.NodeProto
    inputs : dict of str to (int, tuple or None)
        Element type and shape of the tensors that come from outside; axis 0 of an image is `BATCH`.
    opset : int
    fixed : int or None
        The batch size that the file fixes.
    sizes : dict of str to numpy.ndarray, optional
        What is known of integer arrays with open sizes already.

    Attributes
    ----------
    constants : dict of str to numpy.ndarray
    sizes : dict of str to numpy.ndarray of object
        Integer arrays in which some sizes are open.
    shapes : dict of str to tuple or None
    kinds : dict of str to int
        Element types.
    nodes : list of onnx.NodeProto
        Those that compute from images.
    """

    def __init__(self, constants: Mapping[str, np.ndarray], nodes: Iterable[onnx.NodeProto],
                 inputs: Mapping[str, tuple[int, Shape]], opset: int, fixed: int | None,
                 sizes: Mapping[str, np.ndarray] | None = None):
        self.constants: dict[str, np.ndarray] = dict(constants)
        self.sizes: dict[str, np.ndarray] = dict(sizes or {})
        self.shapes: dict[str, Shape] = {name: shape for name, (_, shape) in inputs.items()}
        self.kinds: dict[str, int] = {name: kind for name, (kind, _) in inputs.items()}
        self.opset, self.fixed = opset, fixed
        self.nodes: list[onnx.NodeProto] = []
        self._named: dict[str, Size] = {}
        for proto in nodes:
            try:
                self._visit(proto)
            except (IndexError, TypeError, ValueError, AttributeError, KeyError):
                self.nodes.append(proto)  # malformed: the operator's function says how

    def value(self, name: str) -> Any:
        """The array behind a tensor that depends on no image (sizes in it may be open), or None."""
        return self.constants[name] if name in self.constants else self.sizes.get(name)

    def shape(self, name: str) -> Shape:
        """The shape of a tensor, as far as it is known."""
        value = self.value(name)
        return self.shapes.get(name) if value is None else value.shape

    def _visit(self, proto) -> None:
        if proto.op_type == "If" and self._chosen_branch(proto):
            return
        lengths = self.shape(proto.input[0]) if proto.op_type in ("Shape", "Size") else None
        if lengths is not None:
            self._store(proto.output[0], evaluate.shape_of(proto, lengths) if proto.op_type == "Shape"
                        else array_of(whole(lengths)))
            return
        values = [self.value(name) if name else None for name in proto.input]
        if all(value is not None for name, value in zip(proto.input, values) if name) and self._evaluated(
                proto, values):
            return
        self._infer(proto)
        self.nodes.append(proto)

    def _evaluated(self, proto, values) -> bool:
        """Store the outputs of a node whose inputs need no image; False where they cannot be computed."""
        results: list[Any] | None
        if evaluate.has_open(values):
            result = evaluate.evaluated_sizes(proto, values, self.opset)
            results = None if result is None else [result]
        elif self._too_large(proto):
            results = None
        else:
            results = evaluate.evaluated(proto, values, self.opset)
        for name, result in zip(proto.output, results or []):
            if name and result is not None:
                self._store(name, result)
        return results is not None

    def _too_large(self, proto) -> bool:
        """Whether the output would take more memory than a weight can want (a damaged or hostile file)."""
        if not self._is_sound(proto):
            return True
        for kind in self._inferred_types(proto).values():
            if np.prod([max(dim.dim_value, 1) for dim in kind.tensor_type.shape.dim], dtype=float) > evaluate.LARGEST:
                return True
        return False

    def _store(self, name, value) -> None:
        (self.sizes if is_open(value) else self.constants)[name] = value

    def _chosen_branch(self, proto) -> bool:
        """Take the branch of an If whose condition is known; False where it is not."""
        condition = self.constants.get(proto.input[0])
        if condition is None:
            return False
        branch = evaluate.attribute(proto, "then_branch" if condition.all() else "else_branch")
        self.constants.update((tensor.name, numpy_helper.to_array(tensor)) for tensor in branch.initializer)
        for inner in branch.node:
            self._visit(inner)
        for outer, inner in zip(proto.output, branch.output):
            self._visit(helper.make_node("Identity", [inner.name], [outer], name=proto.name))
        return True

    # ---- shapes

    def _infer(self, proto) -> None:
        """Shapes and types of a node's outputs."""
        types = self._inferred_types(proto)
        for name in [name for name in proto.output if name]:
            kind = types[name].tensor_type if name in types else onnx.TypeProto.Tensor()
            self.kinds[name] = kind.elem_type or self.kinds.get(proto.input[0] if proto.input else "", 1)
            self.shapes[name] = self._lengths(proto, name, kind)
        if proto.op_type in RULES and proto.domain in ("", "ai.onnx"):
            try:
                shape = RULES[proto.op_type](proto, self)
            except (Refused, OpenSize, IndexError, TypeError):
                return  # the operator's function will say what is wrong, if anything is
            if shape is not None:
                self.shapes[proto.output[0]] = shape

    def _inferred_types(self, proto) -> dict:
        """What onnx infers of one node, open sizes under their names."""
        if any(min(entry.ints, default=1) < 1 or (entry.type == onnx.AttributeProto.INT and entry.i < 1)
               for entry in proto.attribute if entry.name in _DIVISORS) or not self._is_sound(proto):
            return {}
        if proto.op_type == "Slice" and any(name in self.constants and not self.constants[name].all()
                                            for name in proto.input[4:]):
            return {}  # a step of 0
        try:
            schema = onnx.defs.get_schema(proto.op_type, min(self.opset, onnx.defs.onnx_opset_version()), "")
            short = {name: numpy_helper.from_array(self.constants[name], name) for name in proto.input
                     if name in self.constants and self.constants[name].size <= _SHORT}
            return shape_inference.infer_node_outputs(
                schema, proto, {name: self._type(name) for name in proto.input if name}, short,
                opset_imports=[helper.make_opsetid("", self.opset)])
        except Exception:  # onnx raises its own InferenceError, SchemaError, RuntimeError, ValueError or TypeError
            return {}

    def _is_sound(self, proto) -> bool:
        """Whether onnx's inference can be asked: it ends the process over some nodes, or counts for hours."""
        if proto.op_type in _DEADLY or not self._ranks_fit(proto):
            return False
        for entry in proto.attribute:
            if entry.type == onnx.AttributeProto.INT and abs(entry.i) > _LARGEST_INT:
                return False
            if entry.name not in _ENDS and any(abs(value) >= _LARGEST_SIZE for value in entry.ints):
                return False
        return True

    def _ranks_fit(self, proto) -> bool:
        """Whether a kernel has as many axes as what it is moved over, as far as both are known."""
        place = _KERNELS.get(proto.op_type)
        if place is None or len(proto.input) <= place:
            return True
        image, kernel = self.shape(proto.input[0]), self.shape(proto.input[place])
        return image is None or kernel is None or len(image) == len(kernel)

    def _type(self, name: str) -> onnx.TypeProto:
        value, lengths = self.value(name), self.shape(name)
        if value is not None:
            kind = helper.np_dtype_to_tensor_dtype(np.dtype("int64") if is_open(value) else value.dtype)
        else:
            kind = self.kinds.get(name, onnx.TensorProto.FLOAT)
        if lengths is None:
            return helper.make_tensor_type_proto(kind, None)
        self._named.update((str(length), length) for length in lengths if isinstance(length, Size))
        shape = [str(length) if isinstance(length, Size) else int(length) for length in lengths]
        return helper.make_tensor_type_proto(kind, shape)

    def _lengths(self, proto, name, kind) -> Shape:
        """An inferred shape; what onnx leaves open gets the tensor's own names, the batch axis stays the batch."""
        if not kind.HasField("shape"):
            return None
        lengths: list[Length] = []
        for axis, dim in enumerate(kind.shape.dim):
            own = Size(1, (f"{name}[{axis}]",))
            lengths.append(dim.dim_value if dim.HasField("dim_value") else self._named.get(dim.dim_param, own))
        first = self.shape(proto.input[0]) if proto.input else None
        if lengths and first and lengths[0] == Size(1, (f"{name}[0]",)) and first[0] == BATCH:
            lengths[0] = BATCH
        return tuple(lengths)

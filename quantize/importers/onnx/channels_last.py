# SPDX-License-Identifier: MIT
"""Transposes are moved towards the end of the graph, where they meet their opposites and vanish.

Files made from Keras and TensorFlow hold (N, H, W, C) tensors with a Transpose around every convolution. A tensor
that is a Transpose of another is kept in mind as such a pair instead of being computed; what works on each element by
itself, or along axes that can be renamed, works on the other tensor. A Transpose is written only where it is needed.
"""

from __future__ import annotations

from typing import Any, Iterable, Sequence

import numpy as np
import onnx
from onnx import helper

from quantize.importers.onnx.evaluate import attribute
from quantize.importers.onnx.facts import Facts

TO_CHANNELS_FIRST, TO_CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)

_EACH = {"Relu", "LeakyRelu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Elu", "Selu", "Gelu", "Mish", "Swish",
         "HardSigmoid", "HardSwish", "ThresholdedRelu", "Round", "Cast", "Identity", "Sqrt", "Exp", "Log", "Abs", "Neg",
         "Reciprocal", "Floor", "Ceil", "Sign", "Erf", "Not", "Clip", "Dropout", "QuantizeLinear", "DequantizeLinear"}
_JOINED = {"Add", "Sub", "Mul", "Div", "Pow", "Sum", "Mean", "Max", "Min", "Where", "PRelu", "Equal", "Greater", "Less",
           "GreaterOrEqual", "LessOrEqual", "And", "Or", "Xor"}
_REDUCED = {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
            "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp", "Squeeze"}
_SHAPED = {"Reshape", "Flatten"}


class Mover:
    """Writes the nodes of a graph anew, with as few Transposes as it can.

    Parameters
    ----------
    facts : Facts
    outputs : sequence of str
        The graph's outputs.

    Attributes
    ----------
    nodes : list of onnx.NodeProto
    constants : dict of str to numpy.ndarray
    """

    def __init__(self, facts: Facts, outputs: Iterable[str]):
        self.facts, self.outputs = facts, set(outputs)
        self.nodes: list[onnx.NodeProto] = []
        self.constants = dict(facts.constants)
        # tensor -> (other tensor, perm): it is that tensor with its axes in the order `perm`
        self.pending: dict = {}
        self._written: set = set()

    def run(self) -> None:
        """Write all nodes."""
        for proto in self.facts.nodes:
            if not self._moved(proto):
                for name in proto.input:
                    self._write(name)
                self.nodes.append(proto)
            for name in proto.output:
                if name in self.outputs:
                    self._write(name)

    def _write(self, name) -> None:
        """Write the Transpose that makes a pending tensor, once."""
        if name in self.pending and name not in self._written:
            self._written.add(name)
            source, perm = self.pending[name]
            moves: dict[str, Any] = dict(perm=list(perm)) if list(perm) != sorted(perm) else {}
            kind = "Transpose" if moves else "Identity"
            self.nodes.append(helper.make_node(kind, [source], [name], name=f"{name}_transposed", **moves))

    def _moved(self, proto) -> bool:
        """Whether the node was written in another order of axes (or is a Transpose that is only kept in mind)."""
        rank = len(self.facts.shape(proto.input[0]) or ()) if proto.input else 0
        if not rank or proto.domain not in ("", "ai.onnx"):
            return False
        perm = permutation(proto, self.facts)
        if perm is not None:
            if sorted(perm) != list(range(rank)):
                return False
            source, before = self.pending.get(proto.input[0], (proto.input[0], tuple(range(rank))))
            self.pending[proto.output[0]] = source, tuple(before[axis] for axis in perm)
            return True
        if proto.op_type in _JOINED:
            return self._joined(proto)
        if proto.input[0] not in self.pending:
            return False
        return self._of_one(proto)

    def _of_one(self, proto) -> bool:
        """A node whose first input is pending."""
        perm = self.pending[proto.input[0]][1]
        rest: list[Any] = [self.facts.constants.get(name) for name in proto.input[1:] if name]
        if any(value is None for value in rest):
            return self._concat(proto, perm) if proto.op_type == "Concat" else False
        if proto.op_type in _EACH and all(value.size == 1 for value in rest):
            return self._put(proto, perm)
        if proto.op_type in ("Split", "Softmax", "LogSoftmax", "Concat"):
            if proto.op_type.endswith("Softmax") and self.facts.opset < 13:
                return False
            if proto.op_type == "Concat" and rest:
                return False
            return self._along(proto, perm)
        if proto.op_type in _REDUCED:
            return self._reduced(proto, perm)
        if proto.op_type == "Pad" and len(proto.input) < 4:
            return self._padded(proto, perm)
        if proto.op_type in _SHAPED:
            return self._reshaped(proto, perm)
        return False

    def _put(self, proto, perm, inputs=None, result=None, **attrs) -> bool:
        """Write a node on the tensors behind its inputs; its outputs are pending with `result` (default `perm`)."""
        new = onnx.NodeProto()
        new.CopyFrom(proto)
        new.input[:] = [self.pending[name][0] if name in self.pending else name
                        for name in proto.input] if inputs is None else inputs
        kept = [entry for entry in proto.attribute if entry.name not in attrs]
        del new.attribute[:]
        new.attribute.extend(kept + [helper.make_attribute(key, value) for key, value in attrs.items()])
        for index, name in enumerate(proto.output):
            if name:
                new.output[index] = f"{name}_moved"
                self.pending[name] = new.output[index], tuple(perm if result is None else result)
        self.nodes.append(new)
        return True

    def _constant(self, name, array) -> str:
        """Keep an array as a constant of another name."""
        self.constants[name] = array
        return name

    def _joined(self, proto) -> bool:
        """Tensors of one order, and constants that are brought into it."""
        perms = {self.pending[name][1] for name in proto.input if name in self.pending}
        others = [name for name in proto.input if name not in self.pending]
        if len(perms) != 1 or any(name not in self.facts.constants for name in others):
            return False
        perm, inputs = perms.pop(), []
        for name in proto.input:
            if name in self.pending:
                inputs.append(self.pending[name][0])
                continue
            array = self.facts.constants[name]
            if array.ndim > len(perm):
                return False
            if array.size > 1:
                whole = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
                name = self._constant(f"{name}_moved_for_{proto.output[0]}", whole.transpose(np.argsort(perm)))
            inputs.append(name)
        return self._put(proto, perm, inputs)

    def _concat(self, proto, perm) -> bool:
        if any(self.pending.get(name, (None, None))[1] != perm for name in proto.input):
            return False
        return self._along(proto, perm)

    def _along(self, proto, perm) -> bool:
        """A node that works along the axis that its attribute names."""
        default = {"Split": 0, "Softmax": -1, "LogSoftmax": -1}.get(proto.op_type, 1)
        axis = attribute(proto, "axis", default)
        return -len(perm) <= axis < len(perm) and self._put(proto, perm, axis=int(perm[axis]))

    def _reduced(self, proto, perm) -> bool:
        """Axes that go, or become 1."""
        by_input = len(proto.input) > 1 and bool(proto.input[1])
        axes = self.facts.constants[proto.input[1]].ravel() if by_input else attribute(proto, "axes")
        if axes is None or not len(axes) or any(not -len(perm) <= axis < len(perm) for axis in axes):
            return False
        axes = [int(axis) % len(perm) for axis in axes]
        gone = [int(perm[axis]) for axis in axes]
        result = perm
        if proto.op_type == "Squeeze" or not attribute(proto, "keepdims", 1):
            left = [axis for index, axis in enumerate(perm) if index not in axes]
            result = [sorted(left).index(axis) for axis in left]
        source = self.pending[proto.input[0]][0]
        if by_input:
            name = self._constant(f"{proto.input[1]}_moved_for_{proto.output[0]}", np.array(gone, "int64"))
            return self._put(proto, perm, [source, name], result)
        return self._put(proto, perm, [source], result, axes=gone)

    def _padded(self, proto, perm) -> bool:
        """Pads, one for each end of every axis."""
        by_input = len(proto.input) > 1
        pads = self.facts.constants[proto.input[1]] if by_input else np.array(attribute(proto, "pads") or ())
        if pads.size != 2 * len(perm):
            return False
        moved = pads.reshape(2, -1)[:, np.argsort(perm)].ravel()
        source = self.pending[proto.input[0]][0]
        if by_input:
            name = self._constant(f"{proto.input[1]}_moved_for_{proto.output[0]}", moved)
            return self._put(proto, perm, [source, name, *proto.input[2:]])
        return self._put(proto, perm, [source], pads=[int(number) for number in moved])

    def _reshaped(self, proto, perm) -> bool:
        """A reshape of a tensor whose Transpose only moves axes of length 1 can read the other tensor."""
        shape = self.facts.shape(proto.input[0]) or ()  # `_moved` asked whether it is known
        long = [perm[axis] for axis, length in enumerate(shape) if length != 1]
        after = self.facts.shapes.get(proto.output[0])
        if long != sorted(long) or after is None or proto.op_type == "Flatten" and attribute(proto, "axis", 1) != 1:
            return False
        if proto.op_type == "Reshape" and (len(proto.input) < 2 or (self.facts.value(proto.input[1]) == 0).any()):
            return False
        new = onnx.NodeProto()
        new.CopyFrom(proto)
        new.input[0] = self.pending[proto.input[0]][0]
        self.nodes.append(new)
        return True


def permutation(proto: onnx.NodeProto, facts: Facts) -> tuple[int, ...] | None:
    """The order of axes that a Transpose makes, or a Reshape that moves an axis of length 1; None for other nodes.

    tf2onnx writes such a Reshape for images of one channel.
    """
    before = facts.shape(proto.input[0]) if proto.input else None
    if proto.op_type == "Transpose" and before is not None:
        return tuple(attribute(proto, "perm") or reversed(range(len(before))))
    after = facts.shapes.get(proto.output[0]) if proto.op_type == "Reshape" else None
    if before is None or after is None or len(before) != 4 or len(after) != 4 or before == after:
        return None
    for axis, perm in ((3, TO_CHANNELS_FIRST), (1, TO_CHANNELS_LAST)):
        if before[axis] == 1 and tuple(before[number] for number in perm) == tuple(after):
            return perm
    return None


def wants_channels_last(facts: Facts, name: str, shape: Sequence[int | None] | None) -> bool:
    """Whether the graph's input is (N, H, W, C): what reads it goes on to a Transpose to (N, C, H, W)."""
    if shape is None or len(shape) != 4:
        return False
    reached = {name}
    found: list[tuple[int, ...] | None] = []
    for proto in facts.nodes:
        if not reached.intersection(proto.input):
            continue
        perm = permutation(proto, facts)
        if perm is not None:
            found.append(perm)
        elif proto.op_type in _EACH | _JOINED | {"Pad"}:
            reached.update(proto.output)
        else:
            found.append(None)
    return bool(found) and all(perm == TO_CHANNELS_FIRST for perm in found)

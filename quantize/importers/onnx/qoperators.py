# SPDX-License-Identifier: MIT
"""Files whose operators read and write codes (QLinearConv and its like), written out as what these compute.

Each becomes DequantizeLinear, the operator in float, and QuantizeLinear, which `quantized` then reads as it reads files
that were written so. What moves codes in between (a maximum, a reshape) moves real numbers instead.
"""

from __future__ import annotations

from typing import Any, Iterable, Mapping, NamedTuple

import numpy as np
import onnx
from onnx import helper

#: Operator in integers -> in float, of those that read (tensor, scale, zero point) for each operand and for the output.
PLAIN = {"QLinearMatMul": "MatMul", "QLinearAdd": "Add", "QLinearMul": "Mul", "QLinearGlobalAveragePool":
         "GlobalAveragePool", "QLinearAveragePool": "AveragePool", "QLinearSigmoid": "Sigmoid", "QLinearLeakyRelu":
         "LeakyRelu", "QLinearSoftmax": "Softmax"}
MOVING = ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Identity")
#: Attributes of ONNX Runtime's operators alone: what ONNX's do without them; None: whatever they say.
EXTRA = {"channels_last": 0, "opset": None}


class Scale(NamedTuple):
    """Names of the tensors that hold a scale and a zero point."""

    scale: str
    zero_point: str


class Expansion:
    """The nodes of a graph, written out.

    Attributes
    ----------
    nodes : list of onnx.NodeProto
    constants : dict
        Tensors that the file does not have: scales of biases.
    """

    def __init__(self, nodes: Iterable[onnx.NodeProto], constants: Mapping[str, np.ndarray]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self._known = constants
        self._codes: dict[str, Scale] = {}  # tensors of codes
        nodes = list(nodes)
        if not any(node.op_type.startswith("QLinear") or node.op_type == "QGemm" for node in nodes):
            self.nodes = nodes
            return
        for node in nodes:
            self._add(node)

    def _add(self, node: onnx.NodeProto) -> None:
        inputs = list(node.input)
        if node.op_type in PLAIN:
            pairs = (len(inputs) - 2) // 3
            sources = [self._real(node, *inputs[3 * i:3 * i + 3]) for i in range(pairs)]
            self._rounded(node, PLAIN[node.op_type], sources, Scale(*inputs[-2:]))
        elif node.op_type == "QLinearConcat":
            sources = [self._real(node, *inputs[i:i + 3]) for i in range(2, len(inputs), 3)]
            self._rounded(node, "Concat", sources, Scale(*inputs[:2]))
        elif node.op_type == "QLinearConv":
            sources = self._layer(node, inputs[:6], inputs[8] if len(inputs) > 8 else "", 0)
            self._rounded(node, "Conv", sources, Scale(*inputs[6:8]))
        elif node.op_type == "QGemm":
            self._gemm(node, inputs)
        elif node.op_type in MOVING and inputs and inputs[0] in self._codes:
            scale = self._codes[inputs[0]]
            self._rounded(node, node.op_type, [self._real(node, inputs[0], *scale), *inputs[1:]], scale)
        else:
            if node.op_type == "QuantizeLinear" and len(inputs) > 2:
                self._codes[node.output[0]] = Scale(*inputs[1:3])
            self.nodes.append(node)

    def _gemm(self, node: onnx.NodeProto, inputs: list[str]) -> None:
        inputs += [""] * (9 - len(inputs))
        transposed = any(entry.name == "transB" and entry.i for entry in node.attribute)
        sources = self._layer(node, inputs[:6], inputs[6], 0 if transposed else 1)
        if inputs[7]:
            self._rounded(node, "Gemm", sources, Scale(*inputs[7:9]))
        else:
            self._float(node, "Gemm", sources, node.output[0])

    def _layer(self, node: onnx.NodeProto, operands: list[str], bias: str, axis: int) -> list[str]:
        """Real input, weight and bias."""
        data, weight = operands[:3], operands[3:]
        sources = [self._real(node, data[0], data[1], data[2]),
                   self._real(node, weight[0], weight[1], weight[2], axis)]
        if bias:
            steps = [self._known.get(name) for name in (data[1], weight[1])]
            if steps[0] is not None and steps[1] is not None:
                name = node.output[0] + "_bias_scale"
                self.constants[name] = np.float32(steps[0]) * steps[1].astype(np.float32)
                sources.append(self._real(node, bias, name, "", 0))
            else:
                sources.append(bias)  # the importer refuses whole numbers there
        return sources

    def _real(self, node: onnx.NodeProto, codes: str, scale: str, zero_point: str, axis: int = 1) -> str:
        name = f"{node.output[0]}_real_{len(self.nodes)}"
        self.nodes.append(helper.make_node("DequantizeLinear", [codes, scale] + ([zero_point] if zero_point else []),
                                           [name], name=name, axis=axis))
        return name

    def _rounded(self, node: onnx.NodeProto, op: str, sources: list[str], scale: Scale) -> None:
        """The operator in float, and its output in codes."""
        real = node.output[0] + "_real"
        self._float(node, op, sources, real)
        self.nodes.append(helper.make_node("QuantizeLinear", [real, *scale], [node.output[0]],
                                           name=node.output[0] + "_codes"))
        self._codes[node.output[0]] = scale

    def _float(self, node: onnx.NodeProto, op: str, sources: list[str], output: str) -> None:
        found = helper.make_node(op, sources, [output], name=node.name or output)
        found.attribute.extend(entry for entry in node.attribute if not _drops(entry))
        self.nodes.append(found)


def _drops(entry: Any) -> bool:
    """Whether an attribute says no more than ONNX's operator does."""
    return entry.name in EXTRA and EXTRA[entry.name] in (None, helper.get_attribute_value(entry))

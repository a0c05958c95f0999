# SPDX-License-Identifier: MIT
"""Activation functions that networks write out in several operators, found and named."""

from dataclasses import fields
from typing import NamedTuple, Optional

from deploy.ir import Activation, Elementwise, Function, Node, ScalarOp
from deploy.lower.draft import Draft


class Gate(NamedTuple):
    """clip(x + offset, 0, height) of a blob `source`: `height` times a hard sigmoid (Howard, arXiv:1905.02244)."""

    source: str
    offset: float
    height: float

    def function(self, kind: str) -> Function:
        """`kind` hard_sigmoid or hard_swish of the source."""
        return Function(kind, (1 / self.height, self.offset / self.height))


def name_functions(draft: Draft):
    """Replace what ends a pattern by one Activation of the pattern's start; what nobody reads then is dropped later."""
    for node in draft.nodes(ScalarOp):
        _end_of_division(draft, node)
    for node in draft.nodes(Elementwise):
        _end_of_product(draft, node)


def _end_of_division(draft, node):
    """clip(x + b, 0, h) / h, and x * clip(x + b, 0, h) / h."""
    divisor = node.scalar if node.op == "div" else 1 / node.scalar if node.op == "mul" and node.scalar else None
    if divisor is None:
        return
    kind, gate = "hard_sigmoid", _gate(draft, node.inputs[0])
    if gate is None:
        kind, gate = "hard_swish", _gated(draft, draft.writer(node.inputs[0]))
    if gate is not None and abs(divisor / gate.height - 1) < 1e-6:
        draft.put(_activation(node, gate.source, gate.function(kind)))


def _gated(draft, product) -> Optional[Gate]:
    """The gate that `product` multiplies with the gate's own source."""
    if isinstance(product, Elementwise) and product.op == "mul" and len(product.inputs) == 2:
        for source, blob in (product.inputs, product.inputs[::-1]):
            gate = _gate(draft, blob)
            if gate is not None and gate.source == source:
                return gate
    return None


def _gate(draft, blob) -> Optional[Gate]:
    clip = draft.writer(blob)
    if not (isinstance(clip, Activation) and clip.function.kind == "clip" and clip.function.parameters[0] == 0):
        return None
    add = draft.writer(clip.inputs[0])
    if not (isinstance(add, ScalarOp) and add.op in ("add", "sub")):
        return None
    return Gate(add.inputs[0], add.scalar if add.op == "add" else -add.scalar, clip.function.parameters[1])


def _end_of_product(draft, node):
    """x * sigmoid(x) and x * hard_sigmoid(x)."""
    if node.op != "mul" or len(node.inputs) != 2:
        return
    kinds = {"sigmoid": "swish", "hard_sigmoid": "hard_swish"}
    for source, blob in (node.inputs, node.inputs[::-1]):
        gate = draft.writer(blob)
        if isinstance(gate, Activation) and gate.function.kind in kinds and gate.inputs[0] == source:
            draft.put(_activation(node, source, Function(kinds[gate.function.kind], gate.function.parameters)))
            return


def _activation(node: Node, source: str, function: Function) -> Activation:
    """An Activation of `source` with name, output and path of a node."""
    common = {field.name: getattr(node, field.name) for field in fields(Node)}
    return Activation(**dict(common, inputs=(source,)), function=function)

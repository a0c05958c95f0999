# SPDX-License-Identifier: MIT
"""ONNX operators that work element by element: F operators without parameters."""

import numpy as np
from onnx import TensorProto

from quantize.importers.graph_block import Step
from quantize.importers.refused import Refused

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
_FLOAT_MAX = float(np.finfo(np.float32).max)


def _binary(op, scalar_right, scalar_left):
    """Plan of a broadcasting operator; a single number is put into the operator itself."""
    def plan(node) -> list:
        constant = [node.is_constant(index) for index in (0, 1)]
        if all(constant):
            raise Refused("both inputs are constant")
        for index, scalar_op in ((1, scalar_right), (0, scalar_left)):
            # More than one dimension could add dimensions to the other operand, so those stay tensors.
            if constant[index] and node.constant(index).size == 1 and node.constant(index).ndim <= 1:
                number = float(node.constant(index).reshape(()))
                return node.chain((scalar_op, dict(scalar=number)), start=node.value(1 - index))
        return [node.joined(op, node.value(0), node.value(1))]
    return plan


def _add(node) -> list:
    shapes = [node.shape(index) for index in (0, 1)]
    same = shapes[0] is not None and shapes[0] == shapes[1] and None not in shapes[0][1:]
    if same and not any(node.is_constant(index) for index in (0, 1)):
        return [node.joined("elemwise_add", node.value(0), node.value(1))]
    return _binary("broadcast_add", "_plus_scalar", "_plus_scalar")(node)


def _clip(node) -> list:
    bounds = [node.take("min"), node.take("max")] if node.opset < 11 else [node.constant(1), node.constant(2)]
    low, high = (default if bound is None else float(bound)
                 for bound, default in zip(bounds, (-_FLOAT_MAX, _FLOAT_MAX)))
    return node.chain(("clip", dict(a_min=low, a_max=high)))


def _hard_sigmoid(node) -> list:
    return node.chain(("hard_sigmoid", dict(alpha=node.take("alpha", 0.2), beta=node.take("beta", 0.5))))


def _hard_swish(node) -> list:
    gate = node.part("gate")
    return [Step(gate, (node.value(),), (gate + ":out",), "hard_sigmoid", dict(alpha=1 / 6, beta=0.5)),
            node.joined("elemwise_mul", node.value(), gate + ":out")]


def _concat(node) -> list:
    step = node.joined("concat", *(node.value(index) for index in range(len(node.inputs))))
    return [step._replace(attrs=dict(dim=node.take("axis", 1)))]


def _cast(node) -> list:
    """Everything is computed in float32, so a cast to a float type changes nothing; whole numbers stay floats."""
    kind = node.take("to")
    node.take("saturate")
    if kind in FLOATS or node.kind() not in FLOATS:
        return node.alias()
    if kind == TensorProto.BOOL:
        return node.chain(("_not_equal_scalar", dict(scalar=0.0)))
    return node.chain(("fix", {}))


def _constant(node) -> list:
    # those that hold numbers were evaluated before
    raise Refused("no dense numeric value")


def _identity(node) -> list:
    return node.alias()


OPERATORS = {
    "Add": _add,
    "Sub": _binary("broadcast_sub", "_minus_scalar", "_rminus_scalar"),
    "Mul": _binary("broadcast_mul", "_mul_scalar", "_mul_scalar"),
    "Div": _binary("broadcast_div", "_div_scalar", "_rdiv_scalar"),
    "Clip": _clip,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Concat": _concat,
    "Identity": _identity,
    "Cast": _cast,
    "Constant": _constant,
}

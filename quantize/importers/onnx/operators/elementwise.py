# SPDX-License-Identifier: MIT
"""ONNX operators of several tensors that work element by element, shapes joined from the right as NumPy does."""

from __future__ import annotations

from typing import Any, Callable, List

import numpy as np
from onnx import TensorProto

from quantize.importers.graph_block import Step
from quantize.importers.onnx.graph import Node
from quantize.importers.onnx.operators.activations import FLOATS, round_half_even
from quantize.importers.refused import Refused

_FLOAT_MAX = float(np.finfo(np.float32).max)

Plan = Callable[[Node], List[Step]]


def operand(node: Node, index: int, rank: int | None = None) -> str:
    """An operand; a constant gets leading axes of length 1 up to `rank`, so that none is taken for the batch."""
    if not node.is_constant(index):
        return node.value(index)
    array: Any = node.constant(index)
    if rank is None or array.ndim >= rank:
        return node.value(index)
    return node.stored(f"{node.inputs[index]}_{rank}d", array.reshape((1,) * (rank - array.ndim) + array.shape),
                       node.inputs[index])


def common_rank(node: Node) -> int | None:
    """The number of axes of the result, or None where that is not known."""
    ranks: list[Any] = [None if node.sizes(index) is None else len(node.sizes(index))
                        for index in range(len(node.inputs))]
    return None if None in ranks else max(ranks)


def scalar_of(node: Node, index: int) -> float | None:
    """The number behind a constant operand that adds no axes to the other; None for any other operand."""
    array: Any = node.constant(index) if node.is_constant(index) else None
    if array is None or array.size != 1:
        return None
    rank = node.sizes(1 - index) if len(node.inputs) == 2 else None
    # more than one axis could add axes to the other operand
    if array.ndim > (1 if rank is None else max(len(rank), 1)):
        return None
    number = float(array.reshape(()))
    if np.isnan(number):
        node.stored(node.inputs[index], array)
    return number


def binary(op: str, scalar_right: str | None = None, scalar_left: str | None = None) -> Plan:
    """Plan of a broadcasting operator; a single number is put into the operator itself."""
    def plan(node) -> list:
        _without_axis(node)
        for index, scalar_op in ((1, scalar_right), (0, scalar_left)):
            number = scalar_of(node, index) if scalar_op else None
            if number is not None:
                return node.chain((scalar_op, dict(scalar=number)), start=node.value(1 - index))
        rank = common_rank(node)
        return [node.joined(op, operand(node, 0, rank), operand(node, 1, rank))]
    return plan


def _without_axis(node) -> None:
    """Before opset 7 an operator could say where its second operand is to lie."""
    node.only("broadcast", 0, 1)
    node.take("consumed_inputs")
    if node.take("axis") is not None:
        raise Refused("axis of an operator set before 7")


def _add(node) -> list:
    shapes = [node.sizes(index) for index in (0, 1)]
    if shapes[0] is not None and shapes[0] == shapes[1] and not any(node.is_constant(index) for index in (0, 1)):
        _without_axis(node)
        return [node.joined("elemwise_add", node.value(0), node.value(1))]
    return binary("broadcast_add", "_plus_scalar", "_plus_scalar")(node)


def _div(node) -> list:
    steps = binary("broadcast_div", "_div_scalar", "_rdiv_scalar")(node)
    if node.kind() in FLOATS:
        return steps
    # whole numbers are divided towards zero
    quotient = steps[-1]._replace(name=node.part("quotient"), outputs=(node.part("quotient") + ":out",))
    return steps[:-1] + [quotient, node.joined("fix", quotient.outputs[0])]


_POWERS = {1.0: "identity", 2.0: "square", 0.5: "sqrt", -1.0: "reciprocal", -0.5: "rsqrt"}


def _pow(node) -> list:
    exponent = scalar_of(node, 1)
    if exponent in _POWERS:
        return node.chain((_POWERS[exponent], {}))
    return binary("broadcast_power", "_power_scalar", "_rpower_scalar")(node)


def joined_in_turn(op: str, scalar_op: str, mean: bool = False) -> Plan:
    """Plan of an operator of any number of tensors, which takes them one after the other."""
    def plan(node) -> list:
        count, rank = len(node.inputs), common_rank(node)
        if count == 1:
            return node.alias()
        if count == 2 and not mean:
            return binary(op, scalar_op, scalar_op)(node)
        steps, result = [], operand(node, 0, rank)
        for index in range(1, count):
            steps.append(node.helper(op, result, operand(node, index, rank)))
            result = steps[-1].outputs[0]
        if mean:
            return steps + [node.joined("_mul_scalar", result, scalar=1 / count)]
        return steps[:-1] + [steps[-1]._replace(name=node.name, outputs=(node.outputs[0],))]
    return plan


def _sum(node) -> list:
    """Equal shapes are added at once, as MXNet's own exporter has it."""
    shapes = {node.sizes(index) for index in range(len(node.inputs))}
    if len(shapes) == 1 and None not in shapes and len(node.inputs) > 2 and not any(
            node.is_constant(index) for index in range(len(node.inputs))):
        return [node.joined("add_n", *(node.value(index) for index in range(len(node.inputs))))]
    if len(node.inputs) == 2:
        return _add(node)
    return joined_in_turn("broadcast_add", "_plus_scalar")(node)


def _clip(node) -> list:
    if node.opset < 11:
        bounds = [node.take("min"), node.take("max")]
    elif any(node.has(index) and not node.is_constant(index) for index in (1, 2)):
        return _clip_by_tensors(node)
    else:
        bounds = [node.constant(1), node.constant(2)]
    if any(bound is not None and np.size(bound) != 1 for bound in bounds):
        raise Refused("a bound of several values")
    low, high = (default if bound is None else float(np.reshape(bound, ()))
                 for bound, default in zip(bounds, (-_FLOAT_MAX, _FLOAT_MAX)))
    if np.isnan(low) or np.isnan(high):
        raise Refused(f"bounds {low} and {high}")
    return node.chain(("clip", dict(a_min=min(low, high), a_max=high)))


def _clip_by_tensors(node) -> list:
    """Bounds that are computed from images: a single value for all."""
    steps, result, rank = [], node.value(), node.rank()
    for index, op in ((1, "broadcast_maximum"), (2, "broadcast_minimum")):
        if node.has(index):
            bound = operand(node, index, rank)
            if not node.is_constant(index) and node.rank(index) < rank:
                raise Refused("a bound without axes that is computed from images")
            steps.append(node.helper(op, result, bound))
            result = steps[-1].outputs[0]
    return steps + node.alias(result)


def _where(node) -> list:
    """MXNet chooses between tensors of one shape, so all three are brought to it."""
    rank = common_rank(node)
    if rank is None or any(len(node.sizes(index)) < rank and not node.is_constant(index) for index in range(3)):
        raise Refused("tensors of different or unknown numbers of axes")
    values = [operand(node, index, rank) for index in range(3)]
    if node.sizes(0) == node.sizes(1) == node.sizes(2):
        return [node.joined("where", *values)]
    # zeros, because a sum of the values themselves could be infinite
    zeros = [node.helper("zeros_like", value) for value in values]
    first = node.helper("broadcast_add", zeros[0].outputs[0], zeros[1].outputs[0])
    whole = node.helper("broadcast_add", first.outputs[0], zeros[2].outputs[0])
    spread = [node.helper("broadcast_add", value, whole.outputs[0]) for value in values]
    return zeros + [first, whole] + spread + [node.joined("where", *(step.outputs[0] for step in spread))]


def _prelu(node) -> list:
    """One slope for all or for each channel is a layer; any other shape is max(x, 0) + slope * min(x, 0)."""
    from mxnet.gluon import nn

    from quantize.importers.graph_block import LayerSpec
    slope = node.weight(1)
    rank = None if node.sizes() is None else len(node.sizes())
    padded = slope if rank is None else slope.reshape((1,) * (rank - slope.ndim) + slope.shape)
    per_channel = (slope.ndim in (3, 4) and slope.shape[-2:] == (1, 1) and slope.shape[:-3] in ((), (1,))) or (
        rank == 2 and padded.shape[0] == 1)
    if slope.size == 1 or per_channel:
        return node.chain(LayerSpec(nn.PReLU, dict(in_channels=slope.size), {"alpha": slope.reshape(-1)}))
    if rank is None or slope.ndim > rank:
        raise Refused(f"a slope of shape {slope.shape} for an input of unknown or fewer axes")
    x = node.value()
    positive = node.helper("_maximum_scalar", x, scalar=0.0)
    negative = node.helper("_minimum_scalar", x, scalar=0.0)
    scaled = node.helper("broadcast_mul", negative.outputs[0], operand(node, 1, rank))
    return [positive, negative, scaled, node.joined("elemwise_add", positive.outputs[0], scaled.outputs[0])]


def _grid(node):
    """Scale and zero point of a (de)quantization as operands for the input's shape."""
    scale, zero = node.weight(1), node.constant(2)
    zero = np.zeros_like(scale) if zero is None else zero.astype("float32")
    axis = node.take("axis", 1)
    node.only("block_size", 0)
    if scale.size == 1:
        shape = (1,) * node.rank()
    else:
        shape = tuple(-1 if number == node.axis(axis) else 1 for number in range(node.rank()))
    return (node.stored(f"{node.inputs[1]}_scale_{node.name}", scale.reshape(shape)),
            node.stored(f"{node.inputs[1]}_zero_{node.name}", zero.reshape(shape)))


_RANGES = {TensorProto.INT8: (-128, 127), TensorProto.UINT8: (0, 255), TensorProto.INT16: (-32768, 32767),
           TensorProto.UINT16: (0, 65535)}


def _quantize(node) -> list:
    kind = node.kind(2) if node.has(2) else node.take("output_dtype", 0) or TensorProto.UINT8
    node.take("output_dtype")
    node.take("saturate")
    node.only("precision", 0, 1)
    if kind not in _RANGES:
        raise Refused(f"codes of ONNX type {TensorProto.DataType.Name(kind)}")
    scale, zero = _grid(node)
    divided = node.helper("broadcast_div", node.value(), scale)
    rounded = round_half_even(node, divided.outputs[0])
    moved = node.helper("broadcast_add", rounded[-1].outputs[0], zero)
    low, high = _RANGES[kind]
    return [divided, *rounded, moved, node.joined("clip", moved.outputs[0], a_min=float(low), a_max=float(high))]


def _dequantize(node) -> list:
    scale, zero = _grid(node)
    moved = node.helper("broadcast_sub", node.value(), zero)
    return [moved, node.joined("broadcast_mul", moved.outputs[0], scale)]


def _compared(name):
    mirrored = {"greater": "lesser", "lesser": "greater"}
    start = name.split("_")[0]
    swapped = name.replace(start, mirrored.get(start, start))
    return binary(f"broadcast_{name}", f"_{name}_scalar", f"_{swapped}_scalar")


OPERATORS = {
    "Add": _add,
    "Sub": binary("broadcast_sub", "_minus_scalar", "_rminus_scalar"),
    "Mul": binary("broadcast_mul", "_mul_scalar", "_mul_scalar"),
    "Div": _div,
    "Pow": _pow,
    "Sum": _sum,
    "Mean": joined_in_turn("broadcast_add", "_plus_scalar", mean=True),
    "Max": joined_in_turn("broadcast_maximum", "_maximum_scalar"),
    "Min": joined_in_turn("broadcast_minimum", "_minimum_scalar"),
    "Clip": _clip,
    "Where": _where,
    "PRelu": _prelu,
    "Equal": _compared("equal"),
    "Greater": _compared("greater"),
    "GreaterOrEqual": _compared("greater_equal"),
    "Less": _compared("lesser"),
    "LessOrEqual": _compared("lesser_equal"),
    "And": binary("broadcast_logical_and"),
    "Or": binary("broadcast_logical_or"),
    "Xor": binary("broadcast_logical_xor"),
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
}

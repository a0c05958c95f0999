# SPDX-License-Identifier: MIT
"""ONNX operators that sum or compare along axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from quantize.importers.graph_block import Step
from quantize.importers.onnx.graph import Node, Stage
from quantize.importers.onnx.operators.shapes import flatten_from, integers
from quantize.importers.onnx.reshapes import BATCH
from quantize.importers.refused import Refused


def _axes(node: Node) -> tuple[Any, bool]:
    """Axes of a reduction counted from the front and whether they are kept; None for no reduction at all."""
    axes: Any = integers(node, 1, "axes")
    keep = bool(node.only("keepdims", 1, 0))
    nothing = node.only("noop_with_empty_axes", 0, 1)
    if not axes:
        if nothing:
            return None, keep
        axes = range(node.rank())
    axes = tuple(sorted({node.axis(axis) for axis in axes}))
    if not keep and node.sizes() is not None and len(axes) == node.rank():
        raise Refused("makes a tensor without axes, which MXNet does not have; keep the dimensions")
    return axes, keep


def _reduce(op, before=None, after=None):
    """Plan of a reduction: `op` of `before` of the elements, then `after`."""
    def plan(node) -> list:
        axes, keep = _axes(node)
        if axes is None:
            if before or after:
                raise Refused("noop_with_empty_axes=1 without axes")
            return node.alias()
        stages: list[Stage] = [(before, {})] if before else []
        stages.append((op, dict(axis=axes, keepdims=keep)))
        return node.chain(*stages, *([(after, {})] if after else []))
    return plan


def _log_sum_exp(node) -> list:
    """log(sum(exp(x))) with the largest element in front, so that nothing overflows."""
    axes, keep = _axes(node)
    if axes is None:
        raise Refused("noop_with_empty_axes=1 without axes")
    x = node.value()
    top = node.helper("max", x, axis=axes, keepdims=True)
    centred = node.helper("broadcast_sub", x, top.outputs[0])
    power = node.helper("exp", centred.outputs[0])
    total = node.helper("sum", power.outputs[0], axis=axes, keepdims=True)
    log = node.helper("log", total.outputs[0])
    result = node.helper("elemwise_add", log.outputs[0], top.outputs[0])
    steps = [top, centred, power, total, log, result]
    if keep:
        return steps + node.alias(result.outputs[0])
    return steps + [node.joined("squeeze", result.outputs[0], axis=axes)]


def _softmax(op):
    def plan(node) -> list:
        axis = node.take("axis", -1 if node.opset >= 13 else 1)
        if node.opset >= 13 or (node.sizes() is not None and node.axis(axis) == node.rank() - 1):
            return node.chain((op, dict(axis=axis)))
        # Before opset 13 everything from `axis` on is normalised together.
        flat = node.part("flat") + ":out"
        steps = node.chain(*(flatten_from(node.axis(axis)) + [(op, dict(axis=1))]), output=flat)
        return steps + [Step(node.part("reshape"), (flat, node.value()), (node.outputs[0],), "reshape_like")]
    return plan


def _arg(op):
    def plan(node) -> list:
        axis, keep = node.axis(node.take("axis", 0)), bool(node.only("keepdims", 1, 0))
        last = node.only("select_last_index", 0, 1)
        if not keep and node.sizes() is not None and node.rank() == 1:
            raise Refused("makes a tensor without axes, which MXNet does not have; keep the dimensions")
        attrs = dict(axis=axis, keepdims=keep)
        if not last:
            return node.chain((op, attrs))
        size = node.shape()[axis] if node.shape() else None
        if size is None:
            raise Refused("select_last_index=1 along an axis of open size")
        return node.chain(("reverse", dict(axis=axis)), (op, attrs), ("_rminus_scalar", dict(scalar=size - 1)))
    return plan


def _lp_norm(node) -> list:
    """x / (sum of |x|^p)^(1 / p) along one axis."""
    axis, power = node.axis(node.take("axis", -1)), node.only("p", 2, 1)
    norm = node.helper("norm", node.value(), ord=power, axis=axis, keepdims=True)
    return [norm, node.joined("broadcast_div", node.value(), norm.outputs[0])]


def _top_k(node) -> list:
    """The largest or smallest values and their places, in order."""
    count = node.constant(1) if node.opset >= 10 else node.take("k")
    axis, largest = node.axis(node.take("axis", -1)), node.only("largest", 1, 0)
    node.only("sorted", 1, 0)
    count = int(np.reshape(count, ()))
    if node.sizes() is not None and node.sizes()[axis] == BATCH and node.graph.fixed is None and count > 1:
        raise Refused(f"the largest {count} along the batch axis, which is open")
    attrs = dict(axis=axis, k=count, ret_typ="both", is_ascend=not largest, dtype="float32")
    return [Step(node.name, (node.value(),), tuple(node.outputs), "topk", attrs)]


OPERATORS = {
    "ReduceMean": _reduce("mean"),
    "ReduceSum": _reduce("sum"),
    "ReduceMax": _reduce("max"),
    "ReduceMin": _reduce("min"),
    "ReduceProd": _reduce("prod"),
    "ReduceL1": _reduce("sum", before="abs"),
    "ReduceL2": _reduce("sum", before="square", after="sqrt"),
    "ReduceSumSquare": _reduce("sum", before="square"),
    "ReduceLogSum": _reduce("sum", after="log"),
    "ReduceLogSumExp": _log_sum_exp,
    "Softmax": _softmax("softmax"),
    "LogSoftmax": _softmax("log_softmax"),
    "ArgMax": _arg("argmax"),
    "ArgMin": _arg("argmin"),
    "LpNormalization": _lp_norm,
    "TopK": _top_k,
}

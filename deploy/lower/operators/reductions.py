# SPDX-License-Identifier: MIT
"""Operators that sum or compare along axes."""

from typing import Tuple

from deploy.ir import Activation, Elementwise, Function, Reduce, Reshape, Softmax
from deploy.lower.call import Call
from deploy.lower.draft import Unsupported
from deploy.lower.operators.pooling import global_pooling


def axes_of(call: Call) -> Tuple[int, ...]:
    """Axes of a reduction, counted without the batch axis, sorted."""
    axes = call.get("axis")
    if axes is None:
        raise Unsupported(f"operator {call.op} over all axes, the batch axis too")
    axes = {call.axis(axis) for axis in (axes if isinstance(axes, tuple) else (axes,))}
    if call.get("exclude", False):
        raise Unsupported(f"operator {call.op} with exclude=True")
    return tuple(sorted(axes))


def _reduce(op: str):
    def lower(call: Call) -> str:
        axes, shape = axes_of(call), call.in_shape()
        if op in ("mean", "max") and axes == (1, 2) and len(shape) == 3:
            return _planes(call, "avg" if op == "mean" else "max")
        return call.emit(Reduce, call.blob(), op=op, axes=axes, keepdims=bool(call.get("keepdims", False)))
    return lower


def _planes(call, kind):
    """Over height and width: engines have a layer for it."""
    pooled = call.in_shape()[:1] + (1, 1)
    if call.shape == pooled:
        return global_pooling(call, kind, call.blob())
    return call.emit(Reshape, global_pooling(call, kind, call.blob(), pooled, "pool"), shape=call.shape)


def _softmax(call: Call) -> str:
    call.only("temperature", None, 1.0)
    call.only("use_length", False)
    return call.emit(Softmax, call.blob(), axis=call.axis(call.get("axis", -1)))


def _log_softmax(call: Call) -> str:
    """x - max(x) - log(sum(exp(x - max(x))))."""
    call.only("temperature", None, 1.0)
    axis, shape = call.axis(call.get("axis", -1)), call.shape
    reduced = shape[:axis] + (1,) + shape[axis + 1:]
    top = call.emit(Reduce, call.blob(), reduced, "top", op="max", axes=(axis,), keepdims=True)
    centred = call.emit(Elementwise, (call.blob(), top), part="centred", op="sub")
    power = call.emit(Activation, centred, part="power", function=Function("exp"))
    total = call.emit(Reduce, power, reduced, "total", op="sum", axes=(axis,), keepdims=True)
    return call.emit(Elementwise, (centred, call.emit(Activation, total, reduced, "log", function=Function("log"))),
                     op="sub")


OPERATORS = dict({op: _reduce(op) for op in ("mean", "sum", "max", "min")}, softmax=_softmax, log_softmax=_log_softmax)

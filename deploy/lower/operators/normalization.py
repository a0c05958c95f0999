# SPDX-License-Identifier: MIT
"""Normalisations by statistics of the image itself, composed of sums and products."""

import numpy as np

from deploy.ir import Activation, Affine, Convolution, Elementwise, Function, Reduce, Reshape, ScalarOp
from deploy.lower.call import Call
from deploy.lower.operators.elementwise import affine


def _standardized(call: Call, blob: str, shape, axis: int, epsilon: float) -> str:
    """(x - mean) / sqrt(variance + epsilon) along an axis."""
    reduced = tuple(1 if i == axis else size for i, size in enumerate(shape))

    def mean(of, part):
        return call.emit(Reduce, of, reduced, part, op="mean", axes=(axis,), keepdims=True)

    centred = call.emit(Elementwise, (blob, mean(blob, "mean")), shape, "centred", op="sub")
    squares = call.emit(Activation, centred, shape, "squares", function=Function("square"))
    safe = call.emit(ScalarOp, mean(squares, "variance"), reduced, "safe", op="add", scalar=epsilon)
    deviation = call.emit(Activation, safe, reduced, "deviation", function=Function("sqrt"))
    return call.emit(Elementwise, (centred, deviation), shape, "standard", op="div")


def _group_norm(call: Call, groups=None) -> str:
    """Wu & He, Group Normalization, arXiv:1803.08494; MXNet has one gamma and beta for each group."""
    groups = call.get("num_groups", 1) if groups is None else groups
    flat = (groups, int(np.prod(call.shape)) // groups)
    blob = call.emit(Reshape, call.blob(), flat, "groups", shape=flat)
    blob = _standardized(call, blob, flat, 1, call.get("eps", 1e-5))
    blob = call.emit(Affine, blob, flat, "affine", scale=call.constant(1), shift=call.constant(2))
    return call.emit(Reshape, blob, shape=call.shape)


def _instance_norm(call: Call) -> str:
    call.attrs.setdefault("eps", 1e-3)
    return _group_norm(call, call.shape[0])


def _layer_norm(call: Call) -> str:
    axis = call.axis(call.get("axis", -1))
    blob = _standardized(call, call.blob(), call.shape, axis, call.get("eps", 1e-5))
    broadcast = [1] * len(call.shape)
    broadcast[axis] = -1
    return affine(call, blob, *(call.constant(index).reshape(broadcast) for index in (1, 2)))


def _l2_normalization(call: Call) -> str:
    """x / sqrt(sum of squares + eps) over channels, planes or the whole image."""
    axes = {"instance": range(len(call.shape)), "channel": (0,), "spatial": range(1, len(call.shape))}[
        call.only("mode", "instance", "channel", "spatial")]
    reduced = tuple(1 if i in axes else size for i, size in enumerate(call.shape))
    squares = call.emit(Activation, call.blob(), part="squares", function=Function("square"))
    total = call.emit(Reduce, squares, reduced, "sum", op="sum", axes=tuple(axes), keepdims=True)
    safe = call.emit(ScalarOp, total, reduced, "safe", op="add", scalar=call.get("eps", 1e-10))
    norm = call.emit(Activation, safe, reduced, "norm", function=Function("sqrt"))
    return call.emit(Elementwise, (call.blob(), norm), op="div")


def _local_response(call: Call) -> str:
    """x / (knorm + alpha / n * sum of squares of the n channels around)^beta: the sum is a 1x1 convolution."""
    count, reach = call.shape[0], call.attrs["nsize"] // 2
    distance = np.abs(np.subtract.outer(np.arange(count), np.arange(count)))
    weight = np.where(distance <= reach, call.get("alpha", 1e-4) / call.attrs["nsize"], 0).astype(np.float32)
    bias = np.full(count, call.get("knorm", 2.0), np.float32)
    squares = call.emit(Activation, call.blob(), part="squares", function=Function("square"))
    power = call.emit(Convolution, squares, part="power", weight=weight.reshape(count, count, 1, 1), bias=bias)
    divisor = call.emit(ScalarOp, power, part="divisor", op="pow", scalar=call.get("beta", 0.75))
    return call.emit(Elementwise, (call.blob(), divisor), op="div")


OPERATORS = {
    "GroupNorm": _group_norm,
    "InstanceNorm": _instance_norm,
    "LayerNorm": _layer_norm,
    "L2Normalization": _l2_normalization,
    "LRN": _local_response,
}

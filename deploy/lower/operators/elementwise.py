# SPDX-License-Identifier: MIT
"""Sums, products and the like: of two blobs, of a blob and a constant tensor, of a blob and a number."""

from typing import Any, Dict, Optional, Tuple

import numpy as np

from deploy.ir import Affine, Concat, Constant, Elementwise, Permute, Reshape, Resize, ScalarOp
from deploy.ir.broadcast import constant_shape
from deploy.lower.call import Call
from deploy.lower.draft import Unsupported
from quantize.errors import DeployError

_SWAPPED = {"sub": "rsub", "div": "rdiv"}  # the constant is on the left
_OF_BLOBS = ("max", "min", "pow")  # what no factor and shift for each channel can do


def _binary(op: str):
    def lower(call: Call) -> str:
        for index in (0, 1):
            if call.is_constant(index):
                return _with_constant(call, op, call.constant(index), 1 - index)
        return call.emit(Elementwise, call.blobs(), op=op)
    return lower


def _sum(call: Call) -> str:
    return call.emit(Elementwise, call.blobs(), op="add")


def _with_constant(call: Call, op: str, constant: np.ndarray, index: int) -> str:
    """`op` of operand `index` and a constant."""
    shape = call.in_shape(index)
    try:
        constant = constant.reshape(constant_shape(constant.shape, len(shape)))
    except DeployError as reason:
        raise Unsupported(str(reason)) from None
    if op in _OF_BLOBS and (index == 1 and op == "pow" or (constant != constant.ravel()[0]).any()):
        return _of_blobs(call, op, call.blob(index), constant, left=index == 1)
    if index == 1:
        op = _SWAPPED.get(op, op)
    source = stretched(call, call.blob(index), shape, call.shape)
    if (constant == constant.ravel()[0]).all():
        return _scalar(call, source, op, float(constant.ravel()[0]))
    if op == "rdiv":  # c / x = c * (1 / x)
        source, op = call.emit(ScalarOp, source, part="reciprocal", op="rdiv", scalar=1.0), "mul"
    one = np.ones_like(constant)
    factors = {"add": (one, constant), "sub": (one, -constant), "rsub": (-one, constant), "mul": (constant, None),
               "div": (1 / constant if op == "div" else one, None)}
    return affine(call, source, *factors[op])


def _of_blobs(call: Call, op: str, blob: str, constant: np.ndarray, left: bool) -> str:
    """`op` of a blob and a constant (on its left, or right) that becomes a blob of its own; engines broadcast them."""
    blobs = [blob, call.emit(Constant, blob, constant.shape, "constant", value=constant.astype(np.float32))]
    return call.emit(Elementwise, blobs[::-1] if left else blobs, op=op)


def stretched(call: Call, blob: str, shape: Tuple[int, ...], wanted: Tuple[int, ...]) -> str:
    """A blob of a shape with its axes of length 1 repeated, where the shape that is wanted has more there."""
    for axis, (size, count) in enumerate(zip(shape, wanted)):
        if size != count:
            shape = shape[:axis] + (count,) + shape[axis + 1:]
            if len(shape) == 3 and axis:
                blob = call.emit(Resize, blob, shape, f"stretched_{axis}", size=shape[1:])
            else:
                blob = call.emit(Concat, (blob,) * count, shape, f"stretched_{axis}", axis=axis)
    return blob


def affine(call: Call, blob: str, scale: np.ndarray, shift: Optional[np.ndarray]) -> str:
    """scale * x + shift, constants with the axes of a blob; the axes along which they vary become the first one."""
    varying = [axis for axis, size in enumerate(scale.shape) if size > 1]
    rest = [axis for axis in range(len(call.shape)) if axis not in varying]
    order = varying + rest
    values: Dict[str, Any] = dict(scale=scale.ravel(), shift=None if shift is None else shift.ravel())
    if order == sorted(order) and len(varying) == 1:
        return call.emit(Affine, blob, **values)
    moved = tuple(call.shape[axis] for axis in order)
    flat = (scale.size,) + moved[len(varying):]
    blob = call.emit(Permute, blob, moved, "front", order=tuple(order))
    blob = call.emit(Reshape, blob, flat, "flat", shape=flat)
    blob = call.emit(Affine, blob, flat, "affine", **values)
    blob = call.emit(Reshape, blob, moved, "unflat", shape=moved)
    return call.emit(Permute, blob, order=tuple(int(axis) for axis in np.argsort(order)))


def _with_scalar(op: str):
    def lower(call: Call) -> str:
        return _scalar(call, call.blob(), op, float(call.attrs["scalar"]))
    return lower


def _scalar(call: Call, blob: str, op: str, scalar: float) -> str:
    if (op in ("add", "sub") and scalar == 0) or (op in ("mul", "div") and scalar == 1):
        return blob
    return call.emit(ScalarOp, blob, op=op, scalar=scalar)


def _negative(call: Call) -> str:
    return _scalar(call, call.blob(), "mul", -1.0)


def _reciprocal(call: Call) -> str:
    return _scalar(call, call.blob(), "rdiv", 1.0)


_BINARY = {"add": ("elemwise_add", "broadcast_add"), "sub": ("elemwise_sub", "broadcast_sub"),
           "mul": ("elemwise_mul", "broadcast_mul"), "div": ("elemwise_div", "broadcast_div"),
           "max": ("_maximum", "broadcast_maximum"), "min": ("_minimum", "broadcast_minimum"),
           "pow": ("_power", "broadcast_power")}
_SCALAR = {"_plus_scalar": "add", "_minus_scalar": "sub", "_rminus_scalar": "rsub", "_mul_scalar": "mul",
           "_div_scalar": "div", "_rdiv_scalar": "rdiv", "_maximum_scalar": "max", "_minimum_scalar": "min",
           "_power_scalar": "pow"}


def _scalar_base(call: Call) -> str:
    base = np.full((1,) * len(call.shape), call.attrs["scalar"], np.float32)
    return _of_blobs(call, "pow", call.blob(), base, left=True)


OPERATORS = dict(
    {name: _binary(op) for op, names in _BINARY.items() for name in names},
    **{name: _with_scalar(op) for name, op in _SCALAR.items()},
    _rpower_scalar=_scalar_base, add_n=_sum, negative=_negative, reciprocal=_reciprocal)

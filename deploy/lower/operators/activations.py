# SPDX-License-Identifier: MIT
"""Functions of single elements."""

import numpy as np

from deploy.ir import Activation, Elementwise, Function, PReLU, ScalarOp
from deploy.lower.call import Call
from deploy.lower.draft import Unsupported

_FLOAT_MAX = float(np.finfo(np.float32).max)
# Klambauer et al., Self-Normalizing Neural Networks, arXiv:1706.02515
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805

_ACT_TYPES = {"relu": "relu", "sigmoid": "sigmoid", "tanh": "tanh", "softrelu": "softplus"}


def _function(kind: str):
    def lower(call: Call) -> str:
        return call.emit(Activation, call.blob(), function=Function(kind))
    return lower


def _activation(call: Call) -> str:
    if call.attrs["act_type"] == "softsign":
        return _softsign(call)
    return _function(_ACT_TYPES[call.only("act_type", *_ACT_TYPES)])(call)


def _clip(call: Call) -> str:
    low, high = float(call.attrs["a_min"]), float(call.attrs["a_max"])
    is_relu = low == 0 and high >= _FLOAT_MAX
    return call.emit(Activation, call.blob(), function=Function("relu") if is_relu else Function("clip", (low, high)))


def _hard_sigmoid(call: Call) -> str:
    return call.emit(Activation, call.blob(),
                     function=Function("hard_sigmoid", (call.get("alpha", 0.2), call.get("beta", 0.5))))


def _leaky_relu(call: Call) -> str:
    kind = call.get("act_type", "leaky")
    slope = call.get("slope", 0.25)
    if kind == "prelu":
        return call.emit(PReLU, call.blob(), slope=call.constant(1).ravel())
    if kind == "selu":
        elu = call.emit(Activation, call.blob(), part="elu", function=Function("elu", (_SELU_ALPHA,)))
        return call.emit(ScalarOp, elu, op="mul", scalar=_SELU_SCALE)
    functions = {"leaky": Function("leaky_relu", (slope,)), "elu": Function("elu", (slope,)), "gelu": Function("gelu")}
    if kind not in functions:
        raise Unsupported(f"LeakyReLU with act_type={kind}")
    return call.emit(Activation, call.blob(), function=functions[kind])


def _softsign(call: Call) -> str:
    """x / (1 + |x|)."""
    size = call.emit(Activation, call.blob(), part="size", function=Function("abs"))
    more = call.emit(ScalarOp, size, part="more", op="add", scalar=1.0)
    return call.emit(Elementwise, (call.blob(), more), op="div")


_SAME = ("relu", "sigmoid", "tanh", "exp", "abs", "square", "sqrt", "rsqrt", "log", "erf", "floor", "ceil", "sin",
         "cos")

OPERATORS = dict(
    {op: _function(op) for op in _SAME}, softsign=_softsign,
    Activation=_activation, clip=_clip, hard_sigmoid=_hard_sigmoid, LeakyReLU=_leaky_relu)

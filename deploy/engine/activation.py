# SPDX-License-Identifier: MIT
"""Activation functions, by their kind in `ir.Function`."""

from typing import Any, Callable, Dict, Optional

import numpy as np

from deploy.arithmetic import Arithmetic
from deploy.engine.operations import operation
from deploy.ir import Activation, Function, PReLU
from quantize.errors import DeployError


def hard_sigmoid(x: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """clip(alpha * x + beta, 0, 1)."""
    return np.clip(x * alpha + beta, np.float32(0), np.float32(1))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) without overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def softplus(x: np.ndarray) -> np.ndarray:
    """log(1 + exp(x)) without overflow."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def erf(x: np.ndarray) -> np.ndarray:
    """The error function; DeployError without SciPy."""
    try:
        from scipy import special  # nothing else needs SciPy, which a phone may not have
    except ImportError as error:
        raise DeployError(f"gelu and erf are computed with SciPy ({error}); install it with: pip install "
                          "scipy") from None
    return special.erf(x)


def gelu(x: np.ndarray) -> np.ndarray:
    """x * (1 + erf(x / sqrt(2))) / 2."""
    return x * np.float32(0.5) * (1 + erf(x * np.float32(0.5 ** 0.5)))


FUNCTIONS: Dict[str, Callable[..., np.ndarray]] = {
    "relu": lambda x: np.maximum(x, np.float32(0)),
    "leaky_relu": lambda x, slope: np.where(x > 0, x, x * slope),
    "clip": np.clip,
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "hard_sigmoid": hard_sigmoid,
    "hard_swish": lambda x, alpha, beta: x * hard_sigmoid(x, alpha, beta),
    "swish": lambda x: x * sigmoid(x),
    "softplus": softplus,
    "gelu": gelu,
    "elu": lambda x, alpha: np.where(x > 0, x, np.expm1(np.minimum(x, 0)) * alpha),
    "exp": np.exp,
    "abs": np.abs,
    "square": np.square,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "log": np.log,
    "erf": erf,
    "floor": np.floor,
    "ceil": np.ceil,
    "sin": np.sin,
    "cos": np.cos,
}


def activate(x: np.ndarray, function: Optional[Function], arithmetic: Arithmetic, node: Any = None) -> np.ndarray:
    """`function` (ir.Function, or None: `x` itself) of `x`; the arithmetic's own version where it has one.

    `node` is the layer that applies it within, where it is none of its own.
    """
    if function is None:
        return x
    apply = arithmetic.function(function.kind, node) or FUNCTIONS[function.kind]
    return apply(x, *(np.float32(value) for value in function.parameters))


@operation(Activation)
def _activation(node, inputs, arithmetic):
    return activate(inputs[0], node.function, arithmetic)


@operation(PReLU)
def _prelu(node, inputs, arithmetic):
    x = inputs[0]
    slope = np.asarray(node.slope, np.float32).reshape((1, -1) + (1,) * (x.ndim - 2))
    return np.where(x > 0, x, x * slope)

# SPDX-License-Identifier: MIT
"""Activation functions as Caffe layers. ReLU6 and Swish are types of caffe2ncnn and of newer Caffes."""

from typing import Optional

import numpy as np
from numpy.typing import ArrayLike

from deploy.ir import Function
from deploy.targets.caffe.layer import Layer, per_channel

# function -> the layer type that is it without any parameter
PLAIN = {"relu": "ReLU", "sigmoid": "Sigmoid", "tanh": "TanH", "swish": "Swish", "softplus": "BNLL", "exp": "Exp",
         "abs": "AbsVal"}
POWERS = {"square": 2.0, "sqrt": 0.5}


def survives_printing(value: float) -> bool:
    """Whether the float32 comes back from the six decimals that caffe2ncnn writes into a .param."""
    return np.float32(f"{value:e}") == np.float32(value)


def activation(function: Function, channels: int) -> Optional[Layer]:
    """The layer of an `ir.Function` on a blob of so many channels; None where Caffe has none."""
    kind, parameters = function.kind, function.parameters
    if kind in PLAIN:
        return Layer(PLAIN[kind])
    if kind in POWERS:
        return power(POWERS[kind])
    if kind == "clip" and tuple(parameters) == (0, 6):
        return Layer("ReLU6")
    if kind == "elu" and survives_printing(parameters[0]):
        return Layer("ELU", {"elu_param": {"alpha": parameters[0]}})
    if kind == "leaky_relu":
        if survives_printing(parameters[0]):
            return Layer("ReLU", {"relu_param": {"negative_slope": parameters[0]}})
        return prelu(parameters[0], channels)
    return None


def power(exponent: float) -> Layer:
    """x ** exponent."""
    return Layer("Power", {"power_param": {"power": exponent, "scale": 1.0, "shift": 0.0}})


def prelu(slope: ArrayLike, channels: int) -> Layer:
    """One slope for each channel, also where they are equal: Caffe and ncnn store a shared one differently."""
    return Layer("PReLU", blobs=(per_channel(slope, channels),))

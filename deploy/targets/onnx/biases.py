# SPDX-License-Identifier: MIT
"""Weights whose steps let biases be int32.

A channel whose weights are next to zero, as trained networks with merged BatchNorm have them, has so small a step that
its bias, in units of the sums, would be beyond int32. Such a channel gets a larger step: what is lost of its weights is
below a unit of 2 ** -30 of its bias.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from deploy.ir import Node, integers

LARGEST_BIAS = 2.0 ** 30  # in units of the sums


def held(node: Node) -> Node:
    """A node whose biases are at most `LARGEST_BIAS` units; the same one where they are."""
    quantization: Any = integers(node)
    layer: Any = node
    if quantization is None or layer.bias is None:
        return node
    steps = quantization.weight_scale.astype(np.float64)
    needed = np.abs(layer.bias.astype(np.float64)) / (float(quantization.input.scale) * LARGEST_BIAS)
    if (steps >= needed).all():
        return node
    larger = np.maximum(steps, needed)
    shrink = np.divide(steps, larger, out=np.ones_like(steps), where=larger > 0)
    codes = quantization.weight_q
    shrunk = np.rint(codes * shrink.reshape((-1,) + (1,) * (codes.ndim - 1))).astype(codes.dtype)
    return replace(layer, quantization=replace(quantization, weight_q=shrunk, weight_scale=larger.astype(np.float32)))

# SPDX-License-Identifier: MIT
"""Weights whose steps let biases be int32, in units of the sums.

A layer whose weights have few bits has large units, and so has one whose input has few: rounding the bias to them would
move sums across the middle between two codes. Its codes are stored as multiples of a power of two, in steps that are so
many times smaller: the same weights, the same sums, and a finer bias.

A channel whose weights are next to zero, as trained networks with merged BatchNorm have them, has so small a step that
its bias, in units of the sums, would be beyond int32. Such a channel gets a larger step: what is lost of its weights is
below a unit of 2 ** -30 of its bias.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from deploy.ir import Node, integers

LARGEST_BIAS = 2.0 ** 30  # in units of the sums


def finer(node: Node, largest: int) -> Node:
    """A layer whose weights' codes reach up to `largest` as far as a power of two brings them; the same values."""
    quantization: Any = integers(node)
    layer: Any = node
    if quantization is None or layer.bias is None or quantization.weight_qmax > largest // 2:
        return node
    factor = 1 << ((largest // quantization.weight_qmax).bit_length() - 1)
    changed = replace(quantization, weight_q=quantization.weight_q * np.int8(factor),
                      weight_scale=quantization.weight_scale / np.float32(factor),
                      weight_qmax=quantization.weight_qmax * factor)
    return replace(layer, quantization=changed)


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

# SPDX-License-Identifier: MIT
"""How ncnn's x86 engine rounds, with AVX-512, packing layout off, one thread and no fp16; `avx2` has the others.

ncnn holds *multipliers*, m = float32(1 / scale), of inputs and of each output channel's weights; all formulas are its
own (`Convolution_x86`, `InnerProduct_x86`, `BatchNorm`, `Pooling`), and so are their roundings, in float32:

* codes: clamp(round(x * m), -127, 127), halves away from zero; also -127 for what is no number or beyond 2**31
* sums of products become acc * (1 / (m_input * m_weight)) + bias: one rounding where the kernel fuses the two
  operations, else two
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from deploy.arithmetic import Arithmetic, per_channel, weight_type
from deploy.ir import Convolution, Grid, QuantizedNode
from deploy.targets.ncnn import kernels
from deploy.targets.ncnn.fma import fma

QMAX = 127
SLOWER = ("leaky_relu", "clip", "sigmoid", "hard_swish")  # activations that keep depthwise layers from special kernels


def multiplier(scale: ArrayLike) -> np.ndarray:
    """What ncnn holds of a scale (the real value of one step): float32(1 / scale)."""
    return np.float32(1) / np.asarray(scale, np.float32)


def fused(node: Any) -> bool:
    """Whether the layer's kernel adds the bias in the same rounding.

    Convolutions do, groups of several channels included. Of the depthwise kernels only those for 3x3 windows at stride
    1 or 2 do, which ncnn chooses where its activation is none or ReLU; one that is a layer of its own is none to it.
    Measured, wheel 1.0.20261020.
    """
    if not isinstance(node, Convolution):
        return False
    plain = node.activation is None or node.activation.kind not in SLOWER
    special = (node.weight.shape[2:] == (3, 3) and tuple(node.dilation) == (1, 1)
               and tuple(node.stride) in ((1, 1), (2, 2)) and plain)
    return special or not node.depthwise


class NcnnArithmetic(Arithmetic):
    """ncnn's arithmetic on x86; see the module."""

    name = "ncnn"
    spreads = False
    codes = (-QMAX, QMAX)
    operations = kernels.OPERATIONS
    functions = kernels.FUNCTIONS

    def quantize(self, x: ArrayLike, grid: Grid) -> np.ndarray:
        """Codes (int32) of a float32 array on a `Grid`, of which ncnn knows the scale only."""
        with np.errstate(over="ignore"):  # what becomes infinite has a code like every number
            return _round(np.asarray(x, np.float32) * multiplier(grid.scale), QMAX).astype(np.int32)

    def quantize_weight(self, weight: np.ndarray, scale: ArrayLike, qmax: int) -> np.ndarray:
        """Codes (int8; int16 where `qmax` is beyond 127) of a weight; `scale` (outputs,) belongs to the first axis."""
        factor = multiplier(scale).reshape((-1,) + (1,) * (weight.ndim - 1))
        return _round(np.asarray(weight, np.float32) * factor, qmax).astype(weight_type(qmax))

    def fused(self, node: Any) -> bool:
        """Whether the layer's kernel adds the bias in the same rounding as it multiplies the sums."""
        return fused(node)

    def dequantize(self, accumulator: np.ndarray, node: QuantizedNode) -> np.ndarray:
        """Real output (float32), before the activation, of a layer's integer sums (batch, outputs, ...)."""
        quantization = node.quantization
        scale = 1 / (multiplier(quantization.input.scale) * multiplier(quantization.weight_scale))
        sums = accumulator.astype(np.float32)
        if node.bias is None:
            return sums * per_channel(scale, sums.ndim)
        if self.fused(node):
            return fma(sums, scale, node.bias)
        return sums * per_channel(scale, sums.ndim) + per_channel(node.bias, sums.ndim)


def _round(x, qmax):
    """Whole float32 numbers, halves away from zero as ncnn's SIMD code does it; overwrites `x`."""
    if not x.max(initial=0) < 2.0 ** 31:  # also where there is a NaN
        x[~(x < 2.0 ** 31)] = -qmax
    x += np.copysign(np.float32(0.5), x)
    np.trunc(x, out=x)
    np.minimum(x, qmax, out=x)
    return np.maximum(x, -qmax, out=x)

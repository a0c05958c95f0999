# SPDX-License-Identifier: MIT
"""How ncnn's engine rounds on 32-bit ARM (armv7), with packing layout off, one thread and no fp16.

NEON there has no fused multiplication and addition for the compiler to use in what is hand-written as two operations:

* sums of products become acc * (1 / (m_input * m_weight)) + bias in two roundings; of depthwise layers that have no
  special kernel, the compiler divides: acc / (m_input * m_weight) + bias
* batch norm and scale, hard_sigmoid and hard_swish round twice, too
* codes are halves away from zero as on x86, and 0 for what is no number; those that convolutions hand on end at -128
  behind leaky ReLU, and those of 3x3 depthwise convolutions with stride 1 do without an activation, and have halves to
  even, in whole groups of eight columns: these are computed in assembly

Measured, wheel 1.0.20261020 on QEMU's Cortex-A15.
"""

from typing import Any, Callable, Optional

import numpy as np
from numpy.typing import ArrayLike

from deploy import ir
from deploy.arithmetic import per_channel
from deploy.engine import operations
from deploy.engine.activation import FUNCTIONS
from deploy.targets.ncnn import kernels
from deploy.targets.ncnn.arithmetic import QMAX, fused, multiplier
from deploy.targets.ncnn.handing_on import HandingOnArithmetic

LOWEST = -128
COLUMNS = 8  # that the assembly takes at a time


def _batch_norm(node, inputs, arithmetic):
    x, deviation = inputs[0], np.sqrt(node.variance + np.float32(node.epsilon))
    shift = node.beta - node.gamma * node.mean / deviation
    return x * per_channel(node.gamma / deviation, x.ndim) + per_channel(shift, x.ndim)


class Armv7Arithmetic(HandingOnArithmetic):
    """ncnn's arithmetic on armv7; see the module."""

    name = "ncnn armv7"
    operations = {**kernels.OPERATIONS, ir.Affine: operations.OPERATIONS[ir.Affine], ir.BatchNorm: _batch_norm}

    def fused(self, node: Any) -> bool:
        """No kernel does."""
        return False

    def function(self, kind: str, node: Any) -> Optional[Callable[..., np.ndarray]]:
        """Each operation is rounded."""
        if self._own_codes(node):
            return lambda x, *_: x  # `dequantize` has applied it
        return FUNCTIONS.get(kind)

    def quantize(self, x: ArrayLike, grid: ir.Grid) -> np.ndarray:
        """Codes (int32) of a float32 array on a `Grid`, of which ncnn knows the scale only."""
        x = np.asarray(x)
        if x.dtype == np.int8:  # codes that were handed on
            return x.astype(np.int32)
        with np.errstate(over="ignore", invalid="ignore"):
            return _codes(x.astype(np.float32) * multiplier(grid.scale)).astype(np.int32)

    def dequantize(self, accumulator: np.ndarray, node: ir.QuantizedNode) -> np.ndarray:
        """Real output (float32), before the activation, of a layer's integer sums (batch, outputs, ...).

        Of a layer that hands on codes in a way of its own these (int8), the activation included.
        """
        if isinstance(node, ir.Convolution) and node.depthwise and not fused(node):
            factor = multiplier(node.quantization.input.scale) * multiplier(node.quantization.weight_scale)
            y = accumulator.astype(np.float32) / per_channel(factor, accumulator.ndim)
            return y if node.bias is None else y + per_channel(node.bias, y.ndim)
        y = super().dequantize(accumulator, node)
        if not self._own_codes(node):
            return y
        scaled, function = y * multiplier(self.handed_on[node.name].scale), node.activation
        if function is not None and function.kind == "leaky_relu":
            slope = np.float32(function.parameters[0])
            return np.maximum(_codes(scaled, LOWEST), _codes(scaled * slope, LOWEST)).astype(np.int8)
        assembly = np.clip(np.rint(np.clip(scaled, LOWEST, QMAX)), LOWEST if function is None else 0, QMAX)
        rest = np.maximum(_codes(scaled), -QMAX if function is None else 0)
        columns = scaled.shape[-1]
        return np.where(np.arange(columns) < columns // COLUMNS * COLUMNS, assembly, rest).astype(np.int8)

    def _own_codes(self, node):
        """Whether a layer's codes are not simply those of its real output."""
        if getattr(node, "name", None) not in self.handed_on or node.activation is not None and (
                node.activation.kind not in ("relu", "leaky_relu")):
            return False
        if node.depthwise:
            return fused(node) and tuple(node.stride) == (1, 1)
        function = node.activation
        return function is not None and function.kind == "leaky_relu" and function.parameters[0] > 0


def _codes(scaled, lowest=-QMAX):
    """Whole float32 numbers: half is added, which makes 1 of what is next to it; 0 for what is no number."""
    scaled = np.clip(np.nan_to_num(scaled, nan=0.0), np.float32(lowest - 1), np.float32(QMAX + 1))
    return np.clip(np.trunc(scaled + np.copysign(np.float32(0.5), scaled)), lowest, QMAX)

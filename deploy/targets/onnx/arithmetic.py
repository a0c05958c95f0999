# SPDX-License-Identifier: MIT
"""How ONNX Runtime's integer operators round (CPU), in float32 and with halves to the even code.

* QuantizeLinear: clip(round(x / scale) + zero_point)
* QLinearConv, QGemm: int32 sums with the bias, itself an int32 in units of the sums; times
  input scale * weight scale / output scale, one float32 for each output; rounded once
* QLinearAdd: a * (sa / sc) + (b * (sb / sc) + (zc - (sa / sc * za + sb / sc * zb))), two fused multiply-adds (x86 with
  AVX2)
* QLinearAveragePool, QLinearGlobalAveragePool: sums of values, divided; see the functions

A node whose output is not rounded right away computes in float32 behind its sums.
Measured, onnxruntime 1.16.3 to 1.31.1; source: its `qladd`, `qlgavgpool` and `quantize` kernels.
"""

from dataclasses import replace
from typing import Any, Dict, Optional, Tuple

import numpy as np

from deploy.arithmetic import Arithmetic, per_channel, real
from deploy.engine.operations import OPERATIONS
from deploy.engine.pooling import window_areas, window_sums
from deploy.fusing import endings, limits, rounded_blobs
from deploy.ir import Elementwise, Grid, Model, Pooling, QuantizedNode
from deploy.targets.onnx.bytes import first_code

WINDOWS = ((-128, 127), (0, 255))


def window(grid: Grid) -> Tuple[int, int]:
    """The codes of a byte that hold those of a grid."""
    first = first_code(grid)
    return first, first + 255


def bias_codes(node: QuantizedNode) -> np.ndarray:
    """The bias in units of the layer's sums, whole float64 numbers (int32 in files)."""
    if node.bias is None:
        return np.zeros(len(node.weight))
    return np.rint(node.bias.astype(np.float64) / sum_scale(node).astype(np.float64))


def sum_scale(node: QuantizedNode) -> np.ndarray:
    """The real value of one unit of the sums, (outputs,) float32."""
    return np.float32(node.quantization.input.scale) * node.quantization.weight_scale.astype(np.float32)


class OrtArithmetic(Arithmetic):
    """See the module."""

    name = "onnxruntime"
    rounding = "half_even"
    spreads = False

    def bound(self, model: Model) -> "OrtArithmetic":
        """The arithmetic that knows which outputs are rounded right away."""
        return Bound(model)

    def holds(self, grid: Grid) -> bool:
        """A byte has every grid with 256 codes or fewer on one side of it."""
        low, high = window(grid)
        return low <= grid.qmin and grid.qmax <= high

    def held(self, grid: Grid) -> Tuple[Grid, Optional[Tuple[float, float]]]:
        """The whole byte, and the limits of a grid with fewer codes."""
        low, high = window(grid)
        if not self.holds(grid) or (grid.qmin, grid.qmax) == (low, high):
            return grid, None
        ends = limits(grid)
        return replace(grid, qmin=low, qmax=high), (float(ends[0]), float(ends[1]))

    def output_grid(self, node: Any) -> Optional[Grid]:
        """The grid of a node's output where it is rounded right away, else None."""
        return None

    def dequantize(self, accumulator: np.ndarray, node: QuantizedNode) -> np.ndarray:
        """Real output (float32) of a layer's integer sums: on the grid where it is rounded right away."""
        sums = accumulator.astype(np.float64) + per_channel(bias_codes(node), accumulator.ndim).astype(np.float64)
        total, scale, grid = sums.astype(np.float32), sum_scale(node), self.output_grid(node)
        if grid is None:
            return total * per_channel(scale, total.ndim)
        return on_grid(total * per_channel(scale / np.float32(grid.scale), total.ndim), grid)


def on_grid(steps: np.ndarray, grid: Grid) -> np.ndarray:
    """Real values of steps (counted from the zero point) that are rounded and cut off at the ends of a grid."""
    return real(np.clip(np.rint(steps) + grid.zero_point, grid.qmin, grid.qmax), grid)


class Bound(OrtArithmetic):
    """The arithmetic for one model."""

    def __init__(self, model: Model) -> None:
        self.grids = rounded_blobs(model)
        self.ends: Dict[str, Grid] = {name: ending.rounding.grid for name, ending in endings(model).items()}
        self.operations = {Elementwise: _elementwise, Pooling: _pooling}

    def bound(self, model: Model) -> "OrtArithmetic":
        """For another model another one."""
        return Bound(model)

    def output_grid(self, node: Any) -> Optional[Grid]:
        """See the base."""
        return self.ends.get(node.name)

    def sources(self, node: Any) -> Optional[Tuple[Grid, ...]]:
        """The grids of a node's inputs; None where one was not rounded."""
        found = [self.grids.get(blob) for blob in node.inputs]
        return None if None in found else tuple(grid for grid in found if grid is not None)


def steps(x: np.ndarray, grid: Grid) -> np.ndarray:
    """What values on a grid are in units of its step, whole float32 numbers counted from the zero point."""
    return np.rint(x / np.float32(grid.scale))


def _elementwise(node, inputs, arithmetic):
    grids, out = arithmetic.sources(node), arithmetic.output_grid(node)
    if node.op != "add" or len(inputs) != 2 or grids is None or out is None:
        return OPERATIONS[Elementwise](node, inputs, arithmetic)
    ratios = [np.float32(grid.scale) / np.float32(out.scale) for grid in grids]
    codes = [steps(x, grid) + np.float32(grid.zero_point - first_code(grid)) for x, grid in zip(inputs, grids)]
    zeros = [np.float32(grid.zero_point - first_code(grid)) for grid in grids]
    zero = np.float32(out.zero_point - first_code(out))
    shift = zero - (ratios[0] * zeros[0] + ratios[1] * zeros[1])
    total = _multiply_add(codes[0], ratios[0], _multiply_add(codes[1], ratios[1], shift))
    return real(np.clip(np.rint(total), 0, 255) + first_code(out), out)


def _multiply_add(codes: np.ndarray, factor: np.float32, term: Any) -> np.ndarray:
    """codes * factor + term, rounded once: a byte times a float32 leaves float64 room for the sum."""
    return (codes.astype(np.float64) * np.float64(factor) + term).astype(np.float32)


def _pooling(node, inputs, arithmetic):
    grids, out = arithmetic.sources(node), arithmetic.output_grid(node)
    if node.kind != "avg" or grids is None or out is None:
        return OPERATIONS[Pooling](node, inputs, arithmetic)
    source = np.float32(grids[0].scale)
    if not node.global_:
        averages = window_sums(inputs[0], node) / window_areas(node, inputs[0].shape)
        return on_grid(averages / np.float32(out.scale), out)
    values = steps(inputs[0], grids[0])
    scale = source / (np.float32(out.scale) * np.float32(values.shape[2] * values.shape[3]))
    return on_grid(values.sum(axis=(2, 3), keepdims=True, dtype=np.float32) * scale, out)

# SPDX-License-Identifier: MIT
"""How MXNet's int8 operators compute on the CPU (oneDNN), in float32 and with halves to the even code.

* `_contrib_quantize_v2`: clip(round(x * scale)), scale = 255.5 / T (uint8) or 127.5 / T (int8)
* `_sg_mkldnn_conv`: int32 sums, as float32; plus the bias, itself an int32 in units of the sums; times
  output scale / input scale / weight scale, one float32 for each output; where it adds what lies in its output, that
  times output scale / its scale in one fused multiply-add; rounded once, to uint8 behind a ReLU, else to int8
* `_sg_mkldnn_fully_connected`: the same in real values, which stay float32
* `_contrib_quantized_elemwise_add`, `_contrib_quantized_pooling`: see the functions

Measured, MXNet 1.9.1; source: its `src/operator/subgraph/mkldnn` and `src/operator/quantization`.
"""

from typing import Any

import numpy as np

from deploy.arithmetic import Arithmetic, per_channel, real
from deploy.engine.operations import OPERATIONS
from deploy.engine.pooling import window_areas, window_sums
from deploy.ir import Elementwise, Grid, InnerProduct, Model, Pooling, QuantizedNode
from deploy.targets.mxnet.fusion import Fused, Fusion
from deploy.targets.mxnet.scales import RANGES, multiplier, requantized_end, stored, threshold

INT32 = np.float32(2 ** 31)


class OneDnnArithmetic(Arithmetic):
    """See the module."""

    name = "onednn"
    rounding = "half_even"

    def bound(self, model: Model) -> "OneDnnArithmetic":
        """The arithmetic that knows what is fused."""
        return Bound(model)

    def holds(self, grid: Grid) -> bool:
        """A byte with its zero at zero."""
        return grid.zero_point == 0 and (grid.qmin, grid.qmax) in ((-128, 127), (0, 255))

    def quantize(self, x: Any, grid: Grid) -> np.ndarray:
        """Codes (int32)."""
        return self._code(np.asarray(x, np.float32) * multiplier(grid), grid)


class Bound(OneDnnArithmetic):
    """The arithmetic for one model."""

    def __init__(self, model: Model) -> None:
        self.fusion = Fusion(model)
        self.hosts = self.fusion.added()
        self.operations = {Elementwise: _elementwise, Pooling: _pooling}

    def dequantize(self, accumulator: np.ndarray, node: QuantizedNode) -> np.ndarray:
        """Real output of a layer's integer sums: on its grid, or float64 where something is added to it at once."""
        weight, data = stored(node.quantization, node.bias), multiplier(node.quantization.input)
        total = accumulator.astype(np.float32)
        if node.bias is not None:
            codes = np.rint(node.bias.astype(np.float32) * (weight.scale * data))
            total = total + per_channel(codes, total.ndim)
        if isinstance(node, InnerProduct):
            return total * per_channel(np.float32(1) / data / weight.scale, total.ndim)
        fused = self.fusion.of[node.name]
        steps = total * per_channel(multiplier(fused.rounding.grid) / data / weight.scale, total.ndim)
        if fused.add is not None:  # exact, and so is the way back
            return steps.astype(np.float64) * np.float64(fused.rounding.grid.scale)
        return on_grid(steps, fused.rounding.grid)


def on_grid(steps: np.ndarray, grid: Grid) -> np.ndarray:
    """Real values of steps that are rounded and cut off at the ends of a grid."""
    return real(np.clip(np.rint(steps), grid.qmin, grid.qmax), grid)


def _codes(x: np.ndarray, grid: Grid) -> np.ndarray:
    return np.rint(x / np.float32(grid.scale))


def _elementwise(node, inputs, arithmetic):
    host, own = arithmetic.hosts.get(node.name), arithmetic.fusion.of.get(node.name)
    if host is not None:
        return _added(node, inputs, arithmetic.fusion.of[host], arithmetic.fusion.grids)
    if own is None:
        return OPERATIONS[Elementwise](node, inputs, arithmetic)
    if own.wide:
        return _wide(node, inputs, own, arithmetic.fusion.grids)
    out, grids = own.rounding.grid, [arithmetic.fusion.grids[blob] for blob in node.inputs]
    terms = [_codes(x, grid) * (multiplier(out) / multiplier(grid)) for x, grid in zip(inputs, grids)]
    return on_grid(terms[0] + terms[1], out)


def _wide(node: Elementwise, inputs, own: Fused, grids):
    """Sums in int32, whose range is that of both operands together; then uint8."""
    ends, out = [threshold(grids[blob]) for blob in node.inputs], own.rounding.grid
    reach = ends[0] + ends[1]
    terms = [_codes(x, grids[blob]) * (end * INT32 / (reach * RANGES[True]))
             for blob, x, end in zip(node.inputs, inputs, ends)]
    sums = np.rint(terms[0] + terms[1]).astype(np.float32)
    return on_grid(sums * (reach / INT32 * (np.float32(out.qmax) / requantized_end(out))), out)


def _added(node: Elementwise, inputs, fused: Fused, grids):
    other, out = grids[fused.other], fused.rounding.grid
    sums, lying = inputs if node.inputs[1] == fused.other else inputs[::-1]
    steps = sums / np.float64(out.scale)
    ratio = np.float64(multiplier(out) / multiplier(other))
    # a product of 8 and 24 bits is exact in float64, and what is added to it has 24
    return on_grid((_codes(lying, other).astype(np.float64) * ratio + steps).astype(np.float32), out)


def _pooling(node, inputs, arithmetic):
    if node.kind == "max" or node.name not in arithmetic.fusion.handed:
        return OPERATIONS[Pooling](node, inputs, arithmetic)
    grid = arithmetic.fusion.grids[node.inputs[0]]
    sums = window_sums(_codes(inputs[0], grid), node)
    return on_grid(sums / window_areas(node, inputs[0].shape), grid)

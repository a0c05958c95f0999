# SPDX-License-Identifier: MIT
"""What the C source computes, on NumPy's integers: every blob is whole numbers on its grid (`grids`).

Sums of products and everything else that is not on the grid of its output is multiplied by m / 2^shift and rounded to
the nearest, halves up (`scaling`); a bias is added before the shift, so that it is as fine as the shift is long.
"""

import copy
from typing import Any, Callable, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from deploy.arithmetic import Arithmetic, real
from deploy.engine.operations import OPERATIONS
from deploy.engine.pooling import window_areas, window_sums
from deploy.ir import (
    Activation,
    Affine,
    BatchNorm,
    Concat,
    Elementwise,
    Function,
    Grid,
    Model,
    Padding,
    Pooling,
    PReLU,
    QuantizedNode,
    Rounding,
    integers,
)
from deploy.ir.affine import factor_and_shift
from deploy.targets.c.grids import grids
from deploy.targets.c.scaling import SCALINGS, Scaling

LIMIT = 62  # bits of what is shifted
SUM_BITS = 30  # by which the parts of a sum are shifted


class FixedArithmetic(Arithmetic):
    """See the module.

    Parameters
    ----------
    scaling : str
        A name in `scaling.SCALINGS`.

    Attributes
    ----------
    grids : dict
        Blob -> Grid, once it is bound to a model.
    """

    takes_reals = True

    def __init__(self, scaling: str = "FIXED_MULT32"):
        self.scaling: Scaling = SCALINGS[scaling]
        self.name = f"c {scaling}"
        self.grids: Mapping[str, Grid] = {}

    def bound(self, model: Model) -> "FixedArithmetic":
        """See `Arithmetic.bound`."""
        new = copy.copy(self)
        new.grids = grids(model).of
        return new

    @property
    def operations(self) -> Mapping[type, Callable]:  # type: ignore[override]
        """Everything that does not hand numbers on as they are."""
        return OPERATIONS_C

    def function(self, kind: str, node: Any) -> Optional[Callable[..., np.ndarray]]:
        """Activation functions on the grid of the node's output."""
        if node is None or integers(node) is None:
            return None
        grid = self.grids[node.outputs[0]]
        return lambda x, *parameters: real(
            applied(Function(kind, parameters), codes_of(x, grid), grid, self), grid)

    def dequantize(self, accumulator: np.ndarray, node: QuantizedNode) -> np.ndarray:
        """The codes of a layer's output, as real numbers."""
        grid = self.grids[node.outputs[0]]
        factor, shift = layer_factors(node, grid)
        values = affine(accumulator.astype(np.int64), factor, shift, self.scaling)
        return real(clipped(values, grid), grid)


def codes_of(x: np.ndarray, grid: Grid) -> np.ndarray:
    """The codes (int64) of real numbers that lie on a grid."""
    return np.rint(x.astype(np.float64) / grid.scale).astype(np.int64) + grid.zero_point


def clipped(values: np.ndarray, grid: Grid) -> np.ndarray:
    """Codes (int64) from values in steps of the grid, zero at 0."""
    return np.clip(values + grid.zero_point, grid.qmin, grid.qmax)


def layer_factors(node: QuantizedNode, grid: Grid) -> Tuple[np.ndarray, np.ndarray]:
    """What a layer's sums are multiplied by, and what is added to them, for each output, in steps of its grid."""
    quantization = node.quantization
    steps = np.float64(quantization.input.scale) * quantization.weight_scale.astype(np.float64) / grid.scale
    bias = np.zeros(len(steps)) if node.bias is None else node.bias.astype(np.float64) / grid.scale
    return steps, bias


def held_affine(factor: np.ndarray, term: np.ndarray, scaling: Scaling) -> Tuple[np.ndarray, ...]:
    """(m, b, shift) of whole numbers: x * factor + term is (x * m + b) >> shift, half of 2^shift being in b already."""
    m, shift = scaling.parts(factor)
    # numbers that need more bits than there are lose the finest ones
    room = LIMIT - np.ceil(np.log2(np.abs(term) + 1)).astype(np.int64) - 1
    excess = np.maximum(shift - np.minimum(room, 55), 0)
    m, shift = m >> np.minimum(excess, 62), shift - excess
    half = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 0)
    b = np.rint(np.ldexp(term, shift.astype(np.int32))).astype(np.int64) + half
    return m, b, shift


def affine(x: np.ndarray, factor: np.ndarray, term: np.ndarray, scaling: Scaling, axis: int = 1) -> np.ndarray:
    """x * factor + term, rounded; factor and term (n,) along an axis of `x` (int64)."""
    shape = [1] * x.ndim
    shape[axis] = -1
    if scaling.hold is None:
        y = x.astype(np.float64) * factor.reshape(shape) + term.reshape(shape)
        return np.floor(y + 0.5).astype(np.int64)
    m, b, shift = (part.reshape(shape) for part in held_affine(factor, term, scaling))
    return (x * m + b) >> shift


def held_sum(factors: np.ndarray, scaling: Scaling) -> Tuple[np.ndarray, int]:
    """(m for each factor, their common shift)."""
    m, shift = scaling.parts(factors)
    common = int(shift[np.argmax(np.abs(factors))])
    if scaling.shifts:  # the largest is 1 at that shift: smaller ones would be none
        common = int(min(common + SUM_BITS, shift.max()))
    held = scaling.held(factors)
    return np.rint(np.ldexp(held, common)).astype(np.int64), common


def weighted_sum(parts: Sequence[np.ndarray], factors: np.ndarray, scaling: Scaling) -> np.ndarray:
    """The sum of parts (int64) times their factors, rounded once."""
    if scaling.hold is None:
        total = sum(part.astype(np.float64) * factor for part, factor in zip(parts, factors))
        return np.floor(np.asarray(total) + 0.5).astype(np.int64)
    m, shift = held_sum(factors, scaling)
    total = sum(part * factor for part, factor in zip(parts, m))
    return (np.asarray(total) + (np.int64(1) << shift >> 1)) >> shift


def applied(function: Function, codes: np.ndarray, grid: Grid, arithmetic: FixedArithmetic) -> np.ndarray:
    """An activation function of codes, on one grid."""
    zero = grid.zero_point
    if function.kind == "relu":
        return np.maximum(codes, zero)
    if function.kind == "clip":
        low, high = clip_codes(function, grid)
        return np.clip(codes, low, high)
    slope = np.array([float(np.float32(function.parameters[0]))])
    below = affine(codes.reshape(1, -1) - zero, np.repeat(slope, 1), np.zeros(1), arithmetic.scaling, axis=0)
    return np.where(codes >= zero, codes, clipped(below.reshape(codes.shape), grid))


def clip_codes(function: Function, grid: Grid) -> Tuple[int, int]:
    """The codes of a clip's ends."""
    low, high = (int(np.floor(np.float64(np.float32(value)) / grid.scale + 0.5)) + grid.zero_point
                 for value in function.parameters)
    return max(low, grid.qmin), min(high, grid.qmax)


# ---- operations


def _rounding(node, inputs, arithmetic):
    source = arithmetic.grids.get(node.inputs[0])
    if source is None:  # the image: whoever prepares it rounds it
        return real(arithmetic.quantize(inputs[0], node.grid), node.grid)
    return rescaled(inputs[0], source, node.grid, arithmetic)


def rescaled(x: np.ndarray, source: Grid, grid: Grid, arithmetic: FixedArithmetic) -> np.ndarray:
    """Numbers on one grid as numbers on another."""
    codes = codes_of(x, source)
    if source == grid:
        return x
    values = codes.reshape(1, -1) - source.zero_point
    if source.scale != grid.scale:
        values = affine(values, np.array([source.scale / grid.scale]), np.zeros(1), arithmetic.scaling, axis=0)
    return real(clipped(values.reshape(x.shape), grid), grid)


def _pooling(node, inputs, arithmetic):
    x = inputs[0]
    if node.kind == "max":
        return OPERATIONS[Pooling](node, inputs, arithmetic)
    source, grid = arithmetic.grids[node.inputs[0]], arithmetic.grids[node.outputs[0]]
    values = (codes_of(x, source) - source.zero_point).astype(np.float64)  # whole numbers that float64 holds
    if node.global_:
        sums, areas = values.sum(axis=(2, 3), keepdims=True), np.array([[[[x.shape[2] * x.shape[3]]]]])
    else:
        sums, areas = window_sums(values, node), window_areas(node, x.shape)
    flat = sums.astype(np.int64).reshape(-1, areas.size)
    factor = average_factors(areas, source, grid)
    return real(clipped(affine(flat, factor, np.zeros(areas.size), arithmetic.scaling).reshape(sums.shape), grid), grid)


def average_factors(areas: np.ndarray, source: Grid, grid: Grid) -> np.ndarray:
    """What the sum of each window is multiplied by."""
    return source.scale / grid.scale / areas.astype(np.float64).ravel()


def _elementwise(node, inputs, arithmetic):
    sources, grid = [arithmetic.grids[blob] for blob in node.inputs], arithmetic.grids[node.outputs[0]]
    if node.op in ("max", "min"):
        parts = [rescaled(x, source, grid, arithmetic) for x, source in zip(inputs, sources)]
        return (np.maximum if node.op == "max" else np.minimum)(*parts)
    parts = [codes_of(x, source) - source.zero_point for x, source in zip(inputs, sources)]
    return real(clipped(weighted_sum(parts, sum_factors(node, sources, grid), arithmetic.scaling), grid), grid)


def sum_factors(node: Elementwise, sources: List[Grid], grid: Grid) -> np.ndarray:
    """What each part of a sum or difference is multiplied by."""
    factors = np.array([source.scale / grid.scale for source in sources])
    return factors * [1, -1] if node.op == "sub" else factors


def _concat(node, inputs, arithmetic):
    grid = arithmetic.grids[node.outputs[0]]
    parts = [rescaled(x, arithmetic.grids[blob], grid, arithmetic) for x, blob in zip(inputs, node.inputs)]
    return OPERATIONS[Concat](node, parts, arithmetic)


def _affine(node, inputs, arithmetic):
    source, grid = arithmetic.grids[node.inputs[0]], arithmetic.grids[node.outputs[0]]
    factor, term = channel_factors(node, source, grid, inputs[0].shape[1])
    values = affine(codes_of(inputs[0], source) - source.zero_point, factor, term, arithmetic.scaling)
    return real(clipped(values, grid), grid)


def channel_factors(node: Any, source: Grid, grid: Grid, channels: int) -> Tuple[np.ndarray, np.ndarray]:
    """Factor and term of each channel of an Affine or BatchNorm, in steps of the two grids."""
    factor, term = (np.broadcast_to(part, (channels,)) for part in factor_and_shift(node))
    return factor * source.scale / grid.scale, term / grid.scale


def _activation(node, inputs, arithmetic):
    source, grid = arithmetic.grids[node.inputs[0]], arithmetic.grids[node.outputs[0]]
    codes = applied(node.function, codes_of(inputs[0], source), source, arithmetic)
    return rescaled(real(codes, source), source, grid, arithmetic)


def _prelu(node, inputs, arithmetic):
    source, grid = arithmetic.grids[node.inputs[0]], arithmetic.grids[node.outputs[0]]
    values, channels = codes_of(inputs[0], source) - source.zero_point, inputs[0].shape[1]
    slope = np.broadcast_to(node.slope.astype(np.float64), (channels,))
    below = affine(values, slope, np.zeros(channels), arithmetic.scaling)
    return rescaled(real(np.where(values >= 0, values, below) + source.zero_point, source), source, grid, arithmetic)


OPERATIONS_C: Mapping[type, Callable] = {
    Rounding: _rounding, Pooling: _pooling, Elementwise: _elementwise, Concat: _concat, Affine: _affine,
    BatchNorm: _affine, Activation: _activation, PReLU: _prelu, Padding: OPERATIONS[Padding]}

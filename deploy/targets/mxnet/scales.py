# SPDX-License-Identifier: MIT
"""Thresholds, and weights whose largest code is what MXNet makes it.

MXNet holds a grid as a threshold T: the step is T / 255.5 of uint8, T / 127.5 of int8. It gets weights as float32
numbers and rounds them when it first runs, with a scale for each output channel that makes the largest magnitude 127.5.
Rounded to the even code that is 128 where it is exact, so that -127 would become -128: the largest number is chosen so
that its product with the scale ends just below, which may cost the step a quarter of a percent at worst. A large bias
makes the scale smaller (`GetWeightScales`).

Source: MXNet 1.9.1, `src/operator/subgraph/mkldnn/mkldnn_common.h`, `src/operator/quantization/quantization_utils.h`.
"""

from typing import NamedTuple, Optional

import numpy as np

from deploy.ir import Grid, Quantization

RANGES = {True: np.float32(127.5), False: np.float32(255.5)}  # int8, uint8
QMAX = 127
LARGEST_BIAS = np.float32(2 ** 30)  # in units of the sums
NO_SCALE = np.float32(2 ** 31)  # of a channel of zeros


def signed(grid: Grid) -> bool:
    """Whether a grid's codes are int8."""
    return grid.qmin < 0


def threshold(grid: Grid) -> np.float32:
    """T of a grid."""
    return RANGES[signed(grid)] * np.float32(grid.scale)


def multiplier(grid: Grid) -> np.float32:
    """What MXNet multiplies by to get from real values to codes: float32(255.5) / T."""
    return RANGES[signed(grid)] / threshold(grid)


def requantized_end(grid: Grid) -> np.float32:
    """The largest value of a grid of uint8, which is how `_contrib_requantize` is told it."""
    return np.float32(grid.qmax) * np.float32(grid.scale)


def engine_step(scale: float, is_signed: bool) -> float:
    """The step nearest to `scale`, not larger, that is also what MXNet gets from the threshold that is made of it."""
    length, step = RANGES[is_signed], np.float32(scale)
    while length * step / length != step:
        step = min(length * step / length, np.nextafter(step, np.float32(0)))
    return float(step)


class Stored(NamedTuple):
    """A weight as MXNet holds it.

    Attributes
    ----------
    values : array of float32, (outputs, ...)
        What the parameter file has.
    scale : array of float32, (outputs,)
        What MXNet multiplies it by: the inverse of the step.
    codes : array of int8, (outputs, ...)
        What becomes of it.
    """

    values: np.ndarray
    scale: np.ndarray
    codes: np.ndarray


def stored(quantization: Quantization, bias: Optional[np.ndarray]) -> Stored:
    """The weight of an integer layer; its codes are the layer's where each channel reaches 127 and no bias is huge."""
    codes = quantization.weight_q
    rows = codes.reshape(len(codes), -1)
    steps = quantization.weight_scale.astype(np.float32)
    values = rows.astype(np.float32) * steps[:, None]
    # a positive one where there is one: 127.5 becomes 128, of which 127 is left
    largest = (2 * np.abs(rows.astype(np.int32)) + (rows > 0)).argmax(axis=1)
    everything = np.arange(len(rows))
    reached = rows[everything, largest].astype(np.float32)
    magnitude = _tuned(np.abs(reached) / np.float32(QMAX) * (RANGES[True] * steps), reached < 0)
    values[everything, largest] = np.copysign(magnitude, reached)
    values[reached == 0] = 0
    with np.errstate(divide="ignore"):
        scale = np.where(magnitude > 0, RANGES[True] / magnitude, NO_SCALE).astype(np.float32)
    scale = np.minimum(scale, _bias_limit(bias, multiplier(quantization.input), len(rows)))
    found = np.rint(np.clip(values * scale[:, None], -QMAX - 1, QMAX)).astype(np.int8)
    return Stored(values.reshape(codes.shape), scale, found.reshape(codes.shape))


def _tuned(magnitude: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Numbers next to `magnitude` that, where they are `negative`, are not rounded to -128 by their own scale."""
    magnitude = magnitude.astype(np.float32)
    for channel in np.flatnonzero(negative & (_product(magnitude) >= RANGES[True])):
        # most are few float32 away; beside a power of two up to a thousand times as far
        for reach in (64, 1 << 16):
            near = (magnitude[channel:channel + 1].view(np.int32) + _outward(reach)).view(np.float32)
            found = np.flatnonzero(_product(near) < RANGES[True])
            if found.size:
                magnitude[channel] = near[found[0]]
                break
    return magnitude


def _product(magnitude: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return magnitude * (RANGES[True] / magnitude)


def _outward(reach: int) -> np.ndarray:
    """0, -1, 1, -2, 2 and so on."""
    numbers = np.arange(1, reach, dtype=np.int32)
    return np.stack([-numbers, numbers], axis=1).ravel()


def _bias_limit(bias: Optional[np.ndarray], data_scale: np.float32, channels: int) -> np.ndarray:
    """Scales beyond which MXNet's int32 biases would overflow; infinity where there is no bias."""
    if bias is None:
        return np.full(channels, np.inf, np.float32)
    with np.errstate(divide="ignore"):
        return LARGEST_BIAS / np.abs(bias.astype(np.float32)) / data_scale

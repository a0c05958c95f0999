# SPDX-License-Identifier: MIT
"""The sums that ncnn's int8 Winograd convolutions give: F(4,3) by default, F(2,3) where that is switched off.

ncnn transforms tiles by B^T, and kernels by G times 2 (F(2,3)) or 24 (F(4,3)), so that no fractions are left, in
int16, where nothing overflows for codes up to 128; adds products in int32; transforms the sums back in int32; and
divides by what all this has multiplied them by: 4, or 576. Everything but the division is addition and multiplication
modulo 2^32, in which the transforms cancel as they do in exact numbers. So the number to divide is factor * sum,
wrapped to int32, for any input: no tile need be computed.

F(2,3) shifts right by 2. F(4,3) multiplies in float32 by float32(1 / 576) and truncates, four outputs or more at a
time; the last outputs % 4 channels are divided as integers. Source: ncnn (July 2026),
src/layer/x86/convolution_3x3_winograd_int8.h; equal to wheel 1.0.20261020 bit for bit, overflow included.
"""

from typing import Any

import numpy as np

from deploy.ir import Convolution, QuantizedNode
from deploy.targets.ncnn.arithmetic import NcnnArithmetic
from deploy.targets.ncnn.constraints import WINOGRAD_EXACT, by_winograd, of_node
from quantize.errors import ConfigError
from quantize.registry import closest

FACTORS = {"F23": 4, "F43": 576}
EXACT = {"F23": 2 ** 29 - 1, "F43": WINOGRAD_EXACT}  # largest |sum| that always comes out as it is
LANES = 4  # outputs that SIMD code takes at least
MIN_CHANNELS = 9  # on x86, of inputs or of outputs


def winograd_sums(sums: np.ndarray, variant: str = "F43") -> np.ndarray:
    """What ncnn makes of a layer's exact integer sums.

    Parameters
    ----------
    sums : array, (n, outputs, oh, ow)
        Whole numbers within int32, of any number type.
    variant : {"F23", "F43"}

    Returns
    -------
    array
        Whole numbers; shape and type of `sums`, or `sums` itself where none is large.
    """
    if max(sums.max(initial=0), -sums.min(initial=0)) <= EXACT[variant]:
        return sums
    scaled = _wrapped(sums.astype(np.int64) * FACTORS[variant])
    if variant == "F23":
        return (scaled >> 2).astype(sums.dtype)
    whole = sums.shape[1] // LANES * LANES
    result = np.empty_like(sums)
    result[:, :whole] = np.trunc(scaled[:, :whole].astype(np.float32) * np.float32(1 / FACTORS[variant]))
    result[:, whole:] = np.trunc(scaled[:, whole:] / FACTORS[variant])
    return result


def _wrapped(values):
    """int64 taken to int32's range as int32 arithmetic does."""
    return (values + 2 ** 31) % 2 ** 32 - 2 ** 31


def fits_winograd(node: Any) -> bool:
    """Whether ncnn on x86 would compute a node by Winograd if its file allowed it."""
    return (isinstance(node, Convolution) and of_node(node).winograd
            and max(node.weight.shape[:2]) >= MIN_CHANNELS)


class WinogradArithmetic(NcnnArithmetic):
    """ncnn's arithmetic on x86 with its integer Winograd.

    Parameters
    ----------
    variant : {"F43", "F23"}
        ncnn takes F(4,3), or F(2,3) with `use_winograd43_convolution` off.
    everywhere : bool
        Also for layers that the files exclude from Winograd, since they have more than 31 levels.
    """

    def __init__(self, variant: str = "F43", everywhere: bool = False):
        if variant not in FACTORS:
            raise ConfigError(f"ncnn has int8 kernels for {' and '.join(sorted(FACTORS))}, not for {variant!r}"
                              f"{closest(variant, FACTORS)}")
        self.variant, self.everywhere = variant, everywhere

    def dequantize(self, accumulator: np.ndarray, node: QuantizedNode) -> np.ndarray:
        """See `NcnnArithmetic.dequantize`."""
        if isinstance(node, Convolution) and fits_winograd(node) and (self.everywhere or by_winograd(node)):
            accumulator = winograd_sums(accumulator, self.variant)
        return super().dequantize(accumulator, node)

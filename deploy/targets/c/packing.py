# SPDX-License-Identifier: MIT
"""Weights at their bits: rows of codes one after the other, each from the first bit of a byte on, lowest bits first."""

from dataclasses import dataclass

import numpy as np

from deploy.ir import Quantization


@dataclass(frozen=True, eq=False)
class Packed:
    """A packed weight; a code is step * number - offset.

    Parameters
    ----------
    rows : array of uint8, (outputs, bytes of a row)
    bits : int
        Of a number.
    step, offset : int
    length : int
        Codes of a row.
    """

    rows: np.ndarray
    bits: int
    step: int
    offset: int
    length: int


def pack(quantization: Quantization) -> Packed:
    """The codes of a weight at the bits that they need.

    Grids without a level at zero have odd codes alone, of which every second number is left out; those with their
    lowest code (-8 to 7) lack the highest number. Rows that are zero altogether, channels that nothing is learned in,
    get any: their sums count for nothing (`dead_rows`).
    """
    codes = quantization.weight_q.reshape(len(quantization.weight_q), -1).astype(np.int64)
    largest = quantization.weight_qmax
    odd = (codes[~dead_rows(quantization)] % 2 != 0).all() and largest % 2 == 1
    step, offset = (2, largest) if odd else (1, largest)
    numbers = np.clip((codes + offset) // step, 0, None)
    highest = (2 * largest - int(codes.max() < largest)) // step
    bits = max(1, int(highest).bit_length())
    spread = (numbers[..., None] >> np.arange(bits)) & 1
    rows = np.packbits(spread.reshape(len(codes), -1).astype(np.uint8), axis=1, bitorder="little")
    return Packed(rows, bits, step, offset, codes.shape[1])


def dead_rows(quantization: Quantization) -> np.ndarray:
    """Whether all codes of an output are zero, (outputs,)."""
    return ~quantization.weight_q.reshape(len(quantization.weight_q), -1).any(axis=1)


def unpack(packed: Packed) -> np.ndarray:
    """The codes (int64) of a packed weight, (outputs, length); zero rows come as others."""
    bits = np.unpackbits(packed.rows, axis=1, bitorder="little")[:, :packed.length * packed.bits]
    numbers = (bits.reshape(len(bits), packed.length, packed.bits).astype(np.int64) << np.arange(packed.bits)).sum(-1)
    return packed.step * numbers - packed.offset

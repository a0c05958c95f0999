# SPDX-License-Identifier: MIT
"""Fused multiply-add: scale * x + shift with one rounding, which NumPy does not offer."""

from typing import Any

import numpy as np

# of float64's 52 stored bits float32 keeps 23: a number that ends with these bits lies half way between two float32
_DROPPED = np.int64((1 << 29) - 1)
_HALF_WAY = np.int64(1 << 28)
_TINY = np.finfo(np.float32).tiny
_BLOCK = 1 << 15  # elements that are worked on at a time: they stay in the cache


def fma(x: np.ndarray, scale: Any, shift: Any) -> np.ndarray:
    """``x * scale + shift`` rounded once to float32.

    Parameters
    ----------
    x : array of float32, (n, channels, ...)
    scale, shift : array of float32, (channels,), or a number
        All finite.
    """
    rows = np.ascontiguousarray(x).reshape(x.shape[0] * x.shape[1], -1)
    scale, shift = (np.tile(np.broadcast_to(np.float32(v), x.shape[1:2]), x.shape[0])[:, None] for v in (scale, shift))
    y = np.empty(rows.shape, np.float32)
    step = max(1, _BLOCK // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        _fma(rows[block], scale[block], shift[block], y[block])
    return y.reshape(x.shape)


def _fma(x, scale, shift, y):
    """Write ``x * scale + shift`` into `y`; all are contiguous, with two axes.

    The product is exact in float64 (48 bits). Rounding the sum to 53 bits and then to 24 differs from rounding it once
    only where the first result lies half way between two float32 (elsewhere for subnormal ones). Such sums are rounded
    to odd first, after which the second rounding is correct (Boldo and Melquiond, "Emulation of FMA and correctly
    rounded sums: proved algorithms using rounding to odd", IEEE Trans. Computers 57(4), 2008).
    """
    total = x.astype(np.float64)
    total *= scale
    total += shift
    y[...] = total
    doubtful = (total.view(np.int64) & _DROPPED) == _HALF_WAY
    doubtful |= np.abs(y) <= _TINY
    where = np.flatnonzero(doubtful)
    if where.size:
        row = where // y.shape[1]
        y.ravel()[where] = _sum_to_odd(x.ravel()[where].astype(np.float64) * scale[row, 0], shift[row, 0])


def _sum_to_odd(x, y):
    """x + y in float64, taken to the neighbour with an odd last bit where it is not exact."""
    total = x + y
    part = total - x
    error = (x - (total - part)) + (y - part)  # TwoSum (Knuth): x + y = total + error exactly
    even = (total.view(np.int64) & 1) == 0
    return np.where((error != 0) & even, np.nextafter(total, np.copysign(np.inf, error)), total)

# SPDX-License-Identifier: MIT
"""Exact sums of x, |x| and x squared."""

from fractions import Fraction

import numpy as np

from calib.observers.base import OBSERVERS
from calib.observers.minmax import MinMaxObserver

# A float32 is a whole number of 2**-149 (the smallest denormal), so its square is a whole number of 2**-298.
UNIT = 149
CHUNK = 1 << 13


@OBSERVERS.register("moments")
class MomentsObserver(MinMaxObserver):
    """Count, sum, sum of magnitudes and sum of squares, without any rounding.

    Every float32 is ``m * 2**(e - 150)`` with a 24-bit whole number m; the m (and the halves of the 48-bit m*m) are
    added up per exponent, exactly, and then joined in Python integers. The sums are therefore the true ones, and do
    not depend on order, batches or shards. Memory: three integers of at most some hundred bits per layer.

    Attributes
    ----------
    count : int
        Values seen.
    total, magnitude : int
        Sum of x, and of |x|, in units of 2**-149.
    squares : int
        Sum of x*x in units of 2**-298.
    """

    name = "moments"

    def __init__(self):
        super().__init__()
        self.count = 0
        self.total = 0
        self.magnitude = 0
        self.squares = 0

    def _update(self, x, low, high):
        super()._update(x, low, high)
        bits = np.ascontiguousarray(x).reshape(-1).view(np.uint32)
        sums = np.zeros((3, 512), np.int64)
        for start in range(0, bits.size, CHUNK):
            _add(bits[start:start + CHUNK], sums)
        for key in np.flatnonzero(sums[0]).tolist():
            shift = max(key & 255, 1) - 1
            first, high_half, low_half = sums[:, key].tolist()
            self.magnitude += first << shift
            self.total += (-first if key > 255 else first) << shift
            self.squares += ((high_half << 24) + low_half) << (2 * shift)
        self.count += x.size

    def _merge(self, other):
        super()._merge(other)
        self.count += other.count
        self.total += other.total
        self.magnitude += other.magnitude
        self.squares += other.squares

    def mean(self) -> float:
        """Mean of x."""
        return self._mean(self.total, UNIT)

    def mean_magnitude(self) -> float:
        """Mean of |x|."""
        return self._mean(self.magnitude, UNIT)

    def mean_square(self) -> float:
        """Mean of x*x."""
        return self._mean(self.squares, 2 * UNIT)

    def std(self) -> float:
        """Standard deviation (divided by the count, not by one less)."""
        self._require_samples()
        variance = Fraction(self.squares * self.count - self.total ** 2, self.count ** 2)
        return float(variance / 2 ** (2 * UNIT)) ** 0.5

    def _mean(self, total, unit):
        self._require_samples()
        return float(Fraction(total, self.count << unit))


def _add(bits, sums):
    """Add the mantissas, and both halves of their squares, to the sums of their sign and exponent."""
    keys = (bits >> 23).astype(np.intp)
    mantissa = (bits & 0x7FFFFF).astype(np.uint64)
    mantissa[(keys & 255) != 0] |= np.uint64(1 << 23)
    square = mantissa * mantissa
    parts = mantissa, square >> np.uint64(24), square & np.uint64(0xFFFFFF)
    for total, part in zip(sums, parts):
        # float64 weights are exact: CHUNK values of 24 bits stay below 2**53
        total += np.bincount(keys, part.astype(np.float64), 512).astype(np.int64)

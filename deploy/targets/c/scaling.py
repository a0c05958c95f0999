# SPDX-License-Identifier: MIT
"""How sums of products become codes: by a multiplication and a shift of whole numbers, by shifts, or in float.

A factor f is held as m / 2^shift with a whole m; a number v becomes (v * m + 2^(shift - 1)) >> shift, that is v * f
rounded to the nearest, halves up.
"""

from dataclasses import dataclass
from typing import Any, Callable, Dict, Tuple

import numpy as np

SHIFT_MAX = 62  # of an int64
NO_POWER = 127
Held = Tuple[np.ndarray, np.ndarray]  # m (int64) and shift (int64)


@dataclass(frozen=True)
class Scaling:
    """A way to hold factors.

    Parameters
    ----------
    name : str
        As N2D2 calls it.
    help : str
    hold : function or None
        From factors (float64, positive) to (m, shift); None: factors stay float64.
    shifts : int
        Powers of two that a factor is the sum of; 0: it is any whole number.
    """

    name: str
    help: str
    hold: Any = None
    shifts: int = 0

    def held(self, factors: np.ndarray) -> np.ndarray:
        """The factors (float64) that computing really multiplies by; 0 and negative ones are held by magnitude."""
        factors = np.asarray(factors, np.float64)
        if self.hold is None:
            return factors
        m, shift = self.parts(factors)
        return np.ldexp(m.astype(np.float64), -shift.astype(np.int32))

    def parts(self, factors: np.ndarray) -> Held:
        """(m, shift), whole numbers of the shape of the factors, with 0 <= shift <= 62; m 0 where a factor is tiny."""
        factors = np.asarray(factors, np.float64)
        size = np.abs(factors)
        m, shift = self.hold(np.where(size > 0, size, 1.0))
        # a factor below 2^-62 of what is shifted gives 0 whatever it multiplies
        gone = (size == 0) | (shift > SHIFT_MAX)
        m, shift = np.where(gone, 0, m), np.where(gone, 1, shift)
        # 2^k times a number is a multiplication by 2^k and no shift
        m, shift = np.where(shift < 0, m << np.minimum(-np.minimum(shift, 0), 31), m), np.maximum(shift, 0)
        return (m * np.where(factors < 0, -1, 1)).astype(np.int64), shift.astype(np.int64)


def _mantissa(bits: int) -> Callable[[np.ndarray], Held]:
    def hold(factors: np.ndarray) -> Held:
        mantissa, exponent = np.frexp(factors)  # 0.5 <= mantissa < 1
        m = np.rint(np.ldexp(mantissa, bits)).astype(np.int64)
        shift = bits - exponent.astype(np.int64)
        over = m >> bits  # rounded up to the next power of two
        return m >> over, shift - over
    return hold


def _single(factors: np.ndarray) -> Held:
    return np.ones(factors.shape, np.int64), -np.rint(np.log2(factors)).astype(np.int64)


def _double(factors: np.ndarray) -> Held:
    """2^-a + 2^-b, the nearest of those with 2^-a the largest power of two in the factor, or a power of two alone."""
    first = np.floor(np.log2(factors)).astype(np.int64)
    rest = factors - np.ldexp(1.0, first.astype(np.int32))
    second = np.rint(np.log2(np.maximum(rest, np.ldexp(1.0, (first - 16).astype(np.int32))))).astype(np.int64)
    m = (np.int64(1) << (first - second)) + 1
    alone = rest < np.ldexp(1.0, (first - 16).astype(np.int32))
    return np.where(alone, 1, m), np.where(alone, -first, -second)


def powers(m: np.ndarray, count: int) -> np.ndarray:
    """The powers of two that whole numbers are sums of, (count, ...) int8, the largest first.

    k stands for 2^k, -1 - k for -2^k, and `NO_POWER` for 0.
    """
    rest = np.abs(m)
    found = []
    for _ in range(count):
        k = np.frexp(rest.astype(np.float64))[1].astype(np.int64) - 1  # exact: a sum of two powers has few digits
        found.append(np.where(rest > 0, np.where(m < 0, -1 - k, k), NO_POWER))
        rest = np.where(rest > 0, rest - (np.int64(1) << np.maximum(k, 0)), 0)
    assert not rest.any()
    return np.asarray(found, np.int8)


SCALINGS: Dict[str, Scaling] = {scaling.name: scaling for scaling in (
    Scaling("FIXED_MULT32", "multiply by 31 bits, shift", _mantissa(31)),
    Scaling("FIXED_MULT16", "multiply by 15 bits, shift", _mantissa(15)),
    Scaling("SINGLE_SHIFT", "shift: factors become powers of two", _single, 1),
    Scaling("DOUBLE_SHIFT", "two shifts and a sum: factors become sums of two powers of two", _double, 2),
    Scaling("FLOAT_MULT", "multiply in floating point"),
)}

# SPDX-License-Identifier: MIT
"""One histogram from which every histogram-based calibrator decides."""

import math
import threading
from typing import Any, Dict, Optional

import numpy as np

from calib.observers.base import OBSERVERS
from calib.observers.minmax import MinMaxObserver
from quantize.errors import CalibrationError

SIDE_BINS = 16384  # of each sign
SIDE_BITS = 14
SMALLEST_EXPONENT = -126  # 2**126 is still a float32; the bins of smaller values would need a larger factor
CHUNK = 1 << 16  # the temporaries of one chunk stay in the second-level cache


@OBSERVERS.register("histogram")
class HistogramObserver(MinMaxObserver):
    """Counts of values in bins of a power-of-two width, exact zeros apart, and the exact extremes.

    Bin i (-16384 <= i < 16384) counts the values in ``[i * width, (i + 1) * width)`` other than zero, with
    ``width = 2**exponent`` the smallest that holds everything seen. When the range grows, neighbouring bins are added
    in pairs, which is where the values would have been counted with the wider bins: floor(floor(x) / 2) = floor(x / 2).
    Counts are whole numbers and the exponent depends on the extremes alone, so the state does not depend on order,
    batches or shards. At least half of the bins up to the largest magnitude are in use: 8192 to 16384.

    Memory is constant: 32768 counts of 64 bits per layer, 256 KiB, and 1 MiB of work space per thread for all layers.

    Parameters
    ----------
    per_image : int, optional
        Count only about so many values of each image, evenly spaced over its flattened feature map at a step that
        shares no divisor with its size (so all rows, columns and channels take turns). Which ones depends on
        the shape of the image alone, so that the state stays independent of order, batches and shards. The extremes
        are still those of all values. None: count every value.

    Attributes
    ----------
    values : int
        Values seen, counted or not.
    zeros : int
        Exact zeros among the counted.
    """

    name = "histogram"

    def __init__(self, per_image: Optional[int] = None):
        super().__init__()
        if per_image is not None and per_image < 1:
            raise CalibrationError(f"per_image must be at least 1, got {per_image!r}")
        self.per_image = per_image
        self.exponent = SMALLEST_EXPONENT
        self.values = 0
        self.zeros = 0
        self._counts = np.zeros(2 * SIDE_BINS, np.int64)

    @property
    def width(self) -> float:
        """Width of a bin."""
        return 2.0 ** self.exponent

    @property
    def total(self) -> int:
        """Values counted, zeros included."""
        return self.zeros + int(self._counts.sum())

    def positive(self) -> np.ndarray:
        """Counts of the values above zero: bin i is ``[i * width, (i + 1) * width)``; int64[16384]."""
        return self._counts[SIDE_BINS:].copy()

    def negative(self) -> np.ndarray:
        """Counts of the values below zero by magnitude: bin i is ``(i * width, (i + 1) * width]``; int64[16384]."""
        return self._counts[SIDE_BINS - 1::-1].copy()

    def state(self) -> Dict[str, Any]:
        """The used part of the counts starts at bin `first`."""
        state = {key: value for key, value in vars(self).items() if key != "_counts"}
        # only the used part is written: a state of 60 layers would else be mostly zeros
        used = np.flatnonzero(self._counts)
        first, last = (int(used[0]), int(used[-1]) + 1) if used.size else (SIDE_BINS, SIDE_BINS)
        return dict(state, observer=self.name, first=first - SIDE_BINS, counts=self._counts[first:last].tolist())

    def _restore(self, values):
        counts, first = values.pop("counts"), values.pop("first") + SIDE_BINS
        whole = all(isinstance(count, int) and 0 <= count < 2 ** 63 for count in counts)
        if not whole or first < 0 or first + len(counts) > 2 * SIDE_BINS:
            raise CalibrationError(f"the counts of a histogram observer must be whole numbers in bins {-SIDE_BINS} to "
                                   f"{SIDE_BINS - 1}")
        # for its check of the number alone
        HistogramObserver(values["per_image"])
        if not SMALLEST_EXPONENT <= values["exponent"] <= 128 - SIDE_BITS or min(values["zeros"], values["values"]) < 0:
            raise CalibrationError("the exponent or a number of values of a histogram observer is out of range")
        super()._restore(values)
        self._counts[first:first + len(counts)] = counts

    def step(self, size: int) -> int:
        """Of an image of `size` values every `step(size)`-th is counted, from the first on."""
        step = 1 if self.per_image is None else -(-size // self.per_image)
        # a step that divides the width would take the same columns of every row
        while math.gcd(step, size) != 1:
            step += 1
        return step

    def _update(self, x, low, high):
        super()._update(x, low, high)
        self.values += x.size
        # before anything is counted, so that no value lies outside
        self._widen(exponent_of(max(-low, high)))
        size = x.size // len(x)
        step = self.step(size)
        values = (x if step == 1 else np.ascontiguousarray(x.reshape(len(x), size)[:, ::step])).reshape(-1)
        if self.exponent > 0:  # a float32 product could vanish below the smallest denormal
            values = values.astype(np.float64)
        factor = values.dtype.type(2.0 ** -self.exponent)
        for start in range(0, values.size, CHUNK):
            self.zeros += _count(values[start:start + CHUNK], factor, self._counts, signed=low < 0)

    def _widen(self, exponent):
        if exponent > self.exponent:
            self._counts = _folded(self._counts, exponent - self.exponent)
            self.exponent = exponent

    def _merge(self, other):
        if other.per_image != self.per_image:
            raise CalibrationError(f"histograms with per_image {self.per_image} and {other.per_image} cannot be merged")
        super()._merge(other)
        self._widen(other.exponent)
        self._counts = self._counts + _folded(other._counts, self.exponent - other.exponent)
        self.values += other.values
        self.zeros += other.zeros


def exponent_of(magnitude: float) -> int:
    """Exponent of the smallest bin width 2**exponent with ``magnitude < 16384 * width``."""
    if not magnitude:
        return SMALLEST_EXPONENT
    return max(math.frexp(magnitude)[1] - SIDE_BITS, SMALLEST_EXPONENT)


def _folded(counts, times):
    """Counts in bins 2**times as wide."""
    for _ in range(min(times, SIDE_BITS)):  # after 14 times all is in the two middle bins and stays there
        pairs = counts.reshape(-1, 2).sum(axis=1)
        counts = np.zeros_like(counts)
        counts[SIDE_BINS // 2:SIDE_BINS // 2 + SIDE_BINS] = pairs
    return counts


class _Workspace(threading.local):
    """Arrays for one chunk, made once per thread: fresh ones cost more in page faults than the counting itself."""

    def __init__(self):
        self.scaled = np.empty(CHUNK, np.float32)
        self.nonzero = np.empty(CHUNK, bool)
        self.narrow = np.empty(CHUNK, np.int32)
        self.index = np.empty(CHUNK, np.intp)


_WORKSPACE = _Workspace()


def _count(values, factor, counts, signed):
    """Add the values of one chunk to `counts`, without the zeros; returns how many zeros there were."""
    size = values.size
    work = _WORKSPACE
    scaled, nonzero, narrow, index = (array[:size] for array in (work.scaled, work.nonzero, work.narrow, work.index))
    # comparing first: count_nonzero is ten times as fast on booleans as on floats
    zeros = size - np.count_nonzero(np.not_equal(values, 0, out=nonzero))
    if values.dtype == np.float32:
        np.multiply(values, factor, out=scaled)
        if signed:
            np.floor(scaled, out=scaled)
    else:
        scaled[...] = np.floor(values * factor)
    if signed:
        scaled += SIDE_BINS  # exact: whole numbers up to 2**15
    narrow[...] = scaled  # through int32, because float to int64 has no vector instruction before AVX-512
    index[...] = narrow
    found = np.bincount(index)
    first = 0 if signed else SIDE_BINS
    counts[first:first + found.size] += found
    # zeros were counted with the first bin above zero: they are no values of a bin, but a number of their own
    counts[SIDE_BINS] -= zeros
    return zeros

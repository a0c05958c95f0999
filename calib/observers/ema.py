# SPDX-License-Identifier: MIT
"""Exponential moving average of the range, the `naive` calibration of Quantization.MXNet."""

from typing import Tuple

import numpy as np

from calib.observers.base import OBSERVERS, Observer
from quantize.errors import CalibrationError


@OBSERVERS.register("ema")
class EMAObserver(Observer):
    """Exponential moving average, over batches, of the batch mean of each image's extremes.

    After each batch ``value = momentum * value + (1 - momentum) * mean over images of the image's maximum``, likewise
    for the minimum. A weight is averaged along with them and divided out, so that the start at 0 does not bias the
    result: a constant 4 reads 4 after one batch. Merging adds values and weights, so it is associative and commutative;
    within one process the order and the size of the batches matter, as in any moving average.

    Parameters
    ----------
    momentum : float
        Share of the old value that stays, 0 <= momentum < 1.
    """

    name = "ema"

    def __init__(self, momentum: float = 0.9):
        super().__init__()
        if not 0 <= momentum < 1:
            raise CalibrationError(f"momentum must be at least 0 and below 1, got {momentum!r}")
        self.momentum = momentum
        self.weight = 0.0
        self.low = 0.0
        self.high = 0.0

    def _update(self, x, low, high):
        images = x.reshape(len(x), -1)
        new = 1.0 - self.momentum
        self.low = self.momentum * self.low + new * float(images.min(axis=1).mean(dtype=np.float64))
        self.high = self.momentum * self.high + new * float(images.max(axis=1).mean(dtype=np.float64))
        self.weight = self.momentum * self.weight + new

    def _merge(self, other):
        if other.momentum != self.momentum:
            raise CalibrationError(f"observers of momentum {self.momentum} and {other.momentum} cannot be merged")
        self.low, self.high = self.low + other.low, self.high + other.high
        self.weight += other.weight

    def range(self) -> Tuple[float, float]:
        """(averaged minimum, averaged maximum)."""
        self._require_samples()
        return self.low / self.weight, self.high / self.weight

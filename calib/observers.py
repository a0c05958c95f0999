# SPDX-License-Identifier: MIT
"""Observers collect and do not decide: `update(x)`, `merge(other)`, `state()` and `from_state()`.

Merging is associative and commutative, so batches, processes and machines are the same problem. Memory is constant.
"""

from typing import Any, Dict

import numpy as np

from quantize.errors import CalibrationError, DataError
from quantize.registry import Registry

OBSERVERS = Registry("observer")


class Observer:
    """The base: checks what comes in, counts samples.

    Attributes
    ----------
    samples : int
        Images seen.
    """

    name = ""

    def __init__(self):
        self.samples = 0

    def update(self, x: np.ndarray):
        """Take in a batch (images, ...); DataError for NaN, infinity or an empty batch."""
        x = np.asarray(x)
        if x.size == 0:
            raise DataError("an empty batch of shape {}".format(x.shape))
        if not np.all(np.isfinite(x)):
            raise DataError("{} of {} values are NaN or infinite".format(int((~np.isfinite(x)).sum()), x.size))
        self._update(x)
        self.samples += len(x)

    def merge(self, other: "Observer"):
        """Take in what another observer of the same kind has seen."""
        if type(other) is not type(self):
            raise CalibrationError("a {} observer cannot be merged with a {} observer".format(self.name, other.name))
        self._merge(other)
        self.samples += other.samples

    def state(self) -> Dict[str, Any]:
        """Everything the observer knows, as plain numbers."""
        return dict(vars(self), observer=self.name)

    @classmethod
    def from_state(cls, state: Dict[str, Any]) -> "Observer":
        """The observer that `state` describes."""
        values = {key: value for key, value in state.items() if key != "observer"}
        observer = cls()
        if state.get("observer") != cls.name or set(values) != set(vars(observer)):
            raise CalibrationError("not the state of a {} observer: {}".format(cls.name, sorted(state)))
        vars(observer).update(values)
        return observer

    def _update(self, x):
        raise NotImplementedError

    def _merge(self, other):
        raise NotImplementedError

    def _require_samples(self):
        if not self.samples:
            raise CalibrationError("nothing was observed")


@OBSERVERS.register("minmax")
class MinMaxObserver(Observer):
    """Smallest and largest value ever seen."""

    name = "minmax"

    def __init__(self):
        super().__init__()
        self.low = float("inf")
        self.high = float("-inf")

    def _update(self, x):
        self.low = min(self.low, float(x.min()))
        self.high = max(self.high, float(x.max()))

    def _merge(self, other):
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    def range(self):
        """(smallest, largest) value."""
        self._require_samples()
        return self.low, self.high


@OBSERVERS.register("ema")
class EMAObserver(Observer):
    """Exponential moving average, over batches, of the batch mean of each image's extremes.

    After each batch ``value = momentum * value + (1 - momentum) * mean over images of the image's maximum``, likewise
    for the minimum. A weight is averaged along with them and divided out, so that the start at 0 does not bias the
    result: a constant 4 reads 4 after one batch. Merging adds values and weights.

    Parameters
    ----------
    momentum : float
        Share of the old value that stays, 0 <= momentum < 1.
    """

    name = "ema"

    def __init__(self, momentum: float = 0.9):
        super().__init__()
        if not 0 <= momentum < 1:
            raise CalibrationError("momentum must be at least 0 and below 1, got {!r}".format(momentum))
        self.momentum = momentum
        self.weight = 0.0
        self.low = 0.0
        self.high = 0.0

    def _update(self, x):
        images = x.reshape(len(x), -1)
        new = 1.0 - self.momentum
        self.low = self.momentum * self.low + new * float(images.min(axis=1).mean(dtype=np.float64))
        self.high = self.momentum * self.high + new * float(images.max(axis=1).mean(dtype=np.float64))
        self.weight = self.momentum * self.weight + new

    def _merge(self, other):
        if other.momentum != self.momentum:
            raise CalibrationError("observers of momentum {} and {} cannot be merged".format(
                self.momentum, other.momentum))
        self.low, self.high = self.low + other.low, self.high + other.high
        self.weight += other.weight

    def range(self):
        """(averaged minimum, averaged maximum)."""
        self._require_samples()
        return self.low / self.weight, self.high / self.weight

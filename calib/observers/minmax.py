# SPDX-License-Identifier: MIT
"""The range ever seen."""

from typing import Tuple

from calib.observers.base import OBSERVERS, Observer


@OBSERVERS.register("minmax")
class MinMaxObserver(Observer):
    """Smallest and largest value ever seen."""

    name = "minmax"

    def __init__(self):
        super().__init__()
        self.low = float("inf")
        self.high = float("-inf")

    def _update(self, x, low, high):
        self.low, self.high = min(self.low, low), max(self.high, high)

    def _merge(self, other):
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    def range(self) -> Tuple[float, float]:
        """(smallest, largest) value."""
        self._require_samples()
        return self.low, self.high

# SPDX-License-Identifier: MIT
"""Observers collect and do not decide: `update(x)`, `merge(other)`, `state()` and `from_state()`.

Merging is associative and commutative, so batches, processes and machines are the same problem. Memory is constant.
Min-max, moments and histogram are *exact*: the same images give the same state, byte for byte, in whatever order,
batches and shards they came. EMA depends on the order by its definition.
"""

from calib.observers.base import OBSERVERS, Observer
from calib.observers.ema import EMAObserver
from calib.observers.histogram import HistogramObserver
from calib.observers.minmax import MinMaxObserver
from calib.observers.moments import MomentsObserver

__all__ = ["OBSERVERS", "EMAObserver", "HistogramObserver", "MinMaxObserver", "MomentsObserver", "Observer"]

# SPDX-License-Identifier: MIT
"""What every observer is."""

import math
from abc import ABC, abstractmethod
from typing import Any, Dict, Tuple

import numpy as np

from quantize.errors import CalibrationError, DataError
from quantize.registry import Registry

OBSERVERS: Registry = Registry("observer")
LARGEST_SUM = 2 ** 800  # of 2**63 squares of the largest float32, in the smallest unit


class Observer(ABC):
    """The base: checks what comes in, counts samples.

    Attributes
    ----------
    samples : int
        Images seen.
    """

    name = ""

    def __init__(self):
        self.samples = 0

    def update(self, x: np.ndarray) -> None:
        """Take in a batch (images, ...), as float32; DataError for NaN, infinity or an empty batch."""
        x = np.asarray(x, np.float32)
        if x.size == 0 or x.ndim == 0:
            raise DataError(f"an empty batch of shape {x.shape}")
        # a minimum and a maximum propagate NaN and show infinity, at a tenth of the cost of isfinite on every value
        low, high = float(x.min()) + 0.0, float(x.max()) + 0.0  # no -0.0: which of two zeros came first must not show
        if not (math.isfinite(low) and math.isfinite(high)):
            raise DataError(f"{int((~np.isfinite(x)).sum())} of {x.size} values are NaN or infinite")
        self.update_checked(x, low, high)

    def update_checked(self, x: np.ndarray, low: float, high: float) -> None:
        """As `update`, for a caller that has looked through the batch: float32, finite, `low` and `high` its extremes.

        Several observers of one tensor need not each search it.
        """
        self._update(x, low, high)
        self.samples += len(x)

    def merge(self, other: "Observer") -> None:
        """Take in what another observer of the same kind has seen."""
        if type(other) is not type(self):
            raise CalibrationError(f"a {self.name} observer cannot be merged with a {other.name} observer")
        self._merge(other)
        self.samples += other.samples

    def state(self) -> Dict[str, Any]:
        """Everything the observer knows, as numbers and lists that JSON can hold."""
        return dict(vars(self), observer=self.name)

    @classmethod
    def from_state(cls, state: Dict[str, Any]) -> "Observer":
        """The observer that `state` describes; CalibrationError when it is another observer's, or damaged."""
        observer = cls()
        expected = observer.state()
        if state.get("observer") != cls.name or set(state) != set(expected):
            raise CalibrationError(f"not the state of a {cls.name} observer: {sorted(state)}")
        for key, value in state.items():
            if isinstance(value, bool) or not isinstance(value, _kinds(expected[key])) or not _is_possible(value):
                raise CalibrationError(f"{key!r} in the state of a {cls.name} observer is {value!r}")
        if not 0 <= state["samples"] < 2 ** 63:
            raise CalibrationError(f"a {cls.name} observer has seen {state['samples']} images")
        observer._restore({key: value for key, value in state.items() if key != "observer"})
        return observer

    def _restore(self, values):
        vars(self).update(values)

    @abstractmethod
    def range(self) -> Tuple[float, float]:
        """(low, high) of what was seen; CalibrationError where nothing was."""

    @abstractmethod
    def _update(self, x: np.ndarray, low: float, high: float) -> None:
        """Subclasses: take in a checked float32 batch whose extremes are `low` and `high`."""

    @abstractmethod
    def _merge(self, other: Any) -> None:
        """Subclasses: take in what another observer of the same class has seen."""

    def _require_samples(self):
        if not self.samples:
            raise CalibrationError("nothing was observed")


def _is_possible(value):
    """Whether a value is one that observers come to: no NaN, and of whole numbers exact sums at most."""
    if isinstance(value, int):
        return abs(value) < LARGEST_SUM
    return not isinstance(value, float) or not math.isnan(value)


def _kinds(example):
    """Types that may stand where `example` stands in a state."""
    if isinstance(example, float):
        return (float, int)
    return (int, type(None)) if example is None else (type(example),)

# SPDX-License-Identifier: MIT
"""How far the ranges of parts of a calibration set lie apart, and what never was active."""

from dataclasses import dataclass
from typing import Any, Dict, List, Sequence

import numpy as np

from calib.calibrators import Calibrator
from calib.observers import Observer
from quantize.errors import CalibrationError
from quantize.spec import QuantSpec

LIMIT = 0.1


@dataclass(frozen=True)
class Movement:
    """How far a layer's threshold moves: the largest ``|part - whole| / whole`` over the parts."""

    path: str
    whole: float
    parts: Sequence[float]

    @property
    def share(self) -> float:
        """0 where no part differs."""
        return max((abs(part - self.whole) for part in self.parts), default=0.0) / self.whole


def movements(parts: Sequence[Dict[str, Dict[str, Any]]], whole: Dict[str, Dict[str, Any]], calibrator: Calibrator,
              specs: Dict[str, QuantSpec]) -> List[Movement]:
    """The movement of every layer, the largest first.

    Parameters
    ----------
    parts : sequence of dict
        What was collected on each part (two halves, or the shards): path -> {name: observer}.
    whole : dict
        What was collected on everything.
    specs : dict
        Path -> format.
    """
    def threshold(observers, path):
        qparams = calibrator(observers[path][calibrator.observer], specs[path])
        return float(np.max(qparams.scale)) * specs[path].max_level
    found = [Movement(path, threshold(whole, path), tuple(threshold(part, path) for part in parts)) for path in specs]
    return sorted(found, key=lambda item: (-item.share, item.path))


def never_active(observers: Dict[str, Dict[str, Any]]) -> List[str]:
    """Quantizers whose input was 0 for every image."""
    found = []
    for path, of_path in observers.items():
        ranges = [observer.range() for observer in of_path.values() if isinstance(observer, Observer)]
        if any(low == high == 0 for low, high in ranges):
            found.append(path)
    return found


class ChannelActivity:
    """Which channels (second axis) of a tensor were 0 for every image so far.

    Only channels that never were active are looked at again, so after some images this costs next to nothing.
    """

    name = "activity"

    def __init__(self):
        self.samples = 0
        self.channels = 0
        self.silent: List[int] = []

    def update(self, x: np.ndarray) -> None:
        """Take in a batch (images, channels, ...)."""
        if not self.samples:
            self.channels = x.shape[1] if x.ndim > 1 else 1
            self.silent = list(range(self.channels))
        self.samples += len(x)
        values = x.reshape(len(x), self.channels, -1)
        for image in range(len(x)):  # one image after the other: most channels are active in the first
            if self.silent:
                active = values[image, self.silent].any(axis=1)
                self.silent = [channel for channel, is_active in zip(self.silent, active) if not is_active]

    def merge(self, other: "ChannelActivity") -> None:
        """Take in what another one has seen."""
        if other.samples:
            both = set(self.silent) & set(other.silent)
            self.silent = sorted(both) if self.samples else list(other.silent)
            self.channels = other.channels
        self.samples += other.samples

    def state(self) -> Dict[str, Any]:
        """Everything it knows, as numbers and lists."""
        return dict(vars(self), silent=list(self.silent), observer=self.name)

    @classmethod
    def from_state(cls, state: Dict[str, Any]) -> "ChannelActivity":
        """What `state` describes; CalibrationError when it is something else."""
        activity = cls()
        silent: Any = state.get("silent")
        numbers: List[Any] = [state.get("samples"), state.get("channels")]
        numbers += silent if isinstance(silent, list) else [None]
        if set(state) != set(activity.state()) or any(type(n) is not int or n < 0 for n in numbers):
            raise CalibrationError(f"not the state of an activity observer: {sorted(state)}")
        activity.samples, activity.channels, activity.silent = numbers[0], numbers[1], list(silent)
        return activity


def silent_channels(observers: Dict[str, Dict[str, Any]]) -> Dict[str, int]:
    """Path -> how many channels of its input never were active, where there are any and others were."""
    counts = {}
    for path, of_path in observers.items():
        activity = of_path.get(ChannelActivity.name)
        if activity is not None and 0 < len(activity.silent) < activity.channels:
            counts[path] = len(activity.silent)
    return counts


def zero_channels(weights: Dict[str, np.ndarray], axes: Dict[str, int]) -> Dict[str, int]:
    """Layer -> how many of its output channels have only weights of 0, where there are any.

    Parameters
    ----------
    weights : dict
        Layer -> weight.
    axes : dict
        Layer -> axis of the output channels.
    """
    counts = {}
    for path, weight in weights.items():
        others = tuple(axis for axis in range(weight.ndim) if axis != axes[path])
        dead = int((~weight.any(axis=others)).sum())
        if dead:
            counts[path] = dead
    return counts


def stability_text(found: Sequence[Movement], limit: float = LIMIT, parts: str = "halves") -> str:
    """A line on how far thresholds move, and one for each layer that moves more than `limit`."""
    if not found:
        return "Stability: nothing to compare"
    shares = [item.share for item in found]
    lines = [f"Stability between the {parts}: thresholds move by {float(np.median(shares)):.1%} (median) and "
             f"{max(shares):.1%} (most)"]
    for item in found:
        if item.share > limit:
            of_parts = ", ".join(f"{part:.6g}" for part in item.parts)
            lines.append(f"  warning: {item.path} moves by {item.share:.0%}: {item.whole:.6g} from all images, "
                         f"{of_parts} from parts; use more images")
    return "\n".join(lines)

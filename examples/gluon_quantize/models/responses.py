# SPDX-License-Identifier: MIT
"""Answers of networks that do not classify images: several outputs, maps, boxes; or images without labels.

There is no Top-1 then. What quantization costs is how far the outputs are from the float network's (SQNR), at how many
places the largest channel is the same one (agreement), and what a metric of the data's own says.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from quantize.errors import DataError

VALUES = 4096  # of each output and image that are compared, evenly spaced
AGREEMENT = "agreement"


@dataclass(frozen=True)
class Responses:
    """What a network put out for each image; stands where `Predictions` stand for classifiers.

    Attributes
    ----------
    samples : list of array of float32, (images, values)
        Of each output, at most `VALUES` values of each image.
    classes : list of array of int, (images, places) or None
        Of each output the largest channel at those places; None where an output has no channels.
    labels : array, (images,)
    seconds, timed_images : see `Predictions`
    metrics : dict
        Of the data's own, by name: means over the images.
    """

    samples: List[np.ndarray]
    classes: List[Optional[np.ndarray]]
    labels: np.ndarray
    seconds: float
    timed_images: int
    metrics: Mapping[str, float] = field(default_factory=dict)

    classifies = False
    top1_count = None
    top1 = None

    @property
    def images_per_second(self) -> float:
        """Throughput of the network alone, decoding not counted."""
        return self.timed_images / max(self.seconds, 1e-9)

    def sqnr(self, other: "Responses") -> List[float]:
        """Of each output: power of the other network's values over that of the difference, in dB; inf where equal."""
        found = []
        for mine, theirs in zip(self.samples, other.samples):
            signal = float((theirs.astype(np.float64) ** 2).sum())
            noise = float(((mine.astype(np.float64) - theirs) ** 2).sum())
            found.append(float("inf") if noise == 0 else 10 * float(np.log10(max(signal, 1e-300) / noise)))
        return found

    def agreement(self, other: "Responses") -> Optional[float]:
        """Share of the places with the same largest channel in both networks; None where no output has channels."""
        pairs = [(mine, theirs) for mine, theirs in zip(self.classes, other.classes) if mine is not None]
        places = sum(mine.size for mine, _ in pairs)
        return sum(int((mine == theirs).sum()) for mine, theirs in pairs) / places if places else None

    def agreement_count(self, other: "Responses") -> int:
        """Images at most of whose places (all, where it is one) the largest channel is the other network's."""
        pairs = [(mine, theirs) for mine, theirs in zip(self.classes, other.classes) if mine is not None]
        if not pairs:
            return 0
        same = np.concatenate([mine == theirs for mine, theirs in pairs], axis=1)
        return int((same.mean(axis=1) > 0.5).sum())

    def compared(self, other: "Responses") -> Dict[str, Any]:
        """What there is to say beside the other network; JSON can hold it."""
        return {"sqnr_db": [min(value, 999.0) for value in self.sqnr(other)], "agreement": self.agreement(other)}


class Sampler:
    """Takes in what a network puts out, batch by batch, and makes `Responses` of it."""

    def __init__(self, metric: Any = None):
        self._metric = metric
        self._samples: List[List[np.ndarray]] = []
        self._classes: List[List[Optional[np.ndarray]]] = []
        self._metrics: Dict[str, float] = {}
        self._images = 0

    def add(self, outputs: Sequence[np.ndarray], labels: Sequence[Any]) -> None:
        """One batch: arrays (images, ...), and its labels."""
        self._samples.append([_sampled(output.reshape(len(output), -1)) for output in outputs])
        self._classes.append([_largest(output) for output in outputs])
        if self._metric is not None:
            for name, value in self._metric(list(outputs), labels).items():
                self._metrics[name] = self._metrics.get(name, 0.0) + float(value) * len(labels)
        self._images += len(labels)

    def responses(self, labels: np.ndarray, timed: Tuple[float, int]) -> Responses:
        """All of them; `timed` is (seconds, images)."""
        try:
            samples = [np.concatenate(parts) for parts in zip(*self._samples)]
            classes = [None if parts[0] is None else np.concatenate(parts) for parts in zip(*self._classes)]
        except ValueError:
            raise DataError("the network's outputs differ in shape from batch to batch, and cannot be compared"
                            ) from None
        return Responses(samples, classes, labels, *timed,
                         {name: total / max(self._images, 1) for name, total in self._metrics.items()})


def _sampled(values: np.ndarray) -> np.ndarray:
    step = -(-values.shape[1] // VALUES)
    return np.ascontiguousarray(values[:, ::step], np.float32)


def _largest(output: np.ndarray) -> Optional[np.ndarray]:
    """Largest channel (axis 1) at each place of (images, channels, ...); None where there is one channel, or none."""
    if output.ndim < 2 or output.shape[1] < 2:
        return None
    return _sampled(output.argmax(axis=1).reshape(len(output), -1)).astype(np.int32)

# SPDX-License-Identifier: MIT
"""What a classifier said about images. It needs no MXNet: reports are made without."""

from dataclasses import dataclass
from typing import Any, Optional, Tuple

import numpy as np

from gluon_quantize.models.metrics import probabilities

MANY = 50  # images
KEPT = 5  # classes of an image


@dataclass(frozen=True)
class Predictions:
    """What a network said about each image.

    Attributes
    ----------
    top5 : array of int, (images, up to 5)
        Classes of the largest outputs, the largest first.
    labels : array of int, (images,)
    seconds : float
        Time spent in the network, without the first batch (which builds the graph) where there are more.
    timed_images : int
    outputs : int or None
        Classes that the network knows.
    shares : array of float32, shape of `top5`, or None
        Probabilities of those classes: of the scores a softmax, where they are none yet.
    """

    top5: np.ndarray
    labels: np.ndarray
    seconds: float
    timed_images: int
    outputs: Optional[int] = None
    shares: Optional[np.ndarray] = None

    classifies = True

    @property
    def near_chance(self) -> bool:
        """Whether the network does hardly better than guessing; False for too few images to tell."""
        images, classes = len(self.labels), self.outputs or 0
        if classes < 2 or images < MANY or len(np.unique(self.labels)) < 2:
            return False
        chance = images / classes
        spread = (chance * (1 - 1 / classes)) ** 0.5
        return self.top1_count <= chance + max(3 * spread, 0.3 * chance)

    @property
    def top1_count(self) -> int:
        """Images whose largest output is the label's."""
        return int((self.top5[:, 0] == self.labels).sum())

    @property
    def top5_count(self) -> int:
        """Images whose label is among the five largest outputs."""
        return int((self.top5 == self.labels[:, None]).any(axis=1).sum())

    @property
    def top1(self) -> float:
        """Share of the images whose largest output is the label's."""
        return self.top1_count / len(self.labels)

    @property
    def mean_class_accuracy(self) -> float:
        """Mean over the classes that occur of each one's Top-1 share."""
        hit = self.top5[:, 0] == self.labels
        return float(np.mean([hit[self.labels == label].mean() for label in np.unique(self.labels)]))

    @property
    def images_per_second(self) -> float:
        """Throughput of the network alone, decoding not counted."""
        return self.timed_images / max(self.seconds, 1e-9)

    def agreement_count(self, other: "Predictions") -> int:
        """Images for which both networks name the same class first."""
        return int((self.top5[:, 0] == other.top5[:, 0]).sum())


#: Predictions, or Responses where `classifies` is False; all of a run are of one kind. To mypy they are Any: a Union
#: would have to be told apart at every use, also where both kinds have what is asked.
Answers = Any


def largest(scores: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """(classes, their probabilities) of the largest of (images, classes) scores, (images, up to 5) each."""
    classes = np.argsort(-scores, axis=1, kind="stable")[:, :KEPT]
    return classes, np.take_along_axis(probabilities(scores), classes, axis=1).astype(np.float32)


def predictions_of(scores: np.ndarray, labels: np.ndarray) -> Predictions:
    """Of scores (images, ...), whoever computed them; times are not known."""
    flat = scores.reshape(len(scores), -1)
    classes, shares = largest(flat)
    return Predictions(classes, labels, 0.0, 0, flat.shape[1], shares)

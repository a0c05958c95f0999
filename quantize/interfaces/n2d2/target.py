# SPDX-License-Identifier: MIT
"""N2D2's target: the loss, and how often the labels are hit."""

from typing import Dict, Optional

import numpy as np
from mxnet import autograd, gluon, nd

from quantize.errors import ConfigError, DataError
from quantize.interfaces.n2d2.provider import DataProvider
from quantize.interfaces.n2d2.tensor import Tensor
from quantize.registry import closest

METRICS = ("Sensitivity", "Specificity", "Precision", "Accuracy", "F1Score", "Informedness")


class Score:
    """Cross entropy with the labels, and scores over all batches since `clear_success`."""

    def __init__(self, provider: DataProvider) -> None:
        self.provider = provider
        self._cross_entropy = gluon.loss.SoftmaxCrossEntropyLoss()
        self._matrix: Optional[np.ndarray] = None

    def __call__(self, x: Tensor) -> Tensor:
        """The batch with its loss; the scores count it."""
        if x.logits is None:
            raise ConfigError("a target wants the output of n2d2.cells.Softmax(with_loss=True)")
        self._count(x)
        found = x.followed_by(x.value)
        if x.get_deepnet().learning:
            labels = nd.array(x.labels, ctx=x.value.context)
            with autograd.record():
                found.losses = self._cross_entropy(x.logits, labels)
        return found

    def _count(self, x: Tensor) -> None:
        classes = x.value.shape[1]
        if x.labels.max() >= classes:
            raise DataError(f"label {x.labels.max()} does not exist: the network has {classes} outputs")
        if self._matrix is None or len(self._matrix) != classes:
            self._matrix = np.zeros((classes, classes), np.int64)
        named = x.value.reshape((len(x.labels), -1)).asnumpy().argmax(axis=1)
        np.add.at(self._matrix, (x.labels, named), 1)

    def clear_success(self) -> None:
        """Forget all scores."""
        self._matrix = None

    def get_average_success(self) -> float:
        """Share of the images whose largest output is the label's."""
        matrix = self._counted()
        return float(np.trace(matrix) / matrix.sum())

    def get_average_score(self, metric: str = "Sensitivity") -> float:
        """Mean of a metric over the classes that occur."""
        if metric not in METRICS:
            raise ConfigError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}{closest(metric, METRICS)}")
        matrix = self._counted()
        return float(class_scores(matrix)[metric][matrix.sum(axis=1) > 0].mean())

    def _counted(self) -> np.ndarray:
        if self._matrix is None:
            raise ConfigError("no batch has been scored since clear_success()")
        return self._matrix


def class_scores(matrix: np.ndarray) -> Dict[str, np.ndarray]:
    """`METRICS` of each class against all others, from images of each true class (row) named as each (column)."""
    counts = np.asarray(matrix, np.float64)
    hit, real, named, total = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0), counts.sum()
    rest = total - real - named + hit

    def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    sensitivity, specificity = share(hit, real), share(rest, total - real)
    return dict(zip(METRICS, (sensitivity, specificity, share(hit, named), (hit + rest) / total,
                              share(2 * hit, real + named), sensitivity + specificity - 1)))


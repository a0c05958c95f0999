# SPDX-License-Identifier: MIT
"""What a confusion matrix says, class by class, under the names that N2D2 prints."""

from typing import Dict, Sequence, Union

import numpy as np

NAMES = ("sensitivity", "specificity", "precision", "accuracy", "f1", "informedness")

Indices = Union[Sequence[int], np.ndarray]


def probabilities(scores: np.ndarray) -> np.ndarray:
    """A softmax of (images, classes); scores that are probabilities already stay what they are."""
    flat = np.asarray(scores, np.float64)
    if not len(flat) or (flat.min() >= 0 and np.allclose(flat.sum(axis=1), 1, atol=1e-3)):
        return flat
    powers = np.exp(flat - flat.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def confusion_matrix(labels: Indices, classes: Indices, count: int) -> np.ndarray:
    """Images of each true class (row) for which each class (column) was named; int (count, count)."""
    matrix = np.zeros((count, count), int)
    np.add.at(matrix, (np.asarray(labels), np.asarray(classes)), 1)
    return matrix


def class_metrics(matrix: np.ndarray) -> Dict[str, np.ndarray]:
    """`NAMES` -> metric of each class against all others, an array (classes,).

    With tp, fp, fn, tn of a class: sensitivity tp / (tp + fn), specificity tn / (tn + fp), precision tp / (tp + fp),
    accuracy (tp + tn) / all, F1 2 tp / (2 tp + fp + fn), informedness sensitivity + specificity - 1. A share of
    nothing counts as 0.

    Parameters
    ----------
    matrix : array of int, (classes, classes)
        Images of each true class (row) for which each class (column) was named.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    tp = np.diag(matrix)
    fp, fn = matrix.sum(axis=0) - tp, matrix.sum(axis=1) - tp
    tn = matrix.sum() - tp - fp - fn
    sensitivity, specificity = _share(tp, tp + fn), _share(tn, tn + fp)
    values = (sensitivity, specificity, _share(tp, tp + fp), _share(tp + tn, tp + fp + fn + tn),
              _share(2 * tp, 2 * tp + fp + fn), sensitivity + specificity - 1)
    return dict(zip(NAMES, values))


def mean_metrics(matrix: np.ndarray) -> Dict[str, float]:
    """Means of `class_metrics` over the classes that occur, as floats."""
    occurs = np.asarray(matrix).sum(axis=1) > 0
    return {name: float(values[occurs].mean()) for name, values in class_metrics(matrix).items()}


def _share(part, whole):
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)

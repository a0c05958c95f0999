# SPDX-License-Identifier: MIT
"""Pictures of a quantized network, drawn into matplotlib axes that the caller makes."""

from typing import Any, Mapping

import numpy as np

from gluon_quantize.models.metrics import confusion_matrix

__all__ = ["confusion", "confusion_matrix", "distribution", "layer_bars"]
BINS = 120


def distribution(axes: Any, values: np.ndarray, thresholds: Mapping[str, float], title: str) -> None:
    """Histogram of values, its counts on a logarithmic scale, with a line at each threshold and its negative.

    Parameters
    ----------
    values : array
    thresholds : dict
        Label -> threshold in real units.
    """
    counts, edges = np.histogram(values, BINS)
    axes.fill_between(edges[:-1], counts, step="post", color="0.75")
    axes.set_yscale("log")
    for number, (label, threshold) in enumerate(thresholds.items()):
        colour = f"C{number}"
        axes.axvline(threshold, color=colour, label=f"{label} {threshold:.3g}")
        if edges[0] < 0:
            axes.axvline(-threshold, color=colour)
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=7)


def layer_bars(axes: Any, values: Mapping[str, float], label: str) -> None:
    """One horizontal bar for each layer, the first on top; `values` is a dict of layer -> number."""
    axes.barh(range(len(values)), list(values.values()), color="C0")
    axes.set_yticks(range(len(values)))
    axes.set_yticklabels(list(values), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(label)


def confusion(axes: Any, matrix: np.ndarray, title: str) -> None:
    """A confusion matrix with its numbers; the errors stand out, however few they are."""
    errors = matrix * (1 - np.eye(len(matrix)))
    axes.imshow(errors, cmap="Reds", vmin=0, vmax=2 * max(errors.max(), 1))
    for row, column in zip(*np.nonzero(matrix)):
        axes.text(column, row, matrix[row, column], ha="center", va="center", fontsize=7)
    axes.set_xlabel("named")
    axes.set_ylabel("true")
    axes.set_title(title, fontsize=9)

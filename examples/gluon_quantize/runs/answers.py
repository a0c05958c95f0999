# SPDX-License-Identifier: MIT
"""What result.json says of a classifier's answers, image by image and class by class, for people to look at."""

from typing import Any, Dict, List, Mapping, Sequence

import numpy as np

from gluon_quantize.models.metrics import confusion_matrix, mean_metrics
from gluon_quantize.models.predictions import Predictions

SHOWN = 24  # images
BEST = 3  # classes of an image
PAIRS = 400  # pairs of classes that are confused most


def metrics_contents(found: Predictions) -> Dict[str, float]:
    """The means over the classes that N2D2 prints."""
    classes = max(found.outputs or 0, int(found.labels.max(initial=0)) + 1, int(found.top5[:, 0].max(initial=0)) + 1)
    return mean_metrics(confusion_matrix(found.labels, found.top5[:, 0], classes))


def answers_contents(before: Predictions, after: Predictions, by: str) -> Dict[str, Any]:
    """Which images get another class than in float, those first that the quantized network is surest of.

    Parameters
    ----------
    before, after : Predictions
        For the same images; `by`: what computed the latter.

    Returns
    -------
    dict
        `by`, `images`, `agreement`; `changed`: the images with the three likeliest classes of both networks; `pairs`:
        [class in float, class when quantized, images], those of different classes first.
    """
    first, second = before.top5[:, 0], after.top5[:, 0]
    changed = np.flatnonzero(first != second)
    if after.shares is not None:
        changed = changed[np.argsort(-after.shares[changed, 0], kind="stable")]
    pairs, counts = np.unique(np.stack([first, second], axis=1), axis=0, return_counts=True)
    order = sorted(range(len(pairs)), key=lambda place: (pairs[place][0] == pairs[place][1], -counts[place]))
    return {"by": by, "images": len(first), "agreement": int((first == second).sum()),
            "changed": [{"index": int(index), "label": int(after.labels[index]), "float": _best(before, index),
                         "quantized": _best(after, index)} for index in changed[:SHOWN]],
            "pairs": [[int(pairs[place][0]), int(pairs[place][1]), int(counts[place])] for place in order[:PAIRS]]}


def _best(found: Predictions, index: int) -> List[Dict[str, Any]]:
    shares = None if found.shares is None else found.shares[index]
    return [{"class": int(number), "share": None if shares is None else float(shares[place])}
            for place, number in enumerate(found.top5[index][:BEST])]


def names_of(answers: Mapping[str, Any], names: Sequence[str]) -> Dict[str, str]:
    """Number -> name of the classes that `answers_contents` speaks of, none where they are called by their numbers."""
    numbers = {number for first, second, _ in answers["pairs"] for number in (first, second)}
    for image in answers["changed"]:
        numbers |= {image["label"]} | {best["class"] for key in ("float", "quantized") for best in image[key]}
    return {str(number): str(names[number]) for number in sorted(numbers)
            if 0 <= number < len(names) and str(names[number]) != str(number)}

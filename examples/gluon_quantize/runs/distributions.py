# SPDX-License-Identifier: MIT
"""Distributions of inputs and weights in few numbers: histograms, thresholds of calibrators, ranges of channels."""

from typing import Any, Dict, List, Mapping, Sequence

import numpy as np

from calib.calibrators import CALIBRATORS, clipped_share
from calib.observers import HistogramObserver
from deploy.ir import Grid, Model, integers, quantized
from deploy.study import sampled
from quantize.errors import QuantizeError
from quantize.spec import QuantSpec

BINS = 80
TOGETHER = 1 << 16  # values: counting few at a time takes longer than computing them
CHANNELS = 96  # rows of a heat strip; more channels are joined to so many groups


class Inputs:
    """Takes samples of what layers read, and counts them into histograms, many at a time.

    Parameters
    ----------
    observers : dict
        Quantized node -> its observer.
    """

    def __init__(self, model: Model, observers: Mapping[str, HistogramObserver]):
        self._readers: Dict[str, List[HistogramObserver]] = {}
        for node in quantized(model):
            self._readers.setdefault(node.inputs[0], []).append(observers[node.name])
        self._waiting: Dict[str, List[np.ndarray]] = {}

    def see(self, blob: str, values: np.ndarray) -> None:
        """A blob of an image; see `deploy.engine.run`."""
        waiting = self._waiting.setdefault(blob, [])
        waiting.append(sampled(values)[0])
        if sum(map(len, waiting)) > TOGETHER:
            self._count(blob)

    def count(self) -> None:
        """What is still waiting."""
        for blob in list(self._waiting):
            self._count(blob)

    def _count(self, blob):
        values = np.concatenate(self._waiting.pop(blob))[np.newaxis]
        for observer in self._readers[blob]:
            observer.update(values)


def input_facts(grid: Grid, observer: HistogramObserver, methods: Sequence[str]) -> Dict[str, Any]:
    """The histogram of a layer's input, and the threshold that each calibrator would choose for its grid.

    Returns
    -------
    dict
        `edges` (bins + 1 numbers), `counts`, `zeros`, `chosen` (the grid's end), `thresholds`: method -> number, and
        `clipped`: method -> share beyond it. Methods that need another observer, or cannot decide, are left out.
    """
    spec = QuantSpec(max((grid.qmax - grid.qmin).bit_length(), 1), grid.qmin < 0)
    thresholds, clipped = {}, {}
    for name in methods:
        calibrator = CALIBRATORS.get(name)()
        try:
            found = calibrator(observer, spec)
        except QuantizeError:
            continue
        thresholds[calibrator.name] = float(found.scale[0]) * spec.qmax
        clipped[calibrator.name] = clipped_share(observer, spec, thresholds[calibrator.name])
    counts = np.concatenate([observer.negative()[::-1], observer.positive()])
    low, high = observer.range()
    edges, joined = _joined(counts, observer.width, low, high)
    return {"edges": edges, "counts": joined, "zeros": int(observer.zeros), "range": [float(low), float(high)],
            "chosen": grid.scale * (grid.qmax - grid.zero_point), "thresholds": thresholds, "clipped": clipped}


def _joined(counts: np.ndarray, width: float, low: float, high: float) -> Any:
    """(edges, counts) of `BINS` bins between the extremes, from fine bins around zero."""
    half = len(counts) // 2
    middles = (np.arange(-half, half) + 0.5) * width
    found, edges = np.histogram(middles, BINS, (min(low, 0.0), max(high, width)), weights=counts)
    return [float(edge) for edge in edges], [int(count) for count in found]


def weight_facts(node: Any) -> Dict[str, Any]:
    """A weight before and after: histograms on common edges, mean, deviation, levels, and the range of each channel."""
    weight, grids = node.weight.astype(np.float64), integers(node)  # where float32's largest have squares
    stored = weight
    if grids is not None:
        stored = grids.weight_q * grids.weight_scale.astype(np.float64).reshape((-1,) + (1,) * (weight.ndim - 1))
    top = float(max(np.abs(weight).max(initial=0), np.abs(stored).max(initial=0))) or 1.0
    before, edges = np.histogram(weight, BINS, (-top, top))
    after = np.histogram(stored, BINS, (-top, top))[0]
    rows, after_rows = (np.abs(values.reshape(len(values), -1)).max(axis=1) for values in (weight, stored))
    return {"edges": [float(edge) for edge in edges], "before": before.tolist(), "after": after.tolist(),
            "mean": float(weight.mean()), "deviation": float(weight.std()), "stored_mean": float(stored.mean()),
            "stored_deviation": float(stored.std()),
            "levels": None if grids is None else int(len(np.unique(grids.weight_q))),
            "ranges": _strip(rows), "stored_ranges": _strip(after_rows)}


def _strip(rows: np.ndarray) -> List[float]:
    """Largest magnitudes of channels; neighbours are joined where there are many."""
    if len(rows) <= CHANNELS:
        return [float(row) for row in rows]
    return [float(part.max()) for part in np.array_split(rows, CHANNELS)]

# SPDX-License-Identifier: MIT
"""Leave out a fixed share of the values."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from calib.calibrators.base import CALIBRATORS, ThresholdCalibrator, magnitudes, top_magnitude
from quantize.errors import CalibrationError
from quantize.reference import qparams_from_range
from quantize.spec import QParams, QuantSpec


@CALIBRATORS.register("percentile")
@dataclass(frozen=True)
class Percentile(ThresholdCalibrator):
    """The smallest threshold that `percent` of all values do not exceed, zeros included.

    Signed grids: of |x|. Unsigned grids: of max(x, 0). Asymmetric grids: (100 - percent) / 2 is left out at each end
    (ONNX Runtime's rule). Inside a bin of the histogram the values are taken as evenly spread, so the threshold is
    off by less than a bin, 1/8192 of the largest value; it never exceeds that value. With fewer than
    1 / (1 - percent / 100) values it is the largest one.

    Source: Wu et al., "Integer quantization for deep learning inference", arXiv:2004.09602, section 5.2 (of |x|,
    with 99.9 to 99.9999).

    Parameters
    ----------
    percent : float
        0 < percent <= 100.
    """

    name: ClassVar[str] = "percentile"
    observer: ClassVar[str] = "histogram"
    percent: float = 99.99

    def __post_init__(self):
        if not 0 < self.percent <= 100:
            raise CalibrationError(f"percent must be above 0 and at most 100, got {self.percent!r}")

    def threshold(self, observer: Any, spec: QuantSpec) -> float:
        """The percentile of the magnitudes that the grid can hold."""
        counts = magnitudes(observer, spec)
        wanted = self.percent / 100 * observer.total - (observer.total - int(counts.sum()))
        top = top_magnitude(observer, spec)
        return min(_reach(counts, wanted) * observer.width, top)

    def decide(self, observer: Any, spec: QuantSpec) -> QParams:
        """QParams of the threshold; asymmetric ones of the two ends."""
        if spec.symmetric:
            return super().decide(observer, spec)
        low, high = observer.range()
        keep = observer.total * (0.5 + self.percent / 200)
        positive, negative = observer.positive(), observer.negative()
        above = _reach(positive, keep - (observer.total - int(positive.sum()))) * observer.width
        below = _reach(negative, keep - (observer.total - int(negative.sum()))) * observer.width
        low, high = max(low, -below), min(high, above)
        return qparams_from_range(np.array([low], np.float32), np.array([high], np.float32), spec)


def _reach(counts, wanted):
    """Position, in bins, below which `wanted` of the counts lie; 0 when none is wanted."""
    if wanted <= 0:
        return 0.0
    sums = np.cumsum(counts)
    index = min(int(np.searchsorted(sums, wanted)), int(np.flatnonzero(counts)[-1]))
    return index + min((wanted - (sums[index] - counts[index])) / counts[index], 1.0)

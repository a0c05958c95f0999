# SPDX-License-Identifier: MIT
"""Thresholds with the least error of the quantized values."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from calib.calibrators.base import CALIBRATORS, ThresholdCalibrator, magnitudes, top_magnitude
from quantize.errors import CalibrationError
from quantize.spec import QuantSpec

RATIOS = 1.06 ** -np.arange(96)  # of the largest value, down to 1/254
FINE = 33


@CALIBRATORS.register("mse")
@dataclass(frozen=True)
class MSE(ThresholdCalibrator):
    """The threshold t with the smallest ``sum (x - fake_quantize(x))**2``, which is the largest plain SQNR too.

    The sum is over the histogram, with the values of a bin evenly spread, and exact for that density: with
    u = |x| / scale, the integral of the squared rounding error from 0 to u is ``round(u) / 12 + (u - round(u))**3 / 3``
    up to the last level m, and grows by ``(u - m)**3 / 3`` beyond. Zeros cost nothing on any grid. What an unsigned
    grid makes of negative values is the same for every t and left out. Asymmetric grids run from max(min x, -t) to
    min(max x, t), each side measured from zero. t is searched at 96 ratios of the largest value down to 1/254,
    6 % apart, then at 33 between the best one's neighbours.

    Source: the criterion is as old as quantization (Max 1960); for networks e.g. Shin et al., arXiv:1511.06488.

    Parameters
    ----------
    clip_weight : float
        How often the error of clipped values counts; above 0.
    """

    name: ClassVar[str] = "mse"
    observer: ClassVar[str] = "histogram"
    clip_weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.clip_weight < float("inf"):
            raise CalibrationError(f"clip_weight must be a number above 0, got {self.clip_weight!r}")

    def threshold(self, observer: Any, spec: QuantSpec) -> float:
        """The best threshold; CalibrationError for a mid-rise grid."""
        if spec.grid != "mid_tread":
            raise CalibrationError(f"{self.name}: the error of a {spec.grid} grid is not known here; choose another "
                                   "calibrator")
        top = top_magnitude(observer, spec)
        if not top:
            return 0.0
        errors = self.errors(observer, spec, top * RATIOS)
        best = int(np.argmin(errors))
        fine = np.linspace(RATIOS[min(best + 1, len(RATIOS) - 1)], RATIOS[max(best - 1, 0)], FINE) * top
        return float(fine[int(np.argmin(self.errors(observer, spec, fine)))])

    def errors(self, observer: Any, spec: QuantSpec, thresholds: np.ndarray) -> np.ndarray:
        """The sum of squared errors with each threshold."""
        width, weight = observer.width, self.clip_weight
        if spec.symmetric:
            side = _Side(magnitudes(observer, spec), width)
            return np.array([side.error(threshold / spec.qmax, spec.qmax, weight) for threshold in thresholds])
        low, high = observer.range()
        below, above = np.minimum(max(-low, 0.0), thresholds), np.minimum(max(high, 0.0), thresholds)
        scales = (below + above) / (spec.qmax - spec.qmin)
        positive, negative = _Side(observer.positive(), width), _Side(observer.negative(), width)
        return np.array([positive.error(scale, a / scale, weight) + negative.error(scale, b / scale, weight)
                         for scale, a, b in zip(scales, above, below)])


@CALIBRATORS.register("sqnr")
@dataclass(frozen=True)
class SQNR(MSE):
    """As `mse`, with the error of clipped values counted three times: AIMET's SQNR ("tf-enhanced") criterion.

    Without a weight the largest signal-to-quantization-noise ratio and the smallest squared error are the same
    threshold. AIMET's `SqnrEncodingAnalyzer` weighs the noise of clipping with gamma = 3, and so clips less. Its grid
    of candidate ranges is another (it also moves the offset); the criterion is the same.
    """

    name: ClassVar[str] = "sqnr"
    clip_weight: float = 3.0


class _Side:
    """The values of one sign, or of both by magnitude."""

    def __init__(self, counts, width):
        used = np.flatnonzero(counts)
        first, stop = (used[0], used[-1] + 1) if used.size else (0, 0)
        # the integral is needed at the edges only: a sum of count * (integral at the right - integral at the left)
        self.steps = -np.diff(np.concatenate([[0], counts[first:stop], [0]])).astype(np.float64)
        self.edges = np.arange(first, stop + 1) * width
        self.width = width

    def error(self, scale, limit, clip_weight):
        """Sum of squared errors on the grid 0, scale, ... limit * scale."""
        edges = self.edges * (1 / scale)
        inside = np.minimum(edges, limit)
        level = np.rint(inside)
        edges -= inside
        inside -= level
        integral = level * (1 / 12)
        integral += inside * inside * inside * (1 / 3)
        if edges[-1] > 0:
            integral += edges * edges * edges * (clip_weight / 3)
        return float(self.steps @ integral) * scale ** 3 / self.width

# SPDX-License-Identifier: MIT
"""What every calibrator is."""

from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from calib.observers import OBSERVERS, HistogramObserver, Observer
from quantize.errors import CalibrationError
from quantize.reference import qparams_from_range, qparams_from_threshold
from quantize.registry import Registry
from quantize.spec import QParams, QuantSpec

FEW = 24  # different magnitudes

CALIBRATORS: Registry = Registry("calibrator")


@dataclass(frozen=True)
class Calibrator:
    """A value with a call: ``Naive()(observer, spec) -> QParams``.

    Attributes
    ----------
    name : str
        The method, as reports and tables print it. A second registered name (`kl`) shows the first (`kl-ncnn`).
    observer : str
        Name of the observer whose statistics it needs.
    """

    name: ClassVar[str] = ""
    observer: ClassVar[str] = ""

    @property
    def full_name(self) -> str:
        """The name with the parameters that are not as usual: `percentile:99.9`; `named_calibrator` reads it.

        It has no blanks, because a line of a table is cut at blanks.
        """
        values = [(field.name, getattr(self, field.name), field.default) for field in fields(self)]
        # values in front of a changed one stand without their keys, so that `percentile:99.9` comes back as it was
        last = max((number for number, (_, value, usual) in enumerate(values) if value != usual), default=-1)
        return ":".join([self.name] + [",".join(str(value) for _, value, _ in values[:last + 1])] * (last >= 0))

    def new_observer(self) -> Observer:
        """A fresh observer of the kind this calibrator needs."""
        return OBSERVERS.get(self.observer)()

    def __call__(self, observer: Observer, spec: QuantSpec) -> QParams:
        """QParams of shape (1,) for what the observer has seen."""
        # a histogram is a min-max observer too, so one pass with histograms serves both
        if not isinstance(observer, OBSERVERS.get(self.observer)):
            raise CalibrationError(f"{type(self).__name__} needs a {self.observer} observer, got {observer.name}")
        return self.decide(observer, spec)

    def decide(self, observer: Observer, spec: QuantSpec) -> QParams:
        """What subclasses define."""
        raise NotImplementedError

    def note(self, observer: Observer, spec: QuantSpec) -> str:
        """What is to be said about a threshold that was decided otherwise than the method's name tells; else ""."""
        return ""


class ThresholdCalibrator(Calibrator):
    """A calibrator whose answer is one magnitude: where the range ends, on both sides or on the one there is."""

    def threshold(self, observer: Observer, spec: QuantSpec) -> float:
        """The magnitude, in real units; 0 for all-zero data."""
        raise NotImplementedError

    def decide(self, observer: Observer, spec: QuantSpec) -> QParams:
        """QParams whose range ends at the threshold; all-zero data get scale 1."""
        return qparams_of_threshold(observer, spec, self.threshold(observer, spec))


def top_magnitude(observer: Observer, spec: QuantSpec) -> float:
    """The largest magnitude a grid could have to hold: max |x|, for a symmetric unsigned grid max(x, 0)."""
    low, high = observer.range()
    return max(high, 0.0) if _positive_only(spec) else max(-low, high)


def qparams_of_threshold(observer: Observer, spec: QuantSpec, threshold: float) -> QParams:
    """QParams whose range ends at `threshold` on each side; an asymmetric one also ends where the observed range does.

    A threshold so small that float32 makes its scale 0 counts as zero (scale 1), as all-zero data do.
    """
    if spec.symmetric:
        return qparams_from_threshold(np.array([threshold], np.float32), spec)
    low, high = observer.range()
    low, high = max(low, -threshold), min(high, threshold)
    return qparams_from_range(np.array([low], np.float32), np.array([high], np.float32), spec)


def magnitudes(observer: HistogramObserver, spec: QuantSpec) -> np.ndarray:
    """Counts of the magnitudes that the grid can hold, without zeros; bin i is i to i + 1 times `observer.width`.

    Both signs together, for a symmetric unsigned grid the positive values alone: the others become zero.
    """
    positive = observer.positive()
    return positive if _positive_only(spec) else positive + observer.negative()


def few_values(observer: HistogramObserver, spec: QuantSpec) -> int:
    """How many different magnitudes there are, by the histogram and zeros left out, where these are few; else 0.

    Nothing is gained by clipping them (a mask, a binarised image, a constant, the 16 levels of 4 bits), and searches
    for a balance between clipping and rounding have nothing to weigh.
    """
    found = int(np.count_nonzero(magnitudes(observer, spec)))
    return found if found <= FEW else 0


def levels_per_side(observer: Observer, spec: QuantSpec) -> int:
    """Codes for the magnitudes of one sign, zero included: 128 for int8, 256 for uint8.

    An asymmetric grid gives all codes to one-sided data and, nearly, half to each side otherwise.
    """
    if spec.symmetric:
        return spec.qmax + 1
    low, high = observer.range()
    codes = spec.qmax - spec.qmin + 1
    return codes if low >= 0 or high <= 0 else max(codes // 2, 1)


def clipped_share(observer: HistogramObserver, spec: QuantSpec, threshold: float) -> float:
    """Share of the non-zero values (of those the grid can hold) that lie beyond `threshold`, by the histogram."""
    counts = magnitudes(observer, spec)
    total = int(counts.sum())
    edges = observer.width * np.arange(len(counts) + 1)
    inside = np.interp(threshold, edges, np.concatenate([[0], np.cumsum(counts)]))
    return 1.0 - float(inside) / total if total and threshold < top_magnitude(observer, spec) else 0.0


def resampled(counts: np.ndarray, width: float, top: float, bins: int) -> np.ndarray:
    """The counts in `bins` equal bins over [0, top]: whole numbers, the same total; int64.

    The running sum of the counts is interpolated between the edges of the power-of-two bins and rounded, so only the
    values in the bins that an edge of the new grid cuts can land on the wrong side of it, and no count is split. Each
    new bin is off by less than half of the counts of the two old bins at its ends; with the observer's 8192 to 16384
    bins on 2048 new ones these are an eighth to a quarter as wide as the new bins. KL searches can be ill-conditioned
    (nearly equal minima far apart); then even this moves the threshold by some percent.
    """
    edges = np.minimum(width * np.arange(len(counts) + 1), top)
    sums = np.concatenate([[0], np.cumsum(counts)])
    wanted = top / bins * np.arange(bins + 1)
    inside = np.rint(np.interp(wanted[:-1], edges, sums)).astype(np.int64)
    return np.diff(np.append(inside, sums[-1]))


def _positive_only(spec):
    return spec.symmetric and not spec.signed

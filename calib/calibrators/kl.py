# SPDX-License-Identifier: MIT
"""KL divergence, in its published variants: one name, several algorithms that differ by a factor of two and more."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from calib.calibrators.base import (
    CALIBRATORS,
    ThresholdCalibrator,
    few_values,
    levels_per_side,
    magnitudes,
    resampled,
    top_magnitude,
)
from calib.calibrators.kl_core import search_fractional, search_interpolated, search_occupied
from calib.calibrators.kl_symmetric import search_symmetric
from quantize.errors import CalibrationError
from quantize.spec import QuantSpec

MIN_BINS = 16
MOSTLY_ZERO = 0.25  # share of zeros that are more than MXNet's middle bin can hold
MAX_BINS = 16384  # what the observer has on each side: finer ones would be made up


@dataclass(frozen=True)
class _Divergence(ThresholdCalibrator):
    """What the variants share: inputs with few different values, or fewer values than bins, keep the largest.

    What a search compares with fewer values than bins is where single values happen to lie: the thresholds it ends in
    are anywhere, a sixth of the largest magnitude included. Zeros, which say nothing of it, do not count.
    """

    observer: ClassVar[str] = "histogram"
    bins = 0  # a field of each subclass

    def note(self, observer: Any, spec: QuantSpec) -> str:
        """Says so where there are only few values."""
        count, found = few_values(observer, spec), self._sparse(observer, spec)
        if not count and not found:
            return ""
        few = f"{count} different value{'s' * (count > 1)}" if count else (
            f"{found} values other than zero, fewer than {self.bins} bins")
        return f"only {few}: {self.name} cannot weigh clipping there and takes the largest magnitude"

    def _sparse(self, observer, spec):
        """How many values there are, zeros left out, where these are fewer than bins; else 0."""
        found = int(magnitudes(observer, spec).sum())
        return found if found < self.bins else 0

    def _keeps_all(self, observer, spec):
        return bool(few_values(observer, spec) or self._sparse(observer, spec))


@dataclass(frozen=True)
class _KL(_Divergence):
    def __post_init__(self) -> None:
        _check_bins(self.bins)

    def _search(self, histogram, levels):
        """The best number of bins."""
        raise NotImplementedError

    def threshold(self, observer, spec):
        """(T + 0.5) * top / bins.

        Grids with as many levels per side as there are bins gain nothing from clipping: the threshold is the largest
        magnitude. So it is for inputs of few values.
        """
        top, levels, counts = top_magnitude(observer, spec), levels_per_side(observer, spec), magnitudes(observer, spec)
        if levels >= self.bins or not counts.any() or self._keeps_all(observer, spec):
            return top
        best = self._search(resampled(counts, observer.width, top, self.bins), levels)
        return (best + 0.5) * top / self.bins


@CALIBRATORS.register("kl")
@CALIBRATORS.register("kl-ncnn")
@dataclass(frozen=True)
class KLncnn(_KL):
    """ncnn2table's KL (its `method=kl`), which `kl` stands for: ncnn is the target.

    |x| in 2048 bins up to the largest magnitude; exact zeros are left out, bin 0 stays. Levels of T / 128 bins whose
    edges may cut bins, 1e-4 added to every bin of both distributions, no normalisation, T from 128 to 2047; the search
    is `kl_core.search_fractional`. threshold = (T + 0.5) * A / 2048.

    ncnn has signed 8-bit activations only (128 levels). Here other grids search with their own qmax + 1 levels, and
    unsigned ones leave the negative values out. One difference to ncnn2table: the bins are resampled from the
    observer's finer ones (`base.resampled`). On the same 2048 bins the result is ncnn2table's to
    the last digit.

    Source: ncnn tools/quantize/ncnn2table.cpp, `QuantNet::quantize_KL`.
    """

    name: ClassVar[str] = "kl-ncnn"
    bins: int = 2048

    def _search(self, histogram, levels):
        return search_fractional(histogram, levels)


@CALIBRATORS.register("kl-tensorrt")
@dataclass(frozen=True)
class KLTensorRT(_KL):
    """The search of NVIDIA's presentation, from which all others descend (`kl_core.search_occupied`).

    |x| in 2048 bins; levels of whole bins (bin k in level floor(k * 128 / T)), spread over the bins that are not empty,
    both distributions normalised. threshold = (T + 0.5) * A / 2048, T from 128 to 2047.

    The presentation says nothing about zeros. Counted, the zeros of a ReLU would be half of the mass in bin 0 and
    decide the result; NVIDIA's later code (ModelOpt) replaces bin 0 for that reason. Here exact zeros are left out.
    Other grids search with their own qmax + 1 levels; unsigned ones leave the negative values out.

    Source: S. Migacz, "8-bit inference with TensorRT", GTC 2017, s7310.
    """

    name: ClassVar[str] = "kl-tensorrt"
    bins: int = 2048

    def _search(self, histogram, levels):
        return search_occupied(histogram, levels)


@CALIBRATORS.register("kl-predecessor")
@dataclass(frozen=True)
class KLPredecessor(_KL):
    """Quantization.MXNet's KL (`kl_core.search_interpolated`), kept for comparison with its published tables.

    2048 bins, exact zeros left out, levels interpolated by their *sums*; 2**bits levels for unsigned inputs and
    2**(bits - 1) for signed ones, which is qmax + 1 here. threshold = (T + 0.5) * A / 2048. It clips hard on sparse
    histograms, and so at few bits or with few images.

    The original refuses negative values; here a signed grid takes |x| and an unsigned one leaves them out. It fixes A
    at the maximum of the first batch, A is the maximum of all here; and its 1e-5 added to A is left out, so that
    scaled data give a scaled threshold.

    Source: hey-yahei/Quantization.MXNet, quantize/distribution_calibrate.py.
    """

    name: ClassVar[str] = "kl-predecessor"
    bins: int = 2048

    def _search(self, histogram, levels):
        return search_interpolated(histogram, levels)


@CALIBRATORS.register("kl-mxnet")
@dataclass(frozen=True)
class KLMXNet(_Divergence):
    """MXNet's own KL (`mxnet.contrib.quantization`, operator `_contrib_calibrate_entropy`; `kl_symmetric`).

    8001 bins over [-A, A], A = max |x|; both signs are kept apart and zeros are counted, in the middle bin. 255 levels
    for int8; 511 for uint8 on data without negative values. threshold = upper edge of the chosen range. Where values of
    both signs are fewer than three times the exact zeros, that one bin would decide the result (half zeros: a threshold
    of 0.2 to 0.5 of the largest magnitude, nine in ten: 0.06); zeros are left out there, as the other variants do.

    Other grids search with 2 * qmax + 1 levels. MXNet falls back to int8 for uint8 with negative values; here an
    unsigned grid makes them zeros, and counts them as such. MXNet's bins are fixed by the first batch and more are
    added at the ends; here they are the final 8001, resampled from the observer's 16384 per side (`base.resampled`).

    Source: MXNet 1.9.1 python/mxnet/contrib/quantization.py, src/operator/quantization/calibrate.cc.
    """

    name: ClassVar[str] = "kl-mxnet"
    bins: int = 8001

    def __post_init__(self) -> None:
        _check_bins(self.bins)
        if self.bins % 2 == 0:
            raise CalibrationError(f"bins must be an odd number, one in the middle; got {self.bins!r}")

    def threshold(self, observer: Any, spec: QuantSpec) -> float:
        """The end of the chosen range; the largest magnitude for grids with more levels than bins, and few values."""
        top = top_magnitude(observer, spec)
        levels = 2 * levels_per_side(observer, spec) - 1
        if levels > self.bins or not top or self._keeps_all(observer, spec):
            return top
        best = search_symmetric(self._histogram(observer, spec, top), levels)
        return (2 * best + 1) * top / self.bins

    def note(self, observer: Any, spec: QuantSpec) -> str:
        """Also where there are so many zeros that they are left out."""
        said = super().note(observer, spec)
        if said or not self._mostly_zero(observer, spec):
            return said
        return f"{observer.zeros / observer.total:.0%} of the values are zero: {self.name} leaves zeros out there"

    def _mostly_zero(self, observer, spec):
        return ((spec.signed or not spec.symmetric) and observer.negative().any() and observer.positive().any()
                and observer.zeros > MOSTLY_ZERO * observer.total)

    def _histogram(self, observer, spec, top):
        # of the bins of one side in halves, the first is half of the middle bin
        positive = resampled(observer.positive(), observer.width, top, self.bins)
        negative = np.zeros_like(positive)
        zeros = observer.total - int(positive.sum())
        if spec.signed or not spec.symmetric:
            negative = resampled(observer.negative(), observer.width, top, self.bins)
            zeros = 0 if self._mostly_zero(observer, spec) else observer.zeros
        middle = [zeros + positive[0] + negative[0]]
        return np.concatenate([_pairs(negative)[::-1], middle, _pairs(positive)])


def _pairs(halves):
    return halves[1:].reshape(-1, 2).sum(axis=1)


def _check_bins(bins):
    if not MIN_BINS <= bins <= MAX_BINS:
        raise CalibrationError(f"bins must be from {MIN_BINS} to {MAX_BINS}, got {bins!r}")

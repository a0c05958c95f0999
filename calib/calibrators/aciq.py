# SPDX-License-Identifier: MIT
"""Clipping values that are optimal for a Gaussian or a Laplace distribution."""

import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from calib.calibrators.base import CALIBRATORS, ThresholdCalibrator, levels_per_side, top_magnitude
from quantize.reference import qparams_from_range
from quantize.spec import QuantSpec

NCNN_ALPHA = float(np.float32(3.92403714))


@functools.lru_cache(maxsize=None)
def gaussian_alpha(levels: int) -> float:
    """Best clip value of a unit Gaussian on `levels` steps per side.

    Minimum over a of ``(a*a + 1) (1 - erf(a / sqrt 2)) - sqrt(2 / pi) a exp(-a*a / 2) + (a / levels)**2 / 12``: 3.92
    for 128. Banner et al., arXiv:1810.05723, equation 7 (with 2**M = 2 * levels).
    """
    return _root(lambda a: a / (12 * levels ** 2) + a * math.erfc(a / math.sqrt(2))
                 - math.sqrt(2 / math.pi) * math.exp(-a * a / 2))


@functools.lru_cache(maxsize=None)
def laplace_alpha(levels: int) -> float:
    """Best clip value of a Laplace distribution with b = 1 on `levels` steps per side.

    Minimum over a of ``2 exp(-a) + (a / levels)**2 / 12``: 9.89 for 128. Banner et al., equation 5.
    """
    return _root(lambda a: a / (12 * levels ** 2) - math.exp(-a))


def _root(derivative):
    """Where a growing function of a > 0 that is negative at 0 crosses zero."""
    low, high = 0.0, 64.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if derivative(middle) < 0 else (low, middle)
    return low


@dataclass(frozen=True)
class _ACIQ(ThresholdCalibrator):
    observer: ClassVar[str] = "histogram"

    def _alpha(self, levels, spread, deviation):
        """The clip value, given E|x - mean| and the standard deviation."""
        raise NotImplementedError

    def threshold(self, observer, spec):
        """|mean| + alpha, at most the largest magnitude, which constant data get."""
        mean, alpha = self._clip(observer, spec)
        return min(abs(mean) + alpha, top_magnitude(observer, spec))

    def decide(self, observer, spec):
        """QParams of the threshold; asymmetric ones of mean - alpha to mean + alpha, inside the observed range."""
        if spec.symmetric:
            return super().decide(observer, spec)
        low, high = observer.range()
        mean, alpha = self._clip(observer, spec)
        low, high = max(low, mean - alpha), min(high, mean + alpha)
        return qparams_from_range(np.array([low], np.float32), np.array([high], np.float32), spec)

    def _clip(self, observer, spec):
        one_sided = observer.range()[0] >= 0 or (spec.symmetric and not spec.signed)
        mean, spread, deviation = _statistics(observer, one_sided)
        return mean, self._alpha(levels_per_side(observer, spec), spread, deviation)


@CALIBRATORS.register("aciq-gauss")
@dataclass(frozen=True)
class ACIQGauss(_ACIQ):
    """ACIQ for a Gaussian: threshold = |mean| + alpha * sigma, with the alpha of `gaussian_alpha`.

    Two-sided data on a signed grid: mean and sigma of all values, zeros included. Data without negative values, and
    unsigned grids: the positive values are one half of a Gaussian around 0, and the zeros, which a ReLU made, are left
    out: sigma**2 = E[x*x | x > 0]. (The authors' code keeps them, which mixes a point mass into sigma.) The result
    never exceeds the largest value. The number of levels is qmax + 1 per side: 128 for int8, 256 for uint8.

    Source: Banner, Nahshan, Hoffer, Soudry, "Post training 4-bit quantization of convolutional networks for
    rapid-deployment", arXiv:1810.05723, section 3.
    """

    name: ClassVar[str] = "aciq-gauss"

    def _alpha(self, levels, spread, deviation):
        return gaussian_alpha(levels) * deviation


@CALIBRATORS.register("aciq-laplace")
@dataclass(frozen=True)
class ACIQLaplace(_ACIQ):
    """ACIQ for a Laplace distribution: threshold = |mean| + alpha * b, with the alpha of `laplace_alpha`.

    b = E|x - mean| over all values; for data without negative values, and on unsigned grids, b = E[x | x > 0].
    Otherwise as `ACIQGauss`, with the same source.
    """

    name: ClassVar[str] = "aciq-laplace"

    def _alpha(self, levels, spread, deviation):
        return laplace_alpha(levels) * spread


@CALIBRATORS.register("aciq")
@dataclass(frozen=True)
class ACIQ(_ACIQ):
    """ACIQ with whichever of the two distributions is nearer, by E|x - mean| / sigma.

    That ratio is sqrt(2 / pi) = 0.798 for a Gaussian and 1 / sqrt 2 = 0.707 for a Laplace distribution; the border is
    in the middle. The choice is ours: the paper takes the distribution that fits, and does not say how to tell.
    """

    name: ClassVar[str] = "aciq"

    def _alpha(self, levels, spread, deviation):
        border = (math.sqrt(2 / math.pi) + math.sqrt(0.5)) / 2
        if spread > border * deviation:
            return gaussian_alpha(levels) * deviation
        return laplace_alpha(levels) * spread


@CALIBRATORS.register("aciq-ncnn")
@dataclass(frozen=True)
class ACIQncnn(ThresholdCalibrator):
    """ncnn2table's `method=aciq`: sigma is estimated from the largest magnitude and the number of values alone.

    ``threshold = alpha * 2 A g / sqrt(2 ln N)``, A = max |x| over all images, N = values of *one* image,
    g = 0.175 (1 + sqrt(pi ln 4)), alpha = ncnn's 3.92403714 for 8 bits. Zeros count in N, signs do not matter, and the
    threshold can exceed A. ncnn has signed 8-bit activations only; other grids take `gaussian_alpha` (which gives
    3.92403549 for 8 bits), and unsigned ones A = max(x, 0). One value per image (ln 1 = 0) has no estimate: the
    threshold is A.

    Source: ncnn tools/quantize/ncnn2table.cpp, `compute_aciq_gaussian_clip`.
    """

    name: ClassVar[str] = "aciq-ncnn"
    observer: ClassVar[str] = "histogram"

    def threshold(self, observer: Any, spec: QuantSpec) -> float:
        """That threshold."""
        top, values = top_magnitude(observer, spec), observer.values // observer.samples
        if values < 2:
            return top
        g = 0.175 * (1 + math.sqrt(math.pi * math.log(4)))
        sigma = 2 * top * g / math.sqrt(2 * math.log(values))
        levels = levels_per_side(observer, spec)
        return (NCNN_ALPHA if levels == 128 else gaussian_alpha(levels)) * sigma


def _statistics(observer, one_sided):
    """(mean, E|x - mean|, standard deviation) from the histogram; of a distribution around 0 when one-sided.

    Bins count as their middle; the spread inside a bin adds width**2 / 12 to the variance.
    """
    middles = (np.arange(len(observer.positive())) + 0.5) * observer.width
    positive, negative = observer.positive(), observer.negative()
    count = int(positive.sum()) if one_sided else observer.total
    if not count:
        return 0.0, 0.0, 0.0
    mean = 0.0 if one_sided else float(positive @ middles - negative @ middles) / count
    spread, square = positive @ np.abs(middles - mean), positive @ (middles - mean) ** 2
    if not one_sided:
        spread = spread + negative @ np.abs(middles + mean) + observer.zeros * abs(mean)
        square = square + negative @ (middles + mean) ** 2 + observer.zeros * mean ** 2
    return mean, float(spread) / count, math.sqrt(float(square) / count + observer.width ** 2 / 12)

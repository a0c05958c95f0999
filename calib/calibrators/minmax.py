# SPDX-License-Identifier: MIT
"""Calibrators that take a range as it was seen."""

from dataclasses import dataclass
from typing import ClassVar

from calib.calibrators.base import CALIBRATORS, Calibrator
from calib.observers import EMAObserver, Observer
from quantize.reference import qparams_of_range
from quantize.spec import QParams, QuantSpec


@CALIBRATORS.register("minmax")
@dataclass(frozen=True)
class MinMax(Calibrator):
    """The whole range ever seen: threshold max|x| (signed), max(x, 0) (unsigned), [min, max] (asymmetric)."""

    name: ClassVar[str] = "minmax"
    observer: ClassVar[str] = "minmax"

    def decide(self, observer: Observer, spec: QuantSpec) -> QParams:
        """QParams whose grid ends at the observed range; an all-zero range gets scale 1."""
        return qparams_of_range(*observer.range(), spec=spec)


@CALIBRATORS.register("naive")
@dataclass(frozen=True)
class Naive(MinMax):
    """EMA of the range, the `naive` mode of Quantization.MXNet (momentum 0.9, batch mean of each image's maximum).

    Unlike the original, the start at 0 is corrected for, and signed inputs keep both ends: the threshold is the larger
    magnitude of the averaged minimum and the averaged maximum.
    """

    name: ClassVar[str] = "naive"
    observer: ClassVar[str] = "ema"
    momentum: float = 0.9

    def __post_init__(self) -> None:
        self.new_observer()  # which checks the momentum

    def new_observer(self) -> Observer:
        """A fresh EMA observer."""
        return EMAObserver(self.momentum)

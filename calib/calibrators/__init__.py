# SPDX-License-Identifier: MIT
"""Calibrators decide: an observer and a spec go in, QParams come out. They never change the observer."""

from calib.calibrators.base import CALIBRATORS, Calibrator
from calib.calibrators.minmax import MinMax, Naive

__all__ = ["CALIBRATORS", "Calibrator", "MinMax", "Naive"]

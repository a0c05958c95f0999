# SPDX-License-Identifier: MIT
"""Calibrators decide: an observer and a spec go in, QParams come out. They never change the observer."""

from calib.calibrators.aciq import ACIQ, ACIQGauss, ACIQLaplace, ACIQncnn
from calib.calibrators.base import CALIBRATORS, Calibrator, clipped_share
from calib.calibrators.kl import KLMXNet, KLncnn, KLPredecessor, KLTensorRT
from calib.calibrators.minmax import MinMax, Naive
from calib.calibrators.mse import MSE, SQNR
from calib.calibrators.named import named_calibrator
from calib.calibrators.percentile import Percentile

__all__ = ["ACIQ", "ACIQGauss", "ACIQLaplace", "ACIQncnn", "CALIBRATORS", "Calibrator", "KLMXNet", "KLPredecessor",
           "KLTensorRT", "KLncnn", "MSE", "MinMax", "Naive", "Percentile", "SQNR", "clipped_share", "named_calibrator"]

# SPDX-License-Identifier: MIT
"""Grids at other bits than those that were calibrated."""

from typing import Any, Callable, Mapping

import numpy as np

from quantize.errors import CalibrationError
from quantize.reference import absmax, fake_quantize, find_qparams, qparams_from_threshold, sum_parts
from quantize.spec import QParams, QuantSpec

SHARES = np.linspace(1, 0.4, 13)


def least_squares_scale(weight: np.ndarray, spec: QuantSpec) -> QParams:
    """The symmetric grid, of some that cover 40 to 100 % of a weight, with the least squared rounding error."""
    if not spec.symmetric:
        return find_qparams(weight, spec)
    largest = absmax(weight, spec)
    best, least = np.ones_like(largest), np.full(largest.shape, np.inf)
    for share in SHARES:
        found = qparams_from_threshold(largest * np.float32(share), spec)
        error = sum_parts(np.square(fake_quantize(weight, found, spec) - weight, dtype=np.float64), spec)
        better = error < least
        best, least = np.where(better, found.scale, best), np.where(better, error, least)
    return QParams.symmetric(best)


def rescaled(layers: Mapping[str, Any]) -> Callable[[str, QuantSpec], QParams]:
    """``ranges(path of an input quantizer, spec)``: the calibrated range with the steps of another format."""
    def ranges(path: str, spec: QuantSpec) -> QParams:
        quantizer = layers[path.rpartition(".")[0]].input_quantizer
        if not quantizer.calibrated:
            raise CalibrationError(f"{path}: no calibrated range; calibrate first")
        found = quantizer.get_qparams()
        before = quantizer.spec
        steps = (before.qmax - before.qmin) / (spec.qmax - spec.qmin)
        scale = (found.scale * np.float32(steps)).astype(np.float32)
        low = (before.qmin - found.zero_point) * found.scale
        zero_point = np.zeros_like(found.zero_point) if spec.symmetric else np.clip(
            spec.qmin - np.round(low / scale), spec.qmin, spec.qmax).astype(np.int32)
        return QParams(scale, zero_point)
    return ranges

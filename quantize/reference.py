# SPDX-License-Identifier: MIT
"""Round, quantize, dequantize and fake-quantize in NumPy: the truth every back end is judged by.

All arithmetic is float32, in the order written here, so that "equal" means bit for bit.
Two forms exist and differ in the last bit of ``x / s``: dividing by the scale (the default of the simulation)
and multiplying by a given float32 `multiplier` (what ncnn does).
"""

from typing import Callable, Optional, Tuple

import numpy as np
from numpy.typing import ArrayLike

from quantize.errors import DataError
from quantize.spec import PerGroup, PerTensor, QParams, QuantSpec


def round_half_away(x: np.ndarray) -> np.ndarray:
    """Nearest integer, exact halves away from zero (C's roundf, MXNet's round, ncnn)."""
    whole = np.trunc(x)
    return whole + np.where(np.abs(x - whole) >= 0.5, np.sign(x), np.zeros_like(x))


def round_half_even(x: np.ndarray) -> np.ndarray:
    """Nearest integer, exact halves to the even one (NumPy, ONNX, PyTorch)."""
    return np.rint(x)


ROUND = {"half_away": round_half_away, "half_even": round_half_even}


def split_groups(x: np.ndarray, spec: QuantSpec) -> np.ndarray:
    """View of `x` in which the scale of `spec` broadcasts: a grouped axis becomes (groups, length / groups)."""
    spec.scale_shape(x.shape)
    if not isinstance(spec.granularity, PerGroup):
        return x
    axis, groups = spec.granularity.axis, spec.granularity.groups
    return x.reshape(x.shape[:axis] + (groups, x.shape[axis] // groups) + x.shape[axis + 1:])


def expand_scale(scale: np.ndarray, spec: QuantSpec) -> np.ndarray:
    """The scale in a shape that broadcasts against `split_groups(x, spec)`."""
    if isinstance(spec.granularity, PerGroup):
        return np.expand_dims(scale, spec.granularity.axis + 1)
    return scale


def absmax(x: np.ndarray, spec: QuantSpec) -> np.ndarray:
    """Largest magnitude of each scaled part; float32 of `spec.scale_shape(x.shape)`.

    For an unsigned grid it is the largest value, and at least 0: what lies below zero cannot be represented.
    """
    values = np.abs(x) if spec.signed else np.maximum(x, 0)
    return _reduce(values, spec, np.max).astype(np.float32)


def minmax(x: np.ndarray, spec: QuantSpec) -> Tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value of each scaled part, widened to include 0; float32 arrays."""
    low = np.minimum(_reduce(x, spec, np.min), 0).astype(np.float32)
    high = np.maximum(_reduce(x, spec, np.max), 0).astype(np.float32)
    return low, high


def qparams_from_threshold(threshold: ArrayLike, spec: QuantSpec) -> QParams:
    """Scale of a symmetric grid whose largest level is `threshold`; a zero threshold gives scale 1.

    Parameters
    ----------
    threshold : array of float
        Real clip values, non-negative and finite, of the scale's shape.
    """
    threshold = np.asarray(threshold, dtype=np.float32)
    if not np.all(np.isfinite(threshold)) or np.any(threshold < 0):
        raise DataError(f"a threshold must be finite and not negative, got {threshold.ravel()[:8]}")
    scale = (threshold / np.float32(spec.max_level)).astype(np.float32)
    return QParams.symmetric(np.where(scale == 0, np.float32(1), scale))


def qparams_from_range(low: ArrayLike, high: ArrayLike, spec: QuantSpec) -> QParams:
    """Scale and zero point of an asymmetric grid that covers [low, high] and represents 0 exactly.

    Jacob et al., arXiv:1712.05877, section 3: s = (high - low) / (qmax - qmin), z = qmin - round(low / s).
    """
    low = np.minimum(np.asarray(low, np.float32), 0)
    high = np.maximum(np.asarray(high, np.float32), 0)
    if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high))):
        raise DataError(f"a range must be finite, got {low.ravel()[:8]} to {high.ravel()[:8]}")
    scale = ((high - low) / np.float32(spec.qmax - spec.qmin)).astype(np.float32)
    scale = np.where(scale == 0, np.float32(1), scale)
    zero_point = np.clip(spec.qmin - ROUND[spec.rounding](low / scale), spec.qmin, spec.qmax)
    return QParams(scale, zero_point.astype(np.int32))


def qparams_of_range(low: float, high: float, spec: QuantSpec) -> QParams:
    """QParams of shape (1,) for observed values from `low` to `high`, by the rule of the spec.

    Symmetric: the threshold is max(|low|, |high|) for signed grids, max(high, 0) for unsigned ones; else [low, high].
    """
    if not spec.symmetric:
        return qparams_from_range([low], [high], spec)
    threshold = max(-low, high, 0.0) if spec.signed else max(high, 0.0)
    return qparams_from_threshold([threshold], spec)


def find_qparams(x: np.ndarray, spec: QuantSpec) -> QParams:
    """QParams whose range just covers `x` (the online range, and the range of weights).

    Raises DataError when `x` holds NaN or infinity.
    """
    x = np.asarray(x, np.float32)
    if not np.all(np.isfinite(x)):
        raise DataError(f"NaN or infinity in a tensor of shape {x.shape}")
    if spec.symmetric:
        return qparams_from_threshold(absmax(x, spec), spec)
    return qparams_from_range(*minmax(x, spec), spec=spec)


def quantize(x: np.ndarray, qparams: QParams, spec: QuantSpec, multiplier: Optional[np.ndarray] = None) -> np.ndarray:
    """Integer codes of `x`: ``clip(round(x / s) + z, qmin, qmax)`` (mid_rise: ``clip(floor(x / s), ...)``).

    Parameters
    ----------
    x : array of float32
    qparams : QParams
    spec : QuantSpec
    multiplier : array of float32, scale's shape, optional
        Given: ``x * multiplier`` replaces ``x / s``, as ncnn computes.

    Returns
    -------
    array of int32, shape of x
    """
    x = np.asarray(x, np.float32)
    parts = split_groups(x, spec)
    if multiplier is None:
        steps = parts / expand_scale(qparams.scale, spec)
    else:
        steps = parts * expand_scale(np.asarray(multiplier, np.float32), spec)
    codes = np.floor(steps) if spec.grid == "mid_rise" else ROUND[spec.rounding](steps)
    codes = codes + expand_scale(qparams.zero_point, spec).astype(np.float32)
    return np.clip(codes, spec.qmin, spec.qmax).astype(np.int32).reshape(x.shape)


def dequantize(codes: np.ndarray, qparams: QParams, spec: QuantSpec) -> np.ndarray:
    """Real values of codes: ``(q - z) * s`` (mid_rise: ``(q + 0.5) * s``); float32, shape of codes."""
    parts = split_groups(np.asarray(codes), spec).astype(np.float32)
    offset = np.float32(0.5) if spec.grid == "mid_rise" else -expand_scale(qparams.zero_point, spec).astype(np.float32)
    values = (parts + offset) * expand_scale(qparams.scale, spec)
    return values.astype(np.float32).reshape(np.shape(codes))


def fake_quantize(x: np.ndarray, qparams: QParams, spec: QuantSpec,
                  multiplier: Optional[np.ndarray] = None) -> np.ndarray:
    """`x` rounded to the grid, still float32: ``dequantize(quantize(x))``."""
    return dequantize(quantize(x, qparams, spec, multiplier), qparams, spec)


def ste_gradient(x: np.ndarray, dy: np.ndarray, qparams: QParams, spec: QuantSpec) -> np.ndarray:
    """Straight-through gradient of `fake_quantize`: dx = dy where the *unclipped code* is in [qmin, qmax], else 0.

    The mask is taken on the rounded code, not on ``x / s``: the largest element of a tensor whose own maximum set
    the scale has code qmax exactly, while its ``x / s`` may be one ulp above qmax and would lose its gradient.
    On a mid_rise grid the code is ``floor(x / s)``, and the upper end ``x == (qmax + 1) * s`` counts as inside.
    """
    parts = split_groups(np.asarray(x, np.float32), spec) / expand_scale(qparams.scale, spec)
    if spec.grid == "mid_rise":
        inside = (parts >= spec.qmin) & (parts <= spec.qmax + 1)
    else:
        codes = ROUND[spec.rounding](parts) + expand_scale(qparams.zero_point, spec).astype(np.float32)
        inside = (codes >= spec.qmin) & (codes <= spec.qmax)
    return np.asarray(dy, np.float32) * inside.reshape(np.shape(x)).astype(np.float32)


def sum_parts(x: np.ndarray, spec: QuantSpec) -> np.ndarray:
    """Sum of each scaled part in float64; `spec.scale_shape(x.shape)`."""
    parts = split_groups(np.asarray(x, np.float64), spec)
    if isinstance(spec.granularity, PerTensor):
        return parts.sum().reshape(1)
    others = tuple(i for i in range(parts.ndim) if i != spec.granularity.axis)
    return parts.sum(axis=others).reshape(spec.scale_shape(np.shape(x)))


def _reduce(x: np.ndarray, spec: QuantSpec, function: Callable[..., np.ndarray]) -> np.ndarray:
    parts = split_groups(np.asarray(x, np.float32), spec)
    if isinstance(spec.granularity, PerTensor):
        return function(parts).reshape(1)
    axis = spec.granularity.axis
    others = tuple(i for i in range(parts.ndim) if i != axis)
    return function(parts, axis=others).reshape(spec.scale_shape(np.shape(x)))

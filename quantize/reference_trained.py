# SPDX-License-Identifier: MIT
"""References of the quantizers with a training rule of their own, in NumPy: LSQ(+), (CG-)PACT, DoReFa, SAT, sign.

float32 element by element in the order written here; sums in float64.
"""

from typing import Optional, Tuple

import numpy as np

from quantize.reference import (
    ROUND,
    dequantize,
    expand_scale,
    fake_quantize,
    quantize,
    round_half_away,
    split_groups,
    ste_gradient,
    sum_parts,
)
from quantize.spec import QParams, QuantSpec


def lsq(x: np.ndarray, step: np.ndarray, spec: QuantSpec) -> np.ndarray:
    """Fake quantization by a learned step (LSQ), Esser et al., arXiv:1902.08153, equations 1 and 2."""
    return fake_quantize(x, QParams.symmetric(step), spec)


def lsq_gradient(x: np.ndarray, dy: np.ndarray, step: np.ndarray, spec: QuantSpec,
                 grad_scale: Optional[float] = None) -> Tuple[np.ndarray, np.ndarray]:
    """(dx, dstep) of `lsq`.

    dx is the masked straight-through gradient. dstep sums ``dy * slope`` over each scaled part, times `grad_scale`:
    slope = y / s - x / s inside the grid and the outermost level, y / s, outside (equation 3). The default scale is
    1 / sqrt(n * Q_P) with n the elements of a part and Q_P the levels above zero (section 2.2).
    """
    x, dy = np.asarray(x, np.float32), np.asarray(dy, np.float32)
    steps = (split_groups(x, spec) / expand_scale(np.asarray(step, np.float32), spec)).reshape(x.shape)
    qparams, unit = QParams.symmetric(step), QParams.symmetric(np.ones_like(step))
    levels = dequantize(quantize(x, qparams, spec), unit, spec)
    inside = ste_gradient(x, np.ones_like(x), qparams, spec)
    slope = np.where(inside > 0, levels - steps, levels)
    if grad_scale is None:
        grad_scale = 1 / np.sqrt(x.size / np.size(step) * spec.positive_levels)
    dstep = sum_parts(dy * slope, spec) * grad_scale
    return dy * inside, dstep.astype(np.float32)


def lsq_start(x: np.ndarray, spec: QuantSpec) -> np.ndarray:
    """First step of LSQ for each scaled part: 2 * mean|x| / sqrt(Q_P), arXiv:1902.08153, section 2.1.

    For one bit that is the step of least squared error: its levels are +-mean|x|.
    """
    means = sum_parts(np.abs(np.asarray(x, np.float64)), spec) / _part_size(x, spec)
    return _positive(2 * means / np.sqrt(spec.positive_levels))


def lsq_plus_weight_start(w: np.ndarray, spec: QuantSpec) -> np.ndarray:
    """First step of LSQ+ for weights: max(|mean - 3 std|, |mean + 3 std|) / 2**(bits - 1), arXiv:2004.09576."""
    w = np.asarray(w, np.float64)
    mean = sum_parts(w, spec) / _part_size(w, spec)
    std = np.sqrt(np.maximum(sum_parts(w * w, spec) / _part_size(w, spec) - mean * mean, 0))
    return _positive(np.maximum(np.abs(mean - 3 * std), np.abs(mean + 3 * std)) / 2 ** (spec.bits - 1))


def lsq_plus(x: np.ndarray, step: np.ndarray, offset: np.ndarray, spec: QuantSpec) -> np.ndarray:
    """Fake quantization by a learned step and offset, Bhalgat et al., arXiv:2004.09576; the offset in whole steps."""
    return fake_quantize(x, lsq_plus_qparams(step, offset, spec), spec)


def lsq_plus_qparams(step: np.ndarray, offset: np.ndarray, spec: QuantSpec) -> QParams:
    """The grid whose lowest level is `offset`, rounded to whole steps so that zero is a level."""
    step = np.asarray(step, np.float32)
    zero_point = spec.qmin - ROUND[spec.rounding](np.asarray(offset, np.float32) / step)
    return QParams(step, np.clip(zero_point, spec.qmin, spec.qmax).astype(np.int32))


def lsq_plus_gradient(x: np.ndarray, dy: np.ndarray, step: np.ndarray, offset: np.ndarray,
                      spec: QuantSpec) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(dx, dstep, doffset) of `lsq_plus`: LSQ's, but outside the grid dy/dstep counts codes from qmin, dy/doffset is 1.

    Step and offset are scaled by 1 / sqrt(n * qmax), n the elements of a part.
    """
    x, dy = np.asarray(x, np.float32), np.asarray(dy, np.float32)
    qparams = lsq_plus_qparams(step, offset, spec)
    zero_point = expand_scale(qparams.zero_point, spec).astype(np.float32)
    steps = split_groups(x, spec) / expand_scale(qparams.scale, spec)
    codes = ROUND[spec.rounding](steps) + zero_point
    clipped = np.clip(codes, spec.qmin, spec.qmax)
    inside = clipped == codes
    slope = np.where(inside, codes - zero_point - steps, clipped - spec.qmin).astype(np.float32).reshape(x.shape)
    factor = 1 / np.sqrt(x.size / np.size(step) * spec.qmax)
    dstep = sum_parts(dy * slope, spec) * factor
    doffset = sum_parts(dy * ~inside.reshape(x.shape), spec) * factor
    return ste_gradient(x, dy, qparams, spec), dstep.astype(np.float32), doffset.astype(np.float32)


def pact(x: np.ndarray, alpha: float, levels: int) -> np.ndarray:
    """Clip to [0, alpha], then `levels` equal steps. Choi et al., arXiv:1805.06085, equations 1 and 2."""
    clip = np.float32(alpha)
    scale = clip / np.float32(levels)
    return round_half_away(np.clip(np.asarray(x, np.float32), 0, clip) / scale) * scale


def pact_gradient(x: np.ndarray, dy: np.ndarray, alpha: float, levels: int,
                  calibrated: bool = False) -> Tuple[np.ndarray, np.ndarray]:
    """(dx, dalpha) of `pact`; dalpha has the shape (1,).

    dx = dy where 0 <= x < alpha. dy/dalpha is 1 where x >= alpha; inside it is 0 (PACT), or
    ``q / levels - x / alpha`` with q the code of x (calibrated gradient, Jin et al., arXiv:1912.10207, equation 12).
    """
    x, dy = np.asarray(x, np.float32), np.asarray(dy, np.float32)
    clip, steps = np.float32(alpha), np.float32(levels)
    slope = (x >= clip).astype(np.float32)
    if calibrated:
        code = round_half_away(x / (clip / steps))
        slope = np.where((x > 0) & (x < clip), code / steps - x / clip, slope).astype(np.float32)
    inside = ((x >= 0) & (x < clip)).astype(np.float32)
    return dy * inside, np.array([np.sum((dy * slope).astype(np.float64))], np.float32)


def dorefa(w: np.ndarray, levels: int) -> np.ndarray:
    """tanh(w) / max|tanh(w)|, then `levels` equal steps on [-1, 1]; 0 levels: the clamp alone.

    DoReFa, Zhou et al., arXiv:1606.06160, equation 9; the clamp alone is the first stage of SAT, arXiv:1912.10207.
    All-zero weights are divided by 1.
    """
    w = np.asarray(w, np.float32)
    clamped = (np.tanh(w.astype(np.float64)) / _divisor(w)).astype(np.float32)
    if not levels:
        return clamped
    half, steps = np.float32(0.5), np.float32(levels)
    return np.float32(2) * (round_half_away((clamped * half + half) * steps) / steps) - np.float32(1)


def dorefa_gradient(w: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """dw = dy * (1 - tanh(w)^2) / max|tanh(w)|; rounding passes straight through, the divisor carries no gradient."""
    t = np.tanh(np.asarray(w, np.float32).astype(np.float64))
    return (np.asarray(dy, np.float32) * ((1 - t * t) / _divisor(w))).astype(np.float32)


def sat_factor(q: np.ndarray, fan_out: int) -> np.float32:
    """SAT's scale adjustment of quantized or clamped weights: 1 / sqrt(fan_out * var(q)), arXiv:1912.10207.

    Weights that are all equal keep their scale.
    """
    variance = np.asarray(q, np.float64).var()
    return np.float32(1 / np.sqrt(fan_out * variance)) if variance > 0 else np.float32(1)


def dorefa_quantized_gradient(dy: np.ndarray, noise: np.ndarray, bits: int) -> np.ndarray:
    """A gradient rounded to `bits` for each image, with noise; Zhou et al., arXiv:1606.06160, equation 12.

    ``2 m (quantize(dy / 2m + 1/2 + noise / levels) - 1/2)`` with m the image's largest magnitude and
    levels = 2**bits - 1; quantize rounds to that many steps on [0, 1].

    Parameters
    ----------
    dy : array (images, ...)
    noise : array of dy's shape
        Uniform in [-0.5, 0.5).
    """
    dy, levels = np.asarray(dy, np.float32), np.float32(2 ** bits - 1)
    peak = np.abs(dy).reshape(len(dy), -1).max(axis=1).reshape((-1,) + (1,) * (dy.ndim - 1))
    span = np.where(peak == 0, np.float32(1), np.float32(2) * peak)
    codes = round_half_away((dy / span + np.float32(0.5)) * levels + np.asarray(noise, np.float32))
    return (np.clip(codes, 0, levels) / levels - np.float32(0.5)) * span


def sign(x: np.ndarray) -> np.ndarray:
    """+1 where x >= 0, else -1. Courbariaux et al., arXiv:1602.02830."""
    return np.where(np.asarray(x) >= 0, np.float32(1), np.float32(-1))


def sign_gradient(x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Clipped identity: dx = dy where |x| <= 1, else 0 (arXiv:1602.02830, equation 4)."""
    return np.asarray(dy, np.float32) * (np.abs(x) <= 1)


def _part_size(x: np.ndarray, spec: QuantSpec) -> float:
    return float(np.size(x) / np.prod(spec.scale_shape(np.shape(x))))


def _positive(step: np.ndarray) -> np.ndarray:
    """Parts that are all zero take the largest step of the others, or 1."""
    other = step.max() if step.max() > 0 else 1.0
    return np.where(step > 0, step, other).astype(np.float32)


def _divisor(w: np.ndarray) -> np.floating:
    peak = np.abs(np.asarray(w, np.float32)).max()
    return np.float64(1) if peak == 0 else np.tanh(np.float64(peak))

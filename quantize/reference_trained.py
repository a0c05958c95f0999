# SPDX-License-Identifier: MIT
"""References of the quantizers with a training rule of their own, in NumPy: LSQ, PACT, CG-PACT, DoReFa, sign.

float32 element by element in the order written here; sums in float64.
"""

from typing import Optional, Tuple

import numpy as np

from quantize.reference import (
    ROUND,
    expand_scale,
    fake_quantize,
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
    slope = round(x / s) - x / s inside the grid and the clipped code outside (equation 3). The default scale is
    1 / sqrt(n * qmax) with n the elements of a part (section 2.2).
    """
    x, dy = np.asarray(x, np.float32), np.asarray(dy, np.float32)
    steps = split_groups(x, spec) / expand_scale(np.asarray(step, np.float32), spec)
    codes = ROUND[spec.rounding](steps)
    clipped = np.clip(codes, spec.qmin, spec.qmax)
    slope = np.where(clipped == codes, codes - steps, clipped).astype(np.float32).reshape(x.shape)
    if grad_scale is None:
        grad_scale = 1 / np.sqrt(x.size / np.size(step) * spec.qmax)
    dstep = sum_parts(dy * slope, spec) * grad_scale
    return ste_gradient(x, dy, QParams.symmetric(step), spec), dstep.astype(np.float32)


def pact(x: np.ndarray, alpha: float, levels: int) -> np.ndarray:
    """Clip to [0, alpha], then `levels` equal steps. Choi et al., arXiv:1805.06085, equations 1 and 2."""
    alpha, levels = np.float32(alpha), np.float32(levels)
    scale = alpha / levels
    return round_half_away(np.clip(np.asarray(x, np.float32), 0, alpha) / scale) * scale


def pact_gradient(x: np.ndarray, dy: np.ndarray, alpha: float, levels: int,
                  calibrated: bool = False) -> Tuple[np.ndarray, np.ndarray]:
    """(dx, dalpha) of `pact`; dalpha has the shape (1,).

    dx = dy where 0 <= x < alpha. dy/dalpha is 1 where x >= alpha; inside it is 0 (PACT), or
    ``q / levels - x / alpha`` with q the code of x (calibrated gradient, Jin et al., arXiv:1912.10207, equation 12).
    """
    x, dy = np.asarray(x, np.float32), np.asarray(dy, np.float32)
    alpha, levels = np.float32(alpha), np.float32(levels)
    slope = (x >= alpha).astype(np.float32)
    if calibrated:
        code = round_half_away(x / (alpha / levels))
        slope = np.where((x > 0) & (x < alpha), code / levels - x / alpha, slope).astype(np.float32)
    inside = (x >= 0) & (x < alpha)
    return dy * inside, np.float32([np.sum((dy * slope).astype(np.float64))])


def dorefa(w: np.ndarray, levels: int) -> np.ndarray:
    """tanh(w) / max|tanh(w)|, then `levels` equal steps on [-1, 1]; 0 levels: the clamp alone.

    DoReFa, Zhou et al., arXiv:1606.06160, equation 9; the clamp alone is the first stage of SAT, arXiv:1912.10207.
    All-zero weights are divided by 1.
    """
    w = np.asarray(w, np.float32)
    clamped = (np.tanh(w.astype(np.float64)) / _divisor(w)).astype(np.float32)
    if not levels:
        return clamped
    half, levels = np.float32(0.5), np.float32(levels)
    return np.float32(2) * (round_half_away((clamped * half + half) * levels) / levels) - np.float32(1)


def dorefa_gradient(w: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """dw = dy * (1 - tanh(w)^2) / max|tanh(w)|; rounding passes straight through, the divisor carries no gradient."""
    t = np.tanh(np.asarray(w, np.float32).astype(np.float64))
    return (np.asarray(dy, np.float32) * ((1 - t * t) / _divisor(w))).astype(np.float32)


def sign(x: np.ndarray) -> np.ndarray:
    """+1 where x >= 0, else -1. Courbariaux et al., arXiv:1602.02830."""
    return np.where(np.asarray(x) >= 0, np.float32(1), np.float32(-1))


def sign_gradient(x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Clipped identity: dx = dy where |x| <= 1, else 0 (arXiv:1602.02830, equation 4)."""
    return np.asarray(dy, np.float32) * (np.abs(x) <= 1)


def _divisor(w):
    peak = np.abs(np.asarray(w, np.float32)).max()
    return 1.0 if peak == 0 else np.tanh(np.float64(peak))

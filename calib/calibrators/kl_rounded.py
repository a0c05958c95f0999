# SPDX-License-Identifier: MIT
"""Divergences rounded as their origins round: float32, one term after the other.

MXNet and ncnn add up thousands of float32 terms. Where the divergence is flat that rounding, and not the divergence,
decides which candidate is the smallest, so candidates that are nearly equal are compared as the origin would compute
them, with the C library's logf. Only few are, so these need not be fast.
"""

import ctypes
from typing import Callable

import numpy as np


def decide_rounded(candidates: np.ndarray, divergences: np.ndarray, near: float,
                   rounded: Callable[[int], np.floating]) -> int:
    """The candidate with the first smallest ``rounded(candidate)`` of those within `near` of the smallest divergence.

    Without a finite divergence it is the first candidate.
    """
    divergences = np.where(np.isfinite(divergences), divergences, np.inf)
    chosen = candidates[divergences <= divergences.min() + near]
    if len(chosen) > 1 and np.isfinite(divergences).any():
        exact = np.array([rounded(int(candidate)) for candidate in chosen])
        return int(chosen[int(np.argmin(exact))])
    return int(chosen[0])


def fractional_divergence(h: np.ndarray, t: int, levels: int, epsilon: float) -> np.floating:
    """One candidate of ncnn's search (`kl_core.search_fractional`), over the normalised float32 histogram."""
    h, small = np.asarray(h, np.float32), np.float32(epsilon)
    p = h[:t] + small
    p[-1] = _sum(np.append(p[-1:], h[t:]))
    edges = np.arange(levels + 1) * t
    left, right = -(-edges[:-1] // levels), edges[1:] // levels
    in_left = (left - edges[:-1] / levels).astype(np.float32)
    in_right = (edges[1:] / levels - right).astype(np.float32)
    padded = np.append(h, np.float32(0))
    q = in_left * padded[left - 1] + in_right * padded[right]
    for offset in range(int((right - left).max())):
        bins = left + offset
        q = np.where(bins < right, q + padded[np.minimum(bins, t)], q)
    q = q / ((right - left).astype(np.float32) + in_left + in_right)
    spread = np.full(t + 1, epsilon, np.float32)
    spread[right[:-1]] += in_right[:-1] * q[:-1]  # the bins that an edge cuts: first their left level
    spread[left[1:] - 1] += in_left[1:] * q[1:]
    whole = right - left
    index = np.arange(whole.sum()) + np.repeat(left - np.cumsum(whole) + whole, whole)
    spread[index] += np.repeat(q, whole)
    q = spread[:t]
    return _sum(p * _log(p / q))


def symmetric_divergence(histogram: np.ndarray, i: int, levels: int, epsilon: float) -> np.floating:
    """One half width of MXNet's search (`kl_symmetric`), over the counts."""
    small = np.float32(epsilon)
    first, stop = len(histogram) // 2 - i, len(histogram) // 2 + i + 1
    p = histogram[first:stop].astype(np.float32)
    p[0], p[-1] = _sum(histogram[:first + 1]), _sum(histogram[stop - 1:])
    bins = histogram[first:stop].copy()
    bins[0] = 0
    width = len(bins) // levels
    starts = np.arange(levels) * width
    sums = np.add.reduceat(bins, starts)
    norm = np.add.reduceat((bins != 0).astype(np.int64), starts)
    rest = bins[levels * width:].sum()
    sums = sums.astype(np.float32)
    if rest:
        sums[-1] = np.float32(bins[starts[-1]:levels * width].sum()) + np.float32(rest)
    mean = sums / np.maximum(norm, 1).astype(np.float32)
    q = np.repeat(mean, np.diff(np.append(starts, len(bins))))
    q[p == 0] = 0
    p, q = _smoothed(p, small), _smoothed(q, small)
    p, q = p / _sum(p), q / _sum(q)
    return _sum(p * _log(p / q))


def _smoothed(p, epsilon):
    zero = p == 0
    zeros = np.count_nonzero(zero)
    off = epsilon * np.float32(zeros) / np.float32(len(p) - zeros)
    return np.where(zero, epsilon, p - off)


def _sum(values):
    """Sum in float32, one value after the other (np.sum adds in pairs)."""
    return np.add.accumulate(values, dtype=np.float32)[-1]


def _log(x):
    """logf of the C library, as the origins call it; it differs from the rounded logarithm in one value of 90."""
    values, index = np.unique(x, return_inverse=True)  # logarithms are called one by one, so few is better
    if _LOGF is None:
        return np.log(values.astype(np.float64)).astype(np.float32)[index]
    return np.array([_LOGF(value) for value in values.tolist()], np.float32)[index]


def _find_logf():
    try:
        logf = ctypes.CDLL(None).logf  # of the running process
    except (AttributeError, OSError, TypeError):
        return None  # no such library here: the rounded logarithm is nearly the same
    logf.restype, logf.argtypes = ctypes.c_float, [ctypes.c_float]
    return logf


_LOGF = _find_logf()

# SPDX-License-Identifier: MIT
"""The searches behind the KL calibrators: a histogram of magnitudes goes in, the best number of bins comes out.

Each search compares, for every candidate T, the distribution P (the first T bins, the rest of the mass added to the
last) with Q (those T bins quantized into `levels` and spread out again), and returns the T of the first smallest
sum of P log(P / Q). What "quantized", "spread", and "log of zero" mean is where the published algorithms differ.

Where Q is constant over a level, the sum over its bins is ``sum P log P - (mass of P in the level) * log q``. So each
candidate needs one logarithm per level instead of one per bin, and all masses are differences of running sums: some
250 000 logarithms in all for 2048 bins and 128 levels, where the published loops compute two million and slice,
copy and add besides. The candidates are worked on in blocks whose tables stay in the cache.
"""

from typing import Iterator

import numpy as np

from calib.calibrators.kl_rounded import decide_rounded, fractional_divergence

TIE = 1e-12
NEAR = 5e-6  # divergences so close to the smallest are decided by ncnn's own rounding
BLOCK = 1 << 15  # table elements that are worked on together: 256 KiB of float64


def search_fractional(histogram: np.ndarray, levels: int, epsilon: float = 1e-4) -> int:
    """Best T of ncnn's search, levels <= T < bins: levels are T / levels bins wide, edges cut bins proportionally.

    P = h[:T] + epsilon with the rest of h added to the last bin; Q = the mean of h over each level, spread back with
    the same proportions, + epsilon; h is normalised over all bins, P and Q are not. Source: ncnn
    tools/quantize/ncnn2table.cpp, `QuantNet::quantize_KL`, where epsilon is 1e-4 and the sums are float32; candidates
    within 5e-6 of the smallest divergence are compared with that rounding (`kl_rounded`).
    """
    bins = len(histogram)
    # ncnn holds the shares in float32: rounded as there, summed in float64 here
    h = (histogram / float(histogram.sum())).astype(np.float32).astype(np.float64)
    mass, entropy = running(h), running(_xlogx(h + epsilon))
    # the right edge of the last level lies on the end of the histogram, where there is no further bin
    padded = np.append(h, 0.0)
    divergences = []
    for t in blocks(levels, bins, levels):
        position = t[:, None] * np.arange(levels + 1)
        lower = position // levels
        part = (position - lower * levels) * (1.0 / levels)  # how far the edge is into bin `lower`
        cut = part > 0
        below = mass[lower]
        edge_bin = padded[lower]
        mean = np.diff(below + part * edge_bin, axis=1) * (levels / t)[:, None]
        # whole bins of each level: those from the first bin that its left edge does not cut
        whole = below[:, 1:] - below[:, :-1] - (cut * edge_bin)[:, :-1]
        whole += epsilon * (np.diff(lower, axis=1) - cut[:, :-1])
        # what a clipped value turns into: it counts in the last bin that is kept
        tail = mass[-1] - mass[t]
        whole[:, -1] += tail
        divergence = entropy[t - 1] + _xlogx(h[t - 1] + epsilon + tail)
        divergence -= np.einsum("ij,ij->i", whole, np.log(mean + epsilon))
        shared = mean[:, 1:] + part[:, 1:-1] * (mean[:, :-1] - mean[:, 1:]) + epsilon
        divergence -= np.einsum("ij,ij->i", (edge_bin[:, 1:-1] + epsilon) * cut[:, 1:-1], np.log(shared))
        divergences.append(divergence)
    return decide_rounded(np.arange(levels, bins), np.concatenate(divergences), NEAR,
                          lambda t: fractional_divergence(h, t, levels, epsilon))


def search_occupied(histogram: np.ndarray, levels: int) -> int:
    """Best T of NVIDIA's search, levels <= T < bins: bin k belongs to level floor(k * levels / T).

    P = h[:T] with the rest of h added to the last bin; Q = the sum of each level shared equally among its bins that
    are not empty; both are normalised. A candidate whose last bin is empty but takes in outliers has P > 0 = Q there,
    which is an infinite divergence; when all have, the last candidate is returned. Source: S. Migacz, "8-bit inference
    with TensorRT", GTC 2017, pages 36 to 39; the presentation leaves open how T bins become 128, and what log 0 is.
    """
    bins = len(histogram)
    h = histogram.astype(np.float64)
    mass, occupied, entropy = running(h), running(h > 0), running(_xlogx(h))
    total = mass[-1]
    divergences = []
    for t in blocks(levels, bins, levels):
        # rounded up in whole numbers: a float edge would put bins on the boundary into either level
        edges = -(-(t[:, None] * np.arange(levels + 1)) // levels)
        level_mass = np.diff(mass[edges], axis=1)
        mean = level_mass / np.maximum(np.diff(occupied[edges], axis=1), 1)
        tail = total - mass[t]
        last = h[t - 1]
        inside = entropy[t - 1] + _xlogx(last + tail)
        cross = np.einsum("ij,ij->i", level_mass, _log(mean)) + tail * _log(mean[:, -1])
        with np.errstate(divide="ignore"):
            divergence = (inside - cross) / total + np.log(mass[t]) - np.log(total)
        divergences.append(np.where((last == 0) & (tail > 0), np.inf, divergence))
    best = first_minimum(np.concatenate(divergences))
    return levels + best if best >= 0 else bins - 1


def search_interpolated(histogram: np.ndarray, levels: int) -> int:
    """Best T of Quantization.MXNet's search, levels <= T < bins: Q interpolates between the *sums* of the levels.

    P = h[:T] with the rest of h added to the last bin, normalised; bin k lies at ``k * levels / T`` and Q there is
    interpolated between the sums of the levels around it (the last level is constant), 0 where P is 0, and normalised;
    bins with Q = 0 are left out of the divergence, and candidates without any Q. Source: Quantization.MXNet,
    quantize/distribution_calibrate.py, `kl_calibrate`.
    """
    bins = len(histogram)
    h = histogram.astype(np.float64)
    mass, entropy = running(h), running(_xlogx(h))
    total = mass[-1]
    nonempty = np.flatnonzero(h)
    divergences = []
    for t in blocks(levels, bins, bins):
        sums = np.diff(mass[-(-(t[:, None] * np.arange(levels + 1)) // levels)], axis=1)
        k = nonempty[:np.searchsorted(nonempty, t[-1])]
        spread, cross = _interpolated(sums, k, h[k], t)
        last, tail, end = h[t - 1], total - mass[t], sums[:, -1]
        # the published loop skips bins without Q, the outliers in them included
        tail = np.where(end > 0, tail, 0.0)  # Q = 0 there: left out
        spread += np.where((last == 0) & (tail > 0), end, 0.0)
        inside = entropy[t - 1] + _xlogx(last + tail)
        cross += tail * _log(end)
        share = (mass[t] + tail) / total
        divergence = (inside - cross) / total + share * (_log(spread) - np.log(total))
        divergences.append(np.where(spread > 0, divergence, np.inf))
    return levels + max(first_minimum(np.concatenate(divergences)), 0)


def _interpolated(sums, k, counts, t):
    """(sum of Q, sum of counts * log Q) over the bins k < t, for each t; the bins k are those that are not empty."""
    rows, levels = sums.shape
    slope = np.zeros_like(sums)
    slope[:, :-1] = np.diff(sums, axis=1)
    position = k * (levels / t)[:, None]
    level = position.astype(np.int32)
    position -= level
    index = level + (np.arange(rows) * levels)[:, None]
    q = slope.ravel()[index] * position + sums.ravel()[index]
    sure = np.searchsorted(k, t[0])  # from here on a bin may lie outside
    outside = k[sure:] >= t[:, None]
    q[:, sure:][outside] = 0
    spread = q.sum(axis=1)
    # the logarithm of 1 adds nothing, and none is taken of 0
    q[:, sure:][outside] = 1
    return spread, np.log(q, out=q) @ counts


def running(values: np.ndarray) -> np.ndarray:
    """Sums of the first 0, 1, ... n values, float64[n + 1]."""
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def blocks(first: int, stop: int, width: int) -> Iterator[np.ndarray]:
    """The candidates first ... stop - 1 in arrays of so many that a table of `width` columns fits the cache."""
    rows = max(BLOCK // width, 1)
    for start in range(first, stop, rows):
        yield np.arange(start, min(start + rows, stop))


def first_minimum(divergences: np.ndarray) -> int:
    """Index of the first smallest value, infinities and NaN aside; -1 when there is none.

    Values within 1e-12 are equal: candidates that clip nothing but empty bins tie exactly in the published loops, and
    the sums here round differently from candidate to candidate.
    """
    # a NaN would win every comparison that argmin makes
    divergences = np.where(np.isfinite(divergences), divergences, np.inf)
    smallest = divergences.min()
    return int(np.argmax(divergences <= smallest + TIE)) if np.isfinite(smallest) else -1


def _log(x):
    return np.log(np.where(x > 0, x, 1.0))


def _xlogx(x):
    return x * _log(x)

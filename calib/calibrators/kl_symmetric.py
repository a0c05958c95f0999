# SPDX-License-Identifier: MIT
"""MXNet's KL search, over a histogram of both signs."""

from typing import Any

import numpy as np

from calib.calibrators.kl_core import blocks, running
from calib.calibrators.kl_rounded import decide_rounded, symmetric_divergence

NEAR = 4e-5  # divergences so close to the smallest are decided by MXNet's own rounding
FEW = 4  # bins with at most so many counts are summed exactly, fuller ones by a series
TERMS = 16  # of the series: the first one left out is below 5**-16


def search_symmetric(histogram: np.ndarray, levels: int, epsilon: float = 1e-4) -> int:
    """Best half width i of MXNet's search, levels // 2 <= i <= bins // 2: the range is the 2 * i + 1 middle bins.

    P = the bins of the range, the rest of the counts added to the outermost two; Q = the sum of each level of
    ``(2 * i + 1) // levels`` bins (the last takes the rest) shared equally among those bins in which P is not 0, where
    the first bin counts as empty. Both are smoothed (0 becomes epsilon, the others give up as much in equal parts) and
    normalised. A smoothing that would take more than 1 from a bin makes the divergence infinite. Source: MXNet 1.9.1
    src/operator/quantization/calibrate.cc, operator `_contrib_calibrate_entropy`.

    The operator adds up thousands of float32 terms, and the rounding moves its minimum (by up to 300 of 4000 bins in
    our trials, where the divergence is flat). To return the operator's answer, the candidates whose exact divergence
    is within 4e-5 of the smallest are computed again as it does: in float32, one term after the other.

    Parameters
    ----------
    histogram : array of integers, odd length
        The middle bin holds zero.
    levels : int
        255 for int8; 511 for non-negative data in uint8.
    """
    bins = len(histogram)
    h = histogram.astype(np.float64)
    tables = _Tables(h)
    smallest = max(levels // 2, 1)
    candidates = np.arange(smallest, bins // 2 + 1)
    divergence = np.concatenate([_divergence(tables, i, levels, epsilon)
                                 for i in blocks(smallest, bins // 2 + 1, levels)])
    counts = np.asarray(histogram)
    return decide_rounded(candidates, divergence, NEAR, lambda i: symmetric_divergence(counts, i, levels, epsilon))


class _Tables:
    """Running sums of a histogram."""

    def __init__(self, h):
        self.h = h
        self.mass, self.occupied = running(h), running(h > 0)
        self.few = [(value, running(h == value)) for value in range(1, FEW + 1)]
        full = np.where(h > FEW, h, np.inf)
        log = np.log(np.where(h > FEW, h, 1.0))
        inverse = 1 / full
        self.full, self.log, self.entropy = running(h > FEW), running(log), running(np.where(h > FEW, h, 0.0) * log)
        self.powers = [running(inverse ** (n - 1)) for n in range(2, TERMS)]

    def smoothed_entropy(self, first, stop, off):
        """Sum of (h - off) log(h - off) over the non-empty bins first ... stop - 1, for 0 <= off < 1.

        For the full bins, in powers of off:
        h log h - off (1 + log h) + sum over n >= 2 of off**n / (n (n - 1) h**(n - 1)).
        """
        def inside(table):
            return table[stop] - table[first]
        result = inside(self.entropy) - off * (inside(self.full) + inside(self.log))
        for n, power in enumerate(self.powers, start=2):
            result += off ** n / (n * (n - 1)) * inside(power)
        for value, count in self.few:
            result += inside(count) * (value - off) * np.log(value - off)
        return result


def _divergence(tables, i, levels, epsilon):
    """The divergence of each half width i."""
    h, mass = tables.h, tables.mass
    middle, size = len(h) // 2, 2 * i + 1
    first, stop = middle - i, middle + i + 1
    left, right = mass[first + 1], mass[-1] - mass[stop - 1]  # P of the outermost bins
    has_left, has_right = left > 0, right > 0

    edges = first[:, None] + (size // levels)[:, None] * np.arange(levels + 1)
    edges[:, 0] += 1  # the first bin counts as empty
    edges[:, -1] = stop
    sums, norm = np.diff(mass[edges], axis=1), np.diff(tables.occupied[edges], axis=1)
    mean = sums / np.maximum(norm, 1)
    used_left, used_right = has_left & (norm[:, 0] > 0), has_right & (norm[:, -1] > 0)
    norm[:, 0] += used_left
    norm[:, -1] += used_right & (h[stop - 1] == 0)
    sums[:, 0] += np.where(used_left, left, 0.0)
    sums[:, -1] += np.where(used_right, right - h[stop - 1], 0.0)

    p_count = tables.occupied[stop - 1] - tables.occupied[first + 1] + has_left + has_right
    q_count = norm.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        p_off, q_off = epsilon * (size - p_count) / p_count, epsilon * (size - q_count) / q_count
        possible = (q_count > 0) & (q_off < 1)
        p_off, q_off = np.where(possible, p_off, 0.0), np.where(possible, q_off, 0.0)
    entropy = tables.smoothed_entropy(first + 1, stop - 1, p_off)
    missed: Any = 0.0  # mass of P where Q is epsilon though P is not
    for has, used, value in ((has_left, used_left, left), (has_right, used_right, right)):
        off = np.where(has, value - p_off, 1.0)
        entropy += off * np.log(off)
        missed = missed + np.where(has & ~used, value - p_off, 0.0)
    inside = sums - p_off[:, None] * norm
    logs = np.log(np.where(norm > 0, mean - q_off[:, None], 1.0))
    cross = np.einsum("ij,ij->i", inside, logs) + missed * np.log(epsilon)
    spread = np.maximum(np.einsum("ij,ij->i", mean, norm), 1.0)
    return np.where(possible, (entropy - cross) / mass[-1] + np.log(spread / mass[-1]), np.inf)

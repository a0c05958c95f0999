# SPDX-License-Identifier: MIT
"""The KL searches as plain loops over candidates, bins and levels: what the fast ones are held to and timed against.

Written from the descriptions in the docstrings of `calib.calibrators.kl`, in float64. A divergence must be smaller by
1e-12 to count as smaller, so that exact ties are seen as such.
"""

import math

import numpy as np

KINDS = ("exponential", "heavy tail", "sparse", "plateau", "far from zero", "last bin only")


def histogram(kind: str, seed: int, bins: int = 2048) -> np.ndarray:
    """A made-up histogram in whole-number arithmetic, so that it is the same on every machine; the last bin is used."""
    random = np.random.RandomState(seed)
    noise = random.randint(80, 121, bins)
    index = np.arange(bins)
    counts = np.zeros(bins, np.int64)
    if kind == "exponential":
        value = 1000000
        for i in range(bins):
            counts[i] = value
            value = value * (991 + seed % 5) // 1000
    elif kind == "heavy tail":
        width = 20 + 40 * (seed % 5)
        counts = 3000000 * width ** 2 // (width ** 2 + index ** 2)
    elif kind == "sparse":
        counts = np.maximum(0, random.randint(-2000, 60, bins) - index // 40)
    elif kind == "plateau":
        counts = np.where(index < 700 + 100 * (seed % 8), 5000, 40)
    elif kind == "far from zero":
        counts = np.where(index > bins * 5 // 8, 1000, 0)
    counts = counts * noise // 100
    counts[-1] = max(counts[-1], 1)
    return counts


def ncnn(h, levels, epsilon=1e-4):
    """Fractional level edges; no normalisation of P and Q; epsilon in every bin."""
    h = [float(value) for value in np.float32(h / float(h.sum()))]
    best, smallest = levels, math.inf
    for t in range(levels, len(h)):
        p = [value + epsilon for value in h[:t]]
        p[-1] += sum(h[t:])
        q = [epsilon] * t
        for level in range(levels):
            shares = []
            for k in range(level * t // levels, -(-(level + 1) * t // levels)):
                # how much of bin k lies in the level
                shares.append((k, min(k + 1, (level + 1) * t / levels) - max(k, level * t / levels)))
            mean = sum(share * h[k] for k, share in shares) * levels / t
            for k, share in shares:
                q[k] += share * mean
        divergence = sum(a * math.log(a / b) for a, b in zip(p, q))
        if divergence < smallest - 1e-12:
            best, smallest = t, divergence
    return best


def tensorrt(h, levels):
    """The pseudo-code of the presentation: bin k belongs to level floor(k * levels / t)."""
    best, smallest = len(h) - 1, math.inf
    for t in range(levels, len(h)):
        p = h[:t].astype(float)
        p[t - 1] += h[t:].sum()
        p /= p.sum()
        level = np.arange(t) * levels // t
        sums, used = np.bincount(level, h[:t], levels), np.bincount(level, h[:t] > 0, levels)
        q = np.where(h[:t] > 0, (sums / np.maximum(used, 1))[level], 0)
        if q.sum() == 0 or np.any((p > 0) & (q == 0)):
            continue
        q /= q.sum()
        divergence = sum(a * math.log(a / b) for a, b in zip(p, q) if a > 0)
        if divergence < smallest - 1e-12:
            best, smallest = t, divergence
    return best


def predecessor(h, levels):
    """Levels interpolated by their sums; bins without Q are left out."""
    best, smallest = levels, math.inf
    for t in range(levels, len(h)):
        p = h[:t].astype(float)
        p[t - 1] += h[t:].sum()
        p /= p.sum()
        position = np.arange(t) * levels / t
        level = np.floor(position).astype(int)
        sums = np.zeros(levels)
        for k in range(t):
            sums[level[k]] += h[k]
        after = sums[np.minimum(np.ceil(position).astype(int), levels - 1)]
        q = (sums[level] + (after - sums[level]) * (position - level)) * (p > 0)
        if q.sum() == 0:
            continue
        q /= q.sum()
        divergence = sum(a * math.log(a / b) for a, b in zip(p, q) if b > 0)
        if divergence < smallest - 1e-12:
            best, smallest = t, divergence
    return best


def mxnet_divergence(h, i, levels, epsilon=1e-4):
    """One candidate of MXNet's search, without its float32 rounding; infinite when it cannot be smoothed."""
    first, stop = len(h) // 2 - i, len(h) // 2 + i + 1
    p = h[first:stop].astype(float)
    p[0], p[-1] = h[:first + 1].sum(), h[stop - 1:].sum()
    inner = h[first:stop].astype(float)
    inner[0] = 0
    width = len(inner) // levels
    q = np.zeros(len(inner))
    for level in range(levels):
        part = slice(level * width, len(inner) if level == levels - 1 else (level + 1) * width)
        used = np.count_nonzero(inner[part])
        if used:
            q[part] = np.where(p[part] > 0, inner[part].sum() / used, 0)
    smoothed = []
    for values in (p, q):
        zeros = np.count_nonzero(values == 0)
        off = epsilon * zeros / (len(values) - zeros) if zeros < len(values) else math.inf
        if off >= 1:
            return math.inf
        values = np.where(values == 0, epsilon, values - off)
        smoothed.append(values / values.sum())
    return sum(a * math.log(a / b) for a, b in zip(*smoothed))

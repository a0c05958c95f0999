# SPDX-License-Identifier: MIT
"""The noise that rounding would put into a network's output, as a function of the factors of its channels."""

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from mxnet.gluon import Block

from quantize.errors import ConfigError
from quantize.repair.factors import Clip, Member, Segments
from quantize.repair.statistics import Statistics, columns_of

# of a channel's squared mean: what shifts a mean is taken back by bias correction, nearly
MEAN_SHARE = 0.01
FLOOR = 1e-3
MARGIN = 1.1
GRID = np.linspace(-5, 5, 81)


@dataclass(frozen=True)
class Noise:
    """The formats that a network is to be quantized to.

    Parameters
    ----------
    weight_bits, input_bits : int or None
        2 to 16; None: float.
    granularity : {"layer", "channel"}
        Of the weights.
    """

    weight_bits: Optional[int] = 8
    input_bits: Optional[int] = 8
    granularity: str = "layer"

    def __post_init__(self) -> None:
        if self.granularity not in ("layer", "channel"):
            raise ConfigError(f"granularity must be layer or channel, got {self.granularity!r}")
        for bits in (self.weight_bits, self.input_bits):
            if bits is not None and not 2 <= bits <= 16:
                raise ConfigError(f"bits must be from 2 to 16, got {bits!r}")

    @property
    def weight_variance(self) -> float:
        """Of the error of a weight, for a range of 1."""
        return 0.0 if self.weight_bits is None else 1 / (12 * (2 ** (self.weight_bits - 1) - 1) ** 2)

    def input_variance(self, signed: bool) -> float:
        """Of the error of an input, for a range of 1."""
        if self.input_bits is None:
            return 0.0
        return 1 / (12 * (2 ** (self.input_bits - 1) - 1 if signed else 2 ** self.input_bits - 1) ** 2)


def smooth_max(values: np.ndarray, order: float, axis: Optional[int] = None) -> Tuple[np.ndarray, np.ndarray]:
    """(logarithm of a norm, its gradient) of values given by their logarithms.

    The norm of order p is (sum x^p)^(1/p); p = infinity gives the maximum.
    """
    largest = values.max(axis=axis, keepdims=True)
    if np.isinf(order):
        share = (values == largest).astype(values.dtype)
        return np.squeeze(largest, axis).astype(np.float64), share / share.sum(axis=axis, keepdims=True)
    powers = np.subtract(values, largest)
    powers *= np.float32(order)
    np.exp(powers, out=powers)
    total = powers.sum(axis=axis, keepdims=True)
    powers /= total
    return np.squeeze(largest + np.log(total) / order, axis).astype(np.float64), powers


class LayerCost:
    """Noise in a layer's output from rounding its weight and its input.

    With factors s of the channels read and t of those written, weights w, moments m of the inputs, importance g of the
    outputs: step^2 / 12 of the weight times ``sum g_o t_o^2 m_i / s_i^2``, the step given by the largest
    ``|w_oi| s_i / t_o``; step^2 / 12 of the input times ``sum g_o w_oi^2 s_i^2``, its step by the largest
    ``x_i / s_i``.
    """

    def __init__(self, layer: Block, member: Member, statistics: Statistics, noise: Noise):
        moments = statistics.inputs[member.path]
        weight, self._index = columns_of(layer, len(moments.mean))
        self.reads, self.writes = member.reads, member.writes
        self.channels = len(moments.mean)
        self._logs = _log(np.abs(weight).max(2)).astype(np.float32)
        self._dense = self._index.shape[1] == self.channels
        self._importance = _floored(statistics.importance.get(member.step.index, np.ones(len(weight))))
        power = _floored(moments.variance + MEAN_SHARE * moments.mean ** 2)
        self._power = weight.shape[2] * power
        self._range = _log(np.maximum(moments.high, -moments.low))
        self._gain = np.bincount(self._index.ravel(), minlength=self.channels, weights=(
            self._importance[:, None] * np.square(weight).sum(2)).ravel())
        self._by_channel = noise.granularity == "channel"
        self._variances = noise.weight_variance, noise.input_variance(bool(np.any(np.less(moments.low, 0))))

    def gradient(self, s: np.ndarray, t: np.ndarray, order: float) -> Tuple[float, np.ndarray, np.ndarray]:
        """(noise, its gradient by s, by t); s and t are logarithms."""
        weights, by_s, by_t = self._of_weight(s, t, order)
        largest, share = smooth_max(self._range - s, order)
        gains = self._gain * np.exp(2 * s)
        inputs = self._variances[1] * np.exp(2 * largest) * gains.sum()
        by_s = by_s + 2 * inputs * (gains / max(gains.sum(), 1e-300) - share)
        return weights + inputs, by_s, by_t

    def _of_weight(self, s: np.ndarray, t: np.ndarray, order: float) -> Tuple[float, np.ndarray, np.ndarray]:
        terms = self._power * np.exp(-2 * s)
        if not self._dense:
            s, terms = s[self._index], terms[self._index]
        sums = np.broadcast_to(terms.sum(-1), self._importance.shape)
        logs = self._logs + s.astype(np.float32)
        logs -= t[:, None].astype(np.float32)
        rows = self._importance * np.exp(2 * t)
        if self._by_channel:
            largest, share = smooth_max(logs, order, 1)
            noise = self._variances[0] * np.exp(2 * largest) * rows * sums
            return noise.sum(), self._by_column(noise, share, noise / sums, terms), np.zeros_like(t)
        largest, share = smooth_max(logs, order)
        products = rows * sums
        noise = self._variances[0] * np.exp(2 * largest) * products.sum()
        by_s = self._by_column(np.float32(noise), share, rows * noise / products.sum(), terms)
        return noise, by_s, 2 * noise * (products / products.sum() - share.sum(1))

    def _by_column(self, noise: Any, share: np.ndarray, rows: np.ndarray, terms: np.ndarray) -> np.ndarray:
        """Gradient by the channels read: 2 (noise share - rows terms), summed over what reads each."""
        if self._dense:
            shares = np.dot(noise, share) if np.ndim(noise) else noise * share.sum(0)
            return 2 * (shares - rows.sum() * terms)
        values = np.reshape(noise, (-1, 1)) * share - rows[:, None] * terms
        return 2 * np.bincount(self._index.ravel(), minlength=self.channels, weights=values.ravel())


class ClipCost:
    """Noise from a clip at `limit` that cuts a channel divided by s at ``limit * s``."""

    def __init__(self, clip: Clip, statistics: Statistics, sizes: Dict[int, int]):
        self.segments = clip.segments
        samples = statistics.samples[clip.step.index]
        highest = statistics.before_clip[clip.step.index].high[None]
        values = MARGIN * np.maximum(np.concatenate([samples, highest]), 0)
        importance = _floored(statistics.importance.get(clip.step.index, np.ones(values.shape[1])))
        kept = np.minimum(values, clip.limit)
        self._table = importance * np.stack([
            np.square(kept - np.minimum(values, clip.limit * np.exp(u))).mean(0, dtype=np.float64) for u in GRID])

    def gradient(self, s: np.ndarray) -> Tuple[float, np.ndarray]:
        """(noise, its gradient by the logarithms s): linear between the table's rows."""
        place = np.clip((s - GRID[0]) / (GRID[1] - GRID[0]), 0, len(GRID) - 1.001)
        row, channel = place.astype(int), np.arange(len(s))
        low, high = self._table[row, channel], self._table[row + 1, channel]
        inside = (s > GRID[0]) & (s < GRID[-1])
        return (low + (place - row) * (high - low)).sum(), np.where(inside, (high - low) / (GRID[1] - GRID[0]), 0)


class Cost:
    """The sum over layers and clips."""

    def __init__(self, layers: List[LayerCost], clips: List[ClipCost], sizes: Dict[int, int]):
        self._layers, self._clips, self._sizes = layers, clips, sizes

    def parts(self, logarithms: Dict[int, np.ndarray]) -> Tuple[float, float]:
        """(rounding, changed clips), with true maxima in place of norms."""
        rounding = sum(layer.gradient(*self._vectors(layer, logarithms), order=np.inf)[0] for layer in self._layers)
        clips = sum(clip.gradient(self._vector(clip.segments, logarithms))[0] for clip in self._clips)
        return float(rounding), float(clips)

    def gradient(self, logarithms: Dict[int, np.ndarray], order: float) -> Tuple[float, Dict[int, np.ndarray]]:
        """(value, {group: gradient})."""
        total, slopes = 0.0, {group: np.zeros(self._sizes[group]) for group in logarithms}
        for layer in self._layers:
            value, by_s, by_t = layer.gradient(*self._vectors(layer, logarithms), order=order)
            total += value
            self._add(slopes, layer.reads, by_s)
            self._add(slopes, layer.writes, by_t)
        for clip in self._clips:
            value, by_s = clip.gradient(self._vector(clip.segments, logarithms))
            total += value
            self._add(slopes, clip.segments, by_s)
        return total, slopes

    def _vectors(self, layer: LayerCost, logarithms: Dict[int, np.ndarray]) -> Tuple[np.ndarray, np.ndarray]:
        if layer.reads is None:
            return np.zeros(layer.channels), self._vector(layer.writes, logarithms)
        return self._vector(layer.reads, logarithms), self._vector(layer.writes, logarithms)

    def _vector(self, segments: Sequence[int], logarithms: Dict[int, np.ndarray]) -> np.ndarray:
        return np.concatenate([logarithms.get(group, np.zeros(self._sizes[group])) for group in segments])

    def _add(self, slopes: Dict[int, np.ndarray], segments: Segments, values: np.ndarray) -> None:
        start = 0
        for group in segments or ():
            if group in slopes:
                slopes[group] += values[start:start + self._sizes[group]]
            start += self._sizes[group]


def _log(values: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(values.astype(np.float64), 1e-300))


def _floored(values: np.ndarray) -> np.ndarray:
    """Values of which none is far below their mean: a channel that these images leave idle may serve for others."""
    return np.maximum(values, FLOOR * values.mean() + 1e-30)

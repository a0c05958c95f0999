# SPDX-License-Identifier: MIT
"""The noise against sums written out, and its gradients against differences."""

from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from quantize.repair.cost import ClipCost, LayerCost, Noise, smooth_max
from quantize.repair.factors import Clip, Member
from quantize.repair.statistics import Moments, Statistics

GROUPS = {"dense": 1, "grouped": 2, "depthwise": 4}


def layer_cost(groups, granularity, seed=0):
    random = np.random.RandomState(seed)
    layer = nn.Conv2D(8, 3, groups=groups, in_channels=4)
    layer.initialize(mx.init.Normal(1))
    moments = Moments()
    moments.update(random.normal(1, 1, size=(5, 4, 6, 6)))
    statistics = Statistics()
    statistics.inputs["it"] = moments
    statistics.importance[3] = random.uniform(0.5, 1, 8)
    member = Member("it", SimpleNamespace(index=3), (0,), (1,))
    return LayerCost(layer, member, statistics, Noise(4, 8, granularity)), layer, statistics


@pytest.mark.parametrize("granularity", ["layer", "channel"])
@pytest.mark.parametrize("groups", list(GROUPS.values()), ids=list(GROUPS))
def test_noise_is_the_sum_in_the_docstring(groups, granularity):
    cost, layer, statistics = layer_cost(groups, granularity)
    random = np.random.RandomState(1)
    s, t = random.normal(size=4), random.normal(size=8)
    weight, moments, g = layer.weight.data().asnumpy(), statistics.inputs["it"], statistics.importance[3]
    power = moments.variance + 0.01 * moments.mean ** 2
    scaled = np.array([[np.abs(weight[o, i]).max() * np.exp(s[o // (8 // groups) * (4 // groups) + i] - t[o])
                        for i in range(4 // groups)] for o in range(8)])
    ranges = scaled.max(1) if granularity == "channel" else np.full(8, scaled.max())
    expected = 0
    for o in range(8):
        for i in range(4 // groups):
            c = o // (8 // groups) * (4 // groups) + i
            expected += (ranges[o] / 7) ** 2 / 12 * g[o] * np.exp(2 * t[o]) * 9 * power[c] * np.exp(-2 * s[c])
    largest = max(np.abs([moments.low[c], moments.high[c]]).max() * np.exp(-s[c]) for c in range(4))
    for o in range(8):
        for i in range(4 // groups):
            c = o // (8 // groups) * (4 // groups) + i
            expected += (largest / 127) ** 2 / 12 * g[o] * (weight[o, i] ** 2).sum() * np.exp(2 * s[c])
    assert cost.gradient(s, t, np.inf)[0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("granularity", ["layer", "channel"])
@pytest.mark.parametrize("groups", list(GROUPS.values()), ids=list(GROUPS))
def test_gradients_are_those_of_the_noise(groups, granularity):
    cost, _, _ = layer_cost(groups, granularity)
    random = np.random.RandomState(2)
    s, t, step = random.normal(size=4) / 2, random.normal(size=8) / 2, 1e-2
    value, by_s, by_t = cost.gradient(s, t, 6.0)
    for found, moves in ((by_s, [(step * e, 0) for e in np.eye(4)]), (by_t, [(0, step * e) for e in np.eye(8)])):
        slopes = [(cost.gradient(s + ds, t + dt, 6.0)[0] - cost.gradient(s - ds, t - dt, 6.0)[0]) / (2 * step)
                  for ds, dt in moves]
        np.testing.assert_allclose(found, slopes, atol=2e-3 * value)


def test_smooth_max_nears_the_maximum():
    values = np.random.RandomState(0).normal(size=(5, 7))
    for axis in (None, 1):
        largest, share = smooth_max(values, np.inf, axis)
        np.testing.assert_allclose(largest, values.max(axis))
        np.testing.assert_allclose(share.sum(axis), 1)
        np.testing.assert_allclose(smooth_max(values, 500.0, axis)[0], largest, atol=0.02)


def clip_cost(samples):
    statistics = Statistics()
    statistics.samples[5] = np.float32(samples)
    statistics.before_clip[5] = Moments()
    statistics.before_clip[5].update(np.float32(samples))
    return ClipCost(Clip(SimpleNamespace(index=5), (0,), 6.0), statistics, {0: np.shape(samples)[1]})


def test_a_clip_costs_nothing_while_its_channel_stays_below():
    cost = clip_cost([[1.0, 9.0], [2.0, 9.0]])  # the first may be cut anywhere above 2 (2.2, with the margin)
    assert cost.gradient(np.log([2.3 / 6, 1.0]))[0] == pytest.approx(0, abs=1e-12)
    assert cost.gradient(np.array([4.0, 0.0]))[0] == pytest.approx(0, abs=1e-12)
    assert cost.gradient(np.array([0.0, 0.5]))[0] > 1
    assert cost.gradient(np.array([0.0, -0.5]))[0] > 1
    assert cost.gradient(np.array([-1.5, 0.0]))[0] > 0.1


def test_the_clip_costs_gradient_is_its_slope():
    cost = clip_cost(np.random.RandomState(0).normal(3, 3, size=(50, 4)))
    s = np.array([-0.61, 0.33, 0.07, -1.2])
    slopes = [(cost.gradient(s + 1e-3 * e)[0] - cost.gradient(s - 1e-3 * e)[0]) / 2e-3 for e in np.eye(4)]
    np.testing.assert_allclose(cost.gradient(s)[1], slopes, rtol=1e-5)

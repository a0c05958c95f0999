# SPDX-License-Identifier: MIT
"""The integer program against trying everything."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib.budget import LayerSize, allocate, changed, curve, neighbours, steps_up
from quantize.errors import ConfigError

CHOICES = [(4, 8), (6, 8), (8, 8)]


def tables(layers, seed):
    random = np.random.RandomState(seed)
    losses = {f"l{i}": dict(zip(CHOICES, np.sort(random.gamma(0.5, 1, 3))[::-1])) for i in range(layers)}
    costs = {f"l{i}": {bits: float(size * bits[0]) for bits in CHOICES}
             for i, size in enumerate(random.randint(1, 1000, layers))}
    return losses, costs


def everything(losses, costs):
    """(loss, cost) of every allocation."""
    for bits in itertools.product(CHOICES, repeat=len(losses)):
        yield (sum(losses[path][b] for path, b in zip(losses, bits)),
               sum(costs[path][b] for path, b in zip(losses, bits)))


@given(st.integers(1, 6), st.integers(0, 10000), st.floats(0, 0.999))
@settings(max_examples=40)
def test_nothing_within_the_budget_loses_less(layers, seed, share):
    losses, costs = tables(layers, seed)
    low, high = (sum(pick(of_layer.values()) for of_layer in costs.values()) for pick in (min, max))
    budget = low + share * (high - low)
    found = allocate(losses, costs, cost=budget)
    assert found.met and found.cost <= budget * (1 + 1e-9)
    best = min(loss for loss, cost in everything(losses, costs) if cost <= budget)
    assert found.loss == pytest.approx(best, rel=1e-4, abs=1e-6)


@given(st.integers(1, 6), st.integers(0, 10000), st.floats(0.01, 0.999))
@settings(max_examples=40)
def test_nothing_that_loses_as_little_is_cheaper(layers, seed, share):
    losses, costs = tables(layers, seed)
    low, high = (sum(pick(of_layer.values()) for of_layer in losses.values()) for pick in (min, max))
    limit = low + share * (high - low)
    found = allocate(losses, costs, loss=limit)
    assert found.met and found.loss <= limit * (1 + 1e-6)
    assert found.cost == pytest.approx(min(cost for loss, cost in everything(losses, costs) if loss <= limit), rel=1e-3)


def test_a_budget_that_cannot_be_met_gives_the_nearest():
    losses, costs = tables(4, 0)
    found = allocate(losses, costs, cost=1.0)
    assert not found.met and set(found.bits.values()) == {(4, 8)}
    found = allocate(losses, costs, loss=1e-9)
    assert not found.met and set(found.bits.values()) == {(8, 8)}


def test_the_curve_loses_less_the_more_it_costs():
    losses, costs = tables(8, 1)
    found = curve(losses, costs)
    assert [a.cost for a in found] == sorted(a.cost for a in found) and len(found) > 3
    assert [a.loss for a in found] == sorted((a.loss for a in found), reverse=True)
    assert set(found[0].bits.values()) == {(4, 8)} and set(found[-1].bits.values()) == {(8, 8)}


def test_steps_up_begin_with_what_saves_most_for_its_cost():
    losses = {"a": {(4, 8): 1.0, (8, 8): 0.0}, "b": {(4, 8): 1.0, (8, 8): 0.5}}
    costs = {"a": {(4, 8): 4.0, (8, 8): 8.0}, "b": {(4, 8): 1.0, (8, 8): 2.0}}
    start = allocate(losses, costs, cost=5.0)
    assert steps_up(start, losses, costs) == [("b", (8, 8)), ("a", (8, 8))]
    better = changed(start, "b", (8, 8), (losses, costs))
    assert (better.cost, better.loss) == (6.0, 1.5)
    assert steps_up(better, losses, costs) == [("a", (8, 8))]


def test_neighbours_are_the_next_best_within_the_budget():
    losses, costs = tables(4, 3)
    budget = 0.7 * sum(max(of_layer.values()) for of_layer in costs.values())
    best = allocate(losses, costs, cost=budget)
    found = neighbours(best, losses, costs, budget)
    assert len(found) > 3 and all(near.cost <= budget and near.bits != best.bits for near in found)
    assert len({tuple(near.bits.items()) for near in found}) == len(found)
    second = sorted(loss for loss, cost in everything(losses, costs) if cost <= budget)[1]
    assert found[0].loss == pytest.approx(second)
    assert [near.loss for near in found] == sorted(near.loss for near in found)
    alone = {"a": {(8, 8): 1.0}}
    assert neighbours(allocate(alone, alone, cost=1.0), alone, alone, 1.0) == []


def test_sizes_and_operations():
    layer = LayerSize(weights=9, others=3, products=100)
    assert layer.size((4, 8)) == 5 + 12
    assert layer.operations((4, 8)) == 3200


def test_bad_input():
    losses, costs = tables(2, 0)
    for limits in ({}, {"cost": 1, "loss": 1}):
        with pytest.raises(ConfigError, match="exactly one limit"):
            allocate(losses, costs, **limits)
    with pytest.raises(ConfigError, match="l1: .*same choices"):
        allocate(losses, {"l0": costs["l0"], "l1": {(4, 8): 1.0}}, cost=1.0)
    with pytest.raises(ConfigError, match="no layer"):
        allocate({}, {}, cost=1.0)

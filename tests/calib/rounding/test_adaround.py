# SPDX-License-Identifier: MIT
"""AdaRound against the nearest rounding and against all roundings of small rows."""

import dataclasses
import itertools

import numpy as np
import pytest

from calib.rounding import AdaRound, Problem
from calib.rounding.adaround import least_squares
from calib.rounding.soft import Adam, beta_at, opened, rectified_sigmoid, regulariser_gradient
from quantize.errors import ConfigError
from quantize.spec import PerChannel, PerTensor, QuantSpec


def problem(groups=1, rows=4, columns=6, bits=3, seed=0, rectified=False):
    random = np.random.RandomState(seed)
    weight = random.normal(size=(groups, rows, columns))
    x = (random.gamma(1, 1, size=(groups, 600, columns)) @ random.normal(size=(groups, columns, columns)))
    y = x @ weight.swapaxes(1, 2)
    x_mean, y_mean = x.mean(1), y.mean(1)
    centred, wanted = x - x_mean[:, None], y - y_mean[:, None]
    gram, cross = centred.swapaxes(1, 2) @ centred / 600, wanted.swapaxes(1, 2) @ centred / 600
    return Problem(weight, gram, cross, x_mean, y_mean, y.var(1), QuantSpec(bits, granularity=PerChannel(0)),
                   x.astype(np.float32), y.astype(np.float32), rectified)


def test_it_finds_some_of_what_the_best_of_all_roundings_has():
    found, best, nearest = 0, 0, 0
    for seed in range(8):
        task = problem(rows=1, columns=6, seed=seed)
        solution = AdaRound(iterations=600, rate=0.02).solve(task)
        scale = least_squares(task)
        assert solution.scale == np.float32(scale)
        floor = np.floor(task.weight / scale)
        errors = [float(task.error(np.clip(floor + np.array(up), -3, 3) * scale)[0, 0])
                  for up in itertools.product((0, 1), repeat=6)]
        best += min(errors)
        found += float(task.error(solution.codes * scale)[0, 0])
        nearest += float(task.error(task.codes(task.weight, scale) * scale)[0, 0])
    assert best * (1 - 1e-9) <= found < 0.9 * nearest


@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel(0)])
def test_outputs_are_closer_than_with_the_nearest_weights(granularity):
    task = dataclasses.replace(problem(groups=2, columns=20), spec=QuantSpec(3, granularity=granularity))
    solution = AdaRound(iterations=400, rate=0.02).solve(task)
    assert solution.error < 0.7 * solution.nearest_error
    floor = np.floor(task.weight / least_squares(task)[task.parts()][..., None])
    assert np.isin(solution.codes - np.clip(floor, -3, 3), (0, 1)).all()


def test_behind_a_relu_only_what_passes_counts():
    task = problem(rows=6, columns=12, rectified=True)
    for change in (task, dataclasses.replace(task, rectified=False)):
        solution = AdaRound(iterations=500, rate=0.02).solve(change)
        weight = solution.codes * solution.scale[task.parts()][..., None]
        made = task.inputs @ weight.swapaxes(1, 2) + solution.bias[:, None]
        error = np.square(np.maximum(made, 0) - np.maximum(task.outputs, 0)).mean()
        if change.rectified:
            with_relu = error
    assert with_relu < error


def test_equal_seeds_give_equal_codes():
    task = problem()
    one, two = (AdaRound(iterations=50).solve(task, seed=4) for _ in range(2))
    np.testing.assert_array_equal(one.codes, two.codes)


def test_soft_rounding_by_its_equations():
    h = np.array([0.01, 0.3, 0.5, 0.9])
    v = opened(h)
    found, slope = rectified_sigmoid(v)
    np.testing.assert_allclose(found, h, atol=1e-12)
    differences = rectified_sigmoid(v + 1e-6)[0] - rectified_sigmoid(v - 1e-6)[0]
    np.testing.assert_allclose(slope, differences / 2e-6, rtol=1e-5)
    assert (rectified_sigmoid(np.array([-9.0, 9.0]))[0] == [0, 1]).all()
    for beta in (2.0, 7.5):
        value = [1 - np.abs(2 * x - 1) ** beta for x in (h + 1e-6, h - 1e-6)]
        np.testing.assert_allclose(regulariser_gradient(h, beta), (value[0] - value[1]) / 2e-6, rtol=1e-4, atol=1e-9)
    assert [beta_at(share) for share in (0, 0.19, 0.2, 1.0)] == [0, 0, 20, 2]


def test_adam_by_its_equations():
    values, mean, square = np.array([1.0, -2.0]), 0, 0
    adam = Adam(values.copy(), 0.1)
    for turn in range(1, 4):
        gradient = 2 * adam.values
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient ** 2
        values = values - 0.1 * (mean / (1 - 0.9 ** turn)) / (np.sqrt(square / (1 - 0.999 ** turn)) + 1e-8)
        adam.step(gradient)
        np.testing.assert_allclose(adam.values, values)


def test_bad_options_are_refused():
    with pytest.raises(ConfigError, match="iterations"):
        AdaRound(iterations=0)

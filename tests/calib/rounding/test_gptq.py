# SPDX-License-Identifier: MIT
"""GPTQ against its equations written out for one row, and against every other rounding where these can be listed."""

import dataclasses
import itertools

import numpy as np
import pytest

from calib.rounding import GPTQ, ROUNDINGS, Problem
from calib.rounding.gptq import best_weight
from quantize.errors import ConfigError
from quantize.spec import PerChannel, PerGroup, PerTensor, QuantSpec

FOUR_BITS = QuantSpec(4, granularity=PerChannel(0))


def problem(groups=1, rows=4, columns=6, spec=FOUR_BITS, seed=0, quantized=0.3):
    """A layer whose inputs are correlated, not centred, and in the quantized network other than in the float one."""
    random = np.random.RandomState(seed)
    weight = random.normal(size=(groups, rows, columns))
    mixing = random.normal(size=(groups, columns, columns))
    x = random.gamma(1, 1, size=(groups, 400, columns)) @ mixing
    read = x + quantized * random.normal(size=x.shape)
    y = x @ weight.swapaxes(1, 2) + 0.5
    x_mean, y_mean = read.mean(1), y.mean(1)
    centred, wanted = read - x_mean[:, None], y - y_mean[:, None]
    gram, cross = centred.swapaxes(1, 2) @ centred / 400, wanted.swapaxes(1, 2) @ centred / 400
    return Problem(weight, gram, cross, x_mean, y_mean, y.var(1), spec), read, y


def squares(read, y, solution, task):
    """Mean square error of the layer's outputs, by definition."""
    weight = solution.codes * solution.scale[task.parts()][..., None]
    made = read @ weight.swapaxes(1, 2) + solution.bias[:, None]
    return np.square(made - y).mean()


def nearest(task):
    weight = task.weight
    scale = (task.largest(weight) / task.spec.qmax)[task.parts()][..., None]
    return task.codes(weight, scale) * scale


def naive_row(row, gram, scale, qmax):
    """GPTQ of one row, by the equations of the paper: the inverse of what is left is computed anew at every column."""
    row, codes = row.copy(), []
    for i in range(len(row)):
        inverse = np.linalg.inv(gram[i:, i:])
        code = float(np.clip(np.sign(row[i]) * np.floor(abs(row[i] / scale) + 0.5), -qmax, qmax))
        row[i:] -= (row[i] - code * scale) / inverse[0, 0] * inverse[0]
        codes.append(code)
    return codes


def test_codes_are_those_of_the_paper():
    task, _, _ = problem(groups=2, columns=70)
    solution = GPTQ(scales=1, sweeps=0).solve(task)
    for group in range(2):
        gram = task.gram[group] + 0.01 * np.trace(task.gram[group]) / 70 * np.eye(70)
        for row in range(4):
            missing = task.cross[group, row] - task.weight[group, row] @ task.gram[group]
            target = task.weight[group, row] + np.linalg.solve(gram, missing)
            scale = float(solution.scale[group * 4 + row])
            assert scale == pytest.approx(np.abs(target).max() / 7, rel=1e-6)
            assert naive_row(target, gram, scale, 7) == solution.codes[group, row].tolist()


@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel(0)], ids=["layer", "channel"])
def test_after_the_sweeps_no_code_alone_can_be_bettered(granularity):
    task, _, _ = problem(groups=2, rows=3, columns=70, spec=QuantSpec(3, granularity=granularity), seed=1)
    damped, target = best_weight(task, 0.01)

    def errors(codes, scale):
        difference = codes * scale[..., None] - target
        return ((difference @ damped) * difference).sum(-1)
    plain, swept = (GPTQ(scales=1, sweeps=sweeps).solve(task) for sweeps in (0, 100))
    scale = swept.scale.astype(np.float64)[task.parts()]
    least = errors(swept.codes, scale)
    assert (least <= errors(plain.codes, scale) * (1 + 1e-12)).all() and least.sum() < errors(plain.codes, scale).sum()
    for step in (-1, 1):
        for column in range(70):
            other = swept.codes.copy()
            other[..., column] = np.clip(other[..., column] + step, task.spec.qmin, task.spec.qmax)
            assert (errors(other, scale) >= least * (1 - 1e-9)).all()


def test_no_rounding_of_a_small_row_is_much_better():
    ratios = []
    for seed in range(20):
        task, _, _ = problem(rows=1, columns=4, spec=QuantSpec(2, granularity=PerChannel(0)), seed=seed, quantized=0)
        solution = GPTQ(scales=1, damping=1e-6).solve(task)
        scale = float(solution.scale[0])
        errors = [float(task.error(np.array([[codes]]) * scale)[0, 0])
                  for codes in itertools.product((-1, 0, 1), repeat=4)]
        found = float(task.error(solution.codes * scale)[0, 0])
        assert found >= min(errors) * (1 - 1e-9)
        ratios.append(found / min(errors))
    assert np.median(ratios) < 1.5


@pytest.mark.parametrize("granularity", [PerTensor(), PerGroup(2, 0), PerChannel(0)], ids=["layer", "group", "channel"])
def test_outputs_are_closer_than_with_the_nearest_weights(granularity):
    for seed in range(3):
        task, read, y = problem(groups=2, rows=3, columns=20, seed=seed, spec=QuantSpec(3, granularity=granularity))
        solution = GPTQ().solve(task)
        plain = np.square(read @ nearest(task).swapaxes(1, 2) + 0.5 - y).mean()
        assert squares(read, y, solution, task) < 0.5 * plain
        assert squares(read, y, solution, task) == pytest.approx(solution.error * y.var(1).mean(), rel=1e-5)
        assert solution.error < solution.nearest_error
        assert solution.scale.shape == (task.parts().max() + 1,)
        assert np.abs(solution.codes).max() <= 3 and np.array_equal(solution.codes, np.round(solution.codes))


def test_the_bias_gives_every_output_its_mean():
    task, read, y = problem(quantized=1.0)
    solution = GPTQ().solve(task)
    made = read @ (solution.codes * solution.scale[task.parts()][..., None]).swapaxes(1, 2) + solution.bias[:, None]
    np.testing.assert_allclose(made.mean(1), y.mean(1), atol=1e-9)


def test_inputs_that_never_vary_leave_the_weight_to_its_nearest_codes():
    task, _, _ = problem()
    still = dataclasses.replace(task, gram=task.gram * 0, cross=task.cross * 0)
    solution = GPTQ(scales=1).solve(still)
    np.testing.assert_allclose(solution.codes * solution.scale[:, None], nearest(still), atol=1e-6)


def test_a_weight_of_zeros_stays_so():
    task, _, _ = problem()
    zero = dataclasses.replace(task, weight=task.weight * 0, cross=task.cross * 0)
    solution = GPTQ().solve(zero)
    assert not solution.codes.any() and (solution.scale > 0).all()


def test_fewer_levels_are_obeyed():
    task, _, _ = problem(spec=QuantSpec(8, granularity=PerChannel(0), levels=63))
    assert np.abs(GPTQ().solve(task).codes).max() <= 31


def test_bad_options_are_refused():
    assert isinstance(ROUNDINGS.get("gptq")(), GPTQ)
    with pytest.raises(ConfigError, match="damping"):
        GPTQ(damping=0)
    with pytest.raises(ConfigError, match="unknown method of rounding 'gptk'; known: .*; did you mean 'gptq'"):
        ROUNDINGS.get("gptk")

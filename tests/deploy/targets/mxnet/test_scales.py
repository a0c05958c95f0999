# SPDX-License-Identifier: MIT
"""Thresholds and weights as MXNet makes codes of them."""

import mxnet as mx
import numpy as np
import pytest

from deploy.ir import Grid, Quantization
from deploy.targets.mxnet.params import read, render
from deploy.targets.mxnet.scales import engine_step, multiplier, stored, threshold

BYTE = Grid(0.01, 0, 0, 255)


def quantization(random, channels=64, taps=9, largest=127):
    codes = random.randint(1 - largest, largest, (channels, taps, 1, 1)).astype(np.int8)
    codes[np.arange(channels), random.randint(0, taps, channels)] = random.choice(
        [-largest, largest], channels)[:, None, None]
    return Quantization(BYTE, codes, np.exp(3 * random.randn(channels)).astype(np.float32))


@pytest.mark.parametrize("seed", range(20))
def test_codes_that_reach_127_stay(seed):
    given = quantization(np.random.RandomState(seed))
    found = stored(given, None)
    assert np.array_equal(found.codes, given.weight_q)
    assert np.allclose(1 / found.scale, given.weight_scale, rtol=3e-3)
    assert np.median(np.abs(1 / found.scale / given.weight_scale - 1)) < 1e-6


@pytest.mark.parametrize("largest", [100, 31, 7, 1])
def test_others_are_stretched_and_then_stay(largest):
    given = quantization(np.random.RandomState(largest), largest=largest)
    found = stored(given, None)
    assert (np.abs(found.codes.astype(int)).reshape(64, -1).max(axis=1) == 127).all()
    real = given.weight_q * given.weight_scale.reshape(-1, 1, 1, 1)
    step = given.weight_scale * largest / 127  # theirs
    error = np.abs(found.codes / found.scale.reshape(-1, 1, 1, 1) - real).reshape(64, -1).max(axis=1)
    assert (error < 0.75 * step).all()
    again = stored(Quantization(BYTE, found.codes, np.float32(1) / found.scale), None)
    assert np.array_equal(again.codes, found.codes)


def test_channels_of_zeros_and_large_biases():
    """A channel without weights has its bias; one whose bias is huge beside them loses its codes' fineness."""
    given = quantization(np.random.RandomState(2), channels=3)
    given.weight_q[1] = 0
    given.weight_scale[2] = 1e-9
    found = stored(given, np.float32([1, 2, 50]))
    assert np.isfinite(found.scale).all() and not found.codes[1].any() and np.array_equal(found.codes[0],
                                                                                         given.weight_q[0])
    bias = np.rint(np.float32([1, 2, 50]) * (found.scale * multiplier(BYTE)))
    assert (np.abs(bias) <= 2 ** 30).all() and np.abs(found.codes[2].astype(int)).max() < 127


@pytest.mark.parametrize("is_signed", [False, True])
def test_the_step_survives_its_threshold(is_signed):
    for scale in np.exp(np.random.RandomState(3).uniform(-12, 6, 300)).astype(np.float32):
        step = engine_step(float(scale), is_signed)
        grid = Grid(step, 0, -128 if is_signed else 0, 127 if is_signed else 255)
        length = np.float32(127.5 if is_signed else 255.5)
        assert threshold(grid) / length == np.float32(step) <= scale and abs(step / scale - 1) < 1e-6


def test_parameter_files_are_those_of_mxnet(tmp_path):
    random = np.random.RandomState(0)
    arrays = {"a": random.randn(2, 3, 1).astype(np.float32), "b": random.randn(4).astype(np.float32)}
    states = {"c": random.randn(5).astype(np.float32)}
    named = [*(("arg:" + name, array) for name, array in arrays.items()), ("aux:c", states["c"])]
    mx.nd.save(str(tmp_path / "theirs"), {name: mx.nd.array(array) for name, array in named})
    assert (tmp_path / "theirs").read_bytes() == render(arrays, states)
    assert {name: array.tolist() for name, array in read(tmp_path / "theirs").items()} == {
        name: array.tolist() for name, array in {**arrays, **states}.items()}

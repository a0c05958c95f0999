# SPDX-License-Identifier: MIT
"""Factors, packed weights and places in memory, each against the plain way."""

import numpy as np
import pytest

from deploy.ir import Grid, Quantization
from deploy.targets.c.arithmetic import affine, weighted_sum
from deploy.targets.c.memory import places
from deploy.targets.c.packing import pack, unpack
from deploy.targets.c.scaling import SCALINGS

FACTORS = np.float64([1e-9, 3e-5, 0.00390625, 0.1, 0.3, 0.5, 1.0, 1.7, 2.0, 3.9, 100.0])
# largest relative error of a factor
HELD = {"FIXED_MULT32": 2.0 ** -31, "FIXED_MULT16": 2.0 ** -15, "SINGLE_SHIFT": 0.42, "DOUBLE_SHIFT": 0.17,
        "FLOAT_MULT": 0}


@pytest.mark.parametrize("name", SCALINGS)
def test_factors_are_held(name):
    held = SCALINGS[name].held(FACTORS)
    assert (np.abs(held / FACTORS - 1) <= HELD[name]).all()
    np.testing.assert_array_equal(SCALINGS[name].held(-FACTORS), -held)
    assert SCALINGS[name].held(np.zeros(1)) == 0


@pytest.mark.parametrize("name", [name for name in SCALINGS if name != "FLOAT_MULT"])
def test_parts_are_whole_numbers_and_shifts(name):
    m, shift = SCALINGS[name].parts(FACTORS)
    assert (m > 0).all() and (shift >= 0).all() and (shift <= 62).all()
    ones = [bin(int(value)).count("1") for value in m]
    assert max(ones) <= {"SINGLE_SHIFT": 1, "DOUBLE_SHIFT": 2}.get(name, 31)


@pytest.mark.parametrize("name", SCALINGS)
def test_a_product_and_a_term_are_rounded_once(name):
    scaling, rng = SCALINGS[name], np.random.RandomState(4)
    x = rng.randint(-2 ** 30, 2 ** 30, (50, len(FACTORS)))
    term = rng.uniform(-1000, 1000, len(FACTORS))
    got = affine(x, FACTORS, term, scaling)
    exact = x * scaling.held(FACTORS) + term
    # half a step, and what is left of factors and terms that need more bits than there are
    assert (np.abs(got - exact) <= 0.5 + 1e-6 * np.abs(exact) + 1e-4).all()


def test_halves_go_up():
    half = affine(np.int64([[-3], [-1], [1], [3]]), np.array([0.5]), np.zeros(1), SCALINGS["FIXED_MULT32"])
    assert half.ravel().tolist() == [-1, 0, 1, 2]
    both = weighted_sum([np.int64([1, -1]), np.int64([0, 0])], np.array([0.5, 0.25]), SCALINGS["FIXED_MULT32"])
    assert both.tolist() == [1, 0]


@pytest.mark.parametrize("largest, odd, bits", [(127, False, 8), (31, False, 6), (7, False, 4), (1, False, 2),
                                                (255, True, 8), (15, True, 4), (3, True, 2), (1, True, 1)])
def test_weights_come_back(largest, odd, bits):
    codes = np.random.RandomState(2).randint(-largest, largest + 1, (5, 3, 3, 3))
    codes = (codes // 2 * 2 + 1 if odd else codes).astype(np.int16)
    codes[0, 0, 0] = largest
    if odd:
        codes[3] = 0  # a channel of which nothing is left
    elif bits == 2:
        codes[0, 0, 0, 0] = 0
    packed = pack(Quantization(Grid(1.0), codes, np.ones(5, np.float32), largest))
    assert packed.bits == bits and packed.rows.shape == (5, -(-27 * bits // 8))
    alive = [0, 1, 2, 4]
    np.testing.assert_array_equal(unpack(packed)[alive], codes.reshape(5, -1)[alive])


@pytest.mark.parametrize("largest, bits", [(128, 8), (8, 4), (2, 2)])
def test_weights_with_their_lowest_code_take_no_bit_more(largest, bits):
    codes = np.random.RandomState(2).randint(-largest, largest, (5, 3, 3, 3)).astype(np.int16)
    codes[:, 0, 0] = -largest, largest - 1, 0
    packed = pack(Quantization(Grid(1.0), codes, np.ones(5, np.float32), largest))
    assert packed.bits == bits
    np.testing.assert_array_equal(unpack(packed), codes.reshape(5, -1))
    codes[0, 0, 0, 0] = largest  # a negative factor of a BatchNorm turned the lowest one round
    packed = pack(Quantization(Grid(1.0), codes, np.ones(5, np.float32), largest))
    np.testing.assert_array_equal(unpack(packed), codes.reshape(5, -1))


def test_memory_is_shared_by_what_is_never_there_together():
    sizes = {"a": 100, "b": 30, "c": 50, "d": 10}
    steps = [([], ["a"]), (["a"], ["b"]), (["b"], ["c"]), (["b", "c"], ["d"])]
    placed, end = places(sizes, steps)
    alive = [{"a"}, {"a", "b"}, {"b", "c"}, {"b", "c", "d"}]
    for together in alive:
        spans = sorted((placed[name], placed[name] + sizes[name]) for name in together)
        assert all(first[1] <= second[0] for first, second in zip(spans, spans[1:]))
    assert end == 132 and all(start % 4 == 0 for start in placed.values())


def test_no_blobs_take_no_memory():
    assert places({}, []) == ({}, 0)

# SPDX-License-Identifier: MIT
"""The transforms in exact numbers, against convolution by its definition."""

from fractions import Fraction

import numpy as np
import pytest

from quantize.errors import ConfigError
from quantize.winograd import (
    POINTS,
    WinogradSpec,
    exact_transforms,
    kernel_matrices,
    parse_winograd,
    pseudo_inverse,
    tile_kernels,
    transforms,
)

every_variant = pytest.mark.parametrize("variant", sorted(POINTS))


def product(left, right):
    return [[sum(a * b for a, b in zip(row, column)) for column in zip(*right)] for row in left]


def transposed(matrix):
    return [list(column) for column in zip(*matrix)]


def whole_numbers(rng, rows, columns):
    return [[Fraction(int(value)) for value in row] for row in rng.randint(-9, 10, (rows, columns))]


@every_variant
def test_equals_convolution_exactly(variant):
    rng = np.random.RandomState(1)
    outputs, kernels, inputs = exact_transforms(variant)
    m, n = len(outputs), len(inputs)
    spec = WinogradSpec(variant)
    assert (m, n) == (spec.outputs, spec.tile) == (int(variant[1]), int(variant[1]) + 2)
    g, d = whole_numbers(rng, 3, 3), whole_numbers(rng, n, n)
    u = product(product(kernels, g), transposed(kernels))
    v = product(product(inputs, d), transposed(inputs))
    products = [[a * b for a, b in zip(*rows)] for rows in zip(u, v)]
    y = product(product(outputs, products), transposed(outputs))
    assert y == [[sum(g[a][b] * d[i + a][j + b] for a in range(3) for b in range(3)) for j in range(m)]
                 for i in range(m)]


def test_published_matrices():
    outputs, kernels, inputs = transforms("F43")
    sixth, part = 1 / 6, 1 / 24
    np.testing.assert_array_equal(kernels, np.array([
        [0.25, 0, 0], [-sixth, -sixth, -sixth], [-sixth, sixth, -sixth], [part, 2 * part, 4 * part],
        [part, -2 * part, 4 * part], [0, 0, 1]]))
    np.testing.assert_array_equal(inputs, [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
                                           [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]])
    np.testing.assert_array_equal(outputs, [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0],
                                            [0, 1, -1, 8, -8, 1]])


@every_variant
def test_pseudo_inverse_is_exact(variant):
    kernels = exact_transforms(variant)[1]
    inverse = pseudo_inverse(kernels)
    assert product(inverse, kernels) == [[Fraction(int(i == j)) for j in range(3)] for i in range(3)]
    projection = product(kernels, inverse)
    assert projection == transposed(projection)  # with the line above: Moore and Penrose's conditions


@every_variant
def test_matrices_of_whole_kernels(variant):
    rng = np.random.RandomState(2)
    _, kernels, _ = transforms(variant)
    there, back = kernel_matrices(variant)
    g = rng.randn(3, 3)
    np.testing.assert_allclose((g.ravel() @ there).reshape(len(kernels), -1), kernels @ g @ kernels.T, atol=1e-13)
    np.testing.assert_allclose(g.ravel() @ there @ back, g.ravel(), atol=1e-13)
    np.testing.assert_allclose(back, np.linalg.pinv(there), atol=1e-12)


@every_variant
def test_kernels_of_tiles(variant):
    rng = np.random.RandomState(3)
    outputs, _, inputs = transforms(variant)
    n = len(inputs)
    of_inputs, of_outputs = tile_kernels(variant)
    d, products = rng.randn(n, n), rng.randn(n, n)
    np.testing.assert_allclose((of_inputs * d).sum(axis=(1, 2)), (inputs @ d @ inputs.T).ravel(), atol=1e-11)
    np.testing.assert_allclose((of_outputs * products.reshape(-1, 1, 1)).sum(axis=0), outputs @ products @ outputs.T,
                               atol=1e-9)


@pytest.mark.parametrize("text, spec", [
    ("F23", WinogradSpec("F23", "channel", False)), ("F43/position", WinogradSpec("F43", "position", False)),
    ("F63/layer/inputs", WinogradSpec("F63", "layer", True)), ("F43/inputs", WinogradSpec("F43", "channel", True)),
    ("none", "none")])
def test_formats(text, spec):
    assert parse_winograd(text) == spec
    assert parse_winograd(str(spec)) == spec


@pytest.mark.parametrize("text, message", [
    ("F32", "here: 'F32': Winograd variant must be one of F23, F43, F63, got 'F32'; did you mean"),
    ("F43/tile", "here: 'F43/tile': Winograd granularity must be one of layer, channel, position, got 'tile'"),
    ("F43/layer/channel", "here: 'F43/layer/channel' is no Winograd format"),
    ("F43/inputs/inputs", "is no Winograd format"), (43, "here: 43 is no Winograd format"),
    ("", "Winograd variant must be one of")])
def test_wrong_formats(text, message):
    with pytest.raises(ConfigError) as error:
        parse_winograd(text, "here")
    assert message in str(error.value)

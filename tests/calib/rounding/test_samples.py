# SPDX-License-Identifier: MIT
import mxnet as mx
import numpy as np
import pytest

from calib.rounding.samples import MomentSums, patches, random_positions

CASES = [((5,), (2,), (1,), (1,)), ((3, 3), (1, 1), (1, 1), (1, 1)), ((3, 2), (2, 1), (0, 1), (1, 2)), ((1, 1),) * 2 + (
    (0, 0), (1, 1))]


@pytest.mark.parametrize("kernel, stride, pad, dilate", CASES)
def test_patches_times_the_weight_are_the_convolution(kernel, stride, pad, dilate):
    random = np.random.RandomState(0)
    x = random.normal(size=(2, 3) + (13,) * len(kernel)).astype(np.float32)
    weight = random.normal(size=(4, 3) + kernel).astype(np.float32)
    attrs = {"kernel": kernel, "stride": stride, "pad": pad, "dilate": dilate}
    y = mx.nd.Convolution(mx.nd.array(x), mx.nd.array(weight), no_bias=True, num_filter=4, **attrs).asnumpy()
    count = int(np.prod(y.shape[2:]))
    positions = random_positions(2, count, 5, random)
    assert positions.shape == (2, 5) and all(len(set(row)) == 5 for row in positions.tolist())
    found = patches(x, {name: str(value) for name, value in attrs.items()}, positions, y.shape[2:])
    products = found.reshape(10, -1) @ weight.reshape(4, -1).T
    expected = y.reshape(2, 4, -1)[np.arange(2)[:, None], :, positions].reshape(10, 4)
    np.testing.assert_allclose(products, expected, atol=1e-4)


def test_options_that_are_left_out_are_mxnets():
    x = np.arange(2 * 1 * 3 * 3, dtype=np.float32).reshape(2, 1, 3, 3)
    found = patches(x, {"kernel": "(2, 2)"}, np.array([[3], [0]]), (2, 2))
    np.testing.assert_array_equal(found[:, 0, 0], [[[4, 5], [7, 8]], [[9, 10], [12, 13]]])


def test_moments_are_those_of_everything_and_samples_are_of_it():
    random = np.random.RandomState(3)
    x, y = random.normal(2, 1, size=(50, 6)), random.normal(size=(50, 4))
    sums = MomentSums(2, 5, random)
    for start in (0, 20, 40):
        sums.update(x[start:start + 20], y[start:start + 20])
    found = sums.moments()
    for group in (0, 1):
        both = np.cov(x[:, group * 3:][:, :3].T, y[:, group * 2:][:, :2].T, bias=True)
        np.testing.assert_allclose(found["gram"][group], both[:3, :3], atol=1e-5)
        np.testing.assert_allclose(found["output_variance"][group], np.diag(both)[3:], atol=1e-5)
        np.testing.assert_allclose(found["cross"][group], both[3:, :3], atol=1e-5)
    kept = sums.samples()
    assert kept["inputs"].shape == (2, 15, 3) and kept["outputs"].shape == (2, 15, 2)
    for row_x, row_y in zip(kept["inputs"][1], kept["outputs"][1]):
        place = np.abs(x[:, 3:] - row_x).sum(1).argmin()
        np.testing.assert_allclose(y[place, 2:], row_y, rtol=1e-6)

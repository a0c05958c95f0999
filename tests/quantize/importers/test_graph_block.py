# SPDX-License-Identifier: MIT
"""What a GraphBlock refuses when images come: reshapes that do not fit them, which MXNet itself runs into memory."""

import mxnet as mx
import numpy as np
import pytest

from quantize.errors import DataError
from quantize.importers.graph_block import GraphBlock, Program, Step
from quantize.importers.reshape_codes import size_after


def reshaping(shape):
    steps = [Step("half", ("x",), ("h",), "_mul_scalar", dict(scalar=0.5)),
             Step("flat", ("h",), ("y",), "reshape", dict(shape=shape))]
    return GraphBlock(Program("x", ("y",), steps, {}))


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("target, fits, misfits", [
    ((1, 12), (1, 3, 4), (2, 3, 4)), ((0, 12), (5, 3, 4), (5, 3, 5)), ((0, 5, -1), (2, 10), (2, 11)),
    ((-3, 2, 2), (2, 3, 4), (2, 3, 5)), ((-4, 2, -1, 0), (4, 3), (5, 3))])
def test_a_reshape_that_does_not_fit_is_refused_before_it_runs(target, fits, misfits, hybrid):
    net = reshaping(target)
    if hybrid:
        net.hybridize()
    x = np.random.RandomState(0).uniform(size=fits).astype("float32")
    np.testing.assert_array_equal(net(mx.nd.array(x)).asnumpy().ravel(), x.ravel() * 0.5)
    with pytest.raises(DataError, match="flat: the network's own reshape|do not fit the network"):
        net(mx.nd.ones(misfits))
    np.testing.assert_array_equal(net(mx.nd.array(x)).asnumpy().ravel(), x.ravel() * 0.5)


@pytest.mark.parametrize("before, shape", [
    ((2, 3, 4), (4, 0, 2)), ((2, 3, 4), (-1,)), ((2, 3, 4), (0, -1)), ((2, 3, 4), (-2,)), ((2, 3, 4), (-3, -2)),
    ((2, 3, 4), (-4, 1, 2, -2)), ((2, 8), (0, -4, -1, 2)), ((2, 3, 4), (0, -3)), ((2, 3, 4), (6, 1, 1, -1))])
def test_sizes_are_those_of_mxnet(before, shape):
    assert size_after(before, dict(shape=shape)) == mx.nd.zeros(before).reshape(shape).size


def test_half_precision_images_are_computed_in_float32():
    assert reshaping((0, -1))(mx.nd.ones((1, 2, 2), dtype="float16")).dtype == np.float32

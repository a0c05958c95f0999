# SPDX-License-Identifier: MIT
"""What a GraphBlock refuses when images come: reshapes that do not fit them, which MXNet itself runs into memory."""

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from quantize.errors import DataError
from quantize.importers.graph_block import GraphBlock, LayerSpec, Program, Step
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


@pytest.mark.parametrize("kind, options", [
    (nn.Conv2D, dict(kernel_size=(3, 3), padding=(2 ** 31 - 1, 2 ** 31 - 1))),
    (nn.Conv2D, dict(kernel_size=(3, 3), padding=2 ** 30)),
    (nn.Conv2D, dict(kernel_size=(3, 3), dilation=(1, 2 ** 30))),
    (nn.MaxPool2D, dict(pool_size=(2 ** 31, 2))),
    (nn.AvgPool2D, dict(pool_size=2, padding=(0, 2 ** 31 - 1)))])
def test_windows_beyond_sizes_of_32_bits_are_refused(kind, options):
    """MXNet wraps them: a padding of 2147483647 on both sides is one of -1, which its engine cannot compute later."""
    sizes = dict(channels=2, in_channels=1) if kind is nn.Conv2D else {}
    step = Step("window", ("x",), ("y",), layer=LayerSpec(kind, dict(sizes, **options)))
    with pytest.raises(DataError, match="^window: its kernel, dilation and padding reach over [0-9]+ places, "):
        GraphBlock(Program("x", ("y",), [step], {}))

# SPDX-License-Identifier: MIT
import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from quantize.repair.factors import Factors
from quantize.repair.statistics import Moments, measure
from quantize.stages import LayerGraph


@pytest.fixture
def net():
    """With everything that computes otherwise in training, or whose gradient needs what training keeps."""
    mx.random.seed(0)
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3, padding=1), nn.BatchNorm(), nn.Activation("relu"), nn.MaxPool2D(2), nn.Dropout(0.5),
            nn.Conv2D(4, 3), nn.Dense(3))
    net.initialize(mx.init.Xavier(magnitude=4))
    net(mx.nd.zeros((1, 2, 8, 8)))
    net[1].running_mean.set_data(mx.nd.array([1, -1, 0.5, 0]))
    return net


def images(count=48):
    return mx.nd.array(np.random.RandomState(1).normal(size=(count, 2, 8, 8)))


def test_importance_is_the_fisher_information(net):
    """Against the derivative by differences, with the expectation over classes written out."""
    graph, x = LayerGraph(net), images()
    found = measure(graph, Factors(graph), [x], seed=3)
    layer, wanted = net[0], np.zeros(4)
    p = mx.nd.softmax(net(x)).asnumpy()
    step = 1e-2
    for channel in range(4):
        for place in np.ndindex(8, 8):
            logs = []
            for sign in (1, -1):
                y = layer(x).asnumpy()
                y[:, channel, place[0], place[1]] += sign * step
                out = mx.nd.array(y)
                for block in list(net)[1:]:
                    out = block(out)
                logs.append(mx.nd.log_softmax(out).asnumpy())
            slopes = (logs[0] - logs[1]) / (2 * step)
            wanted[channel] += (p * slopes ** 2).sum(1).mean()
    index = graph.calls["0"][0]
    np.testing.assert_allclose(found.importance[index], wanted, rtol=0.5)
    assert np.corrcoef(found.importance[index], wanted)[0, 1] > 0.9


def test_the_same_images_give_the_same_numbers(net):
    graph = LayerGraph(net)
    one, two = (measure(graph, Factors(graph), [images()], seed=3) for _ in range(2))
    for index, values in one.importance.items():
        np.testing.assert_array_equal(values, two.importance[index])
    np.testing.assert_allclose(one.outputs[0][1], net(images())[:16].asnumpy(), rtol=1e-5, atol=1e-5)


def test_moments_are_those_of_all_batches():
    x = np.random.RandomState(0).normal(1, 2, size=(10, 3, 4, 4))
    moments = Moments()
    for part in (x[:3], x[3:]):
        moments.update(part)
    flat = x.transpose(1, 0, 2, 3).reshape(3, -1)
    for found, expected in ((moments.mean, flat.mean(1)), (moments.variance, flat.var(1)), (moments.low, flat.min(1)),
                            (moments.high, flat.max(1))):
        np.testing.assert_allclose(found, expected)

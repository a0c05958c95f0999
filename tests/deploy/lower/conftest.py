# SPDX-License-Identifier: MIT
"""The judge of lowering: the engine on the lowered model against MXNet on the network."""

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from deploy import engine
from deploy.lower import lower


def randomized(net, shape, seed=1):
    """The network with random parameters and norms that do something, run once on images of `shape`."""
    mx.random.seed(seed)
    np.random.seed(seed)
    net.initialize(mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2))
    net(mx.nd.zeros((1,) + shape))
    ranges = {"gamma": (0.3, 0.6), "running_var": (0.7, 1.3), "beta": (-0.1, 0.1), "running_mean": (-0.1, 0.1),
              "alpha": (0.1, 0.4), "bias": (-0.5, 0.5)}
    for name, parameter in net.collect_params().items():
        for ending, (low, high) in ranges.items():
            if name.endswith(ending):
                parameter.set_data(mx.nd.random.uniform(low, high, shape=parameter.shape))
    return net


@pytest.fixture
def random_net():
    """function(net, shape) -> the same network, `randomized`."""
    return randomized


@pytest.fixture
def called_twice(random_net):
    """function(shape) -> a network whose only layer, a 3x3 convolution of 3 channels, is called twice."""
    class Twice(nn.HybridSequential):
        def hybrid_forward(self, F, x):
            return self[0](self[0](x))

    def build(shape):
        net = Twice(prefix="net_")
        with net.name_scope():
            net.add(nn.Conv2D(3, 3, padding=1))
        return random_net(net, shape)
    return build


@pytest.fixture
def agrees():
    """function(net, shape) -> ir.Model: lowers, and asserts that the engine computes what the float network does."""
    def check(net, shape, tolerance=1e-5):
        model = lower(net, shape, quantized=False)
        x = mx.nd.random.uniform(-1, 1, (2,) + shape)
        want = net(x)
        want = want if isinstance(want, (list, tuple)) else [want]
        got = engine.run(model, x.asnumpy()).outputs
        assert len(got) == len(want)
        for have, expected in zip(got, want):
            expected = expected.asnumpy()
            assert have.shape == expected.shape
            np.testing.assert_allclose(have, expected, rtol=0, atol=tolerance * max(np.abs(expected).max(), 1e-3))
        return model
    return check


@pytest.fixture
def apply():
    """function(f, shape) -> a network that computes f(F, x)."""
    def build(function, shape):
        net = nn.HybridSequential(prefix="net_")
        with net.name_scope():
            net.add(nn.HybridLambda(function))
        return randomized(net, shape)
    return build


@pytest.fixture
def chain():
    """function(shape, *layers) -> a network of layers in a row, random parameters."""
    def build(shape, *layers):
        net = nn.HybridSequential(prefix="net_")
        with net.name_scope():
            net.add(*layers)
        return randomized(net, shape)
    return build


def kinds(model):
    """Names of the node types, in order."""
    return [type(node).__name__ for node in model.nodes]


@pytest.fixture(name="kinds")
def kinds_fixture():
    """function(model) -> names of the node types, in order."""
    return kinds

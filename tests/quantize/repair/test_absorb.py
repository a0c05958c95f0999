# SPDX-License-Identifier: MIT
"""Absorbed biases against NumPy's arithmetic, and networks that compute what they computed."""

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from quantize.convert import convert_model
from quantize.errors import CalibrationError, ConversionError
from quantize.nn import ReLU6
from quantize.repair.absorb import absorb
from quantize.stages import LayerGraph


def net_of(*layers, seed=0, shape=(64, 3, 6, 6)):
    """(network, images, its outputs) with high biases in its first layer."""
    mx.random.seed(seed)
    net = nn.HybridSequential()
    net.add(*layers)
    net.initialize(mx.init.Xavier(magnitude=0.1))
    x = mx.nd.array(np.random.RandomState(seed).normal(size=shape))
    net(x)
    layers[0].bias.set_data(mx.nd.array(np.linspace(-1, 4, layers[0].bias.shape[0])))
    return net, x, net(x).asnumpy()


def relu():
    return nn.Activation("relu")


def test_a_dense_pair_by_hand():
    net, x, before = net_of(nn.Dense(6), relu(), nn.Dense(3), shape=(200, 5))
    one, two = ([parameter.data().asnumpy().astype(np.float64) for parameter in (net[i].weight, net[i].bias)]
                for i in (0, 2))
    z = x.asnumpy() @ one[0].T + one[1]
    shift = np.maximum(np.minimum(z.mean(0) - 3 * z.std(0), z.min(0)), 0)
    assert 0 < (shift > 0).sum() < 6
    done = absorb(net, [x])
    np.testing.assert_allclose(done.shifts["0"], shift, rtol=1e-4)
    np.testing.assert_allclose(net[0].bias.data().asnumpy(), one[1] - shift, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(net[2].bias.data().asnumpy(), two[1] + two[0] @ shift, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(net(x).asnumpy(), before, atol=1e-5)
    assert done.equivalence.images == done.equivalence.agreement == 200 and done.equivalence.deviation < 1e-5


@pytest.mark.parametrize("between", [
    [relu], [lambda: nn.LeakyReLU(0.1)], [nn.PReLU], [relu, lambda: nn.MaxPool2D(2, 1)],
    [relu, lambda: nn.AvgPool2D(2, 1), lambda: nn.Dropout(0.5)], [relu, nn.GlobalAvgPool2D, nn.Flatten], [ReLU6], []])
def test_what_hands_a_shift_on(between):
    last = nn.Dense(3) if nn.Flatten in between else nn.Conv2D(3, 1)
    net, x, before = net_of(nn.Conv2D(6, 3), *(made() for made in between), last)
    largest = np.abs(net[0](x).asnumpy()).max()
    done = absorb(net, [x[:40], (x[40:], None)])
    assert (done.shifts["0"] > 0).sum() >= 2
    assert np.abs(net[0](x).asnumpy()).max() < largest
    np.testing.assert_allclose(net(x).asnumpy(), before, atol=2e-5)


def test_a_channel_that_is_clipped_stays():
    net, x, before = net_of(nn.Conv2D(6, 3), ReLU6(), nn.Conv2D(3, 1))
    net[0].bias.set_data(mx.nd.array([0, 2, 4, 5.9, 6.5, 9]))
    before = net(x).asnumpy()
    done = absorb(net, [x])
    assert list(done.shifts["0"] > 0) == [False, True, True, False, False, False]
    np.testing.assert_allclose(net(x).asnumpy(), before, atol=2e-5)


class Branched(nn.HybridBlock):
    def __init__(self, adds):
        super().__init__()
        self._adds = adds
        with self.name_scope():
            self.a, self.b, self.c = nn.Conv2D(6, 3), nn.Conv2D(6, 1), nn.Conv2D(6, 1)

    def hybrid_forward(self, F, x):
        a = F.relu(self.a(x))
        return self.b(a) + (a if self._adds else self.c(a))


def test_every_branch_takes_its_part_in():
    net = Branched(adds=False)
    net.initialize(mx.init.Xavier())
    x = mx.nd.array(np.random.RandomState(0).uniform(0, 1, size=(32, 3, 6, 6)))
    net(x)
    net.a.bias.set_data(mx.nd.array([0, 1, 2, 3, 4, 5]))
    before = net(x).asnumpy()
    assert set(absorb(net, [x]).shifts) == {"a"}
    np.testing.assert_allclose(net(x).asnumpy(), before, atol=2e-5)


@pytest.mark.parametrize("layers", [
    lambda: [nn.Conv2D(4, 3), relu(), nn.Conv2D(3, 3, padding=1)],
    lambda: [nn.Conv2D(4, 3), relu(), nn.AvgPool2D(2, 1, padding=1), nn.Conv2D(3, 1)],
    lambda: [nn.Conv2D(4, 3), relu(), nn.Conv2D(3, 1, use_bias=False)],
    lambda: [nn.Conv2D(4, 3), nn.Activation("tanh"), nn.Conv2D(3, 1)]])
def test_where_more_than_a_bias_would_see_the_shift_nothing_is_done(layers):
    net, x, _ = net_of(*layers())
    with pytest.raises(ConversionError, match="no bias to absorb"):
        absorb(net, [x])


def test_an_addition_reads_too():
    net = Branched(adds=True)
    net.initialize()
    x = mx.nd.ones((2, 3, 6, 6))
    net(x)
    with pytest.raises(ConversionError, match="no bias to absorb"):
        absorb(net, [x])


def test_a_network_without_a_name_is_called_so():
    net = nn.HybridSequential(prefix="")
    net.add(nn.Conv2D(4, 3, padding=1), nn.Conv2D(3, 3, padding=1))
    net.initialize()
    x = mx.nd.ones((2, 3, 6, 6))
    net(x)
    with pytest.raises(ConversionError, match="^the network: no bias to absorb"):
        absorb(net, [x])


def test_bad_input():
    net, x, _ = net_of(nn.Conv2D(6, 3), relu(), nn.Conv2D(3, 1))
    assert LayerGraph(net).calls
    with pytest.raises(CalibrationError, match="no batch"):
        absorb(net, [])
    convert_model(net)
    with pytest.raises(ConversionError, match="before converting"):
        absorb(net, [x])

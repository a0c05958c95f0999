# SPDX-License-Identifier: MIT
import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from quantize.repair.factors import Factors, input_index
from quantize.stages import LayerGraph


def factors_of(forward, **layers):
    """Factors of a network with these layers (Conv2D of 4 channels by default) and this forward function."""
    class Net(nn.HybridBlock):
        def __init__(self):
            super().__init__()
            with self.name_scope():
                for name, layer in layers.items():
                    setattr(self, name, layer)

        def hybrid_forward(self, F, x):
            return forward(F, self, x)

    net = Net()
    net.initialize()
    net(mx.nd.zeros((1, 4, 6, 6)))
    return Factors(LayerGraph(net))


def free_writers(factors):
    """Names of the layers whose outputs may be scaled, those that share a factor in one tuple."""
    free = factors.free()
    return [tuple(m.path for m in factors.members if group in m.writes) for group in free]


def conv(**options):
    return nn.Conv2D(4, 1, **options)


KEPT = [lambda F, x: F.relu(x), lambda F, x: F.LeakyReLU(x, slope=0.1), lambda F, x: F.clip(x, 0, 6),
        lambda F, x: F.Pooling(x, kernel=(2, 2), pool_type="avg"), lambda F, x: F.Dropout(x),
        lambda F, x: F.pad(x, mode="constant", pad_width=(0, 0, 0, 0, 1, 1, 1, 1)), lambda F, x: x]
PINNED = [lambda F, x: F.sigmoid(x), lambda F, x: F.clip(x, -1, 1), lambda F, x: x + 1, lambda F, x: F.LeakyReLU(
    x, act_type="elu"), lambda F, x: x * x,
    lambda F, x: F.pad(x, mode="constant", pad_width=(0, 0, 0, 0, 1, 1, 1, 1), constant_value=1),
    lambda F, x: F.softmax(x, axis=1)]


@pytest.mark.parametrize("between", KEPT)
def test_what_scales_with_its_input_hands_factors_on(between):
    found = factors_of(lambda F, net, x: net.two(between(F, net.one(x))), one=conv(), two=conv())
    assert free_writers(found) == [("one",)]


@pytest.mark.parametrize("between", PINNED)
def test_everything_else_pins_them(between):
    found = factors_of(lambda F, net, x: net.two(between(F, net.one(x))), one=conv(), two=conv())
    assert free_writers(found) == []


def test_the_input_and_the_output_are_pinned():
    found = factors_of(lambda F, net, x: net.one(F.relu(x)), one=conv())
    assert free_writers(found) == []


def test_an_output_of_a_layer_that_also_leaves_the_network_is_pinned():
    def forward(F, net, x):
        y = F.relu(net.one(x))
        return net.two(y) + y
    assert free_writers(factors_of(forward, one=conv(), two=conv())) == []


def test_what_is_added_shares_its_factor():
    def forward(F, net, x):
        one = net.one(x)
        two = one + net.two(F.relu(one))
        return net.last(F.relu(two))
    assert free_writers(factors_of(forward, one=conv(), two=conv(), last=conv())) == [("one", "two")]


def test_adding_what_cannot_be_scaled_pins():
    found = factors_of(lambda F, net, x: net.two(net.one(x) + x), one=conv(), two=conv())
    assert free_writers(found) == []


def test_concatenated_channels_keep_their_groups():
    def forward(F, net, x):
        one = net.one(x)
        return net.last(F.relu(F.concat(one, net.two(one), dim=1)))
    found = factors_of(forward, one=conv(), two=conv(), last=conv())
    assert free_writers(found) == [("one",), ("two",)]
    assert len(found.members[2].reads) == 2


def test_a_layer_that_is_called_twice_pins_what_it_reads():
    found = factors_of(lambda F, net, x: net.two(F.relu(net.two(F.relu(net.one(x))))), one=conv(), two=conv())
    assert free_writers(found) == []


def test_a_dense_layer_reads_each_channel_of_a_feature_map_many_times():
    found = factors_of(lambda F, net, x: net.two(F.relu(net.one(x))), one=conv(), two=nn.Dense(3))
    assert free_writers(found) == [("one",)]


def test_clips_are_found_with_their_limits():
    found = factors_of(lambda F, net, x: net.two(F.clip(net.one(x), 0, 6)), one=conv(), two=conv())
    assert [(clip.limit, clip.segments) for clip in found.clips] == [(6.0, found.members[0].writes)]


def test_which_input_channel_a_grouped_convolution_reads():
    layer = nn.Conv2D(6, 1, groups=2, in_channels=4)
    np.testing.assert_array_equal(input_index(layer), [[0, 1]] * 3 + [[2, 3]] * 3)

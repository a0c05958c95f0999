# SPDX-License-Identifier: MIT
"""Split channels: chosen as a plain search does, the network as it was, codes that add up."""

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mxnet.gluon import nn

from quantize.convert import convert_model
from quantize.errors import CalibrationError, ConfigError, ConversionError
from quantize.nn import ReLU6
from quantize.reference import round_half_away
from quantize.repair.cost import Noise
from quantize.repair.split import choose, halved, split_outliers
from quantize.storage import load_quantized, save_quantized


def outlying(*layers, seed=0, shape=(16, 3, 9, 9)):
    """(network, images, outputs); some weights are ten times as large as others."""
    mx.random.seed(seed)
    random = np.random.RandomState(seed)
    net = nn.HybridSequential()
    net.add(*layers)
    net.initialize(mx.init.Xavier(magnitude=2))
    x = mx.nd.array(random.normal(size=shape))
    net(x)
    for layer in layers:
        if hasattr(layer, "weight"):
            weight = layer.weight.data().asnumpy()
            weight.ravel()[random.randint(weight.size, size=2)] *= 10
            layer.weight.set_data(mx.nd.array(weight))
            layer.bias.set_data(mx.nd.array(random.normal(size=layer.bias.shape) * 0.1))
    return net, x, net(x).asnumpy()


def relu():
    return nn.Activation("relu")


def chain(activation=relu):
    return [nn.Conv2D(8, 3), activation(), nn.Conv2D(8, 3, padding=1, groups=8), activation(), nn.Conv2D(12, 1),
            activation(), nn.MaxPool2D(2), nn.Flatten(), nn.Dense(5)]


def check_same(after, before):
    np.testing.assert_allclose(after.asnumpy(), before, atol=1e-5 * np.abs(before).max())


@pytest.mark.parametrize("activation", [relu, ReLU6, lambda: nn.LeakyReLU(0.2)])
def test_the_network_stays_what_it_was_and_its_largest_weights_shrink(activation):
    net, x, before = outlying(*chain(activation))
    largest = {i: float(net[i].weight.data().abs().max().asscalar()) for i in (4, 8)}
    done = split_outliers(net, [x], share=0.2)
    check_same(net(x), before)
    assert done.equivalence.agreement == 16 and done.equivalence.deviation < 1e-5
    assert done.channels["0"] == done.channels["2"] >= 1 and done.channels["4"] >= 1
    for i, was in largest.items():
        assert float(net[i].weight.data().abs().max().asscalar()) < 0.9 * was
    twins = done.channels["0"]
    assert net[2].weight.shape == (8 + twins, 1, 3, 3) and net[4].weight.shape[1] == 8 + twins
    net.hybridize()
    check_same(net(x), before)


def test_the_halves_codes_add_up_to_the_whole_ones():
    net, x, _ = outlying(nn.Dense(6), relu(), nn.Dense(4), shape=(16, 5))
    weight = net[2].weight.data().asnumpy().astype(np.float64)
    split_outliers(net, [x], Noise(5, None), share=0.1)
    now = net[2].weight.data().asnumpy().astype(np.float64)
    assert now.shape == (4, 7)
    channel = int(np.abs(weight).max(0).argmax())
    magnitudes = np.append(np.abs(weight).max(0), 0)[None]
    step = halved(magnitudes, [channel]).max() / 15
    np.testing.assert_allclose(now[:, channel] + now[:, 6], weight[:, channel], rtol=1e-5, atol=1e-6)
    codes = round_half_away(now / step)
    np.testing.assert_array_equal(codes[:, channel] + codes[:, 6], round_half_away(weight[:, channel] / step))


@given(st.integers(0, 10000), st.integers(1, 3), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_the_channel_chosen_is_the_best_of_all(seed, scales, most):
    random = np.random.RandomState(seed)
    layers = [random.gamma(1, 1, size=(scales, 5)) for _ in range(2)]

    def cost(chosen):
        return sum(np.square(halved(one, chosen).max(1)).sum() / np.square(one.max(1)).sum() for one in layers)

    found = choose(layers, most)
    for count in range(len(found)):
        tried = [cost([*found[:count], channel]) for channel in range(4 + count)]
        assert tried[found[count]] == pytest.approx(min(tried))
    if len(found) < most:
        assert cost(found) - min(cost([*found, channel]) for channel in range(4 + len(found))) < 2e-3


class Fire(nn.HybridBlock):
    """A squeeze layer with two expansions beside each other; a PReLU has a slope for each channel."""

    def __init__(self, slopes=False):
        super().__init__()
        with self.name_scope():
            self.squeeze, self.one, self.three = nn.Conv2D(4, 1), nn.Conv2D(6, 1), nn.Conv2D(6, 3, padding=1)
            self.out = nn.Dense(3)
            self.act = nn.PReLU(in_channels=4) if slopes else nn.Activation("relu")

    def hybrid_forward(self, F, x):
        squeezed = self.act(self.squeeze(x))
        beside = F.concat(F.relu(self.one(squeezed)), F.relu(self.three(squeezed)), dim=1)
        return self.out(beside)


def fire(slopes=False):
    mx.random.seed(3)
    net = Fire(slopes)
    net.initialize(mx.init.Xavier(magnitude=2))
    x = mx.nd.array(np.random.RandomState(3).normal(size=(8, 3, 5, 5)))
    net(x)
    for layer in (net.one, net.three, net.out):
        weight = layer.weight.data().asnumpy()
        weight.ravel()[::17] *= 8
        layer.weight.set_data(mx.nd.array(weight))
    return net, x, net(x).asnumpy()


def test_concatenations_and_several_readers():
    net, x, before = fire()
    done = split_outliers(net, [x], share=0.3)
    assert set(done.channels) == {"squeeze", "one", "three"}
    check_same(net(x), before)
    assert net.out.weight.shape[1] == (12 + done.channels["one"] + done.channels["three"]) * 25


def test_channels_with_a_slope_of_their_own_stay():
    net, x, before = fire(slopes=True)
    assert "squeeze" not in split_outliers(net, [x], share=0.3).channels
    check_same(net(x), before)


def test_additions_double_all_that_is_added():
    class Residual(nn.HybridBlock):
        def __init__(self):
            super().__init__()
            with self.name_scope():
                self.a, self.b, self.c = nn.Conv2D(5, 1), nn.Conv2D(5, 3, padding=1), nn.Dense(3)

        def hybrid_forward(self, F, x):
            a = F.relu(self.a(x))
            return self.c(F.relu(self.b(a)) + a)

    net = Residual()
    net.initialize(mx.init.Xavier())
    x = mx.nd.array(np.random.RandomState(1).normal(size=(8, 3, 5, 5)))
    net(x)
    net.c.weight.data()[0, 30] = 9
    before = net(x).asnumpy()
    assert split_outliers(net, [x], share=0.2).channels == {"a": 1, "b": 1}
    check_same(net(x), before)


def test_what_is_split_is_saved_quantized_and_loaded(tmp_path):
    net, x, _ = outlying(*chain())
    split_outliers(net, [x], share=0.2)
    convert_model(net, config_list=[{"op_types": ["Conv2D", "Dense"], "weight": "int8/layer", "input": "float"}])
    wanted = net(x).asnumpy()
    save_quantized(net, tmp_path / "net.qnet")
    np.testing.assert_array_equal(load_quantized(tmp_path / "net.qnet")(x).asnumpy(), wanted)


def test_bad_input():
    net, x, _ = outlying(*chain())
    for share in (0, 2):
        with pytest.raises(ConfigError, match="share of channels"):
            split_outliers(net, [x], share=share)
    with pytest.raises(CalibrationError, match="no batch"):
        split_outliers(net, [])
    convert_model(net)
    with pytest.raises(ConversionError, match="before converting"):
        split_outliers(net, [x])
    net, x, _ = outlying(nn.Conv2D(4, 3), nn.Activation("tanh"), nn.Dense(3))
    with pytest.raises(ConversionError, match="no channel can be split"):
        split_outliers(net, [x])

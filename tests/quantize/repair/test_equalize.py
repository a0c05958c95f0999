# SPDX-License-Identifier: MIT
import mxnet as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mxnet.gluon import nn

from quantize.convert import convert_model, merge_bn
from quantize.errors import CalibrationError, ConfigError, ConversionError
from quantize.nn import ReLU6
from quantize.repair.cost import Noise
from quantize.repair.equalize import equalize


def spoiled(*layers, spread=3.0, seed=0, shape=(32, 3, 8, 8)):
    """(network, images): channels of its hidden layers scaled by random factors that the next layers take back."""
    mx.random.seed(seed)
    random = np.random.RandomState(seed)
    net = nn.HybridSequential()
    net.add(*layers)
    net.initialize(mx.init.Xavier(magnitude=2))
    x = mx.nd.array(random.normal(size=shape))
    net(x)
    weighted = [layer for layer in layers if hasattr(layer, "weight")]
    for layer in weighted:
        layer.bias.set_data(mx.nd.array(random.normal(size=layer.bias.shape) * 0.1))
    for one, two in zip(weighted, weighted[1:]):
        factors = np.exp(random.uniform(-spread, 0, one.weight.shape[0]))
        by_row = factors.reshape((-1,) + (1,) * (len(one.weight.shape) - 1))
        one.weight.set_data(one.weight.data() * mx.nd.array(by_row))
        one.bias.set_data(one.bias.data() * mx.nd.array(factors))
        weight = two.weight.data().asnumpy()
        if getattr(two, "_kwargs", {}).get("num_group", 1) > 1:
            weight /= factors.reshape(-1, 1, 1, 1)
        else:
            each = np.repeat(factors, weight.shape[1] // len(factors))
            weight /= each.reshape((1, -1) + (1,) * (weight.ndim - 2))
        two.weight.set_data(mx.nd.array(weight))
    return net, x


def separable(activation):
    return [nn.Conv2D(8, 3, padding=1), activation(), nn.Conv2D(8, 3, padding=1, groups=8), activation(),
            nn.Conv2D(12, 1), activation(), nn.GlobalAvgPool2D(), nn.Dense(5)]


def relu():
    return nn.Activation("relu")


def damage(net, x, wanted):
    """Relative error of the outputs with int8 weights, one scale per layer."""
    rounded = nn.HybridSequential()
    rounded.add(*net._children.values())
    convert_model(rounded, config_list=[{"op_types": ["Conv2D", "Dense"], "weight": "int8/layer", "input": "float"}])
    return float(((rounded(x) - wanted) ** 2).mean().asscalar() / (wanted ** 2).mean().asscalar())


def check_same(after, before):
    np.testing.assert_allclose(after.asnumpy(), before.asnumpy(), atol=1e-3 * float(before.abs().max().asscalar()))


@pytest.mark.parametrize("activation", [relu, nn.PReLU, lambda: nn.LeakyReLU(0.1)])
def test_without_clips_the_network_stays_what_it_was(activation):
    net, x = spoiled(*separable(activation))
    before = net(x)
    result = equalize(net, [x])
    check_same(net(x), before)
    assert result.clipped == 0 and result.images == result.agreement == len(x) and result.deviation < 1e-4
    assert result.expected_after < result.expected_before / 10


def test_it_repairs_one_scale_per_layer():
    net, x = spoiled(*separable(relu), spread=6)
    wanted = net(x)
    untouched, _ = spoiled(*separable(relu), spread=6)
    equalize(net, [x])
    assert damage(net, x, wanted) < damage(untouched, x, wanted) / 20


def test_relu6_keeps_clipping_where_it_clipped():
    net, x = spoiled(nn.Conv2D(8, 3, padding=1), ReLU6(), nn.Conv2D(8, 1), ReLU6(), nn.Dense(5), spread=0)
    net[0].weight.set_data(net[0].weight.data() * 12)  # half of the channels reach 6, and the factors know
    before = net(x)
    assert float((net[1](net[0](x)) == 6).mean().asscalar()) > 0.05
    equalize(net, [x])
    error = ((net(x) - before) ** 2).mean() / (before ** 2).mean()
    assert float(error.asscalar()) < 1e-3
    assert any(type(block) is ReLU6 for block in net)


def test_a_channel_far_below_its_clip_is_free():
    net, x = spoiled(nn.Conv2D(8, 3, padding=1), ReLU6(), nn.Conv2D(8, 1), relu(), nn.Dense(5), spread=5)
    before = net(x)
    assert float(net[0](x).max().asscalar()) < 6
    result = equalize(net, [x])
    check_same(net(x), before)
    assert np.ptp(np.log(result.factors["0"])) > 2


@given(st.lists(st.sampled_from(["relu", "max", "avg", "conv", "depthwise", "relu6", "last"]), min_size=1, max_size=6),
       st.integers(0, 1000))
@settings(max_examples=12)
def test_any_chain_computes_the_same(kinds, seed):
    made = {"relu": relu, "relu6": ReLU6, "max": lambda: nn.MaxPool2D(2, 1), "avg": lambda: nn.AvgPool2D(2, 1),
            "conv": lambda: nn.Conv2D(4, 3, padding=1), "depthwise": lambda: nn.Conv2D(4, 3, padding=1, groups=4)}
    flat = [nn.Flatten()] if kinds[-1] == "last" else []  # a Dense flattens what it reads by itself, too
    kinds = [kind for kind in kinds if kind != "last"]
    layers = [nn.Conv2D(4, 3, padding=1), *(made[kind]() for kind in kinds), *flat, nn.Dense(3)]
    net, x = spoiled(*layers, spread=2, seed=seed, shape=(16, 3, 9, 9))
    before = net(x)
    equalize(net, [x])
    error = ((net(x) - before) ** 2).mean() / ((before ** 2).mean() + 1e-9)
    assert float(error.asscalar()) < (1e-2 if "relu6" in kinds else 1e-8)


def test_inputs_count_where_weights_have_a_scale_per_channel():
    net, x = spoiled(*separable(relu), spread=4)
    before = net(x)
    result = equalize(net, [x], Noise(4, 8, "channel"))
    assert result.expected_after < result.expected_before / 2
    check_same(net(x), before)


def test_equal_images_give_equal_factors():
    first, x = spoiled(*separable(ReLU6))
    second, _ = spoiled(*separable(ReLU6))
    one, two = equalize(first, [x]), equalize(second, [x])
    for path, factors in one.factors.items():
        np.testing.assert_array_equal(factors, two.factors[path])


def test_batchnorm_between_is_named_in_the_refusal(small_net, images):
    with pytest.raises(ConversionError, match="2 BatchNorms.*merge_bn"):
        equalize(small_net, [images])
    merge_bn(small_net)
    assert set(equalize(small_net, [images]).factors) == {"0", "3", "6"}


def test_bad_input():
    net, x = spoiled(*separable(relu))
    with pytest.raises(CalibrationError, match="no batch"):
        equalize(net, [])
    with pytest.raises(ConfigError, match="granularity must be"):
        Noise(granularity="row")
    with pytest.raises(ConfigError, match="bits must be"):
        Noise(weight_bits=1)
    convert_model(net)
    with pytest.raises(ConversionError, match="before converting"):
        equalize(net, [x])
    alone = nn.HybridSequential()
    alone.add(nn.Dense(3))
    alone.initialize()
    alone(x)
    with pytest.raises(ConversionError, match="nothing to equalize"):
        equalize(alone, [x])

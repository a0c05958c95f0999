# SPDX-License-Identifier: MIT
"""Sensitivities against as many runs of the whole network."""

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mxnet.gluon import nn

from calib.calibrators import MinMax
from calib.collect import calibrate, observe
from calib.ranges import least_squares_scale, rescaled
from calib.sensitivity import INPUT, LAYER, WEIGHT, Extent, dealt, effect, sensitivities
from quantize.convert import convert_model
from quantize.errors import CalibrationError, ConfigError
from quantize.modes import quantize_input, quantized_layers, quantizers
from quantize.reference import fake_quantize, qparams_of_range
from quantize.spec import PerChannel, QuantSpec


class Residual(nn.HybridBlock):
    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.a, self.b, self.c = nn.Conv2D(6, 3, padding=1), nn.Conv2D(6, 3, padding=1), nn.Dense(4)

    def hybrid_forward(self, F, x):
        a = F.relu(self.a(x))
        return self.c(F.relu(self.b(a)) + a)


@pytest.fixture
def net_and_images():
    mx.random.seed(0)
    net = Residual()
    net.initialize(mx.init.Xavier(magnitude=3))
    x = mx.nd.array(np.random.RandomState(0).normal(size=(40, 3, 6, 6)))
    net(x)
    convert_model(net, config_list=[{"op_types": ["Conv2D", "Dense"], "weight": "int8/channel", "input": "auto8"}])
    calibrate(net, observe(net, [x], MinMax()), MinMax())
    quantize_input(net, True, online=False)
    return net, x


def slow(net, x, bits, quantized):
    """Outputs with the chosen (layer, operand) at so many bits, by replacing weights and scales in a float network."""
    layers, kept = dict(quantized_layers(net)), {}
    for path, layer in layers.items():
        kept[path] = layer.weight.data().copy(), layer.input_quantizer, layer.weight_quantizer
        spec = layer.weight_quantizer.spec.with_(bits=bits)
        if (path, WEIGHT) in quantized:
            weight = layer.weight.data().asnumpy()
            layer.weight.set_data(mx.nd.array(fake_quantize(weight, least_squares_scale(weight, spec), spec)))
        quantizer = layer.input_quantizer
        spec = quantizer.spec.with_(bits=bits)
        ranges = rescaled(layers)(path + ".input_quantizer", spec)
        put(layer, _Rounds(ranges, spec) if (path, INPUT) in quantized else None, None)
    y = net(x).asnumpy()
    for path, layer in layers.items():
        layer.weight.set_data(kept[path][0])
        put(layer, *kept[path][1:])
    return y


def put(layer, input_quantizer, weight_quantizer):
    """Gluon refuses to exchange children for others."""
    object.__setattr__(layer, "input_quantizer", input_quantizer)
    object.__setattr__(layer, "weight_quantizer", weight_quantizer)


class _Rounds(nn.HybridBlock):
    def __init__(self, qparams, spec):
        super().__init__()
        self._qparams, self._spec = qparams, spec

    def forward(self, x):
        return mx.nd.array(fake_quantize(x.asnumpy(), self._qparams, self._spec))


def close(found, wanted):
    assert found.sqnr == pytest.approx(wanted.sqnr, abs=0.05)
    assert found.divergence == pytest.approx(wanted.divergence, rel=0.02, abs=1e-7)
    assert found.agreement == pytest.approx(wanted.agreement, abs=0.026)


def test_every_number_is_that_of_a_run_of_the_whole_network(net_and_images):
    net, x = net_and_images
    modes = {path: quantizer.mode for path, quantizer in quantizers(net)}
    found = sensitivities(net, [x[:15], x[15:]], (8, 3), extent=Extent(share=None))
    assert {path: quantizer.mode for path, quantizer in quantizers(net)} == modes
    every = {(path, operand) for path in "abc" for operand in (WEIGHT, INPUT)}
    wanted = slow(net, x, 8, set())
    assert len(found.rows) == 3 * 2 * 3 and found.images == 40
    for row in found.rows:
        chosen = {(row.layer, row.operand)} if row.operand != LAYER else {
            pair for pair in every if pair[0] != row.layer}
        close(row.effect, effect(wanted, slow(net, x, row.bits, chosen)))
    for bits, whole in found.everything.items():
        close(whole, effect(wanted, slow(net, x, bits, every)))


def test_what_comes_before_a_layer_is_computed_once(net_and_images):
    net, x = net_and_images
    found = sensitivities(net, [x], (8, 4), extent=Extent((WEIGHT, INPUT), None))
    assert found.passes < len(found.rows)
    assert found.naive == 6 and found.ratio == pytest.approx(found.passes / 6)


def test_images_are_dealt_out_so_that_the_passes_stay_within_their_share(net_and_images):
    net, _ = net_and_images
    x = mx.nd.array(np.random.RandomState(1).normal(size=(320, 3, 6, 6)))
    found = sensitivities(net, [x], (8, 6, 5, 4, 3, 2), extent=Extent(share=0.6))
    assert 0.5 < found.ratio <= 0.6 and found.images == 320
    images = {(row.layer, row.operand): row.images for row in found.rows}
    for operand in (WEIGHT, INPUT, LAYER):
        assert images["a", operand] < images["b", operand] < images["c", operand] == 320
    wanted = slow(net, x, 8, set())
    for row in (found.rows[0], found.rows[-1]):
        everything = {(path, operand) for path in "abc" if path != row.layer for operand in (WEIGHT, INPUT)}
        chosen = everything if row.operand == LAYER else {(row.layer, row.operand)}
        close(row.effect, effect(wanted[:row.images], slow(net, x[:row.images], row.bits, chosen)))


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=30), st.floats(0.1, 1), st.integers(1, 40))
def test_dealt_costs_are_within_the_budget(costs, share, parts):
    found = dealt(costs, share * sum(costs), parts)
    assert all(1 <= count <= parts for count in found)
    assert all(one >= two for (a, one), (b, two) in zip(zip(costs, found), list(zip(costs, found))[1:]) if a <= b)
    spent = sum(cost * count / parts for cost, count in zip(costs, found) if count > 1)
    assert spent <= share * sum(costs) * (1 + 1e-9)
    assert share < 1 or found == [parts] * len(costs)


def test_dealt_by_hand():
    assert dealt([1, 0.5, 0.25], 1.25, 8) == [4, 8, 8]
    assert dealt([1, 1], 0, 8) == [1, 1] and dealt([], 1, 8) == []


def test_labels_are_counted(net_and_images):
    net, x = net_and_images
    labels = net(x).asnumpy().argmax(1)
    found = sensitivities(net, [x], (8,), labels=labels, extent=Extent((WEIGHT,), None))
    assert all(0 <= row.effect.top1 <= 40 for row in found.rows)
    assert found.table(WEIGHT)["a"][8].top1 > 30


def test_fewer_bits_do_more_harm(net_and_images):
    net, x = net_and_images
    table = sensitivities(net, [x], (8, 5, 2), extent=Extent(share=None)).table(WEIGHT)
    for of_layer in table.values():
        assert of_layer[8].sqnr > of_layer[5].sqnr > of_layer[2].sqnr
        assert of_layer[8].divergence < of_layer[2].divergence


def test_effect_by_its_definition():
    wanted = np.array([[0.0, 1.0], [2.0, 0.0]])
    outputs = np.array([[0.0, 1.0], [0.0, 1.0]])
    p, q = np.exp([2.0, 0.0]), np.exp([0.0, 1.0])
    p, q = p / p.sum(), q / q.sum()
    found = effect(wanted, outputs, np.array([1, 1]))
    assert found.divergence == pytest.approx((p * np.log(p / q)).sum() / 2)
    assert found.sqnr == pytest.approx(10 * np.log10(5 / 5))
    assert (found.agreement, found.top1) == (0.5, 2)
    assert effect(wanted, wanted).sqnr == float("inf")


def test_ranges_of_other_bits_cover_the_same(net_and_images):
    net, _ = net_and_images
    layers = dict(quantized_layers(net))
    for bits in (8, 4):
        spec = layers["a"].input_quantizer.spec.with_(bits=bits)
        found = rescaled(layers)("a.input_quantizer", spec)
        expected = layers["a"].input_quantizer.get_qparams().scale * 127 / spec.qmax
        np.testing.assert_allclose(found.scale, expected, rtol=1e-6)


def test_the_least_squares_scale_is_the_best_of_those_tried():
    random = np.random.RandomState(0)
    weight = random.standard_t(3, size=(5, 40)).astype(np.float32)
    spec = QuantSpec(3, granularity=PerChannel(0))
    found = least_squares_scale(weight, spec)
    error = np.square(fake_quantize(weight, found, spec) - weight).sum(1)
    for row in range(5):
        plain = spec.with_(granularity=QuantSpec().granularity)
        tries = [qparams_of_range(-share * np.abs(weight[row]).max(), 0, plain) for share in np.linspace(1, 0.4, 13)]
        best = min(np.square(fake_quantize(weight[row], t, plain) - weight[row]).sum() for t in tries)
        assert error[row] == pytest.approx(best, rel=1e-5)


def test_bad_input(net_and_images):
    net, x = net_and_images
    for bits in ((), (1,), (16,)):
        with pytest.raises(ConfigError, match="2 to 8"):
            sensitivities(net, [x], bits)
    with pytest.raises(CalibrationError, match="no batch"):
        sensitivities(net, [])
    with pytest.raises(ConfigError, match="must be positive"):
        Extent(share=0)

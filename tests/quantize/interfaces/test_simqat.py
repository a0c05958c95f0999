# SPDX-License-Identifier: MIT
"""SimQAT on Gluon networks: the steps of its page, every key, export."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon
from mxnet.gluon import nn

from quantize.errors import ConfigError, ConversionError
from quantize.interfaces.simqat import SimQAT, SimulatedQuantizationAwareTraining
from quantize.modes import quantizers
from quantize.nn import BypassBatchNorm


def specs_of(net):
    return {path: str(quantizer.spec) for path, quantizer in quantizers(net)}


def modes_of(net, kind):
    return {quantizer.mode for _, quantizer in quantizers(net, kind)}


def test_a_network_gets_three_quantizers_for_each_layer(small_net):
    net = SimQAT().apply(small_net)
    assert net is small_net
    formats = specs_of(net)
    assert set(formats) == {f"{layer}.{operand}_quantizer" for layer in "036"
                            for operand in ("input", "weight", "output")}
    assert {formats[f"{layer}.{operand}_quantizer"] for layer in "036" for operand in ("input", "output")} == {
        "int8 asymmetric/layer"}
    assert {formats[f"{layer}.weight_quantizer"] for layer in "036"} == {"int8 asymmetric/channel"}
    # the decay of Golden Stick's ranges
    assert {quantizer.momentum for _, quantizer in quantizers(net, "activation")} == {0.999}
    assert (quantizers_of(net)["0.weight_quantizer"].spec.qmin) == -128
    assert (modes_of(net, "activation"), modes_of(net, "weight")) == ({"ema"}, {"online"})


def quantizers_of(net):
    return dict(quantizers(net))


@pytest.mark.parametrize("config", [
    {}, {"per_channel": (False, True), "symmetric": (False, True), "bn_fold": True},
    {"symmetric": True, "narrow_range": [True, True], "bn_fold": True, "one_conv_fold": False, "freeze_bn": 6},
    {"quant_delay": (4, 2), "ema_decay": 0.9, "enable_fusion": True},
])
def test_the_loop_trains_and_an_exported_graph_computes_the_same(config, small_net, images, trainer, fit, tmp_path):
    algo = SimQAT(config)
    net = algo.apply(small_net)
    net.hybridize()
    algo.count_steps(trainer)
    losses = fit(12)
    assert losses[-1] < 0.7 * losses[0] and algo.steps == 12
    algo.eval()
    expected = net(images).asnumpy()
    np.testing.assert_array_equal(net(images).asnumpy(), expected)
    net.export(str(tmp_path / "net"))
    imported = gluon.SymbolBlock.imports(str(tmp_path / "net-symbol.json"), ["data"], str(tmp_path / "net-0000.params"))
    np.testing.assert_allclose(imported(images).asnumpy(), expected, rtol=1e-5, atol=1e-5)
    algo.train()
    assert modes_of(net, "activation") == {"ema"}


def test_a_checkpoint_comes_back(small_net, images, trainer, fit, tmp_path):
    algo = SimQAT()
    algo.apply(small_net)
    algo.count_steps(trainer)
    fit(3)
    small_net.save_parameters(str(tmp_path / "net.params"))
    algo.eval()
    expected = small_net(images).asnumpy()
    algo.train()
    fit(3)
    small_net.load_parameters(str(tmp_path / "net.params"))
    algo.steps = 3
    algo.eval()
    np.testing.assert_array_equal(small_net(images).asnumpy(), expected)


@pytest.mark.parametrize("config, formats", [
    ({}, ("int8 asymmetric/layer", "int8 asymmetric/channel")),
    ({"per_channel": False}, ("int8 asymmetric/layer", "int8 asymmetric/layer")),
    ({"symmetric": (True, True), "per_channel": False}, ("int8/layer/full", "int8/layer/full")),
    ({"quant_dtype": ("INT8", "INT4"), "symmetric": (False, True)}, ("int8 asymmetric/layer", "int4/channel/full")),
    ({"quant_dtype": "QuantDtype.INT6"}, ("int6 asymmetric/layer", "int6 asymmetric/channel")),
])
def test_pairs_are_activations_and_weights(small_net, config, formats):
    net = SimQAT(config).apply(small_net)
    assert tuple(specs_of(net)["0." + name] for name in ("input_quantizer", "weight_quantizer")) == formats


def test_symmetric_activations_are_unsigned_where_that_is_proven(small_net):
    formats = specs_of(SimQAT({"symmetric": True}).apply(small_net))
    assert [formats[layer + ".input_quantizer"] for layer in "036"] == [
        "int8/layer/full", "uint8/layer", "uint8/layer"]
    assert formats["3.output_quantizer"] == "int8/layer/full"


@pytest.mark.parametrize("narrow, symmetric, codes", [
    (False, False, (-128, 127)), (True, False, (-127, 127)), (False, True, (-128, 127)), (True, True, (-127, 127))])
def test_narrow_range_leaves_the_lowest_code_out(small_net, narrow, symmetric, codes):
    net = SimQAT({"narrow_range": (False, narrow), "symmetric": (False, symmetric)}).apply(small_net)
    spec = quantizers_of(net)["0.weight_quantizer"].spec
    assert (spec.qmin, spec.qmax) == codes


def test_quantizers_wait_and_batchnorm_freezes(small_net, trainer, fit, caplog):
    algo = SimQAT({"quant_delay": (3, 1), "freeze_bn": 4})
    net = algo.apply(small_net)
    assert "call count_steps(trainer)" in caplog.text
    algo.count_steps(trainer)
    seen = []
    for _ in range(6):
        seen.append((modes_of(net, "activation"), modes_of(net, "weight"), net[1]._kwargs["use_global_stats"]))
        fit(1)
    assert seen == [({"float"}, {"float"}, False), ({"float"}, {"online"}, False), ({"float"}, {"online"}, False),
                    ({"ema"}, {"online"}, False), ({"ema"}, {"online"}, True), ({"ema"}, {"online"}, True)]


@pytest.mark.parametrize("one_conv, statistics", [(True, "batch"), (False, "corrected")])
def test_batchnorm_is_folded(small_net, one_conv, statistics):
    net = SimQAT({"bn_fold": True, "one_conv_fold": one_conv}).apply(small_net)
    assert isinstance(net[1], BypassBatchNorm) and net[0].norm.statistics == statistics


def test_ranges_decay_as_asked(small_net, images):
    net = SimQAT({"ema_decay": 0.5}).apply(small_net)
    for scale in (1, 3):
        net(images * scale)
    mx.nd.waitall()
    peak = images.asnumpy().max(axis=(1, 2, 3)).mean()
    low, high, weight = net[0].input_quantizer.ema.data().asnumpy()
    assert weight == pytest.approx(0.75) and high / weight == pytest.approx(peak * (0.25 + 1.5) / 0.75, rel=1e-5)


@pytest.mark.parametrize("config, message", [
    ({"quant_delays": 3}, "unknown key 'quant_delays'.*did you mean 'quant_delay'"),
    ({"quant_delay": -1}, "'quant_delay' must be a number of steps from 0 or a pair"),
    ({"quant_delay": (1, 2, 3)}, "'quant_delay' must be .* got \\(1, 2, 3\\)"),
    ({"quant_dtype": "FLOAT16"}, "'quant_dtype' must be INT1 to INT16"),
    ({"per_channel": True}, "'per_channel': activations have one scale for a layer: write \\(False, True\\)"),
    ({"symmetric": 1}, "'symmetric' must be true or false"),
    ({"narrow_range": (True, None)}, "'narrow_range' must be true or false"),
    ({"bn_fold": (True, True)}, "'bn_fold' must be true or false, got \\(True, True\\)"),
    ({"freeze_bn": 0.5}, "'freeze_bn' must be a number of steps"),
    ({"ema_decay": 1}, "'ema_decay' must be a number from 0 to below 1"),
    ([], "config must be a dictionary"),
])
def test_errors_name_the_key(config, message):
    with pytest.raises(ConfigError, match=message):
        SimQAT(config if config != [] else [1])


def test_misuse(small_net):
    algo = SimQAT()
    with pytest.raises(ConfigError, match="not converted yet"):
        algo.eval()
    algo.apply(small_net)
    with pytest.raises(ConversionError, match="applied to a network already"):
        algo.apply(small_net)
    net = nn.HybridSequential()
    net.add(nn.Activation("relu"))
    with pytest.raises(ConfigError, match="no Conv2D"):
        SimQAT().apply(net)


def test_it_has_golden_sticks_name():
    assert SimulatedQuantizationAwareTraining is SimQAT


@pytest.mark.parametrize(("method", "value", "key", "expected"), [
    ("set_act_quant_delay", 5, "quant_delay", (5, 0)), ("set_weight_quant_delay", 7, "quant_delay", (0, 7)),
    ("set_act_quant_dtype", "INT4", "quant_dtype", ("INT4", "INT8")),
    ("set_weight_quant_dtype", "INT4", "quant_dtype", ("INT8", "INT4")),
    ("set_act_per_channel", False, "per_channel", (False, True)),
    ("set_weight_per_channel", False, "per_channel", (False, False)),
    ("set_act_symmetric", True, "symmetric", (True, False)), ("set_weight_symmetric", True, "symmetric", (False, True)),
    ("set_act_narrow_range", True, "narrow_range", (True, False)),
    ("set_weight_narrow_range", True, "narrow_range", (False, True)),
    ("set_bn_fold", True, "bn_fold", True), ("set_one_conv_fold", False, "one_conv_fold", False),
    ("set_enable_fusion", True, "enable_fusion", True), ("set_freeze_bn", 9, "freeze_bn", 9),
])
def test_methods_change_one_key(small_net, method, value, key, expected):
    algo, untouched = SimQAT(), dict(SimQAT().config)
    getattr(algo, method)(value)
    assert algo.config.pop(key) == expected
    del untouched[key]
    assert algo.config == untouched
    other = SimQAT()
    other.apply(small_net)
    with pytest.raises(ConversionError, match="was applied to a network already"):
        getattr(other, method)(value)


@pytest.mark.parametrize(("method", "value", "message"), [
    ("set_act_per_channel", True, "activations have one scale"),
    ("set_weight_quant_dtype", "FLOAT", "'quant_dtype' must"),
    ("set_bn_fold", 1, "'bn_fold' must be true or false"), ("set_freeze_bn", -1, "'freeze_bn' must be")])
def test_methods_check_their_values(method, value, message):
    algo = SimQAT()
    with pytest.raises(ConfigError, match=message):
        getattr(algo, method)(value)


def test_what_was_set_is_applied(small_net):
    algo = SimQAT()
    algo.set_weight_quant_dtype("INT4")
    algo.set_weight_symmetric(True)
    algo.set_bn_fold(True)
    net = algo.apply(small_net)
    assert specs_of(net)["0.weight_quantizer"] == "int4/channel/full" and isinstance(net[1], BypassBatchNorm)

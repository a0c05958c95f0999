# SPDX-License-Identifier: MIT
"""A training script as the README of Quantization.MXNet shows it runs as it is."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon
from mxnet.gluon import nn

from quantize.convert import (
    bypass_bn,
    convert_model,
    default_convert_fn,
    gen_act_converter,
    gen_conv2d_converter,
    gen_dense_converter,
)
from quantize.errors import ConfigError
from quantize.initialize import qparams_init
from quantize.modes import quantizers
from quantize.nn import BypassBatchNorm

FOLDED = {nn.Conv2D: gen_conv2d_converter(weight_width=4, quant_type="channel", input_width=4, fake_bn=True),
          nn.Dense: gen_dense_converter(weight_width=4, input_width=4), nn.Activation: None, nn.BatchNorm: bypass_bn}
PLAIN = {nn.Conv2D: gen_conv2d_converter(quant_type="layer"), nn.Dense: gen_dense_converter()}


@pytest.mark.parametrize("hybridize", [False, True])
@pytest.mark.parametrize("convert_fn", [None, PLAIN, FOLDED], ids=["default", "table", "fake_bn"])
def test_the_script_runs(small_net, images, labels, convert_fn, hybridize, tmp_path):
    net, exclude = small_net, [small_net[0]]
    if convert_fn is None:
        convert_model(net, exclude)
    else:
        convert_model(net, exclude, convert_fn)
    qparams_init(net)
    if hybridize:
        net.hybridize()
    loss_func = gluon.loss.SoftmaxCrossEntropyLoss()
    trainer = gluon.Trainer(net.collect_params(), "adam", {"learning_rate": 0.01})
    losses = []
    for _ in range(10):
        with autograd.record():
            outputs = net(images)
            loss = loss_func(outputs, labels)
        net.update_ema()
        loss.backward()
        trainer.step(len(images), ignore_stale_grad=True)
        losses.append(float(loss.mean().asscalar()))
    assert losses[-1] < 0.7 * losses[0]
    online = evaluated(net, images, online=True)
    offline = evaluated(net, images, online=False)
    assert all(quantizer.calibrated for _, quantizer in quantizers(net, "activation"))
    assert 0 < np.abs(offline - online).max() < 0.5 * np.abs(online).max()
    net.disable_quantize()
    plain = net(images).asnumpy()
    net.enable_quantize()
    assert np.abs(net(images).asnumpy() - plain).max() > 0
    net.save_parameters(str(tmp_path / "net.params"))
    mx.nd.load(str(tmp_path / "net.params"))


def evaluated(net, images, online):
    net.quantize_input(enable=True, online=online)
    return net(images).asnumpy()


def test_fake_bn_folds_the_layers_that_ask_for_it(small_net, images):
    """BatchNorms that nothing folds compute on, though the table bypasses BatchNorm."""
    convert_model(small_net, [small_net[0]], FOLDED)
    assert type(small_net[1]) is nn.BatchNorm and isinstance(small_net[4], BypassBatchNorm)
    assert small_net[3].norm is not None
    before = small_net[4].running_mean.data().asnumpy()
    with autograd.record():
        loss = small_net(images).sum()
    loss.backward()
    mx.nd.waitall()
    assert (small_net[4].running_mean.data().asnumpy() != before).any()


def entries_of(net):
    return {entry.path: entry for entry in net.plan.entries}


def test_converters_take_their_arguments_in_the_predecessors_order(small_net):
    net = convert_model(small_net, [], {nn.Conv2D: gen_conv2d_converter(4, "channel", True, True, 6, False),
                                        nn.Dense: gen_dense_converter(5, False, 7, True, "channel")})
    entries = entries_of(net)
    assert [(entries[path].weight.bits, entries[path].input.bits) for path in ("0", "3", "6")] == [
        (4, 6), (4, 6), (5, 7)]
    assert entries["3"].input.signed and not entries["6"].input.signed
    assert all(str(entry.weight).endswith("/channel") for entry in entries.values() if entry.weight)


@pytest.mark.parametrize("arguments", [(8, "layer", False), (8, "layer", False, True, 4)])
def test_the_third_argument_leaves_inputs_float(small_net, arguments):
    net = convert_model(small_net, [], {nn.Conv2D: gen_conv2d_converter(*arguments)})
    assert entries_of(net)["3"].input is None and entries_of(net)["3"].weight is not None


def test_the_order_that_once_was_here_is_told_apart():
    with pytest.raises(ConfigError, match="quantize_input must be true or false, got 'auto'"):
        gen_conv2d_converter(8, "layer", "auto")


def test_activations_can_be_left_float(small_net):
    convert_fn = {nn.Conv2D: gen_conv2d_converter(), nn.Activation: gen_act_converter(width=4, quantize_act=False)}
    assert not any(entry.output for entry in convert_model(small_net, [], convert_fn).plan.entries)


def test_a_table_of_functions_alone(small_net, images):
    seen = []
    net = convert_model(small_net, [small_net[0]], {nn.Conv2D: seen.append, nn.BatchNorm: bypass_bn})
    assert seen == [small_net[3]]  # the excluded one is nobody's
    assert isinstance(small_net[1], BypassBatchNorm) and not net.collect_quantized_blocks()
    assert net(images).shape == (4, 5)
    net.update_ema()


def test_excluded_blocks_are_given_to_no_function(small_net):
    convert_model(small_net, [small_net[1]], {nn.Conv2D: gen_conv2d_converter(), nn.BatchNorm: bypass_bn})
    assert type(small_net[1]) is nn.BatchNorm and isinstance(small_net[4], BypassBatchNorm)


def test_custom_fn_by_position_and_by_name(small_net, images):
    seen, dense = [], small_net[6]
    net = convert_model(small_net, [], PLAIN, {small_net[0]: gen_conv2d_converter(weight_width=3), small_net[3]: None,
                                               dense: seen.append})
    entries = entries_of(net)
    assert entries["0"].weight.bits == 3 and "custom_fn" in entries["0"].reason
    assert not entries["3"].quantized and not entries["6"].quantized
    assert seen == [dense] and net(images).shape == (4, 5)


def test_custom_fn_alone_with_the_default_table(small_net):
    new = nn.Dense(5, in_units=288)
    new.initialize()
    convert_model(small_net, custom_fn={small_net[6]: lambda block: new, small_net[1]: bypass_bn})
    assert small_net[6] is new and isinstance(small_net[1], BypassBatchNorm) and type(small_net[4]) is nn.BatchNorm


@pytest.mark.parametrize(("custom_fn", "message"), [
    (lambda net: {nn.Dense(2): None}, "is no block of this network"),
    (lambda net: {"0": None}, "'0' is no block of this network"),
    (lambda net: {net[0]: 8}, "expected a converter, a function or None, got 8"),
    (lambda net: {net[1]: gen_conv2d_converter()}, "a BatchNorm cannot be quantized; give a function"),
])
def test_custom_fn_is_checked(small_net, custom_fn, message):
    with pytest.raises(ConfigError, match=message):
        convert_model(small_net, custom_fn=custom_fn(small_net))


def test_qparams_init_takes_the_names_of_the_predecessor(small_net):
    convert_model(small_net)
    assert qparams_init(small_net, "conv", "batchnorm") is small_net
    assert qparams_init(small_net, conv_name="conv", bn_name="bn") is small_net


def test_the_default_table_is_a_dictionary_and_makes_copies(small_net):
    changed = default_convert_fn()
    changed[nn.Activation] = gen_act_converter()
    assert default_convert_fn[nn.Activation] is None and default_convert_fn[nn.BatchNorm] is None
    net = convert_model(small_net, [], default_convert_fn)
    assert [entry.weight.bits for entry in net.plan.entries] == [8, 8, 8]

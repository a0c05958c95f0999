# SPDX-License-Identifier: MIT
"""A training script as the README of Quantization.MXNet shows it runs as it is."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon
from mxnet.gluon import nn

from quantize.convert import bypass_bn, convert_model, gen_conv2d_converter, gen_dense_converter
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

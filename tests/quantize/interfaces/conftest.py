# SPDX-License-Identifier: MIT
"""A network and a training loop as users of other tools have them."""

import mxnet as mx
import pytest
from mxnet import autograd, gluon

from quantize.interfaces.nni import reset_quant_scheme_dtype


@pytest.fixture
def labels():
    """Of the four images."""
    return mx.nd.array([0, 1, 2, 3])


@pytest.fixture
def trainer(small_net):
    """Made before the network is quantized."""
    return gluon.Trainer(small_net.collect_params(), "sgd", {"learning_rate": 0.02, "momentum": 0.9})


@pytest.fixture
def fit(small_net, images, labels, trainer):
    """The loop as it was before quantization: function of a number of steps; losses."""
    def run(steps):
        loss_function, losses = gluon.loss.SoftmaxCrossEntropyLoss(), []
        for _ in range(steps):
            with autograd.record():
                loss = loss_function(small_net(images), labels)
            loss.backward()
            trainer.step(len(images))
            losses.append(float(loss.mean().asscalar()))
        return losses
    return run


@pytest.fixture(autouse=True)
def usual_defaults():
    """What `set_quant_scheme_dtype` chose ends with the test."""
    yield
    reset_quant_scheme_dtype()

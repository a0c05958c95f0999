# SPDX-License-Identifier: MIT
"""Run by the workers of `test_workers.py`, and by the test itself with one worker: two short trainings.

    python distributed.py FOLDER        writes FOLDER/RANK.npz
"""

import pathlib
import sys

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon
from mxnet.gluon import nn

from gluon_quantize.training.workers import Workers
from quantize.convert import convert_model, fake_bn
from quantize.modes import quantizers
from quantize.train import quantizer_parameters, start_training, weight_parameters

BATCH, STEPS = 32, 25
CONFIG = [{"op_names": ["0"], "weight": "int4/channel", "input": "int4"},
          {"op_names": ["4"], "weight": "int4/channel", "input": "auto4", "method": "lsq"},
          {"op_names": ["8"], "weight": "int8", "input": "auto8"}]


def digits():
    """(images (1797, 1, 8, 8) in 0..1, labels) of the embedded digits."""
    root = pathlib.Path(__file__).resolve().parents[2]
    data = np.load(str(root / "examples" / "gluon_quantize" / "assets" / "digits.npz"))
    return np.float32(data["x"]).reshape(-1, 1, 8, 8) / 16, np.float32(data["y"])


def network(norm):
    """conv, BN, ReLU, pool; conv, BN, ReLU, global mean; Dense. Each worker starts from weights of its own."""
    net = nn.HybridSequential(prefix="net_")
    with net.name_scope():
        for channels in (8, 16):
            net.add(nn.Conv2D(channels, 3, padding=1, use_bias=not norm), *([nn.BatchNorm()] if norm else []),
                    nn.Activation("relu"), nn.MaxPool2D(2))
        net.add(nn.Dense(10))
    net.initialize(mx.init.Xavier())
    net(mx.nd.zeros((2, 1, 8, 8)))
    return net


def train(net, trainers, workers):
    """Loss of each step, over the images of all workers."""
    images, labels = digits()
    loss_function, losses = gluon.loss.SoftmaxCrossEntropyLoss(), []
    indices = workers.share(np.random.RandomState(0).permutation(len(images))[:BATCH * STEPS])
    mine = workers.batch_size(BATCH)
    for start in range(0, len(indices), mine):
        chosen = indices[start:start + mine]
        with autograd.record():
            loss = loss_function(net(mx.nd.array(images[chosen])), mx.nd.array(labels[chosen]))
        loss.backward()
        workers.sum_gradients(net)
        for trainer in trainers:
            trainer.step(BATCH)
        losses.append(workers.sum([loss.sum().reshape(1)])[0].asscalar() / BATCH)
    workers.average_statistics(net)
    return losses


def float_run(workers):
    """No BatchNorm: the same sums as with one worker."""
    net = network(norm=False)
    workers.broadcast(net)
    net.hybridize()
    return net, train(net, [gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.2, "momentum": 0.9},
                                          kvstore=None)], workers)


def quantized_run(workers):
    """Folded BatchNorm, moving averages of ranges, trained steps with an optimizer of their own."""
    net = convert_model(network(norm=True), config_list=CONFIG)
    fake_bn(net)
    start_training(net, mx.nd.array(digits()[0][:64 + workers.rank]))
    workers.broadcast(net)
    net.hybridize(static_alloc=True, static_shape=True)
    trainers = [gluon.Trainer(weight_parameters(net), "sgd", {"learning_rate": 0.1, "momentum": 0.9}, kvstore=None),
                gluon.Trainer(quantizer_parameters(net), "adam", {"learning_rate": 0.01}, kvstore=None)]
    losses = train(net, trainers, workers)
    assert {quantizer.mode for _, quantizer in quantizers(net, "activation")} == {"ema", "offline"}
    return net, losses


def results(workers, seed):
    """name -> array: losses and parameters of both runs."""
    found = {}
    for name, run in (("float", float_run), ("quantized", quantized_run)):
        mx.random.seed(seed)
        np.random.seed(seed)
        net, losses = run(workers)
        found[name + ":losses"] = losses
        found.update({f"{name}:{key}": p.data().asnumpy() for key, p in net.collect_params().items()})
    return found


if __name__ == "__main__":
    with Workers.connect() as joined:
        np.savez(str(pathlib.Path(sys.argv[1]) / f"{joined.rank}.npz"), **results(joined, seed=joined.rank))

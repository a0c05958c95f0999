# SPDX-License-Identifier: MIT
"""Train `digits_lenet` on the embedded digits and save its weights; some ten seconds on one core."""

import argparse
import pathlib
import sys

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon
from tqdm import tqdm

from gluon_quantize.commands.parser import Parser
from gluon_quantize.commands.running import unix_output
from gluon_quantize.data import preprocess
from gluon_quantize.data.datasets import batches, open_dataset
from gluon_quantize.models.nets import digits_lenet
from gluon_quantize.models.params import save_params
from gluon_quantize.training.workers import NONE, Workers
from quantize.errors import QuantizeError

OUTPUT = "digits_lenet.params"  # in the current folder: the embedded weights are only replaced by name


def parse_args(argv=None):
    """The options of the command line."""
    def positive(text):
        value = int(text)
        if value < 1:
            raise argparse.ArgumentTypeError(f"{value} is less than 1")
        return value

    parser = Parser(description=__doc__)
    parser.add_argument("--epochs", type=positive, default=40, help="passes over the training images")
    parser.add_argument("--lr", type=float, default=0.004, help="learning rate of Adam at the start; falls to 0")
    parser.add_argument("--batch-size", type=positive, default=32, help="images per step")
    parser.add_argument("--seed", type=int, default=0, help="of the start weights and the order of the images")
    parser.add_argument("--kvstore", default=NONE, help="dist_sync: one of the workers of train_distributed.py")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(OUTPUT), help="parameter file to write")
    return parser.parse_args(argv)


def accuracy(net, dataset):
    """Share of the images whose largest logit is at the label."""
    right = sum(int((net(images).argmax(axis=1).asnumpy() == labels).sum())
                for images, labels in batches(dataset, preprocess.digits(), 128))
    return right / len(dataset)


def train(net, dataset, args, workers):
    """Train `net` in place: Adam, cosine learning rate, cross entropy."""
    trainer = gluon.Trainer(net.collect_params(), "adam", {"learning_rate": args.lr, "wd": 1e-4}, kvstore=None)
    batch_size = workers.batch_size(args.batch_size)
    loss_of = gluon.loss.SoftmaxCrossEntropyLoss()
    order = np.random.RandomState(args.seed)
    # disable=None: a bar on a terminal, nothing in a log.
    for epoch in tqdm(range(args.epochs), desc="training", unit="epoch", disable=None):
        trainer.set_learning_rate(args.lr * 0.5 * (1 + np.cos(np.pi * epoch / args.epochs)))
        indices = workers.share(order.permutation(len(dataset)))
        for images, labels in batches(dataset, preprocess.digits(), batch_size, indices):
            with autograd.record():
                loss = loss_of(net(images), mx.nd.array(labels))
            loss.backward()
            workers.sum_gradients(net)
            trainer.step(len(labels) * workers.count)
        workers.average_statistics(net)


def main(argv=None):
    """Train, save and print the accuracy on the test images."""
    args = parse_args(argv)
    mx.random.seed(args.seed)
    net = digits_lenet()
    net.initialize(mx.init.Xavier())
    net.hybridize()
    with Workers.connect(args.kvstore) as workers:
        net(mx.nd.zeros((1, 1, 8, 8)))
        workers.broadcast(net)
        train(net, open_dataset("digits", split="train"), args, workers)
    if workers.rank:
        return
    args.output.parent.mkdir(parents=True, exist_ok=True)
    save_params(net, args.output)
    test = open_dataset("digits", split="test")
    print(f"{args.output}: {accuracy(net, test):.2%} on {len(test)} test images")


if __name__ == "__main__":
    with unix_output():
        try:
            main()
        except QuantizeError as error:
            sys.exit(f"error: {error}")

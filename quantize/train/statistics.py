# SPDX-License-Identifier: MIT
"""BatchNorm statistics measured anew, after training."""

import contextlib
from typing import Any, Callable, Iterable, Iterator, Tuple

import numpy as np
from mxnet import autograd, nd
from mxnet.gluon import Block

from quantize.errors import CalibrationError
from quantize.modes import eager, quantized_layers
from quantize.nn.batchnorm import is_batchnorm
from quantize.tree import walk


class _Moments:
    """Count, mean and sum of squared deviations of each channel, over all tensors seen (Chan's update)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def update(self, z: nd.NDArray) -> None:
        """One tensor (images, channels, ...)."""
        values = np.moveaxis(z.asnumpy(), 1, 0).reshape(z.shape[1], -1).astype(np.float64)
        count, mean = values.shape[1], values.mean(axis=1)
        shift, total = mean - self.mean, self.count + count
        self.squares = self.squares + values.var(axis=1) * count + shift ** 2 * self.count * count / total
        self.mean = self.mean + shift * count / total
        self.count = total

    def store(self, block: Block) -> None:
        """Let a BatchNorm have these statistics."""
        block.running_mean.set_data(nd.array(self.mean))
        block.running_var.set_data(nd.array(self.squares / self.count))


def reestimate_bn(net: Block, batches: Iterable) -> int:
    """Replace every BatchNorm's running statistics by those of these batches; returns how many BatchNorms there were.

    The moving averages of training lag behind the weights and the rounding; here all batches count alike, and no weight
    changes. The network runs in training mode (each batch normalized by itself), not hybridized and without gradients.
    Folded BatchNorms are rounded by the old statistics while the new ones are measured: a second call brings the rest.

    Parameters
    ----------
    batches : iterable of NDArray
        Images; a few hundred to a few thousand in all.
    """
    moments = {}
    with eager(net), autograd.train_mode(), contextlib.ExitStack() as undo:
        for block, watch in _norms(net):
            moments[block] = _Moments()
            undo.callback(watch(moments[block].update))
        count = 0
        for batch in batches:
            net(batch).wait_to_read()
            count += 1
    if moments and not count:
        raise CalibrationError("BatchNorm statistics cannot be measured: no batch came")
    for block, measured in moments.items():
        if measured.count:
            measured.store(block)
    return len(moments)


def _norms(net: Block) -> Iterator[Tuple[Block, Callable]]:
    """(BatchNorm, function that hands every normalized tensor to a callable, and returns what ends that)."""
    for _, layer in quantized_layers(net):
        norm = layer.norm
        if norm is not None:
            def watch_folded(update: Callable, norm: Any = norm) -> Callable:
                norm.watcher = update
                return lambda: setattr(norm, "watcher", None)
            yield norm.block, watch_folded
    for _, block in walk(net):
        if is_batchnorm(block) and block._kwargs["axis"] == 1:
            def watch(update: Callable, block: Block = block) -> Callable:
                return block.register_forward_pre_hook(lambda _, inputs: update(inputs[0])).detach
            yield block, watch

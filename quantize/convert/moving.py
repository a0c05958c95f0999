# SPDX-License-Identifier: MIT
"""Quantization.MXNet's `update_ema`: the ranges of the last batch join the moving averages, in whatever mode it ran."""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np
from mxnet import autograd, nd
from mxnet.gluon import Block

from quantize.errors import ConfigError
from quantize.modes import clear_cached_graphs, eager, quantizers, update_ema
from quantize.nn.fake_quantize import FakeQuantize


class LastBatch(NamedTuple):
    """What a network computed last: its inputs, and whether it was training."""

    inputs: Tuple[Any, ...]
    training: bool

    @classmethod
    def of(cls, inputs: Sequence[Any]) -> Optional["LastBatch"]:
        """None where the network was called with symbols, which is how it is traced."""
        if not inputs or not all(isinstance(item, nd.NDArray) for item in inputs):
            return None
        return cls(tuple(item.detach() for item in inputs), autograd.is_training())


def follow_last_batch(net: Block, last: Optional[LastBatch], momentum: Optional[float] = None) -> None:
    """Take the last batch into the ranges of all activations that train no range of their own.

    Activations in `ema` mode have seen it already. For others, which compute with each batch's range, with the stored
    one or in float, the batch goes through the network once more, eagerly; those with each batch's range are in `ema`
    mode from then on, all others stay as they are.

    Parameters
    ----------
    momentum : float, optional
        Of the averages from now on.
    """
    nd.waitall()
    chosen = [quantizer for _, quantizer in quantizers(net, "activation")]
    changed = momentum is not None and _set_momentum(chosen, momentum)
    behind = [quantizer for quantizer in chosen if quantizer.mode in ("online", "offline", "float")
              and quantizer.training_mode == "online"]
    if behind and last is not None:
        _see(net, last, behind)
    for quantizer in behind:
        quantizer.update_ema()
    update_ema(net)
    beginning = [quantizer for quantizer in behind if quantizer.mode == "online"]
    for quantizer in beginning:
        quantizer.mode = "ema"
    if changed or beginning:
        clear_cached_graphs(net)


def _set_momentum(chosen: List[FakeQuantize], momentum: float) -> bool:
    """Whether that changed anything."""
    if not isinstance(momentum, (int, float)) or isinstance(momentum, bool) or not 0 <= momentum < 1:
        raise ConfigError(f"update_ema: momentum must be a number from 0 to below 1, got {momentum!r}")
    before = {quantizer.momentum for quantizer in chosen}
    for quantizer in chosen:
        quantizer.momentum = float(momentum)
    return before != {momentum}


def _see(net: Block, last: LastBatch, behind: List[FakeQuantize]) -> None:
    """The batch once more; what it changes beside the averages of `behind` is changed back."""
    seen: Dict[int, Tuple[float, float]] = {}

    def look(quantizer: FakeQuantize, inputs: Tuple[nd.NDArray, ...]) -> None:
        images = inputs[0].asnumpy().reshape(inputs[0].shape[0], -1)
        # layers that share a quantizer read one tensor
        seen.setdefault(id(quantizer), (np.minimum(images.min(axis=1), 0).mean(),
                                        np.maximum(images.max(axis=1), 0).mean()))
    statistics = [(parameter, parameter.data().copy()) for parameter in net.collect_params().values()
                  if parameter.grad_req == "null" and parameter._data is not None]
    handles = [quantizer.register_forward_pre_hook(look) for quantizer in behind]
    try:
        # eagerly: hooks see arrays there alone
        with eager(net), autograd.pause(train_mode=last.training):
            net.forward(*last.inputs)
        nd.waitall()
    finally:
        for handle in handles:
            handle.detach()
        for parameter, values in statistics:
            parameter.set_data(values)
    for quantizer in behind:
        if id(quantizer) in seen:
            _add(quantizer, seen[id(quantizer)])


def _add(quantizer: FakeQuantize, extremes: Tuple[float, float]) -> None:
    state, share = quantizer.ema.data().asnumpy(), np.float32(1 - quantizer.momentum)
    new = np.array([*extremes, 1], np.float32)
    quantizer.ema.set_data(mx.nd.array(np.float32(quantizer.momentum) * state + share * new))

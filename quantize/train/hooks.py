# SPDX-License-Identifier: MIT
"""Hooks of a training loop: each is told the number of the step before and after it.

    hooks = Hooks(StartQuantization(net, 1000), FreezeBatchNorm(net, 5000), ClipWeights(net), CheckNumbers(net))
    for step, (x, y) in enumerate(batches):
        hooks.before_step(step)
        with autograd.record():
            loss = loss_function(net(x), y)
        loss.backward()
        trainer.step(len(x))
        hooks.after_step(step)

What a hook does depends on the number alone, so that a resumed run goes on as the first one would have.
"""

import fnmatch
import logging
from typing import Callable, Iterable, List, Optional, Tuple

import numpy as np
from mxnet import nd
from mxnet.gluon import Block

from quantize.errors import ConfigError, TrainingError
from quantize.finite import check_parameters
from quantize.initialize import start_weight
from quantize.modes import clear_cached_graphs, quantized_layers, quantizers
from quantize.nn.fake_quantize import FakeQuantize
from quantize.train.parameters import quantizer_parameters
from quantize.train.stages import freeze_bn

logger = logging.getLogger(__name__)


class Hook:
    """Does nothing; what hooks derive from. Steps count from 0."""

    def before_step(self, step: int) -> None:
        """Called before the forward pass."""

    def after_step(self, step: int) -> None:
        """Called after the update of the parameters."""


class Hooks(Hook):
    """Several hooks, called in their order."""

    def __init__(self, *hooks: Hook) -> None:
        self.hooks = hooks

    def before_step(self, step: int) -> None:
        """Every hook's."""
        for hook in self.hooks:
            hook.before_step(step)

    def after_step(self, step: int) -> None:
        """Every hook's."""
        for hook in self.hooks:
            hook.after_step(step)


class StartQuantization(Hook):
    """Quantizers compute in float before step `start` (NNI: quant_start_step, SimQAT: quant_delay).

    From then on they are in the modes that they had when the hook first put them into float; trained steps of weights
    start from the weights of that moment.

    Parameters
    ----------
    start : int
    names : iterable of str
        Shell wildcards on the quantizers' paths ("*.input_quantizer").
    prepare : callable, optional
        Called when quantization starts, for example to measure activations anew with `start_training`.
    """

    def __init__(self, net: Block, start: int, names: Iterable[str] = ("*",),
                 prepare: Optional[Callable] = None) -> None:
        self.net, self.start, self.prepare = net, start, prepare
        self.names = tuple(names)
        self._modes: Optional[List[Tuple[FakeQuantize, str]]] = None
        for name in self.names:
            if not self._chosen((name,)):
                raise ConfigError(f"quantization start: pattern {name!r} matches no quantizer; they are: "
                                  f"{', '.join(path for path, _ in list(quantizers(net))[:3])}, ...")

    def _chosen(self, names: Iterable[str]) -> List[FakeQuantize]:
        return [quantizer for path, quantizer in quantizers(self.net)
                if any(fnmatch.fnmatchcase(path, name) for name in names)]

    def before_step(self, step: int) -> None:
        """Float before the start, quantized from it on."""
        if step < self.start and self._modes is None:
            self._modes = [(quantizer, quantizer.mode) for quantizer in self._chosen(self.names)]
            for quantizer, _ in self._modes:
                quantizer.mode = "float"
            clear_cached_graphs(self.net)
        elif step >= self.start and self._modes is not None:
            for quantizer, mode in self._modes:
                quantizer.mode = mode
            self._modes = None
            self._start_weights()
            if self.prepare is not None:
                self.prepare()
            clear_cached_graphs(self.net)
            logger.info("%s: quantization starts at step %d", self.net.name, step)

    def _start_weights(self) -> None:
        chosen = {id(quantizer) for quantizer in self._chosen(self.names)}
        for _, layer in quantized_layers(self.net):
            if id(layer.weight_quantizer) in chosen:
                start_weight(layer)


class FreezeBatchNorm(Hook):
    """From step `start` on BatchNorms, folded ones too, keep and use their running statistics (`freeze_bn`)."""

    def __init__(self, net: Block, start: int) -> None:
        self.net, self.start = net, start
        self._frozen = False

    def before_step(self, step: int) -> None:
        """Freeze when it is time."""
        if (step >= self.start) != self._frozen:
            self._frozen = not self._frozen
            freeze_bn(self.net, self._frozen)


class ClipWeights(Hook):
    """After each step float weights are clipped to their quantizers' `weight_bounds`; others are left alone.

    For signs these are [-1, 1] (Courbariaux et al., arXiv:1602.02830): beyond, the sign's gradient is zero and weights
    could not come back.
    """

    def __init__(self, net: Block) -> None:
        self.weights = [(layer.weight, layer.weight_quantizer.weight_bounds) for _, layer in quantized_layers(net)
                        if layer.weight_quantizer is not None and layer.weight_quantizer.weight_bounds is not None]

    def after_step(self, step: int) -> None:
        """Clip, on every device."""
        for weight, (low, high) in self.weights:
            for data in weight.list_data():
                nd.clip(data, low, high, out=data)


class CheckNumbers(Hook):
    """Raises TrainingError, with the parameter's path, when a number is not finite or a trained clip not positive.

    Weights and statistics are looked at as well as quantizers' numbers: behind a sign or a ReLU a loss stays finite
    while they do not. It waits for the step to end. Steps of LSQ are positive by construction.

    Parameters
    ----------
    every : int
        Check after each so many steps.
    """

    def __init__(self, net: Block, every: int = 1) -> None:
        if every < 1:
            raise ConfigError(f"every must be at least 1, got {every!r}")
        self.every, self._net = every, net
        self.parameters = quantizer_parameters(net)
        self._positive = {f"{path}.{name}" for path, quantizer in quantizers(net) for name in quantizer.positive}

    def after_step(self, step: int) -> None:
        """Check, when it is time."""
        if (step + 1) % self.every:
            return
        self._check_quantizers(step)
        check_parameters(self._net, f"found after step {step}; training cannot go on. Go back to the last checkpoint, "
                                    "and take a lower learning rate", TrainingError)

    def _check_quantizers(self, step: int) -> None:
        checked = {path: parameter for path, parameter in self.parameters.items() if parameter._data is not None}
        if not checked:
            return
        # one transfer for all of them
        joined = nd.concat(*[parameter.list_data()[0].reshape(-1) for parameter in checked.values()], dim=0).asnumpy()
        ends = np.cumsum([int(np.prod(parameter.shape)) for parameter in checked.values()])
        for path, values in zip(checked, np.split(joined, ends[:-1])):
            if not np.isfinite(values).all() or (path in self._positive and (values <= 0).any()):
                raise TrainingError(f"{path}: {values[:4]} after step {step}; training cannot go on. Go back to the "
                                    "last checkpoint and take a lower learning rate for quantizers "
                                    "(quantize.train.set_rates)")


def method_hooks(net: Block) -> List[Hook]:
    """The hooks that a network's methods need, to be called after each step; empty where they need none."""
    clip = ClipWeights(net)
    return [clip] if clip.weights else []

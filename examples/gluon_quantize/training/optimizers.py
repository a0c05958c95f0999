# SPDX-License-Identifier: MIT
"""What moves the numbers of a network: two optimizers, and gradients of several batches."""

import pathlib
from dataclasses import dataclass
from typing import Any, Dict, Iterable, Tuple

import mxnet as mx
from mxnet import gluon

from gluon_quantize.training.request import OptimizerRequest
from gluon_quantize.training.states import SUFFIX, read_state, write_state
from quantize.errors import ConfigError
from quantize.registry import closest
from quantize.train import quantizer_parameters, weight_parameters

WITH_MOMENTUM = ("sgd", "nag")


@dataclass(frozen=True)
class OptimizerChoice:
    """An optimizer of MXNet by name, its learning rate and its options."""

    name: str
    lr: float
    options: Dict[str, float]

    def __post_init__(self) -> None:
        known = sorted(mx.optimizer.Optimizer.opt_registry)
        if self.name.lower() not in known:
            raise ConfigError(f"unknown optimizer {self.name!r}; known: {', '.join(known)}{closest(self.name, known)}")


class Optimizers:
    """Two Gluon trainers that step together: one for weights, one for the numbers that quantizers train.

    Parameters
    ----------
    net : Block
    weights, steps : OptimizerChoice
    """

    def __init__(self, net: gluon.Block, weights: OptimizerChoice, steps: OptimizerChoice):
        chosen = {"weights": (weights_of(net), weights), "quantizers": (quantizer_parameters(net), steps)}
        self.parameters = [p for parameters, _ in chosen.values() for p in parameters.values()]
        self._trainers = {}
        for name, (parameters, choice) in chosen.items():
            if parameters:
                trainer = gluon.Trainer(parameters, choice.name, dict(choice.options, learning_rate=choice.lr),
                                        kvstore=None)
                self._trainers[name] = (trainer, choice.lr)

    def set_share(self, share: float) -> None:
        """Every rate is this share of its first value."""
        for trainer, lr in self._trainers.values():
            trainer.set_learning_rate(lr * share)

    def step(self, images: int) -> None:
        """One update, from gradients that are sums over so many images."""
        for trainer, _ in self._trainers.values():
            trainer.step(images, ignore_stale_grad=True)

    def save(self, folder: pathlib.Path) -> None:
        """A file of states for each trainer, see `training.states`."""
        for name, (trainer, _) in self._trainers.items():
            write_state(folder / (name + SUFFIX), trainer)

    def load(self, folder: pathlib.Path) -> None:
        """What `save` wrote."""
        for name, (trainer, _) in self._trainers.items():
            read_state(folder / (name + SUFFIX), trainer)


def weights_of(net: gluon.Block) -> Dict[str, gluon.Parameter]:
    """The trained parameters apart from the quantizers' numbers."""
    return {name: p for name, p in weight_parameters(net).items() if p.grad_req != "null"}


class GradientSum:
    """Gradients summed over several backward passes (MXNet's own ``grad_req='add'`` is lost on extension operators)."""

    def __init__(self, parameters: Iterable[gluon.Parameter]):
        self._parameters = parameters
        self._sums: Dict[Any, Any] = {}

    def add(self) -> None:
        """Add the gradients as they are."""
        for key, gradient in self._gradients():
            self._sums[key] = self._sums[key] + gradient if key in self._sums else gradient.copy()

    def put(self) -> None:
        """Let the sums be the gradients, and start anew."""
        for key, gradient in self._gradients():
            if key in self._sums:
                gradient[:] = self._sums[key]
        self._sums = {}

    def _gradients(self):
        for parameter in self._parameters:
            if parameter.grad_req != "null":
                for number, gradient in enumerate(parameter.list_grad()):
                    yield (parameter.name, number), gradient


def choices(request: OptimizerRequest) -> Tuple[OptimizerChoice, OptimizerChoice]:
    """The optimizers that are asked for: of weights, and of the numbers that quantizers train."""
    def choice(name, lr, wd):
        options = {"wd": wd}
        return OptimizerChoice(name, lr, dict(options, momentum=request.momentum) if name in WITH_MOMENTUM else options)
    own_lr = request.lr if request.quantizer_lr is None else request.quantizer_lr
    own_wd = request.wd if request.quantizer_wd is None else request.quantizer_wd
    return (choice(request.name, request.lr, request.wd),
            choice(request.quantizer_name or request.name, own_lr, own_wd))

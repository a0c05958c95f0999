# SPDX-License-Identifier: MIT
"""What moves the numbers of a network: two optimizers, or one for each group of parameters."""

import pathlib
from dataclasses import dataclass
from typing import Dict, Tuple

import mxnet as mx
from mxnet import gluon

from gluon_quantize.training.request import OptimizerRequest
from gluon_quantize.training.states import SUFFIX, read_state, write_state
from quantize.errors import ConfigError
from quantize.registry import closest
from quantize.train import GroupedTrainers, ParameterGroup, quantizer_parameters, weight_parameters

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


class Optimizers(GroupedTrainers):
    """Gluon trainers that step together, whose states can be saved: one for each group of parameters."""

    @classmethod
    def of(cls, net: gluon.Block, weights: OptimizerChoice, steps: OptimizerChoice) -> "Optimizers":
        """Two of them: one for weights, one for the numbers that quantizers train."""
        chosen = {"weights": (weights_of(net), weights), "quantizers": (quantizer_parameters(net), steps)}
        return cls({name: ParameterGroup(parameters, choice.name, choice.lr, choice.options)
                    for name, (parameters, choice) in chosen.items()})

    def save(self, folder: pathlib.Path) -> None:
        """A file of states for each trainer, see `training.states`."""
        for name, trainer in self.trainers.items():
            write_state(folder / (name + SUFFIX), trainer)

    def load(self, folder: pathlib.Path) -> None:
        """What `save` wrote."""
        for name, trainer in self.trainers.items():
            read_state(folder / (name + SUFFIX), trainer)


def weights_of(net: gluon.Block) -> Dict[str, gluon.Parameter]:
    """The trained parameters apart from the quantizers' numbers."""
    return {name: p for name, p in weight_parameters(net).items() if p.grad_req != "null"}


def choices(request: OptimizerRequest) -> Tuple[OptimizerChoice, OptimizerChoice]:
    """The optimizers that are asked for: of weights, and of the numbers that quantizers train."""
    def choice(name, lr, wd):
        options = {"wd": wd}
        return OptimizerChoice(name, lr, dict(options, momentum=request.momentum) if name in WITH_MOMENTUM else options)
    own_lr = request.lr if request.quantizer_lr is None else request.quantizer_lr
    own_wd = request.wd if request.quantizer_wd is None else request.quantizer_wd
    return (choice(request.name, request.lr, request.wd),
            choice(request.quantizer_name or request.name, own_lr, own_wd))

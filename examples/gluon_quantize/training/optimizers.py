# SPDX-License-Identifier: MIT
"""What moves the numbers of a network: two optimizers, or one for each group of parameters."""

import pathlib
from dataclasses import dataclass
from typing import Any, Dict, Mapping, Tuple

import mxnet as mx
from mxnet import gluon

from gluon_quantize.training.request import OptimizerRequest
from gluon_quantize.training.states import SUFFIX, read_state, write_state
from quantize.errors import ConfigError
from quantize.registry import closest
from quantize.train import GroupedTrainers, ParameterGroup, solver_groups, weight_parameters

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

    def changed(self, solver: Mapping[str, Any]) -> "OptimizerChoice":
        """As a rule's solver states: what it leaves out stays, but for options that another optimizer does not know."""
        name, lr = solver.get("optimizer", self.name), solver.get("lr", self.lr)
        options = {key: value for key, value in self.options.items() if key != "momentum" or name in WITH_MOMENTUM}
        options.update({key: float(value) for key, value in solver.items() if key not in ("optimizer", "lr")})
        return OptimizerChoice(name, float(lr), options)


class Optimizers(GroupedTrainers):
    """Gluon trainers that step together, whose states can be saved: one for each group of parameters."""

    @classmethod
    def of(cls, net: gluon.Block, weights: OptimizerChoice, steps: OptimizerChoice) -> "Optimizers":
        """One for weights, one for the numbers that quantizers train, and one more for each solver that rules state."""
        chosen = {"weights": (weights_of(net), weights)}
        found = solver_groups(net)
        for number, solver in enumerate(sorted(found, key=lambda item: (item != (), str(item)))):
            name = f"quantizers-{number}" if solver else "quantizers"
            chosen[name] = (found[solver], steps.changed(dict(solver)))
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

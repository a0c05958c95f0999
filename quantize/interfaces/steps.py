# SPDX-License-Identifier: MIT
"""Steps counted by the Trainer, for interfaces whose training loops know of no hooks."""

from typing import TYPE_CHECKING, Dict, Iterable

from mxnet.gluon import Parameter, Trainer

from quantize.errors import ConfigError
from quantize.train import Hook


class StepCounter:
    """Calls hooks around the steps of a Trainer; steps count from 0.

    Attributes
    ----------
    number : int
        Updates done.
    """

    def __init__(self, hook: Hook) -> None:
        self.hook = hook
        self.go_to(0)

    def go_to(self, number: int) -> None:
        """Go on from here, as after the load of a checkpoint."""
        self.number = number
        self.hook.before_step(number)

    def done(self) -> None:
        """An update was made."""
        self.hook.after_step(self.number)
        self.go_to(self.number + 1)


if TYPE_CHECKING:  # a mixin, put in front of whatever class of Trainer comes
    from mxnet.gluon import Trainer as _Base
else:
    _Base = object


class _Counting(_Base):
    """Mixin of a Trainer that tells a StepCounter of its updates."""

    counter: StepCounter

    def step(self, batch_size: int, ignore_stale_grad: bool = False) -> None:
        """As Gluon's; then the step is counted."""
        super().step(batch_size, ignore_stale_grad)
        self.counter.done()

    def update(self, batch_size: int, ignore_stale_grad: bool = False) -> None:
        """As Gluon's; then the step is counted."""
        super().update(batch_size, ignore_stale_grad)
        self.counter.done()


_CLASSES: Dict[type, type] = {}


def count_steps(trainer: Trainer, counter: StepCounter) -> None:
    """Let a Trainer tell a counter of every update; ConfigError for anything else, or when it counts already."""
    if not isinstance(trainer, Trainer):
        raise ConfigError(f"the optimizer must be a mxnet.gluon.Trainer, got {type(trainer).__name__}")
    if isinstance(trainer, _Counting):
        raise ConfigError("this Trainer counts the steps of another quantizer already; make one for each network")
    cls = type(trainer)
    trainer.__class__ = _CLASSES.setdefault(cls, type("Counting" + cls.__name__, (_Counting, cls), {}))
    trainer.counter = counter


def add_parameters(trainer: Trainer, parameters: Iterable[Parameter]) -> None:
    """Let a Trainer that has made no step yet train these parameters too; those it has already are left out."""
    new = [parameter for parameter in parameters if parameter.name not in trainer._param2idx]
    if new and trainer._kv_initialized:
        raise ConfigError(f"the Trainer has made steps already and cannot take the quantizers' {len(new)} trained "
                          "numbers any more; compress the network before training")
    # what Trainer's constructor does: it offers no way to add a parameter later
    for parameter in new:
        index = len(trainer._params)
        trainer._params.append(parameter)
        trainer._params_to_init.append(parameter)
        trainer._param2idx[parameter.name] = index
        trainer._optimizer.param_dict[index] = parameter
        parameter._set_trainer(trainer)

# SPDX-License-Identifier: MIT
"""What the interfaces share: steps that count, and evaluation with fixed ranges."""

from typing import Callable, Iterable, List, Optional

from mxnet.gluon import Block, Trainer

from quantize.errors import ConfigError
from quantize.interfaces.steps import StepCounter, add_parameters, count_steps
from quantize.modes import clear_cached_graphs, quantizers, update_ema
from quantize.nn import FakeQuantize
from quantize.train import Hook, Hooks, method_hooks, quantizer_parameters


class StartFromRanges(Hook):
    """Trained steps of activations start from the range of the first batch (moving averages until then)."""

    def __init__(self, net: Block) -> None:
        self.net = net
        self.waiting = [quantizer for _, quantizer in quantizers(net, "activation")
                        if quantizer.training_mode == "offline" and quantizer.mode == "ema"]

    def after_step(self, step: int) -> None:
        """Start those that have seen a batch."""
        if not any(quantizer.mode == "ema" for quantizer in self.waiting):
            return
        update_ema(self.net)
        for quantizer in [q for q in self.waiting if q.mode == "ema" and q.calibrated]:
            quantizer.mode = "offline"
            self.waiting.remove(quantizer)
        clear_cached_graphs(self.net)


class Interface:
    """A network in training.

    Attributes
    ----------
    net : Block or None
        The converted network.
    """

    def __init__(self) -> None:
        self.net: Optional[Block] = None
        self._counter = StepCounter(Hook())
        self._moving: List[FakeQuantize] = []

    def _follow(self, net: Block, hooks: Callable[[Block], Iterable[Hook]], trainer: Optional[Trainer]) -> None:
        """Take over a converted network: `hooks` makes what happens at its steps, the Trainer counts them."""
        self.net = net
        for _, quantizer in quantizers(net, "weight"):
            quantizer.mode = quantizer.training_mode
        for _, quantizer in quantizers(net, "activation"):
            learns = quantizer.training_mode == "offline" and quantizer.calibrated
            quantizer.mode = "offline" if learns else "ema"
        self._counter = StepCounter(Hooks(StartFromRanges(net), *hooks(net), *method_hooks(net)))
        clear_cached_graphs(net)
        if trainer is not None:
            self.count_steps(trainer)

    def count_steps(self, trainer: Trainer) -> None:
        """Let this Trainer count the steps and train what quantizers train."""
        add_parameters(trainer, quantizer_parameters(self._converted()).values())
        count_steps(trainer, self._counter)

    def step_with_optimizer(self) -> None:
        """Count a step by hand, for loops without a Gluon Trainer."""
        self._converted()
        self._counter.done()

    @property
    def steps(self) -> int:
        """Updates done; set it after a checkpoint was loaded."""
        self._converted()
        return self._counter.number

    @steps.setter
    def steps(self, number: int) -> None:
        self._converted()
        self._counter.go_to(number)

    def eval(self) -> None:
        """Before evaluation: activations compute with the ranges that training has reached, and leave them alone."""
        net = self._converted()
        moving = [quantizer for _, quantizer in quantizers(net, "activation") if quantizer.mode == "ema"]
        if not moving:
            return
        update_ema(net)
        for quantizer in moving:
            quantizer.mode = "offline" if quantizer.calibrated else "online"
        self._moving += moving
        clear_cached_graphs(net)

    def train(self) -> None:
        """After evaluation: ranges follow the batches again."""
        net = self._converted()
        if not self._moving:
            return
        for quantizer in self._moving:
            quantizer.mode = "ema"
        self._moving = []
        clear_cached_graphs(net)

    def _converted(self) -> Block:
        if self.net is None:
            raise ConfigError(f"{type(self).__name__}: the network is not converted yet")
        return self.net

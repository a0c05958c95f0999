# SPDX-License-Identifier: MIT
"""Learning rates as a share of the first one: a function of the step alone."""

import dataclasses
import math
from typing import Callable, Sequence, Tuple

from gluon_quantize.training.request import SCHEDULES, ScheduleRequest
from quantize.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Rates:
    """Share of the learning rate at each step of a training of `steps`.

    Parameters
    ----------
    schedule : {"cosine", "step", "constant"}
        cosine: falls to 0 at the end (Loshchilov & Hutter, arXiv:1608.03983); step: times `decay` at each of `drops`.
    steps : int
    warm_up : int
        Steps in which it rises linearly from 0, before the schedule begins.
    drops : tuple of int
        Steps, counted from the start.
    decay : float
    """

    schedule: str
    steps: int
    warm_up: int = 0
    drops: Tuple[int, ...] = ()
    decay: float = 0.1

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"learning rate schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}")
        if not 0 <= self.warm_up <= self.steps:
            raise ConfigError(f"the warm-up takes {self.warm_up} steps, but there are only {self.steps}")

    def share(self, step: int) -> float:
        """The share at a step, counted from 0."""
        if step < self.warm_up:
            return (step + 1) / (self.warm_up + 1)
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * (step - self.warm_up) / max(self.steps - self.warm_up, 1)))
        return self.decay ** sum(step >= drop for drop in self.drops)


def restarted(first: Rates, then: Rates, ratio: float = 1.0) -> Callable[[int], float]:
    """Step -> share: `ratio` times that of `first` while its steps last, then that of `then`."""
    return lambda step: ratio * first.share(step) if step < first.steps else then.share(step - first.steps)


def rates_of(request: ScheduleRequest, per_epoch: int, ratio: float = 1.0) -> Callable[[int], float]:
    """Step -> share of the learning rates that is asked for: a schedule for the epochs in float, then one for the rest.

    Parameters
    ----------
    per_epoch : int
        Steps.
    ratio : float
        What the rate of the epochs in float is of that of the others.
    """
    def rates(epochs: int, drops: Sequence[int] = ()) -> Rates:
        return Rates(request.shape, epochs * per_epoch, int(request.warm_up * per_epoch) if epochs else 0,
                     tuple(drop * per_epoch for drop in drops), request.decay)
    return restarted(rates(request.float_epochs), rates(request.epochs, request.drops), ratio)

# SPDX-License-Identifier: MIT
"""N2D2's solvers: an optimizer of MXNet each, with a learning rate that is a function of the images seen."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Dict, Tuple

from quantize.errors import ConfigError
from quantize.registry import closest

POLICIES = ("None", "StepDecay", "ExponentialDecay", "InvTDecay", "InvDecay", "PolyDecay", "CosineDecay")


@dataclass
class Solver:
    """What moves a parameter.

    Parameters
    ----------
    iteration_size : int
        Batches whose gradients are summed for one update.
    """

    learning_rate: float = 0.01
    iteration_size: int = 1

    def set_parameter(self, name: str, value: Any) -> None:
        """Change one number; ConfigError for a name that there is not."""
        known = [field.name for field in fields(self)]
        if name not in known:
            raise ConfigError(f"{type(self).__name__} has no parameter {name!r}; known: {', '.join(known)}"
                              f"{closest(name, known)}")
        setattr(self, name, value)
        self.check()

    def check(self) -> None:
        """ConfigError for numbers that it cannot have."""
        if self.iteration_size < 1:
            raise ConfigError(f"iteration_size must be at least 1, got {self.iteration_size!r}")

    def __post_init__(self) -> None:
        self.check()

    def share(self, images: int) -> float:
        """The learning rate behind so many images, as a share of the first one."""
        return 1.0

    def optimizer(self) -> Tuple[str, Dict[str, float]]:
        """(MXNet's name, its options apart from the learning rate)."""
        raise NotImplementedError

    def copy(self) -> "Solver":
        """Another one with the same numbers."""
        return replace(self)

    @property
    def key(self) -> Tuple[Any, ...]:
        """Equal for solvers that do the same."""
        return (type(self).__name__,) + tuple(getattr(self, field.name) for field in fields(self))


@dataclass
class SGD(Solver):
    """Gradient descent: v = momentum * v - rate * (gradient + decay * w), w += v, the gradient the batch's mean.

    Parameters
    ----------
    learning_rate_policy : str
        With n images seen, k = n // learning_rate_step_size, d = learning_rate_decay, N = max_iterations, the rate is
        multiplied by: None 1; StepDecay d**k; ExponentialDecay exp(-d k); InvTDecay 1 / (1 + d k); InvDecay
        (1 + d n)**-power; PolyDecay (1 - n / N)**power; CosineDecay (1 + cos(pi n / N)) / 2, not below min_decay.
    warm_up_duration, warm_up_lr_frac : float
        Of CosineDecay: over so many images the rate rises linearly from this share.
    """

    momentum: float = 0.0
    decay: float = 0.0
    learning_rate_policy: str = "None"
    learning_rate_step_size: int = 1
    learning_rate_decay: float = 0.1
    power: float = 0.0
    max_iterations: int = 0
    min_decay: float = 0.0
    warm_up_duration: int = 0
    warm_up_lr_frac: float = 0.25

    def check(self) -> None:
        """See `Solver`."""
        super().check()
        policy = self.learning_rate_policy
        if policy not in POLICIES:
            raise ConfigError(f"learning_rate_policy must be one of {', '.join(POLICIES)}, got {policy!r}"
                              f"{closest(policy, POLICIES)}")
        if self.learning_rate_step_size < 1:
            raise ConfigError(f"learning_rate_step_size must be at least 1, got {self.learning_rate_step_size!r}")

    def share(self, images: int) -> float:
        """See `Solver`."""
        policy, decay = self.learning_rate_policy, self.learning_rate_decay
        step = images // self.learning_rate_step_size
        if policy == "StepDecay":
            return decay ** step
        if policy == "ExponentialDecay":
            return math.exp(-decay * step)
        if policy == "InvTDecay":
            return 1 / (1 + decay * step)
        if policy == "InvDecay":
            return (1 + decay * images) ** -self.power
        if policy in ("PolyDecay", "CosineDecay"):
            return self._until_the_end(images)
        return 1.0

    def _until_the_end(self, images: int) -> float:
        """Policies that end after `max_iterations` images."""
        if self.max_iterations < 1:
            raise ConfigError(f"{self.learning_rate_policy} needs max_iterations (MaxIterations), the images until its "
                              "end")
        if self.learning_rate_policy == "PolyDecay":
            return max(1 - images / self.max_iterations, 0.0) ** self.power
        if images < self.warm_up_duration:
            return self.warm_up_lr_frac + (1 - self.warm_up_lr_frac) * images / self.warm_up_duration
        length = max(self.max_iterations - self.warm_up_duration, 1)
        cosine = 0.5 * (1 + math.cos(math.pi * min((images - self.warm_up_duration) / length, 1.0)))
        return self.min_decay + (1 - self.min_decay) * cosine

    def optimizer(self) -> Tuple[str, Dict[str, float]]:
        """See `Solver`."""
        return "sgd", {"momentum": self.momentum, "wd": self.decay}


@dataclass
class Adam(Solver):
    """Adam (Kingma, Ba, arXiv:1412.6980)."""

    learning_rate: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def optimizer(self) -> Tuple[str, Dict[str, float]]:
        """See `Solver`."""
        return "adam", {"beta1": self.beta1, "beta2": self.beta2, "epsilon": self.epsilon, "wd": 0.0}


SOLVERS = {"SGD": SGD, "Adam": Adam, "ADAM": Adam}
MODELS = ("", "_Frame", "_Frame_CUDA")


def solver_class(name: str) -> type:
    """The class of ``SGD``, ``SGDSolver``, ``SGDSolver_Frame_CUDA`` and so on; ConfigError for no such solver."""
    short = name
    for ending in ("_CUDA", "_Frame", "Solver"):
        short = short[:-len(ending)] if short.endswith(ending) else short
    if short not in SOLVERS:
        raise ConfigError(f"unknown solver {name!r}; known: {', '.join(SOLVERS)}{closest(short, SOLVERS)}")
    return SOLVERS[short]

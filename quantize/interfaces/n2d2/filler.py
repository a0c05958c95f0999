# SPDX-License-Identifier: MIT
"""N2D2's weight fillers: what a parameter starts from.

A weight's axes are (outputs, inputs / groups, kernel...); fan-in is all but the first, fan-out all but the second.
"""

import math
from dataclasses import dataclass
from typing import Dict, Tuple

import numpy as np

from quantize.errors import ConfigError
from quantize.registry import closest

NORMS = ("FanIn", "Average", "FanOut")
DISTRIBUTIONS = ("Uniform", "Normal")
Shape = Tuple[int, ...]


def _choice(name: str, value: str, known: Tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{name} must be one of {', '.join(known)}, got {value!r}{closest(value, known)}")


class Filler:
    """Fills an array."""

    def fill(self, shape: Shape, random: np.random.RandomState) -> np.ndarray:
        """A float32 array of that shape."""
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Filler):
    """Everywhere `value`."""

    value: float = 0.0

    def fill(self, shape: Shape, random: np.random.RandomState) -> np.ndarray:
        """See `Filler`."""
        return np.full(shape, self.value, np.float32)


@dataclass(frozen=True)
class Normal(Filler):
    """A normal distribution."""

    mean: float = 0.0
    std_dev: float = 1.0

    def fill(self, shape: Shape, random: np.random.RandomState) -> np.ndarray:
        """See `Filler`."""
        return random.normal(self.mean, self.std_dev, shape).astype(np.float32)


@dataclass(frozen=True)
class Uniform(Filler):
    """A uniform distribution from `min` to `max`."""

    min: float = 0.0
    max: float = 1.0

    def fill(self, shape: Shape, random: np.random.RandomState) -> np.ndarray:
        """See `Filler`."""
        return random.uniform(self.min, self.max, shape).astype(np.float32)


@dataclass(frozen=True)
class Xavier(Filler):
    """Mean 0 and variance scaling**2 / n, n by `variance_norm`: fan-in, fan-out or their mean (Glorot, Bengio 2010)."""

    variance_norm: str = "FanIn"
    distribution: str = "Uniform"
    scaling: float = 1.0

    def __post_init__(self) -> None:
        _choice("variance_norm", self.variance_norm, NORMS)
        _choice("distribution", self.distribution, DISTRIBUTIONS)

    def fill(self, shape: Shape, random: np.random.RandomState) -> np.ndarray:
        """See `Filler`."""
        deviation = self.scaling / math.sqrt(_count(shape, self.variance_norm))
        if self.distribution == "Normal":
            return random.normal(0, deviation, shape).astype(np.float32)
        return random.uniform(-1, 1, shape).astype(np.float32) * np.float32(math.sqrt(3) * deviation)


@dataclass(frozen=True)
class He(Filler):
    """A normal distribution of mean 0 and variance 2 * scaling**2 / n (He et al., arXiv:1502.01852)."""

    variance_norm: str = "FanIn"
    scaling: float = 1.0

    def __post_init__(self) -> None:
        _choice("variance_norm", self.variance_norm, NORMS)

    def fill(self, shape: Shape, random: np.random.RandomState) -> np.ndarray:
        """See `Filler`."""
        deviation = self.scaling * math.sqrt(2 / _count(shape, self.variance_norm))
        return random.normal(0, deviation, shape).astype(np.float32)


def _count(shape: Shape, norm: str) -> float:
    fans: Dict[str, float] = {"FanIn": math.prod(shape[1:]) or 1, "FanOut": math.prod(shape[:1] + shape[2:]) or 1}
    return fans.get(norm, (fans["FanIn"] + fans["FanOut"]) / 2)


# what N2D2 gives weights and biases that nobody gave a filler
DEFAULT = Normal(0.0, 0.05)
FILLERS = {f"{kind.__name__}Filler": kind for kind in (Constant, Normal, Uniform, Xavier, He)}

# SPDX-License-Identifier: MIT
"""AdaRound: whether each weight is rounded up or down is learned by gradient descent on the layer's output."""

from dataclasses import dataclass
from typing import Optional

import numpy as np

from calib.rounding.gptq import finished
from calib.rounding.problem import ROUNDINGS, Problem, Rounding, Solution
from calib.rounding.soft import Adam, beta_at, opened, rectified_sigmoid, regulariser_gradient
from quantize.errors import ConfigError

SHARES = np.linspace(1, 0.4, 13)


@ROUNDINGS.register("layer")
@dataclass(frozen=True)
class AdaRound(Rounding):
    """Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", arXiv:2004.10568.

    A weight is ``s clip(floor(w / s) + h(V), qmin, qmax)`` with h between 0 and 1, and V goes down the gradient of
    ``|f(W x) - f(y)|^2 + weight * sum(1 - |2 h(V) - 1|^beta)``: x what the layer reads in the quantized network, y what
    it puts out in the float one, f the ReLU behind it, where nothing else reads its output (equations 21 to 25). beta
    falls from 20 to 2 after a fifth of the iterations, and drives h to 0 or 1. The scale is the one with the least
    squared error of the weights. Here the error of each row is measured in that of its nearest rounding, so that
    `weight` means the same for all layers, and the bias gives each output the wanted mean meanwhile and afterwards.

    Parameters
    ----------
    iterations : int
        The paper takes 10000; with whole feature maps behind each, a thousand change little afterwards.
    batch : int
        Positions for each iteration.
    rate : float
    weight : float
        Of the regulariser.
    """

    iterations: int = 1000
    batch: int = 256
    rate: float = 0.01
    weight: float = 0.05

    name = "adaround"
    samples = 8192

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.batch < 1 or not (self.rate > 0 and self.weight >= 0):
            raise ConfigError("adaround: iterations and batch must be at least 1, rate positive and weight not "
                              f"negative, got {self}")

    def solve(self, problem: Problem, seed: int = 0) -> Solution:
        """The rounded layer; the seed chooses the positions of each iteration."""
        scale = least_squares(problem)
        steps = scale[problem.parts()][..., None]
        floor = np.floor(problem.weight / steps)
        v = opened(problem.weight / steps - floor).astype(np.float32)
        self._learn(problem, (v, floor.astype(np.float32), steps.astype(np.float32)), np.random.RandomState(seed))
        codes = np.clip(floor + (rectified_sigmoid(v)[0] >= 0.5), problem.spec.qmin, problem.spec.qmax)
        return finished(problem, codes, scale)

    def _learn(self, problem, state, random):
        v, floor, steps = state
        inputs = problem.inputs - problem.input_mean[:, None].astype(np.float32)
        mean = problem.output_mean[:, None].astype(np.float32)
        wanted = np.maximum(problem.outputs, 0) if problem.rectified else problem.outputs
        units = self._units(problem, steps)
        adam = Adam(v, self.rate)
        for turn in range(self.iterations):
            chosen = random.randint(inputs.shape[1], size=self.batch)
            h, slope = rectified_sigmoid(v)
            soft = floor + h
            inside = (soft >= problem.spec.qmin) & (soft <= problem.spec.qmax)
            weight = steps * np.clip(soft, problem.spec.qmin, problem.spec.qmax)
            made = inputs[:, chosen] @ weight.swapaxes(1, 2) + mean
            missed = (np.maximum(made, 0) if problem.rectified else made) - wanted[:, chosen]
            if problem.rectified:
                missed *= made > 0
            gradient = missed.swapaxes(1, 2) @ inputs[:, chosen]
            gradient *= units * inside * steps * (2 / self.batch)
            beta = beta_at(turn / self.iterations)
            if beta:
                gradient += self.weight * regulariser_gradient(h, beta)
            adam.step(gradient * slope)

    @staticmethod
    def _units(problem, steps):
        """(groups, rows, 1): what a row's squared error is multiplied with: its weights, over its nearest's error."""
        nearest = problem.codes(problem.weight, steps) * steps
        error = problem.error(nearest)
        return (problem.weight.shape[2] / np.maximum(error, 1e-6 * error.max() + 1e-20))[..., None].astype(np.float32)


def least_squares(problem: Problem) -> np.ndarray:
    """(scales,), float64 of float32 values: of some below the covering one, those with the least squared error."""
    covering = problem.largest(problem.weight) / problem.spec.qmax
    covering = np.where(covering > 0, covering, 1.0)
    parts = problem.parts()
    best = covering
    least: Optional[np.ndarray] = None
    for share in SHARES:
        scale = (covering * share).astype(np.float32).astype(np.float64)
        steps = scale[parts][..., None]
        squares = np.square(problem.codes(problem.weight, steps) * steps - problem.weight).sum(-1)
        error = np.bincount(parts.ravel(), weights=squares.ravel())
        better = True if least is None else error < least
        best, least = np.where(better, scale, best), np.where(better, error, error if least is None else least)
    return best

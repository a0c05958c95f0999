# SPDX-License-Identifier: MIT
"""The layers of a block learn their rounding together, by the block's output."""

import logging
from typing import Dict, List, Tuple

import mxnet as mx
import numpy as np

from calib.rounding.brecq import BRECQ
from calib.rounding.problem import Problem, Solution
from calib.rounding.soft import SHIFT, STRETCH, Adam, beta_at, opened, rectified_sigmoid, regulariser_gradient
from quantize.stages import Chain, LayerGraph, product, quantized_product, run_steps

logger = logging.getLogger(__name__)

SMALLEST = 2
START = 0.7  # of the way to GPTQ's code: what is not moved stays there


def blocks_of(graph: LayerGraph, chosen: List[str]) -> List[List[str]]:
    """The layers in groups of at least two (but the last), which end where a single tensor passes on."""
    groups: List[List[str]] = []
    for path in chosen:
        alone = graph.live(graph.calls[path][0]) == 1
        if not groups or (alone and len(groups[-1]) >= SMALLEST):
            groups.append([])
        groups[-1].append(path)
    return groups


class SoftLayer:
    """A layer between GPTQ's codes and those on their other sides."""

    def __init__(self, problem: Problem, solution: Solution, rate: float):
        steps = solution.scale.astype(np.float64)[problem.parts()][..., None]
        up = problem.weight / steps > solution.codes
        self.problem, self.steps = problem, steps.astype(np.float32)
        self.floor = np.where(up, solution.codes, solution.codes - 1).astype(np.float32)
        self.v = opened(np.where(up, 1 - START, START)).astype(np.float32)
        self.adam = Adam(self.v, rate)
        self.variable = mx.nd.array(self.v)
        self.variable.attach_grad()

    def operands(self, shape: Tuple[int, ...]) -> Tuple[mx.nd.NDArray, mx.nd.NDArray]:
        """(weight, bias) as functions of the variable."""
        spec = self.problem.spec
        h = mx.nd.clip(STRETCH * mx.nd.sigmoid(self.variable) - SHIFT, 0, 1)
        weight = mx.nd.clip(h + mx.nd.array(self.floor), spec.qmin, spec.qmax) * mx.nd.array(self.steps)
        means = mx.nd.array(self.problem.input_mean[:, None])
        bias = mx.nd.array(self.problem.output_mean) - mx.nd.broadcast_mul(weight, means).sum(axis=2)
        return weight.reshape(shape), bias.reshape((-1,))

    def step(self, unit: float, pull: float, beta: float) -> None:
        """Go down the gradient that the variable has, in some unit, and the regulariser's."""
        gradient = self.variable.grad.asnumpy() * np.float32(unit)
        if beta:
            h, slope = rectified_sigmoid(self.v)
            gradient += np.float32(pull) * regulariser_gradient(h, beta) * slope
        self.adam.step(gradient)
        self.variable[:] = self.v

    def codes(self) -> np.ndarray:
        """The codes that it has come to."""
        spec = self.problem.spec
        return np.clip(self.floor + (rectified_sigmoid(self.v)[0] >= 0.5), spec.qmin, spec.qmax).astype(np.float64)


class Joint:
    """A block in front of which both chains stand, and where it ends.

    Parameters
    ----------
    starts : (Chain, Chain)
        Of the float and of the quantized network.
    end : int
        The step in front of which the next block begins.
    """

    def __init__(self, graph: LayerGraph, starts: Tuple[Chain, Chain], end: int):
        self._graph, self._end = graph, end
        self._floating, self._quantized = starts
        wanted = starts[0].copy()
        wanted.advance(end)
        self._wanted = wanted

    def loss(self) -> float:
        """Squared error of the block's outputs over their variance, of all images, with the layers as they are."""
        compute, total = quantized_product(self._graph), 0.0
        for number in range(len(self._quantized)):
            made = self._run(self._quantized.state(number), compute)
            total += float(self._missed(made, self._wanted.state(number)).asscalar())
        return total / len(self._quantized)

    def learn(self, layers: Dict[str, SoftLayer], method: BRECQ, seed: Tuple[int, int], start: float) -> None:
        """Let soft layers learn; `start` is the loss that their start has."""
        random = np.random.RandomState(seed)
        unit = 1 / max(start, 1e-12)
        sizes = {path: layer.v.size for path, layer in layers.items()}
        for turn in range(method.iterations):
            number = random.randint(len(self._quantized))
            floating, quantized, wanted = (chain.state(number) for chain in (
                self._floating, self._quantized, self._wanted))
            rows = random.randint(len(next(iter(wanted.values()))), size=method.batch)
            values = {key: _mixed(_rows(floating[key], rows), _rows(value, rows), method.drop, random)
                      for key, value in quantized.items()}
            wanted = {key: _rows(value, rows) for key, value in wanted.items()}
            with mx.autograd.record():
                missed = self._missed(self._run(values, self._soft(layers, method.drop, random)), wanted)
            missed.backward()
            for path, layer in layers.items():
                layer.step(unit * sizes[path], method.weight, beta_at(turn / method.iterations))

    def _run(self, values, compute):
        return run_steps(self._graph, values, (self._floating.position, self._end), compute)

    def _soft(self, layers, drop, random):
        as_it_is = quantized_product(self._graph)

        def compute(step, x):
            soft = layers.get(step.layer)
            if soft is None:
                return as_it_is(step, x)
            layer = self._graph.layers[step.layer]
            if layer.input_quantizer is not None:
                x = _mixed(x, layer.input_quantizer(x), drop, random)
            return product(step, x, *soft.operands(layer.weight.shape))
        return compute

    @staticmethod
    def _missed(made, wanted):
        total = 0
        for key, value in wanted.items():
            spread = (value - value.mean()).square().mean() + 1e-20
            total = total + (made[key] - value).square().mean() / spread
        return total


def _rows(array, rows):
    return mx.nd.take(array, mx.nd.array(rows))


def _mixed(one, other, share, random):
    """Numbers of one array, each with a probability, and of another for the rest."""
    if share == 0 or one is other:
        return other
    drawn = np.frombuffer(random.bytes(one.size), np.uint8).reshape(one.shape)
    return mx.nd.where(mx.nd.array(drawn < 256 * share, dtype="float32"), one, other)

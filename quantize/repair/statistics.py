# SPDX-License-Identifier: MIT
"""What images say about the channels of a float network: their sizes, and how much the output minds them."""

from typing import Callable, Dict, Iterable, List, Optional, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import Block

from quantize.errors import CalibrationError
from quantize.repair.factors import Factors, input_index
from quantize.stages import LayerGraph, Step, float_product, run_steps

SAMPLES = 4
FISHER_IMAGES = 64
COMPARED_IMAGES = 256
PART = 16
DIFFERENTIATED = 4  # images at a time whose feature maps are kept for the way back


class Moments:
    """Mean, mean square, smallest and largest value of each channel of a tensor (channels on axis 1)."""

    def __init__(self) -> None:
        self.count = 0
        self.sum, self.square = np.zeros(()), np.zeros(())  # of every channel, once there was a batch
        self.low, self.high = np.full((), np.inf), np.full((), -np.inf)

    def update(self, x: np.ndarray) -> None:
        """Take in a batch."""
        axes = (0,) + tuple(range(2, x.ndim))
        self.count += x.size // x.shape[1]
        self.sum = self.sum + x.sum(axes, dtype=np.float64)
        self.square = self.square + np.square(x).sum(axes, dtype=np.float64)
        self.low, self.high = np.minimum(self.low, x.min(axes)), np.maximum(self.high, x.max(axes))

    @property
    def mean(self) -> np.ndarray:
        """Of each channel, (channels,)."""
        return np.asarray(self.sum / self.count)

    @property
    def variance(self) -> np.ndarray:
        """Of each channel, (channels,)."""
        return np.maximum(self.square / self.count - self.mean ** 2, 0)


class Statistics:
    """Of a network's layers and clips.

    Attributes
    ----------
    inputs : dict
        Layer -> Moments of its input.
    before_clip : dict
        Index of a clip's step -> Moments of its input.
    samples : dict
        Index of a clip's step -> float32 (samples, channels) of its input.
    importance : dict
        Index of a step (a layer's or a clip's) -> float64 (channels,): mean over the images of the squared gradient of
        the output's log-likelihood with respect to its output, summed over positions.
    images : int
    outputs : list of (NDArray, array)
        The first images, and the network's outputs for them, (images, classes).
    """

    def __init__(self) -> None:
        self.inputs: Dict[str, Moments] = {}
        self.before_clip: Dict[int, Moments] = {}
        self.samples: Dict[int, np.ndarray] = {}
        self.importance: Dict[int, np.ndarray] = {}
        self.images = 0
        self.outputs: List[Tuple[mx.nd.NDArray, np.ndarray]] = []


def measure(graph: LayerGraph, factors: Factors, batches: Iterable, seed: int = 0) -> Statistics:
    """The statistics of some images (NDArray (images, ...) batches)."""
    found, random = Statistics(), np.random.RandomState(seed)
    kept: Dict[int, List[np.ndarray]] = {clip.step.index: [] for clip in factors.clips}

    channels = {member.path: sum(factors.sizes[group] for group in member.reads or ()) for member in factors.members}

    def see(step: Step, x: mx.nd.NDArray, y: mx.nd.NDArray) -> mx.nd.NDArray:
        if step.layer:
            values = x.asnumpy()
            if channels.get(step.layer):  # a flattened feature map has its channels still
                values = values.reshape(len(values), channels[step.layer], -1)
            found.inputs.setdefault(step.layer, Moments()).update(values)
        elif step.index in kept:
            values = x.asnumpy()
            found.before_clip.setdefault(step.index, Moments()).update(values)
            kept[step.index].append(_some_positions(values, random))
        return y

    for batch in batches:
        for start in range(0, len(batch), PART):
            part = batch[start:start + PART]
            outputs = output_of(graph, part, see)
            if found.images < COMPARED_IMAGES:
                found.outputs.append((part, outputs))
            if found.images < FISHER_IMAGES:
                for first in range(0, len(part), DIFFERENTIATED):
                    _add_importance(graph, part[first:first + DIFFERENTIATED], found, random)
            found.images += len(part)
    if not found.images:
        raise CalibrationError("equalization needs images: no batch came")
    found.samples = {index: np.concatenate(parts) for index, parts in kept.items()}
    judged = min(found.images, -(-FISHER_IMAGES // PART) * PART)
    found.importance = {index: total / judged for index, total in found.importance.items()}
    return found


def images_of(batches: Iterable) -> Iterable[mx.nd.NDArray]:
    """The images of batches, which may be pairs with labels."""
    for batch in batches:
        images = batch[0] if isinstance(batch, (list, tuple)) else batch
        yield images if isinstance(images, mx.nd.NDArray) else mx.nd.array(images)


def output_of(graph: LayerGraph, images: mx.nd.NDArray, see: Optional[Callable] = None) -> np.ndarray:
    """The float network's output for some images, (images, classes)."""
    values = run_steps(graph, {graph.data: images}, (0, len(graph.steps)), float_product(graph), see)
    return values[graph.head].asnumpy().reshape(len(images), -1)


def _some_positions(values: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """(images * SAMPLES, channels): values of each image at some positions."""
    flat = values.reshape(values.shape[:2] + (-1,))
    positions = random.randint(flat.shape[2], size=(len(flat), SAMPLES))
    return flat[np.arange(len(flat))[:, None], :, positions].reshape(-1, flat.shape[1])


def _add_importance(graph: LayerGraph, images: mx.nd.NDArray, found: Statistics,
                    random: np.random.RandomState) -> None:
    """Add the squared gradients of some images.

    The gradient is that of the log-likelihood of a class drawn from the network's own answer, whose mean square is the
    Fisher information; of outputs that are no classes, that of a random sum.
    """
    probes = {}

    def see(step: Step, x: mx.nd.NDArray, y: mx.nd.NDArray) -> mx.nd.NDArray:
        if step.layer or step.op == "clip":
            probe = mx.nd.zeros_like(y)
            probe.attach_grad()
            probes[step.index] = probe
            return y + probe
        return y

    with mx.autograd.record():
        values = run_steps(graph, {graph.data: images}, (0, len(graph.steps)), float_product(graph), see)
        output = values[graph.head]
        loss = _log_likelihood(output.reshape((len(images), -1)), random)
    loss.backward()
    for index, probe in probes.items():
        squares = np.square(probe.grad.asnumpy())
        total = squares.sum((0,) + tuple(range(2, squares.ndim)), dtype=np.float64)
        found.importance[index] = found.importance.get(index, 0.0) + total


def _log_likelihood(output: mx.nd.NDArray, random: np.random.RandomState) -> mx.nd.NDArray:
    classes = output.shape[1]
    if classes == 1:
        return (output * mx.nd.array(random.choice([-1.0, 1.0], size=output.shape))).sum()
    likelihood = mx.nd.softmax(output.detach(), axis=1).asnumpy().astype(np.float64).cumsum(1)
    drawn = (likelihood < random.uniform(size=(len(likelihood), 1)) * likelihood[:, -1:]).sum(1)
    return mx.nd.pick(mx.nd.log_softmax(output, axis=1), mx.nd.array(np.minimum(drawn, classes - 1)), axis=1).sum()


def weight_blocks(layer: Block) -> np.ndarray:
    """The weight as float64 (outputs, inputs of a group, what reads one input)."""
    weight = layer.weight.data().asnumpy().astype(np.float64)
    return weight.reshape(weight.shape[:2] + (-1,))


def columns_of(layer: Block, channels: int) -> Tuple[np.ndarray, np.ndarray]:
    """(weight (outputs, inputs of a group, rest) by input *channel*, index of the channel each column reads).

    A Dense layer behind a feature map reads each channel several times.
    """
    weight, index = weight_blocks(layer), input_index(layer)
    inputs = int(index.max()) + 1
    if inputs != channels:
        weight = weight.reshape(len(weight), channels, -1)
        index = np.broadcast_to(np.arange(channels), (len(weight), channels))
    return weight, index

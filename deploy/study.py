# SPDX-License-Identifier: MIT
"""What a quantized model costs, layer by layer, and what quantizing each of its layers does to the numbers in it."""

import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple, cast

import numpy as np

from deploy import engine
from deploy.arithmetic import Arithmetic
from deploy.engine import integer
from deploy.engine.activation import activate
from deploy.ir import (
    Convolution,
    Deconvolution,
    Grid,
    InnerProduct,
    Model,
    QuantizedNode,
    integers,
    producers,
    quantized,
)
from deploy.ir.clips import reached, without_clips

FLOAT_BYTES = 4
ERROR_BINS = 41
PLAIN = 7  # images: enough for a ratio of seconds


@dataclass(frozen=True)
class Cost:
    """What one layer with weights costs for one image.

    Attributes
    ----------
    macs : int
        Multiplications with accumulation.
    parameters : int
        Weights and biases.
    float_bytes, bytes : int
        Of the parameters in float32, and as they are stored: one byte for a quantized weight, four for everything else
        (scales included).
    """

    macs: int
    parameters: int
    float_bytes: int
    bytes: int


def costs(model: Model) -> Dict[str, Cost]:
    """Node -> cost, of all nodes with weights."""
    return {node.name: _cost(model, node) for node in model.nodes
            if isinstance(node, (Convolution, Deconvolution, InnerProduct))}


def _cost(model: Model, node) -> Cost:
    weights, biases = node.weight.size, 0 if node.bias is None else node.bias.size
    # every element of the weight is used once for each position: of the output, in transposed convolutions of the
    # input
    blob = node.inputs[0] if isinstance(node, Deconvolution) else node.outputs[0]
    positions = 1 if isinstance(node, InnerProduct) else int(np.prod(model.shapes[blob][1:]))
    grids = getattr(node, "quantization", None)
    stored = FLOAT_BYTES * weights if grids is None else weights + FLOAT_BYTES * (grids.weight_scale.size + 1)
    return Cost(weights * positions, weights + biases, FLOAT_BYTES * (weights + biases), stored + FLOAT_BYTES * biases)


def in_float(model: Model) -> Model:
    """The same network with every layer in float32."""
    return replace(model, nodes=tuple(replace(cast(Any, node), quantization=None) if integers(node) else node
                                      for node in model.nodes))


@dataclass
class Deviation:
    """How far a blob is from float, over all images that were seen.

    Attributes
    ----------
    alone, accumulated : float
        Sums of squared differences: with this layer alone quantized, and with the whole network.
    signal : float
        Sum of the squared float values.
    clipped, values : int
        Values of the layer's input that lie beyond its grid, and all of them.
    largest_sum : int
        Largest magnitude of the layer's integer sums.
    differences : list of array
        Samples of the accumulated differences, in standard deviations of the float output.
    """

    alone: float = 0.0
    accumulated: float = 0.0
    signal: float = 0.0
    clipped: int = 0
    values: int = 0
    largest_sum: int = 0
    differences: List[np.ndarray] = field(default_factory=list)

    def errors(self) -> Tuple[np.ndarray, float]:
        """Histogram of the differences, (`ERROR_BINS`,), and how far it reaches on both sides of zero."""
        values = np.concatenate(self.differences) if self.differences else np.zeros(0)
        span = float(np.abs(values).max(initial=0)) or 1.0
        return np.histogram(values, ERROR_BINS, (-span, span))[0], span


def decibels(signal: float, noise: float) -> Optional[float]:
    """10 log10 of a ratio of powers; None where there is no signal, infinity where there is no noise."""
    if not signal:
        return None
    return float("inf") if not noise else float(10 * np.log10(signal / noise))


def weight_sqnr(node: QuantizedNode) -> Optional[float]:
    """Signal to quantization noise of a quantized node's weight, in decibels."""
    shape = (-1,) + (1,) * (node.weight.ndim - 1)
    stored = node.quantization.weight_q * node.quantization.weight_scale.reshape(shape)
    weight = node.weight.astype(np.float64)
    return decibels(float((weight ** 2).sum()), float(((weight - stored) ** 2).sum()))


@dataclass(frozen=True)
class Study:
    """What `study` has found.

    Attributes
    ----------
    deviations : dict
        Quantized node -> `Deviation`.
    float_scores, scores : array, (images, ...)
        The model's first output, in float for all images, with integers for those that were compared.
    seconds : float
        Of the processor, all in all.
    float_seconds : float
        Of the processor, for a float pass over the same images that looks at nothing: measured on some of them.
    """

    deviations: Dict[str, Deviation]
    float_scores: np.ndarray
    scores: np.ndarray
    seconds: float
    float_seconds: float


def study(model: Model, arithmetic: Arithmetic, images: Sequence[np.ndarray], compared: int = 2,
          see: Optional[engine.Watch] = None, progress: Callable[[Iterable], Iterable] = iter) -> Study:
    """Run a model in float and in integers, image by image, and compare every quantized layer.

    Parameters
    ----------
    model : Model
    arithmetic : Arithmetic
        How the engine rounds.
    images : sequence of array of float32, (...)
    compared : int
        The first so many images also run with every layer quantized, and with each of them alone.
    see : function, optional
        Is shown each blob that a quantized layer reads: see `engine.run`.
    progress : function
        Wraps the iteration over the images.
    """
    floating, layers, writers = in_float(without_clips(model)), quantized(model), producers(model)
    grids = {node.name: reached(writers, node) for node in layers}
    found = {node.name: Deviation() for node in layers}
    float_scores: List[np.ndarray] = []
    scores: List[np.ndarray] = []
    clock, read = _Clock(len(images)), {node.inputs[0] for node in layers}
    wanted = sorted(read | {node.outputs[0] for node in layers})

    def watch(name: str, values: np.ndarray) -> None:
        if see is not None and name in read:
            see(name, values)
    for number in progress(range(len(images))):
        image = images[number][np.newaxis]
        clock.compare(number, partial(engine.run, floating, image, part=1))
        with clock:
            # what is not looked at is not kept: copying all blobs takes half as long as computing them
            kept = engine.run(floating, image, keep=wanted if number < compared else (), part=1, watch=watch)
            float_scores.append(kept.outputs[0])
            if number < compared:
                result = engine.run(model, image, arithmetic=arithmetic, keep=wanted, part=1)
                scores.append(result.outputs[0])
                for node in layers:
                    _compare(found[node.name], node, grids[node.name], arithmetic, kept.blobs, result)
    return Study(found, np.concatenate(float_scores), np.concatenate(scores) if scores else np.zeros((0,)),
                 clock.seconds, clock.plain)


class _Clock:
    """Time of the processor, since other programs must not count: of what is done, and of some plain passes beside it.

    Attributes
    ----------
    seconds : float
        Within `with`.
    """

    def __init__(self, images: int):
        self.images, self.seconds = images, 0.0
        self._measured: List[float] = []
        self._at = {round(place * (images - 1) / (PLAIN - 1)) for place in range(PLAIN)}

    def compare(self, number: int, plain: Callable[[], object]) -> None:
        """Time a plain pass where it is the turn of one."""
        if number in self._at:
            start = time.process_time()
            plain()
            self._measured.append(time.process_time() - start)

    def __enter__(self) -> None:
        self._start = time.process_time()

    def __exit__(self, *_: Any) -> None:
        self.seconds += time.process_time() - self._start

    @property
    def plain(self) -> float:
        """Seconds of a plain pass over all images; the median, as the first one also loads the weights."""
        return float(np.median(self._measured)) * self.images if self._measured else 0.0


def _compare(deviation: Deviation, node: QuantizedNode, grid: Grid, arithmetic: Arithmetic, blobs, result) -> None:
    source, wanted = blobs[node.inputs[0]], blobs[node.outputs[0]]
    ends = [np.float32(code - grid.zero_point) * np.float32(grid.scale) for code in (grid.qmin, grid.qmax)]
    sums = integer.layer(node, source.clip(*ends), arithmetic)[1]
    alone = activate(arithmetic.dequantize(sums, node), node.activation, arithmetic, node)
    steps = source / np.float32(grid.scale) + grid.zero_point
    deviation.clipped += int(((steps > grid.qmax + 0.5) | (steps < grid.qmin - 0.5)).sum())
    deviation.values += source.size
    difference = result.blobs[node.outputs[0]] - wanted
    deviation.signal += _power(wanted)
    deviation.alone += _power(alone - wanted)
    deviation.accumulated += _power(difference)
    deviation.largest_sum = max(deviation.largest_sum, result.largest[node.name])
    deviation.differences.append(sampled(difference)[0] / (float(wanted.std()) or 1.0))


def _power(values: np.ndarray) -> float:
    """Sum of squares; by BLAS, since decibels need no more than float32's digits."""
    return float(np.vdot(values, values))


def sampled(values: np.ndarray, count: int = 4096) -> np.ndarray:
    """About so many of an array's values, evenly spaced, as one row (1, n)."""
    flat = values.reshape(-1)
    # an odd step shares no factor with the powers of two that channels and maps are made of
    step = max(flat.size // count, 1) | 1
    return flat[::step][np.newaxis].copy()

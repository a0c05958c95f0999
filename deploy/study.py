# SPDX-License-Identifier: MIT
"""What a quantized model costs, layer by layer, and what quantizing each of its layers does to the numbers in it."""

from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, cast

import numpy as np

from deploy import engine
from deploy.arithmetic import Arithmetic
from deploy.engine import integer
from deploy.engine.activation import activate
from deploy.ir import Convolution, Deconvolution, InnerProduct, Model, QuantizedNode, integers, quantized

FLOAT_BYTES = 4
ERROR_BINS = 41
ERROR_SPAN = 4.0  # standard deviations of the layer's output on each side


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
    errors : array of int64, (`ERROR_BINS`,)
        Histogram of the accumulated differences, from -`ERROR_SPAN` to `ERROR_SPAN` standard deviations of the float
        output; what lies beyond counts in the first and the last bin.
    """

    alone: float = 0.0
    accumulated: float = 0.0
    signal: float = 0.0
    clipped: int = 0
    values: int = 0
    largest_sum: int = 0
    errors: np.ndarray = field(default_factory=lambda: np.zeros(ERROR_BINS, np.int64))


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
    passes : float
        Work that was done, in passes of the float network over all images.
    """

    deviations: Dict[str, Deviation]
    float_scores: np.ndarray
    scores: np.ndarray
    passes: float


def study(model: Model, arithmetic: Arithmetic, images: np.ndarray, compared: int = 2,
          see: Optional[Callable[[Mapping[str, np.ndarray]], None]] = None,
          progress: Callable[[Iterable], Iterable] = iter) -> Study:
    """Run a model in float and in integers, image by image, and compare every quantized layer.

    Parameters
    ----------
    model : Model
    arithmetic : Arithmetic
        How the engine rounds.
    images : array of float32, (images, ...)
    compared : int
        The first so many images also run with every layer quantized, and with each of them alone: the same work as two
        float passes over them.
    see : function, optional
        Is given all float blobs of an image, (1, ...) each.
    progress : function
        Wraps the iteration over the images.
    """
    floating = in_float(model)
    layers = quantized(model)
    found = {node.name: Deviation() for node in layers}
    float_scores: List[np.ndarray] = []
    scores: List[np.ndarray] = []
    read = sorted({node.inputs[0] for node in layers})
    for number in progress(range(len(images))):
        image = images[number:number + 1]
        # what is not looked at is not kept: copying all blobs takes half as long as computing them
        blobs = engine.run(floating, image, keep=engine.ALL if number < compared else read, part=1).blobs
        float_scores.append(blobs[model.outputs[0]])
        if see is not None:
            see(blobs)
        if number < compared:
            result = engine.run(model, image, arithmetic=arithmetic, keep=engine.ALL, part=1)
            scores.append(result.blobs[model.outputs[0]])
            for node in layers:
                _compare(found[node.name], node, arithmetic, blobs, result)
    return Study(found, np.concatenate(float_scores), np.concatenate(scores) if scores else np.zeros((0,)),
                 1 + 2 * min(compared, len(images)) / max(len(images), 1))


def _compare(deviation: Deviation, node: QuantizedNode, arithmetic: Arithmetic, blobs, result) -> None:
    source, wanted = blobs[node.inputs[0]], blobs[node.outputs[0]]
    sums = integer.layer(node, source, arithmetic)[1]
    alone = activate(arithmetic.dequantize(sums, node), node.activation, arithmetic, node)
    grid = node.quantization.input
    steps = source / np.float32(grid.scale) + grid.zero_point
    deviation.clipped += int(((steps > grid.qmax + 0.5) | (steps < grid.qmin - 0.5)).sum())
    deviation.values += source.size
    difference = result.blobs[node.outputs[0]] - wanted
    deviation.signal += _power(wanted)
    deviation.alone += _power(alone - wanted)
    deviation.accumulated += _power(difference)
    deviation.largest_sum = max(deviation.largest_sum, result.largest[node.name])
    bins = np.clip(sampled(difference) / (float(wanted.std()) or 1.0), -ERROR_SPAN, ERROR_SPAN)
    deviation.errors += np.histogram(bins, ERROR_BINS, (-ERROR_SPAN, ERROR_SPAN))[0]


def _power(values: np.ndarray) -> float:
    """Sum of squares; by BLAS, since decibels need no more than float32's digits."""
    return float(np.vdot(values, values))


def sampled(values: np.ndarray, count: int = 4096) -> np.ndarray:
    """About so many of an array's values, evenly spaced, as one row (1, n)."""
    flat = values.reshape(-1)
    # an odd step shares no factor with the powers of two that channels and maps are made of
    step = max(flat.size // count, 1) | 1
    return np.ascontiguousarray(flat[::step])[np.newaxis]

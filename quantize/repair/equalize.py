# SPDX-License-Identifier: MIT
"""Cross-layer equalization that respects what clips between the layers (ReLU6)."""

import logging
from typing import Dict, Iterable, List, NamedTuple, Optional

import mxnet as mx
import numpy as np
from mxnet.gluon import Block, nn

from quantize.errors import ConversionError
from quantize.modes import clear_cached_graphs
from quantize.onednn import float_type
from quantize.repair.cost import ClipCost, Cost, LayerCost, Noise
from quantize.repair.equivalence import compared
from quantize.repair.factors import Factors, input_index
from quantize.repair.statistics import Statistics, images_of, measure
from quantize.stages import LayerGraph
from quantize.tree import walk

logger = logging.getLogger(__name__)

STEPS = 400
RATE = 0.05
SHARPNESS = (4.0, 64.0)
LARGEST = 10.0


class Equalization(NamedTuple):
    """What was done.

    Attributes
    ----------
    factors : dict
        Path of a layer -> float64 (outputs,): what its output channels were divided by.
    expected_before, expected_after : float
        Noise that rounding and clipping put into the output, as the statistics predict it; only their ratio means much.
    clipped : float
        The part of it after equalization that comes from clips which cut elsewhere than before.
    images : int
        How many the network was run on before and after.
    agreement : int
        Those of them whose largest output stayed the same.
    deviation : float
        Root mean square by which outputs differ, over their own root mean square; 1e-6 is float32's rounding.
    """

    factors: Dict[str, np.ndarray]
    expected_before: float
    expected_after: float
    clipped: float
    images: int = 0
    agreement: int = 0
    deviation: float = 0.0


def equalize(net: Block, batches: Iterable, noise: Optional[Noise] = None, seed: int = 0) -> Equalization:
    """Divide channels by factors that the next layers take back, so that the network can be quantized with less loss.

    The network is changed in place and stays an ordinary float network; merge BatchNorm first. Factors of a channel are
    free where what lies between the layers is ReLU, leaky ReLU, PReLU, pooling and the like; additions and branches
    share them. A ReLU6 clips a channel that is divided by s at 6 s of what it was: nothing changes while the channel
    stays below the smaller of the two, and what does is weighed against the rounding error that the factor saves.

    All factors are chosen together, to minimize the rounding noise of weights and inputs (step^2 / 12, on its way
    through the layer, weighed by the Fisher information of the layer's output) plus that of changed clips. Without
    clips that is a convex problem in the logarithms of the factors; the largest magnitudes in it are replaced by norms
    of rising order. The usual method (the square root of the ratio of two ranges, Nagel et al., arXiv:1906.04721,
    equation 11) minimizes ranges of weights alone, and knows no clip.

    Parameters
    ----------
    net : HybridBlock
        In float, BatchNorm merged.
    batches : iterable of NDArray (images, ...), or of (images, labels) pairs
        Calibration images; some hundreds where there are clips, since a channel's largest value decides.
    noise : Noise, optional
        The formats that the network is meant for; int8 with one scale per layer when None.

    Raises
    ------
    ConversionError
        For a converted network, and where no two layers share a factor.
    """
    if any(hasattr(block, "quantizers") for _, block in walk(net)):
        raise ConversionError(f"{net.name}: equalize the network before converting it")
    graph = LayerGraph(net)
    factors = Factors(graph)
    groups = factors.free()
    if not groups:
        raise ConversionError(f"{net.name}: nothing to equalize: no layer's output reaches another layer through ReLU, "
                              "pooling or additions alone" + _hint(net))
    statistics = measure(graph, factors, images_of(batches), seed)
    cost = problem(graph, factors, statistics, noise or Noise())
    logarithms = minimized(cost, {group: factors.sizes[group] for group in groups})
    zeros = {group: np.zeros(factors.sizes[group]) for group in groups}
    done = _apply(graph, factors, logarithms)
    clear_cached_graphs(net)
    result = Equalization(done, sum(cost.parts(zeros)), sum(cost.parts(logarithms)), cost.parts(logarithms)[1],
                          *compared(graph, statistics.outputs))
    logger.info("%s: %d groups of channels equalized, expected noise %.3g -> %.3g; float outputs differ by %.2g, %d of "
                "%d classes are the same", net.name, len(groups), result.expected_before, result.expected_after,
                result.deviation, result.agreement, result.images)
    return result


def _hint(net: Block) -> str:
    norms = sum(float_type(block) is nn.BatchNorm for _, block in walk(net))
    return f"; {norms} BatchNorms stand between: merge them first (quantize.convert.merge_bn)" if norms else ""


def problem(graph: LayerGraph, factors: Factors, statistics: Statistics, noise: Noise) -> Cost:
    """What there is to minimize."""
    free = set(factors.free())
    layers = [LayerCost(graph.layers[member.path], member, statistics, noise) for member in factors.members]
    clips = [ClipCost(clip, statistics, factors.sizes) for clip in factors.clips if free & set(clip.segments)]
    return Cost(layers, clips, factors.sizes)


def minimized(cost: Cost, sizes: Dict[int, int]) -> Dict[int, np.ndarray]:
    """Logarithms of the factors of each group: Adam (Kingma and Ba, arXiv:1412.6980) on the cost's logarithm."""
    groups, ends = list(sizes), np.cumsum([sizes[group] for group in sizes])
    flat = np.zeros(ends[-1])
    mean, square = np.zeros_like(flat), np.zeros_like(flat)
    for turn in range(1, STEPS + 1):
        share = turn / STEPS
        order = SHARPNESS[0] * (SHARPNESS[1] / SHARPNESS[0]) ** share
        value, gradients = cost.gradient(_split(flat, groups, ends), order)
        slope = np.concatenate([gradients[group] for group in groups]) / max(value, 1e-300)
        mean, square = 0.9 * mean + 0.1 * slope, 0.99 * square + 0.01 * slope ** 2
        step = mean / (1 - 0.9 ** turn) / (np.sqrt(square / (1 - 0.99 ** turn)) + 1e-8)
        flat = np.clip(flat - RATE * (1 - share) * step, -LARGEST, LARGEST)
    return _split(flat, groups, ends)


def _split(flat: np.ndarray, groups: List[int], ends: np.ndarray) -> Dict[int, np.ndarray]:
    return dict(zip(groups, np.split(flat, ends[:-1])))


def _apply(graph: LayerGraph, factors: Factors, logarithms: Dict[int, np.ndarray]) -> Dict[str, np.ndarray]:
    done = {}
    for member in factors.members:
        layer = graph.layers[member.path]
        weight = layer.weight.data().asnumpy().astype(np.float64)
        if member.reads is not None:
            weight *= _spread(layer, np.exp(_vector(member.reads, logarithms, factors.sizes)))
        divisor = np.exp(_vector(member.writes, logarithms, factors.sizes))
        weight /= divisor.reshape((-1,) + (1,) * (weight.ndim - 1))
        layer.weight.set_data(mx.nd.array(weight))
        if layer.bias is not None:
            layer.bias.set_data(mx.nd.array(layer.bias.data().asnumpy().astype(np.float64) / divisor))
        done[member.path] = divisor
    return done


def _spread(layer: Block, per_channel: np.ndarray) -> np.ndarray:
    """Factors of input channels in a shape that broadcasts against the weight."""
    index = input_index(layer)
    each = np.repeat(per_channel, (int(index.max()) + 1) // len(per_channel))
    return each[index].reshape(index.shape + (1,) * (len(layer.weight.shape) - 2))


def _vector(segments: Iterable[int], logarithms: Dict[int, np.ndarray], sizes: Dict[int, int]) -> np.ndarray:
    return np.concatenate([logarithms.get(group, np.zeros(sizes[group])) for group in segments])

# SPDX-License-Identifier: MIT
"""High biases moved into the next layer, so that what lies between needs less range (Nagel et al., section 4.1.3)."""

import logging
from typing import Dict, Iterable, List, NamedTuple, Optional, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import Block

from quantize.errors import CalibrationError, ConversionError
from quantize.modes import clear_cached_graphs
from quantize.repair.equivalence import Equivalence, compared, remembered
from quantize.repair.factors import keeps_factors
from quantize.repair.statistics import PART, Moments, columns_of, images_of, output_of
from quantize.stages import Key, LayerGraph, Step
from quantize.tree import walk

logger = logging.getLogger(__name__)

DEVIATIONS = 3.0


class Absorption(NamedTuple):
    """What was done.

    Attributes
    ----------
    shifts : dict
        Path of a layer -> float64 (outputs,): what its bias lost, and the next layers took in.
    equivalence : Equivalence
        Of the float network before and now.
    """

    shifts: Dict[str, np.ndarray]
    equivalence: Equivalence


class Reach(NamedTuple):
    """What reads a layer's output, through operators that hand a shift on."""

    readers: Tuple[str, ...]
    limit: float


def absorb(net: Block, batches: Iterable) -> Absorption:
    """Take from biases what a layer's outputs never go below, and let the next layers' biases make up for it.

    A channel whose outputs have mean m and deviation d loses ``c = max(0, m - 3 d)`` (Nagel et al., arXiv:1906.04721,
    equation 15), but no more than its smallest output on the images: relu(x - c) = relu(x) - c for all of them. Behind
    it every layer gets ``b + sum W c``. The network is changed in place, computes the same, and the tensors between
    have smaller ranges.

    A channel stays as it is where it reaches the clip of a ReLU6, and where anything that reads it would see more than
    the shift: padding puts zeros beside it, additions and head outputs have no bias to give it back.

    Parameters
    ----------
    net : HybridBlock
        In float, BatchNorm merged; best equalized before.
    batches : iterable of NDArray (images, ...), or of (images, labels) pairs

    Raises
    ------
    ConversionError
        For a converted network, and where no layer's output is read by layers with biases and without padding alone.
    """
    if any(hasattr(block, "quantizers") for _, block in walk(net)):
        raise ConversionError(f"{net.name or 'the network'}: absorb biases before converting the network")
    graph = LayerGraph(net)
    reaches = {path: reach for path in graph.calls for reach in [reach_of(graph, path)] if reach is not None}
    if not reaches:
        raise ConversionError(f"{net.name or 'the network'}: no bias to absorb: behind every layer comes padding, an "
                              "addition, or a layer without bias")
    moments: Dict[str, Moments] = {path: Moments() for path in reaches}
    images = list(images_of(batches))
    if not images:
        raise CalibrationError("absorbing biases needs images: no batch came")

    def see(step: Step, x: mx.nd.NDArray, y: mx.nd.NDArray) -> mx.nd.NDArray:
        if step.layer in moments:
            moments[step.layer].update(y.asnumpy())
        return y

    for batch in images:
        for start in range(0, len(batch), PART):
            output_of(graph, batch[start:start + PART], see)
    before = remembered(graph, images)
    shifts = {path: shift_of(moments[path], reach.limit) for path, reach in reaches.items()}
    for path, shift in shifts.items():
        _move(graph, path, reaches[path].readers, shift)
    clear_cached_graphs(net)
    done = Absorption({path: shift for path, shift in shifts.items() if shift.any()}, compared(graph, before))
    logger.info("%s: biases of %d channels in %d layers absorbed; float outputs differ by %.2g", net.name,
                sum(int((shift > 0).sum()) for shift in shifts.values()), len(done.shifts), done.equivalence.deviation)
    return done


def shift_of(moments: Moments, limit: float) -> np.ndarray:
    """(outputs,): what each channel can lose, 0 for those that are clipped at `limit`."""
    shift = np.minimum(moments.mean - DEVIATIONS * np.sqrt(moments.variance), moments.low)
    return np.where(np.asarray(moments.high) <= limit, np.maximum(shift, 0), 0).astype(np.float64)


def reach_of(graph: LayerGraph, path: str) -> Optional[Reach]:
    """The layers that can take in what a layer's bias loses; None where something else reads its output."""
    layer = graph.layers[path]
    if len(graph.calls[path]) > 1 or layer.bias is None:
        return None
    waiting: List[Key] = [(graph.calls[path][0], 0)]
    readers, limit = [], np.inf
    while waiting:
        key = waiting.pop()
        if key == graph.head:
            return None
        for step in graph.steps:
            if key not in step.sources or not graph.is_needed(step):
                continue
            if step.layer:
                if not _takes_in(graph, step, layer.weight.shape[0]):
                    return None
                readers.append(step.layer)
                continue
            if step.sources[0] != key or not _keeps_shifts(step):
                return None
            limit = min(limit, float(step.attrs["a_max"])) if step.op == "clip" else limit
            waiting.append((step.index, 0))
    return Reach(tuple(readers), limit) if readers else None


def _takes_in(graph: LayerGraph, step: Step, channels: int) -> bool:
    """Whether a layer sees nothing of a shift but what its bias can give back."""
    layer = graph.layers[step.layer]
    padding = np.ravel(getattr(layer, "_kwargs", {}).get("pad", 0))
    inputs = layer.weight.shape[1] * getattr(layer, "_kwargs", {}).get("num_group", 1)
    return (layer.bias is not None and len(graph.calls[step.layer]) == 1 and step.op != "Deconvolution"
            and not padding.any() and inputs % channels == 0)


def _keeps_shifts(step: Step) -> bool:
    """Whether f(x - c) = f(x) - c for each channel, for x >= c >= 0; of a clip this is so below its limit."""
    if step.op == "Pooling" and step.attrs.get("pool_type", "max") == "avg":
        padding = step.attrs.get("pad", "(0,)").strip("()[] ").split(",")
        whole = step.attrs.get("global_pool", "False") in ("True", "1")
        return whole or not any(int(part) for part in padding if part.strip()) and (
            step.attrs.get("pooling_convention", "valid") == "valid")
    return step.op not in ("Pad", "pad") and keeps_factors(step)


def _move(graph: LayerGraph, path: str, readers: Iterable[str], shift: np.ndarray) -> None:
    layer = graph.layers[path]
    layer.bias.set_data(mx.nd.array(layer.bias.data().asnumpy().astype(np.float64) - shift))
    for reader in map(graph.layers.__getitem__, readers):
        weight, index = columns_of(reader, len(shift))
        taken = (weight.sum(2) * shift[index]).sum(1)
        reader.bias.set_data(mx.nd.array(reader.bias.data().asnumpy().astype(np.float64) + taken))

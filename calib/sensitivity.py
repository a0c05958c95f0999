# SPDX-License-Identifier: MIT
"""What quantizing each layer alone, and leaving each layer alone float, does to a network's outputs."""

import logging
from dataclasses import dataclass, field
from typing import Callable, Dict, Iterable, List, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import Block

from calib.feed import checked_batches
from calib.ranges import least_squares_scale, rescaled
from quantize.errors import CalibrationError, ConfigError
from quantize.modes import clear_cached_graphs
from quantize.spec import QParams, QuantSpec
from quantize.stages import MEMORY, Chain, LayerGraph, Step, float_product, on_grid, product

logger = logging.getLogger(__name__)

WEIGHT, INPUT, LAYER = "weight", "input", "layer"
PART = 16
Ranges = Callable[[str, QuantSpec], QParams]


@dataclass(frozen=True)
class Effect:
    """What one change does to the outputs.

    Attributes
    ----------
    sqnr : float
        Signal to noise of the outputs, in decibel; infinite where nothing changes.
    divergence : float
        Mean Kullback-Leibler divergence of the class probabilities from the float network's, in nats.
    agreement : float
        Share of the images on which the largest output stays the same.
    top1 : int or None
        Images classified as their labels say; None without labels.
    """

    sqnr: float
    divergence: float
    agreement: float
    top1: Optional[int] = None


@dataclass(frozen=True)
class Extent:
    """What is measured, and what that may cost.

    Parameters
    ----------
    operands : sequence of {"weight", "input", "layer"}
        See `Row.operand`.
    share : float or None
        Of layers times bits: the forward passes that may be spent. None: every measurement sees all images.
    """

    operands: Sequence[str] = (WEIGHT, INPUT, LAYER)
    share: Optional[float] = 0.5

    def __post_init__(self) -> None:
        if self.share is not None and not self.share > 0:
            raise ConfigError(f"the share of forward passes must be positive, or None for no limit, got {self.share!r}")


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes
    ----------
    layer : str
        Structural path.
    operand : {"weight", "input", "layer"}
        What of the layer is quantized alone; "layer": everything is quantized, and this layer alone left float.
    bits : int
    effect : Effect
    images : int
        The first of all images, so many, are what it was measured on.
    """

    layer: str
    operand: str
    bits: int
    effect: Effect
    images: int


@dataclass(frozen=True)
class Sensitivities:
    """All measurements of a network.

    Attributes
    ----------
    rows : list of Row
    everything : dict
        Bits -> Effect of quantizing every layer.
    images : int
    passes : float
        Forward passes of all images spent, counted in multiply-adds of layers.
    naive : int
        Layers times bits: what a pass for each would be.
    products : dict
        Layer -> multiply-adds for one image.
    """

    rows: List[Row]
    everything: Dict[int, Effect]
    images: int
    passes: float
    naive: int
    products: Dict[str, int] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Passes spent, with weights, inputs and layers left float taken together, over layers times bits."""
        return self.passes / self.naive

    def table(self, operand: str) -> Dict[str, Dict[int, Effect]]:
        """Layer -> bits -> effect, for one kind of measurement."""
        found: Dict[str, Dict[int, Effect]] = {}
        for row in self.rows:
            if row.operand == operand:
                found.setdefault(row.layer, {})[row.bits] = row.effect
        return found


def sensitivities(net: Block, batches: Iterable, bits: Sequence[int] = (8, 4), *,
                  labels: Optional[Sequence[int]] = None,
                  ranges: Optional[Ranges] = None, progress: Callable = lambda items: items,
                  extent: Extent = Extent()) -> Sensitivities:
    """Measure every quantized layer of a converted network, at each number of bits.

    Feature maps are kept in front of the layer that is being measured, so what comes before it is computed once and
    only what comes behind it for each measurement. That is still the whole network near the input and next to nothing
    near the output, so images are dealt out until all kinds of measurements together cost half of a pass (`extent`) for
    each layer and number of bits: layers near the output see all images, those near the input as many of the first as
    the same work allows, 16 at least. The network stays as it is.

    Parameters
    ----------
    net : converted network
        With calibrated inputs.
    batches : iterable
        As for `calib.collect.collect`; some dozens of images do. What is over 1 GiB of feature maps goes to files.
    bits : sequence of int
        2 to 8.
    labels : sequence of int, optional
        Of the images, in order.
    ranges : function, optional
        ``ranges(path of an input quantizer, spec)``: the grid of an input at other bits. By default it covers what the
        calibrated one covers.
    progress : function, optional
        Wraps the list of layers.
    extent : Extent
        What is measured, and what that may cost.

    Raises
    ------
    CalibrationError
        For no images, and inputs without a range.
    ConfigError
        For bits out of range, and a network without quantized layers.
    """
    if not bits or not all(isinstance(b, int) and 2 <= b <= 8 for b in bits):
        raise ConfigError(f"bits must be whole numbers from 2 to 8, got {list(bits)!r}")
    graph = LayerGraph(net)
    images = [batch[start:start + PART] for batch in checked_batches(batches, None)
              for start in range(0, len(batch), PART)]
    if not images:
        raise CalibrationError("sensitivities are measured on images: no batch came")
    work = _Measuring(graph, images, labels, ranges or rescaled(graph.quantized))
    rows, everything = work.rows(sorted(set(bits), reverse=True), extent, progress)
    clear_cached_graphs(net)
    found = Sensitivities(rows, everything, sum(map(len, images)), work.passes(), work.naive(bits), work.products())
    logger.info("%d measurements for %.1f forward passes, %.2f for each of %d layers and bits", len(rows), found.passes,
                found.ratio, found.naive)
    return found


def dealt(costs: Sequence[float], budget: float, parts: int) -> List[int]:
    """How many of equal parts of the images each measurement gets; they cost no more than the budget, together.

    Parameters
    ----------
    costs : sequence of float
        Of a measurement on all parts.
    budget : float
        For all of them. Measurements cost the same, but those that are cheaper on all parts; each gets one part at
        least, whatever the budget.
    """
    low, high = 0.0, max(costs, default=0.0)
    if sum(costs) <= budget:
        return [parts] * len(costs)
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(min(cost, middle) for cost in costs) <= budget else (low, middle)
    return [parts if cost <= low else max(int(parts * low / cost), 1) for cost in costs]


class _Measuring:
    """The work of one call; counts the multiply-adds it spends."""

    def __init__(self, graph: LayerGraph, images, labels, ranges: Ranges):
        self._graph, self._images, self._ranges = graph, images, ranges
        self._labels = None if labels is None else np.asarray(labels)
        self._float = float_product(graph)
        self._weights: Dict[Tuple[str, int], mx.nd.NDArray] = {}
        self._count = sum(map(len, images))
        self._products: Dict[int, int] = {}
        self._spent = 0
        self._paths = [path for path in graph.calls if path in graph.quantized and (
            graph.quantized[path].weight_quantizer is not None or graph.quantized[path].input_quantizer is not None)]
        if not self._paths:
            raise ConfigError("no layer of the network is quantized: there is nothing to measure")

    def passes(self) -> float:
        """Multiply-adds spent, over those of one pass."""
        whole = sum(self._products.get(index, 0) for calls in self._graph.calls.values() for index in calls)
        return self._spent / max(whole, 1)

    def products(self) -> Dict[str, int]:
        """Layer -> multiply-adds for one image."""
        return {path: sum(self._products.get(index, 0) for index in self._graph.calls[path]) for path in self._paths}

    def naive(self, bits) -> int:
        """Layers times bits."""
        return len(self._paths) * len(set(bits))

    def rows(self, bits, extent: Extent, progress):
        """(measurements, {bits: effect of quantizing everything}).

        The chains that lead from layer to layer end as the passes that everything is compared with, so effects are
        judged last.
        """
        operands = extent.operands
        every = frozenset((path, operand) for path in self._paths for operand in (WEIGHT, INPUT))
        computes = {b: self._switched(every, b) for b in bits if LAYER in operands}
        memory = MEMORY // (1 + len(computes))
        base = self._chain(self._float, memory)
        full = {b: self._chain(compute, memory) for b, compute in computes.items()}
        planned = self._planned(bits, extent, 1 + len(full))
        outputs: Dict[Tuple[str, str, int], np.ndarray] = {}
        for path in progress(self._paths):
            for chain in (base, *full.values()):
                chain.advance(self._graph.calls[path][0])
            for operand, b in self._measured(path, bits, operands):
                chain, quantized = base, frozenset([(path, operand)])
                if operand == LAYER:
                    chain, quantized = full[b], every - {(path, WEIGHT), (path, INPUT)}
                compute = self._counted(self._switched(quantized, b))
                outputs[path, operand, b] = chain.copy(compute, planned[path, operand, b]).outputs()
        wanted = base.outputs()
        rows = [Row(*key, self._effect(wanted, found), len(found)) for key, found in outputs.items()]
        return rows, {b: self._effect(wanted, chain.outputs()) for b, chain in full.items()}

    def _measured(self, path, bits, operands):
        """(operand, bits) of what is measured of a layer."""
        layer = self._graph.quantized[path]
        there = {WEIGHT: layer.weight_quantizer is not None, INPUT: layer.input_quantizer is not None, LAYER: True}
        return [(operand, b) for b in bits for operand in (WEIGHT, INPUT, LAYER)
                if operand in operands and there[operand]]

    def _planned(self, bits, extent, chains):
        """{(layer, operand, bits): parts of the images}; `chains` passes of all images are spent anyway."""
        keys = [(path, *what) for path in self._paths for what in self._measured(path, bits, extent.operands)]
        parts = len(self._images)
        if extent.share is None:
            return dict.fromkeys(keys, parts)
        self._chain(self._float, MEMORY, self._images[:1], 1).outputs()  # says what each layer costs
        whole = sum(self._products.values())
        behind = {path: sum(spent for index, spent in self._products.items() if index >= self._graph.calls[path][0])
                  for path in self._paths}
        budget = extent.share * self.naive(bits) - chains - self.passes()
        return dict(zip(keys, dealt([behind[path] / whole for path, *_ in keys], budget, parts)))

    def _effect(self, wanted, outputs):
        count = len(outputs)
        return effect(wanted[:count], outputs, None if self._labels is None else self._labels[:count])

    def _chain(self, compute, memory, images=None, first=None):
        images = self._images if images is None else [part[:first] for part in images]
        return Chain(self._graph, images, self._counted(compute), memory)

    def _counted(self, compute):
        def counting(step, x):
            y = compute(step, x)
            weight = self._graph.layers[step.layer].weight.shape
            spent = y.size // len(x) * int(np.prod(weight)) // weight[0]
            self._products[step.index] = spent
            self._spent += spent * len(x) / self._count
            return y
        return counting

    def _switched(self, quantized, bits):
        """``compute`` with the operands in `quantized` at so many bits and all others in float."""
        def compute(step, x):
            layer = self._graph.layers[step.layer]
            weight, bias = layer.weight.data(), None if layer.bias is None else layer.bias.data()
            if (step.layer, INPUT) in quantized and layer.input_quantizer is not None:
                spec = at_bits(layer.input_quantizer.spec, bits)
                x = on_grid(x, self._ranges(step.layer + ".input_quantizer", spec), spec)
            if (step.layer, WEIGHT) in quantized and layer.weight_quantizer is not None:
                weight = self._weight(step, layer, bits)
            return product(step, x, weight, bias)
        return compute

    def _weight(self, step: Step, layer, bits):
        key = step.layer, bits
        if key not in self._weights:
            spec = at_bits(layer.weight_quantizer.spec, bits)
            weight = layer.weight.data()
            self._weights[key] = on_grid(weight, least_squares_scale(weight.asnumpy(), spec), spec)
        return self._weights[key]


def at_bits(spec: QuantSpec, bits: int) -> QuantSpec:
    """A format with other bits; fewer levels than the bits would give stay where the bits stay."""
    return spec if bits == spec.bits else spec.with_(bits=bits, levels=None)


def effect(wanted: np.ndarray, outputs: np.ndarray, labels: Optional[np.ndarray] = None) -> Effect:
    """How outputs differ from wanted ones; both (images, classes)."""
    wanted, outputs = (np.asarray(y, np.float64).reshape(len(y), -1) for y in (wanted, outputs))
    noise = np.square(outputs - wanted).sum()
    sqnr = float("inf") if noise == 0 else float(10 * np.log10(max(np.square(wanted).sum(), 1e-300) / noise))
    p, q = _log_softmax(wanted), _log_softmax(outputs)
    divergence = float(max((np.exp(p) * (p - q)).sum(1).mean(), 0.0))
    classes = outputs.argmax(1)
    return Effect(sqnr, divergence, float((classes == wanted.argmax(1)).mean()),
                  None if labels is None else int((classes == labels).sum()))


def _log_softmax(x):
    x = x - x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))

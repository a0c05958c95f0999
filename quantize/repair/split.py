# SPDX-License-Identifier: MIT
"""Outlier channels split into halves, so that the largest weights of a layer are smaller (OCS)."""

import logging
from typing import Dict, Iterable, List, NamedTuple, Optional, Set, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import Block, Parameter, nn

from quantize.errors import ConfigError, ConversionError
from quantize.modes import clear_cached_graphs
from quantize.repair.cost import Noise
from quantize.repair.equivalence import Equivalence, compared, remembered
from quantize.repair.factors import Factors, Member
from quantize.repair.statistics import images_of
from quantize.stages import LayerGraph
from quantize.tree import walk

logger = logging.getLogger(__name__)

SHARE = 0.02
WORTHWHILE = 1e-3


class Split(NamedTuple):
    """What was done.

    Attributes
    ----------
    channels : dict
        Path of a layer -> channels of its output that were split.
    equivalence : Equivalence
        Of the float network before and now.
    """

    channels: Dict[str, int]
    equivalence: Equivalence


def split_outliers(net: Block, batches: Iterable, noise: Optional[Noise] = None, share: float = SHARE) -> Split:
    """Give channels that meet a layer's largest weights a twin, and each of the two half of the weight.

    Zhao et al., "Improving Neural Network Quantization without Retraining using Outlier Channel Splitting",
    arXiv:1901.09504: a layer's step is given by its largest weight. Whatever makes the channel makes it twice, so that
    ``w x = (w + d/2)/2 x + (w - d/2)/2 x``; with d the step, the halves' codes add up to w's (equation 4). That holds
    behind any activation. A depthwise layer in between is doubled with its channel. Of a network's channels those are
    taken, up to `share` in each group that goes together, which bring the squared steps of the layers that read them
    down most; a channel may be split again.

    The network is changed in place and stays an ordinary float network, somewhat larger.

    Parameters
    ----------
    net : HybridBlock
        In float, BatchNorm merged.
    batches : iterable of NDArray (images, ...), or of (images, labels) pairs
        On which the network is compared before and after.
    noise : Noise, optional
        Bits and granularity of the weights; int8 with one scale per layer when None.
    share : float
        0 to 1, of the channels of each group.

    Raises
    ------
    ConversionError
        For a converted network, and where no channel can be split.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"the share of channels to split must be over 0 and at most 1, got {share!r}")
    if any(hasattr(block, "quantizers") for _, block in walk(net)):
        raise ConversionError(f"{net.name}: split channels before converting the network")
    noise, graph = noise or Noise(), LayerGraph(net)
    before = remembered(graph, images_of(batches))
    groups = Groups(graph)
    if not groups.free:
        raise ConversionError(f"{net.name}: no channel can be split: no layer's output reaches another layer through "
                              "activations, pooling, additions or depthwise layers alone")
    done: Dict[str, int] = {}
    for group in groups.free:
        readers = [Reader(graph.layers[path], groups.blocks(segments), group, noise)
                   for path, segments in groups.readers[group]]
        chosen = choose([reader.magnitudes for reader in readers], int(np.ceil(share * groups.sizes[group])))
        if not chosen:
            continue
        for reader in readers:
            reader.halve(chosen)
        for path in groups.writers[group]:  # a layer may be both
            _double_outputs(graph.layers[path], chosen)
            done[path] = len(chosen)
        groups.sizes[group] += len(chosen)
    clear_cached_graphs(net)
    result = Split(done, compared(LayerGraph(net), before))
    logger.info("%s: channels of %d layers split; float outputs differ by %.2g", net.name, len(done),
                result.equivalence.deviation)
    return result


class Groups:
    """Channels that can only be doubled together: a layer's outputs, and those of the depthwise layers behind it.

    Attributes
    ----------
    sizes : dict
        Group -> channels.
    writers, readers : dict
        Group -> paths of the layers that make it; [(path, groups side by side)] of those that sum over it.
    free : list
        Groups that can be doubled: nothing else looks at them.
    """

    def __init__(self, graph: LayerGraph):
        factors = Factors(graph)
        self._parent = {group: group for group in factors.sizes}
        pinned: Set[int] = set(factors.pinned) | _by_channel(graph, factors)
        members = [(member, _kind(graph.layers[member.path], member)) for member in factors.members]
        for member, kind in members:
            if kind == "depthwise" and member.reads:
                self._parent[self._root(member.writes[0])] = self._root(member.reads[0])
            elif kind != "dense":
                pinned.update((*(member.reads or ()), *member.writes))
        self.sizes: Dict[int, int] = {}
        self.writers: Dict[int, List[str]] = {}
        self.readers: Dict[int, List[Tuple[str, Tuple[int, ...]]]] = {}
        for member, kind in members:
            self._enter(member, kind, factors.sizes)
        stays = {self._root(group) for group in pinned}
        self.free = sorted((set(self.writers) & set(self.readers)) - stays)

    def _enter(self, member: Member, kind: str, sizes: Dict[int, int]) -> None:
        (made,) = map(self._root, member.writes)
        self.sizes[made] = sizes[member.writes[0]]
        self.writers.setdefault(made, []).append(member.path)
        if kind == "dense" and member.reads:
            segments = tuple(map(self._root, member.reads))
            for group in set(segments):
                self.readers.setdefault(group, []).append((member.path, segments))

    def _root(self, group: int) -> int:
        while self._parent[group] != group:
            group = self._parent[group]
        return group

    def blocks(self, segments: Tuple[int, ...]) -> List[Tuple[int, int]]:
        """[(group, its channels)] side by side, as they are now."""
        return [(group, self.sizes[group]) for group in segments]


def _kind(layer: Block, member: Member) -> str:
    """'dense' (each output sums over all inputs), 'depthwise' (over its own channel), or 'grouped'."""
    groups = getattr(layer, "_kwargs", {}).get("num_group", 1)
    if groups == 1:
        return "dense"
    own = groups == layer.weight.shape[0] and layer.weight.shape[1] == 1
    return "depthwise" if own and member.reads is not None and len(member.reads) == 1 else "grouped"


def _by_channel(graph: LayerGraph, factors: Factors) -> Set[int]:
    """Groups whose channels have parameters of their own between the layers (PReLU)."""
    found: Set[int] = set()
    for step in graph.steps:
        if step.op == "LeakyReLU" and len(step.sources) > 1:
            slopes = graph.parameter(step.sources[1][0])
            if slopes is None or slopes.size > 1:
                found.update(factors.segments(step.sources[0]))
    return found


class Reader:
    """A layer that sums over a group.

    Attributes
    ----------
    magnitudes : array of float64, (scales, channels + 1)
        Largest weight that each channel of the group meets, among those that have a scale in common; last, that all
        other inputs meet.
    """

    def __init__(self, layer: Block, blocks: List[Tuple[int, int]], group: int, noise: Noise):
        self._layer, self._bits = layer, noise.weight_bits
        channels = sum(size for _, size in blocks)
        weight = layer.weight.data().asnumpy().astype(np.float64)
        ends = np.cumsum([size for _, size in blocks])[:-1]
        self._parts = np.split(weight.reshape(len(weight), channels, -1), ends, axis=1)
        self._mine = [number for number, (other, _) in enumerate(blocks) if other == group]
        rows = [np.abs(part).max(2) for part in self._parts]
        mine = np.max([rows[number] for number in self._mine], axis=0)
        others = [part.max(1) for number, part in enumerate(rows) if number not in self._mine]
        found = np.column_stack([mine, np.max(others, axis=0) if others else np.zeros(len(mine))])
        self.magnitudes = found.max(0, keepdims=True) if noise.granularity == "layer" else found

    def halve(self, chosen: List[int]) -> None:
        """Give the layer columns for twins."""
        step = np.zeros((1, 1))
        if self._bits is not None:
            step = halved(self.magnitudes, chosen).max(1)[:, None] / (2 ** (self._bits - 1) - 1)
        for number in self._mine:
            part = self._parts[number]
            for channel in chosen:
                low, high = (part[:, channel] - step / 2) / 2, (part[:, channel] + step / 2) / 2
                part = np.concatenate([part, high[:, None]], 1)
                part[:, channel] = low
            self._parts[number] = part
        weight = np.concatenate(self._parts, 1)
        rest = self._layer.weight.shape[2:]
        if rest:
            _resize(self._layer.weight, weight.reshape(weight.shape[:2] + rest))
            self._layer._in_channels = weight.shape[1]
        else:
            _resize(self._layer.weight, weight.reshape(len(weight), -1))
            self._layer._in_units = self._layer.weight.shape[1]


def halved(magnitudes: np.ndarray, chosen: List[int]) -> np.ndarray:
    """Magnitudes (scales, channels + 1) with channels split; twins stand in front of the last column."""
    found = magnitudes
    for channel in chosen:
        found = np.insert(found, found.shape[1] - 1, found[:, channel] / 2, axis=1)
        found[:, channel] /= 2
    return found


def choose(magnitudes: List[np.ndarray], most: int) -> List[int]:
    """At most so many channels to split, in order, numbers from the channels on being twins of those before.

    Greedy: each is the one that brings the sum of the squared steps of the layers, each over what it was, down most.
    """
    before = [np.square(one.max(1)).sum() + 1e-300 for one in magnitudes]
    chosen: List[int] = []
    for _ in range(most):
        gains = np.zeros(magnitudes[0].shape[1])
        for one, whole in zip(magnitudes, before):
            largest, rows = one.argmax(1), np.arange(len(one))
            top, rest = one[rows, largest], one.copy()
            rest[rows, largest] /= 2
            np.add.at(gains, largest, (np.square(top) - np.square(rest.max(1))) / whole)
        gains[-1] = 0  # what meets other groups stays
        if gains.max() < WORTHWHILE:
            break
        chosen.append(int(gains.argmax()))
        magnitudes = [halved(one, chosen[-1:]) for one in magnitudes]
    return chosen


def _double_outputs(layer: Block, chosen: List[int]) -> None:
    order = list(range(layer.weight.shape[0]))
    for channel in chosen:
        order.append(order[channel])
    _resize(layer.weight, layer.weight.data().asnumpy()[order])
    if layer.bias is not None:
        _resize(layer.bias, layer.bias.data().asnumpy()[order])
    if isinstance(layer, nn.Dense):
        layer._units = len(order)
        return
    layer._channels = layer._kwargs["num_filter"] = len(order)
    if layer._kwargs["num_group"] > 1:
        layer._in_channels = layer._kwargs["num_group"] = len(order)


def _resize(parameter: Parameter, values: np.ndarray) -> None:
    """Give a parameter other values of another shape, which Gluon does not foresee."""
    context = parameter.list_ctx()
    parameter._shape = values.shape
    parameter.initialize(mx.init.Zero(), ctx=context, force_reinit=True)
    parameter.set_data(mx.nd.array(values))

# SPDX-License-Identifier: MIT
"""Which channels of a network may be scaled by a factor that later layers take back, and which layers share one.

Every layer's output begins a group of channels. ReLU, pooling and their kin hand a group on; an addition makes one of
two; a concatenation puts groups side by side; whatever else reads a group pins it: its factors stay 1.
"""

from typing import Any, Dict, List, NamedTuple, Optional, Set, Tuple

import numpy as np
from mxnet.gluon import Block

from quantize.stages import Key, LayerGraph, Step

Segments = Optional[Tuple[int, ...]]


class Clip(NamedTuple):
    """An operator that clips a tensor of scalable channels at 0 and at `limit`."""

    step: Step
    segments: Tuple[int, ...]
    limit: float


class Member(NamedTuple):
    """A layer that is called once, and the groups it reads (None: unscalable) and writes."""

    path: str
    step: Step
    reads: Segments
    writes: Tuple[int, ...]


class Factors:
    """The groups of a network.

    Attributes
    ----------
    sizes : dict
        Group -> channels.
    pinned : set
        Groups whose factors must stay 1.
    members : list of Member
        In the order they are computed.
    clips : list of Clip
    """

    def __init__(self, graph: LayerGraph):
        self.sizes: Dict[int, int] = {}
        self.members: List[Member] = []
        self.clips: List[Clip] = []
        self._parent: Dict[int, int] = {}
        self._pinned: Set[int] = set()
        self._segments: Dict[tuple, Segments] = {}
        for step in graph.steps:
            if graph.is_needed(step):
                self._segments[step.index, 0] = self._visit(graph, step)
        self._pin(self._segments.get(graph.head))
        self.members = [member._replace(reads=self._resolved(member.reads), writes=self._resolved(member.writes))
                        for member in self.members]
        self.clips = [clip._replace(segments=self._resolved(clip.segments)) for clip in self.clips]
        self.pinned = {self.root(group) for group in self._pinned}

    def root(self, group: int) -> int:
        """The group that stands for all that were made one with it."""
        while self._parent[group] != group:
            group = self._parent[group]
        return group

    def segments(self, key: Key) -> Tuple[int, ...]:
        """The groups side by side in a tensor; none where its channels cannot be scaled."""
        return self._resolved(self._segments.get(key)) or ()

    def free(self) -> List[int]:
        """Groups whose factors can be chosen: not pinned, written and read by a layer."""
        written = {group for member in self.members for group in member.writes or ()}
        read = {group for member in self.members for group in member.reads or ()}
        return sorted((written & read) - self.pinned)

    def _resolved(self, segments: Segments) -> Any:
        return None if segments is None else tuple(self.root(group) for group in segments)

    def _new(self, size: int) -> Tuple[int]:
        group = len(self._parent)
        self._parent[group], self.sizes[group] = group, size
        return (group,)

    def _pin(self, segments: Segments) -> None:
        self._pinned.update(segments or ())

    def _visit(self, graph: LayerGraph, step: Step) -> Segments:
        inputs: List[Any] = [self._segments.get(source) for source in step.sources]
        if step.layer:
            return self._layer(graph, step, inputs[0])
        if step.op in _ADDS and len(inputs) > 1 and all(inputs):
            return self._united(inputs)
        if step.op in ("Concat", "concat") and all(inputs) and _axis(step, "dim", 1) == 1:
            return tuple(group for segments in inputs for group in segments)
        if inputs and inputs[0] and keeps_factors(step):
            if step.op == "clip":
                self.clips.append(Clip(step, inputs[0], float(step.attrs["a_max"])))
            return inputs[0]
        for segments in inputs:
            self._pin(segments)
        return None

    def _layer(self, graph: LayerGraph, step: Step, segments: Segments) -> Segments:
        layer = graph.layers[step.layer]
        if len(graph.calls[step.layer]) > 1 or step.op == "Deconvolution" or layer.act is not None and _not_relu(layer):
            self._pin(segments)
            return None
        channels = sum(self.sizes[group] for group in segments or ())
        if segments and _inputs(layer) % channels:
            self._pin(segments)
            segments = None
        output = self._new(layer.weight.shape[0])
        self.members.append(Member(step.layer, step, segments, output))
        return output

    def _united(self, inputs: List[Any]) -> Segments:
        first = inputs[0]
        for other in inputs[1:]:
            if [self.sizes[group] for group in other] != [self.sizes[group] for group in first]:
                for segments in inputs:
                    self._pin(segments)
                return None
            for one, two in zip(first, other):
                self._parent[self.root(two)] = self.root(one)
        return first


_ADDS = ("elemwise_add", "_plus", "_Plus", "broadcast_add", "broadcast_plus", "add_n", "ElementWiseSum")
_ALWAYS = ("relu", "Flatten", "flatten", "Dropout", "identity", "_copy", "BlockGrad", "UpSampling",
           "_contrib_AdaptiveAvgPooling2D")


def keeps_factors(step: Step) -> bool:
    """Whether f(x / s) = f(x) / s for each channel, for factors s > 0; of a clip this is so below its limit."""
    attrs = step.attrs
    if step.op == "Activation":
        return attrs["act_type"] == "relu"
    if step.op == "LeakyReLU":
        return attrs.get("act_type", "leaky") in ("leaky", "prelu")
    if step.op == "Pooling":
        return attrs.get("pool_type", "max") in ("max", "avg")
    if step.op in ("Pad", "pad"):
        return attrs["mode"] != "constant" or float(attrs.get("constant_value", 0)) == 0
    if step.op == "clip":
        return float(attrs["a_min"]) == 0 and float(attrs["a_max"]) > 0
    if step.op == "mean":
        return attrs.get("axis", "").replace(" ", "") in ("(2,3)", "[2,3]") and attrs.get("exclude", "False") in (
            "False", "0")
    if step.op in ("Reshape", "reshape"):
        return attrs.get("shape", "").replace(" ", "") in ("(0,-1)", "[0,-1]") and attrs.get("reverse", "False") in (
            "False", "0")
    return step.op in _ALWAYS


def _axis(step: Step, name: str, default: int) -> int:
    return int(step.attrs.get(name, default))


def _not_relu(layer: Block) -> bool:
    return getattr(layer.act, "_act_type", "") != "relu"


def _inputs(layer: Block) -> int:
    """Input channels of a convolution, units of a Dense."""
    groups = getattr(layer, "_kwargs", {}).get("num_group", 1)
    return layer.weight.shape[1] * groups


def input_index(layer: Block) -> np.ndarray:
    """Which input channel each weight of a layer reads: (outputs, inputs of a group)."""
    groups = getattr(layer, "_kwargs", {}).get("num_group", 1)
    outputs, inputs = layer.weight.shape[:2]
    group_of = np.arange(outputs) // (outputs // groups)
    return group_of[:, None] * inputs + np.arange(inputs)

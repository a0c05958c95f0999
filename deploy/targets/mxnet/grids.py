# SPDX-License-Identifier: MIT
"""Where MXNet's integer operators round: every integer convolution, and what can be computed between two of them."""

import logging
from dataclasses import replace
from typing import Any, Dict, Optional, Set

import numpy as np

from deploy.ir import (
    Activation,
    Concat,
    Convolution,
    Elementwise,
    Function,
    Grid,
    Model,
    Node,
    Pooling,
    Rounding,
    consumers,
    integers,
    producers,
)
from deploy.settling import Places as AnyPlaces
from deploy.settling import apart
from deploy.settling import settled as settled_by
from deploy.target import Ranges
from deploy.targets.mxnet.scales import engine_step, signed, stored

LOG = logging.getLogger(__name__)


def settled(model: Model, ranges: Ranges) -> Model:
    """The model as MXNet's integer operators compute it: their roundings, steps and weights."""
    found = settled_by(apart(model, cuts), ranges, True, Places)
    return replace(found, nodes=tuple(_held(node) for node in found.nodes))


def cuts(function: Optional[Function]) -> bool:
    """Whether an activation is one that the ends of a grid can do: ReLU, or a clip from 0."""
    return function is not None and (function.kind == "relu" or function.kind == "clip"
                                     and function.parameters[0] == 0)


def _held(node: Node) -> Node:
    """A node with steps and weights that MXNet has."""
    if isinstance(node, Rounding):
        return replace(node, grid=_held_grid(node.grid))
    quantization: Any = integers(node)
    if quantization is None:
        return node
    layer: Any = node
    quantization = replace(quantization, input=_held_grid(quantization.input))
    found = stored(quantization, layer.bias)
    changed = found.codes != quantization.weight_q
    if changed.any():
        LOG.warning("%s: %d of %d weight codes are others in MXNet, where the largest of each output channel is 127",
                    node.path or node.name, int(changed.sum()), changed.size)
        with np.errstate(divide="ignore"):
            quantization = replace(quantization, weight_q=found.codes, weight_scale=np.float32(1) / found.scale)
    return replace(layer, quantization=quantization)


def _held_grid(grid: Grid) -> Grid:
    return replace(grid, scale=engine_step(grid.scale, signed(grid)))


class Places(AnyPlaces):
    """What MXNet computes in integers; see `fusion` for additions."""

    def __init__(self, model: Model, given: Any) -> None:
        self.readers, self.writers = consumers(model), producers(model)
        self.model, self.given = model, given
        self.hosts: Dict[str, str] = {}  # addition -> the blob of the convolution that does it
        for node in model.nodes:
            if isinstance(node, Elementwise):
                host = self._host(node)
                if host is not None:
                    self.hosts[node.name] = host
        super().__init__(model, given)

    def has_integer_form(self, node: Node) -> bool:
        """Maxima, averages of windows, additions, concatenations of channels, and ReLUs behind layers and sums."""
        if isinstance(node, Pooling):
            return node.kind == "max" or not node.global_ and not node.ceil
        if isinstance(node, Elementwise):
            return node.name in self.hosts or self._alike(node)
        if isinstance(node, Activation):
            return cuts(node.function) and self._before(node)
        return isinstance(node, Concat) and node.axis == 0 and self._one_kind(node) and all(
            len(self.readers[blob]) == 1 for blob in node.inputs)

    def in_codes(self, blob: str, able: Set[str]) -> bool:
        """Also what an integer layer reads, which is rounded in any case."""
        return super().in_codes(blob, able) or any(integers(reader) is not None for reader in self.readers[blob])

    def hands_on(self, node: Node) -> bool:
        """Poolings have one grid for what they read and put out."""
        return isinstance(node, Pooling)

    def is_rounded(self, blob: str) -> bool:
        """Every convolution's output is, but what is added to at once."""
        if any(host == blob and name in self.integer for name, host in self.hosts.items()):
            return False
        writer = self.writers.get(blob)
        if isinstance(writer, Convolution) and writer.name in self.integer:
            return not self.ends_in_function(blob)
        return super().is_rounded(blob)

    def is_non_negative(self, blob: str) -> bool:
        """What a grid that is decided says; where there is none, what the model says."""
        known = self._known_grids(blob)
        return not signed(known[0]) if known else super().is_non_negative(blob)

    def _before(self, node: Activation) -> bool:
        """Whether what is behind a convolution or an addition, and nobody else reads it."""
        source = self.writers.get(node.inputs[0])
        return isinstance(source, (Convolution, Elementwise)) and len(self.readers[node.inputs[0]]) == 1

    def _one_kind(self, node: Node) -> bool:
        return len({self.is_non_negative(blob) for blob in node.inputs}) == 1

    def _alike(self, node: Elementwise) -> bool:
        """Whether both operands have codes of one type."""
        return self._is_sum(node) and self._one_kind(node)

    def _host(self, node: Elementwise) -> Optional[str]:
        """The operand of an addition that a convolution writes which can do it; the later of two."""
        if not self._is_sum(node):
            return None
        for host, other in ((node.inputs[1], node.inputs[0]), node.inputs):
            writer = self.writers.get(host)
            if isinstance(writer, Convolution) and integers(writer) is not None and writer.activation is None and len(
                    self.readers[host]) == 1 and self.is_non_negative(other) == self._cut(node):
                return host
        return None

    def _cut(self, node: Elementwise) -> bool:
        """Whether a sum becomes uint8: behind a ReLU that alone reads it, where no layer wants int8."""
        blob, readers = node.outputs[0], self.readers[node.outputs[0]]
        if len(readers) == 1 and isinstance(readers[0], Activation) and cuts(readers[0].function):
            blob = readers[0].outputs[0]
        return self.is_non_negative(blob)

    def _is_sum(self, node: Elementwise) -> bool:
        return node.op == "add" and len(node.inputs) == 2 and node.inputs[0] != node.inputs[1] and len(
            {self.model.shapes[blob] for blob in node.inputs}) == 1

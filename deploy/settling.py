# SPDX-License-Identifier: MIT
"""Where a network's blobs are rounded so that whole blocks hand on integers: a model without roundings gets them.

Calibration has decided on the grids of the blobs that layers with weights read. Pooling, concatenation, reshapes and
additions between integer layers compute in integers as well, once what they read and write is rounded: maxima and
reshapes on the grid of what they read, a concatenation and what it alone reads on one grid, the rest (both sides of an
addition, averages) on grids that calibration images decide.
"""

import logging
from dataclasses import replace
from typing import Any, Callable, Dict, List, Mapping, Optional, Set, Tuple, Type, cast

import numpy as np

from deploy.fusing import MOVING, limits, moves
from deploy.ir import (
    Activation,
    Concat,
    Convolution,
    Elementwise,
    Function,
    Grid,
    InnerProduct,
    Model,
    Node,
    Pooling,
    Rounding,
    activation,
    consumers,
    integers,
    producers,
)
from deploy.ir.roundings import grids_between, without_roundings
from deploy.narrow import narrow_clips, without_wider_clips
from deploy.target import Ranges
from quantize.errors import DeployError
from quantize.reference import qparams_of_range
from quantize.spec import QParams, QuantSpec

LOG = logging.getLogger(__name__)
NON_NEGATIVE = ("relu", "sigmoid", "hard_sigmoid", "abs", "square", "sqrt", "exp")


def settled(model: Model, ranges: Ranges, symmetric: bool, kind: "Optional[Type[Places]]" = None) -> Model:
    """The model with a `Rounding` wherever integers are handed on.

    Parameters
    ----------
    ranges : function
        From a model and {blob: format} to {blob: QParams}: what images decide.
    symmetric : bool
        Grids of blobs that can be negative have their zero point in the middle.
    kind : class, optional
        What the engine computes in integers; by default what `Places` says.
    """
    given, model = grids_between(model), without_roundings(model)
    model = without_wider_clips(model, narrow_clips(model, given))
    places = (kind or Places)(model, given)
    _refuse_different_steps(model, given)
    grids = places.known()
    wanted = {blob: QuantSpec(8, not places.is_non_negative(blob), narrow=False, rounding="half_even",
                              symmetric=symmetric or places.is_non_negative(blob))
              for blob in places.rounded if places.group(blob) not in grids}
    found = ranges(model, wanted) if wanted else {}
    grids.update(_joined({blob: (wanted[blob], found[blob]) for blob in wanted}, places))
    grids = {group: _capped(grid, places.clip(group)) for group, grid in grids.items()}
    by_blob = {blob: grids[places.group(blob)] for blob in places.rounded}
    LOG.info("%d blobs are rounded, %d of them on grids that images have decided", len(by_blob), len(wanted))
    return _with_roundings(model, by_blob, places)


def apart(model: Model, joined: Callable[[Function], bool], last: bool = True) -> Model:
    """Integer convolutions without activations that are not `joined` with them: these compute in float, behind them.

    `last`: also where no integer layer follows.
    """
    nodes: List[Node] = []
    shapes, followed = dict(model.shapes), set(model.shapes) if last else _followed(model)
    for node in model.nodes:
        if isinstance(node, Convolution) and integers(node) is not None and node.activation is not None and not joined(
                node.activation) and node.outputs[0] in followed:
            blob, name = node.outputs[0], node.name + "_sums"
            shapes[name] = shapes[blob]
            nodes += [replace(node, outputs=(name,), activation=None),
                      Activation(node.name + "_function", (name,), (blob,), node.path, function=node.activation)]
        else:
            nodes.append(node)
    return replace(model, nodes=tuple(nodes), shapes=shapes)


def _followed(model: Model) -> Set[str]:
    """Blobs that an integer layer depends on."""
    found: Set[str] = set()
    for node in reversed(model.nodes):
        if integers(node) is not None or found & set(node.outputs):
            found.update(node.inputs)
    return found


def cuts(function: Function) -> bool:
    """Whether the ends of a grid can do what an activation does: a ReLU, or a clip around 0."""
    return function.kind == "relu" or (function.kind == "clip"
                                       and function.parameters[0] <= 0 <= function.parameters[1])


def _refuse_different_steps(model: Model, given: Mapping[str, Grid]) -> None:
    problems = []
    for blob, readers in consumers(model).items():
        found = {quantization.input: node.path or node.name for node in readers if node is not None
                 for quantization in [integers(node)] if quantization is not None}
        if len(found) > 1:
            where = ", ".join(f"{layer}: {grid.scale:g}" for grid, layer in found.items())
            problems.append(f"{blob}: layers that read this blob quantize it with different steps ({where}); a blob is "
                            "rounded once. Calibrate them as one, or leave all but one float")
        for grid, layer in found.items():
            if blob in given and (grid.scale, grid.zero_point) != (given[blob].scale, given[blob].zero_point):
                problems.append(f"{layer}: its input is rounded twice with different steps, {given[blob].scale:g} "
                                f"where it is made, {grid.scale:g} in front of the layer; leave one of them float")
    if problems:
        raise DeployError("\n".join(problems))


class Places:
    """Which blobs of a model are rounded, and which of them on one grid; those that are `given` have one.

    An engine that computes more or less in integers overrides `has_integer_form`, `hands_on` and `is_rounded`.

    Attributes
    ----------
    rounded : list of str
        In the order of the model.
    """

    def __init__(self, model: Model, given: Mapping[str, Grid]) -> None:
        self.given = given
        self.model, self.readers, self.writers = model, consumers(model), producers(model)
        self.narrow = narrow_clips(model, given)
        self.integer = self._useful(self._able())
        self.rounded = [blob for blob in model.shapes if self.is_rounded(blob)]
        self._parents: Dict[str, str] = {}
        for node in model.nodes:
            self._unite(node)
        self._part_conflicts()

    # ---- which nodes

    def hands_on(self, node: Node) -> bool:
        """Whether what a node puts out lies on the grid of what it reads."""
        return moves(node)

    def _able(self) -> Set[str]:
        """Nodes that can compute in integers, since all that they read does."""
        able: Set[str] = set()
        for node in self.model.nodes:
            if integers(node) is not None or (self.has_integer_form(node) and all(
                    self.in_codes(blob, able) for blob in node.inputs)):
                able.add(node.name)
        return able

    def in_codes(self, blob: str, able: Set[str]) -> bool:
        """Whether a blob can be read in codes, where the nodes `able` before it compute in integers."""
        writer = self.writers.get(blob)
        return writer is not None and writer.name in able

    def has_integer_form(self, node: Node) -> bool:
        """Whether a node without weights computes in integers once all that it reads does."""
        if isinstance(node, Pooling):
            return node.kind == "max" or node.global_ or not node.ceil
        if isinstance(node, Elementwise):
            return node.op == "add" and len(node.inputs) == 2
        if isinstance(node, Activation):
            return cuts(node.function)
        return isinstance(node, (*MOVING, Concat))

    def _useful(self, able: Set[str]) -> Set[str]:
        """Those of them that an integer layer follows: what comes behind the last one stays as exact as it is."""
        useful: Set[str] = set()
        for node in reversed(self.model.nodes):
            behind = [reader for blob in node.outputs for reader in self.readers[blob]]
            if node.name in able and (integers(node) is not None or any(
                    reader is not None and reader.name in useful for reader in behind)):
                useful.add(node.name)
        return useful

    # ---- which blobs

    def is_rounded(self, blob: str) -> bool:
        """Whether a blob has a grid; `integer`, the names of the nodes that compute in integers, is known."""
        writer = self.writers.get(blob)
        layers = [node for node in self.readers[blob] if integers(node) is not None]
        if writer is None or writer.name not in self.integer:
            return bool(layers)
        if self.ends_in_function(blob) or blob in self.model.outputs and not layers:
            return False
        if isinstance(writer, Convolution):
            return True  # one whose output is not rounded computes in float
        return any(reader is not None and reader.name in self.integer for reader in self.readers[blob])

    def ends_in_function(self, blob: str) -> bool:
        """Whether only an activation reads it, behind which it is rounded at once."""
        readers = self.readers[blob]
        return (len(readers) == 1 and isinstance(readers[0], Activation) and readers[0].name in self.integer
                and readers[0].name not in self.narrow and not isinstance(self.writers.get(blob), Activation))

    def integer_readers(self, blob: str) -> bool:
        """Whether everything that reads a blob gets what was rounded: what an integer node writes is never real."""
        writer = self.writers.get(blob)
        return writer is not None and writer.name in self.integer

    # ---- on which grids

    def group(self, blob: str) -> str:
        """The representative of the blobs that share a grid with this one."""
        while self._parents.get(blob, blob) != blob:
            blob = self._parents[blob]
        return blob

    def _unite(self, node: Node) -> None:
        if node.name not in self.integer:
            return
        for source in node.inputs:
            alone = isinstance(node, Concat) and len(self.readers[source]) == 1
            if source in self.rounded and (self.hands_on(node) or alone or self._is_narrowed(source)):
                for target in node.outputs:
                    if target in self.rounded:
                        self._parents[self.group(source)] = self.group(target)

    def _is_narrowed(self, blob: str) -> bool:
        """Whether whatever reads a blob first cuts off codes of its own grid."""
        return all(reader is not None and reader.name in self.narrow for reader in self.readers[blob])

    def _known_grids(self, blob: str) -> List[Grid]:
        given = [self.given[blob]] if blob in self.given else []
        layers = map(integers, self.readers[blob])
        return given + [quantization.input for quantization in layers if quantization is not None]

    def _part_conflicts(self) -> None:
        """Groups whose layers want different grids fall apart again: each blob then has its own."""
        wanted: Dict[str, Set[Grid]] = {}
        for blob in self.rounded:
            wanted.setdefault(self.group(blob), set()).update(self._known_grids(blob))
        apart = {blob for blob in self.rounded if len(wanted[self.group(blob)]) > 1}
        for blob in apart:
            self._parents[blob] = blob

    def known(self) -> Dict[str, Grid]:
        """Group -> the grid that its layers read, or that was given."""
        return {self.group(blob): grid for blob in self.rounded for grid in self._known_grids(blob)}

    def clip(self, group: str) -> Optional[float]:
        """Where a clip that begins at zero cuts off everything that the blobs of a group are made of; None: nowhere."""
        functions = [self._function_before(blob) for blob in self.rounded if self.group(blob) == group]
        ends = {function.parameters[1] if function is not None and function.kind == "clip"
                and function.parameters[0] == 0 else None for function in functions if function != ()}
        return ends.pop() if len(ends) == 1 else None

    def _function_before(self, blob: str) -> Any:
        """The activation that a blob comes out of; () where it was only moved there from others of its group."""
        writer = self.writers.get(blob)
        if writer is None or writer.name in self.narrow:
            return None
        moved = isinstance(writer, Concat) or self.hands_on(writer)
        return () if moved and all(self.group(source) == self.group(blob) for source in writer.inputs) else \
            activation(writer)

    def is_non_negative(self, blob: str) -> bool:
        """Whether no value of a blob can be below zero."""
        writer = self.writers.get(blob)
        if writer is None:
            return False
        function = activation(writer)
        if function is not None:
            return function.kind in NON_NEGATIVE or function.kind == "clip" and function.parameters[0] >= 0
        if isinstance(writer, (Pooling, Concat, *MOVING)) or isinstance(writer, Elementwise) and writer.op == "add":
            return all(self.is_non_negative(source) for source in writer.inputs)
        return False


def _capped(grid: Grid, end: Optional[float]) -> Grid:
    """The grid, not reaching beyond a clip from 0 to `end`, which then need not be computed."""
    if end is None or grid.zero_point != grid.qmin or limits(grid)[1] <= np.float32(end):
        return grid
    codes, scale = np.float32(grid.qmax - grid.qmin), np.float32(end) / np.float32(grid.qmax - grid.qmin)
    while codes * scale > np.float32(end):
        scale = np.nextafter(scale, np.float32(0))
    return replace(grid, scale=float(scale))


def _joined(found: Mapping[str, Tuple[QuantSpec, QParams]], places: Places) -> Dict[str, Grid]:
    """Group -> the grid that covers what its blobs' grids cover."""
    specs: Dict[str, QuantSpec] = {}
    ends: Dict[str, Tuple[float, float]] = {}
    for blob, (spec, numbers) in found.items():
        group, scale, zero = places.group(blob), float(numbers.scale.ravel()[0]), int(numbers.zero_point.ravel()[0])
        low, high = (spec.qmin - zero) * scale, (spec.qmax - zero) * scale
        before = ends.get(group, (0.0, 0.0))
        ends[group] = min(low, before[0]), max(high, before[1])
        # signed beside unsigned: both are held by what holds the signed one
        specs[group] = spec if spec.signed or group not in specs else specs[group]
    return {group: grid_of(qparams_of_range(-_half(low, spec), high, spec) if spec.symmetric and spec.signed else
                           qparams_of_range(low, high, spec), spec)
            for group, (low, high) in ends.items() for spec in [specs[group]]}


def _half(low: float, spec: QuantSpec) -> float:
    """The magnitude of a symmetric grid's lower end that counts: it has one code more there."""
    return -low * spec.qmax / -spec.qmin


def grid_of(numbers: QParams, spec: QuantSpec) -> Grid:
    """The grid of a whole tensor."""
    return Grid(float(numbers.scale.ravel()[0]), int(numbers.zero_point.ravel()[0]), spec.qmin, spec.qmax)


def _with_roundings(model: Model, grids: Mapping[str, Grid], places: Places) -> Model:
    """The model with a rounding behind the writer of each blob; layers read on the grid that their blob has now."""
    names = {blob: blob + ".rounded" for blob in grids}
    shapes = dict(model.shapes, **{names[blob]: model.shapes[blob] for blob in grids})
    nodes: List[Node] = [_rounding(blob, names[blob], grids[blob]) for blob in model.inputs if blob in grids]
    for node in model.nodes:
        nodes.append(_reading(node, grids, names, places))
        nodes += [_rounding(blob, names[blob], grids[blob]) for blob in node.outputs if blob in grids]
    return replace(model, nodes=tuple(nodes), shapes=shapes)


def _rounding(blob: str, name: str, grid: Grid) -> Rounding:
    return Rounding(name, (blob,), (name,), grid=grid)


def _reading(node: Node, grids, names, places: Places) -> Node:
    changed: Dict[str, Any] = {"inputs": tuple(
        names[blob] if blob in names and (places.integer_readers(blob) or node.name in places.integer) else blob
        for blob in node.inputs)}
    quantization: Optional[Any] = integers(node)
    if quantization is not None:
        layer = cast("Convolution | InnerProduct", node)
        changed["quantization"] = replace(quantization, input=grids[layer.inputs[0]])
    return replace(node, **changed)

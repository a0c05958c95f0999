# SPDX-License-Identifier: MIT
"""A model as steps of C: for each node its sizes, its constants, and where its blobs lie in memory."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from deploy.engine.pooling import window_areas
from deploy.ir import (
    Activation,
    Affine,
    BatchNorm,
    Concat,
    Convolution,
    Crop,
    Elementwise,
    Grid,
    InnerProduct,
    Model,
    Node,
    Padding,
    Permute,
    Pooling,
    PReLU,
    Reshape,
    Resize,
    Rounding,
    Spread,
    activation,
)
from deploy.ir.affine import factor_and_shift
from deploy.targets.c import arithmetic as numbers
from deploy.targets.c.arithmetic import FixedArithmetic
from deploy.targets.c.constraints import AXES
from deploy.targets.c.images import prepared_bytes
from deploy.targets.c.memory import places
from deploy.targets.c.packing import dead_rows, pack
from deploy.targets.c.scaling import NO_POWER, powers

BYTES = {"int8_t": 1, "uint8_t": 1, "int32_t": 4, "float": 4}
REAL = "float"


@dataclass(frozen=True)
class Buffer:
    """A blob in C: the type of its elements, how many, and an expression that points to the first."""

    type: str
    count: int
    at: str


@dataclass
class Step:
    """One function of the source."""

    number: int
    kind: str
    title: str
    x: List[Buffer]
    y: Buffer
    blob: str
    values: Dict[str, Any] = field(default_factory=dict)
    arrays: Dict[str, Tuple[str, np.ndarray]] = field(default_factory=dict)


@dataclass(frozen=True)
class Program:
    """Everything that the templates write.

    Attributes
    ----------
    steps : list of Step
    input : Buffer
        What `run` takes: codes of the image, or real numbers.
    scores : Buffer
        What it gives.
    arena, flash : int
        Bytes of memory, and of constants.
    table : (str, array) or None
        Type and (channels, 256) codes of every byte of an image; None where nothing says how images are prepared.
    step, zero : float, int
        A score is (number - zero) * step.
    """

    steps: List[Step]
    input: Buffer
    scores: Buffer
    arena: int
    flash: int
    table: Optional[Tuple[str, np.ndarray]]
    shape: Tuple[int, ...]
    step: float
    zero: int


def build(model: Model, arithmetic: Optional[FixedArithmetic]) -> Program:
    """The program of a model: of a settled one with the arithmetic it is bound to, or with None in float."""
    return _Builder(model, arithmetic).program()


def type_of(grid: Optional[Grid]) -> str:
    """The C type that holds the codes of a grid; `float` for none."""
    if grid is None:
        return REAL
    if grid.qmin >= -128 and grid.qmax <= 127:
        return "int8_t"
    return "uint8_t" if grid.qmin >= 0 and grid.qmax <= 255 else "int32_t"


def byte_table(model: Model, grid: Optional[Grid],
               arithmetic: Optional[FixedArithmetic]) -> Optional[Tuple[str, np.ndarray]]:
    """(Type, (channels, 256)): what each byte of an image becomes; None without a stated preprocessing."""
    real = prepared_bytes(model)
    if real is None:
        return None
    if grid is None or arithmetic is None:
        return REAL, real
    return type_of(grid), arithmetic.quantize(real, grid)


class _Builder:
    def __init__(self, model: Model, arithmetic: Optional[FixedArithmetic]):
        self.model, self.arithmetic = model, arithmetic
        self.aliases: Dict[str, str] = {}
        self.nodes = [node for node in model.nodes if not self._is_alias(node)]

    def program(self) -> Program:
        model, output = self.model, self._root(self.model.outputs[0])
        roots = [self._root(blob) for node in self.nodes for blob in node.outputs]
        inner = {blob: self._bytes(blob) for blob in roots if blob != output}
        image = self._root(self._image())
        order = [([self._root(blob) for blob in node.inputs if self._root(blob) != image], [self._root(blob) for blob in
                                                                                           node.outputs])
                 for node in self.nodes]
        placed, arena = places(inner, order)
        self.buffers = {blob: Buffer(self._type(blob), self._count(blob),
                                     f"AT({self._type(blob)}, {start})") for blob, start in placed.items()}
        self.buffers[output] = Buffer(self._type(output), self._count(output), "scores")
        self.buffers[image] = Buffer(self._type(image), self._count(image), "image")
        steps = [self._step(number, node) for number, node in enumerate(self.nodes)]
        grid = self._grid(image)
        table = byte_table(model, grid, self.arithmetic)
        scores = self._grid(output)
        flash = sum(array.size * _width(kind) for step in steps for kind, array in step.arrays.values())
        flash += 0 if table is None else table[1].size * _width(table[0])
        return Program(steps, self.buffers[image], self.buffers[output], arena, flash, table,
                       tuple(model.shapes[model.inputs[0]]), 1.0 if scores is None else scores.scale,
                       0 if scores is None else scores.zero_point)

    # ---- blobs

    def _image(self) -> str:
        """The blob that `run` takes: the rounded image, or the image itself in float."""
        reader = self.model.nodes[0] if self.arithmetic is not None else None
        for node in self.model.nodes:
            if isinstance(node, Rounding) and node.inputs[0] in self.model.inputs:
                reader = node
        return self.model.inputs[0] if reader is None else reader.outputs[0]

    def _is_alias(self, node: Node) -> bool:
        """Whether a node's output is its input as it lies in memory."""
        source = node.inputs[0]
        rounds = isinstance(node, Rounding) and (source in self.model.inputs or self._grid(source) == node.grid)
        if isinstance(node, Reshape) or rounds:
            if source not in self.model.inputs or isinstance(node, Reshape):
                self.aliases[node.outputs[0]] = source
            return True
        return False

    def _root(self, blob: str) -> str:
        while blob in self.aliases:
            blob = self.aliases[blob]
        return blob

    def _grid(self, blob: str) -> Optional[Grid]:
        return None if self.arithmetic is None else self.arithmetic.grids.get(blob)

    def _type(self, blob: str) -> str:
        return type_of(self._grid(blob))

    def _count(self, blob: str) -> int:
        return int(np.prod(self.model.shapes[blob]))

    def _bytes(self, blob: str) -> int:
        return self._count(blob) * BYTES[self._type(blob)]

    # ---- steps

    def _step(self, number: int, node: Node) -> Step:
        kind = MAKERS[type(node)]
        step = Step(number, kind, f"{node.path or node.name} ({type(node).__name__})",
                    [self.buffers[self._root(blob)] for blob in node.inputs],
                    self.buffers[self._root(node.outputs[0])], node.outputs[0])
        grid, sources = self._grid(node.outputs[0]), [self._grid(blob) for blob in node.inputs]
        step.values.update(zero_x=[0 if source is None else source.zero_point for source in sources],
                           zero_y=0 if grid is None else grid.zero_point, low=0 if grid is None else grid.qmin,
                           high=0 if grid is None else grid.qmax, activation=self._activation(node, sources[0], grid))
        getattr(self, f"_{kind}")(step, node, sources, grid)
        return step

    def _activation(self, node: Node, source: Optional[Grid], grid: Optional[Grid]):
        """(Kind, numbers) of the function that a step ends with; None for none."""
        function = activation(node)
        if function is None:
            return None
        grid = source if isinstance(node, Activation) else grid
        if grid is None or self.arithmetic is None:
            return (function.kind, *(float(value) for value in function.parameters))
        if function.kind == "clip":
            return ("clip", *numbers.clip_codes(function, grid))
        if function.kind == "relu":
            return ("relu",)
        return ("leaky_relu", *self._one(float(np.float32(function.parameters[0]))))

    def _one(self, factor: float) -> Tuple[Any, ...]:
        """(m, half, shift) of one factor, m as `_whole` has it; (factor, 0.0, 0) where scaling is in float."""
        assert self.arithmetic is not None
        if self.arithmetic.scaling.hold is None:
            return factor, 0.0, 0
        m, half, shift = numbers.held_affine(np.array([factor]), np.zeros(1), self.arithmetic.scaling)
        return self._whole(m[0]), int(half[0]), int(shift[0])

    def _whole(self, m: np.int64) -> Any:
        """A whole factor, or the powers of two that it is the sum of where the scaling is shifts alone."""
        assert self.arithmetic is not None
        shifts = self.arithmetic.scaling.shifts
        if not shifts:
            return int(m)
        found = [int(k) for k in powers(np.array([m]), shifts)[:, 0]]
        return [k for k in found if k != NO_POWER] or [NO_POWER]

    def _scaled(self, step: Step, factor: np.ndarray, term: np.ndarray) -> None:
        """The constants by which values become codes, for each output."""
        assert self.arithmetic is not None
        if self.arithmetic.scaling.hold is None:
            step.arrays.update(m=("double", factor), b=("double", term))
            return
        m, b, shift = numbers.held_affine(factor, term, self.arithmetic.scaling)
        shifts = self.arithmetic.scaling.shifts
        factors = {name: ("int8_t", k) for name, k in zip("kj", powers(m, shifts))} if shifts else {
            "m": (_narrowest(m), m)}
        step.arrays.update(**factors, b=("int64_t", b), s=("uint8_t", shift))

    def _layer(self, step, node, sources, grid):
        convolution = isinstance(node, Convolution)
        shape = self.model.shapes[node.inputs[0]] if convolution else (self._count(node.inputs[0]), 1, 1)
        out = self.model.shapes[node.outputs[0]] if convolution else (len(node.weight), 1, 1)
        kernel = node.weight.shape[2:] if convolution else (1, 1)
        windows = (node.stride, node.dilation, node.pads, node.groups) if convolution else ((1, 1), (1, 1), (0,) * 4, 1)
        step.values.update(_window(shape, out, kernel, windows[0], windows[2]), dilation=windows[1], groups=windows[3],
                           inputs=shape[0] // windows[3], per_group=out[0] // windows[3])
        if grid is None:
            step.arrays["w"] = (REAL, node.weight.reshape(len(node.weight), -1))
            step.arrays["b"] = (REAL, np.zeros(len(node.weight)) if node.bias is None else node.bias)
            return
        packed = pack(node.quantization)
        step.arrays["w"] = ("uint8_t", packed.rows)
        step.values.update(length=packed.length, row_bytes=packed.rows.shape[1], bits=packed.bits, step=packed.step,
                           offset=packed.offset)
        factor, term = numbers.layer_factors(node, grid)
        if packed.step == 2:
            factor = np.where(dead_rows(node.quantization), 0.0, factor)
        self._scaled(step, factor, term)

    def _pooling(self, step, node, sources, grid):
        shape, out = (self.model.shapes[blob] for blob in (node.inputs[0], node.outputs[0]))
        kernel = shape[1:] if node.global_ else node.kernel
        stride, pads = ((1, 1), (0,) * 4) if node.global_ else (node.stride, node.pads)
        step.values.update(_window(shape, out, kernel, stride, pads), maximum=node.kind == "max")
        if node.kind == "max":
            return
        areas = np.full(out[1:], shape[1] * shape[2]) if node.global_ else window_areas(node, shape)
        if grid is None:
            step.arrays["m"] = (REAL, 1 / areas.ravel().astype(np.float64))
        else:
            self._scaled(step, numbers.average_factors(areas, sources[0], grid), np.zeros(areas.size))

    def _elementwise(self, step, node, sources, grid):
        step.values.update(op=node.op, count=step.y.count)
        if grid is None:
            return
        if node.op in ("max", "min"):
            step.values["parts"] = [self._rescaling(source, grid) for source in sources]
            return
        assert self.arithmetic is not None
        factors = numbers.sum_factors(node, sources, grid)
        if self.arithmetic.scaling.hold is None:
            step.values["factors"] = [float(factor) for factor in factors]
        else:
            m, shift = numbers.held_sum(factors, self.arithmetic.scaling)
            step.values.update(factors=[self._whole(value) for value in m], shift=shift, half=(1 << shift) >> 1)

    def _rescaling(self, source: Grid, grid: Grid):
        """(m, half, shift) from one grid to another; None where the steps are the same."""
        return None if source.scale == grid.scale else self._one(source.scale / grid.scale)

    def _concat(self, step, node, sources, grid):
        step.values["counts"] = [self._count(blob) for blob in node.inputs]
        if grid is not None:
            step.values["parts"] = [self._rescaling(source, grid) for source in sources]

    def _copy(self, step, node, sources, grid):
        """A rounding, or an activation that stands alone."""
        step.values.update(count=step.y.count, source=(0, 0) if grid is None else (sources[0].qmin, sources[0].qmax))
        if grid is not None:
            step.values["part"] = self._rescaling(sources[0], grid)

    def _padding(self, step, node, sources, grid):
        shape, out = (self.model.shapes[blob] for blob in (node.inputs[0], node.outputs[0]))
        step.values.update(_window(shape, out, (1, 1), (1, 1), node.pads), front=node.channels[0])

    def _moving(self, step, node, sources, grid):
        """A part of a blob, or its axes in another order: where each element is read."""
        shape, out = (self.model.shapes[blob] for blob in (node.inputs[0], node.outputs[0]))
        apart = [int(np.prod(shape[axis + 1:])) for axis in range(len(shape))]
        begin = node.begin if isinstance(node, Crop) else (0,) * len(shape)
        order = range(len(shape)) if isinstance(node, Crop) else node.order
        missing = AXES - len(shape)
        step.values.update(sizes=(1,) * missing + tuple(out), apart=(0,) * missing + tuple(apart[i] for i in order),
                           start=sum(first * gap for first, gap in zip(begin, apart)))

    def _resize(self, step, node, sources, grid):
        shape, out = (self.model.shapes[blob] for blob in (node.inputs[0], node.outputs[0]))
        step.values.update(_window(shape, out, (1, 1), node.steps if isinstance(node, Spread) else (1, 1), (0,) * 4),
                           spreads=isinstance(node, Spread))

    def _channels(self, step, node, sources, grid):
        shape = self.model.shapes[node.inputs[0]]
        step.values.update(count=shape[0], plane=int(np.prod(shape[1:])))
        if isinstance(node, PReLU):
            slope = np.broadcast_to(node.slope.astype(np.float64), (shape[0],))
            step.values.update(prelu=True, part=None if grid is None else self._rescaling(sources[0], grid))
            factor, term = slope, np.zeros(shape[0])
        elif grid is None:
            factor, term = (np.broadcast_to(part, (shape[0],)) for part in factor_and_shift(node))
        else:
            factor, term = numbers.channel_factors(node, sources[0], grid, shape[0])
        step.values.setdefault("prelu", False)
        if grid is None:
            step.arrays.update(m=(REAL, factor), **({} if step.values["prelu"] else {"b": (REAL, term)}))
        else:
            self._scaled(step, factor, term)


MAKERS = {Convolution: "layer", InnerProduct: "layer", Pooling: "pooling", Elementwise: "elementwise",
          Concat: "concat", Rounding: "copy", Activation: "copy", Padding: "padding", Affine: "channels",
          BatchNorm: "channels", PReLU: "channels", Crop: "moving", Permute: "moving", Resize: "resize",
          Spread: "resize"}


def _window(shape, out, kernel, stride, pads) -> Dict[str, Any]:
    return {"channels": shape[0], "height": shape[1], "width": shape[2], "outputs": out[0], "rows": out[1],
            "columns": out[2], "kernel": tuple(kernel), "stride": tuple(stride), "top": pads[0], "left": pads[1]}


def _narrowest(values: np.ndarray) -> str:
    return "int32_t" if np.abs(values).max(initial=0) < 2 ** 31 else "int64_t"


def _width(kind: str) -> int:
    return {"int64_t": 8, "double": 8}.get(kind) or BYTES[kind]

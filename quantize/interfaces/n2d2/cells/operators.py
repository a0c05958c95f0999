# SPDX-License-Identifier: MIT
"""Cells that are operators: element-wise, shapes, sizes, thresholds, softmax."""

import math
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from quantize.errors import ConfigError
from quantize.importers.graph_block import Step
from quantize.interfaces.n2d2.activation import Rectifier
from quantize.interfaces.n2d2.cells.base import Cell, Names, operator_step
from quantize.interfaces.n2d2.cells.layers import Pool2d
from quantize.registry import closest

WINDOWS = (0, 1, 2, 4, 3, 5)  # (n, c, rows, height, columns, width) <-> (n, c, rows, columns, height, width)
OPERATIONS = ("Sum", "AbsSum", "EuclideanSum", "Prod", "Max")


def _checked(cell: str, key: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise ConfigError(f"{cell}: {key} must be one of {', '.join(known)}, got {value!r}{closest(value, known)}")
    return value


class Activation(Cell):
    """An activation function of its own."""

    def core(self, sources: Sequence[str], names: Names) -> List[Step]:
        """See `Cell`."""
        return []

    def activation_path(self, names: Names) -> str:
        """See `Cell`."""
        return names.path


class ElemWise(Cell):
    """Element-wise operation of all inputs: sum of w * x + s, of w * |x|, its root of squares, product, maximum."""

    joins_inputs = False

    def __init__(self, operation: str = "Sum", *, weights: Sequence[float] = (), shifts: Sequence[float] = (),
                 **common: Any) -> None:
        super().__init__(**common)
        self.operation = _checked("ElemWise", "operation", operation, OPERATIONS)
        self.weights, self.shifts = list(weights), list(shifts)
        if (self.shifts and operation not in ("Sum", "EuclideanSum")) or (
                self.weights and operation in ("Prod", "Max")):
            raise ConfigError(f"ElemWise: {operation} takes no {'shifts' if self.shifts else 'weights'}")

    def core(self, sources: Sequence[str], names: Names) -> List[Step]:
        """See `Cell`."""
        weights, shifts = self._for_inputs(self.weights, 1.0, sources), self._for_inputs(self.shifts, 0.0, sources)
        steps: List[Step] = []
        terms: List[str] = []
        for number, source in enumerate(sources):
            terms.append(self._term(steps, source, names, number, (weights[number], shifts[number])))
        op = {"Prod": "broadcast_mul", "Max": "broadcast_maximum"}.get(self.operation, "broadcast_add")
        total = terms[0]
        for number, term in enumerate(terms[1:]):
            step = operator_step((total, term), names, op, f"upto{number + 1}")
            steps.append(step)
            total = step.outputs[0]
        if self.operation == "EuclideanSum":
            steps.append(operator_step((total,), names, "sqrt", "root"))
        if not steps:
            steps.append(operator_step((total,), names, "identity", "same"))
        steps[-1] = steps[-1]._replace(name=names.path, outputs=(names.output,))
        return steps

    def _term(self, steps: List[Step], source: str, names: Names, number: int, numbers: Tuple[float, float]) -> str:
        weight, shift = numbers
        chain: List[Tuple[str, Dict[str, Any]]] = []
        if self.operation == "AbsSum":
            chain.append(("abs", {}))
        if weight != 1:
            chain.append(("_mul_scalar", {"scalar": weight}))
        if shift:
            chain.append(("_plus_scalar", {"scalar": shift}))
        if self.operation == "EuclideanSum":
            chain.append(("square", {}))
        for place, (op, attrs) in enumerate(chain):
            step = operator_step((source,), names, op, f"in{number}_{place}", **attrs)
            steps.append(step)
            source = step.outputs[0]
        return source

    @staticmethod
    def _for_inputs(values: Sequence[float], default: float, sources: Sequence[str]) -> List[float]:
        found = list(values) or [default]
        found = found * len(sources) if len(found) == 1 else found
        if len(found) != len(sources):
            raise ConfigError(f"ElemWise: {len(found)} weights or shifts for {len(sources)} inputs")
        return found


class Concat(Cell):
    """Inputs joined along the channels."""

    def core(self, sources: Sequence[str], names: Names) -> List[Step]:
        """See `Cell`."""
        return [operator_step(sources, names, "identity")]


class Padding(Cell):
    """Zeros around feature maps; negative sizes cut off."""

    def __init__(self, top_pad: int = 0, bottom_pad: int = 0, left_pad: int = 0, right_pad: int = 0,
                 **common: Any) -> None:
        super().__init__(**common)
        self.rows, self.columns = (top_pad, bottom_pad), (left_pad, right_pad)

    def core(self, sources: Sequence[str], names: Names) -> List[Step]:
        """See `Cell`."""
        add = [max(size, 0) for size in (*self.rows, *self.columns)]
        steps = [operator_step(sources, names, "pad", "added", mode="constant", pad_width=(0, 0, 0, 0, *add))]
        for axis, (first, last) in ((2, self.rows), (3, self.columns)):
            if first < 0 or last < 0:
                steps.append(operator_step(steps[-1].outputs, names, "slice_axis", f"cut{axis}", axis=axis,
                                           begin=max(-first, 0), end=min(last, 0) or None))
        steps[-1] = steps[-1]._replace(name=names.path, outputs=(names.output,))
        return steps


class Resize(Cell):
    """Feature maps in another size.

    Bilinear, with `align_corners` as TensorFlow's option of that name; or NearestNeighbor, where both sides become
    whole multiples: pixels are repeated, which whole numbers can do.
    """

    def __init__(self, outputs_width: int = 1, outputs_height: int = 1, mode: str = "BilinearTF", *,
                 align_corners: bool = True, **common: Any) -> None:
        super().__init__(**common)
        self.size = (outputs_height, outputs_width)
        self.mode = _checked("Resize", "mode", mode, ("Bilinear", "BilinearTF", "NearestNeighbor"))
        self.align_corners, self.needs_size = align_corners, mode == "NearestNeighbor"

    def core(self, sources: Sequence[str], names: Names) -> List[Step]:
        """See `Cell`."""
        if self.mode == "NearestNeighbor":
            return self._repeated(sources, names)
        return [operator_step(sources, names, "_contrib_BilinearResize2D", height=self.size[0], width=self.size[1],
                              align_corners=self.align_corners and self.mode == "BilinearTF")]

    def _repeated(self, sources: Sequence[str], names: Names) -> List[Step]:
        sides = self.input_size[1:]
        if len(sides) != 2 or any(large < small or large % small for large, small in zip(self.size, sides)):
            raise ConfigError(f"{self.name or 'Resize'}: NearestNeighbor repeats pixels; {self.size[1]}x{self.size[0]} "
                              f"is no whole multiple of {'x'.join(map(str, reversed(sides)))}; use Bilinear")
        rows = operator_step(sources, names, "repeat", "rows", repeats=self.size[0] // sides[0], axis=2)
        return [rows, operator_step(rows.outputs, names, "repeat", repeats=self.size[1] // sides[1], axis=3)]


class Scaling(Cell):
    """Everything times a factor."""

    def __init__(self, factor: float = 1.0, **common: Any) -> None:
        super().__init__(**common)
        self.factor = factor

    def core(self, sources: Sequence[str], names: Names) -> List[Step]:
        """See `Cell`."""
        return [operator_step(sources, names, "_mul_scalar", scalar=self.factor)]


class Reshape(Cell):
    """Feature maps in another shape; `dims` are N2D2's, (width, height, channels), -1 once for what is left."""

    def __init__(self, dims: Sequence[int] = (-1,), **common: Any) -> None:
        super().__init__(**common)
        self.dims = [int(size) for size in dims]

    def core(self, sources: Sequence[str], names: Names) -> List[Step]:
        """See `Cell`."""
        return [operator_step(sources, names, "reshape", shape=(0, *reversed(self.dims)))]


class Transpose(Cell):
    """Axes in another order; `perm` numbers N2D2's axes width 0, height 1, channels 2, batch 3."""

    def __init__(self, perm: Sequence[int] = (0, 1, 2, 3), **common: Any) -> None:
        super().__init__(**common)
        self.perm = [int(axis) for axis in perm]
        if sorted(self.perm) != [0, 1, 2, 3] or self.perm[3] != 3:
            raise ConfigError(f"Transpose: perm must be an order of 0, 1, 2 and then 3 (the batch), got {self.perm}")

    def core(self, sources: Sequence[str], names: Names) -> List[Step]:
        """See `Cell`."""
        axes = tuple(3 - axis for axis in reversed(self.perm))
        return [operator_step(sources, names, "transpose", axes=axes)]


class Threshold(Cell):
    """Everything against a threshold t.

    Binary is (x > t) * max_value, BinaryInverted (x <= t) * max_value, Truncate min(x, t), ToZero x where x > t,
    ToZeroInverted x where x <= t; 0 elsewhere.
    """

    OPERATIONS = ("Binary", "BinaryInverted", "Truncate", "ToZero", "ToZeroInverted")

    def __init__(self, threshold: float = 0.0, *, operation: str = "Binary", max_value: float = 1.0,
                 **common: Any) -> None:
        super().__init__(**common)
        self.threshold, self.max_value = threshold, max_value
        self.operation = _checked("Threshold", "operation", operation, self.OPERATIONS)

    def core(self, sources: Sequence[str], names: Names) -> List[Step]:
        """See `Cell`."""
        if self.operation == "Truncate":
            return [operator_step(sources, names, "_minimum_scalar", scalar=self.threshold)]
        op = "_lesser_equal_scalar" if self.operation.endswith("Inverted") else "_greater_scalar"
        mask = operator_step(sources, names, op, "mask", scalar=self.threshold)
        if self.operation.startswith("Binary"):
            return [mask, operator_step(mask.outputs, names, "_mul_scalar", scalar=self.max_value)]
        return [mask, operator_step((sources[0], mask.outputs[0]), names, "broadcast_mul")]


class Unpool(Cell):
    """Each value spread over its window.

    `pooling` Average: repeated, divided by the window's size. Max: put where the maximum was that the pooling cell
    `arg_max` took, the first one of equal ones, with zeros around it.
    """

    def __init__(self, pool_dims: Sequence[int] = (2, 2), *, pooling: str = "Average", arg_max: str = "",
                 **common: Any) -> None:
        super().__init__(**common)
        self.pooling = _checked("Unpool", "pooling", pooling, ("Average", "Max"))
        if bool(arg_max) != (pooling == "Max"):
            raise ConfigError("Unpool: pooling=Max needs arg_max, the name of the pooling cell" if pooling == "Max"
                              else "Unpool: arg_max belongs to pooling=Max")
        width, height = (int(size) for size in pool_dims)
        self.window, self.arg_max, self.joins_inputs = (height, width), arg_max, not arg_max

    def follow(self, others: Mapping[str, Cell]) -> None:
        """Read, beside its input, what the pooling cell reads."""
        pool = others.get(self.arg_max)
        if not isinstance(pool, Pool2d) or pool.pooling != "Max" or (pool.pool, pool.stride, pool.padding) != (
                self.window, self.window, (0, 0)) or len(pool.inputs) != 1:
            raise ConfigError(f"{self.name or 'Unpool'}: arg_max {self.arg_max!r} is no cell before it that takes the "
                              f"maximum of windows of {self.window} side by side{closest(self.arg_max, list(others))}")
        self.inputs = [self.inputs[0], pool.inputs[0]]

    def core(self, sources: Sequence[str], names: Names) -> List[Step]:
        """See `Cell`."""
        if self.pooling == "Max":
            return self._placed(sources[0], sources[1], names)
        rows = operator_step(sources[:1], names, "repeat", "rows", repeats=self.window[0], axis=2)
        columns = operator_step(rows.outputs, names, "repeat", "columns", repeats=self.window[1], axis=3)
        return [rows, columns, operator_step(columns.outputs, names, "_div_scalar", scalar=math.prod(self.window))]

    def _placed(self, source: str, before: str, names: Names) -> List[Step]:
        height, width = self.window
        chain: List[Tuple[str, Dict[str, Any]]] = [
            ("reshape", {"shape": (0, 0, -4, -1, height, -4, -1, width)}), ("transpose", {"axes": WINDOWS}),
            ("reshape", {"shape": (0, 0, 0, 0, -3)}), ("argmax", {"axis": 4}), ("one_hot", {"depth": height * width})]
        steps = _chained(before, names, "place", chain)
        value = operator_step((source,), names, "expand_dims", "value", axis=4)
        put = operator_step((steps[-1].outputs[0], value.outputs[0]), names, "broadcast_mul", "put")
        steps += [value, put]
        back: List[Tuple[str, Dict[str, Any]]] = [
            ("reshape", {"shape": (0, 0, 0, 0, -4, height, width)}), ("transpose", {"axes": WINDOWS}),
            ("reshape", {"shape": (0, 0, -3, -3)})]
        steps += _chained(put.outputs[0], names, "back", back)
        steps[-1] = steps[-1]._replace(name=names.path, outputs=(names.output,))
        return steps


def _chained(source: str, names: Names, part: str, chain: Sequence[Tuple[str, Dict[str, Any]]]) -> List[Step]:
    steps: List[Step] = []
    for number, (op, attrs) in enumerate(chain):
        steps.append(operator_step((source,), names, op, f"{part}{number}", **attrs))
        source = steps[-1].outputs[0]
    return steps


class Softmax(Cell):
    """Softmax over the channels.

    Parameters
    ----------
    with_loss : bool
        Cross entropy with the labels is what training minimizes.
    """

    def __init__(self, with_loss: bool = False, **common: Any) -> None:
        super().__init__(**common)
        self.with_loss = with_loss

    def core(self, sources: Sequence[str], names: Names) -> List[Step]:
        """See `Cell`."""
        return [operator_step(sources, names, "softmax", axis=1)]


class Operation(Cell):
    """What a step of an ONNX file does that is none of the other cells."""

    joins_inputs = False

    def core(self, sources: Sequence[str], names: Names) -> List[Step]:
        """See `Cell`."""
        raise ConfigError(f"{self.name}: is known from its file alone")


def relu(name: str, inputs: Sequence[str] = ()) -> Activation:
    """The cell of a ReLU."""
    return Activation(name=name, inputs=inputs, activation=Rectifier())


def single(source: Optional[str]) -> List[str]:
    """A list of the one name, empty without it."""
    return [source] if source else []

# SPDX-License-Identifier: MIT
"""The interpreter: nodes in order, on parts of the batch, forgetting blobs that no later node reads."""

from dataclasses import dataclass
from typing import Callable, Dict, Iterable, Mapping, Optional, Sequence, Tuple, Union, cast

import numpy as np

from deploy.arithmetic import Arithmetic
from deploy.engine import integer
from deploy.engine.activation import activate
from deploy.engine.operations import OPERATIONS
from deploy.ir import Convolution, Model, Node, QuantizedNode, integers, quantized
from deploy.ir.packed import unpacked
from quantize.errors import DataError, DeployError
from quantize.registry import closest

ALL = "all"
Watch = Callable[[str, np.ndarray], None]
PART_BYTES = 32 << 20  # what the largest node may work on at a time: enough for BLAS, little for caches


@dataclass(frozen=True, eq=False)
class Result:
    """What a run has computed.

    Parameters
    ----------
    outputs : tuple of array
        The model's outputs, in its order.
    blobs : dict
        Name -> array (n, ...) of float32: the outputs, and the blobs that were to be kept.
    codes : dict
        Name of a quantized layer -> integer codes of its input (n, ...), zero point included; if asked for.
    largest : dict
        Name of a quantized layer -> largest magnitude of its integer sums.
    """

    outputs: Tuple[np.ndarray, ...]
    blobs: Dict[str, np.ndarray]
    codes: Dict[str, np.ndarray]
    largest: Dict[str, int]


def run(model: Model, inputs: Union[np.ndarray, Mapping[str, np.ndarray]], *, arithmetic: Optional[Arithmetic] = None,
        keep: Union[str, Iterable[str]] = (), codes: bool = False, part: Optional[int] = None,
        watch: Optional[Watch] = None) -> Result:
    """Run a model on a batch. Layers with a quantization compute exactly in integers, everything else in float32.

    Parameters
    ----------
    model : Model
    inputs : array of float32, (n, ...), or dict
        The model's only input, or all of them in one array (`deploy.ir.packed`), or blob -> array for each of them.
    arithmetic : Arithmetic, optional
        How the engine that is imitated rounds; the plain one by default.
    keep : iterable of str, or "all"
        Blobs to return besides the outputs.
    codes : bool
        Also return the codes of the inputs of quantized layers.
    part : int, optional
        Images to compute at a time; by default few enough to need little memory. No result depends on it.
    watch : function, optional
        Called with each blob's name and values, (images of a part, ...), as soon as they are there. They are not copied
        for it, as for `keep`: who wants to keep them must.

    Raises
    ------
    DataError
        Inputs that do not fit the model.
    DeployError
        An unknown blob to keep, a sum that does not fit into int32, values that are no numbers.
    """
    arithmetic = (arithmetic or Arithmetic()).bound(model)
    arrays = _inputs(model, inputs)
    count = len(arrays[model.inputs[0]])
    trace = _Trace(model, count, keep, codes, watch)
    part = part or part_size(model)
    for start in range(0, count, part):
        blobs = {name: np.ascontiguousarray(values[start:start + part]) for name, values in arrays.items()}
        _run_part(model, blobs, arithmetic, trace, slice(start, start + part))
    return Result(tuple(trace.blobs[name] for name in model.outputs), trace.blobs, trace.codes, trace.largest)


class _Trace:
    """What is to be returned, filled part by part."""

    def __init__(self, model, count, keep, codes, watch=None):
        names = list(model.shapes) if keep == ALL else list(model.outputs) + list(keep)
        for name in names:
            if name not in model.shapes:
                raise DeployError(f"there is no blob {name!r} to keep{closest(name, model.shapes)}")
        layers = quantized(model)
        self.watch = watch
        self.blobs = {name: np.empty((count,) + tuple(model.shapes[name]), np.float32) for name in names}
        self.codes = {node.name: np.empty((count,) + tuple(model.shapes[node.inputs[0]]), np.int32)
                      for node in layers if codes}
        self.largest = {node.name: 0 for node in layers}

    def blob(self, name, where, values):
        """Keep a part of a blob that was asked for, and show it to who watches."""
        if name in self.blobs:
            self.blobs[name][where] = values
        if self.watch is not None:
            self.watch(name, values)

    def layer(self, node, where, codes, largest):
        """Keep what is asked for of a quantized layer."""
        self.largest[node.name] = max(self.largest[node.name], largest)
        if node.name in self.codes:
            self.codes[node.name][where] = codes


def _inputs(model, inputs):
    """Blob -> array of float32, checked."""
    inputs = unpacked(model, inputs)
    if set(inputs) != set(model.inputs):
        raise DataError(f"inputs {sorted(inputs)} were given, but the model has {sorted(model.inputs)}")
    arrays = {name: np.asarray(values, np.float32) for name, values in inputs.items()}
    for name, values in arrays.items():
        if values.shape[1:] != tuple(model.shapes[name]) or not values.ndim:
            raise DataError(f"input {name!r} has the shape {values.shape}, but the model takes (n, "
                            f"{', '.join(str(size) for size in model.shapes[name])})")
    if len({len(values) for values in arrays.values()}) > 1:
        raise DataError("inputs have different numbers of images")
    return arrays


def part_size(model: Model) -> int:
    """Images whose largest node needs about `PART_BYTES`."""
    def elements(node):
        values = sum(int(np.prod(model.shapes[name])) for name in node.inputs + node.outputs)
        if isinstance(node, Convolution) and not node.depthwise:  # windows as columns
            values += int(np.prod(node.weight.shape[1:]) * node.groups * np.prod(model.shapes[node.outputs[0]][1:]))
        return values
    return max(1, PART_BYTES // max((4 * elements(node) for node in model.nodes), default=1))


def _run_part(model, blobs, arithmetic, trace, where):
    """Run all nodes on one part of the batch; `blobs` holds the inputs, `where` is its place in the batch."""
    last_reader = {name: node for node in model.nodes for name in node.inputs}
    for name, values in blobs.items():
        trace.blob(name, where, values)
    for node in model.nodes:
        outputs = compute(node, [blobs[name] for name in node.inputs], arithmetic, trace, where)
        for name in node.inputs:
            if last_reader[name] is node:
                blobs.pop(name, None)
        for name, values in zip(node.outputs, outputs):
            if values.shape[1:] != tuple(model.shapes[name]):
                raise DeployError(f"{node.path or node.name}: blob {name!r} should have the shape "
                                  f"{tuple(model.shapes[name])}, but got {values.shape[1:]}")
            trace.blob(name, where, values)
            if name in last_reader:
                blobs[name] = values


def compute(node: Node, inputs: Sequence[np.ndarray], arithmetic: Arithmetic, trace: "_Trace",
            where: slice) -> Tuple[np.ndarray, ...]:
    """Outputs of one node, a tuple."""
    if integers(node) is not None:
        layer = cast(QuantizedNode, node)
        codes, sums = integer.layer(layer, inputs[0], arithmetic)
        trace.layer(layer, where, codes, integer.largest(sums, layer))
        return (activate(arithmetic.dequantize(sums, layer), layer.activation, arithmetic, layer),)
    apply = arithmetic.operations.get(type(node)) or OPERATIONS[type(node)]
    outputs = apply(node, inputs, arithmetic)
    return outputs if isinstance(outputs, tuple) else (outputs,)

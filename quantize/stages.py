# SPDX-License-Identifier: MIT
"""A network run in stages: feature maps of some images are kept in front of a layer and carried on from there.

What comes before a layer is so computed once, however often the layer itself is tried.
"""

import json
import os
import tempfile
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import Block, nn

from quantize.errors import CalibrationError
from quantize.modes import mode, quantized_layers, unfix_params
from quantize.onednn import as_written, guarded, over_four_axes
from quantize.ops import fake_quantize
from quantize.spec import QParams, QuantSpec
from quantize.tree import walk

LAYERS = (nn.Conv1D, nn.Conv2D, nn.Conv3D, nn.Conv1DTranspose, nn.Conv2DTranspose, nn.Conv3DTranspose, nn.Dense)
LAYER_OPS = ("Convolution", "Deconvolution", "FullyConnected")
MEMORY = 1 << 30
Key = Tuple[int, int]


class Step(NamedTuple):
    """One operator of the graph; `layer` is the path of the layer that it is the product of."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which has no use here
    name: str
    op: str
    attrs: Dict[str, str]
    sources: Tuple[Key, ...]
    layer: str = ""


class LayerGraph:
    """The operators of a network, converted or not, in the order they are computed, as it is in float.

    Attributes
    ----------
    steps : list of Step
    calls : dict
        Path of a layer with a weight -> indices of its products, in order.
    layers : dict
        Path -> layer.
    quantized : dict
        Those of them that hold quantizers.
    head : (int, int)
        The (first) output.

    Raises
    ------
    CalibrationError
        For a network that cannot be traced.
    """

    def __init__(self, net: Block):
        unfix_params(net)
        self.layers = {path: block for path, block in walk(net) if isinstance(block, LAYERS)}
        self.quantized = dict(quantized_layers(net))
        self._parameters = {parameter.name: parameter for parameter in net.collect_params().values()}
        with mode(net, "float"), as_written():
            try:
                out = net(mx.sym.var("data"))
            except Exception as error:  # whatever Python code that looks at values raises when it is given a symbol
                raise CalibrationError(f"{net.name}: the graph cannot be traced: "
                                       f"{str(error).splitlines()[0]}") from None
            graph = json.loads((out[0] if isinstance(out, (list, tuple)) else out).tojson(), strict=False)
        owners = {layer.weight.name: path for path, layer in self.layers.items()}
        self.steps = [_step(index, graph["nodes"], owners) for index in range(len(graph["nodes"]))]
        self.head = tuple(graph["heads"][0][:2])
        self._needed = _needed(self.steps, self.head)
        self.calls: Dict[str, List[int]] = {}
        self._last = {self.head: len(self.steps)}
        for step in self.steps:
            if step.index in self._needed:
                self._last.update((source, step.index) for source in step.sources)
            if step.layer and step.index in self._needed:
                self.calls.setdefault(step.layer, []).append(step.index)
        self.data = next((step.index, 0) for step in self.steps if step.op == "null" and step.name == "data")

    def parameter(self, index: int) -> Optional[mx.nd.NDArray]:
        """The value of a variable; None for the images, and for what an operator computes."""
        parameter = self._parameters.get(self.steps[index].name)
        return None if parameter is None or self.steps[index].op != "null" else parameter.data()

    def is_rectified(self, step: Step) -> bool:
        """Whether all that reads an operator's output is one ReLU or clip at 0."""
        readers = [reader for reader in self.steps if reader.index in self._needed
                   and (step.index, 0) in reader.sources]
        if len(readers) != 1 or (step.index, 0) == self.head:
            return False
        attrs = readers[0].attrs
        return (readers[0].op == "relu" or attrs.get("act_type") == "relu"
                or readers[0].op == "clip" and float(attrs["a_min"]) == 0)

    def live(self, position: int) -> int:
        """How many tensors that images have made steps from `position` on still read of those before it."""
        made = [source for source, last in self._last.items() if source[0] < position <= last]
        return sum(self.parameter(index) is None for index, _ in made)

    def is_needed(self, step: Step) -> bool:
        """Whether the output depends on a step."""
        return step.index in self._needed

    def still_needed(self, key: Key, position: int) -> bool:
        """Whether any step from `position` on reads a tensor."""
        return self._last.get(key, -1) >= position


def _step(index: int, nodes: List[Dict[str, Any]], owners: Dict[str, str]) -> Step:
    node = nodes[index]
    sources = tuple((source[0], source[1]) for source in node["inputs"])
    layer = owners.get(_variable(nodes, sources[1][0]), "") if node["op"] in LAYER_OPS else ""
    return Step(index, node["name"], node["op"], node.get("attrs", {}), sources[:1] if layer else sources, layer)


def _variable(nodes: List[Dict[str, Any]], index: int) -> str:
    """Name of the parameter that a weight comes from; a quantized layer multiplies it by 1 (`plain_layout`)."""
    while nodes[index]["op"] == "_mul_scalar":
        index = nodes[index]["inputs"][0][0]
    return nodes[index]["name"]


def _needed(steps: Sequence[Step], head: Key) -> Set[int]:
    """Indices of the steps that the output depends on; the weights of layers are not among them."""
    needed: Set[int] = set()
    waiting = [head[0]]
    while waiting:
        index = waiting.pop()
        if index not in needed:
            needed.add(index)
            waiting += [source for source, _ in steps[index].sources]
    return needed


Compute = Callable[[Step, mx.nd.NDArray], mx.nd.NDArray]


def product(step: Step, x: mx.nd.NDArray, weight: mx.nd.NDArray, bias: Optional[mx.nd.NDArray]) -> mx.nd.NDArray:
    """What a layer's operator computes of its input, with a weight and a bias (None: none)."""
    operands = [x, weight] if bias is None else [x, weight, bias]
    return run_operator(step, operands, no_bias=bias is None)


def float_product(graph: LayerGraph) -> Compute:
    """``compute`` for `run_steps` and `Chain`: layers as they are in float."""
    def compute(step: Step, x: mx.nd.NDArray) -> mx.nd.NDArray:
        layer = graph.layers[step.layer]
        return product(step, x, layer.weight.data(), None if layer.bias is None else layer.bias.data())
    return compute


def quantized_product(graph: LayerGraph) -> Compute:
    """``compute`` for `run_steps` and `Chain`: layers as their quantizers are switched now."""
    def compute(step: Step, x: mx.nd.NDArray) -> mx.nd.NDArray:
        layer = graph.layers[step.layer]
        weight, bias = layer.weight.data(), None if layer.bias is None else layer.bias.data()
        if step.layer in graph.quantized:
            x, weight = read_input(graph, step, x), layer.rounded(mx.nd, weight)
        return product(step, x, weight, bias)
    return compute


def on_grid(x: mx.nd.NDArray, qparams: QParams, spec: QuantSpec) -> mx.nd.NDArray:
    """`x` rounded to a grid."""
    zero_point = None if spec.symmetric else mx.nd.array(qparams.zero_point.astype(np.float32), ctx=x.context)
    return fake_quantize(mx.nd, x * 1, mx.nd.array(qparams.scale, ctx=x.context), spec, zero_point)


def read_input(graph: LayerGraph, step: Step, x: mx.nd.NDArray) -> mx.nd.NDArray:
    """A layer's input as its product gets it."""
    quantizer = graph.quantized[step.layer].input_quantizer if step.layer in graph.quantized else None
    return x if quantizer is None else quantizer(x)


def run_operator(step: Step, inputs: Sequence[mx.nd.NDArray], **changes: object) -> Any:
    """The output of one operator, or a list of them, as in inference also while gradients are recorded.

    They must be recorded in training mode: without it oneDNN's pooling keeps no places of maxima, and its gradient is
    garbage.
    """
    op = step.op
    if op == "Dropout":
        return inputs[0]
    if op == "BatchNorm":
        changes["use_global_stats"] = True
    if op.startswith("_contrib_"):
        function = getattr(mx.nd.contrib, op[len("_contrib_"):])
    else:
        function = getattr(mx.nd, op, None) or getattr(mx.nd._internal, op)
    attrs = {name: value for name, value in step.attrs.items() if not name.startswith("__")}
    if op == "BatchNorm":
        return over_four_axes(mx.nd, inputs[0], lambda x: function(x, *inputs[1:], **dict(attrs, **changes)))
    return guarded(mx.nd, op, function)(*inputs, **dict(attrs, **changes))


def run_steps(graph: LayerGraph, values: Dict[Key, mx.nd.NDArray], steps: Tuple[int, int], compute: Compute,
              see: Optional[Callable] = None) -> Dict[Key, mx.nd.NDArray]:
    """Of the tensors that are there and those that steps compute, those that later steps read.

    Parameters
    ----------
    steps : (int, int)
        First step, and the one to stop before.
    see : function, optional
        ``see(step, x, y)`` gets the first input and the first output of each step and returns the output to go on with.
    """
    values = dict(values)
    for step in graph.steps[slice(*steps)]:
        if step.op == "null" or not graph.is_needed(step):
            continue
        inputs = [values[source] if source in values else graph.parameter(source[0]) for source in step.sources]
        outputs = compute(step, inputs[0]) if step.layer else run_operator(step, inputs)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        if see is not None:
            outputs[0] = see(step, inputs[0], outputs[0])
        values.update(((step.index, number), output) for number, output in enumerate(outputs))
        values = {key: value for key, value in values.items() if graph.still_needed(key, step.index + 1)}
    return values


class Chain:
    """Some images on their way through a network.

    Parameters
    ----------
    graph : LayerGraph
    batches : iterable of NDArray
    compute : function
        ``compute(step, x)``: the output of a layer.
    memory : int
        Bytes of feature maps kept in memory; what is more goes to a temporary file.

    Attributes
    ----------
    position : int
        Steps before this one are done.
    """

    def __init__(self, graph: LayerGraph, batches: Iterable, compute: Compute, memory: int = MEMORY):
        self.graph, self.compute = graph, compute
        self.position = 0
        self._memory = memory
        self._states = [{graph.data: batch} for batch in batches]

    def copy(self, compute: Optional[Compute] = None, batches: Optional[int] = None) -> "Chain":
        """Another chain at the same place, of all or the first `batches`; tensors are shared, since none is changed."""
        other = object.__new__(Chain)
        other.__dict__.update(self.__dict__, _states=[dict(state) for state in self._states[:batches]])
        other.compute = compute or self.compute
        return other

    def rewind(self, other: "Chain") -> None:
        """Stand where another chain of the same images stands."""
        self._states, self.position = [dict(state) for state in other._states], other.position

    def advance(self, position: int) -> None:
        """Compute every step before `position`."""
        if position <= self.position:
            return
        room = self._memory // max(len(self._states), 1)
        for number, state in enumerate(self._states):
            values = {key: _loaded(value) for key, value in state.items()}
            values = run_steps(self.graph, values, (self.position, position), self.compute)
            self._states[number] = _kept(values, state, room)
        self.position = position

    def __len__(self) -> int:
        return len(self._states)

    def state(self, number: int) -> Dict[Key, mx.nd.NDArray]:
        """The tensors of one batch."""
        return {key: _loaded(value) for key, value in self._states[number].items()}

    def inputs_of(self, step: Step) -> Iterable[mx.nd.NDArray]:
        """The input of a layer for each batch; the chain must stand in front of it."""
        for state in self._states:
            yield _loaded(state[step.sources[0]])

    def outputs(self) -> np.ndarray:
        """The network's (first) output for all images; runs what is left, layer by layer of one batch at a time."""
        for number, state in enumerate(self._states):
            values = {key: _loaded(value) for key, value in state.items()}
            span = self.position, len(self.graph.steps)
            self._states[number] = run_steps(self.graph, values, span, self.compute)
            self._states[number][self.graph.head].wait_to_read()
        self.position = len(self.graph.steps)
        return np.concatenate([_loaded(state[self.graph.head]).asnumpy() for state in self._states])


class _Spilled:
    """An array in a file, which goes when nobody refers to it any longer."""

    def __init__(self, array: np.ndarray):
        handle, self._path = tempfile.mkstemp(suffix=".npy", prefix="feature_map_")
        with os.fdopen(handle, "wb") as file:
            np.save(file, array)

    def load(self) -> mx.nd.NDArray:
        return mx.nd.array(np.load(self._path, allow_pickle=False))

    def __del__(self) -> None:
        if os.path.exists(self._path):
            os.remove(self._path)


def _loaded(value: Any) -> mx.nd.NDArray:
    return value.load() if isinstance(value, _Spilled) else value


def _kept(values: Dict[Key, mx.nd.NDArray], before: Dict[Key, Any], room: int) -> Dict[Key, Any]:
    """What stays of a batch: in memory as far as there is room, else in files; those that are there already stay."""
    kept: Dict[Key, Any] = {}
    for key, value in values.items():
        value.wait_to_read()
        room -= 4 * value.size
        if room >= 0:
            kept[key] = value
        else:
            old = before.get(key)
            kept[key] = old if isinstance(old, _Spilled) else _Spilled(value.asnumpy())
    return kept

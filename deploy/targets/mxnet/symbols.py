# SPDX-License-Identifier: MIT
"""A symbol of MXNet while it is being made: nodes in order, variables with their values, and the JSON of it."""

import json
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from quantize.documents import read_json
from quantize.errors import DeployError
from quantize.files import PathLike, read_text

VERSION = 10901
OPERATORS = """null identity _sg_mkldnn_conv _sg_mkldnn_fully_connected _contrib_quantize_v2
    _contrib_dequantize _contrib_requantize _contrib_quantized_elemwise_add _contrib_quantized_pooling
    _contrib_quantized_concat _contrib_quantized_act BatchNorm
    Convolution Deconvolution FullyConnected Activation LeakyReLU clip hard_sigmoid exp abs
    square sqrt rsqrt log erf floor ceil sin cos broadcast_add broadcast_sub broadcast_mul broadcast_div
    broadcast_maximum broadcast_minimum broadcast_power broadcast_like elemwise_add elemwise_sub elemwise_mul
    elemwise_div Pooling Concat slice slice_axis Reshape transpose Pad _contrib_BilinearResize2D UpSampling mean sum max
    min softmax _plus_scalar _minus_scalar _mul_scalar _div_scalar _rminus_scalar _rdiv_scalar _maximum_scalar
    _minimum_scalar _power_scalar"""


class Entry(NamedTuple):
    """One output of a node."""

    node: int
    output: int = 0


class Codes(NamedTuple):
    """A blob in codes: the integers, and the ends of their range as MXNet hands them on."""

    values: Entry
    low: Entry
    high: Entry


def text(value: Any) -> str:
    """An attribute as symbols have it; float32 numbers so that reading gives the same number."""
    if isinstance(value, (float, np.floating)):
        return np.format_float_scientific(np.float32(value), unique=True)
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(map(text, value)) + ("," if len(value) == 1 else "") + ")"
    return str(value)


class Nodes:
    """Nodes of a graph, or of the graph within a node."""

    def __init__(self) -> None:
        self.nodes: List[Dict[str, Any]] = []
        self.outputs: List[int] = []

    def variable(self, name: str) -> Entry:
        """An input, or a parameter."""
        return self._append({"op": "null", "name": name, "inputs": []}, 1)

    def node(self, op: str, inputs: Sequence[Entry], name: str, outputs: int = 1,
             graph: Optional[Dict[str, Any]] = None, **attributes: Any) -> Entry:
        """An operator; its first output. `graph`: what it holds."""
        found: Dict[str, Any] = {"op": op, "name": name}
        if attributes:
            found["attrs"] = {key: text(value) for key, value in sorted(attributes.items())}
        found["inputs"] = [[entry.node, entry.output, 0] for entry in inputs]
        if graph is not None:
            found["subgraphs"] = [graph]
        return self._append(found, outputs)

    def coded(self, op: str, inputs: Sequence[Entry], name: str, graph: Optional[Dict[str, Any]] = None,
              **attributes: Any) -> Codes:
        """An operator that puts out codes and their range."""
        first = self.node(op, inputs, name, 3, graph, **attributes)
        return Codes(first, first._replace(output=1), first._replace(output=2))

    def _append(self, node: Dict[str, Any], outputs: int) -> Entry:
        self.nodes.append(node)
        self.outputs.append(outputs)
        return Entry(len(self.nodes) - 1)

    def contents(self, heads: Sequence[Entry]) -> Dict[str, Any]:
        """The graph as JSON has it."""
        pointers = np.concatenate([[0], np.cumsum(self.outputs)]).tolist()
        return {"nodes": self.nodes, "arg_nodes": [number for number, node in enumerate(self.nodes)
                                                   if node["op"] == "null"],
                "node_row_ptr": pointers, "heads": [[head.node, head.output, 0] for head in heads]}


class Graph(Nodes):
    """A whole symbol.

    Attributes
    ----------
    parameters, auxiliary : dict
        Name -> array of float32; the second are those that MXNet calls states.
    """

    def __init__(self) -> None:
        super().__init__()
        self.parameters: Dict[str, np.ndarray] = {}
        self.auxiliary: Dict[str, np.ndarray] = {}
        self._names: Dict[str, int] = {}

    def parameter(self, name: str, value: Any) -> Entry:
        """A variable with a value."""
        name = self.unique(name)
        self.parameters[name] = np.ascontiguousarray(value, np.float32)
        return self.variable(name)

    def state(self, name: str, value: Any) -> Entry:
        """The same of a state."""
        name = self.unique(name)
        self.auxiliary[name] = np.ascontiguousarray(value, np.float32)
        return self.variable(name)

    def unique(self, name: str) -> str:
        """The name, with a number where it was taken."""
        count = self._names.get(name, 0)
        self._names[name] = count + 1
        return self.unique(f"{name}_{count}") if count else name

    def reserve(self, name: str) -> None:
        """Keep a name from being given to anything else."""
        self._names[name] = 1

    def named(self, op: str, value: Entry, name: str) -> Entry:
        """An operator with a reserved name."""
        return super().node(op, [value], name)

    def node(self, op: str, inputs: Sequence[Entry], name: str, outputs: int = 1,
             graph: Optional[Dict[str, Any]] = None, **attributes: Any) -> Entry:
        """See the base; names become unique."""
        return super().node(op, inputs, self.unique(name), outputs, graph, **attributes)

    def document(self, heads: Sequence[Entry]) -> str:
        """The file."""
        contents = dict(self.contents(heads), attrs={"mxnet_version": ["int", VERSION]})
        nodes = ",\n".join(map(json.dumps, contents.pop("nodes")))
        return f'{{"nodes": [\n{nodes}\n], {json.dumps(contents)[1:]}\n'


def layer_graph(op: str, attributes: Dict[str, Any], bias: bool, added: bool,
                function: Optional[str]) -> Dict[str, Any]:
    """What `_sg_mkldnn_conv` and `_sg_mkldnn_fully_connected` hold: the layer, an addition, a ReLU."""
    nodes = Nodes()
    inputs: Tuple[Entry, ...] = tuple(nodes.variable(name) for name in ("data", "weight", "bias")[:3 if bias else 2])
    last = nodes.node(op, inputs, "layer", **attributes)
    if added:
        last = nodes.node("elemwise_add", [last, nodes.variable("other")], "sum")
    if function:
        last = nodes.node("Activation", [last], "function", act_type=function)
    return nodes.contents([last])


def read(path: PathLike) -> str:
    """The text of a symbol that `Graph.document` could have made; DeployError for any other, before MXNet sees it."""
    document = read_json(path, DeployError)
    if not isinstance(document, dict) or not _is_graph(document, 0):
        raise DeployError(f"{path}: is not what this program writes; deploy the network again")
    return read_text(path)


def _is_graph(graph: Any, depth: int) -> bool:
    """Nodes that are known and read what stands before them, and at most one graph within another."""
    nodes = graph.get("nodes") if isinstance(graph, dict) else None
    if depth > 1 or not isinstance(nodes, list) or not all(isinstance(node, dict) for node in nodes):
        return False
    known = OPERATORS.split()
    return all(node.get("op") in known and isinstance(node.get("name"), str) and _reads(node.get("inputs"), number)
               and all(_is_graph(inner, depth + 1) for inner in node.get("subgraphs", ()))
               for number, node in enumerate(nodes)) and _reads(graph.get("heads"), len(nodes))


def _reads(entries: Any, limit: int) -> bool:
    return isinstance(entries, list) and all(
        isinstance(entry, list) and len(entry) == 3 and all(isinstance(number, int) for number in entry)
        and 0 <= entry[0] < limit and 0 <= entry[1] < 3 for entry in entries)

# SPDX-License-Identifier: MIT
"""What the traced graph knows: which layer feeds which, and which inputs can never be negative."""

import json
from dataclasses import dataclass
from typing import Any, Dict, List, Sequence, Tuple

import mxnet as mx
from mxnet.gluon import Block, HybridBlock

from quantize.convert.layers import LAYER_OPS
from quantize.errors import ConversionError
from quantize.onednn import MAPS, as_written
from quantize.tree import walk

NORMS = ("BatchNorm", "_contrib_SyncBatchNorm")


@dataclass(frozen=True)
class Node:
    """One operator or variable of the graph."""

    index: int
    name: str
    op: str
    attrs: Dict[str, str]
    sources: Tuple[Tuple[int, int], ...]

    @property
    def inputs(self) -> Tuple[int, ...]:
        """Indices of the nodes it reads; `sources` adds which of their outputs."""
        return tuple(index for index, _ in self.sources)


class Graph:
    """A traced network: nodes in topological order, and the layers that own them.

    Attributes
    ----------
    nodes : list of Node
    consumers : list of list of int
        For each node the nodes that read it; an output of the network counts as a reader of index -1.
    calls : dict
        Structural path of a layer with a weight (or of a BatchNorm) -> indices of the nodes it produced.
    symbol : Symbol
        What was traced.
    heads : list of (int, int)
        The network's outputs: nodes, and which of their outputs.
    """

    def __init__(self, symbol: mx.sym.Symbol, owners: Dict[str, str], data_names: Sequence[str] = ("data",)) -> None:
        self.symbol, self.data_names = symbol, tuple(data_names)
        graph = json.loads(symbol.tojson(), strict=False)
        self.heads = [(head[0], head[1]) for head in graph["heads"]]
        self.nodes = [Node(i, n["name"], n["op"], n.get("attrs", {}), tuple((e[0], e[1]) for e in n["inputs"]))
                      for i, n in enumerate(graph["nodes"])]
        self.consumers: List[List[int]] = [[] for _ in self.nodes]
        for node in self.nodes:
            for source in node.inputs:
                self.consumers[source].append(node.index)
        for index, _ in self.heads:
            self.consumers[index].append(-1)
        self.calls: Dict[str, List[int]] = {}
        for node in self.nodes:
            if node.op in LAYER_OPS or node.op in (*NORMS, "_contrib_BatchNormWithReLU"):
                # a layer's operator is known by its second operand: names of operators are the user's, parameters are
                # the block's
                path = owners.get(self.nodes[node.inputs[1]].name)
                if path is not None:
                    self.calls.setdefault(path, []).append(node.index)

    def data_input(self, index: int) -> Node:
        """The node that feeds a layer's first input."""
        return self.nodes[self.nodes[index].inputs[0]]

    def first_layers(self) -> List[str]:
        """Paths of the layers that see the network's input without another layer in between."""
        reached = [node.op == "null" and node.name in self.data_names for node in self.nodes]
        first = set()
        for node in self.nodes:
            if node.op in LAYER_OPS:
                # the first operand alone: a constant that is computed from the image is no way in
                if reached[node.inputs[0]]:
                    first.add(node.index)
            elif any(reached[i] for i in node.inputs):
                reached[node.index] = True
        return [path for path, calls in self.calls.items() if first.intersection(calls)]

    def last_layers(self) -> List[str]:
        """Paths of the layers whose output no other layer reads on its way out of the network."""
        # backwards, so that each node is asked once however many ways lead out of it
        reaches = {-1: True}
        for node in reversed(self.nodes):
            consumers = self.consumers[node.index]
            reaches[node.index] = any(reaches[i] and (i < 0 or self.nodes[i].op not in LAYER_OPS) for i in consumers)
        return [path for path, calls in self.calls.items()
                if any(self.nodes[i].op in LAYER_OPS and reaches[i] for i in calls)]


def trace(net: Block, inputs: int = 1) -> Graph:
    """The graph of a network, traced with symbolic inputs.

    Raises ConversionError for a network that cannot be traced (a plain `Block`, or Python code that looks at values).
    """
    if not isinstance(net, HybridBlock):
        raise ConversionError(f"{type(net).__name__} is a Block, not a HybridBlock: its graph cannot be traced")
    # the names that export gives them
    names = ["data"] if inputs == 1 else [f"data{i}" for i in range(inputs)]
    try:
        with as_written():
            out = net(*[mx.sym.var(name) for name in names])
    except Exception as error:  # a user's forward may raise anything when it is handed symbols
        raise ConversionError(f"{net.name}: the network's graph cannot be traced: "
                              f"{str(error).splitlines()[0]}") from error
    return Graph(mx.sym.Group(_flatten(out)), _owners(net), names)


def _flatten(out: Any) -> List[mx.sym.Symbol]:
    if isinstance(out, (list, tuple)):
        return [symbol for item in out for symbol in _flatten(item)]
    return [out]


def _owners(net: Block) -> Dict[str, str]:
    """Name of the second operand (weight, gamma) of a layer -> the layer's path."""
    owners = {}
    for path, block in walk(net):
        for key in ("weight", "gamma"):
            parameter = block._reg_params.get(key)
            if parameter is not None:
                owners[parameter.name] = path
    return owners


def non_negative(graph: Graph) -> List[bool]:
    """For each node whether its values are proven to be >= 0 for every input of the network."""
    proven = [False] * len(graph.nodes)
    for node in graph.nodes:
        proven[node.index] = _is_non_negative(node, [proven[i] for i in node.inputs])
    return proven


_ALWAYS = {"relu", "sigmoid", "softmax", "exp", "square", "abs", "hard_sigmoid", "SoftmaxOutput", "_equal_scalar",
           "_greater_scalar", "_contrib_BatchNormWithReLU"}
_IF_ALL_INPUTS = {
    "Pooling", "Flatten", "flatten", "Reshape", "reshape", "transpose", "Dropout", "identity", "_copy", "BlockGrad",
    "Concat", "concat", "elemwise_add", "_plus", "_Plus", "broadcast_add", "broadcast_plus", "add_n", "ElementWiseSum",
    "elemwise_mul", "broadcast_mul", "broadcast_div", "elemwise_div", "mean", "sum", "max", "min", "slice",
    "slice_axis", "slice_like", "SliceChannel", "expand_dims", "squeeze", "UpSampling", "stack", "take", "Cast",
    "sqrt", "_contrib_AdaptiveAvgPooling2D", "broadcast_like", "swapaxes", "SwapAxis", "tile", "repeat",
    "max_axis", "reshape_like"}
_BY_SCALAR = {"_plus_scalar": lambda s: s >= 0, "_mul_scalar": lambda s: s >= 0, "_div_scalar": lambda s: s > 0,
              "_maximum_scalar": lambda s: True, "_minimum_scalar": lambda s: s >= 0, "_power_scalar": lambda s: True}


def _is_non_negative(node: Node, inputs: Sequence[bool]) -> bool:
    attrs = node.attrs
    if node.op == "Activation":
        # tanh and softsign are Activation, too
        return attrs["act_type"] in ("relu", "sigmoid", "softrelu")
    if node.op == "clip":
        return float(attrs["a_min"]) >= 0 or (all(inputs) and float(attrs["a_max"]) >= 0)
    if node.op == "LeakyReLU":
        # slopes, PReLU's too, apply below zero alone: what is never negative passes as it is
        return inputs[0]
    if node.op in ("Pad", "pad"):
        return all(inputs) and (attrs["mode"] != "constant" or float(attrs.get("constant_value", 0)) >= 0)
    if node.op in _BY_SCALAR:
        scalar = float(attrs["scalar"])
        if node.op == "_maximum_scalar" and scalar >= 0:
            return True
        return bool(inputs) and all(inputs) and _BY_SCALAR[node.op](scalar)
    # one operand that is never negative is enough
    if node.op in ("_maximum", "broadcast_maximum"):
        return any(inputs)
    if node.op in _ALWAYS:
        return True
    return node.op in _IF_ALL_INPUTS and bool(inputs) and all(inputs)


def inputs_non_negative(graph: Graph) -> Dict[str, bool]:
    """Layer path -> whether the input of every call of that layer is proven non-negative."""
    proven = non_negative(graph)
    return {path: all(proven[graph.data_input(i).index] for i in calls) for path, calls in graph.calls.items()}


def batchnorm_partners(graph: Graph) -> Dict[str, str]:
    """Convolution or Dense path -> path of the BatchNorm that alone reads its output.

    Both must be called exactly once; a BatchNorm that follows something else has no partner.
    """
    owner = {i: path for path, calls in graph.calls.items() if len(calls) == 1 for i in calls}
    partners = {}
    for index, path in owner.items():
        node = graph.nodes[index]
        readers = graph.consumers[index]
        if node.op in LAYER_OPS:
            index, readers = _as_maps(graph, index)
        if node.op in LAYER_OPS and len(readers) == 1 and readers[0] in owner:
            reader = graph.nodes[readers[0]]
            # the layer's output as the normalized operand: it could also be read as a gamma
            if reader.op in NORMS and reader.inputs[0] == index:
                partners[path] = owner[reader.index]
    return partners


def _as_maps(graph: Graph, index: int) -> Tuple[int, List[int]]:
    """(What reads as a node's output, its readers): rows that an exported network normalizes as maps are the same rows.

    See `quantize.onednn`: the second reader of the layer takes its shape alone.
    """
    readers = graph.consumers[index]
    if len(readers) != 2 or -1 in readers:
        return index, readers
    first, second = (graph.nodes[reader] for reader in sorted(readers))
    maps = first.op in ("Reshape", "reshape") and first.attrs.get("shape") == str(MAPS)
    if maps and second.op == "reshape_like" and second.inputs[1] == index:
        return first.index, graph.consumers[first.index]
    return index, readers


def shared_inputs(graph: Graph) -> List[List[str]]:
    """Groups of layers, each called once, that read the very same tensor."""
    readers: Dict[Tuple[int, int], List[str]] = {}
    for path, calls in graph.calls.items():
        node = graph.nodes[calls[0]]
        if len(calls) == 1 and node.op in LAYER_OPS:
            readers.setdefault(node.sources[0], []).append(path)
    return [paths for paths in readers.values() if len(paths) > 1]

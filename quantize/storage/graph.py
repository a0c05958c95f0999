# SPDX-License-Identifier: MIT
"""The graph between a network's layers, and the network that is made from it again."""

from types import ModuleType
from typing import Any, Dict, List, Mapping, Sequence, Tuple, Union

import mxnet as mx
from mxnet.gluon import Block, HybridBlock, Parameter

from quantize.convert.graph import Graph, trace
from quantize.errors import ConversionError, ModelFileError
from quantize.modes import clear_cached_graphs
from quantize.onednn import guarded
from quantize.storage.layers import is_layer
from quantize.storage.operators import ALLOWED
from quantize.tree import replace_blocks, walk

CALL = "quantize_storage_call_"
Tensor = Union[mx.nd.NDArray, mx.sym.Symbol]
Source = Tuple[int, int]


class _Call(HybridBlock):
    """Stands for a layer while a network is traced: an operator with a name that says which."""

    def __init__(self, number: int) -> None:
        super().__init__(prefix="")
        self._number = number

    def hybrid_forward(self, F: ModuleType, x: Tensor) -> Tensor:
        return F.identity(x, name=f"{CALL}{self._number}")


def layers_of(net: Block) -> Dict[str, Block]:
    """Structural path -> layer, for all that are kept as layers; what is inside a layer is the layer's."""
    found: Dict[str, Block] = {}
    for path, block in walk(net):
        if not any(path.startswith(outer + ".") for outer in found) and is_layer(block):
            found[path] = block
    return found


def graph_of(net: Block, layers: Mapping[str, Block], inputs: int) -> Dict[str, Any]:
    """The graph as JSON can hold it: nodes in order, each reading outputs of nodes before it.

    Raises ConversionError for a network that cannot be traced, and for operators that no file may hold.
    """
    if "" in layers:
        raise ConversionError(f"{net.name}: the network is a single layer; put it into a HybridSequential")
    calls = {id(layer): _Call(number) for number, layer in enumerate(layers.values())}
    back = {id(call): layer for call, layer in zip(calls.values(), layers.values())}
    replace_blocks(net, calls)
    clear_cached_graphs(net)
    try:
        graph = trace(net, inputs)
    finally:
        replace_blocks(net, back)
        clear_cached_graphs(net)
    names = {parameter.name: name for name, parameter in net._collect_params_with_prefix().items()}
    return {"nodes": _nodes(net, graph, list(layers), names), "outputs": [list(head) for head in graph.heads]}


def _nodes(net: Block, graph: Graph, paths: Sequence[str], names: Mapping[str, str]) -> List[Dict[str, Any]]:
    nodes: List[Dict[str, Any]] = []
    refused = sorted({node.op for node in graph.nodes if node.op not in ALLOWED and node.op != "null"})
    if refused:
        raise ConversionError(f"{net.name}: operators that no file may hold: {', '.join(refused)}")
    for node in graph.nodes:
        inputs = [list(source) for source in node.sources]
        if node.op == "null" and node.name in graph.data_names:
            nodes.append({"input": graph.data_names.index(node.name)})
        elif node.op == "null":
            nodes.append({"parameter": names[node.name]})
        elif CALL in node.name:
            nodes.append({"layer": paths[int(node.name.rpartition(CALL)[2])], "inputs": inputs})
        else:
            attrs = {key: value for key, value in node.attrs.items() if not key.startswith("__")}
            nodes.append({"op": node.op, "name": node.name, "attrs": attrs, "inputs": inputs})
    return nodes


class StoredNet(HybridBlock):
    """A network made from a file: its layers as children, by their structural paths, and operators between them.

    Paths, and with them names of parameters, rules and tables, are those of the network that was saved.

    Parameters
    ----------
    graph : dict
        As `graph_of` makes it.
    layers : dict
        Path -> layer.
    others : dict
        Path -> Parameter that belongs to no layer.
    prefix : str
        Of the network that was saved.

    Attributes
    ----------
    facts : quantize.storage.facts.Facts
        What the file says beside the network.
    inputs : int
        How many it takes.
    """

    facts: Any = None

    def __init__(self, graph: Any, layers: Mapping[str, Block], others: Mapping[str, Parameter], prefix: str) -> None:
        super().__init__(prefix=prefix)
        for path, layer in layers.items():
            self.register_child(layer, path)
        for path, parameter in others.items():
            self._reg_params[path] = parameter
        self.params.update({parameter.name: parameter for parameter in others.values()})
        self._nodes = _checked(graph, layers)
        self.inputs = 1 + max((node["input"] for node in self._nodes if "input" in node), default=0)
        self._outputs = [_source(head, len(self._nodes)) for head in graph["outputs"]]

    def _parameter(self, F: ModuleType, name: str, like: Tensor) -> Tensor:
        *path, short = name.split(".")
        owner = self._children.get(".".join(path))
        parameter = self._reg_params[name] if owner is None else owner._reg_params[short]
        return parameter.var() if F is mx.sym else parameter.data(like.context)

    def hybrid_forward(self, F: ModuleType, *inputs: Tensor, **parameters: Tensor) -> Any:
        """The network's output, or a list of them where there are several."""
        values: List[List[Tensor]] = []
        with mx.name.NameManager():  # operators have their whole names already
            for node in self._nodes:
                values.append(self._computed(F, node, inputs, parameters, values))
        found = [values[index][number] for index, number in self._outputs]
        return found[0] if len(found) == 1 else found

    def _computed(self, F: ModuleType, node: Dict[str, Any], inputs: Sequence[Tensor],
                  parameters: Mapping[str, Tensor], values: Sequence[Sequence[Tensor]]) -> List[Tensor]:
        if "input" in node:
            return [inputs[node["input"]]]
        if "parameter" in node:
            name = node["parameter"]
            return [parameters[name] if name in parameters else self._parameter(F, name, inputs[0])]
        operands = [values[index][number] for index, number in node["inputs"]]
        if "layer" in node:
            result = self._children[node["layer"]](*operands)
        else:
            operator = guarded(F, node["op"], _operator(F, node["op"]))
            result = operator(*operands, name=node["name"], **node["attrs"])
        if isinstance(result, (list, tuple)):
            return list(result)
        return [result] if F is mx.nd or len(result.list_outputs()) == 1 else list(result)


def _operator(F: ModuleType, op: str) -> Any:
    if op.startswith("_contrib_"):
        return getattr(F.contrib, op[len("_contrib_"):])
    return getattr(F, op, None) or getattr(F._internal, op)


def _checked(graph: Any, layers: Mapping[str, Block]) -> List[Dict[str, Any]]:
    """Nodes of a file; ModelFileError for one that reads what is not there, or does what it may not."""
    nodes = []
    for index, stated in enumerate(graph["nodes"]):
        node, where = {key: value for key, value in stated.items() if value is not None}, f"node {index}"
        if "input" not in node and "parameter" not in node:
            if "layer" in node and node["layer"] not in layers:
                raise ModelFileError(f"{where}: there is no layer {node['layer']!r}")
            if "layer" not in node and (node.get("op") not in ALLOWED or "attrs" not in node or "name" not in node):
                raise ModelFileError(f"{where}: the operator {node.get('op')!r} with {node.get('attrs')} is none that "
                                     "a file may hold")
            node["inputs"] = [_source(source, index) for source in node.get("inputs", ())]
        nodes.append(node)
    return nodes


def _source(source: Any, before: int) -> Source:
    if source[0] >= before:
        raise ModelFileError(f"{source!r} is no output of a node before number {before}")
    return source[0], source[1]

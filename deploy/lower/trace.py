# SPDX-License-Identifier: MIT
"""The float graph of a Gluon network: every shape, the values of what does not depend on the input, and names."""

import contextlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import Block

from quantize.convert.graph import Graph, Node, trace
from quantize.errors import DeployError
from quantize.modes import mode, quantized_layers
from quantize.tree import walk

# operators whose output depends on the shape of their input at most
CONSTANT_OPS = {"ones_like", "zeros_like", "_ones", "_zeros", "_full", "_arange"}

_EXTRA = "lowering:extra"

OWN = "fwd"  # what Gluon's layers call their operator

Entry = Tuple[int, int]  # node and which of its outputs


@dataclass(frozen=True)
class Traced:
    """What a trace says about one image.

    Parameters
    ----------
    nodes : list of Node
        In topological order.
    heads : list of (int, int)
        The network's outputs.
    inputs : list of int
        The nodes of its inputs, in order.
    shapes : dict
        (node, output) -> shape with a batch axis of length 1.
    depends : list of bool
        For each node whether its values depend on the network's input.
    constants : dict
        (node, output) -> array of float32: values that do not, and are read by nodes that do.
    """

    nodes: List[Node]
    heads: List[Entry]
    inputs: List[int]
    shapes: Dict[Entry, Tuple[int, ...]]
    depends: List[bool]
    constants: Dict[Entry, np.ndarray]


def trace_network(net: Block, input_shapes: Sequence[Tuple[int, ...]]) -> Traced:
    """Trace a network with its quantizers in float mode; weights are float ones, also where `fix_params` froze them.

    Parameters
    ----------
    input_shapes : sequence of tuple of int
        Of one image, for each input.

    Raises
    ------
    ConversionError
        A network that cannot be traced.
    DeployError
        Parameters without values, or an input shape that does not fit.
    """
    graph = float_graph(net, len(input_shapes))
    arrays = _parameters(net)
    lacking = [node.name for node in graph.nodes if node.op == "null" and node.name not in arrays
               and node.name not in graph.data_names]
    if lacking:
        raise DeployError(f"{len(lacking)} parameters have no values (first: {lacking[0]}); initialize the network or "
                          "load its parameters, and run it once")
    internals, entries = _numbered_internals(graph)
    arrays.update((name, mx.nd.zeros((1, *shape))) for name, shape in zip(graph.data_names, input_shapes))
    shapes = _shapes(graph, internals, entries, arrays)
    depends = _dependent_nodes(graph)
    read = {source for node in graph.nodes if depends[node.index] for source in node.sources if not depends[source[0]]}
    constants = _evaluated(internals, [pair for pair in enumerate(entries) if pair[1] in read], arrays)
    nodes = {node.name: node.index for node in graph.nodes if node.op == "null"}
    unread = [name for name in graph.data_names if name not in nodes]
    if unread:
        raise DeployError(f"the network does not read its input {', '.join(unread)}")
    return Traced(graph.nodes, graph.heads, [nodes[name] for name in graph.data_names], shapes, depends, constants)


def float_graph(net: Block, inputs: int = 1) -> Graph:
    """The graph of a network as it is in inference with its quantizers in float mode."""
    with mode(net, "float"), _settled(net):
        return trace(net, inputs)


@contextlib.contextmanager
def _settled(net):
    """Context in which quantized layers are the float layer alone, and a mark where their output is quantized."""
    settings: List[Tuple[Any, str, Any]] = []
    for _, layer in quantized_layers(net):
        parts = (layer.weight_quantizer, layer.norm)
        settings += [(part, "frozen", True) for part in parts if part is not None]
        if layer.output_quantizer is not None:
            settings.append((layer.output_quantizer, "marked", True))
        if layer.gradient_bits is not None:
            settings.append((layer, "gradient_bits", None))
        if layer.integer_weights:
            settings.append((layer, "integer_weights", False))
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in settings]
    try:
        for owner, name, value in settings:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def _parameters(net) -> Dict[str, mx.nd.NDArray]:
    arrays = {name: parameter.list_data()[0] for name, parameter in net.collect_params().items()
              if parameter._data is not None}
    for _, layer in quantized_layers(net):
        quantizer = layer.weight_quantizer
        if quantizer is not None and quantizer.frozen:
            arrays[layer.weight.name] = quantizer.float_weight
    return {name: array.as_in_context(mx.cpu()) for name, array in arrays.items()}


def _dependent_nodes(graph: Graph) -> List[bool]:
    depends: List[bool] = []
    for node in graph.nodes:
        if node.op == "null":
            depends.append(node.name in graph.data_names)
        else:
            depends.append(node.op not in CONSTANT_OPS and any(depends[i] for i in node.inputs))
    return depends


def _numbered_internals(graph: Graph):
    """Every value of the graph as an output of one symbol, and (node, output) of each of them.

    MXNet tells outputs by name only, and nodes may share one (a block called twice), so operators are renamed.
    """
    text = json.loads(graph.symbol.tojson(), strict=False)
    for index, node in enumerate(text["nodes"]):
        if node["op"] != "null":
            node["name"] = f"{index}:node"
    internals = mx.sym.load_json(json.dumps(text)).get_internals()
    variables = {node.name: node.index for node in graph.nodes if node.op == "null"}
    entries: List[Entry] = []
    seen: Dict[int, int] = {}
    for name in internals.list_outputs():
        index = variables[name] if name in variables else int(name.split(":")[0])
        entries.append((index, seen.setdefault(index, 0)))
        seen[index] += 1
    return internals, entries


def _shapes(graph, internals, entries, arrays):
    # a parameter's symbol may know less of its shape than the parameter: it is as old as the first trace
    known = {name: arrays[name].shape for name in internals.list_inputs()}
    input_shape = " and ".join(str(known[name][1:]) for name in graph.data_names if name in known)
    try:
        shapes = internals.infer_shape(**known)[1]
    except mx.MXNetError as error:
        text = re.sub(r"(\d+):node", lambda match: graph.nodes[int(match.group(1))].name, str(error).splitlines()[0])
        raise DeployError(f"an input of shape {input_shape} does not fit the network: {text}") from None
    if shapes is None:
        raise DeployError(f"the shapes inside the network do not follow from an input of shape {input_shape}")
    return {entry: tuple(shape) for entry, shape in zip(entries, shapes)}


def _evaluated(internals, wanted, arrays) -> Dict[Entry, np.ndarray]:
    """Values of some (position, entry) of the internals, computed by MXNet.

    ones_like(x) is the same for every x, so a network input of zeros does.
    """
    names = internals.list_outputs()
    values = {entry: arrays[names[position]].asnumpy() for position, entry in wanted if names[position] in arrays}
    computed = [(position, entry) for position, entry in wanted if entry not in values]
    if computed:
        # a CachedOp wants an input, whether or not the constants have one
        group = mx.sym.Group([internals[position] for position, _ in computed] + [mx.sym.identity(mx.sym.var(_EXTRA))])
        inputs = dict(arrays, **{_EXTRA: mx.nd.zeros((1,))})
        operator = mx.nd.CachedOp(group)
        outputs = operator(*[inputs[name] for name in group.list_inputs()])
        # to be read while the operator lives: it owns memory that computing in the background uses
        values.update((entry, output.asnumpy()) for (_, entry), output in zip(computed, outputs))
    return {entry: value.astype(np.float32) for entry, value in values.items()}


class Naming:
    """Finds the block that an operator was made in.

    Gluon puts the prefix of the innermost block in front of an operator's name, and parameters belong to blocks;
    counters in prefixes differ from process to process, structural paths do not. So a layer's node is called by the
    layer's path, and another operator by the path of the block it stands in and the rest of its own name.
    """

    def __init__(self, net: Block, traced: Traced):
        self._nodes = traced.nodes
        self._owners: Dict[str, List[Tuple[str, Block]]] = {}
        by_prefix: Dict[str, List[Tuple[str, Block]]] = {}
        for path, block in walk(net):
            by_prefix.setdefault(block.prefix, []).append((path, block))
            for parameter in block._reg_params.values():
                self._owners.setdefault(parameter.name, []).append((path, block))
        # two blocks of one prefix cannot be told apart by name
        self._blocks = {prefix: blocks[0] for prefix, blocks in by_prefix.items() if len(blocks) == 1}
        operators = [node for node in traced.nodes if node.op != "null" and traced.depends[node.index]]
        names = {node.name for node in operators}
        # a layer that makes its own operator makes no other, whatever the name of the other starts with
        self._own = {prefix for prefix in self._blocks if prefix + OWN in names}
        self._counts = Counter(self._prefix(node.name) for node in operators)

    def of(self, node: Node) -> Tuple[str, str]:
        """(name, structural path) of an operator; the path is empty for one that is no layer by itself."""
        layer = self.layer(node) if node.name.endswith(OWN) else None
        if layer is not None and layer[0]:
            return layer[0], layer[0]
        prefix = self._prefix(node.name)
        path, block = self._blocks.get(prefix, ("", None))
        rest = node.name[len(prefix):]
        is_leaf = block is not None and not block._children
        if path and (rest == OWN or (is_leaf and self._counts[prefix] == 1)):
            return path, path
        rest = re.sub(r"\s+", "_", rest.strip("_") or node.op)
        return (path + "." + rest if path else rest), (path if is_leaf else "")

    def layer(self, node: Node) -> Optional[Tuple[str, Block]]:
        """(path, block) of the layer whose weight (second operand) the operator reads, or None."""
        if len(node.inputs) < 2:
            return None
        variable = self._nodes[node.inputs[1]]
        owners = self._owners.get(variable.name, ()) if variable.op == "null" else ()
        # layers that share a weight are told apart by their names
        return next((owner for owner in owners if owner[1].prefix + OWN == node.name), next(iter(owners), None))

    def _prefix(self, name: str) -> str:
        """The longest prefix of a block that the operator can stand in."""
        for end in [match.end() for match in re.finditer("_", name)][::-1]:
            prefix = name[:end]
            if prefix in self._blocks and (prefix not in self._own or name[end:] == OWN):
                return prefix
        return ""

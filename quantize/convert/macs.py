# SPDX-License-Identifier: MIT
"""Multiply-adds of each layer, from the traced graph and the shape of an input."""

import math
from collections import defaultdict
from dataclasses import replace
from typing import Any, Dict, Iterator, Optional, Sequence, Tuple

import mxnet as mx
from mxnet.gluon import Block

from quantize.convert.graph import Graph, Node
from quantize.convert.layers import LAYER_OPS, OPERATORS
from quantize.convert.plan import Plan, PlanEntry
from quantize.tree import walk

Shape = Tuple[int, ...]


def counted(plan: Plan, graph: Graph, net: Block, inputs: Sequence[Shape]) -> Plan:
    """The plan with the multiply-adds of every row for one image; as it is where shapes cannot be inferred.

    Rows of recurrent layers and of other functions than convolutions and products have none.

    Parameters
    ----------
    inputs : sequence of shape
        Of the network's inputs, with the batch axis.
    """
    shapes = _shapes(graph, net, inputs)
    if shapes is None:
        return plan
    by_weight: Dict[str, int] = defaultdict(int)
    for node in graph.nodes:
        if node.op in LAYER_OPS:
            by_weight[graph.nodes[node.inputs[1]].name] += _macs(graph, node, shapes)
    names = {f"{path}{'.' if path else ''}{key}": parameter.name for path, key, parameter in _weights(net)}

    def with_macs(entry: PlanEntry) -> PlanEntry:
        name = names.get(entry.path + ".weight") or names.get(entry.path) or entry.path
        return replace(entry, macs=by_weight.get(name, 0)) if entry.weights or name in by_weight else entry
    return replace(plan, entries=tuple(map(with_macs, plan.entries)), floats=tuple(map(with_macs, plan.floats)))


def _weights(net: Block) -> Iterator[Tuple[str, str, Any]]:
    for path, block in walk(net):
        for key, parameter in block._reg_params.items():
            yield path, key, parameter


def _shapes(graph: Graph, net: Block, inputs: Sequence[Shape]) -> Optional[Dict[str, Shape]]:
    known = {p.name: p.shape for p in net.collect_params().values() if p.shape is not None and 0 not in p.shape}
    internals = graph.symbol.get_internals()
    given = {name: (1,) + tuple(shape[1:]) for name, shape in zip(graph.data_names, inputs)}
    names = set(internals.list_inputs())
    try:
        found = internals.infer_shape(**{name: shape for name, shape in {**known, **given}.items()
                                                 if name in names})[1]
    except mx.MXNetError:
        return None
    return dict(zip(internals.list_outputs(), found)) if found else None


def _macs(graph: Graph, node: Node, shapes: Dict[str, Shape]) -> int:
    """Products of one call: those of each output for an output map, of each input for a transposed convolution."""
    weight = graph.nodes[node.inputs[1]]
    kernel = shapes.get(_output(weight), ())
    where = graph.nodes[node.inputs[0]] if node.op == "Deconvolution" else node
    values = shapes.get(_output(where), ())
    if not kernel or not values or 0 in kernel + values:
        return 0
    channels = kernel[0] if node.op == "Deconvolution" else kernel[OPERATORS[node.op]]
    return math.prod(values) * math.prod(kernel) // channels


def _output(node: Node) -> str:
    return node.name if node.op == "null" else node.name + "_output"

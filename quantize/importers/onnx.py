# SPDX-License-Identifier: MIT
"""An ONNX file becomes a HybridBlock made of ordinary Gluon layers."""

import logging

from quantize.errors import ModelFileError
from quantize.importers import onnx_elementwise, onnx_layers, onnx_pooling, onnx_shapes
from quantize.importers.graph_block import GraphBlock, Program
from quantize.importers.onnx_reader import Graph, Node, Refused

logger = logging.getLogger(__name__)

#: ONNX operator -> function(Node) -> list of Steps.
OPERATORS = {**onnx_layers.OPERATORS, **onnx_pooling.OPERATORS,
             **onnx_elementwise.OPERATORS, **onnx_shapes.OPERATORS}


def import_onnx(path, ctx=None) -> GraphBlock:
    """A HybridBlock that computes what the ONNX file computes.

    Convolutions, dense layers, normalisations, activations and poolings are ordinary Gluon layers named after the
    ONNX nodes; everything else is an F operator in between.

    Parameters
    ----------
    path : str or pathlib.Path
        An ONNX file with one float32 input; any batch size at run time if the file's own is symbolic.
    ctx : mx.Context or list of mx.Context, optional
        Where the parameters go.

    Returns
    -------
    GraphBlock
        With the attributes `input_shape` (None for symbolic dimensions) and `preprocessing` (dict or None).

    Raises
    ------
    ModelFileError
        If the file is missing or damaged, holds NaN or infinity, has several inputs, or holds operators or
        attribute values that are not supported; all of those are named at once, before anything is built.
    """
    graph = Graph(path)
    steps = _plan(graph)
    graph.check_finite()
    outputs = tuple(graph.resolve(output.name, "the graph's output") for output in graph.model.graph.output)
    program = Program(graph.input, outputs, steps, graph.used_constants, graph.input_shape)
    logger.info("%s: %d ONNX nodes, opset %d", graph.path, len(graph.model.graph.node), graph.opset)
    return GraphBlock(program, ctx=ctx, preprocessing=graph.preprocessing())


def _plan(graph: Graph) -> list:
    """The steps of all nodes; one ModelFileError for every node that was refused."""
    steps, problems = [], {}
    # All nodes get their names before helper steps do, so that no helper takes the name of a later node.
    for node in [Node(graph, proto) for proto in graph.model.graph.node]:
        try:
            if not graph.fused.intersection(node.outputs):
                steps.extend(_plan_node(node))
        except Refused as reason:
            problems.setdefault(f"{node.op}: {reason}", []).append(node.label)
        for output in node.outputs:
            graph.define(output)
    if problems:
        raise ModelFileError("{}: cannot be imported: {}".format(graph.path, "; ".join(
            "{} (node {})".format(what, ", ".join(repr(name) for name in nodes))
            for what, nodes in problems.items())))
    return steps


def _plan_node(node: Node) -> list:
    if node.domain not in ("", "ai.onnx"):
        raise Refused(f"unknown operator of domain {node.domain!r}")
    if node.op not in OPERATORS:
        raise Refused("unknown operator")
    node.check()
    steps = OPERATORS[node.op](node)
    if node.attributes:
        raise Refused("attribute {} is not supported in opset {}".format(
            ", ".join(repr(key) for key in sorted(node.attributes)), node.opset))
    return steps

# SPDX-License-Identifier: MIT
"""An ONNX file becomes a HybridBlock made of ordinary Gluon layers."""

import logging
import re
from typing import Any, Dict, List, Tuple

import mxnet as mx
from onnx import TensorProto

from quantize.errors import ModelFileError
from quantize.escape import shown
from quantize.files import PathLike
from quantize.importers.graph_block import GraphBlock, Program, Step
from quantize.importers.onnx import file
from quantize.importers.onnx.graph import Graph, Node
from quantize.importers.onnx.mixing import may_mix, mixes
from quantize.importers.onnx.operators import OPERATORS
from quantize.importers.refused import Refused, damage_named

logger = logging.getLogger(__name__)

#: The time and the source file that MXNet writes into its messages.
WHERE = re.compile(r"\[\d\d:\d\d:\d\d\] \S+: ")
LONGEST = 500  # letters of what is wrong with a node
#: What a node with inputs, attributes or tensors of other kinds or sizes than the standard's makes of Python's code.
MALFORMED = (IndexError, KeyError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError)


def import_onnx(path: PathLike, ctx: Any = None, channels_first: bool = False,
                keep_grids: bool = False) -> GraphBlock:
    """A HybridBlock that computes what the ONNX file computes.

    Convolutions, dense layers, normalisations, activations and poolings are ordinary Gluon layers named after the
    ONNX nodes; everything else is an F operator in between. What depends on constants and shapes alone is evaluated
    first. A batch size that the file fixes becomes open, unless the network would mix images then. Files of half or
    double precision compute in float32.

    Parameters
    ----------
    path : str or pathlib.Path
        An ONNX file with one input of numbers, of operator set 6 to 26.
    ctx : mx.Context or list of mx.Context, optional
        Where the parameters go.
    channels_first : bool, optional
        True: the block takes (N, C, H, W) images also where the file wants (N, H, W, C), as Keras' and TensorFlow's do.
    keep_grids : bool, optional
        True: what a quantized file rounds in front of and between layers is not computed; it is in `grids`, for
        `quantize.convert.stored.restore`, which makes the block the quantized network that the file is. False: the
        block computes it by operators.

    Returns
    -------
    GraphBlock
        With the attributes `input_shape` (None for symbolic dimensions), `layout` ("NHWC" where the block takes such
        images, else "NCHW"), `preprocessing` (dict or None) and `grids`: child -> `quantized.StoredLayer` or
        `quantized.StoredGrid`.

    Raises
    ------
    ModelFileError
        If the file is missing or damaged, holds NaN or infinity in its weights, has no input, or holds
        operators or attribute values that are not supported; all of those are named at once, before anything is built.
    """
    with damage_named(str(path)):
        graph, program = _planned(path, channels_first, keep_grids)
        net = GraphBlock(program, ctx=ctx, preprocessing=file.preprocessing(graph.path, graph.model))
        net.layout, net.grids = graph.layout, graph.grids
        _check_sizes(graph, net)
        if any(may_mix(graph, proto) for proto in graph.nodes) and mixes(net, graph):
            net.batch = graph.fixed
        return net


def onnx_program(path: PathLike) -> Program:
    """The steps of an ONNX file for (N, C, H, W) images, with the arrays of its layers; raises as `import_onnx`."""
    with damage_named(str(path)):
        program = _planned(path, True)[1]
        if program.others:
            raise ModelFileError(f"{path}: needs exactly one input here, has {program.input}, "
                                 f"{', '.join(program.others)}")
        return program


def _planned(path: PathLike, channels_first: bool, keep_grids: bool = False) -> Tuple[Graph, Program]:
    graph = Graph(path, channels_first, keep_grids)
    steps = _input_steps(graph) + _plan(graph)
    outputs = tuple(graph.resolve(name, "the graph's output") for name in graph.outputs)
    others = {name: shape for name, shape, _ in graph.others}
    program = Program(graph.input, outputs, steps, graph.used_constants, graph.input_shape, others)
    logger.info("%s: %d ONNX nodes, opset %d", graph.path, len(graph.model.graph.node), graph.opset)
    return graph, program


def _check_sizes(graph: Graph, net: GraphBlock) -> None:
    """ModelFileError where the sizes inside the network do not fit those that the file declares for its images."""
    shape = net.input_shape
    if not shape or None in shape[1:] or len(net.input_names) > 1:
        return
    try:
        output = net(mx.sym.var("images"))
        output = mx.sym.Group(list(output)) if isinstance(output, (list, tuple)) else output
        output.infer_shape_partial(images=(shape[0] or 1, *shape[1:]))  # infer_shape prints
    except Exception as error:  # MXNet raises its own error, and a plain one for tensors that are too large
        lines = [line for line in str(error).splitlines() if "rror" in line or "Check" in line]
        raise ModelFileError(f"{graph.path}: the network does not fit images of shape {shape[1:]}: "
                             f"{WHERE.sub('', (lines or [str(error)])[-1]).strip()[:300]}") from None


def _input_steps(graph: Graph) -> list:
    """A cast where the file wants whole numbers: everything behind it computes in float32."""
    steps = []
    for tensor, kind in ((graph.input, graph.input_kind), *((name, kind) for name, _, kind in graph.others)):
        if kind != TensorProto.FLOAT:
            name = graph.names.unique(tensor + "_float")
            steps.append(Step(name, (tensor,), (name + ":out",), "Cast", dict(dtype="float32")))
            graph.rename_input(tensor, steps[-1].outputs[0])
    return steps


def _plan(graph: Graph) -> list:
    """The steps of all nodes; one ModelFileError for every node that was refused."""
    steps: List[Step] = []
    problems: Dict[str, List[str]] = {}
    # All nodes get their names before helper steps do, so that no helper takes the name of a later node.
    for node in [Node(graph, proto) for proto in graph.nodes]:
        try:
            if not graph.fused.intersection(node.outputs):
                steps.extend(_plan_node(node))
                _check_outputs(graph, node, steps)
                _keep_grids(graph, node, steps)
        except Refused as reason:
            problems.setdefault(shown(f"{node.op}: {reason}")[:LONGEST], []).append(node.label)
        except MALFORMED as error:
            text = shown(f"{node.op}: malformed ({file.first_line(error)})")[:LONGEST]
            problems.setdefault(text, []).append(node.label)
        for output in node.outputs:
            graph.define(output)
    if problems:
        listed = "; ".join(f"{what} (node {', '.join(map(repr, nodes))})" for what, nodes in problems.items())
        raise ModelFileError(f"{graph.path}: cannot be imported: {listed}")
    return steps


def _keep_grids(graph: Graph, node: Node, steps: List[Step]) -> None:
    """Note the grids that the file has for a layer, or for a place between layers, by the name of the child."""
    found = graph.quantized.layers.get(node.outputs[0]) or graph.quantized.places.get(node.outputs[0])
    if found is not None and any(step.name == node.name and step.layer is not None for step in steps):
        graph.grids[node.name] = found


def _check_outputs(graph: Graph, node: Node, steps) -> None:
    """Refuse a node one of whose outputs is read but not made."""
    made = {name for step in steps for name in step.outputs} | graph.fused
    lost = [name for name in node.outputs if name in graph.uses and name not in made and not graph.is_defined(name)]
    # a bias that was added makes the output of the Add instead
    if lost and not (len(node.outputs) == 1 and made.intersection(graph.fused)):
        raise Refused(f"its output {lost[0]!r} is read, which is not supported")


def _plan_node(node: Node) -> list:
    if node.domain not in ("", "ai.onnx"):
        raise Refused(f"unknown operator of domain {node.domain!r}")
    if node.op not in OPERATORS:
        raise Refused("unknown operator")
    node.check()
    steps = OPERATORS[node.op](node)
    if node.attributes:
        names = ", ".join(map(repr, sorted(node.attributes)))
        raise Refused(f"attribute {names} is not supported in opset {node.opset}")
    return steps

# SPDX-License-Identifier: MIT
"""What else of a network has weights: layers of types that stay float, functions, recurrent and embedded networks."""

import math
from typing import Any, Dict, Iterable, List, Optional, Set, Tuple

from mxnet.gluon import Block, Constant, SymbolBlock, nn

from quantize.convert.graph import Graph
from quantize.convert.layers import LAYER_OPS, LAYERS, quantizable
from quantize.convert.plan import PlanEntry
from quantize.nn.layer import QuantizedBlock
from quantize.tree import walk

# operators that multiply with a weight, beside those of layers
PRODUCTS = (*LAYER_OPS, "dot", "batch_dot", "_linalg_gemm", "_linalg_gemm2", "RNN", "Embedding",
            "_contrib_DeformableConvolution", "_contrib_ModulatedDeformableConvolution", "Correlation", "_npx_dot")
RECURRENT = ("mxnet.gluon.rnn", "mxnet.gluon.contrib.rnn")


def float_entries(net: Block, graph: Optional[Graph]) -> Tuple[PlanEntry, ...]:
    """A row for every weight that no rule can reach, with the reason, in the network's order.

    Parameters
    ----------
    graph : Graph or None
        None: the network cannot be traced, and what its functions do is not known.
    """
    rows: List[PlanEntry] = []
    known: Set[str] = set()
    readers = {} if graph is None else _readers(graph)
    for path, block in walk(net):
        weights = {key: parameter for key, parameter in block._reg_params.items()
                   if not isinstance(parameter, Constant) and parameter.shape is not None and len(parameter.shape) > 1}
        known.update(parameter.name for parameter in weights.values())
        if quantizable(block) is not None or isinstance(block, QuantizedBlock):
            continue
        rows += _rows_of(path, block, weights, readers, graph is not None)
    for name, op in readers.items():
        if name not in known:
            rows.append(PlanEntry(name, op, reason="float: its weight is computed in the network, and no parameter"))
    return tuple(rows)


def _rows_of(path: str, block: Block, weights: Dict[str, Any], readers: Dict[str, str],
             traced: bool) -> Iterable[PlanEntry]:
    kind, reason = type(block).__name__, _reason(block)
    if not weights:
        return
    if reason:  # one row for the whole layer
        yield PlanEntry(path, kind, reason="float: " + reason, weights=sum(map(size_of, weights.values())))
        return
    used = {key: parameter for key, parameter in weights.items() if parameter.name in readers or not traced}
    for key, parameter in used.items():
        op = readers.get(parameter.name, "")
        where = ("in an embedded network" if isinstance(block, SymbolBlock) else
                 "a function: a layer in its place would be quantized" if op in LAYER_OPS else "no layer")
        name = path if len(used) == 1 and path else f"{path}.{key}".lstrip(".")
        reason = f"float: {'F.' + op + ', ' if op else ''}{where}"
        yield PlanEntry(name, kind, reason=reason, weights=size_of(parameter))


def _reason(block: Block) -> str:
    """Why a layer stays float, whatever its parameters are called; "" for blocks that are no layers."""
    if type(block).__module__.startswith(RECURRENT):
        return "recurrent layers are not quantized"
    if isinstance(block, nn.Embedding):
        return "a table that is looked up, no product"
    row = next((row for row in LAYERS if row.has_weight and isinstance(block, row.gluon)), None)
    if row is None:
        return ""
    if type(block) is not row.gluon:
        return f"its type has a forward of its own, not that of {row.name}"
    return f"there is no quantized {row.name}"


def _readers(graph: Graph) -> Dict[str, str]:
    """Name of the parameter that a product's weight is, or the product's own name where it is none -> its operator."""
    found: Dict[str, str] = {}
    for node in graph.nodes:
        if node.op not in PRODUCTS:
            continue
        variables = [name for source in node.inputs[1:2 if node.op in LAYER_OPS else None]
                     for name in _variables(graph, source)]
        variables = [name for name in variables if name not in graph.data_names]
        for name in variables:
            found.setdefault(name, node.op)
        if not variables and node.op in LAYER_OPS:
            found[node.name] = node.op
    return found


def _variables(graph: Graph, index: int) -> List[str]:
    """Names of the parameters that an operand is made of, through reshapes and the like."""
    found, waiting, seen = [], [index], set()
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        node = graph.nodes[current]
        if node.op == "null":
            found.append(node.name)
        elif node.op not in LAYER_OPS:
            waiting += node.inputs
    return found


def size_of(parameter: Any) -> int:
    """Values of a parameter; 0 where its shape is not known."""
    return math.prod(parameter.shape) if parameter.shape else 0

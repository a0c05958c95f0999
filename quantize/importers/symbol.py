# SPDX-License-Identifier: MIT
"""An exported MXNet network (`-symbol.json` and `.params`) becomes a HybridBlock made of ordinary Gluon layers."""

import logging
import os
from typing import Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

import msgspec
import numpy as np
from typing_extensions import Annotated

from quantize.documents import checked, read_json
from quantize.errors import DataError, ModelFileError
from quantize.escape import shown
from quantize.importers.graph_block import Context, GraphBlock, Names, Program, Step
from quantize.importers.refused import Refused, damage_named
from quantize.importers.symbol_layers import SymbolNode
from quantize.params_file import read_params

logger = logging.getLogger(__name__)

PathLike = Union[str, "os.PathLike[str]"]
Index = Annotated[int, msgspec.Meta(ge=0, lt=2 ** 31)]
Entry = Annotated[List[Index], msgspec.Meta(min_length=2, max_length=3)]  # node, which of its outputs, version


class Node(msgspec.Struct):
    """A node of the file; its options are under one of three keys, by the version that wrote it."""

    op: str
    name: str
    inputs: List[Entry]
    attrs: Optional[Dict[str, str]] = None
    attr: Optional[Dict[str, str]] = None
    param: Optional[Dict[str, str]] = None


class Document(msgspec.Struct):
    """The file."""

    nodes: Annotated[List[Node], msgspec.Meta(max_length=10 ** 6)]
    heads: Annotated[List[Entry], msgspec.Meta(min_length=1, max_length=1000)]


def import_symbol(symbol_file: PathLike, params_file: Optional[PathLike] = None,
                  ctx: Optional[Context] = None) -> GraphBlock:
    """A HybridBlock that computes what the exported network computes.

    Layers keep the exported names: the child `mobilenet0_conv0` has the Parameter `mobilenet0_conv0_weight`.

    Parameters
    ----------
    symbol_file : str or pathlib.Path
        What `net.export` wrote as `X-symbol.json`.
    params_file : str or pathlib.Path, optional
        Its parameters; `X-0000.params` by default.
    ctx : mx.Context or list of mx.Context, optional
        Where the parameters go.

    Returns
    -------
    GraphBlock
        `input_shape` is what the file declares for the input, mostly None; `preprocessing` is None.

    Raises
    ------
    ModelFileError
        If a file is missing or damaged, the parameters are those of another network or hold NaN or infinity, or
        operators or options are not supported; all of those are named at once, before anything is built.
    """
    symbol_file = str(symbol_file)
    params_file = str(params_file) if params_file is not None else _default_params(symbol_file)
    for path in (symbol_file, params_file):
        if not os.path.isfile(path):
            raise ModelFileError(f"{path}: no such file; looked for the network in {symbol_file!r} and its parameters "
                                 f"in {params_file!r}")
    with damage_named(symbol_file):
        nodes, outputs = _read_symbol(symbol_file)
        _refuse_unsupported(symbol_file, nodes)
        arrays = _read_params(params_file)
        first, *rest = _check_params(params_file, nodes, arrays)
        steps, constants = _plan(symbol_file, nodes, arrays)
        logger.info("%s: %d nodes, %d parameters", symbol_file, len(nodes), len(arrays))
        others = {node.name: node.declared_shape for node in rest}
        return GraphBlock(Program(first.name, outputs, steps, constants, first.declared_shape, others), ctx=ctx)


def _default_params(symbol_file: str) -> str:
    stem = symbol_file[:-len("-symbol.json")] if symbol_file.endswith("-symbol.json") else symbol_file
    return stem + "-0000.params"


def _read_symbol(path: str) -> Tuple[List[SymbolNode], Tuple[str, ...]]:
    """Nodes in order, each with the nodes it reads, and the names of the network's outputs."""
    what = f"{path}: not a symbol file of MXNet (truncated?)"
    try:
        content = read_json(path, ModelFileError)
    except DataError as error:
        raise ModelFileError(str(error)) from None
    except ModelFileError as error:
        raise ModelFileError(f"{what}: {str(error)[len(path) + 2:]}") from None
    document = checked(content, Document, what, ModelFileError)
    nodes: List[SymbolNode] = []
    for number, entry in enumerate(document.nodes):
        if any(index >= number for index, *_ in entry.inputs):
            raise ModelFileError(f"{what}: node {number} ({entry.name!r:.60}) reads one that does not stand before it")
        try:
            nodes.append(SymbolNode(number, entry.op, entry.name, entry.attrs or entry.attr or entry.param or {},
                                    [(nodes[index], port) for index, port, *_ in entry.inputs]))
        except Refused as error:
            raise ModelFileError(f"{what}: node {number} ({entry.name!r:.60}): {error}") from None
    for index, port, *_ in document.heads:
        if index >= len(nodes) or port >= len(nodes[index].outputs):
            raise ModelFileError(f"{what}: its output {index}, {port} is of no node")
    return nodes, tuple(nodes[index].outputs[port] for index, port, *_ in document.heads)


def _refuse_unsupported(path: str, nodes: Sequence[SymbolNode]) -> None:
    """Plan every layer once, only to collect what cannot be imported."""
    problems: Dict[str, List[str]] = {}
    for node in nodes:
        if node.op == "null":
            continue
        try:
            node.plan()
        except (Refused, KeyError) as error:
            reason = f"attribute {error} is missing" if isinstance(error, KeyError) else error
            problems.setdefault(shown(f"{node.op}: {reason}"), []).append(repr(node.name))
    if problems:
        listed = "; ".join(f"{what} (node {', '.join(names)})" for what, names in problems.items())
        raise ModelFileError(f"{path}: cannot be imported: {listed}")


def _read_params(path: str) -> Dict[str, np.ndarray]:
    """Arrays by plain name (`arg:` and `aux:` dropped)."""
    loaded = read_params(path)
    if loaded and not isinstance(loaded, dict):
        raise ModelFileError(f"{path}: the arrays in it have no names")
    # A file without any array loads as an empty list.
    arrays = {name.split(":", 1)[-1]: array.asnumpy() for name, array in dict(loaded).items()}
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ModelFileError(f"{path}: parameter {name!r} holds NaN or infinity")
    return arrays


def _check_params(path: str, nodes: Sequence[SymbolNode], arrays: Mapping[str, np.ndarray]) -> List[SymbolNode]:
    """The nodes of the network's inputs; ModelFileError when the arrays are not those of this network."""
    variables = [node for node in nodes if node.op == "null" and not node.is_label]
    absent = [node for node in variables if node.name not in arrays]
    missing = [node.name for node in absent if node.is_parameter]
    known = {node.name for node in nodes if node.op == "null"}
    extra = [name for name in arrays if name not in known]
    shaped = [node for node in variables if node.name in arrays and not node.accepts(arrays[node.name].shape)]
    if missing or extra or shaped:
        raise ModelFileError(f"{path}: parameters of another network: {_first_offence(missing, shaped, extra, arrays)} "
                             f"({len(missing)} missing, {len(shaped)} mis-shaped, {len(extra)} extra)")
    inputs = [node for node in absent if not node.is_parameter]
    if not inputs:
        raise ModelFileError(f"{path}: the network has no input")
    return inputs


def _first_offence(missing: Sequence[str], shaped: Sequence[SymbolNode], extra: Sequence[str],
                   arrays: Mapping[str, np.ndarray]) -> str:
    if missing:
        return f"{missing[0]!r} is missing"
    if shaped:
        node = shaped[0]
        return (f"{node.name!r} has shape {arrays[node.name].shape}, but {node.wanted_shape or node.declared_shape} is "
                "needed")
    return f"{extra[0]!r} is not in the network"


def _plan(path: str, nodes: Sequence[SymbolNode],
          arrays: Mapping[str, np.ndarray]) -> Tuple[List[Step], Dict[str, np.ndarray]]:
    """The program's steps, and the parameters that functional operators read themselves."""
    steps, names, children = [], Names(), {}
    constants: Dict[str, np.ndarray] = {}
    owners: Dict[str, Optional[str]] = {}
    for node in nodes:
        if node.layer is not None:
            prefix = node.layer.prefix(node.name)
            # Nodes with the same name, options and parameters are one layer that was called several times.
            key = (prefix, node.layer.kind, repr(node.layer.options), tuple(node.layer.params.values()))
            if key not in children:
                children[key] = names.unique(prefix, node.op)
            _own(path, owners, node.layer.params.values(), children[key])
            _check_variance(path, arrays, node.layer.params.get("running_var"))
            spec = node.layer.spec(prefix, arrays)
            steps.append(Step(children[key], node.input_names(1), node.outputs[:1], layer=spec))
        elif node.call is not None:
            op, attrs, count = node.call
            inputs = node.input_names(count)
            read = [name for name in inputs if name in arrays]
            _own(path, owners, read, None)
            constants.update((name, arrays[name]) for name in read)
            steps.append(Step(node.name, inputs, node.outputs, op, attrs))
    return steps, constants


def _check_variance(path: str, arrays: Mapping[str, np.ndarray], name: Optional[str]) -> None:
    if name is not None and (arrays[name] < 0).any():
        raise ModelFileError(f"{path}: parameter {name!r} of its parameters is a variance, and below 0")


def _own(path: str, owners: Dict[str, Optional[str]], params: Iterable[str], child: Optional[str]) -> None:
    """Each parameter belongs to one child (or to functional operators, None)."""
    for name in params:
        if owners.setdefault(name, child) != child:
            raise ModelFileError(f"{path}: parameter {name!r} is shared by layers that differ; that cannot be imported")

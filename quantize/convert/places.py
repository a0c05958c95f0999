# SPDX-License-Identifier: MIT
"""Places behind blocks that hold no weights of their own, so that rules can quantize what any block puts out."""

import fnmatch
from dataclasses import replace
from typing import Any, Dict, List, Sequence, Tuple

from mxnet.gluon import Block, HybridBlock

from quantize.config import FLOAT, Rule
from quantize.convert.graph import Graph, non_negative
from quantize.convert.layers import NAMES, quantizable
from quantize.errors import ConfigError
from quantize.nn import Place
from quantize.nn.layer import QuantizedBlock
from quantize.nn.placed import OUTPUT, PlacedOutput, placed
from quantize.tree import walk


def place_outputs(net: Block, rules: Sequence[Rule]) -> List[Rule]:
    """The rules with a `Place` for every output that they quantize behind a block which is no layer of the table.

    Such a block is named by its type in `op_types` (BatchNorm, MaxPool2D, Flatten, LeakyReLU, a block of a user's), or
    by its very path in `op_names`: patterns alone reach layers, as ever. The network computes what it did.
    """
    found: List[Rule] = []
    blocks = {path: block for path, block in walk(net) if path and isinstance(block, HybridBlock)
              and not quantizable(block) and not isinstance(block, QuantizedBlock)}
    for rule in rules:
        if rule.output is None or rule.output == FLOAT:
            found.append(rule)
            continue
        chosen = [path for path, block in blocks.items() if _chooses(rule, path, block)]
        found += _rest(rule, blocks, chosen)
        if chosen:
            _check(blocks, chosen)
            for path in chosen:
                placed(blocks[path])
            found.append(replace(rule, op_types=(), op_names=tuple(f"{path}.{OUTPUT}" for path in chosen), kernel=(),
                                 weight=None, input=None))
    return found


def _kind(block: Block) -> str:
    return type(block).__name__


def _chooses(rule: Rule, path: str, block: Block) -> bool:
    if rule.op_types:
        return _kind(block) in rule.op_types and (not rule.op_names or any(
            fnmatch.fnmatchcase(path, pattern) for pattern in rule.op_names))
    return path in rule.op_names


def _rest(rule: Rule, blocks: Dict[str, Block], chosen: Sequence[str]) -> List[Rule]:
    """What the rule says of layers of the table."""
    if not chosen:
        return [rule]
    kinds = {_kind(blocks[path]) for path in chosen} - set(NAMES)
    types = tuple(name for name in rule.op_types if name not in kinds)
    names = tuple(name for name in rule.op_names if name not in chosen)
    if (rule.op_types and not types) or (rule.op_names and not names):
        return []
    return [replace(rule, op_types=types, op_names=names)]


def _check(blocks: Dict[str, Block], chosen: Sequence[str]) -> None:
    for path in chosen:
        if not isinstance(blocks[path], PlacedOutput) and OUTPUT in blocks[path]._children:
            raise ConfigError(f"{path}: its output cannot be quantized, since it has a child called {OUTPUT!r}; "
                              f"rename that, or put quantize.nn.Place behind the block")


def places_non_negative(graph: Graph, layers: Sequence[Tuple[str, Block]]) -> Dict[str, bool]:
    """Path of a Place -> whether what it passes on is proven to be >= 0."""
    proven = non_negative(graph)
    nodes: Dict[str, List[Any]] = {}
    for node in graph.nodes:
        nodes.setdefault(node.name, []).append(proven[node.index])
    return {path: all(nodes.get(block.prefix + "fwd", [False])) for path, block in layers if isinstance(block, Place)}

# SPDX-License-Identifier: MIT
"""Names of nodes and structural paths of the layers they come from."""

import re
from collections import Counter
from typing import Dict, List, Tuple

from mxnet.gluon import Block

from deploy.lower.trace import Traced
from quantize.tree import walk

OWN = "fwd"  # what Gluon's layers call their operator


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

    def of(self, node) -> Tuple[str, str]:
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

    def layer(self, node):
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

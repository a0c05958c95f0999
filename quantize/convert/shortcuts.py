# SPDX-License-Identifier: MIT
"""Work that a converted network need not do twice: equal quantizers of one tensor, ReLUs in front of clips at zero."""

from collections import Counter
from typing import Any, Dict, Optional

from mxnet.gluon import Block, nn

from quantize.convert.graph import Graph, shared_inputs
from quantize.convert.layers import LAYER_OPS
from quantize.convert.plan import Plan
from quantize.convert.rules import PlanEntry
from quantize.nn import SkippableReLU
from quantize.tree import replace_blocks, walk


def share_input_quantizers(net: Block, plan: Plan, graph: Graph) -> None:
    """Layers that read one tensor in one format get one quantizer: one range, and one operator in the graph."""
    blocks, entries = dict(walk(net)), {entry.path: entry for entry in plan.entries}
    for paths in shared_inputs(graph):
        first_of: Dict[Any, Block] = {}
        for path in paths:
            if path in entries and entries[path].input is not None:
                entry = entries[path]
                first = first_of.setdefault((entry.input, entry.input_method, entry.options), blocks[path])
                blocks[path].input_quantizer = first.input_quantizer


def skip_relus(net: Block, plan: Plan, graph: Graph) -> None:
    """Replace each ReLU that only unsigned quantizers read by one that steps aside when the weights are frozen.

    A ReLU block is found by the node it makes (its name and "_fwd"); one that is called several times stays.
    """
    blocks = dict(walk(net))
    readers = {path: blocks[path] for path in (entry.path for entry in plan.entries if _clips_at_zero(entry))}
    owner = {index: path for path, calls in graph.calls.items() for index in calls}
    names = Counter(node.name for node in graph.nodes)
    replacements = {}
    for block in blocks.values():
        if type(block) is not nn.Activation or block._act_type != "relu" or names[block.name + "_fwd"] != 1:
            continue
        index = next(node.index for node in graph.nodes if node.name == block.name + "_fwd")
        read_by = {_reader(graph, owner, index, consumer) or "" for consumer in graph.consumers[index]}
        if read_by and read_by <= set(readers):
            replacements[id(block)] = SkippableReLU.from_float(block, [readers[path] for path in read_by])
    replace_blocks(net, replacements)


def _clips_at_zero(entry: PlanEntry) -> bool:
    spec = entry.input
    return spec is not None and not spec.signed and spec.symmetric and entry.weight is not None


def _reader(graph: Graph, owner: Dict[int, str], index: int, consumer: int) -> Optional[str]:
    """Path of the layer that reads node `index` as its data, None for any other reader."""
    if consumer < 0 or graph.nodes[consumer].op not in LAYER_OPS or graph.nodes[consumer].inputs[0] != index:
        return None
    return owner.get(consumer)

# SPDX-License-Identifier: MIT
"""Users' subclasses of layers: those that compute what their parent does count as the parent."""

import json
import logging
from typing import Any, Container, List, Optional, Tuple

import mxnet as mx
from mxnet.gluon import Block, HybridBlock, nn

from quantize.convert.layers import LAYERS
from quantize.nn import ReLU6
from quantize.nn.layer import retyped
from quantize.tree import replace_blocks, walk

logger = logging.getLogger(__name__)

PARENTS = tuple(row.gluon for row in LAYERS) + (nn.BatchNorm,)
OURS = "quantize."
SYNCHRONIZED = "_contrib_SyncBatchNorm"
# they say how and where an operator computes, not what; the axis is 1 where an operator has no other
INDIFFERENT = ("cudnn_off", "cudnn_tune", "workspace", "ndev", "key", "axis")


def settle_subclasses(net: Block, keep: Container[type] = (), merging: bool = False) -> List[Tuple[str, str]]:
    """Make layers out of subclasses that compute the same; in place, so that who holds a block goes on holding it.

    A subclass counts as its parent where the graphs of both are equal: gluoncv's ``BatchNormCudnnOff`` is a BatchNorm
    so, and ``SyncBatchNorm`` is one in inference.

    Parameters
    ----------
    keep : container of type
        Types that stay as they are.
    merging : bool
        BatchNorms will be merged: those over several devices are settled as well. Elsewhere they stay, since their
        statistics in training are those of all devices.

    Returns
    -------
    list of (str, str)
        Structural path and former type.
    """
    settled = []
    for path, block in walk(net):
        parent = None if type(block) in keep else parent_of(block)
        if parent is None or (not merging and getattr(block, "_kwargs", {}).get("ndev", 1) > 1):
            continue
        settled.append((path, type(block).__name__))
        _settle(block, parent)
    if settled:
        logger.info("%s: %d layers of users' types compute as Gluon's", net.name, len(settled))
    return settled


def settle_relu6(net: Block) -> List[str]:
    """Let blocks that clip to 0 and 6, as Gluon's ``RELU6`` and gluoncv's ``ReLU6``, be `quantize.nn.ReLU6`; in place.

    Rules know that type. Returns the structural paths.
    """
    found = {path: block for path, block in walk(net) if path and _clips_to_six(block)}
    replace_blocks(net, {id(block): ReLU6(prefix=block.prefix, params=block.params) for block in found.values()})
    return list(found)


def _clips_to_six(block: Block) -> bool:
    if type(block).__module__.startswith(OURS) or not isinstance(block, HybridBlock) or block._children or (
            "relu6" not in type(block).__name__.lower()):
        return False
    try:
        operators = [(operator, attributes) for operator, name, attributes, _ in _graph(block) if operator != "null"]
    except Exception:  # a user's forward may raise anything when it is handed symbols
        return False
    return [operator for operator, _ in operators] == ["clip"] and {
        key: float(value) for key, value in operators[0][1].items()} == {"a_min": 0, "a_max": 6}


def parent_of(block: Block) -> Optional[type]:
    """The type of layer that a user's subclass computes as; None for layers themselves, and for what computes else."""
    if type(block) in PARENTS or type(block).__module__.startswith(OURS) or not isinstance(block, HybridBlock):
        return None
    parent = next((kind for kind in PARENTS if isinstance(block, kind)), None)
    if parent is None:
        return None
    plain = retyped(block, parent)
    plain._kwargs = _options(block, parent)
    try:
        return parent if _graph(block) == _graph(plain) else None
    except Exception:  # a user's forward may raise anything when it is handed symbols
        return None


def _options(block: Block, parent: type) -> Any:
    options = getattr(block, "_kwargs", None)
    if parent is nn.BatchNorm and options is not None:
        return {"axis": 1, **{name: value for name, value in options.items() if name not in ("ndev", "key")}}
    return options


def _settle(block: Block, parent: type) -> None:
    options = _options(block, parent)
    if options is not None:
        object.__setattr__(block, "_kwargs", options)
    object.__setattr__(block, "__class__", parent)
    if isinstance(block, HybridBlock):
        block._clear_cached_op()


def _graph(block: Block) -> Any:
    """The block's operators, with what they read and how they are set."""
    nodes = json.loads(block(mx.sym.var("data")).tojson())["nodes"]
    return [(node["op"].replace(SYNCHRONIZED, "BatchNorm"), "" if node["op"] != "null" else node["name"],
             {key: value for key, value in node.get("attrs", {}).items() if key not in INDIFFERENT
              and not key.startswith("__")}, [source[:2] for source in node["inputs"]]) for node in nodes]

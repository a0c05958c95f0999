# SPDX-License-Identifier: MIT
"""The network, and questions about its graph."""

from dataclasses import dataclass, field
from typing import Dict, Tuple

from deploy.ir.base import Node


@dataclass(frozen=True, eq=False)
class Model:
    """A network.

    Parameters
    ----------
    inputs, outputs : tuple of str
        Blobs; inputs are written by no node.
    nodes : tuple of Node
        In topological order.
    shapes : dict
        Blob -> shape without the batch axis, for every blob.
    metadata : dict
        Text values that travel with the file (name, preprocessing as JSON, where ranges came from).
    """

    inputs: Tuple[str, ...]
    outputs: Tuple[str, ...]
    nodes: Tuple[Node, ...]
    shapes: Dict[str, Tuple[int, ...]]
    metadata: Dict[str, str] = field(default_factory=dict)


def quantized(model: Model):
    """The nodes that compute in integers."""
    return [node for node in model.nodes if getattr(node, "quantization", None) is not None]


def consumers(model: Model) -> Dict[str, list]:
    """Blob -> the nodes that read it, in order; outputs of the model add None."""
    readers: Dict[str, list] = {blob: [] for blob in model.shapes}
    for node in model.nodes:
        for blob in node.inputs:
            readers[blob].append(node)
    for blob in model.outputs:
        readers[blob].append(None)
    return readers


def producers(model: Model) -> Dict[str, Node]:
    """Blob -> the node that writes it; inputs of the model are missing."""
    return {blob: node for node in model.nodes for blob in node.outputs}

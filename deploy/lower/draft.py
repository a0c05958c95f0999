# SPDX-License-Identifier: MIT
"""A model while it is being made: nodes that passes replace and remove; and what keeps an operator out of it."""

from dataclasses import replace
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Set, Tuple

from deploy.ir import Model, Node


class Unsupported(Exception):
    """An operator or layer that cannot be lowered; the text says why. Outside, all of them are one DeployError."""


class Draft:
    """Nodes in topological order, shapes of blobs, and who writes and reads them.

    Parameters
    ----------
    inputs : dict
        Name -> shape without the batch axis.

    Attributes
    ----------
    norm_layers : set of str
        BatchNorms that are layers of the network, and no functions in some block's forward.
    """

    def __init__(self, inputs: Mapping[str, Tuple[int, ...]]):
        self.inputs = tuple(inputs)
        self.outputs: Tuple[str, ...] = ()
        self.norm_layers: Set[str] = set()
        self.shapes: Dict[str, Tuple[int, ...]] = {}
        self._nodes: Dict[str, Node] = {}
        self._writers: Dict[str, str] = {}
        self._readers: Dict[str, List[str]] = {}
        for name, shape in inputs.items():
            self.declare(name, shape)

    def declare(self, blob: str, shape: Tuple[int, ...]) -> None:
        """Make a blob known."""
        self.shapes[blob] = tuple(shape)
        self._readers[blob] = []

    def add(self, node: Node, shapes: Iterable[Tuple[int, ...]]) -> None:
        """Append a node whose inputs are there already; `shapes` of its outputs."""
        self._nodes[node.name] = node
        for blob, shape in zip(node.outputs, shapes):
            self.declare(blob, shape)
            self._writers[blob] = node.name
        self._listen(node)

    def nodes(self, *kinds: type) -> Iterator[Any]:
        """The nodes of some types, in order, each as it is when its turn comes: the draft may change meanwhile."""
        for name in list(self._nodes):
            node = self._nodes.get(name)
            if isinstance(node, kinds):
                yield node

    def has(self, name: str) -> bool:
        """Whether a node (or blob) of this name exists."""
        return name in self._nodes or name in self.shapes

    def writer(self, blob: str) -> Any:
        """The node that writes a blob; None for an input of the model."""
        return self._nodes.get(self._writers.get(blob, ""))

    def readers(self, blob: str) -> List[Any]:
        """The nodes that read a blob, once for each time."""
        return [self._nodes[name] for name in self._readers[blob]]

    def only_reader(self, blob: str) -> Optional[Node]:
        """The node that reads a blob, once, while nobody else does and it is no output of the model; else None."""
        names = self._readers[blob]
        return self._nodes[names[0]] if len(names) == 1 and blob not in self.outputs else None

    def put(self, node: Node) -> None:
        """Replace the node of the same name and outputs."""
        for blob in self._nodes[node.name].inputs:
            self._readers[blob].remove(node.name)
        self._nodes[node.name] = node
        self._listen(node)

    def swap(self, node: Node, nodes: Iterable[Node]) -> None:
        """Put nodes in the place of one; blobs of it that nobody writes any longer vanish, nobody may read them."""
        later = {name: self._nodes.pop(name) for name in list(self._nodes)[list(self._nodes).index(node.name):]}
        later.pop(node.name)
        for blob in node.inputs:
            self._readers[blob].remove(node.name)
        for blob in node.outputs:
            del self._writers[blob]
        for each in nodes:
            self._nodes[each.name] = each
            self._listen(each)
            self._writers.update((blob, each.name) for blob in each.outputs)
        self._nodes.update(later)
        for blob in set(node.outputs) - set(self._writers):
            del self.shapes[blob], self._readers[blob]

    def bypass(self, node: Node, source: Optional[str] = None) -> None:
        """Remove a node; who read its output reads `source` (by default the node's first input) instead."""
        node = self._nodes[node.name]
        source = node.inputs[0] if source is None else source
        for reader in {reader.name: reader for reader in self.readers(node.outputs[0])}.values():
            inputs = tuple(source if blob == node.outputs[0] else blob for blob in reader.inputs)
            self.put(replace(reader, inputs=inputs))
        self.outputs = tuple(source if blob == node.outputs[0] else blob for blob in self.outputs)
        self._remove(node)

    def drop_unread(self) -> None:
        """Remove nodes that contribute to no output of the model."""
        for node in reversed(list(self._nodes.values())):
            if not any(self._readers[blob] or blob in self.outputs for blob in node.outputs):
                self._remove(node)

    def model(self) -> Model:
        """The finished model."""
        return Model(self.inputs, self.outputs, tuple(self._nodes.values()), dict(self.shapes))

    def _listen(self, node):
        for blob in node.inputs:
            self._readers[blob].append(node.name)

    def _remove(self, node):
        for blob in node.inputs:
            self._readers[blob].remove(node.name)
        for blob in node.outputs:
            del self.shapes[blob], self._writers[blob], self._readers[blob]
        del self._nodes[node.name]

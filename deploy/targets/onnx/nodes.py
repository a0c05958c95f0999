# SPDX-License-Identifier: MIT
"""A graph of an ONNX file while it is being made: nodes, initializers, and unique names for both."""

from typing import Any, Dict, List, Optional, Sequence, Set

import numpy as np


class Graph:
    """Nodes in order, and initializers.

    Attributes
    ----------
    nodes : list of onnx.NodeProto
    initializers : dict
        Name -> array.
    """

    def __init__(self) -> None:
        self.nodes: List[Any] = []
        self.initializers: Dict[str, np.ndarray] = {}
        self._names: Set[str] = set()

    def constant(self, name: str, values: Any, dtype: Any = np.float32) -> str:
        """An initializer; returns its name."""
        self.initializers[name] = np.asarray(values, dtype)
        return name

    def node(self, op: str, inputs: Sequence[str], output: str, name: Optional[str] = None, **attributes: Any) -> str:
        """Append a node of one output, called as that by default; returns the output."""
        self.several(op, inputs, [output], name, **attributes)
        return output

    def several(self, op: str, inputs: Sequence[str], outputs: Sequence[str], name: Optional[str] = None,
                **attributes: Any) -> None:
        """Append a node."""
        from onnx import helper
        name = name or outputs[0]
        if name in self._names:  # a layer and its activation
            name = f"{name}.{op}"
        self._names.add(name)
        self.nodes.append(helper.make_node(op, list(inputs), list(outputs), name=name, **attributes))

    def dequantized(self, name: str, codes: np.ndarray, scale: np.ndarray) -> str:
        """Integers (outputs, ...) with a scale for each output, as real numbers; the tensor's name."""
        self.initializers[name + ".codes"] = codes
        self.constant(name + ".scale", scale)
        self.initializers[name + ".zero"] = np.zeros(len(scale), codes.dtype)
        return self.node("DequantizeLinear", [name + ".codes", name + ".scale", name + ".zero"], name, axis=0)

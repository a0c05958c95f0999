# SPDX-License-Identifier: MIT
"""A graph of an ONNX file while it is being made: nodes, initializers, and unique names for both."""

from typing import Any, Dict, List, Optional, Sequence, Set

import numpy as np

INT4_MAX = 7


class Graph:
    """Nodes in order, and initializers.

    Parameters
    ----------
    int4 : bool
        Codes from -7 to 7 are stored in 4 bits.

    Attributes
    ----------
    nodes : list of onnx.NodeProto
    initializers : dict
        Name -> array.
    narrow : set of str
        Initializers of codes that are stored in 4 bits.
    """

    def __init__(self, int4: bool = False) -> None:
        self.int4 = int4
        self.nodes: List[Any] = []
        self.initializers: Dict[str, np.ndarray] = {}
        self.narrow: Set[str] = set()
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
        if self.int4 and codes.dtype == np.int8 and np.abs(codes.astype(int)).max(initial=0) <= INT4_MAX:
            self.narrow.update((name + ".codes", name + ".zero"))
        return self.node("DequantizeLinear", [name + ".codes", name + ".scale", name + ".zero"], name, axis=0)

    def tensors(self) -> List[Any]:
        """The initializers as ONNX has them."""
        from onnx import TensorProto, helper, numpy_helper
        return [helper.make_tensor(name, TensorProto.INT4, array.shape, packed(array), raw=True) if name in self.narrow
                else numpy_helper.from_array(array.copy(order="C"), name) for name, array in self.initializers.items()]


def packed(codes: np.ndarray) -> bytes:
    """Codes of 4 bits, two in a byte, the first in the lower half."""
    flat = codes.ravel().astype(np.uint8) & 15
    flat = np.append(flat, np.zeros(flat.size % 2, np.uint8))
    return (flat[::2] | flat[1::2] << 4).astype(np.uint8).tobytes()

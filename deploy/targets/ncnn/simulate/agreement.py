# SPDX-License-Identifier: MIT
"""Which operators MXNet and ncnn compute with the same bits."""

from typing import List, Set

from deploy import ir
from deploy.ir import Model

SAME = (ir.Constant, ir.Concat, ir.Slice, ir.Crop, ir.Reshape, ir.Permute, ir.Padding, ir.PReLU)
SAME_FUNCTIONS = ("relu", "leaky_relu", "clip", "abs", "square")
SAME_SCALARS = ("add", "sub", "mul", "rsub", "max", "min")


def uncertain(model: Model, exact_paths: Set[str]) -> List[str]:
    """Nodes whose result may differ in its last bits between MXNet and ncnn.

    Parameters
    ----------
    exact_paths : set of str
        Structural paths of layers that exact blocks compute.
    """
    return [node.name for node in model.nodes if not _same(node, node.path in exact_paths)]


def _same(node, exact) -> bool:
    function = ir.activation(node)
    if function is not None and function.kind not in SAME_FUNCTIONS:
        return False
    if isinstance(node, ir.Elementwise):
        return node.op != "pow"
    if isinstance(node, ir.ScalarOp):
        return node.op in SAME_SCALARS
    if isinstance(node, ir.Pooling) and node.kind == "max" or isinstance(node, ir.Resize) and node.mode == "nearest":
        return True
    return exact or isinstance(node, SAME + (ir.Activation,))

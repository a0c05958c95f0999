# SPDX-License-Identifier: MIT
"""Where ncnn's own kernels are known to compute something else than its arithmetic says, and why."""

from typing import Dict, Tuple

from deploy.ir import Convolution, InnerProduct, Model, Pooling, Reduce, Softmax
from deploy.targets.ncnn.constraints import WINOGRAD_EXACT, by_winograd

PACKED = 8  # channels that one packed element holds
PACKED_DEPTHWISE = ("with packing on and channels a multiple of 8, ncnn's x86 depthwise kernel divides by the scales "
                    "with the processor's approximate reciprocal (up to 3.7e-4 relative, other on Intel than on AMD)")
FLOAT_CONVOLUTION = "float convolution: Winograd and packed kernels add in another order"
FLOAT_SUM = "float sums: packed kernels add in another order, which decides where a value lies between two codes"
FLOAT_INNER_PRODUCT = "float fully connected layer: its weights are stored as float16"


def default_deviations(model: Model) -> Dict[str, str]:
    """Node -> why its output may differ under ncnn's default options; other nodes only hand on what they get."""
    found = {}
    for node in model.nodes:
        if isinstance(node, Convolution):
            if node.quantization is None:
                found[node.name] = FLOAT_CONVOLUTION
            elif node.depthwise and node.groups % PACKED == 0:
                found[node.name] = PACKED_DEPTHWISE
        elif isinstance(node, InnerProduct) and node.quantization is None:
            found[node.name] = FLOAT_INNER_PRODUCT
        elif isinstance(node, (Reduce, Softmax)) or isinstance(node, Pooling) and node.kind == "avg":
            found[node.name] = FLOAT_SUM
    return found


def sum_limits(model: Model) -> Dict[str, Tuple[int, str]]:
    """Node -> (largest |integer sum| that Winograd computes exactly, its name), where ncnn uses it."""
    return {node.name: (WINOGRAD_EXACT, "F(4,3)") for node in model.nodes
            if isinstance(node, Convolution) and by_winograd(node)}

# SPDX-License-Identifier: MIT
"""Which nodes are known to compute something else in ncnn than in the integer engine, and why.

Integer layers and most float operations are reproduced bit for bit (`arithmetic`, `kernels`). What is not is named
here, so that a certificate explains each code that differs; the fuzz of whole networks (`tests/fuzz`) fails for any
other.
"""

from typing import Dict, Optional

from deploy.ir import (
    Convolution,
    Deconvolution,
    Elementwise,
    InnerProduct,
    Model,
    Node,
    Pooling,
    Reduce,
    Resize,
    ScalarOp,
    Softmax,
    activation,
    integers,
)
from deploy.targets.ncnn.runner import EXACT, EXACT_AARCH64, Options

PACKED = 8  # channels that one packed element holds
PACKED_DEPTHWISE = ("with packing on and channels a multiple of 8, ncnn's x86 depthwise kernel divides by the scales "
                    "with the processor's approximate reciprocal (up to 3.7e-4 relative, other on Intel than on AMD)")
FLOAT_CONVOLUTION = "float convolution: Winograd and packed kernels add in another order"
FLOAT_SUM = "float sums: packed kernels add in another order, which decides where a value lies between two codes"
FLOAT_INNER_PRODUCT = "float fully connected layer: its weights are stored as float16"

AARCH64 = ("aarch64", "arm64")  # as Linux and Android call it, and macOS and iOS
ARMV7 = ("armv7l", "armv8l")  # as Linux calls it, the latter on processors of 64 bits
PACKED_ARMV7 = "with packing on, ncnn's default, kernels of 32-bit ARM round in places of their own"
FP16 = ("ncnn's default on ARM: where the processor has fp16, real numbers between layers are kept in 16 bits and "
        "computed with 11 bits; switched off with use_fp16_packed, use_fp16_storage and use_fp16_arithmetic")

# with every option
FUNCTION = "ncnn computes {} by a polynomial of its own: last bits differ"
APPROXIMATED = ("sigmoid", "tanh", "swish", "exp", "softplus", "gelu", "elu", "rsqrt", "log", "erf", "sin", "cos")
ORDER = "float sums of products: ncnn adds them in another order, last bits differ"
SUM = "float sums: ncnn adds in another order, last bits differ"
DIVISION = "ncnn divides by an approximate reciprocal made better: last bits differ"
ROOT = "ncnn takes some roots by an approximate reciprocal root made better: last bits differ"
POWER = "ncnn computes powers by polynomials of its own: last bits differ"
INTERPOLATION = "ncnn rounds the weights of neighbours, and their sums, in another order: last bits differ"


def deviations(model: Model, options: Options, machine: str) -> Dict[str, str]:
    """Node -> why its output may differ from the arithmetic, with these options on such a processor.

    Parameters
    ----------
    machine : str
        As `deploy.proof.machine.architecture` calls it.
    """
    if options in (EXACT, EXACT_AARCH64):
        return exact_deviations(model)
    everywhere = FP16 if machine in AARCH64 else PACKED_ARMV7 if machine in ARMV7 else None
    return default_deviations(model) if everywhere is None else {node.name: everywhere for node in model.nodes}


def exact_deviations(model: Model) -> Dict[str, str]:
    """Node -> why its output may differ in the last bits with every option; other nodes only hand on what they get."""
    found = ((node.name, _reason(node)) for node in model.nodes)
    return {name: reason for name, reason in found if reason is not None}


def _reason(node: Node) -> Optional[str]:
    function = activation(node)
    if isinstance(node, (Convolution, Deconvolution, InnerProduct)) and integers(node) is None:
        return ORDER
    if function is not None and function.kind == "sqrt":
        return ROOT
    if function is not None and function.kind in APPROXIMATED:
        return FUNCTION.format(function.kind)
    if isinstance(node, Elementwise) and node.op == "div" or isinstance(node, ScalarOp) and node.op == "rdiv":
        return DIVISION
    if isinstance(node, (Elementwise, ScalarOp)) and node.op == "pow":
        return POWER
    if isinstance(node, Softmax):
        return FUNCTION.format("softmax")
    if isinstance(node, Reduce) and node.op in ("sum", "mean"):
        return SUM
    return INTERPOLATION if isinstance(node, Resize) and node.mode == "bilinear" else None


def default_deviations(model: Model) -> Dict[str, str]:
    """Node -> why its output may differ under ncnn's default options; other nodes only hand on what they get."""
    found = exact_deviations(model)
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
